//! What the control collections promise, on a real server without any agent.

use crate::support::cluster::{Options, ReplicaSet};
use mongodb::bson::{Document, doc, oid::ObjectId};
use pbmbox::control::{Control, LogQuery};
use pbmbox::model::log::{LogEntry, Severity};
use pbmbox::model::status::Status;

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
