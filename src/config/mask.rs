//! The configuration as people may see it: secrets hidden, numbers written as the original writes them.

use super::schema;
use crate::model::config::Config;
use bson::{Bson, Document};
use serde_json::{Map, Value};

const HIDDEN: &str = "***";

/// The configuration for `pbm config`: no `_id`, no epoch, every secret replaced by `***`.
pub fn shown(config: &Config) -> anyhow::Result<Value> {
    let mut doc = super::to_document(config)?;
    doc.remove("epoch");
    Ok(masked(&doc, ""))
}

/// A document under the dotted path `at`, with secrets hidden.
#[must_use]
pub fn masked(doc: &Document, at: &str) -> Value {
    let mut out = Map::new();
    for (name, value) in doc {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let value = match value {
            Bson::Document(inner) => masked(inner, &path),
            other => one(other, &path),
        };
        out.insert(name.clone(), value);
    }
    Value::Object(out)
}

/// A single value under its dotted path, hidden if it is a secret.
#[must_use]
pub fn one(value: &Bson, path: &str) -> Value {
    // What nobody knows beside credentials may be some of a newer release.
    let secret = schema::find(path).map_or_else(|| path.contains(".credentials."), |key| key.secret);
    match value {
        Bson::Null => Value::Null,
        Bson::String(text) if text.is_empty() => "".into(),
        _ if secret => HIDDEN.into(),
        other => json(other),
    }
}

/// A value as JSON; a number without a fraction has no decimal point.
#[must_use]
pub fn json(value: &Bson) -> Value {
    match value {
        Bson::Double(number) => super::json_number(*number),
        Bson::Document(doc) => Value::Object(doc.iter().map(|(name, value)| (name.clone(), json(value))).collect()),
        Bson::Array(items) => Value::Array(items.iter().map(json).collect()),
        Bson::String(text) => text.as_str().into(),
        Bson::Boolean(flag) => (*flag).into(),
        Bson::Int32(number) => (*number).into(),
        Bson::Int64(number) => (*number).into(),
        Bson::Null => Value::Null,
        // Nothing else is in a configuration.
        other => other.to_string().into(),
    }
}

/// A value as one line of text, as in `[key=value]`; empty for a value that is not set.
#[must_use]
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
