//! Routing tables as newer servers write them: unsharded collections that are tracked, fields that nobody knows yet, and the
//! history of chunk placements. A server of 6.0 reads such a collection as a sharded one with a single chunk.

use super::*;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Uuid};

const TRACKED: &str = "shop.tracked";

async fn tables(cluster: &ShardedCluster) -> mongodb::Database {
    cluster.config.client().await.database("config")
}

async fn routing(cluster: &ShardedCluster) -> Option<Document> {
    tables(cluster).await.collection("collections").find_one(doc! { "_id": TRACKED }).await.expect("read the routing")
}

/// Makes a collection with documents on a shard, as the server does it: with this UUID.
async fn make(cluster: &ShardedCluster, shard: &str, uuid: Uuid, ids: &[i64]) {
    let client = cluster.shard(shard).set.client().await;
    let create = doc! { "op": "c", "ns": "shop.$cmd", "ui": uuid, "o": { "create": "tracked" } };
    client.database("admin").run_command(doc! { "applyOps": [create] }).await.expect("create");
    let documents = ids.iter().map(|id| doc! { "_id": id });
    client.database("shop").collection("tracked").insert_many(documents).await.expect("insert");
}

/// Tracks it there.
async fn track(cluster: &ShardedCluster, shard: &str, uuid: Uuid) -> Document {
    let now = Timestamp { time: 1_700_000_000, increment: 1 };
    let collection = doc! {
        "_id": TRACKED, "lastmodEpoch": ObjectId::new(), "lastmod": DateTime::from_millis(0), "timestamp": now, "uuid": uuid,
        "key": { "_id": 1 }, "unique": false, "unsplittable": true, "enableAutoMerge": false, "novelty": { "a": [1, "b"] },
    };
    let chunk = doc! {
        "_id": ObjectId::new(), "uuid": uuid, "min": { "_id": Bson::MinKey }, "max": { "_id": Bson::MaxKey }, "shard": shard,
        "lastmod": Timestamp { time: 1, increment: 0 }, "onCurrentShardSince": now,
        "history": [{ "validAfter": now, "shard": shard }],
    };
    let config = tables(cluster).await;
    config.collection::<Document>("collections").insert_one(&collection).await.expect("insert");
    config.collection::<Document>("chunks").insert_one(chunk).await.expect("insert");
    collection
}

async fn ids(cluster: &ShardedCluster, shard: &str) -> Vec<i64> {
    let coll = cluster.shard(shard).set.client().await.database("shop").collection::<Document>("tracked");
    let found: Vec<Document> =
        coll.find(doc! {}).sort(doc! { "_id": 1 }).await.expect("find").try_collect().await.expect("find");
    found.iter().map(|it| it.get_i64("_id").expect("an id")).collect()
}

/// Drops it everywhere, behind the backs of the config servers.
async fn lose(cluster: &ShardedCluster) {
    for shard in &cluster.shards {
        let coll = shard.set.client().await.database("shop").collection::<Document>("tracked");
        coll.drop().await.expect("drop");
    }
    let config = tables(cluster).await;
    config.collection::<Document>("collections").delete_one(doc! { "_id": TRACKED }).await.expect("delete");
    config
        .collection::<Document>("chunks")
        .delete_many(doc! { "history.validAfter": { "$lt": Timestamp { time: 1_700_000_001, increment: 0 } } })
        .await
        .expect("delete");
}

#[tokio::test(flavor = "multi_thread")]
async fn tracked_collections_come_back_where_they_were_with_every_field_of_their_routing() {
    let source = ShardedSandbox::sharded(orphans_go_after(1, Options::default()), TWO_SHARDS).await;
    let cluster = &source.set;
    cluster.stop_balancer().await;
    cluster.create_database("shop", "rs1").await;
    let history = tables(cluster).await.collection::<Document>("placementHistory");
    let note =
        doc! { "_id": 1, "nss": TRACKED, "timestamp": Timestamp { time: 1, increment: 1 }, "shards": ["shardB"] };
    history.insert_one(&note).await.expect("insert");
    let first = Uuid::new();
    make(cluster, "rs1", first, &[1, 2]).await;
    let untracked = source.backup(&[]);
    lose(cluster).await;

    // Not on the primary shard of its database.
    let moved = Uuid::new();
    make(cluster, "shardB", moved, &[3, 4, 5]).await;
    let document = track(cluster, "shardB", moved).await;
    let tracked = source.backup(&[]);
    for selection in [&[][..], &["--ns", TRACKED]] {
        lose(cluster).await;
        source.pbm(&[&["restore", &tracked, "--wait", "-y"][..], selection].concat()).ok();
        assert_eq!((ids(cluster, "rs1").await, ids(cluster, "shardB").await), (vec![], vec![3, 4, 5]), "{selection:?}");
        assert_eq!(routing(cluster).await.as_ref(), Some(&document), "{selection:?}");
        let found = cluster.router().await.find(TRACKED, doc! {}).await;
        assert_eq!(found.values().flatten().count(), 3, "{selection:?}: {found:?}");
    }
    // The target tracks it elsewhere than the backup, which does not track it at all.
    for selection in [&["--ns", TRACKED][..], &[]] {
        source.pbm(&[&["restore", &untracked, "--wait", "-y"][..], selection].concat()).ok();
        assert_eq!((ids(cluster, "rs1").await, ids(cluster, "shardB").await), (vec![1, 2], vec![]), "{selection:?}");
        assert_eq!(routing(cluster).await, None, "{selection:?}");
        lose(cluster).await;
        make(cluster, "shardB", moved, &[3, 4, 5]).await;
        track(cluster, "shardB", moved).await;
    }
    // Not a matter of the restore: this server has no command to write it anew.
    let kept: Vec<Document> = history.find(doc! {}).await.expect("find").try_collect().await.expect("find");
    assert_eq!(kept, [note]);
}
