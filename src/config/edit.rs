//! Single keys: reading one, and turning `key=value` into the update of the configuration document.

use super::{ConfigError, mask, schema, to_document};
use crate::model::config::Config;
use bson::{Bson, Document};

/// One `$set` on the main configuration document.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key as the user wrote it, and the value as it will be shown.
    pub key: String,
    pub value: String,
    /// Dotted path of the field. For an entry of a map it is the map itself: entries' names contain dots.
    pub path: &'static str,
    pub set: Bson,
}

/// Reads `key=value` against the current configuration and checks the result as a whole.
///
/// Changes build on each other: `config` is left with the change made.
pub fn set(config: &mut Config, key: &str, text: &str) -> Result<Change, ConfigError> {
    let bad = |reason: String| ConfigError::Value { key: key.to_owned(), value: text.to_owned(), reason };
    let mut doc = to_document(config).map_err(|error| ConfigError::Document(error.to_string()))?;
    let (found, set) = if let Some(found) = schema::find(key) {
        (found, found.kind.parse(text).map_err(bad)?)
    } else if let Some((found, entry)) = schema::find_entry(key) {
        let mut map = match lookup(&doc, found.path) {
            Some(Bson::Document(map)) => map.clone(),
            _ => Document::new(),
        };
        map.insert(entry, found.kind.parse_entry(text).map_err(bad)?);
        (found, Bson::Document(map))
    } else {
        return Err(super::unknown(key));
    };
    put(&mut doc, found.path, set.clone());
    let changed = super::from_document(doc)?;
    super::validate(&changed)?;
    *config = changed;
    let value = if found.secret { "***".to_owned() } else { text.to_owned() };
    Ok(Change { key: key.to_owned(), value, path: found.path, set })
}

/// The value of a key as text, secrets hidden; empty when it is not set.
pub fn get(config: &Config, key: &str) -> Result<String, ConfigError> {
    let doc = to_document(config).map_err(|error| ConfigError::Document(error.to_string()))?;
    let value = if let Some((found, entry)) = schema::find_entry(key) {
        lookup(&doc, found.path).and_then(Bson::as_document).and_then(|map| map.get(entry))
    } else if schema::find(key).is_some() || !schema::children(key).is_empty() {
        lookup(&doc, key)
    } else {
        return Err(super::unknown(key));
    };
    let hidden = schema::find(key).is_some_and(|it| it.secret);
    Ok(match value {
        None | Some(Bson::Null) => String::new(),
        Some(Bson::String(text)) if hidden && !text.is_empty() => "***".to_owned(),
        Some(Bson::Document(inner)) => mask::masked(inner, key).to_string(),
        Some(other) => mask::text(&mask::json(other)),
    })
}

fn lookup<'a>(doc: &'a Document, path: &str) -> Option<&'a Bson> {
    match path.split_once('.') {
        None => doc.get(path),
        Some((head, rest)) => lookup(doc.get(head)?.as_document()?, rest),
    }
}

fn put(doc: &mut Document, path: &str, value: Bson) {
    match path.split_once('.') {
        None => {
            doc.insert(path, value);
        }
        Some((head, rest)) => {
            if !matches!(doc.get(head), Some(Bson::Document(_))) {
                doc.insert(head, Document::new());
            }
            if let Some(Bson::Document(inner)) = doc.get_mut(head) {
                put(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn config() -> Config {
        super::super::load("storage: {type: filesystem, filesystem: {path: /backups}}\npitr: {enabled: false}\n")
            .expect("a good file")
    }

    #[test]
    fn values_get_the_type_of_their_key() {
        for (key, text, path, value) in [
            ("pitr.enabled", "true", "pitr.enabled", Bson::Boolean(true)),
            ("pitr.oplogSpanMin", "5", "pitr.oplogSpanMin", Bson::Double(5.0)),
            ("backup.compressionLevel", "3", "backup.compressionLevel", Bson::Int32(3)),
            ("backup.timeouts.startingStatus", "60", "backup.timeouts.startingStatus", Bson::Int64(60)),
            ("backup.compression", "zstd", "backup.compression", "zstd".into()),
            ("storage.s3.retryer.minRetryDelay", "30ms", "storage.s3.retryer.minRetryDelay", Bson::Int64(30_000_000)),
            ("backup.priority", "{\"a:1\": 2}", "backup.priority", doc! {"a:1": 2.0}.into()),
            ("backup.priority.10.0.0.1:27017", "2.5", "backup.priority", doc! {"10.0.0.1:27017": 2.5}.into()),
            (
                "storage.s3.endpointUrlMap.node:1",
                "http://x",
                "storage.s3.endpointUrlMap",
                doc! {"node:1": "http://x"}.into(),
            ),
        ] {
            let change = set(&mut config(), key, text).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!((change.path, change.set), (path, value), "{key}");
        }
    }

    #[test]
    fn changes_build_on_each_other() {
        let mut config = config();
        set(&mut config, "backup.priority.a:1", "1").expect("first");
        let second = set(&mut config, "backup.priority.b:1", "2").expect("second");
        assert_eq!(second.set, doc! {"a:1": 1.0, "b:1": 2.0}.into());
        assert_eq!(get(&config, "backup.priority.b:1").as_deref(), Ok("2"));
        assert_eq!(get(&config, "backup.priority").as_deref(), Ok(r#"{"a:1":1,"b:1":2}"#));
    }

    #[test]
    fn wrong_values_are_refused_with_the_reason() {
        for (key, text, part) in [
            ("restore.batchSize", "abc", "whole number"),
            ("backup.compression", "bogus", "none, gzip"),
            ("pitr.enabled", "yes please", "true or false"),
            ("pitr.oplogSpanMin", "-1", "pitr.oplogSpanMin"),
            ("no.such.key", "1", "no.such.key"),
            ("storage.filesystem.path", "backups", "absolute"),
            ("storage.type", "tape", "filesystem"),
            ("restore.indexCommitQuorum", "51", "votingMembers"),
        ] {
            let error = set(&mut config(), key, text).expect_err(key).to_string();
            assert!(error.contains(part), "{key}: {error}");
        }
    }

    #[test]
    fn secrets_are_never_read_back() {
        let mut config = config();
        let change = set(&mut config, "storage.s3.credentials.secret-access-key", "hunter2").expect("set");
        assert_eq!(change.value, "***");
        assert_eq!(change.set, "hunter2".into());
        assert_eq!(get(&config, "storage.s3.credentials.secret-access-key").as_deref(), Ok("***"));
        assert!(!get(&config, "storage").expect("a group").contains("hunter2"));
        assert!(!mask::shown(&config).expect("shown").to_string().contains("hunter2"));
    }

    #[test]
    fn reading_a_key() {
        assert_eq!(get(&config(), "storage.type").as_deref(), Ok("filesystem"));
        assert_eq!(get(&config(), "backup.compressionLevel").as_deref(), Ok(""));
        assert!(matches!(get(&config(), "no.such.key"), Err(ConfigError::UnknownKey { .. })));
    }
}
