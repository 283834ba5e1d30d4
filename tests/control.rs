//! What the control collections promise, on a real server without any agent.

use crate::support::cluster::{Options, ReplicaSet};
use mongodb::bson::{Bson, Document, Timestamp, doc, oid::ObjectId};
use pbmbox::control::{Control, LogQuery, Order, TakeLock, Withdrawal, contract};
use pbmbox::model::lock::LockHeader;
use pbmbox::model::log::{LogEntry, Severity};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;
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

/// The same suite checks the collections in memory that tests of the agents use.
#[tokio::test(flavor = "multi_thread")]
async fn the_control_collections_on_a_server_keep_the_contract() {
    let set = ReplicaSet::start(Options::default()).await;
    let [here, there] = [Control::new(set.client().await), Control::new(set.client().await)];
    here.set_up().await.expect("set up");
    contract::check(&here, &there).await;
}

/// A ring wakes waiters on other connections, also when there are more old rings than are skipped. It writes only to
/// collections that the original knows and does not restore.
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
    // Rings that arrive before the cursor is open are old.
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

/// The remains of earlier releases can be removed: the original's replay accepts the oplog entry also where the collection
/// does not exist.
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

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_begun_or_withdrawn_and_never_both() {
    let set = ReplicaSet::start(Options::default()).await;
    let control = Control::new(set.client().await);
    control.set_up().await.expect("set up");
    let now = control.cluster_time().await.expect("the time");
    let (kind, others) = ("restore", ["sh1".to_owned()]);
    let lock = |opid: &str, rs: &str| LockHeader {
        kind: kind.into(),
        replset: rs.into(),
        node: "h:1".into(),
        opid: opid.into(),
        epoch: None,
    };
    let (mut begun, mut withdrawn) = (0, 0);
    for n in 0..30 {
        let opid = format!("opid{n}");
        let mine = lock(&opid, "cfg");
        let withdraw = async {
            // Either of the two can arrive first.
            tokio::time::sleep(Duration::from_micros(n * 200)).await;
            control.locks.withdraw(kind, &opid, "cfg", &others).await
        };
        let (taken, gone) = tokio::join!(control.locks.try_take(&mine, now), withdraw);
        match (taken.expect("take"), gone.expect("withdraw")) {
            (TakeLock::Taken, Withdrawal::TooLate { taken }) => {
                assert_eq!(taken, mine);
                assert!(!control.locks.is_withdrawn(&opid).await.expect("read"));
                control.locks.release(&mine).await.expect("release");
                begun += 1;
            }
            (TakeLock::Withdrawn, Withdrawal::Done) => {
                assert_eq!(control.locks.taken_by(&opid).await.expect("read"), None, "nobody took it");
                // The withdrawal is repeated, and requested by another replica set.
                let again = control.locks.withdraw(kind, &opid, "cfg", &others).await.expect("withdraw");
                assert_eq!(again, Withdrawal::Done);
                let of_shard = control.locks.try_take(&lock(&opid, "sh1"), now).await.expect("take");
                assert_eq!(of_shard, TakeLock::Withdrawn);
                withdrawn += 1;
            }
            both => panic!("not exactly one: {both:?}"),
        }
        assert_eq!(control.locks.all().await.expect("read"), [], "no lock is left");
    }
    assert!(begun + withdrawn == 30, "{begun} {withdrawn}");

    // A heartbeat that arrives late doesn't replace a newer one.
    let mine = lock("beats", "cfg");
    assert_eq!(control.locks.try_take(&mine, now).await.expect("take"), TakeLock::Taken);
    assert!(control.locks.try_take_slicing(&mine, now).await.expect("take"));
    let later = Timestamp { time: now.time + 20, increment: 1 };
    for at in [later, now] {
        assert!(control.locks.beat(&mine, at).await.expect("beat"));
        assert!(control.locks.beat_slicing(&mine, at).await.expect("beat"));
    }
    assert_eq!(control.locks.of("cfg").await.expect("read").expect("the lock").hb, later);
    assert_eq!(control.locks.slicers().await.expect("read")[0].hb, later);
}

/// A cursor stays with a primary that has become a secondary, and gets new commands there only when it times out.
#[tokio::test(flavor = "multi_thread")]
async fn commands_are_seen_at_once_after_an_election() {
    let set = ReplicaSet::start(Options { members: 3, ..Options::default() }).await;
    let agent = Control::new(set.client().await);
    agent.set_up().await.expect("set up");
    let sender = Control::new(set.client().await);
    sender.commands.send(Order::CancelBackup).await.expect("an old command");
    let place = agent.commands.end().await.expect("read");
    let (out, mut seen) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let following = tokio::spawn({
        let (commands, stop) = (agent.commands.clone(), stop.clone());
        async move { commands.follow(place, out, stop).await }
    });
    let mut sent = Vec::new();
    for elections in 0..3 {
        if elections > 0 {
            let primary = set.primary().await;
            let admin = set.client_of(primary).await.database("admin");
            admin
                .run_command(doc! { "replSetStepDown": 15, "secondaryCatchUpPeriodSecs": 10 })
                .await
                .expect("step down");
            assert_ne!(set.primary().await, primary);
        }
        for _ in 0..2 {
            sent.push(sender.commands.send(Order::CancelBackup).await.expect("send"));
            let since = Instant::now();
            let got = timeout(Duration::from_secs(30), seen.recv()).await.expect("in time").expect("a command");
            assert_eq!(Some(&got.id), sent.last(), "each once, and in order");
            assert!(since.elapsed() < Duration::from_secs(4), "after {elections} elections: {:?}", since.elapsed());
        }
    }
    stop.cancel();
    following.await.expect("follow");
    assert!(seen.try_recv().is_err(), "nothing twice");
}
