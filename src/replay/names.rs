//! Frees names on the target before the oplog gives them to a collection, and hides collections under temporary names.
//!
//! The server reports success for many commands that it did not carry out (see the table in [`super::target`]). So the
//! replay looks up which collection has a name, before and after each change of a name. If another collection has the
//! name and is not part of the restore (the target had it before), it is dropped. If that collection is part of the
//! restore, the dump saw it under its later name. It is displaced: it gets a temporary name until the oplog gives it
//! its later name.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};
use bson::{RawDocument, Uuid, rawdoc};

use crate::model::names::BUCKETS;
use crate::oplog::entry::Entry;
use crate::raw::find;
use crate::replay::catalog::Catalog;
use crate::replay::key::Key;
use crate::replay::op::command_document;
use crate::replay::target::{Mode, Occupant, Target};
use crate::replay::temporary_names;

/// Tracks which collections of the target have temporary names.
#[derive(Debug)]
pub(super) struct Names {
    target: Target,
    /// UUIDs of collections of the restore that have a temporary name until the oplog gives them their own name.
    displaced: HashSet<Uuid>,
    /// Databases that have a `system.views`.
    with_views: HashSet<String>,
}

impl Names {
    pub(super) fn new(target: Target) -> Self {
        Self { target, displaced: HashSet::new(), with_views: HashSet::new() }
    }

    /// Sends a command from the oplog, or a command in the form of an oplog entry.
    pub(super) async fn send(&self, db: &str, key: &Key, command: &RawDocument) -> Result<()> {
        self.target.apply_all(Mode::InitialSync, &[&command_document(db, key, command)]).await
    }

    /// Makes a name available for the collection `owner`, which may already have it.
    pub(super) async fn free(&mut self, catalog: &mut Catalog, db: &str, coll: &str, owner: Uuid) -> Result<()> {
        // A view of the restore is created again later in the oplog, so a view can be dropped here. It may hide a
        // collection.
        if let Some(occupant) = self.target.lookup(db, coll).await? {
            self.drop_view(catalog, db, coll, &occupant).await?;
        }
        let other = match self.target.lookup(db, coll).await? {
            Some(Occupant::Collection(other)) if other != owner => other,
            _ => return Ok(()),
        };
        let key = Key::uuid(other);
        if !catalog.knows(&key) {
            log_foreign_drop(db, coll);
            return self.target.drop(db, coll).await;
        }
        self.displace(catalog, key, other, (db, coll)).await
    }

    async fn displace(&mut self, catalog: &mut Catalog, key: Key, uuid: Uuid, (db, coll): (&str, &str)) -> Result<()> {
        let temporary = format!("{db}.{}", temporary_names::generate());
        let rename = rawdoc! {"renameCollection": format!("{db}.{coll}"), "to": temporary.as_str()};
        self.rename(catalog, &key, &rename, (db, &temporary)).await?;
        self.displaced.insert(uuid);
        Ok(())
    }

    /// Renames a collection of the restore. No collection may have the new name.
    pub(super) async fn rename(
        &mut self,
        catalog: &mut Catalog,
        key: &Key,
        command: &RawDocument,
        (from_db, to): (&str, &str),
    ) -> Result<()> {
        self.send(from_db, key, command).await?;
        catalog.rename(key, to);
        Ok(())
    }

    /// Records that the oplog gave a displaced collection its own name.
    pub(super) fn forget_displaced(&mut self, uuid: Uuid) {
        self.displaced.remove(&uuid);
    }

    /// Drops the displaced collections that the oplog gave no name, if they were in use before the replay: they are
    /// newer than the oplog.
    ///
    /// # Errors
    /// One of these collections comes from the dump, which means that the dump and the oplog do not belong together.
    pub(super) async fn drop_displaced(&mut self, catalog: &mut Catalog) -> Result<()> {
        for uuid in std::mem::take(&mut self.displaced) {
            let Some(collection) = catalog.get(&Key::uuid(uuid)) else { continue };
            let ns = collection.ns.clone();
            match ns.split_once('.') {
                Some((db, coll)) if collection.existing_indexes.is_some() => {
                    tracing::info!(
                        uuid = uuid.to_string(),
                        "dropping a collection whose name the oplog gave to another one"
                    );
                    self.drop_by_uuid(catalog, db, coll, uuid).await.with_context(|| format!("drop {ns}"))?;
                }
                _ => bail!("{ns} was moved out of the way and the oplog gave it no name again"),
            }
        }
        Ok(())
    }

    pub(super) async fn drop_by_uuid(&mut self, catalog: &mut Catalog, db: &str, coll: &str, uuid: Uuid) -> Result<()> {
        let key = Key::uuid(uuid);
        catalog.forget(&key);
        self.displaced.remove(&uuid);
        self.send(db, &key, &rawdoc! {"drop": coll}).await
    }

    /// Drops the collection with this name, in the form of an oplog entry. The ordinary command `drop`, given the name
    /// of a bucket collection, would drop its time series.
    pub(super) async fn drop_by_name(&self, db: &str, coll: &str) -> Result<()> {
        self.send(db, &Key::name(db, coll), &rawdoc! {"drop": coll}).await
    }

    /// Drops a view or time series, but not a collection that it hides. Buckets of the restore stay: either they still
    /// exist after their series was dropped, or the oplog creates them again later and replaces them then.
    pub(super) async fn drop_view(&self, catalog: &Catalog, db: &str, name: &str, occupant: &Occupant) -> Result<()> {
        if matches!(occupant, Occupant::Collection(_)) {
            return Ok(());
        }
        let id = format!("{db}.{name}");
        let delete = rawdoc! {"op": "d", "ns": format!("{db}.system.views"), "o": {"_id": id}};
        self.target.apply_all(Mode::InitialSync, &[&delete]).await?;
        if *occupant == Occupant::Timeseries {
            let buckets = format!("{BUCKETS}{name}");
            if !catalog.knows(&Key::name(db, &buckets)) {
                self.drop_by_name(db, &buckets).await?;
            }
        }
        Ok(())
    }

    /// Prepares for `insert`, which creates a view or time series in `system.views`: creates the collection
    /// `system.views`, and frees the name of the view.
    pub(super) async fn make_room_for_view(&mut self, catalog: &Catalog, db: &str, insert: &Entry<'_>) -> Result<()> {
        if !self.with_views.contains(db) {
            if self.target.lookup(db, "system.views").await?.is_none() {
                self.send(db, &Key::name(db, ""), &rawdoc! {"create": "system.views"}).await?;
            }
            self.with_views.insert(db.to_owned());
        }
        let Some((db, name)) = find(insert.o, "_id").and_then(|id| id.text()?.split_once('.')) else { return Ok(()) };
        match self.target.lookup(db, name).await? {
            // The view hides a collection of the restore until the oplog drops the view.
            Some(Occupant::Collection(uuid)) if !catalog.knows(&Key::uuid(uuid)) => {
                log_foreign_drop(db, name);
                self.drop_by_name(db, name).await
            }
            _ => Ok(()),
        }
    }

    /// Records that `system.views` of a database was dropped.
    pub(super) fn forget_views(&mut self, db: &str) {
        self.with_views.remove(db);
    }

    /// Fails unless the collection `uuid` has this name.
    pub(super) async fn expect(&self, db: &str, coll: &str, uuid: Uuid) -> Result<()> {
        match self.target.lookup(db, coll).await? {
            Some(Occupant::Collection(found)) if found == uuid => Ok(()),
            other => bail!("{db}.{coll} should have the UUID {uuid} but is {other:?}"),
        }
    }
}

fn log_foreign_drop(db: &str, coll: &str) {
    tracing::info!(ns = format!("{db}.{coll}"), "dropping a collection that is not in the backup but has a name of it");
}
