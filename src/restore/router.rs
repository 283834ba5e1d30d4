//! The routing of a sharded cluster: the namespaces that are dropped before the data is restored, and the config
//! servers' tables (docs/format.md E.4, E.10).
//!
//! The shards of the target may have other ids than those of the backup. [`Ids`] translates them, here and in the
//! oplog. The routing of `config.system.sessions` belongs to the target and stays.

use super::legacy_archive;
use crate::layout::{Generation, ReplsetLayout};
use crate::model::{backup::BackupMeta, selection::Selection};
use crate::mongo::code;
use crate::raw::find;
use crate::routing::shard_ids::translate;
use crate::snapshot::stored::StoredDocuments;
use crate::storage::Storage;
use anyhow::{Context as _, Result, bail};
use bson::{Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf, Uuid, doc, rawdoc};
use futures::TryStreamExt as _;
use mongodb::{Client, Database};
use std::collections::{BTreeMap, BTreeSet};

pub use crate::routing::shard_ids::Ids;

const SESSIONS: &str = "config.system.sessions";
/// The databases of the server itself.
pub const OWN: [&str; 3] = ["admin", "config", "local"];
/// The most documents and bytes in one command.
const AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 4 << 20;

/// The backup's routing tables. If one is missing, the target keeps its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutingSource {
    pub databases: Option<StoredDocuments>,
    pub collections: Option<StoredDocuments>,
    pub chunks: Option<StoredDocuments>,
    /// Zones.
    pub tags: Option<StoredDocuments>,
    /// The replica set of each shard id. This table is only read and not restored.
    pub shards: Option<StoredDocuments>,
}

impl RoutingSource {
    /// Returns the table with this name.
    pub fn table(&mut self, coll: &str) -> Option<&mut Option<StoredDocuments>> {
        match coll {
            "databases" => Some(&mut self.databases),
            "collections" => Some(&mut self.collections),
            "chunks" => Some(&mut self.chunks),
            "tags" => Some(&mut self.tags),
            "shards" => Some(&mut self.shards),
            _ => None,
        }
    }
}

/// Drops those of `databases` whose primary shard is `id`, with all their sharded collections on every shard, so that
/// no shard keeps an earlier version of them. `shard` is a client of that shard's primary.
pub async fn drop_databases(config: &Client, shard: &Client, id: &str, databases: &BTreeSet<String>) -> Result<usize> {
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

/// Runs `command` on a shard. A shard older than 5.0 does not know `command`, so the config servers run the command `older`
/// instead.
pub(super) async fn run_or_older(
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
pub(super) async fn database_version(config: &Client, db: &str, id: &str) -> Result<Option<Document>> {
    let table = config.database("config").collection::<Document>("databases");
    let found = table.find_one(doc! { "_id": db, "primary": id }).await.context("read config.databases")?;
    let version = |found: Document| {
        let version = found.get_document("version").with_context(|| format!("read the version of database '{db}'"));
        version.cloned()
    };
    found.map(version).transpose()
}

/// Returns the databases of the target whose primary shard is `id`.
pub async fn databases_of(config: &Client, id: &str) -> Result<BTreeSet<String>> {
    let table = config.database("config").collection::<Document>("databases");
    let found = table.find(doc! { "primary": id }).await.context("read config.databases")?;
    let found: Vec<Document> = found.try_collect().await.context("read config.databases")?;
    let names = found.iter().filter_map(|database| database.get_str("_id").ok());
    Ok(names.filter(|db| !OWN.contains(db)).map(str::to_owned).collect())
}

/// Removes planned deletions in the restored databases. The server plans to delete the documents that moved chunks left
/// behind. These plans belong to the routing before the restore. If they were executed later, on collections that have
/// their old UUIDs again, they would delete documents that the shard owns.
pub async fn forget_range_deletions(shard: &Client, go: impl Fn(&str) -> bool) -> Result<u64> {
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

/// Returns the databases in the backup's table, including those without a collection in the backup.
pub async fn named(storage: &dyn Storage, source: &RoutingSource) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    if let Some(data) = &source.databases {
        let mut reading = data.open(storage).await?;
        while let Some(document) = reading.next_document().await? {
            names.insert(text_of(&document, "_id").context("read the name of a database")?.to_owned());
        }
    }
    Ok(names)
}

/// Returns the shard ids of the backup, each with its replica set. A backup made before 2.0 records its shard ids only
/// in this table.
pub async fn shard_ids(storage: &dyn Storage, source: &RoutingSource) -> Result<BTreeMap<String, String>> {
    let mut known = BTreeMap::new();
    let Some(data) = &source.shards else { return Ok(known) };
    let mut reading = data.open(storage).await?;
    while let Some(document) = reading.next_document().await? {
        let (id, host) = (document.get_str("_id"), document.get_str("host"));
        let id = id.context("read the id of a shard")?;
        if let Some((rs, _)) = host.context("read the hosts of a shard")?.split_once('/') {
            known.insert(id.to_owned(), rs.to_owned());
        }
    }
    Ok(known)
}

/// Returns shard ids that the restored routing would contain although the cluster has no such shard, each with the
/// place where it occurs.
pub async fn strangers(
    storage: &dyn Storage,
    source: &RoutingSource,
    ids: &Ids,
    shards: &BTreeSet<&str>,
) -> Result<Vec<String>> {
    let mut found = BTreeMap::new();
    for (data, field, what) in [
        (&source.databases, "primary", "the primary shard of a database"),
        (&source.chunks, "shard", "the shard of a chunk"),
    ] {
        let Some(data) = data else { continue };
        let mut reading = data.open(storage).await?;
        while let Some(document) = reading.next_document().await? {
            let Ok(id) = document.get_str(field) else { continue };
            if !shards.contains(ids.get(id).map_or(id, String::as_str)) {
                found.insert(id.to_owned(), what);
            }
        }
    }
    let words =
        |(id, what)| format!("{what} is '{id}' in the backup, and no shard of the cluster has the place of that one");
    Ok(found.into_iter().map(words).collect())
}

/// The part of the target's tables that stays: the routing of databases that are not restored.
#[derive(Debug, Default)]
struct Kept {
    databases: Vec<Bson>,
    /// Names and UUIDs of sharded collections, including `config.system.sessions`.
    collections: Vec<Bson>,
    uuids: Vec<Bson>,
}

impl Kept {
    /// Reads all databases except those in the backup's table and those in `ours`.
    async fn read(
        storage: &dyn Storage,
        config: &Database,
        source: &RoutingSource,
        ours: &BTreeSet<String>,
    ) -> Result<Self> {
        let mut go = named(storage, source).await?;
        go.extend(ours.iter().cloned());
        let mut kept = Self::default();
        let mut databases =
            config.collection::<Document>("databases").find(doc! {}).await.context("read config.databases")?;
        while let Some(database) = databases.try_next().await.context("read config.databases")? {
            kept.databases.extend(database.get_str("_id").ok().filter(|db| !go.contains(*db)).map(Bson::from));
        }
        let stays = |ns: &str| {
            let db = ns.split_once('.').map_or(ns, |(db, _)| db);
            ns == SESSIONS || kept.databases.iter().any(|kept| kept.as_str() == Some(db))
        };
        let (mut names, mut uuids) = (vec![SESSIONS.into()], Vec::new());
        let table = config.collection::<Document>("collections");
        let mut collections = table.find(doc! {}).await.context("read config.collections")?;
        while let Some(collection) = collections.try_next().await.context("read config.collections")? {
            let Ok(ns) = collection.get_str("_id") else { continue };
            if stays(ns) {
                names.push(ns.into());
                uuids.extend(collection.get("uuid").cloned());
            }
        }
        (kept.collections, kept.uuids) = (names, uuids);
        Ok(kept)
    }
}

/// Replaces the tables by the backup's. Databases that are neither in its table nor in `ours` keep their routing.
/// Returns the UUID that `config.system.sessions` had in the backup.
pub async fn put_back(
    storage: &dyn Storage,
    config: &Client,
    source: &RoutingSource,
    ids: &Ids,
    ours: &BTreeSet<String>,
) -> Result<Option<Uuid>> {
    let db = config.database("config");
    for data in [&source.databases, &source.collections, &source.chunks, &source.tags].into_iter().flatten() {
        data.verify(storage).await?;
    }
    let kept = Kept::read(storage, &db, source, ours).await?;
    if !kept.databases.is_empty() {
        tracing::info!("the routing of {} databases that the backup lacks stays", kept.databases.len());
    }
    if let Some(data) = &source.databases {
        clear(&db, "databases", doc! { "_id": { "$nin": &kept.databases } }).await?;
        fill(storage, &db, "databases", data, |database| Ok(Some(translate(database, ids)?))).await?;
    }
    let mut theirs = None;
    if let Some(data) = &source.collections {
        clear(&db, "collections", doc! { "_id": { "$nin": &kept.collections } }).await?;
        fill(storage, &db, "collections", data, |collection| {
            if text_of(collection, "_id") == Some(SESSIONS) {
                theirs = uuid_of(collection);
                return Ok(None);
            }
            Ok(Some(collection.to_owned()))
        })
        .await?;
    }
    if let Some(data) = &source.chunks {
        // Before 5.0 chunks contain the name of their collection.
        clear(&db, "chunks", doc! { "uuid": { "$nin": &kept.uuids }, "ns": { "$nin": &kept.collections } }).await?;
        fill(storage, &db, "chunks", data, |chunk| {
            let sessions = text_of(chunk, "ns") == Some(SESSIONS) || theirs.is_some() && uuid_of(chunk) == theirs;
            Ok(if sessions { None } else { Some(translate(chunk, ids)?) })
        })
        .await?;
    }
    put_zones_back(storage, &db, source, &kept).await?;
    Ok(theirs)
}

/// Returns a text field of a routing document.
pub(super) fn text_of<'a>(document: &'a RawDocument, name: &str) -> Option<&'a str> {
    find(document, name)?.text()
}

/// Returns the collection UUID in a routing document.
pub(super) fn uuid_of(document: &RawDocument) -> Option<Uuid> {
    find(document, "uuid")?.uuid()
}

/// Replaces the cluster's zones by those of the backup. Zones of databases that keep their routing stay. If a config server's
/// backup has no zones, its cluster had none.
async fn put_zones_back(storage: &dyn Storage, db: &Database, source: &RoutingSource, kept: &Kept) -> Result<()> {
    let goes = |zone: &RawDocument| {
        let database = text_of(zone, "ns").and_then(|ns| ns.split_once('.')).map(|(db, _)| db);
        database.is_none_or(|name| !kept.databases.iter().any(|kept| kept.as_str() == Some(name)))
    };
    let mut zones = db.collection::<RawDocumentBuf>("tags").find(doc! {}).await.context("read config.tags")?;
    let mut gone = RawArrayBuf::new();
    while let Some(zone) = zones.try_next().await.context("read config.tags")? {
        if let Some(id) = zone.get("_id").ok().flatten().filter(|_| goes(&zone)) {
            gone.push(id.to_owned());
        }
    }
    if !gone.is_empty() {
        let delete = rawdoc! { "q": { "_id": { "$in": gone } }, "limit": 0 };
        let command = rawdoc! { "delete": "tags", "deletes": [delete], "writeConcern": { "w": "majority" } };
        let answer = db.run_raw_command(command).await.context("empty config.tags")?;
        if let Some(errors) = answer.get("writeErrors") {
            bail!("empty config.tags: {errors}");
        }
    }
    match &source.tags {
        Some(data) => fill(storage, db, "tags", data, |zone| Ok(goes(zone).then(|| zone.to_owned()))).await,
        None => Ok(()),
    }
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

pub(super) async fn clear(db: &Database, coll: &str, filter: Document) -> Result<()> {
    db.collection::<Document>(coll).delete_many(filter).await.with_context(|| format!("empty config.{coll}"))?;
    Ok(())
}

/// Passes every document of `data` to `change` and inserts the result, if there is one.
pub(super) async fn fill(
    storage: &dyn Storage,
    db: &Database,
    coll: &str,
    data: &StoredDocuments,
    mut change: impl FnMut(&RawDocument) -> Result<Option<RawDocumentBuf>>,
) -> Result<()> {
    let failed = || format!("put config.{coll} back");
    let mut reading = data.open(storage).await?;
    let (mut batch, mut count) = (RawArrayBuf::new(), 0);
    loop {
        let next = reading.next_document().await?;
        if count > 0 && (next.is_none() || count == AT_ONCE || batch.as_bytes().len() > BYTES_AT_ONCE) {
            let insert = rawdoc! { "insert": coll, "documents": std::mem::take(&mut batch), "writeConcern": { "w": "majority" } };
            let answer = db.run_raw_command(insert).await.with_context(failed)?;
            if let Some(errors) = answer.get("writeErrors") {
                bail!("put config.{coll} back: {errors}");
            }
            count = 0;
        }
        let Some(document) = next else { return Ok(()) };
        if let Some(document) = change(&document).with_context(failed)? {
            batch.push(document);
            count += 1;
        }
    }
}

/// Returns the databases in the metadata of the backup's replica sets, except the server's own.
pub async fn databases(storage: &dyn Storage, backup: &BackupMeta) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for part in &backup.replsets {
        let name = &part.dump_name;
        if Generation::of(&backup.pbm_version) == Generation::Archive {
            found.extend(legacy_archive::databases(storage, name, backup.compression).await?);
            continue;
        }
        let name = ReplsetLayout::new(&backup.name, &part.name, backup.compression).metadata_of(part);
        let meta = crate::archive::described::read(storage, &name).await?;
        found.extend(meta.namespaces.into_iter().map(|ns| ns.db));
    }
    for own in OWN {
        found.remove(own);
    }
    Ok(found)
}

/// Returns what a restore replaces on every shard: for a full restore databases, for a selective one databases and collections
/// (`db.coll`). `made` is what the oplogs of all replica sets create or drop ([`super::steps::Steps::makes`]).
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

/// Returns the mapping from the shard ids of a backup's replica sets to those of the cluster.
pub fn ids(pairs: impl IntoIterator<Item = (String, String)>) -> Ids {
    pairs.into_iter().filter(|(from, to)| from != to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the documents in the form of a collection that was set aside from an archive.
    async fn table(
        store: &crate::storage::memory::Memory,
        name: &str,
        documents: &[Document],
    ) -> Option<StoredDocuments> {
        let bytes: Vec<u8> = documents.iter().flat_map(|it| it.to_vec().expect("a document")).collect();
        let mut crc = crate::archive::crc::Crc64::new();
        crc.update(&bytes);
        let (size, crc) = (bytes.len() as u64, crc.value());
        crate::storage::write_all(store, name, bytes).await.expect("memory takes everything");
        let compression = crate::model::compression::Compression::None;
        Some(StoredDocuments { object: name.to_owned(), compression, size, crc })
    }

    #[tokio::test]
    async fn shard_ids_are_told_by_the_table_of_shards() {
        let store = crate::storage::memory::Memory::new();
        let shards = [doc! { "_id": "one", "host": "rs1/h:1,h:2" }, doc! { "_id": "shardB", "host": "rs2/h:3" }];
        let source = RoutingSource {
            shards: table(&store, "shards", &shards).await,
            databases: table(&store, "databases", &[doc! { "_id": "shop", "primary": "shardB" }]).await,
            chunks: table(&store, "chunks", &[doc! { "_id": 1, "shard": "one" }, doc! { "_id": 2, "shard": "shardB" }])
                .await,
            ..RoutingSource::default()
        };
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let known = shard_ids(&store, &source).await.expect("read");
        assert_eq!(known, BTreeMap::from([pair("one", "rs1"), pair("shardB", "rs2")]));
        let here = BTreeSet::from(["a", "b", "config"]);
        let both = Ids::from([pair("one", "a"), pair("shardB", "b")]);
        assert_eq!(strangers(&store, &source, &both, &here).await.expect("read"), [""; 0]);
        let half = Ids::from([pair("one", "a")]);
        let said = strangers(&store, &source, &half, &here).await.expect("read");
        assert!(said.len() == 1 && said[0].contains("'shardB'"), "{said:?}");
    }

    #[test]
    fn only_ids_that_differ_are_translated() {
        let ids = ids([("a", "b"), ("b", "a"), ("c", "c")].map(|(from, to)| (from.to_owned(), to.to_owned())));
        assert_eq!(ids.len(), 2);
    }
}
