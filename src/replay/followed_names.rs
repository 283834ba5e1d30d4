//! Finds out, before the oplog is replayed, which names it creates, renames or drops. A restore needs them for two
//! purposes:
//!
//! - Some collections, views and time series of the target conflict with the replay: the oplog creates, renames or drops their
//!   names or their UUIDs. They are newer than the restored moment, so a restore drops them.
//! - A selective replay follows some collections whose names are not selected: they get a selected name later, for example by
//!   `$out`, `convertToCapped` or a rename.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::{Result, bail};
use bson::Uuid;

use crate::model::names::{BUCKETS, series_name};
use crate::model::selection::Selection;
use crate::oplog::entry::{Command, Entry, Kind, operations, show};
use crate::replay::feasible::Onto;
use crate::replay::key::lasting_uuid;
use crate::replay::op::document_id;
use crate::routing::own::collection_uuid;

/// The namespaces of the target before the restore, by name and by UUID. While the oplog is read, only names of these
/// namespaces are recorded, so even a long oplog needs no more memory than the list of the target's namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// Collections, buckets, views and time series, by database and name. Views and time series have no UUID.
    names: BTreeMap<String, BTreeMap<String, Option<[u8; 16]>>>,
    uuids: HashMap<[u8; 16], (String, String)>,
}

impl Present {
    /// Builds it from the database, name and UUID of each namespace.
    pub fn new<'a>(namespaces: impl IntoIterator<Item = (&'a str, &'a str, Option<Uuid>)>) -> Self {
        let mut present = Self::default();
        for (db, coll, uuid) in namespaces {
            let uuid = uuid.map(|uuid| uuid.bytes());
            present.names.entry(db.to_owned()).or_default().insert(coll.to_owned(), uuid);
            if let Some(uuid) = uuid {
                present.uuids.insert(uuid, (db.to_owned(), coll.to_owned()));
            }
        }
        present
    }

    fn has(&self, db: &str, coll: &str) -> bool {
        self.names.get(db).is_some_and(|names| names.contains_key(coll))
    }

    /// The names of all namespaces in a database, or only of its views and time series if `views` is true.
    fn of_database(&self, db: &str, views: bool) -> impl Iterator<Item = &str> {
        let all = self.names.get(db).into_iter().flatten();
        all.filter(move |(_, uuid)| !views || uuid.is_none()).map(|(coll, _)| coll.as_str())
    }
}

/// The selection and the target's namespaces, for which the oplog is searched, and what the target can do.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub selection: &'a Selection,
    pub present: &'a Present,
    pub onto: Onto,
}

/// The names and collections that an oplog creates, renames or drops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// For a selective restore: UUIDs of the collections that are renamed from an unselected name to a selected one.
    pub uuids: HashSet<[u8; 16]>,
    /// For a selective restore: selected names (`db.coll`) that a collection, view or time series gets when it is created or
    /// renamed.
    pub creates: BTreeSet<String>,
    /// For a selective restore: UUIDs of the sharded collections that have a selected name according to a config server's
    /// oplog.
    pub sharded: HashSet<[u8; 16]>,
    /// For a selective restore: databases that move to another primary shard and are selected, in part or as a whole.
    pub moved: BTreeSet<String>,
    /// Databases that are dropped, or in which a collection is created: the oplog decides what they contain after the replay.
    /// For a config server, also the databases that its oplog adds to the cluster or removes from it.
    pub databases: BTreeSet<String>,
    /// Namespaces of the target (database and name) whose names the oplog creates, renames or drops. The replay begins
    /// before these entries, so these namespaces would conflict with it.
    pub named: BTreeSet<(String, String)>,
    /// Namespaces of the target (database and name) that have the UUID of a collection in the oplog but another name,
    /// each with the name in the oplog.
    pub renamed: BTreeMap<(String, String), String>,
}

impl Followed {
    /// Adds the findings from another part of the oplog.
    pub fn add(&mut self, other: Self) {
        self.uuids.extend(other.uuids);
        self.creates.extend(other.creates);
        self.sharded.extend(other.sharded);
        self.moved.extend(other.moved);
        self.databases.extend(other.databases);
        self.named.extend(other.named);
        self.renamed.extend(other.renamed);
    }

    /// Records what one entry creates, renames or drops, if the entry will be replayed.
    ///
    /// # Errors
    /// The entry can't be read, or it is a command that can't be replayed.
    pub fn see(&mut self, entry: &Entry<'_>, asked: Asked<'_>) -> Result<()> {
        match entry.kind {
            Kind::Command => return self.see_command(entry, asked),
            Kind::Noop | Kind::Internal => return Ok(()),
            Kind::Insert | Kind::Update | Kind::Delete => {}
        }
        if asked.selection.wants_namespace(entry.ns) {
            asked.onto.check_bucket(entry)?;
        }
        let id = || document_id(entry).and_then(|id| id.text());
        if entry.ns.ends_with(".system.views") {
            if let Some(view) = id().filter(|view| asked.selection.wants_namespace(view)) {
                self.add_name(view, asked);
                if entry.kind == Kind::Insert {
                    self.add_creation(view, asked);
                }
            }
        } else if entry.ns == "config.databases" {
            if matches!(entry.kind, Kind::Insert | Kind::Delete) {
                self.databases.extend(id().map(str::to_owned));
            } else if !asked.selection.is_everything() {
                self.moved.extend(id().filter(|db| asked.selection.touches(db)).map(str::to_owned));
            }
        } else if entry.ns == "config.collections"
            && !asked.selection.is_everything()
            && id().is_some_and(|ns| asked.selection.wants_namespace(ns))
        {
            self.sharded.extend(collection_uuid(entry.o));
        }
        Ok(())
    }

    fn see_command(&mut self, entry: &Entry<'_>, asked: Asked<'_>) -> Result<()> {
        let db = entry.split_ns().0;
        let selection = asked.selection;
        match entry.command()? {
            Command::Create { coll } => {
                self.add_database(db);
                // Buckets go with their series.
                let plain = series_name(coll);
                if selection.wants(db, plain) {
                    asked.onto.check_options(entry, coll)?;
                    let ns = format!("{db}.{plain}");
                    self.add_name(&ns, asked);
                    self.add_creation(&ns, asked);
                    self.add_uuid(lasting_uuid(db, coll, entry.ui), &ns, asked);
                }
            }
            Command::Drop { coll: "system.views" } => {
                // Dropping `system.views` removes all views and time series of the database.
                for coll in asked.present.of_database(db, true).filter(|coll| selection.wants(db, coll)) {
                    self.add_name(&format!("{db}.{coll}"), asked);
                }
            }
            Command::Drop { coll } if selection.wants(db, coll) => {
                let ns = format!("{db}.{coll}");
                self.add_name(&ns, asked);
                self.add_uuid(lasting_uuid(db, coll, entry.ui), &ns, asked);
            }
            Command::DropDatabase => {
                self.add_database(db);
                if selection.wants_database(db) {
                    let all = asked.present.of_database(db, false).map(|coll| (db.to_owned(), coll.to_owned()));
                    self.named.extend(all);
                }
            }
            Command::Rename { from, to, drop_target } => {
                self.databases.extend(to.split_once('.').map(|(db, _)| db.to_owned()));
                let (from_selected, to_selected) = (selection.wants_namespace(from), selection.wants_namespace(to));
                if from_selected {
                    self.add_name(from, asked);
                }
                if to_selected {
                    self.add_name(to, asked);
                    self.add_creation(to, asked);
                    self.add_uuid(drop_target, to, asked);
                    self.uuids.extend(entry.ui.filter(|_| !from_selected).map(|uuid| uuid.bytes()));
                }
                if from_selected || to_selected {
                    self.add_uuid(entry.ui, if to_selected { to } else { from }, asked);
                }
            }
            Command::CollMod { coll } if selection.wants(db, series_name(coll)) => {
                asked.onto.check_options(entry, coll)?;
            }
            Command::IndexesBuilt { coll, specs } if selection.wants(db, series_name(coll)) => {
                asked.onto.check_indexes(entry, coll, &specs)?;
            }
            Command::ShardRouting(name) => asked.onto.check_own_routing(entry, name)?,
            // A transaction can create collections.
            Command::ApplyOps(ops) => {
                for op in operations(ops, entry.ts) {
                    self.see(&Entry::parse(op?, Some(entry.ts))?, asked)?;
                }
            }
            Command::Unknown(name) if entry.transaction()?.is_none() => bail!(
                "this version does not know what `{name}` at {} in {} does, so it cannot replay it",
                show(entry.ts),
                entry.ns
            ),
            _ => {}
        }
        Ok(())
    }

    fn add_database(&mut self, db: &str) {
        if !self.databases.contains(db) {
            self.databases.insert(db.to_owned());
        }
    }

    /// Records that a collection gets this name, if the name is selected. Without a selection nothing is recorded,
    /// because there may be very many names.
    fn add_creation(&mut self, ns: &str, asked: Asked<'_>) {
        if !asked.selection.is_everything() {
            self.creates.insert(ns.to_owned());
        }
    }

    /// Records the target's namespaces that have this name: a collection, a view, or a time series and its buckets.
    fn add_name(&mut self, ns: &str, asked: Asked<'_>) {
        let Some((db, coll)) = ns.split_once('.') else { return };
        let plain = series_name(coll);
        for coll in [plain.to_owned(), format!("{BUCKETS}{plain}")] {
            if asked.present.has(db, &coll) {
                self.named.insert((db.to_owned(), coll));
            }
        }
    }

    /// Records the target's collection that has this UUID, if its name there is not `ns`.
    fn add_uuid(&mut self, uuid: Option<Uuid>, ns: &str, asked: Asked<'_>) {
        let present = uuid.and_then(|uuid| asked.present.uuids.get(&uuid.bytes()));
        if let Some(present) = present.filter(|(db, coll)| ns.split_once('.') != Some((db, coll))) {
            self.renamed.insert(present.clone(), ns.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mongo::capabilities::Capabilities;
    use bson::{Binary, RawDocumentBuf, Timestamp, rawdoc};

    const SIX: Onto = Onto { able: Capabilities::release(6, 0), sharded: false };

    #[test]
    fn databases_that_an_oplog_creates_or_drops_are_found() {
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
        let (selection, present) = (Selection::default(), Present::default());
        let mut followed = Followed::default();
        let at = Timestamp { time: 1, increment: 1 };
        for entry in [&ops, &rename, &other, &drop, &removed] {
            let entry = Entry::parse(entry, Some(at)).expect("an entry");
            followed.see(&entry, Asked { selection: &selection, present: &present, onto: SIX }).expect("readable");
        }
        assert_eq!(followed.databases.into_iter().collect::<Vec<_>>(), ["a", "b", "d", "f", "g"]);
    }

    fn see(entries: &[RawDocumentBuf], asked: Asked<'_>) -> Followed {
        let mut followed = Followed::default();
        for entry in entries {
            followed.see(&Entry::parse(entry, None).expect("an entry"), asked).expect("readable");
        }
        followed
    }

    #[test]
    fn collections_that_are_renamed_into_the_selection_are_followed() {
        let selection = Selection::parse(&["shop.orders"]).expect("a selection");
        let [new, old, other] = [(); 3].map(|()| Uuid::new());
        let rename = |time: u32, uuid: Uuid, from: &str, to: &str| {
            let ts = Timestamp { time, increment: 1 };
            let o = rawdoc! {"renameCollection": from, "to": to, "dropTarget": false};
            rawdoc! {"ts": ts, "op": "c", "ns": "shop.$cmd", "ui": Binary::from(uuid), "o": o}
        };
        let entries = [
            rename(1, old, "shop.orders", "shop.old"),
            rename(2, new, "shop.tmp", "shop.orders"),
            rename(3, other, "shop.a", "shop.b"),
        ];
        let present = Present::default();
        let asked = Asked { selection: &selection, present: &present, onto: SIX };
        let followed = see(&entries, asked);
        let creates = BTreeSet::from(["shop.orders".to_owned()]);
        let databases = BTreeSet::from(["shop".to_owned()]);
        assert_eq!(
            followed,
            Followed { uuids: HashSet::from([new.bytes()]), creates, databases, ..Followed::default() }
        );

        for (coll, creates) in [("orders", true), ("system.buckets.orders", true), ("other", false)] {
            let create = rawdoc! {"op": "c", "ns": "shop.$cmd", "ui": Binary::from(new), "o": {"create": coll}};
            let ts = Timestamp { time: 1, increment: 1 };
            let entry = rawdoc! {"ts": ts, "op": "c", "ns": "admin.$cmd", "o": {"applyOps": [create]}};
            let followed = see(&[entry], asked);
            assert_eq!(!followed.creates.is_empty(), creates, "{coll}");
        }
    }

    /// Namespaces of the target that conflict with an oplog are found by name, by UUID, as views, and as a whole
    /// database.
    #[test]
    fn namespaces_of_the_target_with_names_or_uuids_of_the_oplog_are_found() {
        let [a, b, c, d] = [(); 4].map(|()| Uuid::new());
        let ui = |uuid: Uuid| Binary::from(uuid);
        let present = Present::new([
            ("shop", "made", Some(a)),
            ("shop", "away", Some(b)),
            ("shop", "from", None),
            ("shop", "to", Some(c)),
            ("shop", "series", None),
            ("shop", "system.buckets.series", Some(d)),
            ("shop", "view", None),
            ("shop", "other", Some(Uuid::new())),
            ("crm", "all", Some(Uuid::new())),
            ("log", "view", None),
            ("log", "stays", Some(Uuid::new())),
        ]);
        let on = |db: &str, uuid: Uuid, o: RawDocumentBuf| {
            rawdoc! {"op": "c", "ns": format!("{db}.$cmd"), "ui": ui(uuid), "o": o}
        };
        let rename = |uuid, from: &str, to: &str| on("shop", uuid, rawdoc! {"renameCollection": from, "to": to});
        let transaction =
            rawdoc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": [on("shop", c, rawdoc! {"create": "to"})]}};
        let view = rawdoc! {"op": "d", "ns": "shop.system.views", "o": {"_id": "shop.view"}};
        let buckets = on("shop", Uuid::new(), rawdoc! {"create": "system.buckets.series"});
        let cases: [(RawDocumentBuf, &[&str], &[&str]); 10] = [
            (on("shop", a, rawdoc! {"create": "made"}), &["shop.made"], &[]),
            // The target has another collection of that name, and the collection itself was renamed later.
            (on("shop", b, rawdoc! {"create": "made"}), &["shop.made"], &["shop.away"]),
            (on("shop", b, rawdoc! {"drop": "before"}), &[], &["shop.away"]),
            (rename(b, "shop.from", "shop.to"), &["shop.from", "shop.to"], &["shop.away"]),
            (transaction, &["shop.to"], &[]),
            (view, &["shop.view"], &[]),
            (buckets, &["shop.series", "shop.system.buckets.series"], &[]),
            (on("crm", a, rawdoc! {"dropDatabase": 1}), &["crm.all"], &[]),
            (on("log", a, rawdoc! {"drop": "system.views"}), &["log.view"], &[]),
            (rawdoc! {"op": "i", "ns": "shop.other", "ui": ui(a), "o": {"_id": 1}}, &[], &[]),
        ];
        let at = Timestamp { time: 1, increment: 1 };
        let look = |entry: &RawDocumentBuf, selection: &Selection| {
            let mut followed = Followed::default();
            let entry = Entry::parse(entry, Some(at)).expect("an entry");
            followed.see(&entry, Asked { selection, present: &present, onto: SIX }).expect("readable");
            let shown = |(db, coll): &(String, String)| format!("{db}.{coll}");
            let named: Vec<String> = followed.named.iter().map(shown).collect();
            (named, followed.renamed.keys().map(shown).collect::<Vec<String>>())
        };
        let other = Selection::parse(&["else.*"]).expect("a selection");
        for (entry, named, renamed) in &cases {
            assert_eq!(look(entry, &Selection::default()), (owned(named), owned(renamed)), "{entry:?}");
            assert_eq!(look(entry, &other), (owned(&[]), owned(&[])), "{entry:?}");
        }
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Alone and inside of `applyOps`, of a transaction or not.
    #[test]
    fn what_cannot_be_replayed_is_refused_by_its_name() {
        let at = Timestamp { time: 1, increment: 1 };
        let (selection, present) = (Selection::default(), Present::default());
        let shard = Onto { sharded: true, ..SIX };
        let command = |o: RawDocumentBuf| rawdoc! {"op": "c", "ns": "shop.$cmd", "o": o};
        let look = |raw: RawDocumentBuf, onto: Onto| {
            let asked = Asked { selection: &selection, present: &present, onto };
            let seen = Entry::parse(&raw, Some(at)).and_then(|entry| Followed::default().see(&entry, asked));
            seen.err().map(|error| error.to_string()).unwrap_or_default()
        };
        for (raw, onto, part) in [
            (command(rawdoc! {"importCollection": "shop.x"}), SIX, "`importCollection` at 1:1 in shop.$cmd"),
            (command(rawdoc! {"upgradeDowngradeViewlessTimeseries": "x"}), SIX, "`upgradeDowngradeViewlessTimeseries`"),
            (rawdoc! {"op": "xi", "ns": "shop.x", "o": {"_id": 1}}, SIX, "unknown op 'xi'"),
            (command(rawdoc! {"createDatabaseMetadata": "shop"}), shard, "`createDatabaseMetadata` at 1:1"),
            (command(rawdoc! {"dropDatabaseMetadata": "shop"}), shard, "`dropDatabaseMetadata`"),
            (command(rawdoc! {"createDatabaseMetadata": "shop"}), SIX, ""),
            (command(rawdoc! {"dropIdent": "collection-7"}), shard, ""),
            (command(rawdoc! {"setMultikeyMetadata": "x"}), shard, ""),
            (rawdoc! {"op": "ci", "ns": "shop.x", "o": {"k": 1}}, shard, ""),
            (rawdoc! {"op": "km", "o": {}}, shard, ""),
            (
                command(rawdoc! {"create": "x", "timeseries": {"timeField": "t", "bucketRoundingSeconds": 9}}),
                SIX,
                "6.3.0",
            ),
            (command(rawdoc! {"create": "x", "novelty": 1}), SIX, "option 'novelty' is unknown"),
            (
                command(rawdoc! {"createIndexes": "x", "v": 2, "key": {"a": 1}, "name": "a", "novelty": 1}),
                SIX,
                "'novelty'",
            ),
            (command(rawdoc! {"collMod": "x", "timeseries": {"bucketRoundingSeconds": 9}}), SIX, "6.3.0"),
            (
                rawdoc! {"op": "i", "ns": "shop.system.buckets.x", "o": {"control": {"version": 3}}},
                SIX,
                "control.version 3",
            ),
        ] {
            let ops = || bson::RawArrayBuf::from_iter([raw.clone()]);
            let nested = rawdoc! {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": ops()}};
            let lsid = rawdoc! {"id": Binary::from(Uuid::new())};
            let transaction =
                rawdoc! {"op": "c", "ns": "admin.$cmd", "lsid": lsid, "txnNumber": 1_i64, "o": {"applyOps": ops()}};
            for entry in [raw.clone(), nested, transaction] {
                let said = look(entry.clone(), onto);
                assert!(said.contains(part) && said.is_empty() == part.is_empty(), "{entry:?}: {said}");
            }
        }
        let lsid = rawdoc! {"id": Binary::from(Uuid::new())};
        let commit =
            rawdoc! {"op": "c", "ns": "admin.$cmd", "lsid": lsid, "txnNumber": 1_i64, "o": {"commitTransaction": 1}};
        assert_eq!(look(commit, shard), "", "no command of its own");
    }
}
