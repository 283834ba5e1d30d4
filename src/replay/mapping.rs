//! Gives new names and UUIDs to the collections of a clone, in the namespaces of a backup and in its oplog.
//!
//! All later steps see only the new names, so for them a clone is a restore whose selection consists of the new names.
//!
//! # Names
//!
//! The mapping is one to one, so that no other collection can be mistaken for a clone: if a clone gets a name that
//! another collection of the backup has, that other collection gets the name that became free. This holds for databases
//! and, within each source database, for collections. All collections of a source database go to the same other
//! database, because a later rename can give any of them a cloned name, and then it has to be in that database.
//!
//! # UUIDs
//!
//! Each UUID is replaced by a new one, because the source collection may still exist. The new UUIDs are random, but
//! within one mapping an old UUID always gets the same new one.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context, Result};
use bson::{RawDocument, RawDocumentBuf, Uuid};

use crate::model::names::BUCKETS;
use crate::raw::{Field, Malformed, New, find, rewrite};

/// The namespace of a collection that is cloned, or of its clone. `None` stands for all collections of the database.
pub type Place = (String, Option<String>);

/// Maps old names and UUIDs to new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    databases: Names,
    /// The new collection names, for each source database.
    collections: BTreeMap<String, Names>,
    salt: [u8; 16],
}

/// Old names and their new names. A name that is not listed stays as it is.
type Names = BTreeMap<String, String>;

impl Mapping {
    /// Builds the mapping that renames the first namespace of each pair to the second one.
    ///
    /// # Errors
    /// Two of the pairs contradict each other.
    pub fn new(pairs: &[(Place, Place)]) -> Result<Self, String> {
        let (mut databases, mut collections) = (Names::new(), BTreeMap::<String, Names>::new());
        let mut whole = BTreeSet::new();
        for ((from_db, from), (to_db, to)) in pairs {
            match databases.insert(from_db.clone(), to_db.clone()) {
                Some(other) if other != *to_db => {
                    return Err(format!(
                        "'{from_db}' can't be cloned to both '{other}' and '{to_db}'; make two restores"
                    ));
                }
                _ => {}
            }
            let names = collections.entry(from_db.clone()).or_default();
            match (from, to) {
                (Some(from), Some(to)) => {
                    if names.values().any(|other| other == to) || names.insert(from.clone(), to.clone()).is_some() {
                        return Err(format!("'{from_db}.{from}' or '{to_db}.{to}' stands twice"));
                    }
                }
                (None, None) => {
                    whole.insert(from_db);
                }
                _ => return Err("a whole database (db.*) can only be cloned to a whole database".to_owned()),
            }
        }
        if let Some(db) = whole.into_iter().find(|db| collections.get(*db).is_some_and(|names| !names.is_empty())) {
            return Err(format!("'{db}.*' has the other collections of '{db}' in it"));
        }
        close_chains(&mut databases)?;
        collections.values_mut().try_for_each(close_chains)?;
        Ok(Self { databases, collections, salt: Uuid::new().bytes() })
    }

    fn touches(&self, db: &str) -> bool {
        self.databases.contains_key(db)
    }

    /// The new name of a database.
    #[must_use]
    pub fn database<'a>(&'a self, db: &'a str) -> &'a str {
        self.databases.get(db).map_or(db, String::as_str)
    }

    /// The new name of a collection of `db`; buckets follow their time series.
    #[must_use]
    pub fn collection(&self, db: &str, coll: &str) -> String {
        let Some(names) = self.collections.get(db) else { return coll.to_owned() };
        let (prefix, name) = coll.strip_prefix(BUCKETS).map_or(("", coll), |name| (BUCKETS, name));
        format!("{prefix}{}", names.get(name).map_or(name, String::as_str))
    }

    fn namespace(&self, ns: &str) -> String {
        match ns.split_once('.') {
            Some((db, "$cmd")) => format!("{}.$cmd", self.database(db)),
            Some((db, coll)) => format!("{}.{}", self.database(db), self.collection(db, coll)),
            None => ns.to_owned(),
        }
    }

    #[must_use]
    pub fn uuid(&self, uuid: Uuid) -> Uuid {
        let half = |which: u8| {
            let mut hasher = DefaultHasher::new();
            (self.salt, uuid.bytes(), which).hash(&mut hasher);
            hasher.finish().to_be_bytes()
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&half(0));
        bytes[8..].copy_from_slice(&half(1));
        // RFC 4122, version 4: the server accepts no other version.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Uuid::from_bytes(bytes)
    }

    /// Renames the collections in an oplog entry.
    ///
    /// # Errors
    /// The entry can't be read.
    pub fn entry(&self, raw: RawDocumentBuf) -> Result<RawDocumentBuf> {
        let ns = find(&raw, "ns").and_then(|ns| ns.text());
        let db = ns.and_then(|ns| ns.split_once('.')).map_or("", |(db, _)| db);
        // An entry on `admin` can be a transaction, whose operations can concern any database.
        if db != "admin" && !self.touches(db) {
            return Ok(raw);
        }
        self.rewrite(&raw).context("rename in an oplog entry")
    }

    fn rewrite(&self, entry: &RawDocument) -> Result<RawDocumentBuf, Malformed> {
        let text = |name: &str| find(entry, name).and_then(|field| field.text()).unwrap_or_default();
        let (ns, kind) = (text("ns"), text("op"));
        let (db, coll) = ns.split_once('.').unwrap_or((ns, ""));
        rewrite(entry, |field| {
            Ok(match (field.name, field.document()) {
                // A name that is not valid UTF-8 is of no clone.
                (b"ns", _) => field.text().map_or(New::Same, |ns| New::Text(self.namespace(ns))),
                (b"ui", _) if self.touches(db) => self.new_uuid(field),
                (b"o", Some(command)) if kind == "c" => New::Nested(self.command(db, command)?),
                (b"o" | b"o2", Some(view)) if coll == "system.views" => New::Nested(self.view(db, view)?),
                _ => New::Same,
            })
        })
    }

    fn command(&self, db: &str, command: &RawDocument) -> Result<RawDocumentBuf, Malformed> {
        let rename = find(command, "renameCollection").is_some();
        let mut first = true;
        rewrite(command, |field| {
            let first = std::mem::take(&mut first);
            Ok(match (field.name, field.nested(), field.text()) {
                (b"applyOps", Some(ops), _) => New::Nested(rewrite(ops, |op| match op.document() {
                    Some(op) => self.rewrite(op).map(New::Nested),
                    None => Ok(New::Same),
                })?),
                (b"renameCollection" | b"to", _, Some(ns)) if rename => New::Text(self.namespace(ns)),
                (b"dropTarget", ..) if rename => self.new_uuid(field),
                // The first field is the name of the command. Its value is the collection's name, or is not a string.
                (_, _, Some(coll)) if first => New::Text(self.collection(db, coll)),
                _ => New::Same,
            })
        })
    }

    /// Renames the names in a document of `system.views`, or in a change of one.
    fn view(&self, db: &str, view: &RawDocument) -> Result<RawDocumentBuf, Malformed> {
        rewrite(view, |field| {
            Ok(match (field.name, field.text()) {
                (b"_id", Some(ns)) => New::Text(self.namespace(ns)),
                (b"viewOn", Some(on)) => New::Text(self.collection(db, on)),
                _ => New::Same,
            })
        })
    }

    fn new_uuid(&self, field: &Field<'_>) -> New {
        field.uuid().map_or(New::Same, |uuid| New::Uuid(self.uuid(uuid)))
    }
}

/// Makes the mapping one to one. A new name that is not also an old name is mapped back to the first name of its chain
/// of renames.
fn close_chains(names: &mut Names) -> Result<(), String> {
    let mut origin: BTreeMap<String, String> = BTreeMap::new();
    for (from, to) in &*names {
        if let Some(other) = origin.insert(to.clone(), from.clone()) {
            return Err(format!("'{other}' and '{from}' can't both become '{to}'; make two restores"));
        }
    }
    let ends: Vec<String> = names.values().filter(|to| !names.contains_key(*to)).cloned().collect();
    for end in ends {
        let mut begin = &end;
        while let Some(before) = origin.get(begin) {
            begin = before;
        }
        names.insert(end.clone(), begin.clone());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Document, doc, rawdoc};

    fn made(pairs: &[(&str, &str)]) -> Result<Mapping, String> {
        let place = |ns: &str| {
            let (db, coll) = ns.split_once('.').expect("a namespace");
            (db.to_owned(), (coll != "*").then(|| coll.to_owned()))
        };
        Mapping::new(&pairs.iter().map(|(from, to)| (place(from), place(to))).collect::<Vec<_>>())
    }

    fn mapping(from: &str, to: &str) -> Mapping {
        made(&[(from, to)]).expect("a mapping")
    }

    #[test]
    fn several_pairs_and_whole_databases() {
        let several = made(&[("shop.a", "shop.b"), ("shop.b", "shop.c"), ("crm.x", "new.x"), ("crm.y", "new.z")]);
        let several = several.expect("a mapping");
        let whole = made(&[("shop.*", "crm.*"), ("crm.*", "old.*")]).expect("a mapping");
        for (ns, in_several, in_whole) in [
            ("shop.a", "shop.b", "crm.a"),
            ("shop.b", "shop.c", "crm.b"),
            ("shop.c", "shop.a", "crm.c"),
            ("crm.x", "new.x", "old.x"),
            ("crm.y", "new.z", "old.y"),
            ("crm.z", "new.y", "old.z"),
            ("new.x", "crm.x", "new.x"),
            ("old.x", "old.x", "shop.x"),
        ] {
            assert_eq!(
                (several.namespace(ns), whole.namespace(ns)),
                (in_several.to_owned(), in_whole.to_owned()),
                "{ns}"
            );
        }
        for (pairs, why) in [
            (vec![("a.x", "b.x"), ("a.y", "c.y")], "both 'b' and 'c'"),
            (vec![("a.x", "c.x"), ("b.x", "c.y")], "'a' and 'b' can't both"),
            (vec![("a.x", "a.y"), ("a.z", "a.y")], "stands twice"),
            (vec![("a.*", "b.*"), ("a.x", "b.y")], "has the other collections"),
            (vec![("a.*", "b.x")], "whole database"),
        ] {
            let error = made(&pairs).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn names_change_places() {
        let (within, across) = (mapping("shop.a", "shop.b"), mapping("shop.a", "crm.b"));
        for (ns, in_one, in_two) in [
            ("shop.a", "shop.b", "crm.b"),
            ("shop.b", "shop.a", "crm.a"),
            ("shop.c", "shop.c", "crm.c"),
            ("shop.system.buckets.a", "shop.system.buckets.b", "crm.system.buckets.b"),
            ("shop.system.views", "shop.system.views", "crm.system.views"),
            ("shop.$cmd", "shop.$cmd", "crm.$cmd"),
            ("crm.b", "crm.b", "shop.b"),
            ("crm.c", "crm.c", "shop.c"),
            ("other.a", "other.a", "other.a"),
        ] {
            assert_eq!((within.namespace(ns), across.namespace(ns)), (in_one.to_owned(), in_two.to_owned()), "{ns}");
        }
    }

    #[test]
    fn uuids_become_others_of_the_same_kind() {
        let (one, two) = (mapping("a.b", "a.c"), mapping("a.b", "a.c"));
        let uuid = Uuid::new();
        assert_eq!(one.uuid(uuid), one.uuid(uuid));
        let all = [uuid, one.uuid(uuid), two.uuid(uuid), one.uuid(Uuid::new())];
        assert!(all.iter().enumerate().all(|(at, uuid)| !all[..at].contains(uuid)), "{all:?}");
        for number in 0..50 {
            let bytes = one.uuid(Uuid::from_bytes([number; 16])).bytes();
            assert_eq!((bytes[6] >> 4, bytes[8] >> 6), (4, 0b10), "{number}");
        }
    }

    #[test]
    fn entries_speak_of_the_clone() {
        let mapping = mapping("shop.a", "crm.b");
        let [uuid, other] = [Uuid::new(), Uuid::new()];
        let new = mapping.uuid(uuid);
        let on = |db: &str, o: Document| doc! { "op": "c", "ns": format!("{db}.$cmd"), "ui": uuid, "o": o };
        let made = |db: &str, o: Document| doc! { "op": "c", "ns": format!("{db}.$cmd"), "ui": new, "o": o };
        for (entry, wanted) in [
            (
                doc! { "op": "i", "ns": "shop.a", "ui": uuid, "o": { "_id": "shop.a" } },
                doc! { "op": "i", "ns": "crm.b", "ui": new, "o": { "_id": "shop.a" } },
            ),
            (on("shop", doc! { "create": "a", "idIndex": {} }), made("crm", doc! { "create": "b", "idIndex": {} })),
            (on("shop", doc! { "dropDatabase": 1 }), made("crm", doc! { "dropDatabase": 1 })),
            (
                on("shop", doc! { "renameCollection": "shop.c", "to": "shop.a", "dropTarget": other }),
                made("crm", doc! { "renameCollection": "crm.c", "to": "crm.b", "dropTarget": mapping.uuid(other) }),
            ),
            (
                doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [
                    { "op": "d", "ns": "shop.a", "ui": uuid, "o": {} }, { "op": "d", "ns": "x.a", "ui": uuid, "o": {} },
                ] } },
                doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [
                    { "op": "d", "ns": "crm.b", "ui": new, "o": {} }, { "op": "d", "ns": "x.a", "ui": uuid, "o": {} },
                ] } },
            ),
            (
                doc! { "op": "i", "ns": "shop.system.views", "o": { "_id": "shop.a", "viewOn": "system.buckets.a" } },
                doc! { "op": "i", "ns": "crm.system.views", "o": { "_id": "crm.b", "viewOn": "system.buckets.b" } },
            ),
            (
                doc! { "op": "i", "ns": "x.a", "ui": uuid, "o": {} },
                doc! { "op": "i", "ns": "x.a", "ui": uuid, "o": {} },
            ),
        ] {
            let raw = RawDocumentBuf::try_from(&entry).expect("a document");
            let made = mapping.entry(raw).expect("an entry");
            assert_eq!(Document::try_from(made).expect("a document"), wanted);
        }
        let strange = rawdoc! { "op": "n", "ns": "", "o": {} };
        assert_eq!(mapping.entry(strange.clone()).expect("an entry"), strange);
    }
}
