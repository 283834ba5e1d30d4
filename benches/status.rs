//! How long does `pbm status` take on a cluster with a past?
//!
//! `cargo bench --bench status` starts a sharded cluster of 3 x 3 nodes, writes into its control collections what 9 agents,
//! 1,000 backups and 100,000 chunks of saved oplog leave there, and prints how long the looking commands take: of
//! several runs the shortest and the longest, and the mean of the CPU seconds of `pbm` and of the config servers' primary.
//! `cargo test --bench status` is the same with an unoptimized program.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod support;

use mongodb::bson::{Document, Timestamp, doc};
use std::time::Instant;
use support::cluster::Options;
use support::programs::{Deployment, Programs};
use support::sharded::{ShardedCluster, TWO_SHARDS};

const BACKUPS: u32 = 1_000;
const CHUNKS: u32 = 100_000;
const RUNS: usize = 7;
/// 2026-03-01T10:00:00Z.
const T0: u32 = 1_772_359_200;

fn at(seconds: u32) -> Timestamp {
    Timestamp { time: T0 + seconds, increment: 1 }
}

fn agent(rs: &str, host: &str, state: i32, hb: Timestamp) -> Document {
    let usable = doc! { "ok": true, "e": "" };
    doc! {
        "n": host, "rs": rs, "s": state, "str": if state == 1 { "PRIMARY" } else { "SECONDARY" }, "hdn": false,
        "psv": false, "arb": false, "delay": 0, "repl_lag": 0, "v": "2.15.0", "mv": "6.0.5", "pbms": usable.clone(),
        "nodes": usable.clone(), "stors": usable, "hb": hb, "e": "",
    }
}

fn backup(n: u32, sets: &[String]) -> Document {
    let begin = n * 600;
    let name = jiff::Timestamp::from_second(i64::from(T0 + begin)).expect("a time").to_string();
    let condition = |status: &str| doc! { "timestamp": i64::from(T0 + begin), "status": status };
    let conditions: Vec<Document> = ["starting", "running", "dumpDone", "done"].map(condition).into();
    let part = |rs: &String| {
        doc! {
            "name": rs, "dump_name": format!("{name}/{rs}/metadata.json"), "oplog_name": format!("{name}/{rs}/oplog"),
            "start_ts": i64::from(T0 + begin), "status": "done", "size": 1_000_000_i64, "size_uncompressed": 4_000_000_i64,
            "iscs": rs == "cfgrs", "node": format!("{rs}:27017"), "last_transition_ts": i64::from(T0 + begin + 60),
            "first_write_ts": at(begin), "last_write_ts": at(begin + 60), "conditions": conditions.clone(),
        }
    };
    doc! {
        "type": "logical", "opid": format!("{n:024x}"), "name": &name, "replsets": sets.iter().map(part).collect::<Vec<_>>(),
        "shardRemap": { "rs2": "shardB" }, "compression": "s2", "store": storage(), "size": 3_000_000_i64,
        "size_uncompressed": 12_000_000_i64, "mongodb_version": "6.0.5", "fcv": "6.0", "start_ts": i64::from(T0 + begin),
        "last_transition_ts": i64::from(T0 + begin + 60), "first_write_ts": at(begin), "last_write_ts": at(begin + 60),
        "hb": at(begin + 60), "status": "done", "conditions": conditions.clone(), "n": [], "pbm_version": "2.15.0",
        "balancer": "full",
    }
}

fn chunk(n: u32, sets: &[String]) -> Document {
    let rs = &sets[n as usize % sets.len()];
    let begin = n / 3 * 15;
    doc! {
        "rs": rs, "fname": format!("pbmPitr/{rs}/20260301/20260301100000-{begin}.20260301100000-{}.oplog.s2", begin + 15),
        "compression": "s2", "start_ts": at(begin), "end_ts": at(begin + 15), "size": 20_000_i64,
    }
}

fn storage() -> Document {
    doc! { "type": "filesystem", "filesystem": { "path": "/srv/backups" } }
}

/// CPU seconds that /proc/`pid`/stat tells: of the process itself, or of its children that have ended.
fn cpu(pid: &str, children: bool) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("read a process's state");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let from = if children { 13 } else { 11 };
    let ticks: u32 = fields[from..from + 2].iter().map(|it| it.parse::<u32>().expect("ticks")).sum();
    f64::from(ticks) / 100.0
}

#[tokio::main]
async fn main() {
    let since = Instant::now();
    let cluster = ShardedCluster::start(Options { members: 3, ..Options::default() }, TWO_SHARDS).await;
    println!("3 x 3 nodes are up after {:.1} s", since.elapsed().as_secs_f64());
    let since = Instant::now();
    let client = cluster.leader().client().await;
    let control = pbmbox::control::Control::new(client.clone());
    control.set_up().await.expect("make the control collections");
    let admin = client.database("admin");
    let put = async |coll: &str, documents: Vec<Document>| {
        admin.collection::<Document>(coll).insert_many(documents).await.expect("insert");
    };
    put("pbmConfig", vec![doc! { "storage": storage(), "epoch": at(0) }]).await;
    let sets: Vec<String> = cluster.sets().into_iter().map(|set| set.options().name.clone()).collect();
    let mut agents = Vec::new();
    // Far in the future: they live as long as this takes.
    let now = Timestamp { time: control.cluster_time().await.expect("time").time + 600, increment: 1 };
    for set in cluster.sets() {
        let primary = set.primary().await;
        for n in 0..set.size() {
            agents.push(agent(&set.options().name, &set.address_of(n), if n == primary { 1 } else { 2 }, now));
        }
    }
    put("pbmAgents", agents).await;
    put("pbmBackups", (0..BACKUPS).map(|n| backup(n, &sets)).collect()).await;
    for part in (0..CHUNKS).collect::<Vec<_>>().chunks(10_000) {
        put("pbmPITRChunks", part.iter().map(|n| chunk(*n, &sets)).collect()).await;
    }
    println!("{BACKUPS} backups and {CHUNKS} chunks are there after {:.1} s more", since.elapsed().as_secs_f64());
    let programs = Programs::new();
    let leader = cluster.leader().pid_of(cluster.leader().primary().await).to_string();
    for args in
        [&["status"][..], &["status", "-s", "cluster"], &["status", "-s", "backups"], &["list"], &["list", "--full"]]
    {
        let mut times = Vec::new();
        let before = (cpu("self", true), cpu(&leader, false));
        for _ in 0..RUNS {
            let since = Instant::now();
            let mut call = programs.command("pbm");
            let done = call.env("PBM_MONGODB_URI", cluster.leader().uri()).args(args).output().expect("run pbm");
            times.push(since.elapsed().as_secs_f64());
            assert!(done.status.success(), "{done:?}");
        }
        times.sort_by(f64::total_cmp);
        let [ours, theirs] = [cpu("self", true) - before.0, cpu(&leader, false) - before.1].map(|it| it / RUNS as f64);
        println!(
            "pbm {:<18} {:.2} to {:.2} s, CPU {ours:.2} s and {theirs:.2} s",
            args.join(" "),
            times[0],
            times[RUNS - 1]
        );
    }
}
