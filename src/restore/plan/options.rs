//! Adapts the collection options of a backup to the server on which the collections are created.

use super::version::Version;
use crate::archive::meta::NamespaceKind;
use bson::{Bson, Document};

/// Options that exist since a server version. An older server can't create a collection with them.
const SINCE: &[(&str, Version)] = &[
    ("timeseries", Version::new(5, 0, 0)),
    ("expireAfterSeconds", Version::new(5, 0, 0)),
    ("clusteredIndex", Version::new(5, 3, 0)),
    ("changeStreamPreAndPostImages", Version::new(6, 0, 0)),
    ("encryptedFields", Version::new(6, 0, 0)),
];

/// Options that a server version removed. They don't affect the data, so they are left out for that version.
const UNTIL: &[(&str, Version)] = &[("recordPreImages", Version::new(6, 0, 0))];

/// The options that remain, and remarks about the others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fitted {
    pub options: Document,
    /// Reasons why the server can't have this collection.
    pub problems: Vec<String>,
    pub notes: Vec<String>,
}

/// Leaves out options that `server` no longer knows, and lists options that it does not know yet. `server` is limited to its
/// feature compatibility version.
#[must_use]
pub fn fit(db: &str, kind: NamespaceKind, given: &Document, server: Version) -> Fitted {
    let mut fitted = Fitted { options: given.clone(), ..Fitted::default() };
    fitted.options.remove("uuid");
    if db != "local" {
        fitted.options.remove("autoIndexId");
    }
    for (name, since) in SINCE {
        if server < *since && fitted.options.contains_key(name) {
            fitted.problems.push(format!(
                "option '{name}' needs server {since} and its feature compatibility version, the target is at {server}"
            ));
        }
    }
    for (name, until) in UNTIL {
        if server >= *until && fitted.options.remove(name).is_some() {
            fitted.notes.push(format!("option '{name}' is left out: server {until} removed it"));
        }
    }
    match (kind, fitted.options.get("viewOn"), fitted.options.get("timeseries")) {
        (NamespaceKind::View, Some(Bson::String(_)), _)
        | (NamespaceKind::Timeseries, _, Some(Bson::Document(_)))
        | (NamespaceKind::Collection, None, None) => {}
        _ => fitted.problems.push(format!("its options do not describe a {}", kind.as_str())),
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    const SIX: Version = Version::new(6, 0, 5);

    #[test]
    fn harmless_leftovers_are_removed() {
        let given = doc! { "capped": true, "size": 4096, "autoIndexId": true, "recordPreImages": false };
        let fitted = fit("shop", NamespaceKind::Collection, &given, SIX);
        assert_eq!(fitted.options, doc! { "capped": true, "size": 4096 });
        assert_eq!((fitted.problems.len(), fitted.notes.len()), (0, 1));
        assert_eq!(
            fit("shop", NamespaceKind::Collection, &given, Version::new(5, 0, 4)).options,
            doc! { "capped": true, "size": 4096, "recordPreImages": false }
        );
    }

    #[test]
    fn a_server_that_is_too_old_is_named() {
        let given = doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true }, "expireAfterSeconds": 5_i64 };
        assert_eq!(fit("shop", NamespaceKind::Collection, &given, SIX).problems, Vec::<String>::new());
        let old = fit("shop", NamespaceKind::Collection, &given, Version::new(4, 4, 2));
        assert_eq!(old.problems.len(), 2, "{:?}", old.problems);
        assert!(old.problems[1].contains("clusteredIndex") && old.problems[1].contains("4.4.2"));
    }

    #[test]
    fn kind_and_options_agree() {
        let view = doc! { "viewOn": "orders", "pipeline": [] };
        assert!(fit("shop", NamespaceKind::View, &view, SIX).problems.is_empty());
        assert_eq!(fit("shop", NamespaceKind::Collection, &view, SIX).problems.len(), 1);
        assert_eq!(fit("shop", NamespaceKind::View, &doc! {}, SIX).problems.len(), 1);
        assert_eq!(fit("shop", NamespaceKind::Timeseries, &doc! {}, SIX).problems.len(), 1);
    }
}
