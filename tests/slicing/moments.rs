//! A random workload whose oplog is sliced, restored to random moments: each is exactly what the source held then.
//!
//! `PBMBOX_SEED` repeats a workload (the interleaving of its workers is the machine's), `PBMBOX_MOMENT_RUNS` and
//! `PBMBOX_MOMENTS` set how many workloads, and how many moments of each.

use super::Rig;
use super::capped::Caps;
use crate::logical::{Load, forget_remains, truth::Witness};
use crate::support::cluster::{Options, ReplicaSet, Version};
use crate::support::programs::Sandbox;
use crate::support::state;
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::model::chunk::Chunk;
use rand::seq::IndexedRandom;
use std::collections::HashSet;
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
    let chunks: Vec<Chunk> = rig.chunks().await.into_iter().filter(|chunk| chunk.end_ts > from).collect();
    let moments = moments(client, &chunks, count).await;
    let kept = keep(&rig, seed, &base).await;
    let replica = ReplicaSet::start(Options { version, ..Options::default() }).await;
    let mut witness = Witness::new(client, &replica).await;
    let mut caps = Caps::of(client).await;

    let target = Sandbox::unconfigured(Options { version, ..Options::default() }).await;
    target.configure_at(&rig.sandbox.store(), &[]).await;
    target.pbm(&["config", "--force-resync", "--wait"]).ok();
    let restored = target.set.client().await;
    for at in moments.into_iter().filter(|at| *at > from) {
        witness.go_to(at, &HashSet::new()).await;
        let mut expected = state::read(&witness.target).await;
        for db in restored.list_database_names().await.expect("list databases") {
            if !["admin", "config", "local"].contains(&db.as_str()) {
                restored.database(&db).drop().await.expect("drop a database");
            }
        }
        let time = format!("{},{}", at.time, at.increment);
        target.pbm(&["restore", "--time", &time, "--wait", "-y"]).ok();
        let mut got = state::read(&restored).await;
        if version != Version::Older {
            caps.go_to(at).await;
            caps.correct(&mut expected, &witness.target, &restored).await;
        }
        forget_remains(&mut expected, &mut got);
        let lines: Vec<String> = state::differences(&expected, &got)
            .into_iter()
            .filter(|line| !line.starts_with("/users") && !line.starts_with("/roles"))
            .collect();
        if !lines.is_empty() {
            let more = caps.explain(&expected, &witness.target, &restored).await;
            panic!("PBMBOX_SEED={seed}, base {base}, --time {time}:\n{}\n{more}", lines.join("\n"));
        }
    }
    std::fs::remove_file(kept).expect("remove what was kept");
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
