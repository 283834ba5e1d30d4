//! Describes the keys of the configuration, and reads and checks their values.

use crate::model::{compression::Compression, rate::Rate};
use bson::{Bson, Document};
use std::str::FromStr;

/// The kind of a key's value. It determines how the text of the value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    I32,
    I64,
    F64,
    Text,
    Codec,
    /// Bytes per second.
    Rate,
    /// Nanoseconds in the database. Users write `30ms` or a number.
    Duration,
    /// A map from names to numbers. Names may contain dots (`host:port`).
    MapF64,
    /// A map from names to texts.
    MapText,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub path: &'static str,
    pub kind: Kind,
    /// Whether the value is shown as `***`.
    pub secret: bool,
    /// The default. Most keys have none.
    pub default: Option<Preset>,
    pub limits: Limits,
}

/// The default of a key.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// The value in the form in which users write it. Absent if another key decides the value.
    pub value: Option<&'static str>,
    /// An explanation for users, if the value does not explain itself.
    pub words: &'static str,
}

/// Restricts the values that a key accepts, in addition to their type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limits {
    Any,
    AtLeast(f64),
    Within(f64, f64),
    ZeroOr(f64, f64),
    OneOf(&'static [&'static str]),
    /// `host:port` or an http(s) URL.
    Address,
    /// Permissions in octal digits. The first field has the bits that must be set, the second one those that may be
    /// set.
    Mode {
        needed: u32,
        allowed: u32,
    },
}

impl Kind {
    /// Reads the text of a value. An `Err` describes the valid values.
    pub fn parse(self, text: &str) -> Result<Bson, String> {
        match self {
            Self::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "1" => Ok(Bson::Boolean(true)),
                "false" | "f" | "0" => Ok(Bson::Boolean(false)),
                _ => Err("expected true or false".to_owned()),
            },
            Self::I32 => text.parse().map(Bson::Int32).map_err(|_| "expected a whole number of 32 bits".to_owned()),
            Self::I64 => text.parse().map(Bson::Int64).map_err(|_| "expected a whole number".to_owned()),
            Self::F64 => number(text).map(Bson::Double),
            Self::Text => Ok(Bson::String(text.to_owned())),
            Self::Codec => Compression::from_str(text).map(|codec| Bson::String(codec.to_string())),
            Self::Rate => Rate::from_str(text).map(|rate| Bson::String(rate.to_string())),
            Self::Duration => match text.parse::<i64>() {
                Ok(nanos) => Ok(Bson::Int64(nanos)),
                Err(_) => {
                    super::duration::parse(text).map(|it| Bson::Int64(i64::try_from(it.as_nanos()).unwrap_or(i64::MAX)))
                }
            },
            Self::MapF64 | Self::MapText => {
                const FORM: &str = "expected a JSON object such as {\"host:port\": …}";
                let map: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_str(text).map_err(|_| FORM.to_owned())?;
                let mut out = Document::new();
                for (name, value) in map {
                    let text = match value {
                        serde_json::Value::String(text) => text,
                        serde_json::Value::Number(number) => number.to_string(),
                        _ => return Err(format!("{FORM} with plain values")),
                    };
                    out.insert(name, self.parse_entry(&text)?);
                }
                Ok(Bson::Document(out))
            }
        }
    }

    /// Reads the text of one entry of a map.
    pub fn parse_entry(self, text: &str) -> Result<Bson, String> {
        match self {
            Self::MapF64 => number(text).map(Bson::Double),
            _ => Ok(Bson::String(text.to_owned())),
        }
    }
}

impl Key {
    /// Whether a value of the right type is within the limits.
    ///
    /// # Errors
    /// A description of the valid values.
    pub fn check(&self, value: &Bson) -> Result<(), String> {
        match value {
            Bson::Document(map) => map.iter().try_for_each(|(name, value)| self.check_entry(name, value)),
            Bson::String(text) if !self.secret && text.contains(char::is_control) => {
                Err("control characters are not expected".to_owned())
            }
            Bson::String(text) => match self.limits {
                Limits::OneOf(choices) if !text.is_empty() && !choices.contains(&text.as_str()) => {
                    Err(format!("expected {}", choices.join(" or ")))
                }
                Limits::Address => address(text),
                Limits::Mode { needed, allowed } if !text.is_empty() => mode(text, needed, allowed).map(drop),
                _ => Ok(()),
            },
            Bson::Int32(number) => self.check_number(f64::from(*number)),
            #[expect(clippy::cast_precision_loss, reason = "limits are far from where that shows")]
            Bson::Int64(number) => self.check_number(*number as f64),
            Bson::Double(number) => self.check_number(*number),
            _ => Ok(()),
        }
    }

    fn check_entry(&self, name: &str, value: &Bson) -> Result<(), String> {
        if self.kind == Kind::MapF64 {
            let port =
                name.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse().ok());
            if port.is_none_or(|port: u16| port == 0) {
                return Err(format!("'{name}' is no node; expected HOST:PORT, as `pbm status` shows it"));
            }
            if value.as_f64().is_some_and(|priority| priority < 0.0) {
                return Err("must not be negative".to_owned());
            }
            return Ok(());
        }
        self.check(value)
    }

    fn check_number(&self, number: f64) -> Result<(), String> {
        let (right, words) = match self.limits {
            Limits::AtLeast(0.0) => (number >= 0.0, "must not be negative".to_owned()),
            Limits::AtLeast(least) => (number >= least, format!("must be at least {least}")),
            Limits::Within(least, most) => {
                ((least..=most).contains(&number), format!("must be from {least} to {most}"))
            }
            Limits::ZeroOr(least, most) => {
                (number == 0.0 || (least..=most).contains(&number), format!("must be 0, or from {least} to {most}"))
            }
            Limits::Any | Limits::OneOf(_) | Limits::Address | Limits::Mode { .. } => (true, String::new()),
        };
        if right { Ok(()) } else { Err(words) }
    }
}

fn address(text: &str) -> Result<(), String> {
    let wrong = || "expected an address such as https://host:port".to_owned();
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let scheme = uri.scheme_str().is_none_or(|scheme| scheme == "http" || scheme == "https");
    let port = uri.authority().is_none_or(|it| {
        it.as_str().ends_with(']') || !it.as_str().contains(':') || it.port_u16().is_some_and(|port| port > 0)
    });
    if text.is_empty() || (scheme && port && uri.host().is_some_and(|host| !host.is_empty())) {
        return Ok(());
    }
    Err(wrong())
}

/// Reads permissions in octal digits.
pub(super) fn mode(text: &str, needed: u32, allowed: u32) -> Result<u32, String> {
    let wrong =
        || format!("expected permissions in octal digits, with at least {needed:o} and nothing beyond {allowed:o}");
    let mode = u32::from_str_radix(text, 8).map_err(|_| wrong())?;
    if mode & needed == needed && mode & !allowed == 0 { Ok(mode) } else { Err(wrong()) }
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|it: &f64| it.is_finite()).ok_or_else(|| "expected a number".to_owned())
}
