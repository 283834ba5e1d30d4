//! Which namespaces of a backup are put back, and by whom (spec/format.md E.5).

use crate::{
    layout::BUCKETS,
    model::names::{TMP_ROLES, TMP_USERS, is_control_namespace},
};

/// What the restore of one replica set is asked to put back.
///
/// The whole backup for now; a selection of namespaces and cloning become further fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// The target is a config server: the routing tables are put back by their own step (E.10), not as collections.
    pub config_server: bool,
}

/// Who takes care of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Dropped, created and loaded like any collection.
    Restore,
    /// The source of the users or roles to swap in.
    Users,
    Roles,
    /// A routing table of a config server, put back by its own step.
    Routing,
    /// Never touched, for the reason given.
    Leave(&'static str),
}

/// Decides over one namespace of a backup, by its name in `metadata.json`.
#[must_use]
pub fn fate(db: &str, coll: &str, wish: Wish) -> Fate {
    match db {
        "local" => Fate::Leave("belongs to one node"),
        "admin" => in_admin(coll),
        "config" => in_config(coll, wish),
        _ => in_user_database(coll),
    }
}

/// May a collection be dropped from the target because the backup holds it under another name?
#[must_use]
pub fn is_droppable(db: &str, coll: &str) -> bool {
    !matches!(db, "local" | "config") && matches!(fate(db, coll, Wish::default()), Fate::Restore)
}

fn in_admin(coll: &str) -> Fate {
    match coll {
        TMP_USERS => Fate::Users,
        TMP_ROLES => Fate::Roles,
        "system.users" | "system.roles" => Fate::Leave("users and roles are put back from their own copies"),
        "system.version" => Fate::Leave("describes the server's own version"),
        "system.js" => Fate::Restore,
        _ if is_control_namespace(&format!("admin.{coll}")) => {
            Fate::Leave("control collection of the cluster that made the backup")
        }
        _ if coll.starts_with("system.") => Fate::Leave("kept by the server itself"),
        _ => Fate::Restore,
    }
}

fn in_config(coll: &str, wish: Wish) -> Fate {
    match coll {
        "version" | "shards" => Fate::Leave("describes the cluster that made the backup"),
        "databases" | "collections" | "chunks" if wish.config_server => Fate::Routing,
        "databases" | "collections" | "chunks" | "settings" | "tags" => Fate::Restore,
        _ => Fate::Leave("kept by the server itself"),
    }
}

fn in_user_database(coll: &str) -> Fate {
    match coll {
        "system.js" => Fate::Restore,
        _ if coll.starts_with(BUCKETS) => Fate::Leave("put back through its time series"),
        _ if coll.starts_with("system.") => Fate::Leave("kept by the server itself"),
        _ => Fate::Restore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_has_its_fate() {
        let plain = Wish::default();
        let restored = [
            ("shop", "orders"),
            ("shop", "system.js"),
            ("shop", "a.b.c"),
            ("shop", "systemic"),
            ("admin", "mine"),
            ("admin", "system.js"),
            ("admin", "pbmX"),
            ("shop", "pbmLog"),
            ("config", "settings"),
            ("config", "tags"),
        ];
        for (db, coll) in restored {
            assert_eq!(fate(db, coll, plain), Fate::Restore, "{db}.{coll}");
        }
        let left = [
            ("local", "mine"),
            ("admin", "pbmConfig"),
            ("admin", "pbmLog"),
            ("admin", "pbmPITRChunks.old"),
            ("admin", "system.users"),
            ("admin", "system.roles"),
            ("admin", "system.version"),
            ("admin", "system.keys"),
            ("config", "version"),
            ("config", "shards"),
            ("config", "cache.collections"),
            ("shop", "system.views"),
            ("shop", "system.profile"),
            ("shop", "system.buckets.ts"),
        ];
        for (db, coll) in left {
            assert!(matches!(fate(db, coll, plain), Fate::Leave(_)), "{db}.{coll}");
        }
        assert_eq!(fate("admin", "pbmRUsers", plain), Fate::Users);
        assert_eq!(fate("admin", "pbmRRoles", plain), Fate::Roles);
        assert_eq!(fate("shop", "pbmRRoles", plain), Fate::Restore);
    }

    #[test]
    fn a_config_server_keeps_its_routing_tables_for_later() {
        let wish = Wish { config_server: true };
        for coll in ["databases", "collections", "chunks"] {
            assert_eq!(fate("config", coll, wish), Fate::Routing, "{coll}");
            assert_eq!(fate("config", coll, Wish::default()), Fate::Restore, "{coll}");
        }
        assert_eq!(fate("config", "settings", wish), Fate::Restore);
    }

    #[test]
    fn only_collections_of_users_are_in_danger() {
        assert!(is_droppable("shop", "orders"));
        for (db, coll) in [("admin", "pbmBackups"), ("admin", "system.users"), ("config", "settings"), ("local", "x")] {
            assert!(!is_droppable(db, coll), "{db}.{coll}");
        }
    }
}
