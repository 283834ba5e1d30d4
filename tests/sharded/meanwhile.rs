//! What else goes on in a cluster while a backup or a restore would like to have it still.

use super::*;
use crate::faults::rig::{Hold, Rig};

const ORDERS: &str = SPREAD[0].ns;
const SOON: Duration = Duration::from_secs(60);

async fn cluster() -> ShardedSandbox {
    let sandbox = ShardedSandbox::sharded(orphans_go_after(1, Options::default()), TWO_SHARDS).await;
    fill(&sandbox.set).await;
    sandbox
}

/// Agents give their locks back a moment after the reason of a failure is known.
async fn idle(cluster: &ShardedCluster) {
    let locks = cluster.config.client().await.database("admin").collection::<Document>("pbmLock");
    wait::until("the locks to go", SOON, async || {
        (locks.count_documents(doc! {}).await.expect("count") == 0).then_some(())
    })
    .await;
}

/// A zone makes the balancer move a chunk to the first shard.
async fn make_the_balancer_move(cluster: &ShardedCluster) {
    let config = cluster.config.client().await.database("config");
    let tag = doc! { "$addToSet": { "tags": "west" } };
    config.collection::<Document>("shards").update_one(doc! { "_id": "rs1" }, tag).await.expect("tag a shard");
    let (min, max) = (doc! { "_id": 0_i64 }, doc! { "_id": mongodb::bson::Bson::MaxKey });
    let zone = doc! { "_id": { "ns": ORDERS, "min": &min }, "ns": ORDERS, "min": &min, "max": max, "tag": "west" };
    config.collection::<Document>("tags").insert_one(zone).await.expect("make a zone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_waits_for_the_chunk_that_the_balancer_moves() {
    let sandbox = cluster().await;
    let before = owned(&sandbox.set).await;
    let name = sandbox.backup(&[]);
    let hold = Hold::moving(&sandbox.set.shard("shardB").set).await;
    make_the_balancer_move(&sandbox.set).await;
    hold.entered().await;

    sandbox.pbm(&["config", "--set", "restore.timeouts.balancerStop=1"]).ok();
    let refused = sandbox.pbm(&["restore", &name, "--wait", "-y"]).failed();
    assert!(refused.stderr.contains("still moves a chunk after 1 s"), "{refused:?}");
    assert!(refused.stderr.contains("nothing was changed"), "{refused:?}");
    assert_eq!(sandbox.set.balancer_mode().await, "full", "it is on again");

    sandbox.pbm(&["config", "--set", "restore.timeouts.balancerStop=0"]).ok();
    idle(&sandbox.set).await;
    let child = sandbox.pbm_spawn(&["restore", &name, "--wait", "-y"]);
    let restores = sandbox.set.config.client().await.database("admin").collection::<Document>("pbmRestores");
    wait::until("the restore to wait for the balancer", SOON, async || {
        restores.find_one(doc! { "status": "starting", "balancer_due": true }).await.expect("read")
    })
    .await;
    hold.release().await;
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("wait").expect("wait for pbm");
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(owned(&sandbox.set).await, before);
    assert_eq!(sandbox.set.balancer_mode().await, "full");
}

/// Begins to reshard a collection and waits until the config servers are at it.
async fn reshard(cluster: &ShardedCluster) {
    let client = cluster.config.client().await;
    let operations = client.database("config").collection::<Document>("reshardingOperations");
    tokio::spawn(async move {
        let reshard = doc! {
            "_configsvrReshardCollection": ORDERS, "key": { "text": 1 }, "unique": false, "numInitialChunks": 1,
            "writeConcern": { "w": "majority" },
        };
        // It ends badly, as it is given up.
        let _ = client.database("admin").run_command(reshard).await;
    });
    wait::until("a resharding", SOON, async || operations.find_one(doc! {}).await.expect("read")).await;
}

async fn give_the_resharding_up(cluster: &ShardedCluster) {
    let client = cluster.config.client().await;
    let operations = client.database("config").collection::<Document>("reshardingOperations");
    let abort = doc! { "_configsvrAbortReshardCollection": ORDERS, "writeConcern": { "w": "majority" } };
    client.database("admin").run_command(abort).await.expect("abort the resharding");
    wait::until("the end of the resharding", SOON, async || {
        (operations.count_documents(doc! {}).await.expect("count") == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_backup_is_made_while_a_collection_is_resharded() {
    let rig = Rig::bare(cluster().await).await;
    let cluster = &rig.sandbox.set;
    reshard(cluster).await;
    let refused = rig.sandbox.pbm(&["backup", "--wait"]).failed();
    assert!(refused.stderr.contains("shop.orders is being resharded"), "{refused:?}");
    give_the_resharding_up(cluster).await;
    idle(cluster).await;

    let hold = Hold::reading_in(&cluster.shard("rs1").set, ORDERS).await;
    let child = rig.sandbox.pbm_spawn(&["backup", "--wait"]);
    hold.entered().await;
    reshard(cluster).await;
    give_the_resharding_up(cluster).await;
    hold.release().await;
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("wait").expect("wait for pbm");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("shop.orders was resharded while the backup ran"), "{said}");
    idle(cluster).await;
    rig.sandbox.backup(&[]);
}

/// One shard's dump takes longer than the other's oplog may be kept waiting.
#[tokio::test(flavor = "multi_thread")]
async fn the_oplog_is_kept_while_another_shard_is_dumped() {
    let rig = Rig::bare(cluster().await).await;
    let sandbox = &rig.sandbox;
    sandbox.pbm(&["config", "--set", "backup.oplogSpanMin=0.02"]).ok();
    let hold = Hold::reading_in(&sandbox.set.shard("rs1").set, ORDERS).await;
    let mut child = sandbox.pbm_spawn(&["backup", "--wait"]);
    hold.entered().await;
    let name = rig.reaches("pbmBackups", "running").await;
    let dumped = doc! { "name": &name, "replsets": { "$elemMatch": { "name": "rs2", "status": "dumpDone" } } };
    let backups = rig.admin().collection::<Document>("pbmBackups");
    wait::until("the other shard's dump", SOON, async || backups.find_one(dumped.clone()).await.expect("read")).await;
    let slices = || std::fs::read_dir(sandbox.store().join(&name).join("rs2/oplog")).map_or(0, Iterator::count);
    let before = slices();
    let people = sandbox.set.shard("shardB").set.client().await.database("crm").collection::<Document>("people");
    wait::until("more of its oplog to be stored", SOON, async || {
        people.update_one(doc! { "_id": 1 }, doc! { "$inc": { "n": 1 } }).await.expect("update");
        (slices() > before + 1).then_some(())
    })
    .await;
    assert!(child.try_wait().expect("look at pbm").is_none(), "the backup still runs");
    hold.release().await;
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("wait").expect("wait for pbm");
    assert!(ended.status.success(), "{ended:?}");
}
