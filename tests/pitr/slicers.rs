//! A restore and whoever slices the oplog.

use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::control::Control;
use pbmbox::model::status::Status;

/// The lock of a slicer that is lost keeps a restore from dropping anything until it is stale.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_waits_until_nobody_slices() {
    let sandbox = Sandbox::start(Options::default()).await;
    let client = sandbox.set.client().await;
    client.database("shop").collection("orders").insert_one(doc! { "_id": 1 }).await.expect("insert");
    let backup = sandbox.backup(&[]);
    let control = Control::new(client.clone());
    let now = control.cluster_time().await.expect("the time");
    let hb = Timestamp { time: now.time - 25, increment: 1 };
    let lock = doc! { "type": "pitr", "replset": "rs0", "node": "lost:27017", "hb": hb };
    client.database("admin").collection::<Document>("pbmLockOp").insert_one(lock).await.expect("insert");
    sandbox.pbm(&["config", "--set", "pitr.enabled=true"]).ok();

    let done = sandbox.pbm(&["restore", &backup, "--wait", "-y"]).ok();
    assert!(done.stdout.contains("is on again") && done.stdout.contains("`pbm backup`"), "{}", done.stdout);
    let restore = control.restores.all().await.expect("read").pop().expect("the restore");
    let dropped = restore.conditions.iter().find(|c| c.status == Status::CleanupCluster).expect("a step");
    assert!(dropped.timestamp >= i64::from(hb.time) + 30, "{restore:?}");
    let on = sandbox.pbm(&["config", "pitr.enabled"]).ok().stdout;
    assert_eq!(on.trim(), "[pitr.enabled=true]", "as it was before");
}
