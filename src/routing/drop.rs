//! Drops databases and sharded collections on all shards, and removes what the servers keep about them (docs/format.md E.4).

use super::{OWN, SESSIONS};
use crate::model::{names::series_name, selection::Selection};
use crate::mongo::code;
use anyhow::{Context as _, Result};
use bson::{Document, Uuid, doc};
use futures::TryStreamExt as _;
use mongodb::{Client, Database};
use std::collections::BTreeSet;

/// What a restore replaces on all shards.
#[derive(Debug)]
pub struct Replaced<'a> {
    pub selection: &'a Selection,
    /// Databases, and for a selective restore also collections (`db.coll`).
    pub names: BTreeSet<String>,
    /// Whether everything that the target has within the selection is dropped, too.
    pub extra: bool,
}

impl Replaced<'_> {
    /// Drops the databases and sharded collections whose primary shard has the id `id`, on every shard. `shard` is a client
    /// of that shard's primary.
    pub async fn drop(&self, config: &Client, shard: &Client, id: &str) -> Result<()> {
        let names = self.names.iter().map(|name| name.split_once('.').map_or(name.as_str(), |(db, _)| db));
        let whole = names.filter(|db| self.selection.wants_database(db) && !OWN.contains(db));
        let mut databases: BTreeSet<String> = whole.map(str::to_owned).collect();
        let everything = self.selection.is_everything();
        if everything && self.extra {
            databases.extend(databases_of(config, id).await?);
        }
        let dropped = drop_databases(config, shard, id, &databases).await?;
        tracing::info!("dropped {dropped} databases whose primary shard this is");
        if !everything {
            let go = |ns: &str| self.names.contains(ns) || self.extra && self.selection.wants_namespace(ns);
            let dropped = drop_collections(config, shard, id, go).await?;
            tracing::info!("dropped {dropped} sharded collections whose primary shard this is");
        }
        let of_database = |ns: &str| ns.split_once('.').is_some_and(|(db, _)| databases.contains(db));
        let restored = |ns: &str| if everything { of_database(ns) } else { self.selection.wants_namespace(ns) };
        let forgotten = forget_range_deletions(shard, restored).await?;
        tracing::info!("removed {forgotten} planned deletions of chunks that had moved away");
        Ok(())
    }
}

/// Drops those of `databases` whose primary shard is `id`, with all their sharded collections on every shard, so that
/// no shard keeps an earlier version of them. `shard` is a client of that shard's primary.
async fn drop_databases(config: &Client, shard: &Client, id: &str, databases: &BTreeSet<String>) -> Result<usize> {
    let mut dropped = 0;
    for db in databases {
        let Some(version) = database_version(config, db, id).await? else { continue };
        let command = doc! {
            "_shardsvrDropDatabase": 1, "databaseVersion": version, "writeConcern": { "w": "majority" },
        };
        let older = doc! { "_configsvrDropDatabase": db, "writeConcern": { "w": "majority" } };
        let done = run_or_older(&shard.database(db), command, config, older).await;
        done.with_context(|| format!("drop the sharded database '{db}'"))?;
        dropped += 1;
    }
    Ok(dropped)
}

/// Drops, on all shards, the sharded collections for which `go` is true and whose database has the shard `id` as its
/// primary shard. For a time series, `go` receives its own name. `shard` is a client of that shard's primary.
async fn drop_collections(config: &Client, shard: &Client, id: &str, go: impl Fn(&str) -> bool) -> Result<usize> {
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

/// Runs `command` on a shard. A shard older than 5.0 does not know `command`, so the config servers run the command `older`
/// instead.
async fn run_or_older(
    shard: &Database,
    command: Document,
    config: &Client,
    older: Document,
) -> Result<(), mongodb::error::Error> {
    match shard.run_command(command).await {
        Err(error) if code::code(&error) == Some(code::COMMAND_NOT_FOUND) => {
            config.database("admin").run_command(older).await.map(drop)
        }
        result => result.map(drop),
    }
}

/// Returns the version of a database whose primary shard has the id `id`. (The id can differ from the name of the
/// replica set.)
async fn database_version(config: &Client, db: &str, id: &str) -> Result<Option<Document>> {
    let table = config.database("config").collection::<Document>("databases");
    let found = table.find_one(doc! { "_id": db, "primary": id }).await.context("read config.databases")?;
    let version = |found: Document| {
        let version = found.get_document("version").with_context(|| format!("read the version of database '{db}'"));
        version.cloned()
    };
    found.map(version).transpose()
}

/// Returns the databases of the target whose primary shard is `id`.
async fn databases_of(config: &Client, id: &str) -> Result<BTreeSet<String>> {
    let table = config.database("config").collection::<Document>("databases");
    let found = table.find(doc! { "primary": id }).await.context("read config.databases")?;
    let found: Vec<Document> = found.try_collect().await.context("read config.databases")?;
    let names = found.iter().filter_map(|database| database.get_str("_id").ok());
    Ok(names.filter(|db| !OWN.contains(db)).map(str::to_owned).collect())
}

/// The name by which people know a sharded collection.
pub fn known_as(ns: &str) -> String {
    ns.split_once('.').map_or_else(|| ns.to_owned(), |(db, coll)| format!("{db}.{}", series_name(coll)))
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

/// Removes planned deletions in the restored databases. The server plans to delete the documents that moved chunks left
/// behind. These plans belong to the routing before the restore. If they were executed later, on collections that have
/// their old UUIDs again, they would delete documents that the shard owns.
async fn forget_range_deletions(shard: &Client, go: impl Fn(&str) -> bool) -> Result<u64> {
    let table = shard.database("config").collection::<Document>("rangeDeletions");
    let mut tasks = table.find(doc! {}).await.context("read config.rangeDeletions")?;
    let mut removed = 0;
    while let Some(task) = tasks.try_next().await.context("read config.rangeDeletions")? {
        if task.get_str("nss").is_ok_and(&go) {
            let done = table.delete_one(doc! { "_id": task.get("_id").cloned() }).await;
            removed += done.context("remove a planned deletion from config.rangeDeletions")?.deleted_count;
        }
    }
    Ok(removed)
}

/// Makes a shard's primary forget its cached routing, in memory and on disk. When a collection is dropped, some servers
/// (5.0.4) leave its routing in the caches of other shards. The cached routing has the same epoch as the restored
/// routing, and is newer. Such a shard asks the config servers for changes after its cached routing, gets none, and
/// refuses every read and write.
pub async fn forget(node: &Client) -> Result<()> {
    let config = node.database("config");
    let known = config.collection::<Document>("cache.collections");
    let others = doc! { "_id": { "$ne": SESSIONS } };
    let found = known.find(others).await.context("read config.cache.collections")?;
    let found: Vec<Document> = found.try_collect().await.context("read config.cache.collections")?;
    for collection in &found {
        let Ok(ns) = collection.get_str("_id") else { continue };
        // If a collection has a long name, its chunk cache is named after the collection's UUID.
        let uuid = collection.get("uuid").and_then(|uuid| bson::deserialize_from_bson::<Uuid>(uuid.clone()).ok());
        for name in std::iter::once(ns.to_owned()).chain(uuid.map(|uuid| uuid.to_string())) {
            let chunks = config.collection::<Document>(&format!("cache.chunks.{name}"));
            chunks.drop().await.with_context(|| format!("drop the known chunks of '{ns}'"))?;
        }
        known.delete_one(doc! { "_id": ns }).await.with_context(|| format!("forget the known routing of '{ns}'"))?;
    }
    node.database("admin").run_command(doc! { "flushRouterConfig": 1 }).await.context("flush the cached routing")?;
    Ok(())
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
