//! A selection in a sharded cluster: which of the target's routing is dropped, which routing is restored, and why a
//! restore may be refused (docs/format.md E.4, E.10).
//!
//! # Consistency
//!
//! The routing of namespaces that are not selected is in use and stays. If a database is only restored in part and the
//! target has it, it keeps its primary shard. Then its primary shard in the backup must be the same one, because the
//! restore puts unsharded collections where the backup has them. Chunks and zones are found by the collections that
//! have a selected name, in the backup or at some time in the replayed oplog.

use super::router::{Ids, RoutingSource, clear, database_version, fill, run_or_older, text_of, uuid_of};
use crate::archive::described;
use crate::layout::ReplsetLayout;
use crate::model::names::series_name;
use crate::model::{backup::BackupMeta, selection::Selection};
use crate::snapshot::stored::StoredDocuments;
use crate::storage::Storage;
use crate::{
    replay::{followed_names::Followed, own_routing::OwnRouting},
    routing::shard_ids::translate,
};
use anyhow::{Context as _, Result};
use bson::{Bson, Document, RawDocument, Uuid, doc};
use futures::TryStreamExt as _;
use mongodb::Client;
use std::collections::{BTreeMap, BTreeSet};

/// Returns the selected namespaces that the backup's replica sets contain together, as `db.coll`. A time series is
/// listed by its own name.
pub async fn names(storage: &dyn Storage, backup: &BackupMeta, selection: &Selection) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for part in &backup.replsets {
        let name = ReplsetLayout::new(&backup.name, &part.name, backup.compression).metadata_of(part);
        let meta = described::read(storage, &name).await?;
        let selected = meta.namespaces.into_iter().filter(|ns| selection.wants(&ns.db, &ns.coll));
        found.extend(selected.map(|ns| format!("{}.{}", ns.db, series_name(&ns.coll))));
    }
    Ok(found)
}

/// The name by which people know a sharded collection.
pub(super) fn known_as(ns: &str) -> String {
    ns.split_once('.').map_or_else(|| ns.to_owned(), |(db, coll)| format!("{db}.{}", series_name(coll)))
}

/// For a config server: returns the databases of the target that keep their primary shard, or all reasons why the
/// selection can't be restored. Changes nothing.
pub async fn kept(
    storage: &dyn Storage,
    config: &Client,
    source: &RoutingSource,
    ids: &Ids,
    selection: &Selection,
    followed: &Followed,
) -> Result<Result<BTreeSet<String>, Vec<String>>> {
    let mut there: BTreeMap<String, String> = BTreeMap::new();
    let table = config.database("config").collection::<Document>("databases");
    let mut databases = table.find(doc! {}).await.context("read config.databases")?;
    while let Some(database) = databases.try_next().await.context("read config.databases")? {
        let (id, primary) = (database.get_str("_id"), database.get_str("primary"));
        if let (Ok(id), Ok(primary)) = (id, primary)
            && selection.touches(id)
            && !selection.wants_database(id)
        {
            there.insert(id.to_owned(), primary.to_owned());
        }
    }
    let mut reasons = Vec::new();
    for db in followed.moved.iter().filter(|db| there.contains_key(*db)) {
        reasons.push(format!(
            "database '{db}' went to another primary shard in the oplog that is replayed; select it as a whole ({db}.*)"
        ));
    }
    each(storage, source.databases.as_ref(), |database| {
        let (Some(id), Some(primary)) = (text_of(database, "_id"), text_of(database, "primary")) else { return };
        let primary = ids.get(primary).map_or(primary, String::as_str);
        if let Some(here) = there.get(id).filter(|here| *here != primary) {
            reasons.push(format!(
                "the primary shard of database '{id}' is '{here}', but '{primary}' in the backup, and its other collections have \
                 to stay where they are; move it there with movePrimary, or select it as a whole ({id}.*)"
            ));
        }
    })
    .await?;
    Ok(if reasons.is_empty() { Ok(there.into_keys().collect()) } else { Err(reasons) })
}

/// Calls `see` with every document of a table.
async fn each(storage: &dyn Storage, data: Option<&StoredDocuments>, mut see: impl FnMut(&RawDocument)) -> Result<()> {
    let Some(data) = data else { return Ok(()) };
    let mut reading = data.open(storage).await?;
    while let Some(document) = reading.next_document().await? {
        see(&document);
    }
    Ok(())
}

/// Returns the sharded collections of the target for which `wanted` is true. A time series is listed under its own name
/// and not under that of its buckets.
pub async fn sharded(config: &Client, wanted: impl Fn(&str) -> bool) -> Result<BTreeSet<String>> {
    let table = config.database("config").collection::<Document>("collections");
    let mut listed = table.find(doc! {}).projection(doc! { "_id": 1 }).await.context("read config.collections")?;
    let mut sharded = BTreeSet::new();
    while let Some(collection) = listed.try_next().await.context("read config.collections")? {
        sharded.extend(collection.get_str("_id").ok().map(known_as).filter(|ns| wanted(ns)));
    }
    Ok(sharded)
}

/// Drops, on all shards, the sharded collections for which `go` is true and whose database has the shard `id` as its
/// primary shard. For a time series, `go` receives its own name. `shard` is a client of that shard's primary.
pub async fn drop_collections(config: &Client, shard: &Client, id: &str, go: impl Fn(&str) -> bool) -> Result<usize> {
    let mut dropped = 0;
    // The server drops a time series only by its own name.
    for ns in sharded(config, go).await? {
        let Some((db, coll)) = ns.split_once('.') else { continue };
        let Some(version) = database_version(config, db, id).await? else { continue };
        let command = doc! {
            "_shardsvrDropCollection": coll, "databaseVersion": version, "writeConcern": { "w": "majority" },
        };
        let older = doc! { "_configsvrDropCollection": &ns, "writeConcern": { "w": "majority" } };
        let done = run_or_older(&shard.database(db), command, config, older).await;
        done.with_context(|| format!("drop the sharded collection '{ns}'"))?;
        dropped += 1;
    }
    Ok(dropped)
}

/// Removes the planned deletions of documents that selected chunks left behind when they moved away; see
/// [`super::router::forget_range_deletions`].
pub async fn forget_range_deletions(shard: &Client, selection: &Selection) -> Result<u64> {
    super::router::forget_range_deletions(shard, |ns| selection.wants_namespace(ns)).await
}

/// Replaces the selection's routing by the backup's. Returns which part of the tables a replay may change.
pub async fn put_back(
    storage: &dyn Storage,
    config: &Client,
    source: &RoutingSource,
    ids: &Ids,
    selection: &Selection,
    (kept, followed): (&BTreeSet<String>, &Followed),
) -> Result<OwnRouting> {
    let db = config.database("config");
    for data in [&source.databases, &source.collections, &source.chunks, &source.tags].into_iter().flatten() {
        data.verify(storage).await?;
    }
    let mut own = OwnRouting { uuids: followed.sharded.clone(), kept: kept.clone() };
    let mut names: Vec<String> = Vec::new();
    each(storage, source.collections.as_ref(), |collection| {
        if let Some(ns) = text_of(collection, "_id").filter(|ns| selection.wants_namespace(ns)) {
            names.push(ns.to_owned());
            own.uuids.extend(uuid_of(collection).map(|uuid| uuid.bytes()));
        }
    })
    .await?;

    let wants_database =
        |database: &RawDocument| text_of(database, "_id").is_some_and(|id| selection.touches(id) && !kept.contains(id));
    if let Some(data) = &source.databases {
        let mut replaced: Vec<String> = Vec::new();
        each(storage, Some(data), |database| {
            let name = text_of(database, "_id").filter(|_| wants_database(database));
            replaced.extend(name.map(str::to_owned));
        })
        .await?;
        clear(&db, "databases", doc! { "_id": { "$in": replaced } }).await?;
        fill(storage, &db, "databases", data, |database| {
            Ok(if wants_database(database) { Some(translate(database, ids)?) } else { None })
        })
        .await?;
    }
    // The collections that the target has under these names are included, because their drop may have left entries
    // behind.
    let mut uuids: Vec<Bson> = own.uuids.iter().map(|uuid| Uuid::from_bytes(*uuid).into()).collect();
    let table = db.collection::<Document>("collections");
    let of_selection = doc! { "$or": [{ "_id": { "$in": &names } }, { "uuid": { "$in": &uuids } }] };
    let mut there = table.find(of_selection).await.context("read config.collections")?;
    while let Some(collection) = there.try_next().await.context("read config.collections")? {
        uuids.extend(collection.get("uuid").cloned());
        // These collections were sharded after the backup was made.
        names.extend(collection.get_str("_id").ok().filter(|ns| selection.wants_namespace(ns)).map(str::to_owned));
    }
    clear(&db, "chunks", doc! { "$or": [{ "uuid": { "$in": &uuids } }, { "ns": { "$in": &names } }] }).await?;
    clear(&db, "collections", doc! { "_id": { "$in": &names } }).await?;
    clear(&db, "tags", doc! { "ns": { "$in": &names } }).await?;

    let of_selection =
        |key: &str, document: &RawDocument| text_of(document, key).is_some_and(|ns| selection.wants_namespace(ns));
    let as_it_is = |of: &str, document: &RawDocument| Ok(of_selection(of, document).then(|| document.to_owned()));
    if let Some(data) = &source.collections {
        fill(storage, &db, "collections", data, |collection| as_it_is("_id", collection)).await?;
    }
    if let Some(data) = &source.chunks {
        fill(storage, &db, "chunks", data, |chunk| {
            let own = uuid_of(chunk).is_some_and(|uuid| own.uuids.contains(&uuid.bytes()));
            Ok(if own || of_selection("ns", chunk) { Some(translate(chunk, ids)?) } else { None })
        })
        .await?;
    }
    if let Some(data) = &source.tags {
        fill(storage, &db, "tags", data, |zone| as_it_is("ns", zone)).await?;
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_known_by_their_series() {
        for (ns, known) in [("a.b", "a.b"), ("a.system.buckets.b.c", "a.b.c"), ("a", "a")] {
            assert_eq!(known_as(ns), known);
        }
    }
}
