//! A restore and whoever slices the oplog.

use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::control::Control;
use pbmbox::model::status::Status;
use std::time::{Duration, Instant};

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

    // Switching it off fails after the restore's document was inserted: the reason is in the document at once.
    let admin = client.database("admin");
    let refused = doc! { "failCommands": ["update"], "namespace": "admin.pbmConfig", "errorCode": 13 };
    let refuse = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": refused };
    admin.run_command(refuse).await.expect("set the fail point");
    let begun = Instant::now();
    let failed = sandbox.pbm(&["restore", &backup, "--wait", "-y"]).failed();
    assert!(begun.elapsed() < Duration::from_secs(20), "the reaper would have needed longer: {:?}", begun.elapsed());
    assert!(failed.stderr.contains("switch PITR off in admin.pbmConfig"), "{}", failed.stderr);
    let restores = control.restores.all().await.expect("read");
    let restore = restores.iter().max_by_key(|restore| restore.start_ts).expect("the restore");
    assert_eq!(restore.status, Status::Error);
    assert!(
        restore.error.as_deref().is_some_and(|why| why.contains("switch PITR off in admin.pbmConfig")),
        "{restore:?}"
    );
}
