//! Routing that a shard keeps itself, in `config.shard.catalog.*`: newer servers can do so (from 8.1 on, when it is switched on).
//! Then the tables of the config servers are not all that a restore has to replace.

use crate::mongo::listing;
use anyhow::{Context, Result, bail};
use bson::{Document, doc};
use mongodb::Client;

/// The beginning of these collections' names.
const OWN: &str = "shard.catalog.";

/// Returns the name of a collection with such routing, if `shard` has documents in one.
///
/// # Errors
/// The shard can't be asked.
pub async fn find(shard: &Client) -> Result<Option<String>> {
    let config = shard.database("config");
    let named = doc! { "name": { "$regex": format!("^{}", OWN.replace('.', "\\.")) } };
    let listed = listing::documents(&config, doc! { "listCollections": 1, "filter": named }).await;
    for coll in listed.context("list the collections of config")?.iter().filter_map(|it| it.get_str("name").ok()) {
        let first = config.collection::<Document>(coll).find_one(doc! {}).await;
        if first.with_context(|| format!("read config.{coll}"))?.is_some() {
            return Ok(Some(format!("config.{coll}")));
        }
    }
    Ok(None)
}

/// Refuses a shard that has such routing.
///
/// # Errors
/// It has, or it can't be asked.
pub async fn refuse(shard: &Client) -> Result<()> {
    match find(shard).await? {
        None => Ok(()),
        Some(coll) => bail!(
            "this shard keeps its routing itself ({coll}), which this version can't restore; restore to a cluster that keeps it on \
             the config servers only (8.0 does)"
        ),
    }
}
