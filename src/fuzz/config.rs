//! Configurations: YAML files, stored documents, and changes of single keys.

use super::{two_parts, words};
use crate::{
    config::{self, edit, mask, reading, schema, validate},
    model::config::Config,
};
use bson::{Bson, Document};
use serde_norway::Value as Yaml;

/// The input is a YAML file, which changes may follow. Each line of these is `key=value`, or only `key` to remove the
/// key.
pub fn check(input: &[u8]) {
    let (yaml, changes) = two_parts(input).unwrap_or((input, b""));
    let (Ok(yaml), Ok(changes)) = (std::str::from_utf8(yaml), std::str::from_utf8(changes)) else { return };
    match config::load(yaml) {
        Ok(config) => {
            shown_and_loaded(&config);
            change(config, changes);
        }
        Err(error) => {
            words(error);
        }
    }
    if let Some(stored) = serde_norway::from_str(yaml).ok().and_then(document) {
        stored_document(&stored, changes);
    }
}

/// The configuration that is shown can be loaded over the stored one without a change.
fn shown_and_loaded(config: &Config) {
    validate(config).expect("it was loaded");
    assert_eq!(config.mistakes, []);
    let stored = bson::serialize_to_document(config).expect("it was loaded");
    assert_eq!(&reading::read(&stored), config, "the stored document is read as what was loaded");
    for key in schema::KEYS {
        let shown = edit::get(config, key.path).expect("a known key");
        assert!(!key.secret || matches!(shown.as_str(), "" | mask::HIDDEN), "{} is shown", key.path);
    }
    let shown = mask::shown(config).expect("it was loaded").to_string();
    match config::load_over(&shown, Some(&config.storage)) {
        Ok(again) => assert_eq!(&again, config, "{shown}"),
        Err(error) => panic!("{error}: {shown}"),
    }
}

fn change(mut config: Config, changes: &str) {
    let changes: Vec<(&str, Option<&str>)> = changes
        .lines()
        .map(|line| line.split_once('=').map_or((line, None), |(key, value)| (key, Some(value))))
        .collect();
    let before = config.clone();
    let stored = bson::serialize_to_document(&config).expect("it was read");
    match edit::change(&mut config, changes.iter().copied()) {
        Ok(done) => {
            assert_eq!(done.len(), changes.len());
            let update = edit::update(&stored, &done);
            let after = updated(stored, &update);
            let mut read = reading::read(&after);
            // Mistakes in parts that were not changed are not in `stored`.
            read.mistakes.clone_from(&config.mistakes);
            read.storage.unusable.clone_from(&config.storage.unusable);
            assert_eq!(without_empty_groups(&read), without_empty_groups(&config), "{changes:?}: {update:?}");
        }
        Err(error) => {
            words(error);
            assert_eq!(config, before, "all changes are made or none");
        }
    }
}

/// Returns the document without empty groups, which mean the same as missing groups.
fn without_empty_groups(config: &Config) -> Document {
    fn without(document: Document) -> Document {
        let fields = document.into_iter().map(|(name, value)| match value {
            Bson::Document(inner) => (name, Bson::Document(without(inner))),
            other => (name, other),
        });
        fields.filter(|(_, value)| !matches!(value, Bson::Document(inner) if inner.is_empty())).collect()
    }
    without(bson::serialize_to_document(config).expect("a configuration"))
}

/// Returns the document after the update, as a server does it. A server refuses two changes if one is inside the other.
fn updated(mut stored: Document, update: &edit::Update) -> Document {
    let paths: Vec<&String> = update.set.keys().chain(update.unset.keys()).collect();
    for path in &paths {
        let inside = |other: &&&String| other.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('.'));
        assert_eq!(paths.iter().find(inside), None, "'{path}' is changed, too");
        assert_eq!(paths.iter().filter(|other| *other == path).count(), 1, "'{path}' is changed twice");
    }
    for (path, value) in &update.set {
        put(&mut stored, path, Some(value));
    }
    for path in update.unset.keys() {
        put(&mut stored, path, None);
    }
    stored
}

fn put(document: &mut Document, path: &str, value: Option<&Bson>) {
    let Some((group, rest)) = path.split_once('.') else {
        match value {
            Some(value) => document.insert(path, value.clone()),
            None => document.remove(path),
        };
        return;
    };
    match (document.get_mut(group), value) {
        (Some(Bson::Document(inner)), _) => put(inner, rest, value),
        (None, Some(_)) => {
            let mut inner = Document::new();
            put(&mut inner, rest, value);
            document.insert(group, inner);
        }
        (None, None) => {}
        (Some(other), Some(_)) => panic!("a server can't set '{path}' in {other}"),
        (Some(_), None) => {}
    }
}

/// A document that another program wrote: the values that can't be used are reported, and the rest is a valid
/// configuration.
fn stored_document(stored: &Document, changes: &str) {
    let config = reading::read(stored);
    for mistake in &config.mistakes {
        words(mistake);
    }
    let usable = bson::serialize_to_document(&config).expect("a configuration");
    let again = reading::read(&usable);
    let (mut one, mut two) = (config.clone(), again);
    for it in [&mut one, &mut two] {
        it.mistakes.clear();
        it.storage.unusable = None;
        it.id = None;
    }
    assert_eq!(one, two, "what could be used can be used again");
    change(config, changes);
}

fn document(yaml: Yaml) -> Option<Document> {
    fn value(yaml: Yaml) -> Bson {
        match yaml {
            Yaml::Null => Bson::Null,
            Yaml::Bool(flag) => flag.into(),
            Yaml::Number(number) => match number.as_i64() {
                Some(whole) => i32::try_from(whole).map_or(Bson::Int64(whole), Bson::Int32),
                None => number.as_f64().map_or(Bson::Null, Bson::Double),
            },
            Yaml::String(text) => text.into(),
            Yaml::Sequence(items) => items.into_iter().map(value).collect(),
            Yaml::Mapping(map) => Bson::Document(fields(map)),
            Yaml::Tagged(tagged) => value(tagged.value),
        }
    }
    fn fields(map: serde_norway::Mapping) -> Document {
        map.into_iter().filter_map(|(name, it)| Some((name.as_str()?.to_owned(), value(it)))).collect()
    }
    match yaml {
        Yaml::Mapping(map) => Some(fields(map)),
        _ => None,
    }
}
