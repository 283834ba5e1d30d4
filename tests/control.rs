//! What the control collections promise, on a real server without any agent.

use crate::support::cluster::{Options, ReplicaSet};
use mongodb::bson::{Bson, Document, doc, oid::ObjectId};
use pbmbox::control::{Control, LogQuery};
use pbmbox::model::log::{LogEntry, Severity};
use pbmbox::model::status::Status;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

fn line(n: i64) -> LogEntry {
    LogEntry {
        id: Some(ObjectId::new()),
        ts: n,
        ns: 0,
        tz: 0,
        s: Severity::Info as i32,
        rs: "rs0".into(),
        node: "far:1".into(),
        e: "delete".into(),
        eobj: String::new(),
        ep: None,
        opid: "abc".into(),
        msg: format!("line {n}"),
    }
}

#[tokio::test]
async fn log_lines_whose_answer_was_lost_can_be_written_again() {
    let set = ReplicaSet::start(Options::default()).await;
    let control = Control::new(set.client().await);
    control.set_up().await.expect("set up");
    let lines: Vec<LogEntry> = (0..5).map(line).collect();
    control.logs.append(&lines[1..3]).await.expect("a part");
    control.logs.append(&lines).await.expect("those that are missing");
    control.logs.append(&lines).await.expect("nothing more");
    assert_eq!(control.logs.newest(&LogQuery::default(), 0).await.expect("read"), lines);
}

#[tokio::test]
async fn a_failed_backup_asks_for_a_clean_up_and_a_failed_restore_for_nothing() {
    let set = ReplicaSet::start(Options::default()).await;
    let client = set.client().await;
    let control = Control::new(client.clone());
    control.set_up().await.expect("set up");
    let running = doc! { "name": "one", "opid": "abc", "status": "running" };
    let coll = |name: &str| client.database("admin").collection::<Document>(name);

    coll("pbmRestores").insert_one(&running).await.expect("insert");
    assert!(control.restores.any_open().await.expect("read"));
    assert!(control.restores.set_status("one", Status::Error, "why").await.expect("write"));
    assert!(!control.restores.any_open().await.expect("read"));
    // As earlier versions left it.
    coll("pbmRestores").update_one(doc! {}, doc! { "$set": { "cleanup_due": true } }).await.expect("update");
    assert!(!control.restores.any_open().await.expect("read"));

    coll("pbmBackups").insert_one(&running).await.expect("insert");
    assert!(control.backups.set_status("one", Status::Error, "why").await.expect("write"));
    assert_eq!(control.backups.due_for_cleanup().await.expect("read"), ["one"]);
    assert!(control.backups.any_open().await.expect("read"));
    control.backups.cleaned_up("one").await.expect("write");
    assert!(!control.backups.any_open().await.expect("read"));
}

/// A ring wakes who waits elsewhere, also when there are more old rings than are skipped, and writes only where the original
/// knows the collection and restores nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_bell_rings_in_a_collection_that_the_original_never_restores() {
    let set = ReplicaSet::start(Options::default()).await;
    let client = set.client().await;
    let [here, there] = [Control::new(client.clone()), Control::new(set.client().await)];
    here.set_up().await.expect("set up");
    let op_log = client.database("admin").collection::<Document>("pbmOpLog");
    op_log.insert_many(vec![doc! {}; 3000]).await.expect("old rings");
    let stop = CancellationToken::new();
    let follow = tokio::spawn({
        let (bell, stop) = (there.bell.clone(), stop.clone());
        async move { bell.follow(stop).await }
    });
    // What is heard before the cursor stands is old.
    let mut waiter = there.bell.waiter();
    while tokio::time::timeout(Duration::from_secs(2), waiter.next_within(Duration::from_secs(30))).await.is_ok() {}
    for _ in 0..3 {
        let asked = Instant::now();
        here.bell.ring().await;
        waiter.next_within(Duration::from_secs(30)).await;
        assert!(asked.elapsed() < Duration::from_secs(5), "heard after {:?}", asked.elapsed());
    }
    stop.cancel();
    follow.await.expect("the end");

    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let written = oplog.distinct("ns", doc! { "op": "i", "ns": { "$regex": "^admin[.]pbm" } }).await;
    assert_eq!(written.expect("read the oplog"), [Bson::from("admin.pbmOpLog")]);
}

/// What earlier releases left can go: the original's replay takes the entry also where the collection is not.
#[tokio::test]
async fn the_old_bell_can_be_dropped_beside_the_original() {
    let set = ReplicaSet::start(Options::default()).await;
    let client = set.client().await;
    let control = Control::new(client.clone());
    let admin = client.database("admin");
    assert!(!control.has_old_bell().await.expect("look"));
    admin.run_command(doc! { "create": "pbmBell", "capped": true, "size": 65536 }).await.expect("create");
    assert!(control.has_old_bell().await.expect("look"));
    control.drop_old_bell().await.expect("drop");
    assert!(!control.has_old_bell().await.expect("look"));
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let dropped = oplog.find_one(doc! { "o.drop": "pbmBell" }).await.expect("read").expect("the entry");
    let mut entry = Document::new();
    for key in ["op", "ns", "ui", "o"] {
        entry.insert(key, dropped.get(key).expect("a field").clone());
    }
    admin.run_command(doc! { "applyOps": [entry] }).await.expect("a drop of what is not there");
}
