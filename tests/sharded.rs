//! Sharded clusters: config servers and shards backed up and restored together.

use crate::support::cluster::Options;
use crate::support::sharded::{ShardedCluster, ShardedSandbox, TWO_SHARDS};
use crate::support::state;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use std::collections::BTreeMap;

const NS: &str = "shop.orders";

/// By shard id.
type Owned = BTreeMap<String, Vec<Document>>;

/// A collection on both shards, split at 0, and an unsharded one on the second shard.
async fn fill(cluster: &ShardedCluster) {
    cluster.create_database("shop", "rs1").await;
    cluster.shard_collection(NS, "_id").await;
    cluster.split(NS, 0).await;
    cluster.move_chunk(NS, 0, "shardB").await.expect("move a chunk");
    cluster.create_database("crm", "shardB").await;
    let people = cluster.shard("shardB").set.client().await.database("crm").collection::<Document>("people");
    people.insert_many((0..10).map(|n| doc! { "_id": n, "name": format!("person {n}") })).await.expect("insert");
    let mut router = cluster.router().await;
    for key in -20..20_i64 {
        router.insert(NS, doc! { "_id": key, "text": "t".repeat(50) }).await;
    }
}

/// What each shard holds, its orphans included.
async fn contents(cluster: &ShardedCluster) -> Vec<Value> {
    let mut all = Vec::new();
    for shard in &cluster.shards {
        let state = state::read(&shard.set.client().await).await;
        all.push(state["databases"].clone());
    }
    all
}

fn assert_same(cluster: &ShardedCluster, expected: &[Value], got: &[Value]) {
    for ((shard, expected), got) in cluster.shards.iter().zip(expected).zip(got) {
        let lines = state::differences(expected, got);
        assert!(lines.is_empty(), "{}:\n{}", shard.id, lines.join("\n"));
    }
}

/// What each shard owns can be read through the routing table, and the chunk of `key` moved to a shard that has never had
/// it (one that has may hold orphans of it).
async fn assert_routable(cluster: &ShardedCluster, ns: &str, expected: &Owned, key: i64, to: &str) {
    assert_eq!(&cluster.router().await.find(ns, doc! {}).await, expected, "{ns}, before another move");
    cluster.move_chunk(ns, key, to).await.expect("move a chunk");
    assert_eq!(cluster.table(ns).await.chunk_of(key).shard, to);
    let got = cluster.router().await.find(ns, doc! {}).await;
    assert!(!got[to].is_empty(), "{got:?}");
    assert_eq!(sorted(&got), sorted(expected), "{ns}, after another move");
}

fn sorted(owned: &Owned) -> Vec<&Document> {
    let mut all: Vec<&Document> = owned.values().flatten().collect();
    all.sort_by_key(|document| document.get_i64("_id").expect("a key"));
    all
}

async fn comes_back(options: Options) {
    let source = ShardedSandbox::sharded(options, TWO_SHARDS).await;
    let cluster = &source.set;
    fill(cluster).await;
    let (expected, owned) = (contents(cluster).await, cluster.router().await.find(NS, doc! {}).await);
    assert_eq!(cluster.balancer_mode().await, "full");
    let name = source.backup(&[]);
    assert_eq!(cluster.balancer_mode().await, "full", "the balancer is on again");

    let mut router = cluster.router().await;
    router.delete(NS, -3).await;
    router.update(NS, 3, doc! { "$set": { "text": "changed" } }).await;
    router.insert(NS, doc! { "_id": 100_i64 }).await;
    source.pbm(&["restore", &name, "--wait", "-y"]).ok();
    assert_same(cluster, &expected, &contents(cluster).await);
    assert_routable(cluster, NS, &owned, -1, "shardB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_cluster_comes_back() {
    comes_back(Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_cluster_with_users_comes_back() {
    comes_back(Options { members: 3, auth: true, ..Options::default() }).await;
}

/// The stage itself: what the tests above rely on works without any backup.
#[tokio::test(flavor = "multi_thread")]
async fn routing_works() {
    let cluster = ShardedCluster::start(Options { auth: true, ..Options::default() }, TWO_SHARDS).await;
    fill(&cluster).await;
    let owned = cluster.router().await.find(NS, doc! {}).await;
    assert_eq!((owned["rs1"].len(), owned["shardB"].len()), (20, 20));
    assert_routable(&cluster, NS, &owned, -1, "shardB").await;
    cluster.stop_balancer().await;
    assert_eq!(cluster.balancer_mode().await, "off");
    cluster.start_balancer().await;
    assert_eq!(cluster.balancer_mode().await, "full");
}
