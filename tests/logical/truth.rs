//! What a replica set held at a moment, by an independent way: its whole oplog, from its first entry on, applied one
//! entry at a time to an empty server. Nothing is inconsistent at its start, so nothing has to be tolerated.

use crate::support::cluster::ReplicaSet;
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongodb::{Client, Cursor};
use std::collections::{HashMap, HashSet};

/// Applies `source`'s oplog up to `until` (included) to `target`, which is empty.
pub async fn replay(source: &Client, target: &ReplicaSet, until: Timestamp) {
    replay_with(source, target, until, &HashSet::new()).await;
}

/// As [`replay`], for each shard. A distributed transaction is in, on all of its shards, when one of them has the entry of
/// its commit up to `until`.
pub async fn replay_shards(shards: &[(Client, &ReplicaSet)], until: Timestamp) {
    let sources: Vec<&Client> = shards.iter().map(|(source, _)| source).collect();
    let committed = committed_by(&sources, until).await;
    let all = shards.iter().map(|(source, target)| replay_with(source, target, until, &committed));
    futures::future::join_all(all).await;
}

/// The prepared transactions whose commit one of the shards has up to `until`.
pub async fn committed_by(shards: &[&Client], until: Timestamp) -> HashSet<String> {
    let mut committed = HashSet::new();
    for source in shards {
        let filter = doc! { "ts": { "$lte": until }, "op": "c", "o.commitTransaction": 1 };
        let oplog = source.database("local").collection::<Document>("oplog.rs");
        let mut commits = oplog.find(filter).await.expect("read the oplog");
        while let Some(entry) = commits.try_next().await.expect("read the oplog") {
            committed.insert(transaction(&entry));
        }
    }
    committed
}

/// Which transaction an entry belongs to; the same on all shards.
fn transaction(entry: &Document) -> String {
    format!("{}/{}", entry.get("lsid").expect("lsid"), entry.get("txnNumber").expect("txnNumber"))
}

/// `committed` elsewhere, which is what decides about the transactions that are still prepared at the end.
async fn replay_with(source: &Client, target: &ReplicaSet, until: Timestamp, committed: &HashSet<String>) {
    Witness::new(source, target).await.go_to(until, committed).await;
}

/// A server that goes through the states of another one.
pub struct Witness {
    pub target: Client,
    entries: Cursor<Document>,
    ahead: Option<Document>,
    open: HashMap<String, Vec<Bson>>,
    prepared: HashSet<String>,
}

impl Witness {
    /// `target` is empty.
    pub async fn new(source: &Client, target: &ReplicaSet) -> Self {
        let oplog = source.database("local").collection::<Document>("oplog.rs");
        Self {
            target: target.client().await,
            entries: oplog.find(doc! {}).await.expect("read the oplog"),
            ahead: None,
            open: HashMap::new(),
            prepared: HashSet::new(),
        }
    }

    /// Goes on to the state at `until`, which must not be older than before.
    pub async fn go_to(&mut self, until: Timestamp, committed: &HashSet<String>) {
        loop {
            let next = match self.ahead.take() {
                None => self.entries.try_next().await.expect("read the oplog"),
                ahead => ahead,
            };
            let Some(entry) = next else { break };
            if entry.get_timestamp("ts").expect("ts") > until {
                self.ahead = Some(entry);
                break;
            }
            self.take(&entry).await;
        }
        let decided: Vec<String> = self.prepared.iter().filter(|key| committed.contains(*key)).cloned().collect();
        for key in decided {
            self.commit(&key).await;
        }
    }

    async fn take(&mut self, entry: &Document) {
        let o = entry.get_document("o").expect("o");
        let in_transaction = entry.contains_key("lsid")
            && entry.contains_key("txnNumber")
            && entry.get_str("op").is_ok_and(|op| op == "c")
            && entry.get_i32("multiOpType").unwrap_or(0) != 1;
        if !in_transaction {
            return apply(&self.target, entry).await;
        }
        let key = transaction(entry);
        if o.contains_key("abortTransaction") {
            self.open.remove(&key);
            return;
        }
        if let Ok(ops) = o.get_array("applyOps") {
            self.open.entry(key.clone()).or_default().extend(ops.iter().cloned());
        }
        if o.contains_key("prepare") {
            self.prepared.insert(key);
        } else if !o.contains_key("partialTxn") {
            self.commit(&key).await;
        }
    }

    async fn commit(&mut self, key: &str) {
        self.prepared.remove(key);
        for op in self.open.remove(key).unwrap_or_default() {
            apply(&self.target, op.as_document().expect("an operation")).await;
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
                return build(target, db, doc! { "createIndexes": coll, "indexes": [index] }).await;
            }
            "commitIndexBuild" => {
                let coll = o.get_str("commitIndexBuild").expect("a collection");
                let indexes = o.get_array("indexes").expect("indexes").clone();
                return build(target, db, doc! { "createIndexes": coll, "indexes": indexes }).await;
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

/// Builds indexes. A time series' index that is there already is a conflict for the server if only the order of its
/// specification's fields differs; what is there then is compared with the restore's like everything else. Beside the
/// remains of a failed time series the command means those; the indexes of such a collection are not compared.
async fn build(target: &Client, db: &str, command: Document) {
    const INDEX_OPTIONS_CONFLICT: i32 = 85;
    let built = target.database(db).run_command(command.clone()).await;
    let code = |error: &mongodb::error::Error| match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(error) => Some(error.code),
        _ => None,
    };
    let there = built.as_ref().is_err_and(|error| code(error) == Some(INDEX_OPTIONS_CONFLICT));
    if built.is_ok() || there {
        return;
    }
    let coll = command.get_str("createIndexes").expect("a collection");
    assert!(beside_remains(target, db, coll).await, "{command}: {built:?}");
}

/// Is there a collection of this name, and buckets of this name that are not its own?
async fn beside_remains(target: &Client, db: &str, coll: &str) -> bool {
    let names = doc! { "name": { "$in": [coll, format!("system.buckets.{coll}")] } };
    let listed = target.database(db).list_collections().filter(names).await.expect("list collections");
    let listed: Vec<_> = listed.try_collect().await.expect("list collections");
    listed.len() == 2 && listed.iter().all(|it| it.collection_type == mongodb::results::CollectionType::Collection)
}
