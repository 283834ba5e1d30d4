//! What the control collections hold in each state. No agent runs: the documents are what agents would have written.

use crate::support::programs::Deployment;
use mongodb::bson::{Bson, Document, Timestamp, doc, oid::ObjectId};
use mongodb::{
    Client, Database,
    options::{Acknowledgment, WriteConcern},
};

/// 2026-03-01T10:00:00Z; everything else is later.
const T0: i64 = 1_772_359_200;
const GOOD: &str = "2026-03-01T10:00:00Z";
const PART: &str = "2026-03-01T11:00:00Z";
const LAST: &str = "2026-03-01T12:00:00Z";

/// Names to ask for.
#[derive(Debug, Default)]
pub struct Seeded {
    pub backups: Vec<&'static str>,
    pub restores: Vec<&'static str>,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { time: u32::try_from(T0 + seconds).expect("a time"), increment: 3 }
}

fn opid(n: u8) -> String {
    format!("65e1a5{n:018x}")
}

/// The collections of one cluster, and its time.
struct Desk {
    admin: Database,
    now: Timestamp,
    /// Replica sets with the address of their only member; the leader first.
    sets: Vec<(String, String)>,
}

impl Desk {
    async fn of(deployment: &impl Deployment) -> Self {
        let client: Client = deployment.leader().client().await;
        let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.expect("hello");
        let last = hello.get_document("lastWrite").and_then(|it| it.get_document("opTime")).expect("the last write");
        let sets = deployment.sets().into_iter().map(|set| (set.options().name.clone(), set.address_of(0))).collect();
        Self { admin: client.database("admin"), now: last.get_timestamp("ts").expect("a time"), sets }
    }

    async fn put(&self, coll: &str, documents: impl IntoIterator<Item = Document>) {
        // The programs read data that the majority has.
        let all = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
        let coll = self.admin.collection::<Document>(coll);
        coll.insert_many(documents).write_concern(all).await.expect("insert");
    }

    async fn drop_all(&self) {
        for coll in [
            "pbmConfig",
            "pbmAgents",
            "pbmBackups",
            "pbmRestores",
            "pbmPITR",
            "pbmPITRChunks",
            "pbmLock",
            "pbmLockOp",
            "pbmLog",
        ] {
            self.admin.collection::<Document>(coll).drop().await.expect("drop");
        }
    }

    fn ago(&self, seconds: u32) -> Timestamp {
        Timestamp { time: self.now.time - seconds, ..self.now }
    }

    fn agent(&self, rs: &str, host: &str, state: i32) -> Document {
        let usable = doc! { "ok": true, "e": "" };
        doc! {
            "n": host, "rs": rs, "s": state, "str": if state == 1 { "PRIMARY" } else { "SECONDARY" }, "hdn": false,
            "psv": false, "arb": false, "delay": 0, "repl_lag": 0, "v": "2.15.0", "mv": "6.0.5", "pbms": usable.clone(),
            "nodes": usable.clone(), "stors": usable, "hb": self.now, "e": "", "own": "0.1.0", "rules": 1,
        }
    }

    fn part(&self, rs: &str, host: &str, status: &str, size: i64, config: bool) -> Document {
        let mut part = doc! {
            "name": rs, "start_ts": T0 + 1, "status": status, "size": size, "size_uncompressed": 4 * size, "node": host,
            "last_transition_ts": T0 + 20, "first_write_ts": at(2), "last_write_ts": at(10), "conditions": [],
        };
        if config {
            part.insert("iscs", true);
        }
        part
    }

    /// A backup that began `begin` seconds after [`T0`], with a part for every replica set.
    fn backup(&self, name: &str, n: u8, begin: i64, status: &str) -> Document {
        let config = |rs: &str| self.sets.len() > 1 && rs == self.sets[0].0;
        let parts =
            self.sets.iter().zip(1..).map(|((rs, host), n)| self.part(rs, host, status, 100_000 * n, config(rs)));
        let parts: Vec<Document> = parts.collect();
        let size: i64 = parts.iter().filter_map(|part| part.get_i64("size").ok()).sum();
        doc! {
            "type": "logical", "opid": opid(n), "name": name, "replsets": parts, "compression": "s2",
            "store": storage(), "size": size, "size_uncompressed": 4 * size, "mongodb_version": "6.0.5", "fcv": "6.0",
            "start_ts": T0 + begin, "last_transition_ts": T0 + begin + 20, "first_write_ts": at(begin + 2),
            "last_write_ts": at(begin + 10), "hb": at(begin + 15), "status": status,
            "conditions": [{ "timestamp": T0 + begin + 5, "status": "running" }], "n": [],
            "pbm_version": "2.15.0", "balancer": "",
        }
    }

    fn restore(&self, name: &str, n: u8, begin: i64, status: &str) -> Document {
        let part = |(rs, _): &(String, String)| {
            doc! {
                "name": rs, "start_ts": T0 + begin, "status": status, "last_transition_ts": T0 + begin + 30,
                "conditions": [], "op": at(0), "last_write_ts": at(0), "hb": at(begin + 30), "txn_set": false,
            }
        };
        doc! {
            "status": status, "name": name, "opid": opid(n), "backup": GOOD, "bcp_chain": Bson::Null, "start_pitr": 0_i64,
            "pitr": 0_i64, "replsets": self.sets.iter().map(part).collect::<Vec<_>>(), "hb": at(begin + 30),
            "start_ts": T0 + begin, "last_transition_ts": T0 + begin + 30, "conditions": [], "type": "logical",
        }
    }

    fn lock(&self, kind: &str, n: usize, opid: Option<String>, hb: Timestamp) -> Document {
        let (rs, host) = &self.sets[n];
        let mut lock = doc! { "type": kind, "replset": rs, "node": host };
        if let Some(opid) = opid {
            lock.insert("opid", opid);
        }
        lock.extend(doc! { "epoch": at(-60), "hb": hb });
        lock
    }

    fn line(&self, n: u8, severity: i32, event: &str, object: &str, msg: &str) -> Document {
        let (rs, host) = &self.sets[0];
        let id = ObjectId::parse_str(format!("{:08x}{n:016x}", T0 + i64::from(n))).expect("an id");
        doc! {
            "_id": id, "ts": T0 + i64::from(n), "ns": 0, "tz": 0, "s": severity, "rs": rs, "node": host,
            "e": event, "eobj": object, "ep": at(-60), "opid": opid(n), "msg": msg,
        }
    }

    /// Chunks of a minute each for every replica set, from `from` to `to` minutes after [`T0`].
    async fn chunks(&self, from: i64, to: i64) {
        let chunk = |rs: &str, n: i64| {
            doc! {
                "rs": rs, "fname": format!("pbmPitr/{rs}/20260301/{n}"), "compression": "s2", "start_ts": at(60 * n),
                "end_ts": at(60 * (n + 1)), "size": 1000_i64,
            }
        };
        self.put("pbmPITRChunks", (from..to).flat_map(|n| self.sets.iter().map(move |(rs, _)| chunk(rs, n)))).await;
    }

    async fn config(&self, more: Document) {
        let mut config = doc! { "storage": storage(), "epoch": at(-60) };
        config.extend(more);
        self.put("pbmConfig", [config]).await;
    }
}

fn storage() -> Document {
    doc! { "type": "filesystem", "filesystem": { "path": "/srv/backups" } }
}

/// Configured, and nothing has happened.
pub async fn empty(deployment: &impl Deployment) -> Seeded {
    let desk = Desk::of(deployment).await;
    desk.drop_all().await;
    desk.config(doc! {}).await;
    Seeded::default()
}

/// Backups of every kind, a history of restores, oplog that is being saved, two profiles.
pub async fn healthy(deployment: &impl Deployment) -> Seeded {
    let desk = Desk::of(deployment).await;
    desk.drop_all().await;
    desk.config(doc! {
        "pitr": { "enabled": true, "oplogSpanMin": 1.5, "compression": "zstd" },
        "backup": { "oplogSpanMin": 0.0, "priority": { "node:1": 2.5 }, "compression": "gzip", "compressionLevel": 3 },
    })
    .await;
    let credentials = doc! { "access-key-id": "id", "secret-access-key": "hunter2" };
    let archive = doc! { "type": "s3", "s3": { "region": "eu-1", "bucket": "b", "credentials": credentials } };
    desk.put("pbmConfig", [doc! { "name": "archive", "profile": true, "storage": archive.clone(), "epoch": at(-50) }])
        .await;
    let (rs, host) = desk.sets[0].clone();
    let mut agents: Vec<Document> = desk.sets.iter().map(|(rs, host)| desk.agent(rs, host, 1)).collect();
    let mut hidden = desk.agent(&rs, "far:27017", 2);
    hidden.extend(doc! { "hdn": true, "repl_lag": 4 });
    agents.push(hidden);
    desk.put("pbmAgents", agents).await;
    let good = desk.backup(GOOD, 1, 0, "done");
    let mut part = desk.backup(PART, 2, 3600, "done");
    let mut stored = doc! { "name": "archive", "profile": true };
    stored.extend(archive);
    part.extend(doc! { "nss": ["shop.*", "crm.notes"], "sel_users_and_roles": true, "store": stored });
    desk.put("pbmBackups", [good, part]).await;
    let whole = desk.restore("2026-03-01T10:30:00.123456789Z", 3, 1800, "done");
    let mut moment = desk.restore("2026-03-01T10:40:00.5Z", 4, 2400, "done");
    moment.extend(doc! { "pitr": T0 + 120, "nss": ["shop.*"] });
    let mut replay = desk.restore("2026-03-01T10:50:00.5Z", 5, 3000, "done");
    replay.extend(doc! { "backup": "", "start_pitr": T0 + 60, "pitr": T0 + 240 });
    desk.put("pbmRestores", [whole, moment, replay]).await;
    desk.chunks(0, 90).await;
    for n in 0..desk.sets.len() {
        desk.put("pbmLockOp", [desk.lock("pitr", n, None, desk.now)]).await;
    }
    let slicer = doc! {
        "rs": rs, "node": host, "saved": desk.ago(5), "newest": desk.now, "oldest": desk.ago(1000), "rolling": true,
        "error": "", "hb": desk.now,
    };
    desk.put(
        "pbmPITR",
        [doc! { "start_ts": T0, "hb": desk.now, "status": "running", "n": [], "replsets": [], "slicers": [slicer] }],
    )
    .await;
    desk.put(
        "pbmLog",
        [
            desk.line(1, 4, "backup", GOOD, "a detail"),
            desk.line(2, 3, "backup", GOOD, "dumped 12 documents, 345 bytes"),
            desk.line(3, 2, "", "", "a warning\nof two lines"),
        ],
    )
    .await;
    Seeded {
        backups: vec![GOOD, PART],
        restores: vec!["2026-03-01T10:30:00.123456789Z", "2026-03-01T10:40:00.5Z", "2026-03-01T10:50:00.5Z"],
    }
}

/// A backup in the middle of its dump, on every replica set.
pub async fn running(deployment: &impl Deployment) -> Seeded {
    let desk = Desk::of(deployment).await;
    desk.drop_all().await;
    desk.config(doc! {}).await;
    desk.put("pbmAgents", desk.sets.iter().map(|(rs, host)| desk.agent(rs, host, 1))).await;
    let mut backup = desk.backup(LAST, 9, 7200, "running");
    let progress = doc! {
        "phase": "dump", "bytes": 3_000_000_i64, "bytes_total": 9_000_000_i64, "docs": 3000_i64, "docs_total": 9000_i64,
        "at": 0_i64,
    };
    for part in backup.get_array_mut("replsets").expect("parts") {
        part.as_document_mut().expect("a part").insert("progress", progress.clone());
    }
    // A time of 0 would be replaced by the server.
    backup.remove("last_write_ts");
    backup.extend(doc! { "hb": desk.now, "size": 0_i64, "size_uncompressed": 0_i64 });
    desk.put("pbmBackups", [backup]).await;
    for n in 0..desk.sets.len() {
        desk.put("pbmLock", [desk.lock("backup", n, Some(opid(9)), desk.now)]).await;
    }
    Seeded { backups: vec![LAST], restores: Vec::new() }
}

/// All that can be wrong at once.
pub async fn failing(deployment: &impl Deployment) -> Seeded {
    let desk = Desk::of(deployment).await;
    desk.drop_all().await;
    desk.config(doc! { "pitr": { "enabled": true } }).await;
    let (rs, host) = desk.sets[0].clone();
    let mut broken = desk.agent(&rs, &host, 1);
    broken.extend(doc! {
        "stors": { "ok": false, "e": "the disk is full" },
        "shared": [{ "id": "6500", "name": "other", "node": "there:27017", "last": T0 }],
    });
    let mut lost = desk.agent(&rs, "far:27017", 2);
    lost.insert("hb", desk.ago(100));
    let mut late = desk.agent(&rs, "farther:27017", 2);
    late.insert("repl_lag", 77);
    desk.put("pbmAgents", [broken, lost, late]).await;
    let mut failed = desk.backup(GOOD, 1, 0, "error");
    failed.extend(doc! { "error": "the disk is full" });
    let mut elsewhere = desk.backup(PART, 2, 3600, "done");
    for part in elsewhere.get_array_mut("replsets").expect("parts") {
        part.as_document_mut().expect("a part").insert("name", "another");
    }
    let stuck = desk.backup(LAST, 3, 7200, "running");
    let canceled = desk.backup("2026-03-01T09:00:00Z", 4, -3600, "canceled");
    desk.put("pbmBackups", [canceled, failed, elsewhere, stuck]).await;
    let mut restore = desk.restore("2026-03-01T10:30:00.5Z", 5, 1800, "error");
    restore.extend(doc! { "error": "no room" });
    let running = desk.restore("2026-03-01T10:40:00.5Z", 6, 2400, "running");
    desk.put("pbmRestores", [restore, running]).await;
    desk.chunks(0, 2).await;
    desk.chunks(5, 6).await;
    desk.put("pbmLock", [desk.lock("backup", 0, Some(opid(3)), desk.ago(100))]).await;
    let report = doc! { "name": &rs, "node": &host, "status": "error", "error": "upload: the disk is full" };
    desk.put(
        "pbmPITR",
        [doc! { "start_ts": T0, "hb": desk.now, "status": "error", "n": [], "replsets": [report], "slicers": [] }],
    )
    .await;
    desk.put("pbmLog", [desk.line(7, 1, "pitr", "", "upload: the disk is full"), desk.line(8, 0, "", "", "the end")])
        .await;
    Seeded { backups: vec![GOOD, PART, LAST], restores: vec!["2026-03-01T10:30:00.5Z", "2026-03-01T10:40:00.5Z"] }
}
