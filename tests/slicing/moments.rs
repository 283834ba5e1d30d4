//! A random workload whose oplog is sliced, restored to random moments, elsewhere and where it came from: each is exactly what the
//! source held then.
//!
//! `PBMBOX_SEED` repeats a workload (the interleaving of its workers is the machine's), `PBMBOX_MOMENT_RUNS` and
//! `PBMBOX_MOMENTS` set how many workloads, and how many moments of each.

use super::Rig;
use super::capped::{Capped, Caps};
use crate::logical::{Load, forget_remains, major, truth::Witness};
use crate::replay::workload::Workload;
use crate::support::cluster::{Options, ReplicaSet, Version};
use crate::support::programs::Sandbox;
use crate::support::state;
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::model::chunk::Chunk;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// Times of entries, sorted: `count` random ones, borders of chunks among them, and the end.
pub async fn moments(oplog: &Client, chunks: &[Chunk], count: usize) -> Vec<Timestamp> {
    let (first, last) = (chunks[0].start_ts, chunks.last().expect("a chunk").end_ts);
    let entries = oplog.database("local").collection::<Document>("oplog.rs");
    let range = doc! { "ts": { "$gt": first, "$lte": last } };
    let found: Vec<Document> =
        entries.find(range).await.expect("read the oplog").try_collect().await.expect("read the oplog");
    let ours = |entry: &Document| {
        let ns = entry.get_str("ns").expect("ns");
        entry.get_str("op").expect("op") != "n" && !ns.starts_with("admin.") && !ns.starts_with("config.")
    };
    let time = |entry: &Document| entry.get_timestamp("ts").expect("ts");
    let times: Vec<Timestamp> = found.iter().filter(|entry| ours(entry)).map(time).collect();
    let borders: Vec<Timestamp> = chunks.iter().map(|chunk| chunk.end_ts).collect();
    let mut rng = rand::rng();
    let mut moments: Vec<Timestamp> = times.choose_multiple(&mut rng, count.saturating_sub(2)).copied().collect();
    moments.extend(borders.choose(&mut rng));
    moments.push(last);
    moments.sort_unstable();
    moments.dedup();
    moments
}

async fn round(seed: u64, version: Version, count: usize) {
    eprintln!("PBMBOX_SEED={seed} on {version:?}");
    let source = Sandbox::start(Options { version, ..Options::default() }).await;
    let rig = Rig { client: source.set.client().await, sandbox: source };
    let client = &rig.client;
    let mut load = Load::start(client, seed).await;
    // Slicing begins before the base backup or after it.
    let first = seed.is_multiple_of(2);
    if first {
        rig.enable(&["pitr.oplogSpanMin=0.03"]).await;
    }
    load.pace.wait(20).await;
    let base = tokio::task::block_in_place(|| rig.sandbox.backup(&[]));
    if !first {
        rig.enable(&["pitr.oplogSpanMin=0.03"]).await;
    }
    let mut until = rig.now().await;
    for _ in 0..3 {
        load.pace.wait(50).await;
        rig.saved("rs0", until).await;
        until = rig.now().await;
    }
    load.stop().await;
    let end = rig.now().await;
    rig.saved("rs0", end).await;
    rig.set("pitr.enabled=false");
    rig.no_slicer().await;

    let backups = client.database("admin").collection::<Document>("pbmBackups");
    let meta = backups.find_one(doc! { "name": &base }).await.expect("read").expect("the base");
    let from = meta.get_timestamp("last_write_ts").expect("last_write_ts");
    let begin = meta.get_timestamp("first_write_ts").expect("first_write_ts");
    let chunks: Vec<Chunk> = rig.chunks().await.into_iter().filter(|chunk| chunk.end_ts > from).collect();
    let moments = moments(client, &chunks, count).await;
    let kept = keep(&rig, seed, &base).await;
    let replica = ReplicaSet::start(Options { version, ..Options::default() }).await;
    let mut witness = Witness::new(client, &replica).await;
    let mut caps = Caps::of(client).await;
    let mut truths = Vec::new();
    for at in moments.into_iter().filter(|at| *at > from) {
        witness.go_to(at, &HashSet::new()).await;
        let expected = state::read(&witness.target).await;
        caps.go_to(at).await;
        let capped = match version {
            Version::Older => Vec::new(),
            _ => caps.now(&expected, &witness.target).await,
        };
        let spoken = spoken(client, base_names(&rig, &base), (begin, at)).await;
        truths.push(Truth { at, expected, capped, spoken });
    }

    let target = Sandbox::unconfigured(Options { version, ..Options::default() }).await;
    target.configure_at(&rig.sandbox.store(), &[]).await;
    target.pbm(&["config", "--force-resync", "--wait"]).ok();
    let restored = target.set.client().await;
    for truth in truths.iter().step_by(2) {
        for db in restored.list_database_names().await.expect("list databases") {
            if !["admin", "config", "local"].contains(&db.as_str()) {
                restored.database(&db).drop().await.expect("drop a database");
            }
        }
        truth.comes_back(&target, &restored, &format!("PBMBOX_SEED={seed}, elsewhere, base {base}")).await;
    }

    // Restores into the source itself, to earlier and later moments in turn, with other writes before each restore.
    truths.shuffle(&mut StdRng::seed_from_u64(seed));
    for (n, truth) in truths.iter().enumerate() {
        let n = u64::try_from(n).expect("few");
        Workload::new(client.clone(), seed * 1000 + n, major(client).await).steps(60).await;
        truth.comes_back(&rig.sandbox, client, &format!("PBMBOX_SEED={seed}, in place, number {n}, base {base}")).await;
    }
    std::fs::remove_file(kept).expect("remove what was kept");
}

/// The source's state at a moment.
struct Truth {
    at: Timestamp,
    expected: Value,
    capped: Vec<Capped>,
    /// Every name that occurs in the base or in its oplog up to the moment.
    spoken: BTreeSet<String>,
}

impl Truth {
    async fn comes_back(&self, target: &Sandbox, restored: &Client, what: &str) {
        let time = format!("{},{}", self.at.time, self.at.increment);
        eprintln!("{what} --time {time}");
        let told = target.pbm(&["restore", "--time", &time, "--dry-run", "-o", "json"]).ok().json();
        let stays = told["replsets"][0]["stays"].as_array().expect("what stays").iter();
        let stays: Vec<&str> = stays.map(|ns| ns.as_str().expect("a name")).collect();
        assert!(!stays.iter().any(|ns| self.spoken.contains(*ns)), "{what} --time {time}: {stays:?}");
        let called = target.pbm(&["restore", "--time", &time, "--wait", "-y"]);
        assert!(called.status.success(), "{what} --time {time}: {}", called.stderr);
        let (mut expected, mut got) = (self.expected.clone(), state::read(restored).await);
        for capped in &self.capped {
            capped.correct(&mut expected, restored).await;
        }
        for (db, coll) in stays.iter().filter_map(|ns| ns.split_once('.')) {
            forget(&mut expected, &mut got, db, coll);
        }
        forget_remains(&mut expected, &mut got);
        let lines: Vec<String> = state::differences(&expected, &got)
            .into_iter()
            .filter(|line| !line.starts_with("/users") && !line.starts_with("/roles"))
            .collect();
        if !lines.is_empty() {
            let mut more = String::new();
            for capped in &self.capped {
                more += &capped.explain(restored).await;
            }
            panic!("{what} --time {time}:\n{}\n{more}", lines.join("\n"));
        }
    }
}

/// Removes a collection that stays from `got`, because it is no part of the state at the moment. If it is a view or a time
/// series, `system.views` is removed from both states, because it lists this view among the others.
fn forget(expected: &mut Value, got: &mut Value, db: &str, coll: &str) {
    let Some(content) = got["databases"].get_mut(db).and_then(Value::as_object_mut) else { return };
    let mut views = false;
    for kind in ["collections", "views", "timeseries"] {
        let Some(all) = content.get_mut(kind).and_then(Value::as_object_mut) else { continue };
        views |= all.remove(coll).is_some() && kind != "collections";
        all.remove(&format!("system.buckets.{coll}"));
    }
    if views {
        for state in [&mut *expected, &mut *got] {
            let all = state["databases"].get_mut(db).and_then(|db| db["collections"].as_object_mut());
            all.map(|all| all.remove("system.views"));
        }
    }
    let databases = got["databases"].as_object_mut().expect("databases");
    databases.retain(|_, content| content["collections"] != json!({}) || content["views"] != json!({}));
}

/// The names in the base's metadata.
fn base_names(rig: &Rig, base: &str) -> BTreeSet<String> {
    let metadata = std::fs::read(rig.sandbox.store().join(base).join("rs0/metadata.json")).expect("read the metadata");
    let metadata = pbmbox::archive::meta::read_metadata_json(&metadata).expect("metadata");
    metadata.namespaces.iter().map(|ns| format!("{}.{}", ns.db, ns.coll)).collect()
}

/// Adds the names of the entries of a range of the oplog.
async fn spoken(oplog: &Client, mut names: BTreeSet<String>, (from, to): (Timestamp, Timestamp)) -> BTreeSet<String> {
    fn take(entry: &Document, names: &mut BTreeSet<String>) {
        let (ns, o) = (entry.get_str("ns").expect("ns"), entry.get_document("o").expect("o"));
        if entry.get_str("op").expect("op") != "c" {
            names.insert(ns.to_owned());
            return;
        }
        let db = ns.split_once('.').map_or(ns, |(db, _)| db);
        for command in ["create", "drop"] {
            names.extend(o.get_str(command).ok().map(|coll| format!("{db}.{coll}")));
        }
        for name in ["renameCollection", "to"] {
            names.extend(o.get_str(name).ok().map(str::to_owned));
        }
        for inner in o.get_array("applyOps").into_iter().flatten() {
            take(inner.as_document().expect("an operation"), names);
        }
    }
    let entries = oplog.database("local").collection::<Document>("oplog.rs");
    let range = doc! { "ts": { "$gte": from, "$lte": to }, "op": { "$ne": "n" } };
    let mut entries = entries.find(range).await.expect("read the oplog");
    while let Some(entry) = entries.try_next().await.expect("read the oplog") {
        take(&entry, &mut names);
    }
    names
}

/// Writes down what the base has and what the oplog of the source tells, for a look at it after a failure.
async fn keep(rig: &Rig, seed: u64, base: &str) -> PathBuf {
    let metadata = rig.sandbox.store().join(base).join("rs0").join("metadata.json");
    let mut text = format!("base {base}\n{}\n", std::fs::read_to_string(metadata).expect("read the base's metadata"));
    let oplog = rig.client.database("local").collection::<Document>("oplog.rs");
    let mut entries = oplog.find(doc! { "op": { "$ne": "n" } }).await.expect("read the oplog");
    while let Some(entry) = entries.try_next().await.expect("read the oplog") {
        text.push_str(&format!("{entry:?}\n"));
    }
    let path = std::env::temp_dir().join(format!("pbmbox-moments-{seed}.txt"));
    eprintln!("the oplog is kept in {}", path.display());
    std::fs::write(&path, text).expect("write down the oplog");
    path
}

async fn rounds(version: Version) {
    let count = usize::try_from(number("PBMBOX_MOMENTS").unwrap_or(4)).expect("few");
    if let Some(seed) = number("PBMBOX_SEED") {
        return round(seed, version, count).await;
    }
    for run in 0..number("PBMBOX_MOMENT_RUNS").unwrap_or(1) {
        round(rand::random_range(0..1_000_000), version, count).await;
        eprintln!("workloads that came back at every moment: {}", run + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_moments_come_back() {
    rounds(Version::Current).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_moments_come_back_on_the_older_server() {
    rounds(Version::Older).await;
}
