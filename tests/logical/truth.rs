//! What a replica set held at a moment, by an independent way: its whole oplog, from its first entry on, applied one
//! entry at a time to an empty server. Nothing is inconsistent at its start, so nothing has to be tolerated.

use crate::support::cluster::ReplicaSet;
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Bson, Document, Timestamp, doc};
use std::collections::{HashMap, HashSet};

/// Applies `source`'s oplog up to `until` (included) to `target`, which is empty.
pub async fn replay(source: &Client, target: &ReplicaSet, until: Timestamp) {
    replay_with(source, target, until, &HashSet::new()).await;
}

/// As [`replay`], for each shard. A distributed transaction is in, on all of its shards, when one of them has the entry of
/// its commit up to `until`.
pub async fn replay_shards(shards: &[(Client, &ReplicaSet)], until: Timestamp) {
    let mut committed = HashSet::new();
    for (source, _) in shards {
        let filter = doc! { "ts": { "$lte": until }, "op": "c", "o.commitTransaction": 1 };
        let oplog = source.database("local").collection::<Document>("oplog.rs");
        let mut commits = oplog.find(filter).await.expect("read the oplog");
        while let Some(entry) = commits.try_next().await.expect("read the oplog") {
            committed.insert(transaction(&entry));
        }
    }
    let all = shards.iter().map(|(source, target)| replay_with(source, target, until, &committed));
    futures::future::join_all(all).await;
}

/// Which transaction an entry belongs to; the same on all shards.
fn transaction(entry: &Document) -> String {
    format!("{}/{}", entry.get("lsid").expect("lsid"), entry.get("txnNumber").expect("txnNumber"))
}

/// `committed` elsewhere, which is what decides about the transactions that are still prepared at the end.
async fn replay_with(source: &Client, target: &ReplicaSet, until: Timestamp, committed: &HashSet<String>) {
    let target = target.client().await;
    let mut entries = source
        .database("local")
        .collection::<Document>("oplog.rs")
        .find(doc! { "ts": { "$lte": until } })
        .await
        .expect("read the oplog");
    let mut open: HashMap<String, Vec<Bson>> = HashMap::new();
    let mut prepared: HashSet<String> = HashSet::new();
    while let Some(entry) = entries.try_next().await.expect("read the oplog") {
        let o = entry.get_document("o").expect("o");
        let in_transaction = entry.contains_key("lsid")
            && entry.contains_key("txnNumber")
            && entry.get_str("op").is_ok_and(|op| op == "c")
            && entry.get_i32("multiOpType").unwrap_or(0) != 1;
        if !in_transaction {
            apply(&target, &entry).await;
            continue;
        }
        let key = transaction(&entry);
        if o.contains_key("abortTransaction") {
            open.remove(&key);
            continue;
        }
        if let Ok(ops) = o.get_array("applyOps") {
            open.entry(key.clone()).or_default().extend(ops.iter().cloned());
        }
        if o.contains_key("prepare") {
            prepared.insert(key);
            continue;
        }
        if o.contains_key("partialTxn") {
            continue;
        }
        for op in open.remove(&key).unwrap_or_default() {
            apply(&target, op.as_document().expect("an operation")).await;
        }
    }
    for (key, ops) in open {
        if prepared.contains(&key) && committed.contains(&key) {
            for op in ops {
                apply(&target, op.as_document().expect("an operation")).await;
            }
        }
    }
}

async fn apply(target: &Client, entry: &Document) {
    let (op, ns) = (entry.get_str("op").expect("op"), entry.get_str("ns").expect("ns"));
    let db = ns.split('.').next().unwrap_or_default();
    if op == "n" || ["admin", "config", "local", ""].contains(&db) {
        return;
    }
    let o = entry.get_document("o").expect("o");
    if op == "c" {
        let command = o.keys().next().map(String::as_str).unwrap_or_default();
        match command {
            "applyOps" => {
                for inner in o.get_array("applyOps").expect("operations") {
                    Box::pin(apply(target, inner.as_document().expect("an operation"))).await;
                }
                return;
            }
            "startIndexBuild" | "abortIndexBuild" => return,
            // Not an operation for applyOps: the entry is the index's specification behind the collection's name.
            "createIndexes" => {
                let mut index = o.clone();
                let coll = index.remove("createIndexes").expect("a collection");
                let build = doc! { "createIndexes": coll, "indexes": [index] };
                target.database(db).run_command(build).await.expect("build an index");
                return;
            }
            "commitIndexBuild" => {
                let coll = o.get_str("commitIndexBuild").expect("a collection");
                let build = doc! { "createIndexes": coll, "indexes": o.get_array("indexes").expect("indexes").clone() };
                target.database(db).run_command(build).await.expect("build indexes");
                return;
            }
            _ => {}
        }
    }
    let mut single = doc! { "op": op, "ns": ns, "o": o.clone() };
    for key in ["o2", "ui"] {
        if let Some(value) = entry.get(key) {
            single.insert(key, value.clone());
        }
    }
    if op == "c" {
        single.remove("o2");
    }
    let done = target.database("admin").run_command(doc! { "applyOps": [single.clone()] }).await;
    // Before 6.0 the oldest documents of a capped collection leave by the insert alone, here as on the source.
    if op == "d" && done.as_ref().is_err_and(|e| e.to_string().contains("capped collection")) {
        return;
    }
    assert!(done.is_ok(), "{single}: {done:?}");
}
