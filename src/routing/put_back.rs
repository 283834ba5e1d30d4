//! Replaces routing tables by those of a backup (docs/format.md E.10).
//!
//! # Consistency
//!
//! All data is checked before the first change. The documents that go are removed before the first one comes, chunks before
//! their collections: a restore that is repeated after a failure finds the chunks of a selection by the collections.

use super::SESSIONS;
use super::own::{Own, collection_uuid};
use super::shard_ids::{Ids, translate};
use super::tables::{RoutingSource, Table, each, text_of, uuid_of};
use crate::mongo::{admin, code};
use crate::snapshot::stored::StoredDocuments;
use crate::storage::Storage;
use anyhow::{Context as _, Result, bail};
use bson::{Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf, Uuid, doc, rawdoc};
use futures::TryStreamExt as _;
use mongodb::{Client, Database};
use std::collections::BTreeSet;

/// The most documents and bytes in one command.
const AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 4 << 20;

/// Replaces the part `own` of the tables by the backup's. `ours` are databases that the restore replaces although the
/// backup's table may lack them. Returns which part of the tables a replay may change.
pub async fn put_back(
    storage: &dyn Storage,
    config: &Client,
    source: &RoutingSource,
    ids: &Ids,
    own: Own,
    ours: &BTreeSet<String>,
) -> Result<Own> {
    let db = config.database("config");
    for (_, data) in source.restored() {
        data.verify(storage).await?;
    }
    let (own, removals) = match own {
        Own::Everything { .. } => everything(storage, &db, source, ours).await?,
        Own::Selected { .. } => selected(storage, &db, source, own).await?,
    };
    for (table, filter) in removals {
        remove(&db, table, filter).await?;
    }
    for (table, data) in source.restored() {
        fill(storage, &db, table, data, |document| match table {
            _ if !own.includes_document(table, document) => Ok(None),
            Table::Databases | Table::Chunks => Ok(Some(translate(document, ids)?)),
            Table::Collections | Table::Tags => Ok(Some(document.to_owned())),
        })
        .await?;
    }
    Ok(own)
}

/// Has a config server write anew where the chunks of all collections were and are (`config.placementHistory`), after its tables
/// were replaced. Change streams read it. Servers that can't do it have no such history, or do not read it for change streams.
///
/// A failure is not one of the restore: the data and its routing are there.
pub async fn renew_placement_history(config: &Client) {
    let command = doc! { "_configsvrResetPlacementHistory": 1, "writeConcern": { "w": "majority" } };
    match config.database("admin").run_command(command).await {
        Ok(_) => tracing::info!("the history of chunk placements was written anew"),
        Err(error) if code::code(&error) == Some(code::COMMAND_NOT_FOUND) => {}
        Err(error) => tracing::warn!(
            "the history of chunk placements was not written anew, so change streams over the time of the restore may miss changes: {}; \
             run resetPlacementHistory on a mongos",
            admin::reason(&error)
        ),
    }
}

/// Filters for the documents that are removed from the target's tables, in the order of their use.
type Removals = Vec<(Table, RawDocumentBuf)>;

/// Of a full restore: the routing of databases that are neither in the backup's table nor in `ours` stays, and that of
/// `config.system.sessions`. A table that the backup lacks stays, except the zones: if a config server's backup has no
/// zones, its cluster had none.
async fn everything(
    storage: &dyn Storage,
    db: &Database,
    source: &RoutingSource,
    ours: &BTreeSet<String>,
) -> Result<(Own, Removals)> {
    let Kept { databases, collections, uuids } = Kept::read(storage, db, source, ours).await?;
    if !databases.is_empty() {
        tracing::info!("the routing of {} databases that the backup lacks stays", databases.len());
    }
    let mut sessions = None;
    each(storage, source.collections.as_ref(), |collection| {
        if text_of(collection, "_id") == Some(SESSIONS) {
            sessions = uuid_of(collection);
        }
        Ok(())
    })
    .await?;
    let kept = Vec::from_iter(&databases);
    let own = [
        // Before 5.0 chunks contain the name of their collection.
        (Table::Chunks, doc! { "uuid": { "$nin": uuids }, "ns": { "$nin": &collections } }),
        (Table::Collections, doc! { "_id": { "$nin": &collections } }),
        (Table::Databases, doc! { "_id": { "$nin": kept } }),
    ];
    let mut removals = Removals::new();
    for (table, filter) in own.into_iter().filter(|(table, _)| source.restored().any(|(it, _)| it == *table)) {
        removals.push((table, RawDocumentBuf::try_from(filter)?));
    }
    let own = Own::Everything { sessions, kept: databases };
    removals.push((Table::Tags, zones_of(db, &own).await?));
    Ok((own, removals))
}

/// Of a selective restore: only the routing of the selection is removed, under the names and UUIDs that it has in the
/// backup, in the oplog and on the target.
async fn selected(storage: &dyn Storage, db: &Database, source: &RoutingSource, own: Own) -> Result<(Own, Removals)> {
    let Own::Selected { selection, mut uuids, kept } = own else { bail!("the routing is not that of a selection") };
    let mut names: Vec<String> = Vec::new();
    each(storage, source.collections.as_ref(), |collection| {
        if let Some(ns) = text_of(collection, "_id").filter(|ns| selection.wants_namespace(ns)) {
            names.push(ns.to_owned());
            uuids.extend(collection_uuid(collection));
        }
        Ok(())
    })
    .await?;
    // The collections that the target has under these names are included, because their drop may have left entries
    // behind.
    let mut gone: Vec<Bson> = uuids.iter().map(|uuid| Uuid::from_bytes(*uuid).into()).collect();
    let table = db.collection::<Document>("collections");
    let there = doc! { "$or": [{ "_id": { "$in": &names } }, { "uuid": { "$in": &gone } }] };
    let mut there = table.find(there).await.context("read config.collections")?;
    while let Some(collection) = there.try_next().await.context("read config.collections")? {
        gone.extend(collection.get("uuid").cloned());
        // These collections were sharded after the backup was made.
        names.extend(collection.get_str("_id").ok().filter(|ns| selection.wants_namespace(ns)).map(str::to_owned));
    }
    let own = Own::Selected { selection, uuids, kept };
    let mut databases: Vec<String> = Vec::new();
    each(storage, source.databases.as_ref(), |database| {
        let name = text_of(database, "_id").filter(|_| own.includes_document(Table::Databases, database));
        databases.extend(name.map(str::to_owned));
        Ok(())
    })
    .await?;
    let removals = [
        (Table::Chunks, doc! { "$or": [{ "uuid": { "$in": gone } }, { "ns": { "$in": &names } }] }),
        (Table::Collections, doc! { "_id": { "$in": &names } }),
        (Table::Tags, doc! { "ns": { "$in": &names } }),
        (Table::Databases, doc! { "_id": { "$in": databases } }),
    ];
    let raw = |(table, filter)| anyhow::Ok((table, RawDocumentBuf::try_from(filter)?));
    Ok((own, removals.into_iter().map(raw).collect::<Result<_>>()?))
}

/// The part of the target's tables that a full restore leaves: the routing of databases that are not restored.
struct Kept {
    databases: BTreeSet<String>,
    /// Names and UUIDs of sharded collections, including `config.system.sessions`.
    collections: Vec<String>,
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
        let restored = source.named(storage).await?;
        let mut kept = Self { databases: BTreeSet::new(), collections: vec![SESSIONS.to_owned()], uuids: Vec::new() };
        let mut databases =
            config.collection::<Document>("databases").find(doc! {}).await.context("read config.databases")?;
        while let Some(database) = databases.try_next().await.context("read config.databases")? {
            let stays = |db: &&str| !restored.contains(*db) && !ours.contains(*db);
            kept.databases.extend(database.get_str("_id").ok().filter(stays).map(str::to_owned));
        }
        let table = config.collection::<Document>("collections");
        let mut collections = table.find(doc! {}).await.context("read config.collections")?;
        while let Some(collection) = collections.try_next().await.context("read config.collections")? {
            let Ok(ns) = collection.get_str("_id") else { continue };
            if ns == SESSIONS || kept.databases.contains(ns.split_once('.').map_or(ns, |(db, _)| db)) {
                kept.collections.push(ns.to_owned());
                kept.uuids.extend(collection.get("uuid").cloned());
            }
        }
        Ok(kept)
    }
}

/// Returns a filter for the target's zones that belong to `own`. It has their ids as the server returns them, because they
/// contain values of shard keys.
async fn zones_of(db: &Database, own: &Own) -> Result<RawDocumentBuf> {
    let mut zones = db.collection::<RawDocumentBuf>("tags").find(doc! {}).await.context("read config.tags")?;
    let mut ids = RawArrayBuf::new();
    while let Some(zone) = zones.try_next().await.context("read config.tags")? {
        if let Some(id) = zone.get("_id").ok().flatten().filter(|_| own.includes_document(Table::Tags, &zone)) {
            ids.push(id.to_owned());
        }
    }
    Ok(rawdoc! { "_id": { "$in": ids } })
}

async fn remove(db: &Database, table: Table, filter: RawDocumentBuf) -> Result<()> {
    let delete = rawdoc! { "q": filter, "limit": 0 };
    let command = rawdoc! { "delete": table.name(), "deletes": [delete], "writeConcern": { "w": "majority" } };
    run(db, command, || format!("empty config.{}", table.name())).await
}

/// Passes every document of `data` to `change` and inserts the result, if there is one.
async fn fill(
    storage: &dyn Storage,
    db: &Database,
    table: Table,
    data: &StoredDocuments,
    mut change: impl FnMut(&RawDocument) -> Result<Option<RawDocumentBuf>>,
) -> Result<()> {
    let failed = || format!("put config.{} back", table.name());
    let mut reading = data.open(storage).await?;
    let (mut batch, mut count) = (RawArrayBuf::new(), 0);
    loop {
        let next = reading.next_document().await?;
        if count > 0 && (next.is_none() || count == AT_ONCE || batch.as_bytes().len() > BYTES_AT_ONCE) {
            let documents = std::mem::take(&mut batch);
            let insert =
                rawdoc! { "insert": table.name(), "documents": documents, "writeConcern": { "w": "majority" } };
            run(db, insert, failed).await?;
            count = 0;
        }
        let Some(document) = next else { return Ok(()) };
        if let Some(document) = change(&document).with_context(failed)? {
            batch.push(document);
            count += 1;
        }
    }
}

/// Runs a write command. The driver does not look for errors of single documents in its answer.
async fn run(db: &Database, command: RawDocumentBuf, action: impl Fn() -> String) -> Result<()> {
    let answer = db.run_raw_command(command).await.with_context(&action)?;
    for key in ["writeErrors", "writeConcernError"] {
        if let Some(error) = answer.get(key) {
            bail!("{}: {error}", action());
        }
    }
    Ok(())
}
