//! Which namespaces of a backup go into an export, and which operations of its oplog.

use crate::{
    layout::BUCKETS,
    model::selection,
    oplog::entry::{Command, Entry, Kind},
    restore::namespaces::{Fate, Wish, fate},
};
use anyhow::{Result, bail};
use bson::{RawBsonRef, Timestamp};

/// What is wanted of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    wanted: selection::Selection,
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
        Ok(Self { wanted, users })
    }

    /// A collection by its own name; buckets go with their time series.
    #[must_use]
    pub fn wants(&self, db: &str, coll: &str) -> bool {
        let coll = coll.strip_prefix(BUCKETS).unwrap_or(coll);
        // The server's own tables are of no use elsewhere.
        let exportable = db != "config" && fate(db, coll, &Wish::default()) == Fate::Restore;
        exportable && self.wanted.wants(db, coll)
    }

    fn wants_database(&self, db: &str) -> bool {
        !matches!(db, "admin" | "config" | "local") && self.wanted.wants_database(db)
    }

    /// An operation that is no `applyOps`.
    ///
    /// # Errors
    /// A collection was renamed out of the selection or into it: neither can be said by the other operations.
    pub fn wants_entry(&self, entry: &Entry<'_>, command: Option<&Command<'_>>) -> Result<bool> {
        let (db, coll) = entry.split_ns();
        Ok(match command {
            None if entry.kind == Kind::Noop => false,
            None if db == "admin" && matches!(coll, "system.users" | "system.roles") => self.users,
            // Views are documents there, named by their namespace.
            None if coll == "system.views" => {
                id(entry).and_then(|id| id.split_once('.')).is_some_and(|(db, view)| self.wants(db, view))
            }
            None => self.wants(db, coll),
            Some(Command::Harmless) => false,
            Some(Command::DropDatabase) => self.wants_database(db),
            Some(Command::Rename { from, to, .. }) => {
                let wants = |ns: &str| ns.split_once('.').is_some_and(|(db, coll)| self.wants(db, coll));
                match (wants(from), wants(to)) {
                    (true, true) => true,
                    (false, false) => false,
                    _ => bail!(
                        "'{from}' was renamed to '{to}' while the backup was made ({}), and only one of them is selected; \
                         select both, or leave the oplog out with --no-oplog",
                        at(entry.ts)
                    ),
                }
            }
            Some(Command::ApplyOps(_) | Command::Unknown(_)) => true,
            Some(command) => command
                .collection()
                .is_some_and(|coll| coll == "system.views" && self.wants_database(db) || self.wants(db, coll)),
        })
    }
}

fn at(ts: Timestamp) -> String {
    format!("{},{}", ts.time, ts.increment)
}

fn id<'a>(entry: &Entry<'a>) -> Option<&'a str> {
    let holder = if entry.kind == Kind::Update { entry.o2? } else { entry.o };
    holder.get("_id").ok().flatten().and_then(RawBsonRef::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawDocumentBuf, rawdoc};

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

    fn wants(selection: &Selection, raw: &RawDocumentBuf) -> Result<bool> {
        let entry = Entry::parse(raw, Some(Timestamp { time: 1, increment: 1 }))?;
        let command = if entry.kind == Kind::Command { Some(entry.command()?) } else { None };
        selection.wants_entry(&entry, command.as_ref())
    }

    #[test]
    fn operations_are_selected() {
        let (all, some) = (selection(&[]), selection(&["shop.orders", "crm.*"]));
        let on = |ns: &str| rawdoc! { "op": "i", "ns": ns, "o": { "_id": "shop.orders" } };
        let command = |db: &str, o: RawDocumentBuf| rawdoc! { "op": "c", "ns": format!("{db}.$cmd"), "o": o };
        for (raw, everything, selected) in [
            (on("shop.orders"), true, true),
            (on("shop.other"), true, false),
            (on("shop.system.views"), true, true),
            (on("admin.system.users"), false, false),
            (on("admin.pbmLog"), false, false),
            (on("config.transactions"), false, false),
            (rawdoc! { "op": "n", "ns": "", "o": {} }, false, false),
            (command("shop", rawdoc! { "drop": "orders" }), true, true),
            (command("shop", rawdoc! { "drop": "other" }), true, false),
            (command("shop", rawdoc! { "dropDatabase": 1 }), true, false),
            (command("crm", rawdoc! { "dropDatabase": 1 }), true, true),
            (command("crm", rawdoc! { "renameCollection": "crm.a", "to": "crm.b" }), true, true),
            (command("x", rawdoc! { "renameCollection": "x.a", "to": "x.b" }), true, false),
        ] {
            let found = (wants(&all, &raw).expect("an answer"), wants(&some, &raw).expect("an answer"));
            assert_eq!(found, (everything, selected), "{raw:?}");
        }
        let across = command("shop", rawdoc! { "renameCollection": "shop.orders", "to": "shop.old" });
        assert!(wants(&some, &across).expect_err("across").to_string().contains("--no-oplog"));
    }
}
