//! Decides which namespaces of a backup are restored, and by which step (docs/format.md E.5).

use crate::model::names::BUCKETS;
use crate::{
    archive::meta::NamespaceMeta,
    model::{
        backup::BackupMeta,
        names::{TMP_ROLES, TMP_USERS, is_control_namespace},
        selection::{NotSelectable, Selection},
    },
    replay::mapping::{Mapping, Place},
};

/// What to restore on one replica set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Whether the target is a config server. Its routing tables are restored in a separate step (E.10) and not as
    /// collections.
    pub config_server: bool,
    pub selection: Selection,
    /// Whether users and roles are restored. For a selection, only those of databases that are selected as a whole.
    pub users: bool,
    /// For a clone: the new names of what is restored. `selection` contains these new names.
    pub clone: Option<Mapping>,
    /// Whether collections of the selection that the target has and the backup lacks are dropped, too.
    pub drop_extra: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Self { config_server: false, selection: Selection::default(), users: true, clone: None, drop_extra: false }
    }
}

impl Wish {
    /// Returns what to restore from this backup. "Everything" means all namespaces that the backup contains.
    ///
    /// # Errors
    /// The backup's own selection can't be read.
    pub fn of(asked: Selection, users: bool, backup: &BackupMeta) -> Result<Self, NotSelectable> {
        if !asked.is_everything() {
            return Ok(Self { selection: asked, users, ..Self::default() });
        }
        let selection = Selection::of(&backup.nss, backup.nss_narrowed.as_ref())?;
        let users = selection.is_everything() || backup.sel_users_and_roles;
        Ok(Self { selection, users, ..Self::default() })
    }

    /// Returns the wish to restore collections under other names, from the data and the oplog of a backup. Both texts
    /// are comma-separated lists of `db.coll` or `db.*`. Each entry of the first list is renamed to the entry at the
    /// same position in the second list.
    ///
    /// # Errors
    /// An entry can't be selected, the lists have different lengths, or the pairs contradict each other.
    pub fn cloning(from: &str, to: &str) -> Result<Self, String> {
        let texts = |list: &str| -> Vec<String> { list.split(',').map(|text| text.trim().to_owned()).collect() };
        let (from, to) = (texts(from), texts(to));
        if from.len() != to.len() {
            return Err(format!("{} to clone, but {} new names; each one needs its own", from.len(), to.len()));
        }
        if let Some(same) = from.iter().zip(&to).find(|(from, to)| from == to) {
            return Err(format!("'{}' can't be cloned to itself", same.0));
        }
        let places = |texts: &[String]| texts.iter().map(|text| place(text)).collect::<Result<Vec<_>, _>>();
        let pairs: Vec<(Place, Place)> = places(&from)?.into_iter().zip(places(&to)?).collect();
        let selection = Selection::parse(&to).map_err(|error| error.to_string())?;
        Ok(Self { selection, users: false, clone: Some(Mapping::new(&pairs)?), ..Self::default() })
    }

    /// Returns a namespace of the backup under the name with which it is restored.
    #[must_use]
    pub fn renamed(&self, meta: &NamespaceMeta) -> NamespaceMeta {
        let mut meta = meta.clone();
        if let Some(mapping) = &self.clone {
            let coll = mapping.collection(&meta.db, &meta.coll);
            meta.uuid = meta.uuid.map(|uuid| mapping.uuid(uuid));
            (meta.db, meta.coll) = (mapping.database(&meta.db).to_owned(), coll);
        }
        meta
    }
}

/// Reads the name of a collection or of a whole database.
fn place(text: &str) -> Result<Place, String> {
    Selection::parse(&[text]).map_err(|error| error.to_string())?;
    match text.split_once('.') {
        Some((db, "*")) if !db.contains('*') => Ok((db.to_owned(), None)),
        Some((db, coll)) if !text.contains('*') => Ok((db.to_owned(), Some(coll.to_owned()))),
        _ => Err(format!("'{text}': clones are of single collections (db.collection) or whole databases (db.*)")),
    }
}

/// How a namespace is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is dropped, created and loaded like any collection.
    Restore,
    /// It contains the users or roles that replace those of the target.
    Users,
    Roles,
    /// It is a routing table of a config server, which a separate step restores.
    Routing,
    /// It contains the settings of a cluster. They are in use during the restore, so they are replaced document by
    /// document.
    Settings,
    /// It is never changed, for this reason.
    Leave(&'static str),
}

/// Returns the name under which a collection from the archive of a backup made before 2.0 is set aside.
#[must_use]
pub fn aside_name(db: &str, coll: &str) -> String {
    format!("{db}.{coll}")
}

/// Decides how one namespace of a backup is handled, by its name in `metadata.json`.
#[must_use]
pub fn fate(db: &str, coll: &str, wish: &Wish) -> Fate {
    let fate = match db {
        "local" => Fate::Leave("belongs to one node"),
        "admin" => in_admin(coll),
        "config" => in_config(coll, wish),
        _ => in_user_database(coll),
    };
    match fate {
        // The routing tables are not filtered here: a selection uses some of their documents.
        Fate::Restore | Fate::Settings if !wish.selection.wants(db, coll) => Fate::Leave("not selected"),
        Fate::Users | Fate::Roles if !wish.users => Fate::Leave("users and roles are not wanted"),
        fate => fate,
    }
}

/// Whether a collection may be dropped from the target because the backup contains it under another name.
#[must_use]
pub fn is_droppable(db: &str, coll: &str) -> bool {
    !matches!(db, "local" | "config") && matches!(fate(db, coll, &Wish::default()), Fate::Restore)
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

fn in_config(coll: &str, wish: &Wish) -> Fate {
    match coll {
        // This table is read but not restored. It shows which replica set belongs to each shard id of the backup.
        "shards" if wish.config_server => Fate::Routing,
        "version" | "shards" => Fate::Leave("describes the cluster that made the backup"),
        "databases" | "collections" | "chunks" if wish.config_server => Fate::Routing,
        "tags" if wish.config_server => Fate::Routing,
        "settings" => Fate::Settings,
        "databases" | "collections" | "chunks" | "tags" => Fate::Restore,
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
            ("config", "tags"),
        ];
        for (db, coll) in restored {
            assert_eq!(fate(db, coll, &plain), Fate::Restore, "{db}.{coll}");
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
            assert!(matches!(fate(db, coll, &plain), Fate::Leave(_)), "{db}.{coll}");
        }
        assert_eq!(fate("admin", "pbmRUsers", &plain), Fate::Users);
        assert_eq!(fate("admin", "pbmRRoles", &plain), Fate::Roles);
        assert_eq!(fate("shop", "pbmRRoles", &plain), Fate::Restore);
    }

    #[test]
    fn a_config_server_keeps_its_routing_tables_for_later() {
        let wish = Wish { config_server: true, ..Wish::default() };
        for coll in ["databases", "collections", "chunks", "tags"] {
            assert_eq!(fate("config", coll, &wish), Fate::Routing, "{coll}");
            assert_eq!(fate("config", coll, &Wish::default()), Fate::Restore, "{coll}");
        }
        assert_eq!(fate("config", "settings", &wish), Fate::Settings);
    }

    #[test]
    fn a_selection_leaves_the_rest() {
        let some = Selection::parse(&["shop.*", "crm.a"]).expect("a selection");
        let wish = Wish { selection: some, users: false, ..Wish::default() };
        for (db, coll, restored) in [
            ("shop", "orders", true),
            ("shop", "system.js", true),
            ("crm", "a", true),
            ("crm", "b", false),
            ("admin", "mine", false),
            ("config", "settings", false),
            ("admin", "pbmRUsers", false),
        ] {
            assert_eq!(matches!(fate(db, coll, &wish), Fate::Leave(_)), !restored, "{db}.{coll}");
        }
        assert_eq!(fate("admin", "pbmRUsers", &Wish { users: true, ..wish }), Fate::Users);
    }

    #[test]
    fn clones_are_of_one_collection() {
        let wish = Wish::cloning("shop.a", "crm.b").expect("a wish");
        assert!(wish.selection.wants("crm", "b") && !wish.selection.wants("shop", "a") && !wish.users);
        for (from, to) in [
            ("a.b", "a.b"),
            ("a.*", "a.b"),
            ("a.b", "c"),
            ("a.b", "admin.c"),
            ("a.system.js", "a.b"),
            ("a.b", "c.x*"),
            ("a.b,a.c", "a.d"),
        ] {
            assert!(Wish::cloning(from, to).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn only_collections_of_users_are_in_danger() {
        assert!(is_droppable("shop", "orders"));
        for (db, coll) in [("admin", "pbmBackups"), ("admin", "system.users"), ("config", "settings"), ("local", "x")] {
            assert!(!is_droppable(db, coll), "{db}.{coll}");
        }
    }
}
