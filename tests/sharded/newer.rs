//! Databases that are newer than the backup: what a full restore makes of them.

use super::*;

const NEWER: &str = "newer.things";

/// A sharded collection with a chunk on each shard, and an unsharded one, in a database that the second shard owns.
async fn make(cluster: &ShardedCluster) {
    cluster.create_database("newer", "shardB").await;
    cluster.shard_collection(NEWER, "_id").await;
    cluster.split(NEWER, 0).await;
    cluster.move_chunk(NEWER, -1, "rs1").await.expect("move a chunk");
    let mut router = cluster.router().await;
    for key in -5..5_i64 {
        router.insert(NEWER, doc! { "_id": key }).await;
    }
    plain(cluster).await.insert_one(doc! { "_id": 1 }).await.expect("insert");
}

async fn plain(cluster: &ShardedCluster) -> mongodb::Collection<Document> {
    cluster.shard("shardB").set.client().await.database("newer").collection("plain")
}

async fn things(cluster: &ShardedCluster) -> Owned {
    cluster.router().await.find(NEWER, doc! {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_the_backup_lacks_stays_usable() {
    let source = ShardedSandbox::sharded(orphans_go_after(1, Options::default()), TWO_SHARDS).await;
    let cluster = &source.set;
    fill(cluster).await;
    let before = owned(cluster).await;
    // Nothing is in it yet: only the routing table knows it.
    cluster.create_database("empty", "rs1").await;
    let name = source.backup(&[]);
    make(cluster).await;
    cluster.shard_collection("empty.later", "_id").await;
    cluster.router().await.insert("empty.later", doc! { "_id": 1_i64 }).await;
    let newer = things(cluster).await;
    cluster.add_zone(NEWER, (500, 1000), "shardB", "north").await;
    let config = cluster.config.client().await.database("config");
    let zones = async || config.collection::<Document>("tags").count_documents(doc! { "ns": NEWER }).await;
    source.pbm(&["restore", &name, "--wait", "-y"]).ok();
    assert_eq!(owned(cluster).await, before);
    assert_eq!(zones().await.expect("count"), 1, "the zone stays");
    assert_eq!(things(cluster).await, newer);
    assert_eq!(plain(cluster).await.count_documents(doc! {}).await.expect("count"), 1);
    assert_routable(cluster, NEWER, &newer, -1, "shardB").await;
    let later = cluster.shard("rs1").set.client().await.database("empty").collection::<Document>("later");
    assert_eq!(later.count_documents(doc! {}).await.expect("count"), 0, "as empty as it was");
    cluster.shard_collection("empty.later", "_id").await;

    source.pbm(&["restore", &name, "--wait", "-y", "--drop-extra"]).ok();
    assert_eq!(owned(cluster).await, before);
    assert_eq!(zones().await.expect("count"), 0, "the zone goes");
    for (table, key) in [("databases", "newer"), ("collections", NEWER)] {
        let left = config.collection::<Document>(table).count_documents(doc! { "_id": key }).await.expect("count");
        assert_eq!(left, 0, "{key} in config.{table}");
    }
    // As new, on another shard.
    cluster.create_database("newer", "rs1").await;
    cluster.shard_collection(NEWER, "_id").await;
    cluster.router().await.insert(NEWER, doc! { "_id": 1_i64 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_made_after_the_backup_comes_back_at_a_moment() {
    let source = ShardedSandbox::sharded(orphans_go_after(1, Options::default()), TWO_SHARDS).await;
    let cluster = &source.set;
    source.pbm(&["config", "--set", "pitr.oplogSpanMin=0.03", "--set", "pitr.enabled=true"]).ok();
    fill(cluster).await;
    source.backup(&[]);
    make(cluster).await;
    let newer = things(cluster).await;
    let at = last_write(cluster).await;
    // The database goes on, with other chunks, and one of its collections is made again.
    cluster.router().await.insert(NEWER, doc! { "_id": 100_i64 }).await;
    cluster.split(NEWER, 3).await;
    cluster.move_chunk(NEWER, 4, "rs1").await.expect("move a chunk");
    things(cluster).await;
    plain(cluster).await.drop().await.expect("drop");
    plain(cluster).await.insert_many([doc! { "_id": 2 }, doc! { "_id": 3 }]).await.expect("insert");
    moments::sliced(cluster, last_write(cluster).await).await;

    source.pbm(&["restore", "--time", &format!("{},{}", at.time, at.increment), "--wait", "-y"]).ok();
    assert_eq!(things(cluster).await, newer);
    assert_eq!(plain(cluster).await.count_documents(doc! { "_id": 1 }).await.expect("count"), 1);
    assert_eq!(plain(cluster).await.count_documents(doc! {}).await.expect("count"), 1);
    assert_routable(cluster, NEWER, &newer, -1, "shardB").await;
}
