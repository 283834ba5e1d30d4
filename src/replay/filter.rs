//! Decides which operations a restore applies. The decision depends only on the operation and the scope.
//!
//! Source: docs/format.md E.6.3. Unlike the original, we do not apply the signing keys of the other cluster
//! (`admin.system.keys`).

use std::collections::HashSet;

use crate::model::{names, selection::Selection};
use crate::oplog::entry::{Command, Entry, Kind};
use crate::replay::op::document_id;
use crate::routing::own::Own;
use crate::routing::tables::Table;

/// The operations that a replay applies.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// The target is a config server: the routing documents of the cluster are applied.
    pub config_server: bool,
    pub selection: Selection,
    /// For a selection: whether users and roles of databases that are selected as a whole are replayed, too.
    pub users: bool,
    /// UUIDs of collections that get a selected name later. All their operations are replayed.
    pub followed: HashSet<[u8; 16]>,
    /// The part of a config server's routing that may change.
    pub routing: Own,
}

impl Scope {
    /// Whether an operation is applied. An `applyOps` is always applied, because its operations are checked one by one.
    /// `is_restored` means that the operation changes a collection of the restore, even if the collection has another
    /// name now.
    ///
    /// For an operation on a routing table, call [`Scope::wants_routing`], too.
    pub fn wants(&self, entry: &Entry<'_>, command: Option<&Command<'_>>, is_restored: bool) -> bool {
        let (db, coll) = entry.split_ns();
        match command {
            None if matches!(entry.kind, Kind::Noop | Kind::Internal) => false,
            None if coll == "system.views" => {
                let view = text_id(entry).and_then(|id| id.split_once('.'));
                self.is_restorable(db, coll)
                    && (self.selection.is_everything() || view.is_some_and(|(db, view)| self.selection.wants(db, view)))
            }
            None if db == "admin" && matches!(coll, "system.users" | "system.roles") => self.wants_user(entry),
            None if self.routing_table(entry).is_some() => true,
            None => self.wants_collection(db, coll, is_restored) && !is_balancer_switch(entry),
            Some(Command::ApplyOps(_) | Command::Unknown(_)) => true,
            Some(Command::Harmless | Command::ShardRouting(_)) => false,
            Some(Command::DropDatabase) => {
                !matches!(db, "admin" | "config" | "local") && self.selection.wants_database(db)
            }
            Some(Command::Rename { from, to, .. }) => {
                let ((from_db, from_coll), (db, coll)) = (split(from), split(to));
                self.is_restorable(from_db, from_coll) && self.wants_collection(db, coll, is_restored)
            }
            Some(command) => command.collection().is_some_and(|coll| match coll {
                "system.views" => self.is_restorable(db, coll) && self.selection.touches(db),
                _ => self.wants_collection(db, coll, is_restored),
            }),
        }
    }

    /// Whether an operation that passed [`Scope::wants`] may change its routing table. `None` means that only the
    /// stored document can decide it.
    pub(super) fn wants_routing(&self, entry: &Entry<'_>) -> Option<bool> {
        let Some(table) = self.routing_table(entry) else { return Some(true) };
        self.routing.includes_operation(table, document_id(entry), entry.o)
    }

    /// Returns the routing table of which the operation changes a document.
    pub(super) fn routing_table(&self, entry: &Entry<'_>) -> Option<Table> {
        Table::of(entry.ns).filter(|_| self.config_server && entry.kind != Kind::Command)
    }

    fn wants_user(&self, entry: &Entry<'_>) -> bool {
        let db = text_id(entry).and_then(|id| id.split_once('.')).map_or("", |(db, _)| db);
        self.selection.is_everything() || self.users && self.selection.wants_database(db)
    }

    fn wants_collection(&self, db: &str, coll: &str, is_restored: bool) -> bool {
        self.is_restorable(db, coll) && (is_restored || self.selection.wants(db, coll))
    }

    fn is_restorable(&self, db: &str, coll: &str) -> bool {
        match db {
            "local" => false,
            "admin" => {
                !names::CONTROL.contains(&coll)
                    && !matches!(coll, "system.version" | "system.keys" | names::TMP_USERS | names::TMP_ROLES)
            }
            "config" => match coll {
                "settings" => true,
                "chunks" | "collections" | "databases" | "tags" => self.config_server,
                _ => false,
            },
            _ => coll != "system.profile",
        }
    }
}

/// Settings (by `_id`) that control the running cluster. A restore does not change them.
pub const SWITCHES: [&str; 2] = ["balancer", "automerge"];

fn is_balancer_switch(entry: &Entry<'_>) -> bool {
    entry.ns == "config.settings" && text_id(entry).is_some_and(|id| SWITCHES.contains(&id))
}

fn split(ns: &str) -> (&str, &str) {
    ns.split_once('.').unwrap_or((ns, ""))
}

fn text_id<'a>(entry: &Entry<'a>) -> Option<&'a str> {
    document_id(entry).and_then(|id| id.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawDocumentBuf, Timestamp, rawdoc};

    fn wants(scope: &Scope, raw: &RawDocumentBuf) -> bool {
        let entry = Entry::parse(raw, Some(Timestamp { time: 1, increment: 1 })).unwrap();
        let command = (entry.kind == Kind::Command).then(|| entry.command().unwrap());
        scope.wants(&entry, command.as_ref(), false) && scope.wants_routing(&entry) != Some(false)
    }

    fn document(ns: &str) -> RawDocumentBuf {
        rawdoc! {"op": "u", "ns": ns, "o": {"$v": 2}, "o2": {"_id": "x"}}
    }

    fn on(db: &str, o: RawDocumentBuf) -> RawDocumentBuf {
        rawdoc! {"op": "c", "ns": format!("{db}.$cmd"), "o": o}
    }

    #[test]
    fn collections_are_applied_by_kind_of_target() {
        let (plain, config) = (Scope::default(), Scope { config_server: true, ..Scope::default() });
        // namespace, applied on a replica set, applied on a config server
        for (ns, data, routing) in [
            ("shop.orders", true, true),
            ("shop.system.buckets.ts", true, true),
            ("shop.system.views", true, true),
            ("shop.system.js", true, true),
            ("shop.system.profile", false, false),
            ("admin.mine", true, true),
            ("admin.system.users", true, true),
            ("admin.system.roles", true, true),
            ("admin.system.version", false, false),
            ("admin.system.keys", false, false),
            ("admin.pbmConfig", false, false),
            ("admin.pbmBell", false, false),
            ("admin.pbmRUsers", false, false),
            ("admin.pbmRRoles", false, false),
            ("admin.pbmPITRChunks.old", false, false),
            ("config.settings", true, true),
            ("config.chunks", false, true),
            ("config.collections", false, true),
            ("config.databases", false, true),
            ("config.tags", false, true),
            ("config.shards", false, false),
            ("config.version", false, false),
            ("config.rangeDeletions", false, false),
            ("config.transactions", false, false),
            ("config.system.sessions", false, false),
            ("config.system.preimages", false, false),
            ("local.x", false, false),
        ] {
            assert_eq!((wants(&plain, &document(ns)), wants(&config, &document(ns))), (data, routing), "{ns}");
            let (db, coll) = ns.split_once('.').unwrap();
            for o in [rawdoc! {"create": coll}, rawdoc! {"drop": coll}, rawdoc! {"dropIndexes": coll, "index": "*"}] {
                assert_eq!(wants(&plain, &on(db, o)), data, "{ns}");
            }
        }
    }

    #[test]
    fn operations_are_applied_by_kind_and_document() {
        let scope = Scope { config_server: true, ..Scope::default() };
        let rename = |from: &str, to: &str| on("admin", rawdoc! {"renameCollection": from, "to": to});
        for (raw, expected) in [
            (rawdoc! {"op": "n", "ns": "", "o": {}}, false),
            (rawdoc! {"op": "i", "ns": "config.settings", "o": {"_id": "chunksize"}}, true),
            (rawdoc! {"op": "i", "ns": "config.settings", "o": {"_id": "balancer"}}, false),
            (rawdoc! {"op": "u", "ns": "config.settings", "o": {}, "o2": {"_id": "automerge"}}, false),
            (rawdoc! {"op": "i", "ns": "config.collections", "o": {"_id": "config.system.sessions"}}, false),
            (rawdoc! {"op": "d", "ns": "config.collections", "o": {"_id": "shop.a"}}, true),
            (rename("shop.a", "crm.a"), true),
            (rename("admin.pbmBackups", "shop.a"), false),
            (rename("shop.a", "admin.pbmBackups.old"), false),
            (on("shop", rawdoc! {"dropDatabase": 1}), true),
            (on("config", rawdoc! {"dropDatabase": 1}), false),
            (on("admin", rawdoc! {"applyOps": []}), true),
            (on("shop", rawdoc! {"startIndexBuild": "a"}), false),
            (on("shop", rawdoc! {"setMultikeyMetadata": "a"}), false),
            (on("shop", rawdoc! {"createDatabaseMetadata": "shop"}), false),
            (rawdoc! {"op": "ci", "ns": "shop.a", "o": {"k": 1}}, false),
            (rawdoc! {"op": "km", "o": {}}, false),
            (on("shop", rawdoc! {"somethingNew": "a"}), true),
        ] {
            assert_eq!(wants(&scope, &raw), expected, "{raw:?}");
        }
    }
}
