//! Decides which part of a cluster's routing a restore replaces, or why it can't be restored. Changes nothing.
//!
//! # Consistency
//!
//! If a selective restore restores a database only in part and the target has it, the database keeps its primary shard.
//! Then its primary shard in the backup must be the same one, because the restore puts unsharded collections where the
//! backup has them.

use super::own::Own;
use super::shard_ids::Ids;
use super::tables::{RoutingSource, each, text_of};
use crate::model::selection::Selection;
use crate::storage::Storage;
use anyhow::{Context as _, Result};
use bson::{Document, doc};
use futures::TryStreamExt as _;
use mongodb::Client;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The facts from which [`check`] decides.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub source: &'a RoutingSource,
    /// The shard ids of the backup that differ from those of the cluster.
    pub ids: &'a Ids,
    /// Maps each replica set of the backup to its shard id in the cluster.
    pub places: &'a BTreeMap<String, String>,
    pub selection: &'a Selection,
    /// The databases that move to another primary shard in the oplog.
    pub moved: &'a BTreeSet<String>,
    /// UUIDs of the sharded collections that have a selected name according to the oplog.
    pub sharded: &'a HashSet<[u8; 16]>,
}

/// Returns the part of the routing that is replaced, or all reasons why it can't be restored. `config` is a client of the
/// target's config servers.
pub async fn check(storage: &dyn Storage, config: &Client, facts: &Facts<'_>) -> Result<Result<Own, Vec<String>>> {
    if facts.selection.is_everything() {
        let reasons = strangers(storage, facts).await?;
        return Ok(if reasons.is_empty() { Ok(Own::default()) } else { Err(reasons) });
    }
    let there = in_part(config, facts.selection).await?;
    let reasons = moves(storage, facts, &there).await?;
    if !reasons.is_empty() {
        return Ok(Err(reasons));
    }
    let kept = there.into_keys().collect();
    Ok(Ok(Own::Selected { selection: facts.selection.clone(), uuids: facts.sharded.clone(), kept }))
}

/// Returns the databases of the target that are restored only in part, each with its primary shard.
async fn in_part(config: &Client, selection: &Selection) -> Result<BTreeMap<String, String>> {
    let mut there = BTreeMap::new();
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
    Ok(there)
}

/// Returns a reason for every database of `there` that would need another primary shard.
async fn moves(storage: &dyn Storage, facts: &Facts<'_>, there: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut reasons = Vec::new();
    for db in facts.moved.iter().filter(|db| there.contains_key(*db)) {
        reasons.push(format!(
            "database '{db}' went to another primary shard in the oplog that is replayed; select it as a whole ({db}.*)"
        ));
    }
    each(storage, facts.source.databases.as_ref(), |database| {
        let (Some(id), Some(primary)) = (text_of(database, "_id"), text_of(database, "primary")) else { return Ok(()) };
        let primary = facts.ids.get(primary).map_or(primary, String::as_str);
        if let Some(here) = there.get(id).filter(|here| *here != primary) {
            reasons.push(format!(
                "the primary shard of database '{id}' is '{here}', but '{primary}' in the backup, and its other collections have \
                 to stay where they are; move it there with movePrimary, or select it as a whole ({id}.*)"
            ));
        }
        Ok(())
    })
    .await?;
    Ok(reasons)
}

/// Returns a reason for every shard id that the restored routing would contain although the cluster has no such shard.
async fn strangers(storage: &dyn Storage, facts: &Facts<'_>) -> Result<Vec<String>> {
    let shards: BTreeSet<&str> = facts.places.values().map(String::as_str).collect();
    let mut found = BTreeMap::new();
    for (data, field, what) in [
        (&facts.source.databases, "primary", "the primary shard of a database"),
        (&facts.source.chunks, "shard", "the shard of a chunk"),
    ] {
        each(storage, data.as_ref(), |document| {
            if let Some(id) = text_of(document, field)
                && !shards.contains(facts.ids.get(id).map_or(id, String::as_str))
            {
                found.insert(id.to_owned(), what);
            }
            Ok(())
        })
        .await?;
    }
    let words =
        |(id, what)| format!("{what} is '{id}' in the backup, and no shard of the cluster has the place of that one");
    Ok(found.into_iter().map(words).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::tables::tests::stored;

    #[tokio::test]
    async fn shards_that_the_cluster_lacks_are_named() {
        let store = crate::storage::memory::Memory::new();
        let source = RoutingSource {
            databases: stored(&store, "databases", &[doc! { "_id": "shop", "primary": "shardB" }]).await,
            chunks: stored(&store, "chunks", &[doc! { "_id": 1, "shard": "one" }, doc! { "_id": 2, "shard": "a" }])
                .await,
            ..RoutingSource::default()
        };
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
        };
        let places = map(&[("rs1", "a"), ("rs2", "b"), ("cfg", "config")]);
        for (ids, expected) in
            [(map(&[("one", "a"), ("shardB", "b")]), &[][..]), (map(&[("one", "a")]), &["primary shard"][..])]
        {
            let (selection, moved, sharded) = Default::default();
            let (ids, places, moved, sharded) = (&ids, &places, &moved, &sharded);
            let facts = Facts { source: &source, ids, places, selection: &selection, moved, sharded };
            let reasons = strangers(&store, &facts).await.expect("read");
            assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
            assert!(reasons.iter().zip(expected).all(|(reason, word)| reason.contains(word)), "{reasons:?}");
        }
    }

    #[tokio::test]
    async fn a_database_in_part_keeps_its_primary_shard() {
        let store = crate::storage::memory::Memory::new();
        let databases = [doc! { "_id": "shop", "primary": "one" }, doc! { "_id": "crm", "primary": "b" }];
        let source =
            RoutingSource { databases: stored(&store, "databases", &databases).await, ..RoutingSource::default() };
        let ids = Ids::from([("one".to_owned(), "a".to_owned())]);
        let here = |shop: &str| BTreeMap::from([("shop".to_owned(), shop.to_owned())]);
        for (there, moved, expected) in
            [(here("a"), "crm", 0), (here("b"), "crm", 1), (here("a"), "shop", 1), (BTreeMap::new(), "shop", 0)]
        {
            let moved = BTreeSet::from([moved.to_owned()]);
            let (selection, sharded, places) = Default::default();
            let (ids, places, sharded) = (&ids, &places, &sharded);
            let facts = Facts { source: &source, ids, places, selection: &selection, moved: &moved, sharded };
            let reasons = moves(&store, &facts, &there).await.expect("read");
            assert_eq!(reasons.len(), expected, "{there:?} {reasons:?}");
        }
    }
}
