//! Which collections a selective replay has to follow although their names are not selected: those that get a selected name
//! later, as the result of `$out`, of `convertToCapped` or of a rename does.

use std::collections::{BTreeSet, HashSet};

use anyhow::{Context, Result};
use bson::{RawDocumentBuf, Timestamp};
use futures::{Stream, StreamExt};

use crate::layout::BUCKETS;
use crate::model::selection::Selection;
use crate::oplog::entry::{Command, Entry, Kind, operations};
use crate::oplog::routing;

/// What an oplog does to the names of a selection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// Collections, by UUID, that are renamed into the selection.
    pub uuids: HashSet<[u8; 16]>,
    /// Names of the selection, `db.coll`, that something is created under or renamed to.
    pub creates: BTreeSet<String>,
    /// Sharded collections, by UUID, that have or get a selected name according to a config server's oplog.
    pub sharded: HashSet<[u8; 16]>,
    /// Databases, selected in part or as a whole, that go to another primary shard.
    pub moved: BTreeSet<String>,
}

impl Followed {
    /// Looks through one object of the oplog, up to `end`.
    ///
    /// # Errors
    /// It can't be read.
    pub async fn look(
        &mut self,
        entries: impl Stream<Item = std::io::Result<RawDocumentBuf>>,
        selection: &Selection,
        end: Timestamp,
    ) -> Result<()> {
        let mut entries = std::pin::pin!(entries);
        while let Some(entry) = entries.next().await {
            let raw = entry.context("read oplog")?;
            let entry = Entry::parse(&raw, None)?;
            if entry.ts > end {
                break;
            }
            self.see(&entry, selection)?;
        }
        Ok(())
    }

    fn see(&mut self, entry: &Entry<'_>, selection: &Selection) -> Result<()> {
        let wants = |ns: &str| selection.wants_namespace(ns);
        if entry.kind == Kind::Insert && entry.ns.ends_with(".system.views") {
            self.creates.extend(entry.o.get_str("_id").ok().filter(|ns| wants(ns)).map(str::to_owned));
        }
        let id = routing::id(entry).and_then(bson::RawBsonRef::as_str);
        match entry.ns {
            "config.collections" if id.is_some_and(wants) => self.sharded.extend(routing::uuid(entry.o)),
            "config.databases" if entry.kind == Kind::Update => {
                self.moved.extend(id.filter(|db| selection.touches(db)).map(str::to_owned));
            }
            _ => {}
        }
        if entry.kind != Kind::Command {
            return Ok(());
        }
        match entry.command()? {
            Command::Rename { from, to, .. } if wants(to) => {
                self.creates.insert(to.to_owned());
                self.uuids.extend(entry.ui.filter(|_| !wants(from)).map(|uuid| uuid.bytes()));
            }
            Command::Create { coll } => {
                let db = entry.split_ns().0;
                // By the name of its series.
                let coll = coll.strip_prefix(BUCKETS).unwrap_or(coll);
                self.creates.extend(selection.wants(db, coll).then(|| format!("{db}.{coll}")));
            }
            // A transaction can create collections.
            Command::ApplyOps(ops) => {
                for op in operations(ops, entry.ts) {
                    self.see(&Entry::parse(op?, Some(entry.ts))?, selection)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Adds the databases in which an entry creates something, or that it drops: after it they are what the oplog makes of
/// them. On a config server also those that it adds to the cluster or takes from it.
///
/// # Errors
/// The entry can't be read.
pub fn note_databases(entry: &Entry<'_>, made: &mut BTreeSet<String>) -> Result<()> {
    if matches!(entry.kind, Kind::Insert | Kind::Delete) && entry.ns == "config.databases" {
        made.extend(entry.o.get_str("_id").ok().map(str::to_owned));
    }
    if entry.kind != Kind::Command {
        return Ok(());
    }
    match entry.command()? {
        Command::Create { .. } | Command::DropDatabase => {
            let db = entry.split_ns().0;
            if !made.contains(db) {
                made.insert(db.to_owned());
            }
        }
        Command::Rename { to, .. } => made.extend(to.split_once('.').map(|(db, _)| db.to_owned())),
        Command::ApplyOps(ops) => {
            for op in operations(ops, entry.ts) {
                note_databases(&Entry::parse(op?, Some(entry.ts))?, made)?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Binary, Uuid, rawdoc};
    use futures::stream;

    #[test]
    fn databases_that_an_oplog_makes_or_drops() {
        let uuid = Binary::from(Uuid::new());
        let create = rawdoc! {"op": "c", "ns": "a.$cmd", "ui": uuid.clone(), "o": {"create": "x"}};
        let insert =
            rawdoc! {"op": "i", "ns": "config.databases", "ui": uuid.clone(), "o": {"_id": "b", "primary": "s"}};
        let ops = rawdoc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": [create, insert]}};
        let rename =
            rawdoc! {"op": "c", "ns": "c.$cmd", "ui": uuid.clone(), "o": {"renameCollection": "c.x", "to": "d.y"}};
        let other = rawdoc! {"op": "i", "ns": "e.z", "ui": uuid, "o": {"_id": 1}};
        let drop = rawdoc! {"op": "c", "ns": "f.$cmd", "o": {"dropDatabase": 1}};
        let removed = rawdoc! {"op": "d", "ns": "config.databases", "o": {"_id": "g"}};
        let mut made = BTreeSet::new();
        let at = Timestamp { time: 1, increment: 1 };
        for entry in [&ops, &rename, &other, &drop, &removed] {
            note_databases(&Entry::parse(entry, Some(at)).expect("an entry"), &mut made).expect("readable");
        }
        assert_eq!(made.into_iter().collect::<Vec<_>>(), ["a", "b", "d", "f", "g"]);
    }

    #[tokio::test]
    async fn collections_that_are_renamed_into_the_selection() {
        let selection = Selection::parse(&["shop.orders"]).expect("a selection");
        let [new, old, other, late] = [(); 4].map(|()| Uuid::new());
        let rename = |time: u32, uuid: Uuid, from: &str, to: &str| {
            let ts = Timestamp { time, increment: 1 };
            let o = rawdoc! {"renameCollection": from, "to": to, "dropTarget": false};
            rawdoc! {"ts": ts, "op": "c", "ns": "shop.$cmd", "ui": Binary::from(uuid), "o": o}
        };
        let entries = [
            rename(1, old, "shop.orders", "shop.old"),
            rename(2, new, "shop.tmp", "shop.orders"),
            rename(3, other, "shop.a", "shop.b"),
            rename(9, late, "shop.b", "shop.orders"),
        ];
        let mut followed = Followed::default();
        let end = Timestamp { time: 5, increment: 0 };
        followed.look(stream::iter(entries.map(Ok)), &selection, end).await.expect("readable");
        let creates = BTreeSet::from(["shop.orders".to_owned()]);
        assert_eq!(followed, Followed { uuids: HashSet::from([new.bytes()]), creates, ..Followed::default() });

        for (coll, creates) in [("orders", true), ("system.buckets.orders", true), ("other", false)] {
            let create = rawdoc! {"op": "c", "ns": "shop.$cmd", "ui": Binary::from(new), "o": {"create": coll}};
            let ts = Timestamp { time: 1, increment: 1 };
            let entry = rawdoc! {"ts": ts, "op": "c", "ns": "admin.$cmd", "o": {"applyOps": [create]}};
            let mut followed = Followed::default();
            followed.look(stream::iter([Ok(entry)]), &selection, end).await.expect("readable");
            assert_eq!(!followed.creates.is_empty(), creates, "{coll}");
        }
    }
}
