//! Which namespaces of a backup go into an export.

use crate::{
    model::{names::series_name, selection},
    restore::plan::namespaces::{Fate, Wish, fate},
};
use anyhow::{Result, bail};

/// What is wanted of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    wanted: selection::Selection,
    /// What the backup holds.
    held: selection::Selection,
    /// Users and roles too, as mongodump has them. Not together with a selection of namespaces.
    pub users: bool,
}

impl Selection {
    /// From `db.*` and `db.coll`; `*.*` and nothing at all mean everything.
    ///
    /// # Errors
    /// Something else, or a namespace that a selection can't have.
    pub fn parse(namespaces: &[String], users: bool) -> Result<Self> {
        let wanted = selection::Selection::parse(namespaces)?;
        if users && !wanted.is_everything() {
            bail!("users and roles can only be exported with the whole backup");
        }
        Ok(Self { wanted, users, ..Self::default() })
    }

    /// Limits the selection to what the backup holds.
    #[must_use]
    pub fn of_backup(self, held: selection::Selection) -> Self {
        Self { held, ..self }
    }

    /// A collection by its own name; buckets go with their time series.
    #[must_use]
    pub fn wants(&self, db: &str, coll: &str) -> bool {
        let coll = series_name(coll);
        // The server's own tables are of no use elsewhere.
        let exportable = db != "config" && fate(db, coll, &Wish::default()) == Fate::Restore;
        exportable && self.both().all(|selection| selection.wants(db, coll))
    }

    /// Whether all collections of a database are wanted.
    #[must_use]
    pub fn wants_database(&self, db: &str) -> bool {
        !matches!(db, "admin" | "config" | "local") && self.both().all(|selection| selection.wants_database(db))
    }

    /// Whether anything in a database is wanted.
    #[must_use]
    pub fn touches(&self, db: &str) -> bool {
        self.both().all(|selection| selection.touches(db))
    }

    fn both(&self) -> impl Iterator<Item = &selection::Selection> {
        [&self.wanted, &self.held].into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(texts: &[&str]) -> Selection {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        Selection::parse(&texts, false).expect("a selection")
    }

    #[test]
    fn namespaces_are_selected() {
        let all = selection(&[]);
        assert_eq!(all, selection(&["a.b", "*.*"]));
        let some = selection(&["shop.*", "crm.a.b"]);
        for (db, coll, everything, selected) in [
            ("shop", "orders", true, true),
            ("shop", "system.buckets.ts", true, true),
            ("shop", "system.js", true, true),
            ("crm", "a.b", true, true),
            ("crm", "a", true, false),
            ("admin", "mine", true, false),
            ("admin", "pbmConfig", false, false),
            ("admin", "system.users", false, false),
            ("config", "settings", false, false),
            ("local", "x", false, false),
            ("shop", "system.profile", false, false),
        ] {
            assert_eq!((all.wants(db, coll), some.wants(db, coll)), (everything, selected), "{db}.{coll}");
        }
        for bad in ["", "shop", "shop.", ".x", "*", "admin.x", "config.*", "shop.system.js"] {
            assert!(Selection::parse(&[bad.to_owned()], false).is_err(), "{bad}");
        }
        assert!(Selection::parse(&["a.b".to_owned()], true).is_err());
    }
}
