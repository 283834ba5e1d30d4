//! `packaging/examples/pbm-conf-reference.yml` has every key, with values that are taken and defaults that hold.

use pbmbox::config::{
    ignored_settings::IDLE,
    load,
    schema::{self, KEYS, Key, Kind, Limits},
};
use pbmbox::model::store::StoreKind;
use std::collections::{BTreeMap, BTreeSet};

const FILE: &str = include_str!("../packaging/examples/pbm-conf-reference.yml");

/// The file as it is when every line has lost its first `#`.
fn opened() -> impl Iterator<Item = &'static str> {
    FILE.lines().map(|line| line.strip_prefix('#').unwrap_or_else(|| panic!("it takes effect: {line}")))
}

/// A key as it stands in the file.
struct Entry {
    key: &'static Key,
    value: String,
    /// What is said before it.
    comment: String,
    /// Stays a comment: it excludes one beside it, or is refused.
    spare: bool,
}

fn entries() -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    let (mut group, mut comment) = (Vec::new(), String::new());
    for line in opened() {
        let depth = (line.len() - line.trim_start().len()) / 2;
        let text = line.trim_start();
        if text == "#" || text.is_empty() {
            comment.clear();
        } else if let Some(words) = text.strip_prefix("# ") {
            comment = format!("{comment} {words}");
        } else {
            group.truncate(depth);
            let spare = text.starts_with('#');
            let (name, value) = text.trim_start_matches('#').split_once(':').expect(line);
            let path = [group.join("."), name.to_owned()].join(".").trim_start_matches('.').to_owned();
            match schema::find(&path) {
                Some(key) => {
                    let (value, comment) = (value.trim().to_owned(), std::mem::take(&mut comment));
                    found.push(Entry { key, value, comment, spare });
                }
                // An entry of a map: the port is not split off here.
                None if schema::find(&group.join(".")).is_some() => {
                    found.last_mut().expect("a map").value.push_str(text);
                    continue;
                }
                None => assert!(!schema::children(&path).is_empty(), "there is no key {path}"),
            }
            group.push(name.to_owned());
        }
    }
    found
}

#[test]
fn every_key_is_there_once() {
    let mut count: BTreeMap<&str, usize> = KEYS.iter().map(|key| (key.path, 0)).collect();
    for entry in entries().iter().filter(|it| it.key.path != "storage.type") {
        *count.get_mut(entry.key.path).expect("known") += 1;
    }
    count.remove("storage.type");
    let wrong: Vec<_> = count.iter().filter(|(_, count)| **count != 1).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_storage_can_be_taken_as_it_stands() {
    let text: String = opened().map(|line| format!("{line}\n")).collect();
    let (storages, rest) = text.split_at(text.find("\npitr:").expect("a section") + 1);
    let mut kinds = BTreeSet::new();
    for storage in storages.split("\nstorage:").skip(1) {
        let yaml = format!("storage:{storage}\n{rest}");
        let config = load(&yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
        assert_eq!(config.restore.expect("a section").download_chunk_mb, 8);
        kinds.insert(config.storage.kind);
    }
    assert_eq!(kinds, StoreKind::ALL.map(|kind| kind.name().to_owned()).into());
}

#[test]
fn what_stays_a_comment_would_be_read_too() {
    let spare: Vec<_> = entries().into_iter().filter(|entry| entry.spare).collect();
    assert!(spare.len() > 5, "{}", spare.len());
    for Entry { key, value, .. } in spare {
        let value = key.kind.parse(&value).unwrap_or_else(|error| panic!("{}: {error}", key.path));
        assert_eq!(key.check(&value), Ok(()), "{}", key.path);
    }
}

#[test]
fn defaults_and_limits_are_told_as_they_are() {
    for Entry { key, value, comment, .. } in entries() {
        let says = |words: &str| assert!(comment.contains(words), "{}: '{words}' is not in{comment}", key.path);
        match key.default.map(|preset| (preset.value, preset.words)) {
            None => assert!(!comment.contains("Default:"), "{} has no default:{comment}", key.path),
            Some((None, words)) => says(&format!("Default: {words}.")),
            Some((Some(default), words)) => {
                says(&format!("Default: {default}"));
                assert!(IDLE.iter().any(|(idle, _)| *idle == key.path) || comment.contains(words), "{}", key.path);
                let map = matches!(key.kind, Kind::MapF64 | Kind::MapText);
                assert!(map || value == default, "{}: {value} in place of the default {default}", key.path);
            }
        }
        match key.limits {
            Limits::Any | Limits::Address => {}
            Limits::AtLeast(least) if least <= 0.0 => {}
            Limits::AtLeast(least) => says(&format!("At least {least}.")),
            Limits::Within(least, most) => says(&format!("{least} to {most}.")),
            Limits::ZeroOr(least, most) => says(&format!("0, or {least} to {most}.")),
            Limits::Mode { needed, allowed } => says(&format!("At least {needed:o}, and nothing beyond {allowed:o}.")),
            Limits::OneOf(choices) => says(&format!("One of {}.", choices.join(", "))),
        }
        let idle = IDLE.iter().find(|(idle, _)| *idle == key.path);
        match idle {
            Some((_, why)) => says(&format!("No effect: {why}.")),
            None => assert!(!comment.contains("No effect"), "{}", key.path),
        }
    }
}
