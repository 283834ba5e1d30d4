//! What a restore of a sharded cluster replaces on every shard. Each replica set reports what its oplog creates; together
//! with the backup this decides what is dropped.

use super::{Checked, Steps};
use crate::archive::described;
use crate::layout::{Generation, ReplsetLayout};
use crate::model::names::series_name;
use crate::model::{backup::BackupMeta, selection::Selection};
use crate::restore::{
    legacy_archive,
    plan::{Drop, TargetNamespace},
};
use crate::routing::OWN;
use crate::routing::drop::{Replaced, known_as, sharded};
use crate::storage::Storage;
use anyhow::Result;
use mongodb::Client;
use std::collections::BTreeSet;

impl Steps<Checked> {
    /// Returns the databases and collections that the oplog of this replica set creates or drops and that other replica
    /// sets may also have. For a full restore these are databases, including those in the backup's routing table. For a
    /// selective restore they are the databases that are selected as a whole, and the sharded collections (`db.coll`)
    /// that get a selected name. `config` is a client of the config servers.
    pub async fn makes(&self, config: &Client) -> Result<BTreeSet<String>> {
        let (followed, selection) = (&self.work.followed, &self.work.order.wish.selection);
        let whole = followed.databases.iter().filter(|db| selection.wants_database(db));
        let mut made: BTreeSet<String> = whole.cloned().collect();
        if !followed.creates.is_empty() {
            made.extend(sharded(config, |ns| followed.creates.contains(ns)).await?);
        }
        if selection.is_everything() {
            made.extend(self.work.plan.routing.named(self.work.aside.as_ref()).await?);
        }
        Ok(made)
    }

    /// Adds all namespaces that the target has in these databases and collections (`db.coll`) to the planned drops,
    /// because the restore replaces them on every shard.
    pub fn replace(&mut self, names: &BTreeSet<String>) {
        let goes = |ns: &&TargetNamespace| {
            ns.is_readable()
                && ns.is_droppable()
                && (names.contains(&ns.db) || names.contains(&known_as(&ns.to_string())))
        };
        let more = self.work.target.namespaces.iter().filter(goes);
        let more = more.map(|ns| Drop { db: ns.db.clone(), coll: ns.coll.clone() });
        let all: BTreeSet<Drop> = std::mem::take(&mut self.work.plan.drops).into_iter().chain(more).collect();
        self.work.plan.drops = all.into_iter().collect();
    }

    /// Drops the databases and sharded collections that the restore replaces, on all shards, if their primary shard is this
    /// one, whose id is `id`. `ours` are the names that [`replaced`] returned.
    pub async fn drop_on_all_shards(&self, config: &Client, id: &str, ours: &BTreeSet<String>) -> Result<()> {
        let wish = &self.work.order.wish;
        let mut names = ours.clone();
        if !wish.selection.is_everything() {
            names.extend(selected_names(self.storage(), &self.work.order.backup, &wish.selection).await?);
            names.extend(self.work.followed.creates.iter().cloned());
        }
        let replaced = Replaced { selection: &wish.selection, names, extra: wish.drop_extra };
        replaced.drop(config, &self.work.client, id).await
    }
}

/// Returns what a restore replaces on every shard: for a full restore databases, for a selective one databases and collections
/// (`db.coll`). `made` is what the oplogs of all replica sets create or drop ([`Steps::makes`]).
pub async fn replaced(
    storage: &dyn Storage,
    backup: &BackupMeta,
    selection: &Selection,
    made: BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let mut all = made;
    if selection.is_everything() {
        all.extend(databases(storage, backup).await?);
    }
    all.retain(|name| !OWN.contains(&name.as_str()));
    Ok(all)
}

/// Returns the databases in the metadata of the backup's replica sets.
async fn databases(storage: &dyn Storage, backup: &BackupMeta) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for part in &backup.replsets {
        if Generation::of(&backup.pbm_version) == Generation::Archive {
            found.extend(legacy_archive::databases(storage, &part.dump_name, backup.compression).await?);
            continue;
        }
        let name = ReplsetLayout::new(&backup.name, &part.name, backup.compression).metadata_of(part);
        let meta = described::read(storage, &name).await?;
        found.extend(meta.namespaces.into_iter().map(|ns| ns.db));
    }
    Ok(found)
}

/// Returns the selected namespaces that the backup's replica sets contain together, as `db.coll`. A time series is
/// listed by its own name.
pub(super) async fn selected_names(
    storage: &dyn Storage,
    backup: &BackupMeta,
    selection: &Selection,
) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for part in &backup.replsets {
        let name = ReplsetLayout::new(&backup.name, &part.name, backup.compression).metadata_of(part);
        let meta = described::read(storage, &name).await?;
        let selected = meta.namespaces.into_iter().filter(|ns| selection.wants(&ns.db, &ns.coll));
        found.extend(selected.map(|ns| format!("{}.{}", ns.db, series_name(&ns.coll))));
    }
    Ok(found)
}
