//! They write, we read: the chunks of the original lead to every moment that its fixtures know.

use crate::compat::{assert_cluster, copy, fixtures, is_lost_in_the_backup};
use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use crate::support::sharded::{ShardedCluster, ShardedSandbox, TWO_SHARDS};
use crate::support::state;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use std::fs;

pub fn expected(folder: &str) -> Value {
    let bytes = fs::read(fixtures().join(folder).join("expected.json")).expect("read expected.json");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// An empty replica set that knows the storage of the fixture.
pub async fn replica_set() -> Sandbox {
    let sandbox = Sandbox::unconfigured(Options::default()).await;
    copy(&fixtures().join("rs-pitr/store"), &sandbox.store());
    sandbox.configure(&[]).await;
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    sandbox
}

async fn restores_to(label: &str, latest: bool) {
    let sandbox = replica_set().await;
    let expected = expected("rs-pitr");
    let target = &expected["targets"][label];
    let time = target["time"].as_str().expect("a time");
    let done = sandbox.pbm(&["restore", "--time", if latest { "latest" } else { time }, "--wait", "-y"]).ok();
    assert!(done.stderr.contains(&format!("({time})")), "{}", done.stderr);
    let got = state::read(&sandbox.set.client().await).await;
    let mut lines = state::differences(&target["source_at_target"]["rs0"], &got);
    lines.retain(|line| !is_lost_in_the_backup(line));
    assert!(lines.is_empty(), "{label}:\n{}", lines.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_operation_in_the_middle_of_a_chunk() {
    restores_to("mid_slice", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_border_of_two_chunks() {
    restores_to("slice_border", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_last_chunk() {
    restores_to("end", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_cluster() {
    let expected = expected("sharded-pitr");
    let sandbox = ShardedSandbox::around(ShardedCluster::start(Options::default(), TWO_SHARDS).await).await;
    copy(&fixtures().join("sharded-pitr/store"), &sandbox.store());
    sandbox.configure(&[]).await;
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    let time = expected["target"]["time"].as_str().expect("a time");
    sandbox.pbm(&["restore", "--time", time, "--wait", "-y"]).ok();
    let truth = &expected["source_at_target"];
    assert_cluster(&sandbox.set, "cfgrs", TWO_SHARDS, truth, &expected["restored"]).await;

    // The store of an idle cluster: the first chunks begin at the cluster's last write, at which other replica sets have no
    // entry.
    copy(&fixtures().join("sharded-idle/store"), &sandbox.store());
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    let names = ["--replset-remapping", "cfgrs=cfg"];
    sandbox.pbm(&[&["restore", "--time", "1796078047,3", "--wait", "-y"][..], &names].concat()).ok();
    for (shard, db, wanted) in [("rs1", "a", vec![1, 2, 3]), ("shardB", "b", vec![1])] {
        let client = sandbox.set.shard(shard).set.client().await;
        let found = client.database(db).collection::<Document>("x").find(doc! {}).sort(doc! { "_id": 1 }).await;
        let found: Vec<Document> = found.expect("find").try_collect().await.expect("find");
        let ids: Vec<i64> = found
            .iter()
            .map(|it| it.get_i32("_id").map(i64::from).or_else(|_| it.get_i64("_id")).expect("a number"))
            .collect();
        assert_eq!(ids, wanted, "{db}.x");
    }
}
