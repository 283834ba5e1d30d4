//! Settings: reads the YAML file strictly, and handles defaults, limits, single keys and the form in which settings are
//! shown.
//!
//! All functions here are pure. The names and types of keys are those of the original (docs/format.md C.3); only
//! [`schema`] lists them. Some values are accepted by the original although they make it fail later (an unknown codec,
//! a relative path). These are refused.

pub mod downloads;
pub mod duration;
pub mod edit;
pub mod effective;
pub mod ignored_settings;
mod key;
mod keys;
pub mod mask;
mod nearest;
pub mod open;
mod paths;
pub mod probe;
pub mod reading;
pub mod redact;
pub mod resolved;
pub mod schema;
#[cfg(feature = "stores")]
pub mod stores;

use crate::compress::check_level;
use crate::model::compression::Compression;
use crate::model::config::{BackupConf, Config, PitrConf, RestoreConf, StorageConf};
use crate::model::store::StoreKind;
use bson::{Bson, Document};
use resolved::Resolved;
use serde_norway::Value as Yaml;

/// Why a configuration or a key is refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ConfigError {
    #[error("the configuration is not valid YAML: {0}")]
    Yaml(String),
    #[error("there is no configuration key '{key}'; {known}")]
    UnknownKey { key: String, known: String },
    #[error("{key} can't be '{value}': {reason}")]
    Value { key: String, value: String, reason: String },
    #[error("{key}: {reason}")]
    Setting { key: String, reason: String },
    #[error(
        "storage type '{0}' is not in this build, which was made without the feature `stores`; use the type filesystem, or \
         a build with all types: `cargo build --release` makes one"
    )]
    NotInBuild(String),
    #[error("the configuration document can't be read: {0}")]
    Document(String),
}

impl ConfigError {
    fn setting(key: &str, reason: impl Into<String>) -> Self {
        Self::Setting { key: key.to_owned(), reason: reason.into() }
    }
}

/// Reads a configuration file. Every key must be known, every value must have its key's type and be within its limits,
/// and no secret may be hidden.
pub fn load(yaml: &str) -> Result<Config, ConfigError> {
    load_over(yaml, None)
}

/// Does the same as [`load`], for a file that replaces `stored`. Secrets that the file hides, as [`mask::shown`] does, keep
/// their stored values.
pub fn load_over(yaml: &str, stored: Option<&StorageConf>) -> Result<Config, ConfigError> {
    let tree: Yaml = serde_norway::from_str(yaml).map_err(|error| ConfigError::Yaml(error.to_string()))?;
    let doc = match &tree {
        Yaml::Mapping(map) => section(map, "")?,
        Yaml::Null => return Err(ConfigError::Yaml("the file is empty".to_owned())),
        _ => return Err(ConfigError::Yaml("expected keys and values".to_owned())),
    };
    let mut config = from_document(doc)?;
    mask::unmask(&mut config.storage, stored)?;
    validate(&config)?;
    Ok(config)
}

fn section(map: &serde_norway::Mapping, at: &str) -> Result<Document, ConfigError> {
    let mut out = Document::new();
    for (name, value) in map {
        let Some(name) = scalar(name) else {
            return Err(ConfigError::Yaml(format!("a key under '{at}' is not a word")));
        };
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        if let Some(key) = schema::find(&path) {
            if let Some(value) = leaf(key, value)? {
                out.insert(name, value);
            }
        } else if schema::children(&path).is_empty() {
            return Err(unknown(&path));
        } else {
            match value {
                Yaml::Mapping(inner) => {
                    out.insert(name, section(inner, &path)?);
                }
                Yaml::Null => {}
                other => return Err(wrong(&path, other, "expected a group of keys")),
            }
        }
    }
    Ok(out)
}

fn leaf(key: &schema::Key, value: &Yaml) -> Result<Option<Bson>, ConfigError> {
    use schema::Kind;
    let parsed = match (key.kind, value) {
        (_, Yaml::Null) => return Ok(None),
        (Kind::MapF64 | Kind::MapText, Yaml::Mapping(entries)) => {
            let mut map = Document::new();
            for (name, value) in entries {
                let (Some(name), Some(text)) = (scalar(name), scalar(value)) else {
                    return Err(wrong(key.path, value, "expected plain values"));
                };
                let value = key.kind.parse_entry(&text).map_err(|reason| wrong(key.path, value, &reason))?;
                map.insert(name, value);
            }
            Ok(Bson::Document(map))
        }
        (Kind::MapF64 | Kind::MapText, _) => Err("expected a group of names and values".to_owned()),
        // The original's files accept these words, but its `--set` does not.
        (Kind::Bool, Yaml::String(text)) if matches!(&*text.to_lowercase(), "yes" | "on" | "y") => {
            Ok(Bson::Boolean(true))
        }
        (Kind::Bool, Yaml::String(text)) if matches!(&*text.to_lowercase(), "no" | "off" | "n") => {
            Ok(Bson::Boolean(false))
        }
        // The YAML parser may already have changed the digits, as in 12e3.
        (Kind::Text, Yaml::Number(number)) if number.is_f64() => Err("write it in quotes".to_owned()),
        _ => match scalar(value) {
            Some(text) => key.kind.parse(&text),
            None => Err("expected a single value".to_owned()),
        },
    };
    let parsed = parsed.and_then(|parsed| key.check(&parsed).map(|()| parsed));
    parsed.map(Some).map_err(|reason| {
        let shown = if key.secret { Yaml::from("***") } else { value.clone() };
        wrong(key.path, &shown, &reason)
    })
}

fn scalar(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) => Some(text.clone()),
        Yaml::Bool(flag) => Some(flag.to_string()),
        Yaml::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn wrong(key: &str, value: &Yaml, reason: &str) -> ConfigError {
    let value = scalar(value).unwrap_or_else(|| "…".to_owned());
    ConfigError::Value { key: key.to_owned(), value, reason: reason.to_owned() }
}

fn unknown(path: &str) -> ConfigError {
    // The error names the valid keys at the deepest existing level.
    let mut group = path;
    let names = loop {
        group = group.rsplit_once('.').map_or("", |(parent, _)| parent);
        let names = schema::children(group);
        if !names.is_empty() {
            break names;
        }
    };
    let at = if group.is_empty() { "the top level".to_owned() } else { format!("'{group}'") };
    let all = format!("{at} has {}", names.join(", "));
    let known = match nearest::key(path) {
        Some(near) => format!("did you mean '{near}'? ({all})"),
        None => all,
    };
    ConfigError::UnknownKey { key: path.to_owned(), known }
}

/// Checks combinations of values: that the storage type is known, its settings are complete, and the codec has the
/// level.
pub fn validate(config: &Config) -> Result<(), ConfigError> {
    validate_storage(&config.storage)?;
    if let Some(pitr) = &config.pitr {
        level("pitr.compressionLevel", config.pitr_compression(), pitr.compression_level)?;
    }
    if let Some(backup) = &config.backup {
        level("backup.compressionLevel", backup.compression.unwrap_or_default(), backup.compression_level)?;
        let spool = backup.physical.as_ref().map_or("", |physical| &physical.spool_path);
        if !spool.is_empty() && !spool.starts_with('/') {
            return Err(ConfigError::setting(
                "backup.physical.spoolPath",
                format!("'{spool}' is not an absolute path"),
            ));
        }
    }
    if let Some(quorum) = config.restore.as_ref().and_then(|restore| restore.index_commit_quorum.as_ref()) {
        const KEY: &str = "restore.indexCommitQuorum";
        index_commit_quorum(quorum).map_err(|reason| ConfigError::setting(KEY, reason))?;
    }
    Ok(())
}

fn validate_storage(storage: &StorageConf) -> Result<(), ConfigError> {
    const KEY: &str = "storage.type";
    if storage.kind.is_empty() {
        return Err(ConfigError::setting(KEY, format!("must be given, one of {}", StoreKind::names())));
    }
    let Some(kind) = storage.store_kind() else {
        return Err(ConfigError::setting(KEY, format!("'{}' is none of {}", storage.kind, StoreKind::names())));
    };
    open::check(kind, storage)
}

fn level(key: &'static str, codec: Compression, level: Option<i32>) -> Result<(), ConfigError> {
    check_level(codec, level).map_err(|reason| ConfigError::setting(key, reason))
}

/// Whether the text is a quorum for index builds: `majority`, `votingMembers`, or 1 to 50 members.
pub fn index_commit_quorum(text: &str) -> Result<(), String> {
    if matches!(text, "majority" | "votingMembers") || text.parse().is_ok_and(|it: u8| (1..=50).contains(&it)) {
        return Ok(());
    }
    Err(format!("'{text}' is not majority, votingMembers or a number from 1 to 50"))
}

/// Returns the configuration in the form that programs use: optional sections exist and codecs are set.
#[must_use]
pub fn with_defaults(mut config: Config) -> Config {
    let resolved = Resolved::of(&config);
    let backup = config.backup.get_or_insert_with(BackupConf::default);
    backup.compression = Some(resolved.backup.compression);
    let pitr = config.pitr.get_or_insert_with(PitrConf::default);
    (pitr.compression, pitr.compression_level) = (Some(resolved.pitr.compression), resolved.pitr.level);
    config.restore.get_or_insert_with(RestoreConf::default);
    config
}

/// Whether two settings point to the same place (docs/format.md C.3.2). If not, the list of backups has to be read
/// again.
#[must_use]
pub fn same_place(a: &StorageConf, b: &StorageConf) -> bool {
    a.kind == b.kind && place(a) == place(b)
}

/// Returns the settings that distinguish one place from others of the same storage type.
pub(crate) fn place(conf: &StorageConf) -> Document {
    let Some(kind) = conf.store_kind() else { return Document::new() };
    let doc = bson::serialize_to_document(conf).unwrap_or_default();
    let settings = doc.get_document(kind.name()).cloned().unwrap_or_default();
    kind.place().iter().filter_map(|key| Some(((*key).to_owned(), settings.get(key)?.clone()))).collect()
}

/// Converts a number to JSON, without a decimal point if it has no fraction.
#[must_use]
pub fn json_number(number: f64) -> serde_json::Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number within the exact range")]
    if number.fract() == 0.0 && number.abs() < EXACT { (number as i64).into() } else { number.into() }
}

fn to_document(config: &Config) -> anyhow::Result<Document> {
    Ok(bson::serialize_to_document(config)?)
}

fn from_document(doc: Document) -> Result<Config, ConfigError> {
    bson::deserialize_from_document(doc).map_err(|error| ConfigError::Document(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_read_and_shown_as_the_original_shows_it() {
        let config = load(
            "storage:\n  type: filesystem\n  filesystem:\n    path: /srv/run/backups\npitr:\n  enabled: false\n  \
             oplogSpanMin: 0.2\nbackup:\n  compression: s2\n  priority:\n    127.0.0.1:27017: 2\n",
        )
        .expect("a good file");
        let shown = mask::shown(&config).expect("shown").to_string();
        assert_eq!(
            shown,
            r#"{"storage":{"type":"filesystem","filesystem":{"path":"/srv/run/backups"}},"pitr":{"enabled":false,"oplogSpanMin":0.2},"backup":{"oplogSpanMin":0,"priority":{"127.0.0.1:27017":2},"compression":"s2"}}"#
        );
        let shown = mask::shown(&with_defaults(config)).expect("shown");
        assert_eq!(shown["restore"].to_string(), "{}");
        assert_eq!(shown["pitr"]["compression"], "s2");
    }

    #[test]
    fn files_with_mistakes_are_refused_with_the_place() {
        for (yaml, part) in [
            (
                "storage: {type: filesystem, filesystem: {pth: /b}}",
                "'storage.filesystem.pth'; did you mean 'storage.filesystem.path'? ('storage.filesystem' has path",
            ),
            ("storag: {}", "'storag'; did you mean 'storage'? (the top level has storage, pitr, backup, restore)"),
            ("zzz: {}", "'zzz'; the top level has storage"),
            ("storage: {type: filesystem, filesystem: {path: b}}", "absolute"),
            ("storage: {type: filesystem}", "storage.filesystem.path"),
            ("storage: {type: floppy}", "storage.type"),
            ("pitr: {enabled: false}", "storage.type"),
            ("storage: {type: filesystem, filesystem: {path: /b}}\npitr: {enabled: 5}", "pitr.enabled"),
            ("storage: {type: filesystem, filesystem: {path: /b}}\npitr: {enabled: true, compression: rar}", "rar"),
            ("storage: {type: filesystem, filesystem: {path: /b}}\nrestore: {batchSize: -1}", "restore.batchSize"),
            (
                "storage: {type: filesystem, filesystem: {path: /b, backupBuffSize: 5}}",
                "backupBuffSize can't be '5': must be 0, or from 32768",
            ),
            (
                "storage: {type: filesystem, filesystem: {path: /b}}\nbackup: {compression: gzip, compressionLevel: 10}",
                "level 10",
            ),
            ("storage: {type: s3, s3: {region: b}}", "storage.s3.bucket: must be given"),
            ("storage: {type: s3}", "storage.s3: must be given"),
            ("storage: {type: filesystem, filesystem: {path: 1e3}}", "in quotes"),
            ("storage: {type: filesystem, filesystem: {path: /b}}\nbackup: {priority: {h: 1}}", "HOST:PORT"),
            ("storage: {type: filesystem}\n---\npitr: {}", "more than one document"),
            ("storage:\n\ttype: filesystem", "YAML"),
            ("storage: [1]", "group of keys"),
            ("storage: {type: a, type: b}", "duplicate"),
            ("", "empty"),
            ("a: b: c", "YAML"),
        ] {
            let error = load(yaml).expect_err(yaml).to_string();
            assert!(error.contains(part), "{yaml}: {error}");
        }
    }

    #[test]
    fn files_may_hold_every_key() {
        for key in schema::KEYS.iter().filter(|key| key.path != "storage.type") {
            let mut names = key.path.split('.');
            let section = names.next().expect("a section");
            let inner =
                names.rev().fold(schema::tests::sample(key).to_owned(), |value, name| format!("{{{name}: {value}}}"));
            let inner = inner.trim_start_matches('{').strip_suffix('}').unwrap_or_default();
            let yaml = match section {
                "storage" => format!("storage: {{type: blackhole, {inner}}}"),
                other => format!("storage: {{type: blackhole}}\n{other}: {{{inner}}}"),
            };
            let config = load(&yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
            assert_ne!(edit::get(&config, key.path), Ok(String::new()), "{yaml}");
        }
    }

    #[test]
    fn files_say_yes_and_no_in_all_the_ways_of_the_original() {
        for (word, on) in [("yes", true), ("On", true), ("true", true), ("no", false), ("off", false), ("False", false)]
        {
            let yaml = format!("storage: {{type: filesystem, filesystem: {{path: /b}}}}\npitr: {{enabled: {word}}}");
            assert_eq!(load(&yaml).expect(word).pitr.map(|pitr| pitr.enabled), Some(on), "{word}");
        }
    }

    #[test]
    fn a_wrong_secret_is_not_repeated() {
        let error = load("storage: {type: s3, s3: {credentials: {secret-access-key: [hunter2]}}}").expect_err("a list");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn the_table_of_kinds_agrees_with_the_table_of_keys() {
        const PLACE: &[&str] =
            &["path", "region", "endpointUrl", "endpoint", "bucket", "prefix", "account", "container", "namespace"];
        for kind in StoreKind::ALL {
            let key = |name: &str| schema::find(&format!("storage.{}.{name}", kind.name()));
            let place: Vec<&str> = PLACE.iter().copied().filter(|name| key(name).is_some()).collect();
            assert_eq!(kind.place(), place, "{kind:?}");
            assert!(kind.address().1.iter().all(|name| key(name).is_some()), "{kind:?}");
            let limit = key("maxObjSizeGB").and_then(|key| key.default?.value).map(str::to_owned);
            assert!(limit.is_none_or(|limit| limit == kind.limit_gib().to_string()), "{kind:?}");
        }
    }

    #[test]
    fn the_place_decides_a_resync() {
        let conf = |text: &str| load(text).expect("good").storage;
        let one = conf("storage: {type: filesystem, filesystem: {path: /a}}");
        let same = conf("storage: {type: filesystem, filesystem: {path: /a, maxObjSizeGB: 2}}");
        let other = conf("storage: {type: filesystem, filesystem: {path: /b}}");
        assert!(same_place(&one, &same));
        assert!(!same_place(&one, &other));
    }
}
