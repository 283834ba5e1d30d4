//! Sharded clusters: config servers and shards backed up and restored together.

mod faults;
mod meanwhile;
mod moments;
mod money;
mod newer;
mod router;
mod selective;
mod tracked;
mod versions;

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

/// A sharded collection for each primary shard. The keys below 0 are on the first shard, the others on the second one.
const SPREAD: [Spread; 2] = [
    Spread { ns: "shop.orders", primary: "rs1", other: "shardB", inner: -1, outer: -15, between: -10 },
    Spread { ns: "crm.visits", primary: "shardB", other: "rs1", inner: 1, outer: 15, between: 10 },
];

struct Spread {
    ns: &'static str,
    primary: &'static str,
    other: &'static str,
    /// Two keys on the primary shard, and where to split the chunk that has both.
    inner: i64,
    outer: i64,
    between: i64,
}

/// By shard id.
type Owned = BTreeMap<String, Vec<Document>>;

/// The collections of [`SPREAD`], and an unsharded one on the second shard.
async fn fill(cluster: &ShardedCluster) {
    let mut router = cluster.router().await;
    for spread in &SPREAD {
        let (db, _) = spread.ns.split_once('.').expect("database and collection");
        cluster.create_database(db, spread.primary).await;
        cluster.shard_collection(spread.ns, "_id").await;
        cluster.split(spread.ns, 0).await;
        cluster.move_chunk(spread.ns, -spread.outer, spread.other).await.expect("move a chunk");
        for key in -20..20_i64 {
            router.insert(spread.ns, doc! { "_id": key, "text": "t".repeat(50) }).await;
        }
    }
    let people = cluster.shard("shardB").set.client().await.database("crm").collection::<Document>("people");
    people.insert_many((0..10).map(|n| doc! { "_id": n, "name": format!("person {n}") })).await.expect("insert");
}

async fn owned(cluster: &ShardedCluster) -> Vec<Owned> {
    let mut router = cluster.router().await;
    let mut all = Vec::new();
    for spread in &SPREAD {
        all.push(router.find(spread.ns, doc! {}).await);
    }
    all
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

async fn comes_back(options: Options, with_moves: bool) {
    let source = ShardedSandbox::sharded(options, TWO_SHARDS).await;
    let cluster = &source.set;
    fill(cluster).await;
    let (expected, before) = (contents(cluster).await, owned(cluster).await);
    assert_eq!(cluster.balancer_mode().await, "full");
    let settings = cluster.config.client().await.database("config").collection::<Document>("settings");
    settings.insert_one(doc! { "_id": "chunksize", "value": 32 }).await.expect("insert");
    let name = source.backup(&[]);
    // Whichever member the command line is given, it finds the config servers.
    let set = &cluster.shard("shardB").set;
    let list = source.programs.command("pbm").env("PBM_MONGODB_URI", set.uri_of(set.size() - 1)).arg("list").output();
    assert!(String::from_utf8_lossy(&list.expect("run pbm").stdout).contains(&name));
    source.pbm(&["config", "--set", "pitr.enabled=true"]).ok();
    assert_eq!(cluster.balancer_mode().await, "full", "the balancer is on again");

    let mut router = cluster.router().await;
    for Spread { ns, other, outer, between, .. } in &SPREAD {
        router.delete(ns, -3).await;
        router.update(ns, 3, doc! { "$set": { "text": "changed" } }).await;
        router.insert(ns, doc! { "_id": 100_i64 }).await;
        if with_moves {
            cluster.split(ns, *between).await;
            cluster.move_chunk(ns, *outer, other).await.expect("move a chunk");
            // Now the shards know of it, too.
            router.find(ns, doc! {}).await;
        }
    }
    settings.update_one(doc! { "_id": "chunksize" }, doc! { "$set": { "value": 64 } }).await.expect("update");
    settings.insert_one(doc! { "_id": "newer" }).await.expect("insert");
    source.pbm(&["restore", &name, "--wait", "-y"]).ok();
    settings_come_back(cluster).await;
    let on = source.pbm(&["config", "pitr.enabled"]).ok().stdout;
    assert_eq!(on.trim(), "[pitr.enabled=true]", "as it was before");
    assert_same(cluster, &expected, &contents(cluster).await);
    if with_moves {
        orphans_are_gone(cluster).await;
    }
    for (spread, before) in SPREAD.iter().zip(&before) {
        assert_routable(cluster, spread.ns, before, spread.inner, spread.other).await;
    }
}

/// The settings are replaced one by one, so the balancer's setting is never missing.
async fn settings_come_back(cluster: &ShardedCluster) {
    let config = cluster.config.client().await;
    let settings = config.database("config").collection::<Document>("settings");
    let size = settings.find_one(doc! { "_id": "chunksize" }).await.expect("read").expect("the setting");
    assert_eq!(size.get_i32("value").ok(), Some(32));
    assert_eq!(settings.find_one(doc! { "_id": "newer" }).await.expect("read"), None);
    assert_eq!(cluster.balancer_mode().await, "full", "as it was before");
    let oplog = config.database("local").collection::<Document>("oplog.rs");
    for gone in [
        doc! { "op": "c", "ns": "config.$cmd", "o.drop": { "$in": ["settings", "tags"] } },
        doc! { "op": "d", "ns": "config.settings", "o._id": "balancer" },
    ] {
        assert_eq!(oplog.find_one(gone).await.expect("read the oplog"), None);
    }
}

/// Nothing is left that a shard means to delete.
async fn orphans_are_gone(cluster: &ShardedCluster) {
    for shard in &cluster.shards {
        let planned = shard.set.client().await.database("config").collection::<Document>("rangeDeletions");
        wait::until("the shards to delete orphans", Duration::from_secs(60), async || {
            (planned.count_documents(doc! {}).await.expect("count") == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_cluster_comes_back() {
    comes_back(Options::default(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_cluster_with_users_comes_back() {
    comes_back(Options { members: 3, auth: true, ..Options::default() }, false).await;
}

/// Chunks that move between backup and restore leave traces with the servers: routing tables in memory that are newer than
/// the restored one, and deletions of orphans that are due later, when these documents are no orphans any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_cluster_comes_back_after_chunks_moved() {
    comes_back(orphans_go_after(10, Options::default()), true).await;
}

/// What the tests above rely on works without any backup.
#[tokio::test(flavor = "multi_thread")]
async fn routing_works() {
    let cluster =
        ShardedCluster::start(Options { auth: true, ..orphans_go_after(1, Options::default()) }, TWO_SHARDS).await;
    fill(&cluster).await;
    // As after a restore, which leaves the balancer off.
    cluster.stop_balancer().await;
    assert_eq!(cluster.balancer_mode().await, "off");
    let before = owned(&cluster).await;
    for (spread, owned) in SPREAD.iter().zip(&before) {
        assert_eq!((owned["rs1"].len(), owned["shardB"].len()), (20, 20));
        assert_routable(&cluster, spread.ns, owned, spread.inner, spread.other).await;
    }
    orphans_are_gone(&cluster).await;
    cluster.start_balancer().await;
    assert_eq!(cluster.balancer_mode().await, "full");
}

/// The third shard never gets anything before the restore.
const BANK_SHARDS: &[(&str, &str)] = &[TWO_SHARDS[0], TWO_SHARDS[1], ("rs3", "rs3")];

/// When shards delete what moved chunks leave behind; until then such a chunk can't come back.
fn orphans_go_after(seconds: u32, options: Options) -> Options {
    let delay = format!("orphanCleanupDelaySecs={seconds}");
    Options { args: vec!["--setParameter".into(), delay], ..options }
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
    let (seed, options) = (seed(), orphans_go_after(1, options));
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
    let cluster = ShardedCluster::start(orphans_go_after(1, Options::default()), BANK_SHARDS).await;
    money::open(&cluster).await;
    let [early, late] = money::under_load(&cluster, seed(), true, async |vault| {
        let early = last_write(&cluster).await;
        vault.shake().await;
        [early, last_write(&cluster).await]
    })
    .await;
    Truth::at(&cluster, early).await;
    let truth = Truth::at(&cluster, late).await;

    let target = ShardedCluster::start(orphans_go_after(1, Options::default()), BANK_SHARDS).await;
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
pub async fn last_write(cluster: &ShardedCluster) -> Timestamp {
    let mut last = Vec::new();
    for shard in &cluster.shards {
        let admin = shard.set.client().await.database("admin");
        let time = async |which: &str| {
            let hello = admin.run_command(doc! { "hello": 1 }).await.expect("hello");
            let write = hello.get_document("lastWrite").and_then(|w| w.get_document(which)).expect("a time");
            write.get_timestamp("ts").expect("a time")
        };
        let written = time("opTime").await;
        wait::until("the majority to have it", Duration::from_secs(30), async || {
            (time("majorityOpTime").await >= written).then_some(())
        })
        .await;
        last.push(written);
    }
    last.into_iter().max().expect("a shard")
}
