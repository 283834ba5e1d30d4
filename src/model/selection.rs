//! The namespaces of a selective backup or restore (docs/format.md A.3.7).

use super::serde_help::null_default;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A selection of namespaces by name: whole databases (`db.*`) and single collections, views or time series (`db.coll`), minus
/// excluded ones.
///
/// A `*` in a name stands for any number of characters. A selection without names means everything; only this selection has
/// the server's own databases. The buckets of a time series are selected with it. `system.js` is selected if all collections
/// of its database are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    wanted: Vec<Pattern>,
    excluded: Vec<Pattern>,
}

/// A database and a collection, each as a name or a pattern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern {
    db: String,
    coll: String,
}

/// *Added by us* beside `nss`: a selection that `nss` alone can't express. `nss` then contains more than the selection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Narrowed {
    #[serde(default, deserialize_with = "null_default")]
    pub include: Vec<String>,
    #[serde(default, deserialize_with = "null_default")]
    pub exclude: Vec<String>,
}

/// Why a text is not a namespace that can be selected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSelectable {
    #[error("'{0}' is no namespace; use db.collection, or db.* for a whole database")]
    NoNamespace(String),
    #[error("'{0}': the server's own databases can't be selected")]
    OwnDatabase(String),
    #[error("'{0}': system collections can't be selected")]
    System(String),
    #[error("'{0}' can't be a namespace: {1}")]
    Impossible(String, &'static str),
    #[error("everything can't be excluded")]
    Nothing,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, NotSelectable> {
        let text = text.trim();
        match text.split_once('.') {
            Some((db, coll)) if !db.is_empty() && !coll.is_empty() && !text.contains('\0') => {
                if is_own(db) {
                    Err(NotSelectable::OwnDatabase(text.to_owned()))
                } else if coll.starts_with("system.") {
                    Err(NotSelectable::System(text.to_owned()))
                } else if let Some(why) = impossible(db, coll) {
                    Err(NotSelectable::Impossible(text.to_owned(), why))
                } else {
                    Ok(Self { db: db.to_owned(), coll: coll.to_owned() })
                }
            }
            _ => Err(NotSelectable::NoNamespace(text.to_owned())),
        }
    }

    fn has_database(&self, db: &str) -> bool {
        !is_own(db) && matches(&self.db, db)
    }

    fn has(&self, db: &str, coll: &str) -> bool {
        // A pattern does not select the server's own collections, even if it matches their names.
        let may = self.coll == "*" || !coll.starts_with("system.");
        may && self.has_database(db) && matches(&self.coll, coll)
    }

    fn is_plain(&self) -> bool {
        !self.db.contains('*') && (self.coll == "*" || !self.coll.contains('*'))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.db, self.coll)
    }
}

fn is_own(db: &str) -> bool {
    matches!(db, "admin" | "config" | "local")
}

/// Every `*` of the pattern stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

impl Selection {
    /// Parses namespaces in the form of the command line and the control collections. `*.*` and an empty list mean everything.
    ///
    /// # Errors
    /// A text is not a namespace, or a selection can't contain it.
    pub fn parse<T: AsRef<str>>(namespaces: &[T]) -> Result<Self, NotSelectable> {
        Self::new(namespaces, &[])
    }

    /// Returns the selection of `wanted` without `excluded`. An empty `wanted` means everything. With an exclusion it means all
    /// databases except the server's own.
    ///
    /// # Errors
    /// Those of [`Self::parse`].
    pub fn new<T: AsRef<str>>(wanted: &[T], excluded: &[T]) -> Result<Self, NotSelectable> {
        let patterns = |texts: &[T]| -> Result<Vec<Pattern>, NotSelectable> {
            let mut found = texts.iter().map(|text| Pattern::parse(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
            found.sort();
            found.dedup();
            Ok(found)
        };
        let (mut wanted, excluded) = (patterns(wanted)?, patterns(excluded)?);
        if excluded.iter().any(|pattern| pattern.db == "*" && pattern.coll == "*") {
            return Err(NotSelectable::Nothing);
        }
        let all = Pattern { db: "*".to_owned(), coll: "*".to_owned() };
        match (wanted.is_empty() || wanted.contains(&all), excluded.is_empty()) {
            (true, true) => wanted.clear(),
            (true, false) => wanted = vec![all],
            (false, _) => {}
        }
        Ok(Self { wanted, excluded })
    }

    /// Reads the selection from the fields of a document in the control collections.
    ///
    /// # Errors
    /// Those of [`Self::parse`].
    pub fn of(nss: &[String], narrowed: Option<&Narrowed>) -> Result<Self, NotSelectable> {
        match narrowed {
            Some(narrowed) => Self::new(&narrowed.include, &narrowed.exclude),
            None => Self::parse(nss),
        }
    }

    /// Returns the fields for documents of the control collections: the original's, and the one that we add if it is needed.
    #[must_use]
    pub fn to_fields(&self) -> (Vec<String>, Option<Narrowed>) {
        if self.excluded.is_empty() && self.wanted.iter().all(Pattern::is_plain) {
            return (self.to_namespaces(), None);
        }
        let mut nss: Vec<String> = self
            .wanted
            .iter()
            .map(|pattern| match pattern {
                plain if plain.is_plain() => plain.to_string(),
                Pattern { db, .. } if db.contains('*') => "*.*".to_owned(),
                Pattern { db, .. } => format!("{db}.*"),
            })
            .collect();
        nss.sort();
        nss.dedup();
        let exclude = self.excluded.iter().map(ToString::to_string).collect();
        (nss, Some(Narrowed { include: self.to_namespaces(), exclude }))
    }

    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Whether a collection, view or time series is selected. Buckets are selected by the name of their time series.
    #[must_use]
    pub fn wants(&self, db: &str, coll: &str) -> bool {
        let coll = super::names::series_name(coll);
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.has(db, coll));
        self.is_everything() || any(&self.wanted) && !any(&self.excluded)
    }

    /// Does the same as [`Self::wants`], for `db.coll`.
    #[must_use]
    pub fn wants_namespace(&self, ns: &str) -> bool {
        ns.split_once('.').is_some_and(|(db, coll)| self.wants(db, coll))
    }

    /// Whether all collections of the database are selected.
    #[must_use]
    pub fn wants_database(&self, db: &str) -> bool {
        self.is_everything()
            || self.wanted.iter().any(|pattern| pattern.coll == "*" && pattern.has_database(db))
                && !self.excluded.iter().any(|pattern| pattern.has_database(db))
    }

    /// Whether collections of the database can be selected.
    #[must_use]
    pub fn touches(&self, db: &str) -> bool {
        self.is_everything()
            || self.wanted.iter().any(|pattern| pattern.has_database(db))
                && !self.excluded.iter().any(|pattern| pattern.coll == "*" && pattern.has_database(db))
    }

    /// Returns the databases that are selected as a whole and by name, sorted. The result is empty if everything is selected.
    #[must_use]
    pub fn databases(&self) -> Vec<&str> {
        let whole = self.wanted.iter().filter(|pattern| pattern.coll == "*" && pattern.is_plain());
        whole.map(|pattern| pattern.db.as_str()).filter(|db| self.wants_database(db)).collect()
    }

    /// Returns the selected namespaces in the form of the command line, but not the excluded ones. The result is empty if
    /// everything is selected.
    #[must_use]
    pub fn to_namespaces(&self) -> Vec<String> {
        self.wanted.iter().map(ToString::to_string).collect()
    }
}

/// Returns why a server can't have such a database or collection.
fn impossible(db: &str, coll: &str) -> Option<&'static str> {
    if db.contains(['/', '\\', ' ', '"', '$']) || db.contains(char::is_control) || coll.contains('\0') {
        return Some("the name of a database has no such character");
    }
    if db.len() > 63 {
        return Some("the name of a database has at most 63 bytes");
    }
    if coll.starts_with(['$', '.']) {
        return Some("the name of a collection does not begin so");
    }
    (db.len() + 1 + coll.len() > 255).then_some("it is longer than 255 bytes")
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("everything");
        }
        f.write_str(&self.to_namespaces().join(", "))?;
        if self.excluded.is_empty() {
            return Ok(());
        }
        let excluded: Vec<String> = self.excluded.iter().map(ToString::to_string).collect();
        write!(f, " without {}", excluded.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_whole_databases_are_selected() {
        let all = Selection::parse::<&str>(&[]).expect("everything");
        assert_eq!(all, Selection::parse(&["a.b", "*.*"]).expect("everything"));
        let some = Selection::parse(&["shop.*", " crm.a.b", "crm.a.b"]).expect("a selection");
        for (db, coll, selected) in [
            ("shop", "orders", true),
            ("shop", "system.buckets.ts", true),
            ("shop", "system.js", true),
            ("crm", "a.b", true),
            ("crm", "system.buckets.a.b", true),
            ("crm", "a", false),
            ("crm", "system.js", false),
            ("shopping", "orders", false),
        ] {
            assert_eq!((all.wants(db, coll), some.wants(db, coll)), (true, selected), "{db}.{coll}");
        }
        assert_eq!((some.wants_database("shop"), some.wants_database("crm")), (true, false));
        assert_eq!((some.touches("crm"), some.touches("shopping")), (true, false));
        assert_eq!((some.databases(), all.databases()), (vec!["shop"], vec![]));
        assert_eq!((some.to_string(), all.to_string()), ("crm.a.b, shop.*".into(), "everything".into()));
        assert_eq!(Selection::of(&some.to_fields().0, None), Ok(some));
    }

    #[test]
    fn patterns_and_exclusions() {
        for (pattern, name, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "a", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "abcd", false),
            ("*b*", "abc", true),
            ("a*b*b", "ab", false),
            ("a*ba", "aba", true),
            ("*", "", true),
            ("aa*aa", "aaa", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
        let some = Selection::new(&["shop.*", "log*.a*", "crm.x"], &["shop.tmp*", "logs.abc"]).expect("a selection");
        for (db, coll, selected) in [
            ("shop", "orders", true),
            ("shop", "system.js", true),
            ("shop", "tmp1", false),
            ("shop", "system.buckets.tmp1", false),
            ("logs", "a", true),
            ("logs", "abc", false),
            ("log", "abc", true),
            ("log", "b", false),
            ("crm", "x", true),
            ("config", "x", false),
        ] {
            assert_eq!(some.wants(db, coll), selected, "{db}.{coll}");
        }
        assert!(!some.wants_database("shop") && some.touches("shop") && some.databases().is_empty());
        let (nss, narrowed) = some.to_fields();
        assert_eq!(nss, ["*.*", "crm.x", "shop.*"]);
        assert_eq!(Selection::of(&nss, narrowed.as_ref()), Ok(some));

        let most = Selection::new(&[], &["logs.*"]).expect("a selection");
        assert!(!most.is_everything() && most.wants("shop", "a") && most.wants_database("shop"));
        for (db, coll) in [("logs", "a"), ("admin", "a"), ("config", "settings"), ("local", "x")] {
            assert!(!most.wants(db, coll) && !most.touches(db), "{db}.{coll}");
        }
        assert_eq!(most.to_fields().0, ["*.*"]);
        assert_eq!(most.to_string(), "*.* without logs.*");
        assert_eq!(Selection::new(&["s*.x"], &["*.*"]), Err(NotSelectable::Nothing));
    }

    #[test]
    fn what_cannot_be_selected_is_said() {
        for (text, word) in [
            ("", "no namespace"),
            ("shop", "no namespace"),
            ("shop.", "no namespace"),
            (".x", "no namespace"),
            ("*", "no namespace"),
            ("admin.x", "own databases"),
            ("config.*", "own databases"),
            ("local.oplog.rs", "own databases"),
            ("shop.system.js", "system collections"),
            ("shop.system.buckets.ts", "system collections"),
            ("sh op.x", "no such character"),
            ("shop.$cmd", "does not begin so"),
            ("shop..x", "does not begin so"),
            (&format!("{}.x", "d".repeat(64)), "63 bytes"),
            (&format!("shop.{}", "c".repeat(251)), "255 bytes"),
        ] {
            let error = Selection::parse(&[text]).expect_err(text).to_string();
            assert!(error.contains(word) && error.contains(text), "{error}");
        }
    }
}
