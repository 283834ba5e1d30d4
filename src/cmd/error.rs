//! What the command line says when something can't be done: the only place that prints an error.

use super::output::Format;
use crate::mongo::admin;
use std::process::ExitCode;

/// What kind of end it is; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The arguments don't make sense.
    Usage,
    /// Something needed is missing or busy; nothing was started.
    Refused,
    /// The operation ended badly.
    Failed,
    /// A signal ended the waiting; the operation goes on.
    Interrupted,
    /// A check found something that needs a person. It is in the result already.
    Attention,
    /// Everything else: connections, files.
    Other,
}

/// An error with the next steps.
#[derive(Debug)]
pub struct CliError {
    pub kind: Kind,
    pub source: anyhow::Error,
    /// One action each.
    pub hints: Vec<String>,
}

/// The result of a subcommand.
pub type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    #[must_use]
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, source: anyhow::Error::msg(text.into()), hints: Vec::new() }
    }

    #[must_use]
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Kind::Usage, text)
    }

    #[must_use]
    pub fn refused(text: impl Into<String>) -> Self {
        Self::new(Kind::Refused, text)
    }

    #[must_use]
    pub fn failed(text: impl Into<String>) -> Self {
        Self::new(Kind::Failed, text)
    }

    /// Adds a next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The user may not do what was tried.
    pub fn is_denied(&self) -> bool {
        let driver = self.source.chain().find_map(|cause| cause.downcast_ref());
        driver.and_then(admin::code) == Some(admin::UNAUTHORIZED)
    }

    /// Prints the error: on stderr for people; with a JSON format as the one value on stdout.
    pub fn report(&self, format: Format) -> ExitCode {
        let text = text(&self.source);
        if format == Format::Text {
            eprintln!("Error: {text}");
            for hint in &self.hints {
                eprintln!("Hint: {hint}");
            }
        } else if self.kind != Kind::Attention {
            format.print_json(&self.json(&text));
        }
        ExitCode::from(match self.kind {
            Kind::Interrupted => 130,
            Kind::Attention => 2,
            _ => 1,
        })
    }

    fn json(&self, text: &str) -> serde_json::Value {
        let mut value = serde_json::json!({ "Error": text });
        if !self.hints.is_empty() {
            value["Hints"] = self.hints.clone().into();
        }
        value
    }
}

impl From<anyhow::Error> for CliError {
    fn from(source: anyhow::Error) -> Self {
        let hints = source.chain().find_map(|cause| cause.downcast_ref()).and_then(advice).into_iter().collect();
        Self { kind: Kind::Other, source, hints }
    }
}

impl From<crate::config::ConfigError> for CliError {
    fn from(source: crate::config::ConfigError) -> Self {
        let hint = "nothing was changed; correct it and repeat".to_owned();
        Self { kind: Kind::Usage, source: source.into(), hints: vec![hint] }
    }
}

/// All causes in one line. The driver's errors are cut to what they say: their labels and sources are its own affair.
pub(super) fn text(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        match cause.downcast_ref::<mongodb::error::Error>() {
            Some(driver) => {
                parts.push(driver.kind.to_string());
                break;
            }
            None => parts.push(cause.to_string()),
        }
    }
    parts.join(": ")
}

/// The next step after an error of the driver, where there is a good one.
fn advice(error: &mongodb::error::Error) -> Option<String> {
    use mongodb::error::ErrorKind;
    match error.kind.as_ref() {
        ErrorKind::ServerSelection { message, .. } if message.contains("RsGhost") => {
            Some("mongod runs, but its replica set has not been initiated: run rs.initiate() in a shell".to_owned())
        }
        ErrorKind::ServerSelection { .. } | ErrorKind::DnsResolve { .. } => Some(
            "check the host, port and TLS settings in --mongodb-uri or PBM_MONGODB_URI, and that mongod is up".to_owned(),
        ),
        ErrorKind::Authentication { .. } => {
            Some("check user, password and authSource in --mongodb-uri or PBM_MONGODB_URI".to_owned())
        }
        ErrorKind::Command(command) if command.code == admin::UNAUTHORIZED => Some(
            "the user needs the roles readWrite (on admin), backup, clusterMonitor, restore and anyAction on anyResource; \
             `pbm doctor` tells which of them are missing"
                .to_owned(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_originals_key_and_hints_beside_it() {
        let error = CliError::refused("no agent");
        assert_eq!(error.json("no agent").to_string(), r#"{"Error":"no agent"}"#);
        let error = error.hint("start one");
        assert_eq!(error.json("no agent").to_string(), r#"{"Error":"no agent","Hints":["start one"]}"#);
    }
}
