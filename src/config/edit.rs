//! Reads single keys, and converts `key=value` to an update of the configuration document.

use super::{
    ConfigError, mask,
    paths::{lookup, put, remove},
    reading,
    schema::{self, Kind},
    to_document,
};
use crate::model::config::Config;
use bson::{Bson, Document};

/// One change of the main configuration document.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key as the user wrote it, and the value in the form that is shown.
    pub key: String,
    pub value: String,
    /// Dotted path of the field. For an entry of a map it is the path of the map, because the names of entries contain
    /// dots.
    pub path: String,
    /// The new value, or `None` to remove the setting.
    pub set: Option<Bson>,
}

/// The update of the stored document.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Update {
    pub set: Document,
    pub unset: Document,
}

/// Changes several keys, one after the other, and checks the result as a whole: either all changes are made or none. A
/// key without a value is removed. A number or a codec with an empty value is removed, too.
///
/// Each change builds on the previous changes. If one is refused, `config` does not change. Mistakes that are already
/// in the stored document prevent no change, so that users can correct them key by key.
///
/// # Errors
/// A key is unknown, a value is not possible for its key, or the settings contradict each other.
pub fn change<'a>(
    config: &mut Config,
    pairs: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<Vec<Change>, ConfigError> {
    let mut doc = to_document(config).map_err(|error| ConfigError::Document(error.to_string()))?;
    let mut changes = Vec::new();
    for (key, text) in pairs {
        changes.push(match text {
            Some(text) if !takes_back(key, text) => one(&mut doc, key, text)?,
            _ => take_back(&mut doc, &config.mistakes, key)?,
        });
    }
    let mut changed = super::from_document(doc)?;
    mask::unmask(&mut changed.storage, Some(&config.storage))?;
    let before = super::validate(config);
    match super::validate(&changed) {
        Err(error) if before.as_ref() != Err(&error) => return Err(error),
        _ => {}
    }
    // A value that was given as hidden is replaced by the stored value.
    let real = to_document(&changed).map_err(|error| ConfigError::Document(error.to_string()))?;
    let hidden = |change: &&mut Change| change.set.as_ref().and_then(Bson::as_str) == Some(mask::HIDDEN);
    for change in changes.iter_mut().filter(hidden) {
        change.set = lookup(&real, &change.path).cloned();
    }
    let within = |path: &str, group: &str| path == group || is_inside(path, group);
    changed.mistakes = config.mistakes.clone();
    changed.mistakes.retain(|mistake| !changes.iter().any(|change| within(&mistake.key, &change.path)));
    reading::settle(&mut changed);
    *config = changed;
    Ok(changes)
}

/// Converts the changes to an update of `stored`. If a field should be a group but is none in `stored`, it is replaced
/// as a whole. A group that is changed together with one of its keys is also replaced as a whole, because a server
/// refuses to change both.
#[must_use]
pub fn update(stored: &Document, changes: &[Change]) -> Update {
    let mut after = stored.clone();
    for change in changes {
        match &change.set {
            Some(value) => put(&mut after, &change.path, value.clone()),
            None => remove(&mut after, &change.path),
        }
    }
    let mut update = Update::default();
    let paths: Vec<&str> = changes.iter().map(|change| writable(stored, &change.path)).collect();
    let is_in_another = |path: &&str| paths.iter().any(|other| is_inside(path, other));
    for path in paths.iter().copied().filter(|path| !is_in_another(path)) {
        match lookup(&after, path) {
            Some(value) => update.set.insert(path, value.clone()),
            None => update.unset.insert(path, ""),
        };
    }
    update
}

fn is_inside(path: &str, group: &str) -> bool {
    path.strip_prefix(group).is_some_and(|rest| rest.starts_with('.'))
}

/// Returns the path. If a part of it should be a group but is none in `stored`, returns that part, which has to be
/// replaced.
fn writable<'a>(stored: &Document, path: &'a str) -> &'a str {
    let groups = path.match_indices('.').map(|(dot, _)| &path[..dot]);
    let mut broken = groups.filter(|group| lookup(stored, group).is_some_and(|value| value.as_document().is_none()));
    broken.next().unwrap_or(path)
}

/// Whether an empty value removes the setting. It does not for a text, where it is a valid value, and not for a switch,
/// where it is most likely an error in a script.
fn takes_back(key: &str, text: &str) -> bool {
    let kind = schema::find(key).map(|found| found.kind);
    text.is_empty() && kind.is_some_and(|kind| !matches!(kind, Kind::Text | Kind::Bool))
}

fn one(doc: &mut Document, key: &str, text: &str) -> Result<Change, ConfigError> {
    let (found, entry) = match (schema::find(key), schema::find_entry(key)) {
        (Some(found), _) => (found, None),
        (None, Some((found, entry))) => (found, Some(entry)),
        (None, None) => return Err(super::unknown(key)),
    };
    let value = if found.secret { mask::HIDDEN } else { text };
    let bad = |reason: String| ConfigError::Value { key: key.to_owned(), value: value.to_owned(), reason };
    let set = match entry {
        None => found.kind.parse(text).map_err(bad)?,
        Some(entry) => {
            let mut map = map_of(doc, found.path);
            map.insert(entry, found.kind.parse_entry(text).map_err(bad)?);
            Bson::Document(map)
        }
    };
    found.check(&set).map_err(bad)?;
    put(doc, found.path, set.clone());
    Ok(Change { key: key.to_owned(), value: value.to_owned(), path: found.path.to_owned(), set: Some(set) })
}

/// Removes a key. Unknown keys can be removed, too, if they are stored.
fn take_back(doc: &mut Document, mistakes: &[crate::model::config::Mistake], key: &str) -> Result<Change, ConfigError> {
    let change = |path: &str, set| Change { key: key.to_owned(), value: String::new(), path: path.to_owned(), set };
    if let Some((found, entry)) = schema::find_entry(key) {
        let mut map = map_of(doc, found.path);
        map.remove(entry);
        put(doc, found.path, map.clone().into());
        return Ok(change(found.path, Some(map.into())));
    }
    let known = schema::find(key).is_some() || !(key.is_empty() || schema::children(key).is_empty());
    if !known && !mistakes.iter().any(|mistake| mistake.key == key) {
        return Err(super::unknown(key));
    }
    remove(doc, key);
    Ok(change(key, None))
}

fn map_of(doc: &Document, path: &str) -> Document {
    match lookup(doc, path) {
        Some(Bson::Document(map)) => map.clone(),
        _ => Document::new(),
    }
}

/// Returns the value of a key as text, or an empty text if it is not set. Secrets are hidden.
pub fn get(config: &Config, key: &str) -> Result<String, ConfigError> {
    let doc = to_document(config).map_err(|error| ConfigError::Document(error.to_string()))?;
    let value = if let Some((found, entry)) = schema::find_entry(key) {
        lookup(&doc, found.path).and_then(Bson::as_document).and_then(|map| map.get(entry))
    } else if schema::find(key).is_some() || !(key.is_empty() || schema::children(key).is_empty()) {
        lookup(&doc, key)
    } else {
        return Err(super::unknown(key));
    };
    Ok(match value {
        None => String::new(),
        Some(Bson::Document(inner)) => mask::masked(inner, key).to_string(),
        Some(other) => mask::text(&mask::one(other, key)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn config() -> Config {
        super::super::load("storage: {type: filesystem, filesystem: {path: /backups}}\npitr: {enabled: false}\n")
            .expect("a good file")
    }

    fn set<'a>(
        config: &mut Config,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Vec<Change>, ConfigError> {
        change(config, pairs.into_iter().map(|(key, text)| (key, Some(text))))
    }

    fn set_one(config: &mut Config, key: &str, text: &str) -> Result<Change, ConfigError> {
        set(config, [(key, text)]).map(|mut changes| changes.remove(0))
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
            let change = set_one(&mut config(), key, text).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!((change.path.as_str(), change.set), (path, Some(value)), "{key}");
        }
    }

    #[test]
    fn changes_build_on_each_other() {
        let mut config = config();
        set_one(&mut config, "backup.priority.a:1", "1").expect("first");
        let second = set_one(&mut config, "backup.priority.b:1", "2").expect("second");
        assert_eq!(second.set, Some(doc! {"a:1": 1.0, "b:1": 2.0}.into()));
        assert_eq!(get(&config, "backup.priority.b:1").as_deref(), Ok("2"));
        assert_eq!(get(&config, "backup.priority").as_deref(), Ok(r#"{"a:1":1,"b:1":2}"#));
    }

    #[test]
    fn keys_that_need_each_other_come_together() {
        let s3 = [("storage.type", "s3"), ("storage.s3.bucket", "b")];
        assert_eq!(set(&mut config(), s3).expect("both").len(), 2);
        let mut config = config();
        assert!(set(&mut config, s3[..1].iter().copied()).expect_err("half").to_string().contains("storage.s3"));
        assert!(set(&mut config, [("backup.compression", "zstd"), ("no.such", "1")]).is_err());
        assert_eq!(get(&config, "backup.compression").as_deref(), Ok(""), "all or none");
    }

    #[test]
    fn every_key_can_be_set_and_secrets_stay_hidden() {
        for key in schema::KEYS {
            let mut config = config();
            let text = schema::tests::sample(key);
            let change = set_one(&mut config, key.path, text).unwrap_or_else(|error| panic!("{}: {error}", key.path));
            let shown = format!("{} {}", change.value, mask::shown(&config).expect("shown"));
            let read = get(&config, key.path).expect(key.path);
            assert!(!read.is_empty(), "{} was not kept", key.path);
            assert_eq!(key.secret, read == "***", "{}", key.path);
            assert!(!key.secret || !shown.contains("hunter2"), "{}: {shown}", key.path);
        }
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
            ("backup.priority.host", "1", "HOST:PORT"),
            ("backup.priority.a:1", "-1", "negative"),
            ("backup.priority.a:1", "NaN", "number"),
            ("restore.batchSize", "99999999999", "32 bits"),
            ("restore.batchSize", "-1", "from 0"),
        ] {
            let error = set_one(&mut config(), key, text).expect_err(key).to_string();
            assert!(error.contains(part), "{key}: {error}");
        }
    }

    #[test]
    fn secrets_are_never_read_back() {
        let mut config = config();
        let change = set_one(&mut config, "storage.s3.credentials.secret-access-key", "hunter2").expect("set");
        assert_eq!(change.value, "***");
        assert_eq!(change.set, Some("hunter2".into()));
        assert_eq!(get(&config, "storage.s3.credentials.secret-access-key").as_deref(), Ok("***"));
        assert!(!get(&config, "storage").expect("a group").contains("hunter2"));
        assert!(!mask::shown(&config).expect("shown").to_string().contains("hunter2"));
    }

    #[test]
    fn a_group_and_a_key_in_it_are_changed_together() {
        let stored = doc! { "backup": { "compression": "gzip", "newer": 1 } };
        let key = Change {
            key: "backup.compressionLevel".into(),
            value: "3".into(),
            path: "backup.compressionLevel".into(),
            set: Some(Bson::Int32(3)),
        };
        let group = Change { key: "backup".into(), value: String::new(), path: "backup".into(), set: None };
        let first = update(&stored, &[key.clone(), group.clone()]);
        assert_eq!(first, Update { set: doc! {}, unset: doc! { "backup": "" } });
        let last = update(&stored, &[group, key]);
        assert_eq!(last, Update { set: doc! { "backup": { "compressionLevel": 3 } }, unset: doc! {} });
    }

    #[test]
    fn reading_a_key() {
        assert_eq!(get(&config(), "storage.type").as_deref(), Ok("filesystem"));
        assert_eq!(get(&config(), "backup.compressionLevel").as_deref(), Ok(""));
        assert!(matches!(get(&config(), "no.such.key"), Err(ConfigError::UnknownKey { .. })));
    }

    #[test]
    fn every_key_can_be_taken_back() {
        for key in schema::KEYS.iter().filter(|key| !matches!(key.path, "storage.type" | "storage.filesystem.path")) {
            let mut config = config();
            set_one(&mut config, key.path, schema::tests::sample(key)).unwrap_or_else(|e| panic!("{}: {e}", key.path));
            let stored = to_document(&config).expect("a document");
            let changes = change(&mut config, [(key.path, None)]).unwrap_or_else(|e| panic!("{}: {e}", key.path));
            assert_eq!(update(&stored, &changes).unset, doc! { key.path: "" });
            if !matches!(key.kind, Kind::Text | Kind::Bool) {
                let emptied = set_one(&mut config, key.path, "").expect(key.path);
                assert_eq!(emptied.set, None, "{}", key.path);
            }
        }
        let mut config = config();
        set(&mut config, [("backup.priority.a:1", "1"), ("backup.priority.b:1", "2")]).expect("set");
        let changes = change(&mut config, [("backup.priority.a:1", None)]).expect("taken back");
        assert_eq!(changes[0].set, Some(doc! { "b:1": 2.0 }.into()));
        assert!(change(&mut config, [("storage.type", None)]).is_err(), "nothing works without it");
        assert!(change(&mut config, [("no.such.key", None)]).is_err());
    }

    #[test]
    fn what_is_wrong_can_be_corrected_key_by_key() {
        let stored = doc! {
            "storage": { "type": "filesystem", "filesystem": { "path": 5, "newer": 1 } },
            "backup": { "compression": "zip" }, "pitr": Bson::Null, "restore": "text",
        };
        let read = || reading::read(&stored);
        let apply = |pairs: &[(&str, Option<&str>)]| {
            let mut config = read();
            let changes = change(&mut config, pairs.iter().copied())?;
            Ok::<_, ConfigError>((config, update(&stored, &changes)))
        };
        let (config, update) = apply(&[("backup.compression", Some("zstd"))]).expect("the storage is no matter");
        assert_eq!(update.set, doc! { "backup.compression": "zstd" });
        assert!(config.storage.unusable.is_some() && !config.mistakes.iter().any(|it| it.key == "backup.compression"));
        let (config, _) = apply(&[("storage.filesystem.path", Some("/b"))]).expect("corrected");
        assert_eq!(config.storage.unusable, None);
        assert!(apply(&[("storage.filesystem.path", Some("b"))]).is_err());
        let (_, update) =
            apply(&[("pitr.enabled", Some("true")), ("restore.batchSize", Some("5"))]).expect("new groups");
        assert_eq!(update.set, doc! { "pitr": { "enabled": true }, "restore": { "batchSize": 5 } });
        let (_, update) = apply(&[("storage.filesystem.newer", None)]).expect("a key that nobody knows");
        assert_eq!(update.unset, doc! { "storage.filesystem.newer": "" });
    }

    #[test]
    fn a_hidden_secret_is_kept_or_refused() {
        const KEY: &str = "storage.s3.credentials.secret-access-key";
        let mut config = config();
        assert!(set_one(&mut config, KEY, "***").expect_err("none is stored").to_string().contains("none is stored"));
        set_one(&mut config, KEY, "hunter2").expect("set");
        assert_eq!(set_one(&mut config, KEY, "***").expect("kept").set, Some("hunter2".into()));
        let both = [("storage.s3.endpointUrl", "https://elsewhere"), (KEY, "***")];
        assert!(set(&mut config, both).expect_err("another store").to_string().contains("another store"));
    }
}
