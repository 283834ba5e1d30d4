//! Lists the routing tables that a selective backup takes from a config server (docs/format.md A.3.7).
//!
//! The collections are looked up before their chunks are read. If a collection is sharded in between, the oplog of the backup
//! contains it with all its chunks.

use super::namespaces::{Namespace, describe, is_dumped};
use crate::model::selection::Selection;
use crate::mongo::listing;
use crate::mongo::majority;
use anyhow::{Context, Result};
use bson::{Bson, Document, doc};
use futures::TryStreamExt;
use mongodb::{Client, Database};

/// Lists the routing tables, each with a filter for the selection. The other tables of a full backup are listed with a
/// filter that matches no document, as in the original.
///
/// # Errors
/// The config server can't be read.
pub async fn list(client: &Client, selection: &Selection) -> Result<Vec<Namespace>> {
    let db = client.database("config");
    let databases = find_wanted(&db, "databases", |db| selection.touches(db)).await?;
    let collections = find_wanted(&db, "collections", |ns| selection.wants_namespace(ns)).await?;
    let ids = |of: &[Document]| -> Vec<Bson> { of.iter().filter_map(|it| it.get("_id").cloned()).collect() };
    let (databases, names) = (ids(&databases), ids(&collections));
    let uuids: Vec<Bson> = collections.iter().filter_map(|it| it.get("uuid").cloned()).collect();
    let listed =
        listing::documents(&db, doc! { "listCollections": 1 }).await.context("list the collections of config")?;
    let mut namespaces = Vec::new();
    for listed in listed.iter().filter(|it| it.get_str("name").is_ok_and(|coll| is_dumped("config", coll))) {
        let Some(described) = describe(&db, listed).await? else { continue };
        let filter = match described.coll.as_str() {
            "databases" => doc! { "_id": { "$in": &databases } },
            "collections" => doc! { "_id": { "$in": &names } },
            // Before 5.0 a chunk contains the name of its collection.
            "chunks" => doc! { "$or": [{ "uuid": { "$in": &uuids } }, { "ns": { "$in": &names } }] },
            "tags" => doc! { "ns": { "$in": &names } },
            _ => doc! { "_id": { "$in": [] } },
        };
        // The number of matching documents is not known.
        namespaces.push(Namespace { filter: Some(filter), count: 0, bytes: 0, ..described });
    }
    Ok(namespaces)
}

/// Returns the ids and UUIDs of those documents of a table whose id is wanted.
async fn find_wanted(db: &Database, coll: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<Document>> {
    let failed = || format!("read config.{coll}");
    let level = majority::read_level(db.read_concern());
    let find = doc! { "find": coll, "projection": { "uuid": 1 }, "readConcern": { "level": level } };
    let cursor = db.run_cursor_command(find).await.with_context(failed)?;
    let wanted = |it: &Document| it.get_str("_id").is_ok_and(&wanted);
    cursor.try_filter(|it| std::future::ready(wanted(it))).try_collect().await.with_context(failed)
}
