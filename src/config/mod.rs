//! Settings: reading the YAML file strictly, defaults, limits, single keys, and how they are shown.
//!
//! All functions here are pure. Key names and types are those of the original (spec/format.md C.3); [`schema`] lists
//! them once. Values that the original accepts and then fails on later (an unknown codec, a relative path) are refused.

pub mod duration;
pub mod edit;
pub mod mask;
pub mod open;
pub mod places;
pub mod probe;
pub mod redact;
pub mod schema;
pub mod stores;

use crate::compress::check_level;
use crate::model::compression::Compression;
use crate::model::config::{BackupConf, Config, PitrConf, RestoreConf, StorageConf};
use bson::{Bson, Document};
use serde_norway::Value as Yaml;

/// Storage types that a configuration may name.
pub const STORAGE_TYPES: &[&str] = &["filesystem", "s3", "minio", "gcs", "azure", "oss", "oci", "blackhole"];
/// Bytes; limits of `backupBuffSize` and `restoreBuffSize`.
const BUFFER: std::ops::RangeInclusive<i32> = 32 * 1024..=10 * 1024 * 1024;

/// Why a configuration or a key is refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ConfigError {
    #[error("the configuration is not valid YAML: {0}")]
    Yaml(String),
    #[error("unknown configuration key '{key}'{known}")]
    UnknownKey { key: String, known: String },
    #[error("{key} can't be '{value}': {reason}")]
    Value { key: String, value: String, reason: String },
    #[error("{key}: {reason}")]
    Rule { key: &'static str, reason: String },
    #[error("{key}: {reason}")]
    Setting { key: String, reason: String },
    #[error("storage type '{0}' is not in this build; use another one")]
    NotInBuild(String),
    #[error("the configuration document can't be read: {0}")]
    Document(String),
}

/// Reads a configuration file: every key must be known, every value of its key's type and within its limits.
pub fn load(yaml: &str) -> Result<Config, ConfigError> {
    let tree: Yaml = serde_norway::from_str(yaml).map_err(|error| ConfigError::Yaml(error.to_string()))?;
    let doc = match &tree {
        Yaml::Mapping(map) => section(map, "")?,
        Yaml::Null => return Err(ConfigError::Yaml("the file is empty".to_owned())),
        _ => return Err(ConfigError::Yaml("expected keys and values".to_owned())),
    };
    let config = from_document(doc)?;
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
        _ => match scalar(value) {
            Some(text) => key.kind.parse(&text),
            None => Err("expected a single value".to_owned()),
        },
    };
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
    // Name what would have been right at the deepest level that exists.
    let mut group = path;
    let names = loop {
        group = group.rsplit_once('.').map_or("", |(parent, _)| parent);
        let names = schema::children(group);
        if !names.is_empty() {
            break names;
        }
    };
    let at = if group.is_empty() { "the top level".to_owned() } else { format!("'{group}'") };
    ConfigError::UnknownKey { key: path.to_owned(), known: format!("; {at} has {}", names.join(", ")) }
}

/// Checks what types alone can't: known storage, complete settings, sane numbers.
pub fn validate(config: &Config) -> Result<(), ConfigError> {
    let rule = |key: &'static str, reason: &str| Err(ConfigError::Rule { key, reason: reason.to_owned() });
    validate_storage(&config.storage)?;
    if let Some(pitr) = &config.pitr {
        if pitr.oplog_span_min.is_some_and(|it| it <= 0.0) {
            return rule("pitr.oplogSpanMin", "must be above 0 (minutes)");
        }
        if pitr.max_loss_sec.is_some_and(|it| !(5.0..=86400.0).contains(&it)) {
            return rule("pitr.maxLossSec", "must be from 5 to 86400 (seconds)");
        }
        level("pitr.compressionLevel", pitr.compression.unwrap_or_default(), pitr.compression_level)?;
    }
    if let Some(backup) = &config.backup {
        if backup.oplog_span_min < 0.0 {
            return rule("backup.oplogSpanMin", "must not be negative (minutes; 0 = as pitr.oplogSpanMin)");
        }
        level("backup.compressionLevel", backup.compression.unwrap_or_default(), backup.compression_level)?;
        if backup.num_parallel_collections < 0 || backup.num_parallel_files < 0 {
            return rule("backup.numParallel…", "must not be negative (0 = the agent's default)");
        }
        if backup.timeouts.as_ref().is_some_and(|it| it.starting_status.is_some_and(|s| s <= 0)) {
            return rule("backup.timeouts.startingStatus", "must be above 0 (seconds)");
        }
    }
    if let Some(restore) = &config.restore {
        let numbers = [
            restore.batch_size,
            restore.num_insertion_workers,
            restore.num_parallel_collections,
            restore.num_parallel_files,
            restore.num_download_workers,
            restore.max_download_buffer_mb,
            restore.download_chunk_mb,
        ];
        if numbers.iter().any(|it| *it < 0) {
            return rule("restore", "batch sizes, workers and buffers must not be negative");
        }
        if let Some(quorum) = &restore.index_commit_quorum {
            index_commit_quorum(quorum)
                .map_err(|reason| ConfigError::Rule { key: "restore.indexCommitQuorum", reason })?;
        }
    }
    Ok(())
}

fn validate_storage(storage: &StorageConf) -> Result<(), ConfigError> {
    let rule = |key: &'static str, reason: String| Err(ConfigError::Rule { key, reason });
    if storage.kind.is_empty() {
        return rule("storage.type", format!("must be given, one of {}", STORAGE_TYPES.join(", ")));
    }
    if !STORAGE_TYPES.contains(&storage.kind.as_str()) {
        return rule("storage.type", format!("'{}' is none of {}", storage.kind, STORAGE_TYPES.join(", ")));
    }
    if !open::can_open(&storage.kind) {
        return Err(ConfigError::NotInBuild(storage.kind.clone()));
    }
    if storage.kind != "filesystem" {
        return stores::check(storage);
    }
    if let Some(fs) = &storage.filesystem {
        if !fs.path.starts_with('/') {
            return rule("storage.filesystem.path", format!("'{}' is not an absolute path", fs.path));
        }
        if fs.max_obj_size_gb.is_some_and(|it| it <= 0.0) {
            return rule("storage.filesystem.maxObjSizeGB", "must be above 0 (GiB)".to_owned());
        }
        if [fs.backup_buff_size, fs.restore_buff_size].into_iter().flatten().any(|it| it != 0 && !BUFFER.contains(&it))
        {
            return rule("storage.filesystem", "buffers are 0 or between 32 KiB and 10 MiB".to_owned());
        }
    } else {
        return rule("storage.filesystem.path", "must be given for the storage type filesystem".to_owned());
    }
    Ok(())
}

fn level(key: &'static str, codec: Compression, level: Option<i32>) -> Result<(), ConfigError> {
    check_level(codec, level).map_err(|reason| ConfigError::Rule { key, reason })
}

/// Is this a quorum for index builds: `majority`, `votingMembers`, or 1 to 50 members?
pub fn index_commit_quorum(text: &str) -> Result<(), String> {
    if matches!(text, "majority" | "votingMembers") || text.parse().is_ok_and(|it: u8| (1..=50).contains(&it)) {
        return Ok(());
    }
    Err(format!("'{text}' is not majority, votingMembers or a number from 1 to 50"))
}

/// The configuration as programs use it: the sections that may be left out are there, the codecs are named.
#[must_use]
pub fn with_defaults(mut config: Config) -> Config {
    let backup = config.backup.get_or_insert_with(BackupConf::default);
    let codec = *backup.compression.get_or_insert(Compression::S2);
    let level = backup.compression_level;
    let pitr = config.pitr.get_or_insert_with(PitrConf::default);
    if pitr.compression.is_none() {
        pitr.compression = Some(codec);
        pitr.compression_level = pitr.compression_level.or(level);
    }
    config.restore.get_or_insert_with(RestoreConf::default);
    config
}

/// Do two settings name the same place (spec/format.md C.3.2)? If not, the catalogue has to be read anew.
#[must_use]
pub fn same_place(a: &StorageConf, b: &StorageConf) -> bool {
    const PLACE: &[&str] =
        &["path", "region", "endpointUrl", "endpoint", "bucket", "prefix", "account", "container", "namespace"];
    let place = |conf: &StorageConf| {
        let doc = bson::serialize_to_document(conf).unwrap_or_default();
        let of_type = doc.get_document(&conf.kind).cloned().unwrap_or_default();
        PLACE.iter().map(|key| of_type.get(key).cloned()).collect::<Vec<_>>()
    };
    a.kind == b.kind && place(a) == place(b)
}

/// A number as JSON; without a decimal point where there is no fraction.
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
                "'storage.filesystem.pth'; 'storage.filesystem' has path",
            ),
            ("storag: {}", "'storag'; the top level has storage, pitr, backup, restore"),
            ("storage: {type: filesystem, filesystem: {path: b}}", "absolute"),
            ("storage: {type: filesystem}", "storage.filesystem.path"),
            ("storage: {type: floppy}", "storage.type"),
            ("pitr: {enabled: false}", "storage.type"),
            ("storage: {type: filesystem, filesystem: {path: /b}}\npitr: {enabled: 5}", "pitr.enabled"),
            ("storage: {type: filesystem, filesystem: {path: /b}}\npitr: {enabled: true, compression: rar}", "rar"),
            ("storage: {type: filesystem, filesystem: {path: /b}}\nrestore: {batchSize: -1}", "negative"),
            ("storage: {type: filesystem, filesystem: {path: /b, backupBuffSize: 5}}", "32 KiB"),
            (
                "storage: {type: filesystem, filesystem: {path: /b}}\nbackup: {compression: gzip, compressionLevel: 10}",
                "level 10",
            ),
            ("storage: {type: s3, s3: {region: b}}", "storage.s3.bucket: must be given"),
            ("storage: {type: s3}", "storage.s3: must be given"),
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
    fn a_wrong_secret_is_not_repeated() {
        let error = load("storage: {type: s3, s3: {credentials: {secret-access-key: [hunter2]}}}").expect_err("a list");
        assert!(!error.to_string().contains("hunter2"), "{error}");
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
