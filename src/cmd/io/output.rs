//! A subcommand's result: text for people, or exactly one JSON value on stdout.

use super::fit;
use crate::printable;
use serde::Serialize;
use serde_json::Value;
use std::{io::Write, path::PathBuf};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
    JsonPretty,
    /// As text, without remarks on the way: `--quiet`. The JSON formats have none anyway.
    #[value(skip)]
    Quiet,
}

/// The value of `--out`: for most subcommands the form of the result, for `pbm export` the file to write.
#[derive(Debug, Clone)]
pub enum Outlet {
    Format(Format),
    File(PathBuf),
}

impl Outlet {
    /// How results and errors are printed.
    #[must_use]
    pub fn format(&self) -> Format {
        match self {
            Self::Format(format) => *format,
            Self::File(_) => Format::Text,
        }
    }
}

/// A result that can be shown to people and to programs.
pub trait Report: Serialize {
    /// For people; without a final newline.
    fn text(&self) -> String;

    /// May lines be broken to fit the terminal? Not if programs read the text form too.
    fn is_prose(&self) -> bool {
        true
    }
}

impl Format {
    /// Prints a result on stdout.
    pub fn print(self, report: &impl Report) {
        match self {
            Self::Text | Self::Quiet => {
                let text = match serde_json::to_value(report) {
                    Ok(value) => printable::laid_out(report.text(), &value),
                    Err(_) => report.text(),
                };
                line(&if report.is_prose() { fit::lines(&text, fit::stdout_width()) } else { text });
            }
            Self::Json | Self::JsonPretty => self.print_json(report),
        }
    }

    /// Prints one JSON value on stdout, whatever the format.
    pub fn print_json(self, value: &impl Serialize) {
        let text =
            if self == Self::JsonPretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        let text = text.unwrap_or_else(|error| serde_json::json!({ "Error": error.to_string() }).to_string());
        write_json(std::io::stdout().lock(), &text);
    }

    /// Are results and errors written for people?
    #[must_use]
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Quiet)
    }

    /// Is there a person who reads along?
    #[must_use]
    pub fn is_chatty(self) -> bool {
        self == Self::Text
    }

    /// The same without remarks on the way.
    #[must_use]
    pub fn hushed(self) -> Self {
        if self == Self::Text { Self::Quiet } else { self }
    }

    /// Prints a progress line that scripts of the original read from stdout. Prints nothing if the output is JSON, or with
    /// `--quiet`.
    pub fn announce(self, text: &str) {
        if self.is_chatty() {
            line(text);
        }
    }

    /// A remark on the way, on stderr; nothing when a program reads, or nobody wants it.
    pub fn note(self, text: &str) {
        if self.is_chatty() {
            write_lines(std::io::stderr().lock(), &fit::lines(text, fit::stderr_width()));
        }
    }
}

/// Writes one or more lines to stdout.
pub fn line(text: &str) {
    write_lines(std::io::stdout().lock(), text);
}

/// The last thing that happens to a text: whoever made it, no control characters reach the terminal.
fn write_lines(out: impl Write, text: &str) {
    write(out, &printable::lines(text));
}

fn write_json(out: impl Write, text: &str) {
    write(out, &printable::json(text));
}

/// Ignores errors: a reader that has closed the pipe (`| head`) is no error of ours.
fn write(mut out: impl Write, text: &str) {
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// `{"msg": …}`, the answer of subcommands that only say that something was done.
#[derive(Debug, Serialize)]
pub struct Message {
    pub msg: String,
}

impl Message {
    pub fn new(msg: impl Into<String>) -> Self {
        Self { msg: msg.into() }
    }
}

impl Report for Message {
    fn text(&self) -> String {
        self.msg.clone()
    }
}

/// Settings, as YAML for people.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Shown(pub Value);

impl Report for Shown {
    fn text(&self) -> String {
        yaml(&self.0)
    }

    fn is_prose(&self) -> bool {
        false
    }
}

/// A JSON value as YAML, which people read more easily.
#[must_use]
pub fn yaml(value: &Value) -> String {
    serde_norway::to_string(value).map_or_else(|error| error.to_string(), |text| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_written() {
        let text = "shop.a\u{1b}[2J\u{202e}\nshop.b";
        let mut out = Vec::new();
        write_lines(&mut out, text);
        assert_eq!(String::from_utf8(out).expect("text"), "shop.a\\u{1b}[2J\\u{202e}\nshop.b\n");
        let mut out = Vec::new();
        let json = serde_json::to_string(text).expect("json");
        write_json(&mut out, &json);
        let written = String::from_utf8(out).expect("text");
        assert!(written.contains("\\u202e") && !written.contains('\u{202e}'), "{written}");
    }
}
