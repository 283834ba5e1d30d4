//! The bank's oplogs are sliced on all shards; at every moment to which it is restored all the money is there.

use super::*;
use crate::slicing::moments::number;
use futures::TryStreamExt;
use mongodb::bson::doc;
use pbmbox::model::chunk::Chunk;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

async fn chunks(config: &Client) -> Vec<Chunk> {
    let chunks = config.database("admin").collection::<Chunk>("pbmPITRChunks");
    chunks.find(doc! {}).await.expect("read the chunks").try_collect().await.expect("read the chunks")
}

/// The time up to which all replica sets have chunks.
fn common_end(chunks: &[Chunk], sets: usize) -> Option<Timestamp> {
    let mut ends: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for chunk in chunks {
        let end = ends.entry(&chunk.rs).or_insert(chunk.end_ts);
        *end = chunk.end_ts.max(*end);
    }
    (ends.len() == sets).then(|| ends.into_values().min()).flatten()
}

/// Waits until all replica sets are sliced so far; gives how far they are.
pub async fn sliced(cluster: &ShardedCluster, until: Timestamp) -> Timestamp {
    let (config, sets) = (cluster.config.client().await, cluster.shards.len() + 1);
    wait::until("all replica sets to be sliced", Duration::from_secs(60), async || {
        common_end(&chunks(&config).await, sets).filter(|end| *end >= until)
    })
    .await
}

/// Creates a database after the base backup, with a sharded collection and one that is not sharded.
async fn make_more(cluster: &ShardedCluster) {
    cluster.create_database("late", "shardB").await;
    cluster.shard_collection("late.things", "_id").await;
    cluster.split("late.things", 0).await;
    // Other chunks move too, and a shard takes part in one move at a time.
    wait::until("a chunk to move", Duration::from_secs(60), async || {
        cluster.move_chunk("late.things", 1, "rs1").await.ok()
    })
    .await;
    cluster.shard_collection("bank.later", "_id").await;
    let mut router = cluster.router().await;
    for key in -3..3_i64 {
        router.insert("late.things", doc! { "_id": key }).await;
        router.insert("bank.later", doc! { "_id": key }).await;
    }
    let late = cluster.shard("shardB").set.client().await.database("late");
    late.collection("alone").insert_one(doc! { "_id": 1 }).await.expect("insert");
}

/// Writes more data, and creates one of the collections again.
async fn change_more(cluster: &ShardedCluster, n: i64) {
    let routing = cluster.config.client().await.database("config").collection::<Document>("collections");
    if routing.find_one(doc! { "_id": "late.things" }).await.expect("read").is_some() {
        cluster.router().await.insert("late.things", doc! { "_id": 100 + n }).await;
    }
    let late = cluster.shard("shardB").set.client().await.database("late").collection("alone");
    late.drop().await.expect("drop");
    late.insert_one(doc! { "_id": "another", "n": n }).await.expect("insert");
}

/// Lists the names and places of all databases and sharded collections, now or at a moment.
async fn names(cluster: &ShardedCluster, at: Option<Timestamp>) -> Vec<String> {
    let config = cluster.config.client().await.database("config");
    let mut names = Vec::new();
    for coll in ["databases", "collections"] {
        let mut find = doc! { "find": coll, "filter": { "_id": { "$ne": "config.system.sessions" } } };
        if let Some(at) = at {
            find.insert("readConcern", doc! { "level": "snapshot", "atClusterTime": at });
        }
        let found = config.run_cursor_command(find).await.expect("read");
        let found: Vec<Document> = found.try_collect().await.expect("read");
        let name = |it: &Document| format!("{coll}: {} {:?}", it.get_str("_id").expect("_id"), it.get("primary"));
        names.extend(found.iter().map(name));
    }
    names.sort();
    names
}

async fn every_moment_has_all_the_money(with_moves: bool, in_place: bool) {
    let (seed, options) = (seed(), orphans_go_after(1, Options::default()));
    let count = usize::try_from(number("PBMBOX_MOMENTS").unwrap_or(3)).expect("few");
    let source = ShardedSandbox::sharded(options.clone(), BANK_SHARDS).await;
    let config = source.set.config.client().await;
    source.pbm(&["config", "--set", "pitr.oplogSpanMin=0.03"]).ok();
    source.pbm(&["config", "--set", "pitr.enabled=true"]).ok();
    money::open(&source.set).await;
    sliced(&source.set, last_write(&source.set).await).await;
    let (name, made) = money::under_load(&source.set, seed, with_moves, async |vault| {
        let mut base = backup_of(&source, vault, &[]).await;
        if in_place {
            make_more(&source.set).await;
            // Collections that are newer than the moment and missing in the backup may stay.
            base.1 = last_write(&source.set).await;
        }
        sliced(&source.set, last_write(&source.set).await).await;
        base
    })
    .await;
    let end = sliced(&source.set, last_write(&source.set).await).await;
    source.pbm(&["config", "--set", "pitr.enabled=false"]).ok();

    // The earliest moment for this base: the newest end of all its replica sets.
    let backups = config.database("admin").collection::<Document>("pbmBackups");
    let base = backups.find_one(doc! { "name": &name }).await.expect("read").expect("the base");
    let ends = base.get_array("replsets").expect("replica sets").iter();
    let ends = ends.map(|rs| rs.as_document().expect("a part").get_timestamp("last_write_ts").expect("its end"));
    let base_end = ends.max().expect("replica sets").max(made);

    let mut times = Vec::new();
    for shard in &source.set.shards {
        let oplog = shard.set.client().await.database("local").collection::<Document>("oplog.rs");
        let range = doc! { "ts": { "$gt": base_end, "$lt": end }, "ns": { "$regex": "^(bank|admin[.][$]cmd)" } };
        let found: Vec<Document> = oplog.find(range).await.expect("read").try_collect().await.expect("read");
        times.extend(found.iter().map(|entry| entry.get_timestamp("ts").expect("ts")));
    }
    let mut moments: Vec<Timestamp> = times.choose_multiple(&mut rand::rng(), count).copied().collect();
    moments.push(end);

    let other;
    let target = if in_place {
        moments.shuffle(&mut StdRng::seed_from_u64(seed));
        &source
    } else {
        other = ShardedSandbox::around(ShardedCluster::start(options, BANK_SHARDS).await).await;
        other.configure_at(&source.store(), &[]).await;
        other.pbm(&["config", "--force-resync", "--wait"]).ok();
        &other
    };
    let mut truths = Vec::new();
    for at in moments {
        truths.push((at, Truth::at(&source.set, at).await, names(&source.set, Some(at)).await));
    }
    for (n, (at, truth, named)) in (0..).zip(truths) {
        eprintln!("PBMBOX_SEED={seed} number {n} --time {},{}", at.time, at.increment);
        if in_place {
            change_more(&source.set, n).await;
        }
        target.pbm(&["restore", "--time", &format!("{},{}", at.time, at.increment), "--wait", "-y"]).ok();
        assert_eq!(names(&target.set, None).await, named);
        truth.assert_is(&target.set).await;
        assert_eq!(target.set.balancer_mode().await, "full", "as it was before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_has_all_the_money_on_fixed_chunks() {
    every_moment_has_all_the_money(false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_has_all_the_money_where_it_was_while_chunks_move() {
    for _ in 0..number("PBMBOX_MOMENT_RUNS").unwrap_or(1) {
        every_moment_has_all_the_money(true, true).await;
    }
}
