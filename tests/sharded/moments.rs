//! The bank's oplogs are sliced on all shards; at every moment to which it is restored all the money is there.

use super::*;
use crate::slicing::moments::number;
use futures::TryStreamExt;
use mongodb::bson::doc;
use pbmbox::model::chunk::Chunk;
use rand::seq::IndexedRandom;

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

async fn every_moment_has_all_the_money(with_moves: bool) {
    let (seed, options) = (seed(), orphans_go_after(1, Options::default()));
    let count = usize::try_from(number("PBMBOX_MOMENTS").unwrap_or(3)).expect("few");
    let source = ShardedSandbox::sharded(options.clone(), BANK_SHARDS).await;
    let config = source.set.config.client().await;
    source.pbm(&["config", "--set", "pitr.oplogSpanMin=0.03"]).ok();
    source.pbm(&["config", "--set", "pitr.enabled=true"]).ok();
    money::open(&source.set).await;
    sliced(&source.set, last_write(&source.set).await).await;
    let (name, _) = money::under_load(&source.set, seed, with_moves, async |vault| {
        let base = backup_of(&source, vault, &[]).await;
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
    let base_end = ends.max().expect("replica sets");

    let mut times = Vec::new();
    for shard in &source.set.shards {
        let oplog = shard.set.client().await.database("local").collection::<Document>("oplog.rs");
        let range = doc! { "ts": { "$gt": base_end, "$lt": end }, "ns": { "$regex": "^(bank|admin[.][$]cmd)" } };
        let found: Vec<Document> = oplog.find(range).await.expect("read").try_collect().await.expect("read");
        times.extend(found.iter().map(|entry| entry.get_timestamp("ts").expect("ts")));
    }
    let mut moments: Vec<Timestamp> = times.choose_multiple(&mut rand::rng(), count).copied().collect();
    moments.push(end);

    let target = ShardedSandbox::around(ShardedCluster::start(options, BANK_SHARDS).await).await;
    target.configure_at(&source.store(), &[]).await;
    target.pbm(&["config", "--force-resync", "--wait"]).ok();
    for at in moments {
        eprintln!("PBMBOX_SEED={seed} --time {},{}", at.time, at.increment);
        let truth = Truth::at(&source.set, at).await;
        target.pbm(&["restore", "--time", &format!("{},{}", at.time, at.increment), "--wait", "-y"]).ok();
        truth.assert_is(&target.set).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_has_all_the_money_on_fixed_chunks() {
    every_moment_has_all_the_money(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_has_all_the_money_while_chunks_move() {
    every_moment_has_all_the_money(true).await;
}
