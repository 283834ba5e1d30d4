//! Selects the oplog entries of a backup for an export: those of the collections in the archive, each entry once, none after
//! the backup's end.
//!
//! # What mongorestore needs
//!
//! mongorestore applies the entries one by one, finds each collection by name, and fails at the first entry whose collection
//! does not exist. The oplog of a backup also has entries for collections that the archive lacks: they are not selected, or
//! they were dropped or renamed before the backup listed the collections. So this module tracks the collections of the archive
//! by their UUIDs, and knows for each entry the name that the collection has at that point of mongorestore's replay.

use super::select::Selection;
use crate::{
    oplog::entry::{Command, Entry, Kind, Part, operations},
    raw::{self, Malformed, New, find, rewrite},
    replay::key::lasting_uuid,
};
use anyhow::{Result, bail};
use bson::{RawArray, RawDocument, RawDocumentBuf, Timestamp, Uuid};
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

/// The collections that exist while mongorestore replays the oplog: those of the archive, as the entries so far have changed
/// them.
#[derive(Debug, Default)]
pub struct Collections {
    by_uuid: HashMap<[u8; 16], String>,
    /// `db.coll` of collections without a lasting UUID, or without a UUID in the archive.
    by_name: HashSet<String>,
}

impl Collections {
    pub fn add(&mut self, db: &str, coll: &str, uuid: Option<Uuid>) {
        let ns = format!("{db}.{coll}");
        match lasting_uuid(db, coll, uuid) {
            Some(uuid) => drop(self.by_uuid.insert(uuid.bytes(), ns)),
            None => drop(self.by_name.insert(ns)),
        }
    }

    /// The present name of the collection, if it exists.
    fn find(&self, db: &str, coll: &str, uuid: Option<Uuid>) -> Option<String> {
        let known = lasting_uuid(db, coll, uuid).and_then(|uuid| self.by_uuid.get(&uuid.bytes()));
        known.cloned().or_else(|| Some(format!("{db}.{coll}")).filter(|ns| self.by_name.contains(ns)))
    }

    fn remove(&mut self, ns: &str) {
        self.by_uuid.retain(|_, name| name != ns);
        self.by_name.remove(ns);
    }

    fn remove_database(&mut self, db: &str) {
        let inside = |ns: &String| ns.split_once('.').is_some_and(|(own, _)| own == db);
        self.by_uuid.retain(|_, name| !inside(name));
        self.by_name.retain(|name| !inside(name));
    }
}

/// What becomes of an operation.
enum Fate {
    Out,
    Same,
    /// The collection has this other name (`db.coll`) on the server into which the archive is restored.
    Under(String),
}

impl From<bool> for Fate {
    fn from(wanted: bool) -> Self {
        if wanted { Self::Same } else { Self::Out }
    }
}

/// What of an entry is exported, if anything. Operations inside of an `applyOps` are judged one by one; a part of a
/// transaction stays, even without any, because its commit may come later.
///
/// # Errors
/// The entry can't be read, or a collection was renamed out of the selection or into it: the export can't express such a
/// rename by other operations, or a command is unknown.
pub fn selected<'a>(
    raw: &'a RawDocument,
    outer: Option<Timestamp>,
    selection: &Selection,
    collections: &mut Collections,
) -> Result<Option<Cow<'a, RawDocument>>> {
    let entry = Entry::parse(raw, outer)?;
    if entry.kind != Kind::Command {
        return made(&entry, document(&entry, selection, collections));
    }
    match entry.transaction()?.map(|txn| txn.part) {
        Some(Part::Commit { .. } | Part::Abort) => return Ok(Some(Cow::Borrowed(raw))),
        Some(Part::Partial(ops) | Part::Prepare(ops) | Part::Last(ops)) => {
            return Ok(Some(match keep(ops, entry.ts, selection, collections)? {
                Kept::All => Cow::Borrowed(raw),
                Kept::Some(ops) => Cow::Owned(with_operations(raw, &ops)?),
            }));
        }
        None => {}
    }
    let command = entry.command()?;
    if let Command::ApplyOps(ops) = command {
        return Ok(match keep(ops, entry.ts, selection, collections)? {
            Kept::All => Some(Cow::Borrowed(raw)),
            Kept::Some(ops) if ops.is_empty() => None,
            Kept::Some(ops) => Some(Cow::Owned(with_operations(raw, &ops)?)),
        });
    }
    let fate = on_catalogue(&entry, &command, selection, collections)?;
    made(&entry, fate)
}

/// An insert, update or delete.
fn document(entry: &Entry<'_>, selection: &Selection, collections: &Collections) -> Fate {
    let (db, coll) = entry.split_ns();
    match coll {
        _ if matches!(entry.kind, Kind::Noop | Kind::Internal) => Fate::Out,
        "system.users" | "system.roles" if db == "admin" => selection.users.into(),
        // Views are documents there, named by their namespace.
        "system.views" => {
            let holder = if entry.kind == Kind::Update { entry.o2.unwrap_or(entry.o) } else { entry.o };
            let name = find(holder, "_id").and_then(|id| id.text()?.split_once('.'));
            name.is_some_and(|(db, view)| selection.wants(db, view)).into()
        }
        _ => at(entry, collections.find(db, coll, entry.ui)),
    }
}

/// The operation stays as it is if its collection still has the same name, and otherwise gets the collection's present name.
fn at(entry: &Entry<'_>, now: Option<String>) -> Fate {
    match now {
        None => Fate::Out,
        Some(ns) if ns == entry.ns => Fate::Same,
        Some(ns) => Fate::Under(ns),
    }
}

/// A command other than `applyOps`.
fn on_catalogue(
    entry: &Entry<'_>,
    command: &Command<'_>,
    selection: &Selection,
    collections: &mut Collections,
) -> Result<Fate> {
    let db = entry.split_ns().0;
    let on = |coll: &str, now: Option<String>| match now {
        Some(ns) if ns == format!("{db}.{coll}") => Fate::Same,
        now => at(entry, now),
    };
    Ok(match command {
        // A mongorestore has no routing of shards to change.
        Command::Harmless | Command::ShardRouting(_) => Fate::Out,
        Command::Unknown(name) => bail!(
            "this version does not know what `{name}` at {},{} in {} does, so it can't say what becomes of it; leave the oplog out \
             with --no-oplog",
            entry.ts.time,
            entry.ts.increment,
            entry.ns
        ),
        Command::ApplyOps(_) => Fate::Same,
        Command::DropDatabase => {
            let wanted = selection.wants_database(db);
            if wanted {
                collections.remove_database(db);
            }
            wanted.into()
        }
        Command::Create { coll: "system.views" } => selection.touches(db).into(),
        Command::Drop { coll: "system.views" } => selection.wants_database(db).into(),
        Command::Create { coll } => {
            // The `create` is left out if the archive already has the collection, perhaps under a later name.
            let new = selection.wants(db, coll) && collections.find(db, coll, entry.ui).is_none();
            if new {
                collections.add(db, coll, entry.ui);
            }
            new.into()
        }
        Command::Drop { coll } => {
            let now = collections.find(db, coll, entry.ui);
            if let Some(ns) = &now {
                collections.remove(ns);
            }
            on(coll, now)
        }
        Command::Rename { from, to, .. } => renamed(entry, (from, to), selection, collections)?.into(),
        Command::CollMod { coll }
        | Command::IndexesBuilt { coll, .. }
        | Command::IndexesDropped { coll, .. }
        | Command::EmptyCapped { coll } => on(coll, collections.find(db, coll, entry.ui)),
    })
}

fn renamed(
    entry: &Entry<'_>,
    (from, to): (&str, &str),
    selection: &Selection,
    collections: &mut Collections,
) -> Result<bool> {
    let wants = |ns: &str| ns.split_once('.').is_some_and(|(db, coll)| selection.wants(db, coll));
    let (db, coll) = from.split_once('.').unwrap_or((from, ""));
    let now = collections.find(db, coll, entry.ui);
    let lost = match now.as_deref() {
        // The collection was dropped, or renamed out of the selection, before the backup listed the collections.
        None => wants(to) && !wants(from),
        Some(now) => now == from && !wants(to),
    };
    if lost {
        bail!(
            "'{from}' was renamed to '{to}' while the backup was made ({}), and only one of them is selected; \
             select both, or leave the oplog out with --no-oplog",
            format_args!("{},{}", entry.ts.time, entry.ts.increment)
        );
    }
    // If the collection has another name now, the backup listed it after this rename, so the rename is left out.
    let applies = now.as_deref() == Some(from);
    if applies {
        collections.remove(to);
        collections.remove(from);
        let (db, coll) = to.split_once('.').unwrap_or((to, ""));
        collections.add(db, coll, entry.ui);
    }
    Ok(applies)
}

fn made<'a>(entry: &Entry<'a>, fate: Fate) -> Result<Option<Cow<'a, RawDocument>>> {
    Ok(match fate {
        Fate::Out => None,
        Fate::Same => Some(Cow::Borrowed(entry.raw)),
        Fate::Under(ns) => Some(Cow::Owned(under(entry, &ns)?)),
    })
}

/// Rewrites the operation for its collection's present name `ns`, which is in the same database.
fn under(entry: &Entry<'_>, ns: &str) -> Result<RawDocumentBuf, Malformed> {
    let coll = ns.split_once('.').map_or(ns, |(_, coll)| coll);
    let is_command = entry.kind == Kind::Command;
    rewrite(entry.raw, |field| {
        Ok(match (field.name, field.document()) {
            (b"ns", _) if !is_command => New::Text(ns.to_owned()),
            (b"o", Some(command)) if is_command => {
                let mut first = true;
                New::Nested(rewrite::<Malformed>(command, |_| {
                    Ok(if std::mem::take(&mut first) { New::Text(coll.to_owned()) } else { New::Same })
                })?)
            }
            _ => New::Same,
        })
    })
}

enum Kept {
    All,
    Some(Vec<RawDocumentBuf>),
}

fn keep(ops: &RawArray, ts: Timestamp, selection: &Selection, collections: &mut Collections) -> Result<Kept> {
    let (mut kept, mut changed) = (Vec::new(), false);
    for op in operations(ops, ts) {
        match selected(op?, Some(ts), selection, collections)? {
            Some(op) => {
                changed |= matches!(op, Cow::Owned(_));
                kept.push(op.into_owned());
            }
            None => changed = true,
        }
    }
    Ok(if changed { Kept::Some(kept) } else { Kept::All })
}

/// The entry with other operations in its `applyOps`.
fn with_operations(raw: &RawDocument, ops: &[RawDocumentBuf]) -> Result<RawDocumentBuf, Malformed> {
    rewrite(raw, |field| match field.document().filter(|_| field.name == b"o") {
        None => Ok(New::Same),
        Some(o) => rewrite::<Malformed>(o, |field| {
            Ok(match field.name {
                b"applyOps" => New::Nested(raw::array(ops.iter().map(AsRef::as_ref))),
                _ => New::Same,
            })
        })
        .map(New::Nested),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Binary, Document, doc};

    const TS: Timestamp = Timestamp { time: 7, increment: 1 };

    fn selection(texts: &[&str]) -> Selection {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        Selection::parse(&texts, false).expect("a selection")
    }

    fn collections(names: &[(&str, Option<Uuid>)]) -> Collections {
        let mut collections = Collections::default();
        for (ns, uuid) in names {
            let (db, coll) = ns.split_once('.').expect("a namespace");
            collections.add(db, coll, *uuid);
        }
        collections
    }

    /// An entry after the others have changed what is there.
    fn then(collections: &mut Collections, selection: &Selection, entry: &Document) -> Result<Option<Document>> {
        let mut entry = entry.clone();
        entry.insert("ts", TS);
        let raw = RawDocumentBuf::try_from(&entry).expect("raw");
        let found = selected(&raw, None, selection, collections)?;
        Ok(found.map(|found| {
            let mut found = Document::try_from(found.as_ref()).expect("a document");
            found.remove("ts");
            found
        }))
    }

    fn command(db: &str, uuid: Option<Uuid>, o: Document) -> Document {
        let mut entry = doc! { "op": "c", "ns": format!("{db}.$cmd"), "o": o };
        if let Some(uuid) = uuid {
            entry.insert("ui", Binary::from(uuid));
        }
        entry
    }

    fn insert(ns: &str, uuid: Uuid) -> Document {
        doc! { "op": "i", "ns": ns, "ui": Binary::from(uuid), "o": { "_id": 1 } }
    }

    #[test]
    fn operations_inside_of_others_are_judged_one_by_one() {
        let there = || collections(&[("shop.a", None), ("crm.a", None)]);
        let some = || collections(&[("shop.a", None)]);
        let all = Selection::default();
        let op = |ns: &str| doc! { "op": "i", "ns": ns, "o": { "_id": 1 } };
        let entry = |ops: Vec<Document>| doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": ops }, "t": 1 };
        let txn = |ops: Vec<Document>| {
            let mut txn = entry(ops);
            txn.extend(doc! { "lsid": { "id": 1 }, "txnNumber": 1_i64 });
            txn
        };
        let both = || vec![op("shop.a"), op("crm.a")];
        let of = |entry: &Document, mut there: Collections| then(&mut there, &all, entry).expect("readable");
        assert_eq!(of(&entry(both()), there()), Some(entry(both())));
        assert_eq!(of(&entry(both()), some()), Some(entry(vec![op("shop.a")])));
        assert_eq!(of(&entry(vec![op("crm.a")]), some()), None);
        assert_eq!(of(&txn(both()), some()), Some(txn(vec![op("shop.a")])));
        assert_eq!(of(&txn(vec![op("crm.a")]), some()), Some(txn(vec![])), "its commit may follow");
        let mut commit = txn(vec![]);
        commit.insert("o", doc! { "commitTransaction": 1, "commitTimestamp": TS });
        assert_eq!(of(&commit, some()), Some(commit.clone()));
        let nested = entry(vec![doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": both() } }]);
        let expected = entry(vec![doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [op("shop.a")] } }]);
        assert_eq!(of(&nested, some()), Some(expected));
    }

    #[test]
    fn what_the_program_does_not_know_ends_an_export() {
        let all = Selection::default();
        let mut there = collections(&[("shop.a", None)]);
        let nested = |op: Document| doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [op] } };
        for (entry, part) in [
            (command("shop", None, doc! { "somethingNew": "a" }), "`somethingNew` at 7,1 in shop.$cmd"),
            (doc! { "op": "xi", "ns": "shop.a", "o": { "_id": 1 } }, "unknown op 'xi'"),
        ] {
            for entry in [entry.clone(), nested(entry)] {
                let said = then(&mut there, &all, &entry).expect_err(part).to_string();
                assert!(said.contains(part), "{said}");
            }
        }
        for entry in [
            command("shop", None, doc! { "dropIdent": "x" }),
            command("shop", None, doc! { "createDatabaseMetadata": "shop" }),
            doc! { "op": "ci", "ns": "shop.a", "o": { "k": 1 } },
        ] {
            assert_eq!(then(&mut there, &all, &entry).expect("known"), None, "{entry}");
        }
    }

    #[test]
    fn an_entry_needs_a_collection_of_the_archive() {
        let [a, other] = [Uuid::new(), Uuid::new()];
        let all = Selection::default();
        let some = selection(&["shop.a", "shop.v"]);
        for (selection, entry, kept) in [
            (&all, insert("shop.a", a), true),
            // Collections that were dropped before the backup listed them, or that are not selected.
            (&all, insert("shop.a", other), false),
            (&all, insert("shop.b", other), false),
            (&all, command("shop", Some(other), doc! { "drop": "a" }), false),
            (&all, command("shop", Some(other), doc! { "collMod": "b", "validator": {} }), false),
            (&all, command("shop", Some(a), doc! { "createIndexes": "a", "name": "x_1", "key": { "x": 1 } }), true),
            (&all, command("shop", Some(a), doc! { "create": "a" }), false),
            (&all, command("shop", Some(other), doc! { "create": "b" }), true),
            (&some, command("shop", Some(other), doc! { "create": "b" }), false),
            (&all, command("shop", None, doc! { "dropDatabase": 1 }), true),
            (&some, command("shop", None, doc! { "dropDatabase": 1 }), false),
            (&some, command("shop", None, doc! { "create": "system.views" }), true),
            (&some, command("shop", None, doc! { "drop": "system.views" }), false),
            (&some, doc! { "op": "i", "ns": "shop.system.views", "o": { "_id": "shop.v" } }, true),
            (&some, doc! { "op": "i", "ns": "shop.system.views", "o": { "_id": "shop.w" } }, false),
            (&all, doc! { "op": "n", "ns": "", "o": {} }, false),
            (&all, doc! { "op": "i", "ns": "admin.system.users", "o": { "_id": "x.y" } }, false),
            (&all, doc! { "op": "i", "ns": "config.transactions", "o": { "_id": 1 } }, false),
            (&all, doc! { "op": "i", "ns": "shop.system.buckets.ts", "o": { "_id": 1 } }, true),
            (&all, doc! { "op": "i", "ns": "shop.system.buckets.old", "o": { "_id": 1 } }, false),
        ] {
            let mut there = collections(&[("shop.a", Some(a)), ("shop.system.buckets.ts", Some(other))]);
            let found = then(&mut there, selection, &entry).expect("readable");
            assert_eq!(found, kept.then(|| entry.clone()), "{entry}");
        }
    }

    #[test]
    fn collections_are_followed_through_drops_and_renames() {
        let [a, new, late] = [(); 3].map(|()| Uuid::new());
        let all = Selection::default();
        // The backup listed `late` under the name that it gets only at the end of this oplog.
        let mut there = collections(&[("shop.a", Some(a)), ("shop.done", Some(late))]);
        let rename =
            |uuid, from: &str, to: &str| command("shop", Some(uuid), doc! { "renameCollection": from, "to": to });
        let index =
            |coll: &str| command("shop", Some(late), doc! { "createIndexes": coll, "name": "x_1", "key": { "x": 1 } });
        for (entry, expected) in [
            (insert("shop.tmp", late), Some(insert("shop.done", late))),
            (index("tmp"), Some(index("done"))),
            (rename(late, "shop.tmp", "shop.done"), None),
            (insert("shop.done", late), Some(insert("shop.done", late))),
            (
                command("shop", Some(new), doc! { "create": "n" }),
                Some(command("shop", Some(new), doc! { "create": "n" })),
            ),
            (insert("shop.n", new), Some(insert("shop.n", new))),
            (rename(new, "shop.n", "shop.a"), Some(rename(new, "shop.n", "shop.a"))),
            (insert("shop.a", new), Some(insert("shop.a", new))),
            (insert("shop.a", a), None),
            (command("shop", Some(new), doc! { "drop": "a" }), Some(command("shop", Some(new), doc! { "drop": "a" }))),
            (insert("shop.a", new), None),
        ] {
            assert_eq!(then(&mut there, &all, &entry).expect("readable"), expected, "{entry}");
        }
    }

    #[test]
    fn what_crosses_the_selection_is_refused() {
        let [mine, other] = [Uuid::new(), Uuid::new()];
        let some = selection(&["shop.orders"]);
        let mut there = collections(&[("shop.orders", Some(mine))]);
        for (uuid, from, to) in [(mine, "shop.orders", "shop.old"), (other, "shop.tmp", "shop.orders")] {
            let rename = command("shop", Some(uuid), doc! { "renameCollection": from, "to": to });
            let refused = then(&mut there, &some, &rename).expect_err("across").to_string();
            assert!(refused.contains("--no-oplog"), "{refused}");
        }
        let elsewhere = command("x", Some(other), doc! { "renameCollection": "x.a", "to": "x.b" });
        assert_eq!(then(&mut there, &some, &elsewhere).expect("readable"), None);
    }
}
