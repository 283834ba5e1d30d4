//! Which namespaces a selective backup or restore is about (spec/format.md A.3.7).

use std::fmt;

/// The prefix of the collections that hold the measurements of time series.
const BUCKETS: &str = "system.buckets.";

/// Namespaces by name: whole databases (`db.*`) and single collections, views or time series (`db.coll`).
///
/// Without any it is everything. The buckets of a time series go with it, and `system.js` with its whole database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Database and collection; `None` for all collections of the database.
    wanted: Vec<(String, Option<String>)>,
}

/// Why a text names no namespace that can be selected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSelectable {
    #[error("'{0}' is no namespace; use db.collection, or db.* for a whole database")]
    NoNamespace(String),
    #[error("'{0}': a collection needs the name of its database")]
    NoDatabase(String),
    #[error("'{0}': the server's own databases can't be selected")]
    OwnDatabase(String),
    #[error("'{0}': system collections can't be selected")]
    System(String),
}

impl Selection {
    /// From texts as the command line and the control collections have them. `*.*` and nothing at all mean everything.
    ///
    /// # Errors
    /// Something else, or a namespace that a selection can't have.
    pub fn parse<T: AsRef<str>>(namespaces: &[T]) -> Result<Self, NotSelectable> {
        let mut wanted = Vec::new();
        for text in namespaces.iter().map(|text| text.as_ref().trim()) {
            let bad = || text.to_owned();
            let Some((db, coll)) = text.split_once('.').filter(|(db, coll)| !db.is_empty() && !coll.is_empty()) else {
                return Err(NotSelectable::NoNamespace(bad()));
            };
            match (db, coll) {
                ("*", "*") => return Ok(Self::default()),
                ("*", _) => return Err(NotSelectable::NoDatabase(bad())),
                ("admin" | "config" | "local", _) => return Err(NotSelectable::OwnDatabase(bad())),
                (_, "*") => wanted.push((db.to_owned(), None)),
                _ if coll.starts_with("system.") => return Err(NotSelectable::System(bad())),
                _ => wanted.push((db.to_owned(), Some(coll.to_owned()))),
            }
        }
        wanted.sort();
        wanted.dedup();
        Ok(Self { wanted })
    }

    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.wanted.is_empty()
    }

    /// A collection, view or time series by its own name; buckets by that of their time series.
    #[must_use]
    pub fn wants(&self, db: &str, coll: &str) -> bool {
        let coll = coll.strip_prefix(BUCKETS).unwrap_or(coll);
        self.is_everything() || self.wanted.iter().any(|(d, c)| d == db && c.as_ref().is_none_or(|c| c == coll))
    }

    /// All collections of the database.
    #[must_use]
    pub fn wants_database(&self, db: &str) -> bool {
        self.is_everything() || self.wanted.iter().any(|(d, c)| d == db && c.is_none())
    }

    /// At least one collection of the database.
    #[must_use]
    pub fn touches(&self, db: &str) -> bool {
        self.is_everything() || self.wanted.iter().any(|(d, _)| d == db)
    }

    /// The databases of which everything is wanted, sorted; empty for everything at all.
    #[must_use]
    pub fn databases(&self) -> Vec<&str> {
        self.wanted.iter().filter(|(_, coll)| coll.is_none()).map(|(db, _)| db.as_str()).collect()
    }

    /// As the control collections have it; empty for everything.
    #[must_use]
    pub fn to_namespaces(&self) -> Vec<String> {
        self.wanted.iter().map(|(db, coll)| format!("{db}.{}", coll.as_deref().unwrap_or("*"))).collect()
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() { f.write_str("everything") } else { f.write_str(&self.to_namespaces().join(", ")) }
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
        assert_eq!(Selection::parse(&some.to_namespaces()), Ok(some));
    }

    #[test]
    fn what_cannot_be_selected_is_said() {
        for (text, word) in [
            ("", "no namespace"),
            ("shop", "no namespace"),
            ("shop.", "no namespace"),
            (".x", "no namespace"),
            ("*.x", "name of its database"),
            ("admin.x", "own databases"),
            ("config.*", "own databases"),
            ("local.oplog.rs", "own databases"),
            ("shop.system.js", "system collections"),
            ("shop.system.buckets.ts", "system collections"),
        ] {
            let error = Selection::parse(&[text]).expect_err(text).to_string();
            assert!(error.contains(word) && error.contains(text), "{error}");
        }
    }
}
