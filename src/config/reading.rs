//! Reads the stored configuration as far as this program knows its keys.
//!
//! Users of shells, other releases and the original write the configuration, too. A value that can't be used must not
//! make the rest unreadable: the value is reported, and its default is used. Settings that decide where data goes, who
//! can read it and how it is protected have no safe default. A storage with such a mistake is not used until the
//! mistake is corrected.

use super::{
    mask,
    schema::{self, Key, Kind},
};
use crate::compress::check_level;
use crate::model::{
    config::{Config, Mistake},
    store::StoreKind,
};
use bson::{Bson, Document};

/// How many characters of a value are quoted at most.
const QUOTED: usize = 60;

/// Reads a stored document of the main configuration or of a profile.
#[must_use]
pub fn read(stored: &Document) -> Config {
    let mut mistakes = Vec::new();
    let usable = group(stored, "", &mut mistakes);
    let mut config = match super::from_document(usable) {
        Ok(config) => config,
        // Every value was checked, so this is a bug in this program. The document itself is valid.
        Err(error) => {
            let problem = format!("can't be read: {error}");
            mistakes.push(Mistake { key: "storage".to_owned(), problem });
            Config::default()
        }
    };
    drop_wrong_levels(&mut config, &mut mistakes);
    let kind = &config.storage.kind;
    if !kind.is_empty() && config.storage.store_kind().is_none() {
        let problem = format!("can't be {}: it is none of {}", quoted(&kind.as_str().into()), StoreKind::names());
        mistakes.push(Mistake { key: "storage.type".to_owned(), problem });
    }
    config.mistakes = mistakes;
    settle(&mut config);
    config
}

/// Determines whether the storage can be used in spite of the mistakes.
pub(super) fn settle(config: &mut Config) {
    let own = format!("storage.{}", config.storage.kind);
    let serious = |mistake: &&Mistake| {
        let own = mistake.key == own || mistake.key.strip_prefix(&own).is_some_and(|rest| rest.starts_with('.'));
        (own || matches!(mistake.key.as_str(), "storage" | "storage.type")) && !has_safe_default(&mistake.key)
    };
    config.storage.unusable = config.mistakes.iter().find(serious).map(ToString::to_string);
}

/// Whether the default of this key can safely replace a wrong value: no data goes to another place, and none is less
/// protected.
fn has_safe_default(path: &str) -> bool {
    const SAFE: &[&str] =
        &["insecureSkipTLSVerify", "debugTrace", "debugLogLevels", "forcePathStyle", "fileMode", "dirMode"];
    match schema::find(path) {
        Some(key) => {
            matches!(key.kind, Kind::I32 | Kind::I64 | Kind::F64 | Kind::Duration)
                || path.rsplit('.').next().is_some_and(|name| SAFE.contains(&name))
        }
        // The values of unknown keys are not checked.
        None => schema::find_entry(path).is_none() && schema::children(path).is_empty(),
    }
}

fn group(stored: &Document, at: &str, mistakes: &mut Vec<Mistake>) -> Document {
    let mut usable = Document::new();
    for (name, value) in stored {
        if at.is_empty() && (name == "_id" || is_own(name, value)) {
            usable.insert(name, value);
            continue;
        }
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let wrong = |problem: String| Mistake { key: path.clone(), problem };
        if matches!(value, Bson::Null) {
            continue;
        }
        if let Some(key) = schema::find(&path) {
            match leaf(key, value, mistakes) {
                Ok(value) => {
                    usable.insert(name, value);
                }
                Err(reason) => mistakes.push(wrong(format!("can't be {}: {reason}", shown(value, &path)))),
            }
        } else if schema::children(&path).is_empty() {
            mistakes.push(wrong("is no key that this release knows; it has no effect".to_owned()));
        } else if let Bson::Document(inner) = value {
            usable.insert(name, group(inner, &path, mistakes));
        } else {
            mistakes.push(wrong("can't be a single value: expected a group of keys".to_owned()));
        }
    }
    usable
}

/// Whether this field of the document is not a setting, and its value has the right type.
fn is_own(name: &str, value: &Bson) -> bool {
    match name {
        "name" => matches!(value, Bson::String(_)),
        "profile" => matches!(value, Bson::Boolean(_)),
        "epoch" => matches!(value, Bson::Timestamp(_)),
        _ => false,
    }
}

/// Converts the value to the type of its key, because shells write whole numbers as doubles, and users write numbers as
/// texts.
fn leaf(key: &Key, value: &Bson, mistakes: &mut Vec<Mistake>) -> Result<Bson, String> {
    match (key.kind, value) {
        (Kind::MapF64 | Kind::MapText, Bson::Document(entries)) => {
            let mut map = Document::new();
            for (name, value) in entries {
                match entry(key, name, value) {
                    Ok(value) => {
                        map.insert(name, value);
                    }
                    Err(reason) => mistakes.push(Mistake {
                        key: format!("{}.{name}", key.path),
                        problem: format!("can't be {}: {reason}", shown(value, key.path)),
                    }),
                }
            }
            Ok(Bson::Document(map))
        }
        (Kind::MapF64 | Kind::MapText, _) => Err("expected a group of names and values".to_owned()),
        (Kind::Text, Bson::String(text)) if key.secret && text == mask::HIDDEN => {
            Err("it stands for a hidden value and was stored in its place; give the value itself".to_owned())
        }
        (Kind::Text, Bson::String(_)) => checked(key, value.clone()),
        (Kind::Text, _) => Err("expected a text".to_owned()),
        _ => checked(key, key.kind.parse(&plain(value).ok_or("expected a single value")?)?),
    }
}

fn entry(key: &Key, name: &str, value: &Bson) -> Result<Bson, String> {
    let parsed = key.kind.parse_entry(&plain(value).ok_or("expected a single value")?)?;
    key.check(&Bson::Document([(name.to_owned(), parsed.clone())].into_iter().collect()))?;
    Ok(parsed)
}

fn checked(key: &Key, value: Bson) -> Result<Bson, String> {
    key.check(&value).map(|()| value)
}

/// Returns a single value in the form in which a user would write it.
fn plain(value: &Bson) -> Option<String> {
    match value {
        Bson::String(text) => Some(text.clone()),
        Bson::Boolean(_) | Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) => Some(mask::text(&mask::json(value))),
        _ => None,
    }
}

/// Returns a value in the form that users see, or `***` if it may be a secret.
fn shown(value: &Bson, path: &str) -> String {
    match value {
        Bson::Document(_) | Bson::Array(_) => "a group of values".to_owned(),
        single => quoted(&mask::one(single, path)),
    }
}

fn quoted(value: &serde_json::Value) -> String {
    let text = mask::text(value);
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("'{}…'", &text[..end]),
        None => format!("'{text}'"),
    }
}

/// Removes compression levels that their codec does not have, because a wrong codec may have been replaced by the
/// default.
fn drop_wrong_levels(config: &mut Config, mistakes: &mut Vec<Mistake>) {
    let of_slices = config.pitr_compression();
    let backup = config.backup.as_mut();
    let backup = backup.map(|it| ("backup", it.compression.unwrap_or_default(), &mut it.compression_level));
    let pitr = config.pitr.as_mut().map(|it| ("pitr", of_slices, &mut it.compression_level));
    for (section, codec, level) in backup.into_iter().chain(pitr) {
        if let Err(reason) = check_level(codec, *level) {
            let value = level.take().unwrap_or_default();
            let key = format!("{section}.compressionLevel");
            mistakes.push(Mistake { key, problem: format!("can't be '{value}': {reason}") });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::compression::Compression;
    use bson::doc;

    /// Returns a document with a correct storage and with this value at the dotted path.
    fn stored(path: &str, value: impl Into<Bson>) -> Document {
        let mut doc = doc! { "storage": { "type": "filesystem", "filesystem": { "path": "/b" } }, "epoch": bson::Timestamp { time: 5, increment: 1 } };
        super::super::paths::put(&mut doc, path, value.into());
        doc
    }

    #[test]
    fn every_key_can_be_spoilt_and_the_rest_is_read() {
        for key in schema::KEYS {
            for value in
                [doc! { "a": { "b": 1 } }.into(), Bson::Array(vec![]), Bson::ObjectId(bson::oid::ObjectId::new())]
            {
                let config = read(&stored(key.path, value.clone()));
                assert!(config.epoch.is_some(), "{}: the rest is there", key.path);
                let named = config.mistakes.iter().any(|it| it.key.starts_with(key.path));
                assert!(named, "{} = {value}: {:?}", key.path, config.mistakes);
                let in_use = key.path.starts_with("storage.filesystem.") || key.path == "storage.type";
                let blocks = config.storage.unusable.is_some();
                assert_eq!(blocks, in_use && !has_safe_default(key.path), "{} = {value}", key.path);
            }
            assert_eq!(read(&stored(key.path, Bson::Null)).mistakes, [], "{}: null is nothing", key.path);
        }
    }

    #[test]
    fn values_of_other_programs_are_understood_or_named() {
        let read = |path: &str, value: Bson| read(&stored(path, value));
        for (path, value) in [
            ("backup.compression", "zip".into()),
            ("pitr.compression", "LZ4".into()),
            ("backup.numParallelCollections", Bson::Double(1.5)),
            ("backup.numParallelCollections", "many".into()),
            ("backup.numParallelCollections", Bson::Int64(1 << 40)),
            ("restore.batchSize", Bson::Int32(-1)),
            ("pitr.oplogSpanMin", Bson::Double(-5.0)),
            ("pitr.oplogSpanMin", Bson::Double(f64::NAN)),
            ("pitr.enabled", "maybe".into()),
            ("pitr.enabled", Bson::Int32(7)),
            ("backup.limitUpload", "fast".into()),
            ("backup.compressionLevel", "high".into()),
            ("backup.newer", Bson::Int32(1)),
            ("newer", doc! { "x": 1 }.into()),
            ("backup", "text".into()),
            ("backup.timeouts", Bson::Int32(3)),
            ("name", Bson::Int32(3)),
            ("epoch", "yesterday".into()),
            ("storage.filesystem.newer", Bson::Int32(1)),
            ("storage.filesystem.backupBuffSize", Bson::Int32(5)),
            ("storage.sftp", doc! { "host": "h" }.into()),
        ] {
            let config = read(path, value.clone());
            let keys: Vec<_> = config.mistakes.iter().map(|it| it.key.as_str()).collect();
            assert_eq!(keys, [path], "{value}");
            assert_eq!(config.storage.unusable, None, "{path}: the storage is all right");
            let storage = config.storage.filesystem.expect("a storage");
            assert_eq!((storage.path.as_str(), storage.backup_buff_size), ("/b", None));
        }
        let gzip = read("backup", doc! { "compression": "gzip", "compressionLevel": 10 }.into());
        assert_eq!(gzip.backup.and_then(|it| it.compression_level), None);
        assert_eq!(gzip.mistakes[0].key, "backup.compressionLevel");
        let backup = |path: &str, value: Bson| read(path, value).backup.expect("a section");
        assert_eq!(backup("backup.compression", "zip".into()).compression, None, "the default holds");
        for four in [Bson::Int32(4), Bson::Int64(4), Bson::Double(4.0), "4".into()] {
            assert_eq!(backup("backup.numParallelCollections", four).num_parallel_collections, 4);
        }
        for yes in [Bson::Boolean(true), "true".into(), Bson::Int32(1), Bson::Double(1.0)] {
            assert!(read("pitr.enabled", yes).pitr.is_some_and(|pitr| pitr.enabled));
        }
        let config = read("backup.priority", doc! { "h:1": 2, "h:2": -1, "h": 1, "h:3": "3", "h:4": [] }.into());
        let priority = config.backup.and_then(|backup| backup.priority).expect("priorities");
        assert_eq!(priority, [("h:1".to_owned(), 2.0), ("h:3".to_owned(), 3.0)].into());
        let keys: Vec<_> = config.mistakes.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(keys, ["backup.priority.h:2", "backup.priority.h", "backup.priority.h:4"]);
        let zip = read("backup.compression", "zip".into());
        assert_eq!(super::super::with_defaults(zip).backup.and_then(|it| it.compression), Some(Compression::S2));
    }

    #[test]
    fn a_storage_that_can_not_be_read_is_not_used() {
        let s3 = |more: Document| {
            let mut s3 =
                doc! { "bucket": "b", "credentials": { "access-key-id": "hunter1", "secret-access-key": "hunter2" } };
            more.into_iter().for_each(|(key, value)| super::super::paths::put(&mut s3, &key, value));
            read(&doc! { "storage": { "type": "s3", "s3": s3 } })
        };
        for (key, value) in [
            ("prefix", Bson::Int32(5)),
            ("bucket", doc! {}.into()),
            ("endpointUrl", "ftp://h".into()),
            ("endpointUrlMap", doc! { "h:1": "ftp://h" }.into()),
            ("credentials.secret-access-key", "***".into()),
            ("credentials", "hunter3".into()),
            ("serverSideEncryption.sseAlgorithm", "ROT13".into()),
            ("serverSideEncryption", true.into()),
        ] {
            let config = s3([(key.to_owned(), value.clone())].into_iter().collect());
            let why = config.storage.unusable.unwrap_or_else(|| panic!("{key} = {value} is no matter"));
            assert!(why.starts_with(&format!("storage.s3.{key}")) && !why.contains("hunter"), "{why}");
        }
        let fine = s3(doc! { "retryer.numMaxRetries": -3, "newer": 1, "insecureSkipTLSVerify": "perhaps" });
        assert_eq!((fine.mistakes.len(), fine.storage.unusable), (3, None), "{:?}", fine.mistakes);
        let other = read(&doc! { "storage": { "type": "floppy" } });
        assert!(other.storage.unusable.is_some_and(|why| why.contains("'floppy'")));
        let wrong = read(&doc! { "storage": "s3" });
        assert!(wrong.storage.unusable.is_some());
    }
}
