//! Sharded clusters: config servers and shards backed up and restored together.

mod money;

use crate::logical::truth;
use crate::support::cluster::{Options, ReplicaSet};
use crate::support::sharded::{ShardedCluster, ShardedSandbox, TWO_SHARDS, Table};
use crate::support::{state, wait};
use futures::TryStreamExt;
use money::{ACCOUNTS, TOTAL, VAULT};
use mongodb::Client;
use mongodb::bson::{Document, Timestamp, doc};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

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
    cluster.stop_balancer().await;
    assert_eq!(cluster.balancer_mode().await, "off");
    // As after a restore, which leaves the balancer off.
    assert_routable(&cluster, NS, &owned, -1, "shardB").await;
    cluster.start_balancer().await;
    assert_eq!(cluster.balancer_mode().await, "full");
}

/// The third shard never gets anything before the restore.
const BANK_SHARDS: &[(&str, &str)] = &[TWO_SHARDS[0], TWO_SHARDS[1], ("rs3", "rs3")];

/// What a moved chunk leaves behind goes soon, so that it can come back.
fn bank_options(options: Options) -> Options {
    Options { args: ["--setParameter", "orphanCleanupDelaySecs=1"].map(str::to_owned).to_vec(), ..options }
}

fn seed() -> u64 {
    let seed = std::env::var("PBMBOX_SEED")
        .map_or_else(|_| rand::random_range(0..1_000_000), |s| s.parse().expect("a number"));
    eprintln!("PBMBOX_SEED={seed}");
    seed
}

/// What a cluster was at a moment, by way of its oplogs and of the config server's history.
struct Truth {
    /// In the order of the shards.
    contents: Vec<Value>,
    tables: BTreeMap<&'static str, Table>,
}

impl Truth {
    /// Whose money is all there.
    async fn at(cluster: &ShardedCluster, moment: Timestamp) -> Self {
        let replicas =
            futures::future::join_all(cluster.shards.iter().map(|_| ReplicaSet::start(Options::default()))).await;
        let mut sources: Vec<(Client, &ReplicaSet)> = Vec::new();
        for (shard, replica) in cluster.shards.iter().zip(&replicas) {
            sources.push((shard.set.client().await, replica));
        }
        truth::replay_shards(&sources, moment).await;
        let mut replayed: Vec<(&str, Client)> = Vec::new();
        let mut contents = Vec::new();
        for (shard, replica) in cluster.shards.iter().zip(&replicas) {
            let client = replica.client().await;
            contents.push(state::read(&client).await["databases"].clone());
            replayed.push((&shard.id, client));
        }
        let mut tables = BTreeMap::new();
        for ns in [ACCOUNTS, VAULT] {
            let table = Table::read(&cluster.config.client().await, ns, Some(moment)).await;
            assert_eq!(money::owned_total(ns, &table, &replayed).await, TOTAL, "{ns} at {moment}");
            tables.insert(ns, table);
        }
        Self { contents, tables }
    }

    /// A restored cluster is the same and works.
    async fn assert_is(&self, cluster: &ShardedCluster) {
        assert_same(cluster, &self.contents, &contents(cluster).await);
        for (ns, table) in &self.tables {
            assert_eq!(cluster.table(ns).await.chunks, table.chunks, "{ns}");
            let owned = cluster.router().await.find(ns, doc! {}).await;
            assert_eq!(money::sum(owned.values().flatten()), TOTAL, "{ns}");
            assert_routable(cluster, ns, &owned, 30, "rs3").await;
        }
    }
}

/// The backup's name and end. What is held in the vault is released while it runs.
async fn backup_of(source: &ShardedSandbox, vault: &mut money::Vault<'_>, args: &[&str]) -> (String, Timestamp) {
    let mut all = vec!["backup", "--wait", "-o", "json"];
    all.extend(args);
    let mut child = source.pbm_spawn(&all);
    let backups = source.set.config.client().await.database("admin").collection::<Document>("pbmBackups");
    let begun = wait::until("the backup to run", Duration::from_secs(60), async || {
        if child.try_wait().expect("look at pbm").is_some_and(|status| !status.success()) {
            return Some(false);
        }
        let running = doc! { "status": { "$in": ["running", "dumpDone", "done"] } };
        backups.find_one(running).await.expect("read").map(|_| true)
    })
    .await;
    if begun {
        vault.shake().await;
    }
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("wait").expect("wait for pbm");
    assert!(output.status.success(), "{output:?}");
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let name = printed["name"].as_str().expect("a name").to_owned();
    let meta = backups.find_one(doc! { "name": &name }).await.expect("read").expect("the backup");
    (name, meta.get_timestamp("last_write_ts").expect("last_write_ts"))
}

async fn the_money_is_kept(options: Options, with_moves: bool, args: &[&str]) {
    let (seed, options) = (seed(), bank_options(options));
    let source = ShardedSandbox::sharded(options.clone(), BANK_SHARDS).await;
    money::open(&source.set).await;
    let something = async |vault: &mut money::Vault<'_>| backup_of(&source, vault, args).await;
    let (name, end) = money::under_load(&source.set, seed, with_moves, something).await;
    let truth = Truth::at(&source.set, end).await;

    let target =
        ShardedSandbox::around(ShardedCluster::start(Options { members: 1, ..options }, BANK_SHARDS).await).await;
    target.configure_at(&source.store(), &[]).await;
    target.pbm(&["config", "--force-resync", "--wait"]).ok();
    target.pbm(&["restore", &name, "--wait", "-y"]).ok();
    truth.assert_is(&target.set).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_money_is_kept_on_single_nodes() {
    the_money_is_kept(Options::default(), false, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_money_is_kept_on_three_nodes_with_users() {
    the_money_is_kept(Options { members: 3, auth: true, ..Options::default() }, false, &["--compression", "zstd"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_money_is_kept_while_chunks_move() {
    the_money_is_kept(Options::default(), true, &[]).await;
}

/// The test's own test: at a moment that a backup could have ended at, the truth has all the money, and a cluster made
/// from the truth by hand is what is wanted of a restored one.
#[tokio::test(flavor = "multi_thread")]
async fn the_truth_has_all_the_money() {
    let cluster = ShardedCluster::start(bank_options(Options::default()), BANK_SHARDS).await;
    money::open(&cluster).await;
    let [early, late] = money::under_load(&cluster, seed(), true, async |vault| {
        let early = last_write(&cluster).await;
        vault.shake().await;
        [early, last_write(&cluster).await]
    })
    .await;
    Truth::at(&cluster, early).await;
    let truth = Truth::at(&cluster, late).await;

    let target = ShardedCluster::start(bank_options(Options::default()), BANK_SHARDS).await;
    let mut shards = Vec::new();
    for (from, to) in cluster.shards.iter().zip(&target.shards) {
        shards.push((from.set.client().await, &to.set));
    }
    truth::replay_shards(&shards, late).await;
    let (from, to) =
        (cluster.config.client().await.database("config"), target.config.client().await.database("config"));
    for coll in ["databases", "collections", "chunks"] {
        let concern = doc! { "level": "snapshot", "atClusterTime": late };
        let find = doc! { "find": coll, "readConcern": concern, "batchSize": 1000 };
        let documents: Vec<Document> =
            from.run_cursor_command(find).await.expect("read").try_collect().await.expect("read");
        let insert = doc! { "insert": coll, "documents": documents, "writeConcern": { "w": "majority" } };
        to.run_command(insert).await.expect("insert");
    }
    truth.assert_is(&target).await;
}

/// The newest write of any shard that a majority of it has.
async fn last_write(cluster: &ShardedCluster) -> Timestamp {
    let mut last = Vec::new();
    for shard in &cluster.shards {
        let admin = shard.set.client().await.database("admin");
        let hello = admin.run_command(doc! { "hello": 1 }).await.expect("hello");
        let write = hello.get_document("lastWrite").and_then(|w| w.get_document("majorityOpTime")).expect("a time");
        last.push(write.get_timestamp("ts").expect("a time"));
    }
    last.into_iter().max().expect("a shard")
}
