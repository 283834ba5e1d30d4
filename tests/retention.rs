//! What deletion takes and leaves, through the command line, on real servers: backups, chunks of the oplog, and the index.

use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use crate::support::wait::until;
use mongodb::bson::{Document, Timestamp, doc, oid::ObjectId};
use pbmbox::control::{Control, Order};
use pbmbox::layout;
use pbmbox::model::{
    chunk::Chunk,
    command::DeletePitrCmd,
    compression::Compression,
    lock::LockHeader,
    log::{LogEntry, Severity},
    pitr::SlicerState,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn later(ts: Timestamp, seconds: i64) -> Timestamp {
    Timestamp { time: u32::try_from(i64::from(ts.time) + seconds).expect("a time"), ..ts }
}

/// A cluster with two backups and the oplog from long before the first until after the second.
struct Stage {
    sandbox: Sandbox,
    control: Control,
    /// Names and times of the two backups.
    backups: [(String, Timestamp); 2],
}

impl Stage {
    async fn set_up(options: Options) -> Self {
        let sandbox = Sandbox::start(options).await;
        let control = Control::new(sandbox.set.client().await);
        let coll = sandbox.set.client().await.database("shop").collection("orders");
        let mut backups = Vec::new();
        for n in 0..2 {
            coll.insert_one(doc! { "n": n }).await.expect("insert");
            let name = sandbox.backup(&[]);
            let time = control.backups.get(&name).await.expect("read").expect("the backup").last_write_ts;
            backups.push((name, time));
        }
        let stage = Self { sandbox, control, backups: backups.try_into().expect("two") };
        let [a, b] = stage.times();
        for (from, to) in [(later(a, -1000), later(a, -500)), (later(a, -500), a), (a, b), (b, later(b, 1000))] {
            stage.chunk(from, to).await;
        }
        let before = b.time;
        until("the cluster's time to pass the second backup", SOON, async || {
            (stage.control.advanced_cluster_time().await.ok()?.time > before).then_some(())
        })
        .await;
        stage
    }

    fn times(&self) -> [Timestamp; 2] {
        [self.backups[0].1, self.backups[1].1]
    }

    /// A second after the second backup.
    fn border(&self) -> String {
        format!("{},0", self.backups[1].1.time + 1)
    }

    async fn chunk(&self, start_ts: Timestamp, end_ts: Timestamp) -> String {
        let fname = self.object(start_ts, end_ts);
        let chunk =
            Chunk { rs: "rs0".into(), fname, compression: Compression::S2, start_ts, end_ts, size: 5, stored: None };
        self.control.chunks.add(&chunk).await.expect("add the chunk");
        chunk.fname
    }

    /// The object of a chunk that the index does not know.
    fn object(&self, from: Timestamp, to: Timestamp) -> String {
        self.object_of("rs0", from, to)
    }

    fn object_of(&self, rs: &str, from: Timestamp, to: Timestamp) -> String {
        let name = layout::pitr_chunk(rs, from, to, Compression::S2);
        let path = self.sandbox.store().join(&name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        std::fs::write(path, "chunk").expect("write the object");
        name
    }

    /// Names of all objects, of the chunks in the index, and of the backups.
    async fn state(&self) -> (BTreeSet<String>, Vec<String>, Vec<String>) {
        let mut objects = BTreeSet::new();
        files(&self.sandbox.store(), &self.sandbox.store(), &mut objects);
        let chunks = self.control.chunks.all().await.expect("read the index");
        let backups = self.control.backups.all().await.expect("read the backups");
        let named = backups.into_iter().map(|backup| format!("{} {}", backup.name, backup.status)).collect();
        (objects, chunks.into_iter().map(|chunk| chunk.fname).collect(), named)
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.sandbox.pbm(&[args, &["-o", "json"]].concat()).ok();
        assert_eq!(output.stderr, "");
        output.json()
    }
}

/// The slicing lock of an agent that is not there.
fn stranger() -> LockHeader {
    LockHeader { kind: "pitr".into(), replset: "rs0".into(), node: "far:1".into(), opid: String::new(), epoch: None }
}

fn files(root: &Path, folder: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("read a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(root, &path, into);
        } else {
            into.insert(path.strip_prefix(root).expect("below").display().to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_takes_what_it_shows_and_keeps_the_base_covered() {
    let stage = Stage::set_up(Options { members: 3, ..Options::default() }).await;
    let border = stage.border();
    let [(first, a), (second, b)] = stage.backups.clone();
    let before = stage.state().await;

    let plan = stage.json(&["cleanup", "--older-than", &border, "--dry-run"]);
    assert_eq!((&plan["msg"], &plan["backups"][0]["goes"]), (&json!(""), &json!(true)), "{plan}");
    assert_eq!((&plan["backups"][1]["name"], &plan["backups"][1]["goes"]), (&json!(second), &json!(false)), "{plan}");
    let taken = json!([{ "rs": "rs0", "start": a.time - 1000, "end": b.time, "count": 3, "size": 15 }]);
    assert_eq!(plan["chunks"], taken);
    let text = stage.sandbox.pbm(&["cleanup", "--older-than", &border, "--dry-run"]).ok().stdout;
    assert!(text.contains(&first) && text.contains("later times are restored from it"), "{text}");
    let asked = stage.sandbox.pbm(&["cleanup", "--older-than", &border]).failed();
    assert!(asked.stderr.contains("no terminal") && asked.stderr.contains("3 chunks"), "{asked:?}");
    let future = stage.sandbox.pbm(&["cleanup", "--older-than", "2100-01-01", "-y"]).failed();
    assert!(future.stderr.contains("after now"), "{future:?}");
    let profile = stage.sandbox.pbm(&["cleanup", "--older-than", "1d", "--profile", "other", "-y"]).failed();
    assert!(profile.stderr.contains("profile"), "{profile:?}");
    assert_eq!(stage.state().await, before, "nothing was agreed to");

    let list = stage.json(&["cleanup", "--older-than", &border, "-y", "--wait"]);
    assert_eq!(list["snapshots"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(list["snapshots"][0]["name"], json!(second));
    let covered = json!([{ "range": { "start": b.time + 1, "end": b.time + 1000 } }]);
    assert_eq!(list["pitr"]["ranges"], covered, "the kept base can be restored to the same times as before");
    let after = stage.state().await;
    let last = layout::pitr_chunk("rs0", b, later(b, 1000), Compression::S2);
    assert_eq!((&after.1, &after.2), (&vec![last.clone()], &vec![format!("{second} done")]));
    let chunks: Vec<&String> = after.0.iter().filter(|name| name.starts_with("pbmPitr/rs0/")).collect();
    assert_eq!(chunks, [&last]);
    assert!(!after.0.iter().any(|name| name.starts_with(&first)), "{:?}", after.0);
    assert!(after.0.is_subset(&before.0));
    assert!(stage.control.locks.all().await.expect("locks").is_empty(), "it was waited for");

    stage.sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    assert_eq!(stage.state().await, after, "the storage holds what the index says");
    assert_eq!(stage.json(&["cleanup", "--older-than", &border, "-y"]), json!({ "msg": "nothing to delete" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_deleted_alone_and_lost_objects_are_found() {
    let stage = Stage::set_up(Options::default()).await;
    let [a, b] = stage.times();
    let orphan = stage.object(later(a, -2000), later(a, -1500));
    let foreign = stage.object_of("of-another-cluster", later(a, -2000), later(a, -1500));
    let has = |name: &str| stage.sandbox.store().join(name).exists();

    // A slicer may be about to add what is not in the index yet.
    let now = stage.control.cluster_time().await.expect("time");
    assert!(stage.control.locks.try_take_slicing(&stranger(), now).await.expect("lock"));
    let mut slicer = SlicerState {
        rs: "rs0".into(),
        node: "far:1".into(),
        saved: later(a, -1600),
        newest: now,
        oldest: later(a, -3000),
        rolling: true,
        error: String::new(),
        hb: now,
    };
    stage.control.pitr.report(&slicer, &[]).await.expect("report");
    let backups = stage.state().await.2;
    let old = (a.time - 400).to_string() + ",0";
    let shown = stage.sandbox.pbm(&["delete-pitr", "--older-than", &old, "-y", "--wait"]).ok();
    assert!(shown.stderr.contains("1 chunk"), "{shown:?}");
    assert_eq!(stage.state().await.1.len(), 3);
    assert!(has(&orphan), "the slicer was at work on it");
    slicer.saved = b;
    stage.control.pitr.report(&slicer, &[]).await.expect("report");
    stage.sandbox.pbm(&["delete-pitr", "--older-than", &stage.border(), "--force", "--wait"]).ok();
    assert!(!has(&orphan), "it is older than all that the slicer still does");
    assert!(has(&foreign), "it is of no replica set of ours");
    // Another cluster may have replica sets of the same names.
    let mark = stage.sandbox.store().join(layout::cluster_mark("0123456789abcdef01234567"));
    std::fs::create_dir_all(mark.parent().expect("a folder")).expect("make the folder");
    std::fs::write(&mark, r#"{"id":"0123456789abcdef01234567","name":"rs0","node":"far:1","last":1}"#).expect("write");
    let theirs = stage.object(later(a, -2000), later(a, -1500));
    stage.sandbox.pbm(&["delete-pitr", "--older-than", &stage.border(), "--force", "--wait"]).ok();
    assert!(has(&theirs), "it may be of the other cluster");
    std::fs::remove_file(&mark).expect("remove the mark");
    let left = stage.state().await;
    let last = layout::pitr_chunk("rs0", b, later(b, 1000), Compression::S2);
    assert_eq!(left.1, std::slice::from_ref(&last));
    assert_eq!(left.2, backups, "backups are not its business");

    // A time to come, from somebody who did not check it.
    let order = Order::DeletePitr(DeletePitrCmd { olderthan: i64::from(b.time) + 100_000 });
    let opid = stage.control.commands.send(order).await.expect("send").to_hex();
    until("the agent to refuse", SOON, async || {
        let lines = stage.sandbox.pbm(&["logs", "-t", "0", "-s", "E", "-i", &opid]).ok().stdout;
        lines.contains("after now").then_some(())
    })
    .await;
    assert_eq!(stage.state().await, left);

    // An object that can't be deleted, because no folder can have this name: told, and the index names nothing that may
    // be gone.
    let stuck = last.replace("/rs0/", &format!("/{}/", "x".repeat(300)));
    // Else the folder would go with its last chunk, and nothing be there whose name is too long.
    std::fs::write(stage.sandbox.store().join(layout::PITR).join("other"), "no chunk").expect("write a file");
    let (start_ts, end_ts) = (later(b, 1000), later(b, 1001));
    let chunk = Chunk {
        rs: "rs0".into(),
        fname: stuck.clone(),
        compression: Compression::S2,
        start_ts,
        end_ts,
        size: 5,
        stored: None,
    };
    stage.control.chunks.add(&chunk).await.expect("add the chunk");
    let failed = stage.sandbox.pbm(&["delete-pitr", "--all", "-y", "--wait", "-o", "json"]).failed();
    assert!(failed.json()["Error"].as_str().is_some_and(|said| said.contains(&stuck)), "{failed:?}");
    assert_eq!(stage.state().await.1, [""; 0]);
    assert_eq!(stage.json(&["delete-pitr", "--all", "-y"]), json!({ "msg": "nothing to delete" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_deleted_unless_pitr_needs_it() {
    let stage = Stage::set_up(Options::default()).await;
    let [(first, a), (second, b)] = stage.backups.clone();
    stage.sandbox.pbm(&["status", "--check"]).ok();

    // The chunk between the two is missing: the second is the only base of what comes after it.
    let between = layout::pitr_chunk("rs0", a, b, Compression::S2);
    stage.control.chunks.remove(&[between]).await.expect("remove");
    let gap = json!([{ "rs": "rs0", "from": a.time, "to": b.time }]);
    assert_eq!(stage.json(&["list"])["pitr"]["gaps"], gap);
    assert_eq!(stage.json(&["status", "-s", "backups"])["backups"]["pitrChunks"]["gaps"], gap);
    stage.sandbox.pbm(&["status", "--check"]).ok();
    // What is not sliced shows while the agent stands still; then somebody else slices.
    let far = later(stage.control.cluster_time().await.expect("time"), 10_000);
    stage.sandbox.agents[0].signal("STOP");
    stage.sandbox.pbm(&["config", "--set", "pitr.enabled=true"]).ok();
    let refused = stage.sandbox.pbm(&["delete-backup", &second, "-y"]).failed();
    assert!(refused.stderr.contains("newest base"), "{refused:?}");
    // Slicing has just been switched on, so a missing slicer is no problem yet.
    stage.sandbox.pbm(&["status", "--check", "-s", "pitr"]).ok();
    let configs = stage.sandbox.set.client().await.database("admin").collection::<Document>("pbmConfig");
    let long_ago = Timestamp { time: far.time - 10_000 - 60, increment: 1 };
    configs.update_one(doc! {}, doc! { "$set": { "epoch": long_ago } }).await.expect("update");
    let epoch = stage.control.config.main().await.expect("read").expect("a configuration").epoch;
    let status = stage.json(&["status"]);
    assert_eq!((&status["pitr"]["conf"], &status["pitr"]["run"]), (&json!(true), &json!(false)));
    let checked = stage.sandbox.pbm(&["status", "--check", "-o", "json", "-s", "pitr"]);
    assert_eq!((checked.status.code(), checked.stderr.as_str()), (Some(2), ""), "{checked:?}");
    let problems = checked.json()["problems"].clone();
    assert!(problems.to_string().contains("no agent slices the oplog"), "{problems}");
    assert!(stage.control.locks.try_take_slicing(&stranger(), far).await.expect("lock"));
    stage.sandbox.agents[0].signal("CONT");

    // As the original finds it: the log's last error of this configuration, until slicing has begun anew.
    let line = |seconds: u32, s: Severity, msg: &str| LogEntry {
        id: Some(ObjectId::parse_str(format!("{seconds:08x}{:016x}", s as i32)).expect("an id")),
        ts: seconds.into(),
        ns: 0,
        tz: 0,
        s: s as i32,
        rs: "rs0".into(),
        node: "far:1".into(),
        e: "pitr".into(),
        eobj: String::new(),
        ep: epoch,
        opid: String::new(),
        msg: msg.into(),
    };
    let error = async |wanted: Value| {
        until("the section's error", SOON, async || {
            (stage.json(&["status", "-s", "pitr"])["pitr"]["error"] == wanted).then_some(())
        })
        .await;
    };
    error(Value::Null).await;
    stage.control.logs.append(&[line(b.time, Severity::Error, "no room")]).await.expect("log");
    error(json!("rs0/far:1: no room")).await;
    stage.control.logs.append(&[line(b.time + 1, Severity::Debug, "start_ok")]).await.expect("log");
    error(Value::Null).await;

    // Somebody else holds the lock: nothing is sent, nothing goes.
    let locks = stage.sandbox.set.client().await.database("admin").collection::<Document>("pbmLock");
    let now = stage.control.advanced_cluster_time().await.expect("time");
    let other = doc! { "type": "restore", "replset": "other", "node": "far:1", "opid": "abc", "hb": now };
    locks.insert_one(other).await.expect("lock");
    let refused = stage.sandbox.pbm(&["delete-backup", "--older-than", "0d", "-t", "logical", "-y"]).failed();
    assert!(refused.stderr.contains("restore with OPID abc"), "{refused:?}");
    locks.delete_many(doc! {}).await.expect("unlock");

    let list = stage.json(&["delete-backup", &first, "-y"]);
    assert_eq!(list["snapshots"][0]["name"], json!(second), "{list}");
    let state = stage.state().await;
    assert!(!state.0.iter().any(|name| name.starts_with(&first)), "{:?}", state.0);
    assert_eq!(state.1.len(), 3, "its chunks stay");

    // A gap after the newest backup needs a person, whoever made it.
    stage.sandbox.pbm(&["config", "--set", "pitr.enabled=false"]).ok();
    stage.chunk(later(b, 2000), later(b, 2001)).await;
    let checked = stage.sandbox.pbm(&["status", "--check"]);
    assert_eq!(checked.status.code(), Some(2), "{checked:?}");
    assert!(checked.stdout.contains("gap on rs0") && checked.stderr.contains("later times"), "{checked:?}");

    // Nothing is left that could go.
    stage.json(&["delete-backup", "--older-than", "0d", "-t", "logical", "-y"]);
    let backups = stage.state().await.2;
    assert_eq!(backups, [format!("{second} done")], "later times are restored from it");
}
