//! Is a collection resharded while a backup runs?
//!
//! The documents of a resharded collection are collected under a name of the server's own
//! (`db.system.resharding.<UUID>`), which a backup leaves out, and get the collection's name by a rename in the end. A backup
//! that this happens to would lack them. Every resharding has a document in the config servers' `config.reshardingOperations`
//! from its beginning to its end.

use anyhow::{Context, Result, bail};
use bson::{Bson, Document, Timestamp, doc};
use futures::TryStreamExt;
use mongodb::Client;
use std::{collections::BTreeSet, time::Duration};

const OPERATIONS: &str = "reshardingOperations";
const WHY: &str = "its documents would be missing in the backup; repeat the backup when that is done";

/// Refuses while a resharding is under way. `config` leads to the config servers.
///
/// # Errors
/// One is, or they can't be asked.
pub(super) async fn none_now(config: &Client) -> Result<()> {
    let table = config.database("config").collection::<Document>(OPERATIONS);
    let found: Vec<Document> = async { table.find(doc! {}).await?.try_collect().await }
        .await
        .with_context(|| format!("read config.{OPERATIONS}"))?;
    refuse(&found, "is being resharded")
}

/// Refuses when one began between `first` and `last`, by the oplog of the config server `node`.
///
/// # Errors
/// One did, or the oplog can't be read.
pub(super) async fn none_between(node: &Client, first: Timestamp, last: Timestamp) -> Result<()> {
    let (oplog, ns) = (node.database("local").collection::<Document>("oplog.rs"), format!("config.{OPERATIONS}"));
    // Its document is inserted by a transaction, and updated when it goes on or is given up.
    let begun = doc! { "ts": { "$gte": first, "$lte": last }, "$or": [{ "ns": &ns }, { "o.applyOps.ns": &ns }] };
    let found: Vec<Document> =
        // Without the zero a default of the cluster may end the scan.
        async { oplog.find(begun).max_time(Duration::ZERO).await?.try_collect().await }.await.context("look for reshardings in the oplog")?;
    let inserted = found.iter().flat_map(|entry| inserts(entry, &ns)).cloned().collect::<Vec<_>>();
    match inserted.is_empty() && !found.is_empty() {
        true => refuse(&[doc! {}], "was resharded while the backup ran"),
        false => refuse(&inserted, "was resharded while the backup ran"),
    }
}

/// The documents that an entry inserts into `ns`, by itself or in a transaction.
fn inserts<'a>(entry: &'a Document, ns: &'a str) -> impl Iterator<Item = &'a Document> {
    let inner = entry.get_document("o").and_then(|o| o.get_array("applyOps")).map(Vec::as_slice).unwrap_or_default();
    let all = std::iter::once(entry).chain(inner.iter().filter_map(Bson::as_document));
    all.filter(move |op| op.get_str("op").is_ok_and(|op| op == "i") && op.get_str("ns").is_ok_and(|it| it == ns))
        .filter_map(|op| op.get_document("o").ok())
}

fn refuse(operations: &[Document], what: &str) -> Result<()> {
    if operations.is_empty() {
        return Ok(());
    }
    let names: BTreeSet<&str> = operations.iter().map(|it| it.get_str("ns").unwrap_or("a collection")).collect();
    bail!("{} {what}: {WHY}", names.into_iter().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_found_alone_and_in_a_transaction() {
        let insert = doc! { "op": "i", "ns": "config.r", "o": { "ns": "a.b" } };
        let other = doc! { "op": "u", "ns": "config.r", "o": { "$set": { "state": "x" } } };
        let both = doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [other.clone(), insert.clone()] } };
        for (entry, count) in [(insert, 1), (other, 0), (both, 1)] {
            assert_eq!(inserts(&entry, "config.r").count(), count, "{entry}");
        }
    }

    #[test]
    fn collections_are_named_once() {
        assert!(refuse(&[], "is").is_ok());
        let all = ["b.c", "a.b", "b.c"].map(|ns| doc! { "ns": ns });
        let error = refuse(&all, "is being resharded").expect_err("two");
        assert!(error.to_string().starts_with("a.b, b.c is being resharded: its documents"), "{error}");
    }
}
