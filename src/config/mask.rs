//! The configuration in the form that users see: secrets are hidden, and numbers are written as in the original.

use super::{
    ConfigError,
    paths::{lookup, put},
    schema,
};
use crate::model::config::{Config, StorageConf};
use bson::{Bson, Document};
use serde_json::{Map, Value};

/// The text that is shown in place of a secret.
pub const HIDDEN: &str = "***";

/// Settings of a storage that decide where requests go and how they are protected on the network.
const DESTINATION: &[&str] = &[
    "region",
    "endpointUrl",
    "endpointUrlMap",
    "endpoint",
    "endpointMap",
    "bucket",
    "account",
    "container",
    "namespace",
    "secure",
    "insecureSkipTLSVerify",
    "server",
];

/// Replaces hidden secrets by the stored ones, if both belong to the same store.
///
/// # Errors
/// A secret is hidden but none is stored, or the stored one belongs to another store, to which it must not be sent.
pub fn unmask(new: &mut StorageConf, stored: Option<&StorageConf>) -> Result<(), ConfigError> {
    let encode = |conf: &StorageConf| {
        bson::serialize_to_document(conf).map_err(|error| ConfigError::Document(error.to_string()))
    };
    let mut doc = encode(new)?;
    let mut hidden = Vec::new();
    find_hidden(&doc, "storage", &mut hidden);
    if hidden.is_empty() {
        return Ok(());
    }
    let stored = stored.map(encode).transpose()?;
    for path in hidden {
        let refuse = |reason: String| ConfigError::setting(&path, reason);
        let below = path.strip_prefix("storage.").unwrap_or(&path);
        let kind = below.split('.').next().unwrap_or_default();
        let secret = stored.as_ref().and_then(|stored| lookup(stored, below)).filter(|it| !is_hidden(it));
        let Some(secret) = secret.filter(|it| it.as_str() != Some("")) else {
            return Err(refuse(format!(
                "{HIDDEN} stands for a hidden value, and none is stored here; give the value itself"
            )));
        };
        let settings = |doc: &Document| doc.get_document(kind).cloned().unwrap_or_default();
        if let Some(other) = stored.as_ref().and_then(|stored| moved(&settings(stored), &settings(&doc))) {
            return Err(refuse(format!(
                "{HIDDEN} stands for a hidden value, and the stored one belongs to another store ({other} differs); give the \
                 value itself"
            )));
        }
        put(&mut doc, below, secret.clone());
    }
    let unusable = new.unusable.take();
    *new = bson::deserialize_from_document(doc).map_err(|error| ConfigError::Document(error.to_string()))?;
    new.unusable = unusable;
    Ok(())
}

fn is_hidden(value: &Bson) -> bool {
    value.as_str() == Some(HIDDEN)
}

/// Collects the paths of hidden secrets.
fn find_hidden(doc: &Document, at: &str, found: &mut Vec<String>) {
    for (name, value) in doc {
        let path = format!("{at}.{name}");
        match value {
            Bson::Document(inner) => find_hidden(inner, &path, found),
            value if is_hidden(value) && is_secret(&path) => found.push(path),
            _ => {}
        }
    }
}

/// Returns the first changed setting that makes `new` a different store.
fn moved(old: &Document, new: &Document) -> Option<String> {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.dedup();
    for name in names {
        let (old, new) = (old.get(name), new.get(name));
        if DESTINATION.contains(&name.as_str()) {
            // A missing value and an empty one are equal.
            if is_set(old) != is_set(new) {
                return Some(name.clone());
            }
            continue;
        }
        let group = |value: Option<&Bson>| value.and_then(Bson::as_document).cloned().unwrap_or_default();
        if let Some(inner) = moved(&group(old), &group(new)) {
            return Some(format!("{name}.{inner}"));
        }
    }
    None
}

fn is_set(value: Option<&Bson>) -> Option<&Bson> {
    value.filter(|value| !matches!(value, Bson::Null | Bson::Boolean(false)) && value.as_str() != Some(""))
}

fn is_secret(path: &str) -> bool {
    // An unknown key in a credentials group may be a secret of a newer release.
    schema::find(path).map_or_else(|| path.contains(".credentials."), |key| key.secret)
}

/// Returns the configuration for `pbm config`: without `_id` and epoch, and with `***` in place of every secret.
pub fn shown(config: &Config) -> anyhow::Result<Value> {
    let mut doc = super::to_document(config)?;
    doc.remove("epoch");
    Ok(masked(&doc, ""))
}

/// Returns the document at the dotted path `at`, with hidden secrets.
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

/// Returns the value at its dotted path, or `***` if it is a secret.
#[must_use]
pub fn one(value: &Bson, path: &str) -> Value {
    match value {
        Bson::Null => Value::Null,
        Bson::String(text) if text.is_empty() => "".into(),
        _ if is_secret(path) => HIDDEN.into(),
        other => json(other),
    }
}

/// Converts a value to JSON. A number without a fraction has no decimal point.
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
        // A configuration contains no other types.
        other => other.to_string().into(),
    }
}

/// Converts a value to one line of text, as in `[key=value]`. The text of a value that is not set is empty.
#[must_use]
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn s3(settings: Document) -> StorageConf {
        StorageConf { kind: "s3".to_owned(), s3: Some(settings), ..StorageConf::default() }
    }

    fn real() -> Document {
        doc! { "bucket": "b", "endpointUrl": "https://h", "prefix": "p", "credentials": { "secret-access-key": "real" } }
    }

    fn hidden(more: Document) -> StorageConf {
        let mut settings = real();
        put(&mut settings, "credentials.secret-access-key", HIDDEN.into());
        more.into_iter().for_each(|(key, value)| put(&mut settings, &key, value));
        s3(settings)
    }

    #[test]
    fn hidden_secrets_stay_as_they_are_stored() {
        for more in [doc! {}, doc! { "prefix": "other" }, doc! { "region": "", "insecureSkipTLSVerify": false }] {
            let mut new = hidden(more);
            unmask(&mut new, Some(&s3(real()))).expect("the same store");
            let settings = new.s3.expect("settings");
            assert_eq!(
                settings.get_document("credentials").expect("a group").get_str("secret-access-key").ok(),
                Some("real")
            );
        }
        let mut given = s3(real());
        unmask(&mut given, None).expect("nothing is hidden");
        let mut bucket = s3(doc! { "bucket": HIDDEN });
        unmask(&mut bucket, None).expect("no secret");
    }

    #[test]
    fn a_secret_goes_to_no_other_store() {
        for (key, value) in [
            ("bucket", Bson::from("c")),
            ("endpointUrl", "https://elsewhere".into()),
            ("endpointUrlMap", doc! { "h:1": "https://elsewhere" }.into()),
            ("region", "eu".into()),
            ("insecureSkipTLSVerify", true.into()),
            ("credentials.vault.server", "https://elsewhere".into()),
        ] {
            let mut new = hidden([(key.to_owned(), value)].into_iter().collect());
            let error = unmask(&mut new, Some(&s3(real()))).expect_err(key).to_string();
            assert!(error.starts_with("storage.s3.credentials.secret-access-key: ***"), "{error}");
            assert!(error.contains("another store") && !error.contains("real"), "{error}");
        }
        let nothing = [None, Some(s3(doc! { "bucket": "b" })), Some(hidden(doc! {})), Some(StorageConf::default())];
        for stored in nothing {
            let error = unmask(&mut hidden(doc! {}), stored.as_ref()).expect_err("nothing is stored").to_string();
            assert!(error.contains("none is stored"), "{error}");
        }
    }
}
