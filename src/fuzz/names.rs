//! Texts that users write: namespaces, times, spans of time, rates and codecs.

use super::words;
use crate::{
    cmd::io::{times, units},
    config::duration,
    model::{
        compression::Compression,
        names::BUCKETS,
        rate::Rate,
        selection::{NotSelectable, Selection},
    },
    restore::plan::namespaces::Wish,
};
use std::fmt::Display;

/// The input has a text in each line. After an empty line, the lines are excluded namespaces.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let lines: Vec<&str> = text.split('\n').collect();
    for line in &lines {
        moment_holds(line);
        printed_the_same::<Rate>(line);
        printed_the_same::<Compression>(line);
        duration_holds(line);
    }
    let split = lines.iter().position(|line| line.is_empty()).unwrap_or(lines.len());
    let (wanted, excluded) = (&lines[..split], lines.get(split + 1..).unwrap_or_default());
    match Selection::new(wanted, excluded) {
        Ok(selection) => selection_holds(&selection, wanted, excluded),
        Err(NotSelectable::Nothing) => {}
        Err(error) => {
            let why = words(error);
            assert!(lines.iter().any(|line| why.contains(line.trim())), "{why}");
        }
    }
    if let [from, to, ..] = lines[..] {
        cloning_holds(from, to);
    }
}

fn moment_holds(text: &str) {
    match times::parse(text) {
        Ok(at) => {
            assert_eq!(times::parse(&format!("{},{}", at.time, at.increment)), Ok(at), "{text}");
            let whole = bson::Timestamp { increment: 0, ..at };
            assert_eq!(times::parse(&units::rfc3339(at.time.into())), Ok(whole), "{text}");
        }
        Err(why) => {
            words(why);
        }
    }
    match text.parse::<times::Moment>() {
        Ok(times::Moment::At(at)) => assert_eq!(times::parse(text), Ok(at)),
        Ok(ago @ times::Moment::Ago(seconds)) => {
            assert_eq!(format!("{seconds}s").parse::<times::Moment>().ok(), None, "seconds are for other options");
            let now = bson::Timestamp { time: u32::MAX, increment: 7 };
            assert_eq!(ago.from(now).time, u32::MAX - seconds);
        }
        Err(why) => {
            words(why);
        }
    }
}

fn printed_the_same<T: std::str::FromStr<Err: Display> + Display + PartialEq + std::fmt::Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => assert_eq!(value.to_string().parse::<T>().ok(), Some(value), "{text}"),
        Err(why) => {
            words(why);
        }
    }
}

fn duration_holds(text: &str) {
    match duration::parse(text) {
        Ok(value) => {
            let again = duration::parse(&format!("{}s", value.as_secs())).expect("whole seconds");
            assert_eq!(again.as_secs(), value.as_secs(), "{text}");
        }
        Err(why) => {
            words(why);
        }
    }
}

fn selection_holds(selection: &Selection, wanted: &[&str], excluded: &[&str]) {
    let (nss, narrowed) = selection.to_fields();
    assert_eq!(Selection::of(&nss, narrowed.as_ref()).as_ref(), Ok(selection));
    let original = Selection::parse(&nss).expect("words of the original");
    assert!(!selection.to_string().is_empty());
    for (db, coll) in candidates(wanted.iter().chain(excluded)) {
        let wants = selection.wants(&db, &coll);
        assert_eq!(wants, wants_by_rule(wanted, excluded, &db, &coll), "{db}.{coll} of {selection}");
        assert!(!wants || original.wants(&db, &coll), "the original would leave out {db}.{coll}");
        assert!(!wants || selection.touches(&db), "{db}.{coll} of {selection}");
        assert!(wants || !selection.wants_database(&db) || is_own(&db), "{db}.{coll} of {selection}");
        assert_eq!(selection.wants(&db, &format!("{BUCKETS}{coll}")), wants, "buckets of {db}.{coll}");
        if !db.contains('.') {
            assert_eq!(selection.wants_namespace(&format!("{db}.{coll}")), wants, "{db}.{coll}");
        }
    }
}

/// Returns names that may match the patterns, and some that don't.
fn candidates<'a>(patterns: impl Iterator<Item = &'a &'a str>) -> Vec<(String, String)> {
    let mut found = vec![("shop".to_owned(), "orders".to_owned()), ("admin".to_owned(), "x".to_owned())];
    for pattern in patterns.take(8) {
        let Some((db, coll)) = pattern.trim().split_once('.') else { continue };
        for filling in ["", "x", "a.b"] {
            let filled = |text: &str| text.replace('*', filling);
            found.push((filled(db), filled(coll)));
            found.push((filled(db), format!("{}x", filled(coll))));
        }
    }
    found.retain(|(db, coll)| !coll.starts_with(BUCKETS) && !db.is_empty());
    found
}

fn is_own(db: &str) -> bool {
    matches!(db, "admin" | "config" | "local")
}

/// Implements the rule of [`Selection`] in a second way.
fn wants_by_rule(wanted: &[&str], excluded: &[&str], db: &str, coll: &str) -> bool {
    let fits = |pattern: &&str| {
        let Some((of_db, of_coll)) = pattern.trim().split_once('.') else { return false };
        let is_system = coll.starts_with("system.") && of_coll != "*";
        !is_system && fits(of_db.as_bytes(), db.as_bytes()) && fits(of_coll.as_bytes(), coll.as_bytes())
    };
    let everything = wanted.is_empty() || wanted.iter().any(|pattern| pattern.trim() == "*.*");
    if everything && excluded.is_empty() {
        return true;
    }
    !is_own(db) && (everything || wanted.iter().any(fits)) && !excluded.iter().any(fits)
}

/// Whether the pattern matches the name. Row by row, it computes which beginnings of the pattern match.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let mut row: Vec<bool> = vec![false; name.len() + 1];
    row[0] = true;
    for letter in pattern {
        let mut next: Vec<bool> = Vec::with_capacity(row.len());
        for (at, fits) in row.iter().enumerate() {
            let with_one_less = at.checked_sub(1);
            next.push(match letter {
                b'*' => *fits || with_one_less.is_some_and(|before| next[before]),
                letter => with_one_less.is_some_and(|before| row[before] && name[before] == *letter),
            });
        }
        row = next;
    }
    row[name.len()]
}

fn cloning_holds(from: &str, to: &str) {
    match Wish::cloning(from, to) {
        Ok(wish) => {
            let mapping = wish.clone.expect("a mapping");
            let pairs = from.split(',').zip(to.split(','));
            for (from, to) in pairs {
                let (Some((from_db, from)), Some((to_db, to))) =
                    (from.trim().split_once('.'), to.trim().split_once('.'))
                else {
                    panic!("'{from}' and '{to}' are accepted");
                };
                assert_eq!(mapping.database(from_db), to_db);
                assert!(from == "*" || mapping.collection(from_db, from) == to, "{from} and {to}");
            }
        }
        Err(why) => {
            words(why);
        }
    }
}
