//! What a replica set held at a moment, by an independent way: its whole oplog, from its first entry on, applied one
//! entry at a time to an empty server. Nothing is inconsistent at its start, so nothing has to be tolerated.

use crate::support::cluster::ReplicaSet;
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Bson, Document, Timestamp, doc};
use std::collections::HashMap;

/// Applies `source`'s oplog up to `until` (included) to `target`, which is empty.
pub async fn replay(source: &Client, target: &ReplicaSet, until: Timestamp) {
    let target = target.client().await;
    let mut entries = source
        .database("local")
        .collection::<Document>("oplog.rs")
        .find(doc! { "ts": { "$lte": until } })
        .await
        .expect("read the oplog");
    let mut open: HashMap<String, Vec<Bson>> = HashMap::new();
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
        let key = format!("{}/{}", entry.get("lsid").expect("lsid"), entry.get("txnNumber").expect("txnNumber"));
        if o.contains_key("abortTransaction") {
            open.remove(&key);
            continue;
        }
        if let Ok(ops) = o.get_array("applyOps") {
            open.entry(key.clone()).or_default().extend(ops.iter().cloned());
        }
        if o.contains_key("partialTxn") || o.contains_key("prepare") {
            continue;
        }
        for op in open.remove(&key).unwrap_or_default() {
            apply(&target, op.as_document().expect("an operation")).await;
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
