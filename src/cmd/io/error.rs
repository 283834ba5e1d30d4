//! What the command line says when something can't be done: the only place that prints an error.

use super::{fit, output::Format};
use crate::mongo::{admin, code};
use crate::printable;
use std::{io::Write, process::ExitCode};

/// What kind of end it is: its exit code, and the `Class` of a JSON error. [`CODES`] tells people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The operation ended badly.
    Failed,
    /// The arguments, a value or a file that was given don't make sense: repeating it changes nothing.
    Usage,
    /// The server can't be reached, or does not let us in.
    Connection,
    /// The state of the cluster or the lack of a yes is against it; nothing was started.
    Refused,
    /// What was named is not there.
    NotFound,
    /// The storage can't be read from here.
    Storage,
    /// The time to wait is over; the operation goes on.
    WaitOver,
    /// A signal ended the waiting; the operation goes on.
    Interrupted,
    /// A check found something that needs a person. It is in the result already.
    Attention,
    /// Everything else.
    Other,
}

/// The exit codes, for the help.
pub const CODES: &str = "\
Exit codes:
  0    done
  1    the operation failed, or something unforeseen
  2    wrong arguments, values or files; with --check, and of doctor: something needs a person
  3    no connection to MongoDB, or no access
  4    refused, nothing was started: something runs or is missing, or the answer was not yes
  5    no such backup, restore or profile
  6    the storage can't be read
  7    the --wait-time is over; the operation goes on
  130  interrupted while waiting; the operation goes on";

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Failed | Self::Other => 1,
            Self::Usage | Self::Attention => 2,
            Self::Connection => 3,
            Self::Refused => 4,
            Self::NotFound => 5,
            Self::Storage => 6,
            Self::WaitOver => 7,
            Self::Interrupted => 130,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Connection => "connection",
            Self::Refused => "refused",
            Self::NotFound => "not-found",
            Self::Storage => "storage",
            Self::WaitOver => "wait-over",
            Self::Interrupted => "interrupted",
            Self::Attention => "attention",
            Self::Other => "other",
        }
    }
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

    #[must_use]
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, text)
    }

    /// Gives it this kind unless it has one that says more than [`Kind::Other`].
    #[must_use]
    pub fn or(mut self, kind: Kind) -> Self {
        if self.kind == Kind::Other {
            self.kind = kind;
        }
        self
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
        driver.and_then(code::code) == Some(code::UNAUTHORIZED)
    }

    /// Prints the error: on stderr for people; with a JSON format as the one value on stdout.
    pub fn report(&self, format: Format) -> ExitCode {
        let text = text(&self.source);
        if format.is_text() {
            // Without a working stderr the exit code says it.
            let _ = self.print(&text);
        } else if self.kind != Kind::Attention {
            format.print_json(&self.json(&text));
        }
        ExitCode::from(self.kind.code())
    }

    fn print(&self, text: &str) -> std::io::Result<()> {
        let width = fit::stderr_width();
        let mut out = std::io::stderr().lock();
        let error = format!("Error: {}", printable::line(text));
        writeln!(out, "{}", fit::lines(&error, width))?;
        let hint = |hint: &String| format!("Hint: {}", printable::line(hint));
        self.hints.iter().try_for_each(|it| writeln!(out, "{}", fit::lines(&hint(it), width)))
    }

    /// The original's key, and ours beside it.
    fn json(&self, text: &str) -> serde_json::Value {
        let mut value = serde_json::json!({ "Error": text, "Class": self.kind.word(), "Code": self.kind.code() });
        if !self.hints.is_empty() {
            value["Hints"] = self.hints.clone().into();
        }
        value
    }
}

impl From<anyhow::Error> for CliError {
    fn from(source: anyhow::Error) -> Self {
        let kind = source.chain().find_map(kind).unwrap_or(Kind::Other);
        let hints = source.chain().find_map(|cause| cause.downcast_ref()).and_then(advice).into_iter().collect();
        Self { kind, source, hints }
    }
}

/// The kind that a cause of known type stands for.
fn kind(cause: &(dyn std::error::Error + 'static)) -> Option<Kind> {
    use mongodb::error::ErrorKind as Mongo;
    if cause.is::<crate::storage::Error>() {
        return Some(Kind::Storage);
    }
    if cause.is::<crate::mongo::connect::Unusable>() || cause.is::<crate::config::ConfigError>() {
        return Some(Kind::Usage);
    }
    if cause.is::<crate::storages::place::Unknown>() {
        return Some(Kind::NotFound);
    }
    match cause.downcast_ref::<mongodb::error::Error>()?.kind.as_ref() {
        Mongo::InvalidArgument { .. } | Mongo::InvalidTlsConfig { .. } => Some(Kind::Usage),
        Mongo::Command(command) if matches!(command.code, code::UNAUTHORIZED | code::AUTHENTICATION_FAILED) => {
            Some(Kind::Connection)
        }
        Mongo::ServerSelection { .. } | Mongo::DnsResolve { .. } | Mongo::Authentication { .. } | Mongo::Io(_) => {
            Some(Kind::Connection)
        }
        _ => None,
    }
}

impl From<crate::config::ConfigError> for CliError {
    fn from(source: crate::config::ConfigError) -> Self {
        let hint = "nothing was changed; correct it and repeat".to_owned();
        Self { kind: Kind::Usage, source: source.into(), hints: vec![hint] }
    }
}

/// All causes in one line: what people gave, and what others said, may have several.
pub fn text(error: &anyhow::Error) -> String {
    let told = admin::explain(error);
    told.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Whether the server refuses the user: it does not exist any more, or has another password or fewer roles.
#[must_use]
pub fn is_shut_out(error: &anyhow::Error) -> bool {
    use mongodb::error::{Error, ErrorKind};
    let driver = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    driver.is_some_and(|error| {
        matches!(*error.kind, ErrorKind::Authentication { .. })
            || matches!(
                code::code(error),
                Some(code::UNAUTHORIZED | code::AUTHENTICATION_FAILED | code::USER_NOT_FOUND)
            )
    })
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
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => Some(
            "correct --mongodb-uri or PBM_MONGODB_URI; in user and password @ : / % are written as %40 %3A %2F %25"
                .to_owned(),
        ),
        ErrorKind::Authentication { .. } => {
            Some("check user, password and authSource in --mongodb-uri or PBM_MONGODB_URI".to_owned())
        }
        ErrorKind::Command(command) if command.code == code::UNAUTHORIZED => Some(
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
    fn json_has_the_originals_key_and_ours_beside_it() {
        let error = CliError::refused("no agent");
        assert_eq!(error.json("no agent").to_string(), r#"{"Error":"no agent","Class":"refused","Code":4}"#);
        let error = error.hint("start one");
        let hints = r#"{"Error":"no agent","Class":"refused","Code":4,"Hints":["start one"]}"#;
        assert_eq!(error.json("no agent").to_string(), hints);
    }

    #[test]
    fn causes_have_their_classes() {
        let denied = crate::storage::Error::NotFound { store: "s".to_owned(), name: "n".to_owned() };
        let error = CliError::from(anyhow::Error::from(denied).context("read the backup"));
        assert_eq!(
            (error.kind, text(&error.source).as_str()),
            (Kind::Storage, "read the backup: s: object 'n' does not exist")
        );
        let uri = crate::mongo::connect::Unusable("w=0".to_owned());
        assert_eq!(CliError::from(anyhow::Error::from(uri)).kind, Kind::Usage);
        let other = CliError::from(anyhow::anyhow!("a\n\n  b\r\nc"));
        assert_eq!((other.kind, text(&other.source).as_str()), (Kind::Other, "a b c"));
        assert_eq!(other.or(Kind::Connection).kind, Kind::Connection);
        assert_eq!(CliError::refused("x").or(Kind::Connection).kind, Kind::Refused);
    }

    #[test]
    fn every_code_is_explained() {
        use Kind::{Attention, Connection, Failed, Interrupted, NotFound, Other, Refused, Storage, Usage, WaitOver};
        for kind in [Failed, Usage, Connection, Refused, NotFound, Storage, WaitOver, Interrupted, Attention, Other] {
            assert!(CODES.contains(&format!("\n  {:<5}", kind.code())), "{kind:?}");
        }
    }
}
