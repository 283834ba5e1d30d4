//! Which operations a restore applies, and how the object of an operation is found on the target.
//!
//! Source: docs/format.md E.6.3; pure functions. Differences to the original, all on purpose: `admin.system.keys`
//! (the signing keys of another cluster) is skipped; every collection of `config` and `*.system.js` is addressed by name,
//! because a restore does not always give them their old UUID.

use std::collections::HashSet;

use crate::model::{names, selection::Selection};
use crate::oplog::entry::{Command, Entry, Kind};
use crate::raw::find;
use crate::replay::own_routing::OwnRouting;

/// What is replayed.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// The target is a config server: the routing documents of the cluster are applied.
    pub config_server: bool,
    /// The UUID that `config.system.sessions` had where the oplog comes from: its chunks are not applied.
    pub sessions: Option<bson::Uuid>,
    pub selection: Selection,
    /// Of a selection: users and roles of the databases that are selected as a whole are replayed, too.
    pub users: bool,
    /// Collections (by UUID) that got a selected name only later: they are followed from their beginning.
    pub followed: HashSet<[u8; 16]>,
    /// Of a selection and a config server.
    pub routing: OwnRouting,
}

impl Scope {
    /// True if the operation has to be applied. An `applyOps` always: its operations are judged one by one. `mine`: it is
    /// about a collection of the restore, whatever name that has.
    pub fn wants(&self, entry: &Entry<'_>, command: Option<&Command<'_>>, mine: bool) -> bool {
        let (db, coll) = entry.split_ns();
        match command {
            None if entry.kind == Kind::Noop => false,
            None if coll == "system.views" => {
                let named = id(entry).and_then(|id| id.split_once('.'));
                self.is_restorable(db, coll)
                    && (self.selection.is_everything()
                        || named.is_some_and(|(db, view)| self.selection.wants(db, view)))
            }
            None if db == "admin" && matches!(coll, "system.users" | "system.roles") => self.wants_user(entry),
            // Of a selection the replay looks whose they are.
            None if self.is_routing(entry) => !self.is_foreign_routing(entry),
            None => {
                self.wants_collection(db, coll, mine) && !self.is_foreign_routing(entry) && !is_balancer_switch(entry)
            }
            Some(Command::ApplyOps(_) | Command::Unknown(_)) => true,
            Some(Command::Harmless) => false,
            Some(Command::DropDatabase) => {
                !matches!(db, "admin" | "config" | "local") && self.selection.wants_database(db)
            }
            Some(Command::Rename { from, to, .. }) => {
                let ((from_db, from_coll), (db, coll)) = (split(from), split(to));
                self.is_restorable(from_db, from_coll) && self.wants_collection(db, coll, mine)
            }
            Some(command) => command.collection().is_some_and(|coll| match coll {
                "system.views" => self.is_restorable(db, coll) && self.selection.touches(db),
                _ => self.wants_collection(db, coll, mine),
            }),
        }
    }

    /// A document of the tables that say where everything is.
    pub fn is_routing(&self, entry: &Entry<'_>) -> bool {
        let tables = ["config.databases", "config.collections", "config.chunks", "config.tags"];
        self.config_server && tables.contains(&entry.ns)
    }

    fn wants_user(&self, entry: &Entry<'_>) -> bool {
        let of = id(entry).and_then(|id| id.split_once('.')).map_or("", |(db, _)| db);
        self.selection.is_everything() || self.users && self.selection.wants_database(of)
    }

    /// The routing of `config.system.sessions`, which every cluster makes for itself.
    fn is_foreign_routing(&self, entry: &Entry<'_>) -> bool {
        match entry.ns {
            "config.collections" => id(entry) == Some("config.system.sessions"),
            "config.chunks" => {
                let uuid = find(entry.o, "uuid").and_then(|field| field.uuid());
                uuid.is_some() && uuid == self.sessions
            }
            _ => false,
        }
    }

    fn wants_collection(&self, db: &str, coll: &str, mine: bool) -> bool {
        self.is_restorable(db, coll) && (mine || self.selection.wants(db, coll))
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

/// Settings, by `_id`, that describe what the cluster is doing now, not what was stored.
pub const SWITCHES: [&str; 2] = ["balancer", "automerge"];

fn is_balancer_switch(entry: &Entry<'_>) -> bool {
    entry.ns == "config.settings" && id(entry).is_some_and(|id| SWITCHES.contains(&id))
}

fn split(ns: &str) -> (&str, &str) {
    ns.split_once('.').unwrap_or((ns, ""))
}

fn id<'a>(entry: &Entry<'a>) -> Option<&'a str> {
    let holder = if entry.kind == Kind::Update { entry.o2? } else { entry.o };
    find(holder, "_id").and_then(|id| id.text())
}

/// True if operations on this collection find it by its name, false if by its UUID.
///
/// The UUIDs of these collections differ from cluster to cluster, and none of them can be renamed.
pub fn by_name(db: &str, coll: &str) -> bool {
    match db {
        "config" => true,
        "admin" if coll.starts_with("system.") => true,
        _ => coll.starts_with("system.buckets.") || matches!(coll, "system.views" | "system.js"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawDocumentBuf, Timestamp, rawdoc};

    fn wants(scope: &Scope, raw: &RawDocumentBuf) -> bool {
        let entry = Entry::parse(raw, Some(Timestamp { time: 1, increment: 1 })).unwrap();
        let command = (entry.kind == Kind::Command).then(|| entry.command().unwrap());
        scope.wants(&entry, command.as_ref(), false)
    }

    fn document(ns: &str) -> RawDocumentBuf {
        rawdoc! {"op": "u", "ns": ns, "o": {"$v": 2}, "o2": {"_id": "x"}}
    }

    fn on(db: &str, o: RawDocumentBuf) -> RawDocumentBuf {
        rawdoc! {"op": "c", "ns": format!("{db}.$cmd"), "o": o}
    }

    #[test]
    fn collections() {
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
    fn what_depends_on_the_operation() {
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
            (on("shop", rawdoc! {"somethingNew": "a"}), true),
        ] {
            assert_eq!(wants(&scope, &raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn what_has_no_lasting_uuid_is_found_by_name() {
        for (ns, expected) in [
            ("shop.a", false),
            ("shop.system.buckets.ts", true),
            ("shop.system.views", true),
            ("shop.system.js", true),
            ("shop.system.resharding.1", false),
            ("admin.mine", false),
            ("admin.system.users", true),
            ("config.settings", true),
        ] {
            let (db, coll) = ns.split_once('.').unwrap();
            assert_eq!(by_name(db, coll), expected, "{ns}");
        }
    }
}
