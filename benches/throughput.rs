//! How fast, how light: backups and restores by the real programs beside what the same mongod can give at most.
//!
//! `cargo bench --bench throughput [-- GIB [CODEC,...]]` loads that many GiB (1 by default) of mixed documents into a
//! private replica set of one node and prints, from this one run: the bare read limit with one and two cursors, and of
//! one collection in one and two ranges; a backup per codec with `--wait`; a restore; `mongodump` and `mongorestore` if
//! they are on the PATH; a backup of ten documents. Ratios count; times are those of the machine and its load.

#[path = "../tests/support/cluster.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod cluster;
#[path = "../tests/support/doctored.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod doctored;
#[path = "../tests/support/wait.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod wait;

use cluster::{Folder, Options, ReplicaSet};
use futures::StreamExt;
use mongodb::bson::{Bson, Document, doc, spec::BinarySubtype};
use mongodb::{Client, IndexModel};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a process has used.
#[derive(Clone, Copy)]
struct Usage {
    cpu: f64,
    peak_mib: f64,
}

fn usage(pid: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read the process's statistics");
    let after_name: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |at: usize| after_name[at].parse::<f64>().expect("a number");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the process's status");
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    Usage { cpu: (ticks(11) + ticks(12)) / 100.0, peak_mib: kib / 1024.0 }
}

/// Starts the measurement of the peak anew.
fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("reset the peak");
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is measured: `$PBMBOX_EXECUTABLE`, or the one that is built with the benchmarks.
fn executable() -> PathBuf {
    std::env::var_os("PBMBOX_EXECUTABLE").map_or_else(|| env!("CARGO_BIN_EXE_pbmbox").into(), PathBuf::from)
}

/// A replica set with an agent and a configured storage.
struct Bench {
    bin: Folder,
    store: Folder,
    agent: Agent,
    set: ReplicaSet,
}

impl Bench {
    async fn start(cache_gb: f64) -> Self {
        let set = ReplicaSet::start(Options { cache_gb, ..Options::default() }).await;
        let (bin, store) = (Folder::new("bin"), Folder::new("store"));
        for name in ["pbm", "pbm-agent"] {
            symlink(executable(), bin.path().join(name)).expect("link the program");
        }
        let agent = Command::new(bin.path().join("pbm-agent"))
            .env("PBM_MONGODB_URI", set.uri_of(0))
            .stdout(Stdio::null())
            .stderr(File::create(bin.path().join("log")).expect("make the agent's log"))
            .spawn()
            .expect("start pbm-agent");
        let bench = Self { bin, store, agent: Agent(agent), set };
        let client = bench.set.client().await;
        wait::until("the agent", Duration::from_secs(30), async || {
            client.database("admin").collection::<Document>("pbmAgents").find_one(doc! {}).await.ok().flatten()
        })
        .await;
        let file = bench.bin.path().join("pbm.yaml");
        let path = bench.store.path().display();
        fs::write(&file, format!("storage:\n  type: filesystem\n  filesystem:\n    path: {path}\n")).expect("write");
        bench.pbm(&["config", "--file", &file.display().to_string(), "--wait"]);
        bench
    }

    fn pbm(&self, args: &[&str]) -> serde_json::Value {
        let done = Command::new(self.bin.path().join("pbm"))
            .env("PBM_MONGODB_URI", self.set.uri())
            .args(args)
            .args(["-o", "json"])
            .output()
            .expect("run pbm");
        assert!(done.status.success(), "pbm {args:?}: {}", String::from_utf8_lossy(&done.stdout));
        serde_json::from_slice(&done.stdout).unwrap_or_default()
    }

    /// Runs something and tells wall seconds, the agent's and the server's CPU seconds, and the agent's peak.
    fn measured<T>(&self, work: impl FnOnce() -> T) -> (T, f64, f64, f64, f64) {
        let (agent, server) = (self.agent.0.id(), self.set.pid_of(0));
        forget_peak(agent);
        let before = (usage(agent), usage(server));
        let since = Instant::now();
        let value = work();
        let wall = since.elapsed().as_secs_f64();
        let after = (usage(agent), usage(server));
        (value, wall, after.0.cpu - before.0.cpu, after.1.cpu - before.1.cpu, after.0.peak_mib)
    }
}

/// Half small documents, a third of about 1 KiB, the rest of 1 MiB; indexes; a time series.
async fn load(client: &Client, gib: f64) -> u64 {
    let db = client.database("bench");
    let target = gib * 1024.0 * 1024.0 * 1024.0;
    let mut bytes = 0.0;
    for (name, size, share) in [
        ("small_a", 200, 0.2),
        ("small_b", 250, 0.2),
        ("orders", 1000, 0.3),
        ("users", 1200, 0.15),
        ("files", 1 << 20, 0.15),
    ] {
        let coll = db.collection::<Document>(name);
        let (mut id, mut part) = (0_i64, 0.0);
        while part < target * share {
            let batch: Vec<Document> = (0..(8 << 20) / size)
                .map(|_| {
                    id += 1;
                    document(id, size)
                })
                .collect();
            part += batch.iter().map(|d| d.to_vec().expect("bytes").len()).sum::<usize>() as f64;
            coll.insert_many(batch).await.expect("insert");
        }
        bytes += part;
        if size < 1 << 20 {
            let keys = [doc! { "sku": 1 }, doc! { "n": -1, "sku": 1 }];
            coll.create_indexes(keys.map(|k| IndexModel::builder().keys(k).build())).await.expect("index");
        }
    }
    let series = doc! { "create": "visits", "timeseries": { "timeField": "t", "metaField": "m" } };
    db.run_command(series).await.expect("create a time series");
    let visits = (0..50_000)
        .map(|n| doc! { "t": mongodb::bson::DateTime::from_millis(1_700_000_000_000 + n * 500), "m": n % 20, "v": n });
    db.collection::<Document>("visits").insert_many(visits).await.expect("insert");
    bytes as u64
}

/// Text that repeats itself as orders do, and some bytes that don't.
fn document(id: i64, size: usize) -> Document {
    let mut state = (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let noise: Vec<u8> = (0..size / 5)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[2]
        })
        .collect();
    let text = format!("order {id} of customer {} ships to street {} ", id % 9973, id % 613);
    let filler = text.repeat((size * 3 / 5) / text.len() + 1);
    let noise = Bson::Binary(mongodb::bson::Binary { subtype: BinarySubtype::Generic, bytes: noise });
    doc! { "_id": id, "sku": format!("sku-{}", id % 4999), "n": id % 1000, "price": id as f64 / 7.0, "text": filler, "noise": noise }
}

/// Reads every collection raw with so many cursors at once; gives the bytes.
async fn bare_read(client: &Client, cursors: usize) -> u64 {
    let names = client.database("bench").list_collection_names().await.expect("list");
    let names: Vec<String> = names.into_iter().filter(|n| n != "visits" && n != "system.views").collect();
    let queue = Arc::new(Mutex::new(names));
    let workers: Vec<_> = (0..cursors)
        .map(|_| {
            let (queue, db) = (queue.clone(), client.database("bench"));
            tokio::spawn(async move {
                let mut bytes = 0;
                loop {
                    let next = queue.lock().expect("no panic").pop();
                    let Some(name) = next else { return bytes };
                    let batch = if name == "files" { 1 } else { 1000 };
                    let find = db.run_cursor_command(doc! { "find": name, "batchSize": batch }).batch_size(batch);
                    let mut cursor = find.batch().await.expect("open");
                    while let Some(batch) = cursor.next().await {
                        bytes += batch.expect("read").as_raw_document().as_bytes().len() as u64;
                    }
                }
            })
        })
        .collect();
    let mut total = 0;
    for worker in workers {
        total += worker.await.expect("a reader");
    }
    total
}

/// Reads the collection `orders` by so many cursors at once, each over its part of the `_id`s; gives the bytes.
async fn read_ranges(client: &Client, ranges: i64) -> u64 {
    let db = client.database("bench");
    let last = db.collection::<Document>("orders").find_one(doc! {}).sort(doc! { "_id": -1 }).await.expect("read");
    let last = last.expect("a document").get_i64("_id").expect("a number");
    let readers = (0..ranges).map(|n| {
        let db = db.clone();
        let filter = doc! { "_id": { "$gt": last * n / ranges, "$lte": last * (n + 1) / ranges } };
        tokio::spawn(async move {
            // A single cursor reads as a backup does: in the order of storage, without the index.
            let mut find = doc! { "find": "orders", "batchSize": 1000 };
            if ranges > 1 {
                find.extend(doc! { "filter": filter, "hint": { "_id": 1 } });
            }
            let mut cursor = db.run_cursor_command(find).batch_size(1000).batch().await.expect("open");
            let mut bytes = 0;
            while let Some(batch) = cursor.next().await {
                bytes += batch.expect("read").as_raw_document().as_bytes().len() as u64;
            }
            bytes
        })
    });
    futures::future::join_all(readers).await.into_iter().map(|bytes| bytes.expect("a reader")).sum()
}

/// The tools of the server's makers on the same data, if they are on the PATH.
fn beside_us(bench: &Bench, mb: f64) {
    let archive = bench.bin.path().join("archive");
    let archive = format!("--archive={}", archive.display());
    let uri = format!("--uri={}", bench.set.uri());
    let dump = ["mongodump", &uri, &archive, "--numParallelCollections=4"];
    let restore = [
        "mongorestore",
        &uri,
        &archive,
        "--drop",
        "--numParallelCollections=4",
        "--numInsertionWorkersPerCollection=4",
    ];
    for call in [&dump[..], &restore[..]] {
        let since = Instant::now();
        match Command::new(call[0]).args(&call[1..]).stderr(Stdio::null()).status() {
            Ok(status) if status.success() => {
                let wall = since.elapsed().as_secs_f64();
                println!("{:<28} {wall:>7.2} {:>7.0}", call[0], mb / wall);
            }
            Ok(status) => println!("{:<28} failed: {status}", call[0]),
            Err(_) => println!("{:<28} not on the PATH", call[0]),
        }
    }
}

const CODECS: &str = "none,snappy,lz4,zstd,pgzip,gzip,s2";

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let gib: f64 = args.iter().find_map(|a| a.parse().ok()).unwrap_or(1.0);
    let codecs = args.iter().find(|a| a.starts_with(char::is_alphabetic)).map_or(CODECS, String::as_str);
    let bench = Bench::start((gib * 1.5).max(1.0)).await;
    let client = bench.set.client().await;
    println!("loading {gib} GiB ...");
    let loaded = load(&client, gib).await;
    let mb = loaded as f64 / 1e6;
    bare_read(&client, 1).await;

    println!(
        "\n{:<28} {:>7} {:>7} {:>10} {:>10} {:>9} {:>9} {:>7}",
        "", "wall s", "MB/s", "agent CPU", "mongod CPU", "peak MiB", "stored MB", "ratio"
    );
    let mut limit = (0.0, 0.0);
    for cursors in [1, 2] {
        let before = usage(bench.set.pid_of(0)).cpu;
        let since = Instant::now();
        bare_read(&client, cursors).await;
        let wall = since.elapsed().as_secs_f64();
        limit = (wall, usage(bench.set.pid_of(0)).cpu - before);
        println!(
            "{:<28} {wall:>7.2} {:>7.0} {:>10} {:>10.2}",
            format!("bare read, {cursors} cursor(s)"),
            mb / wall,
            "",
            limit.1
        );
    }
    for ranges in [1, 2] {
        let since = Instant::now();
        let bytes = read_ranges(&client, ranges).await;
        let wall = since.elapsed().as_secs_f64();
        let label = format!("one collection, {ranges} range(s)");
        println!("{label:<28} {wall:>7.2} {:>7.0}", bytes as f64 / 1e6 / wall);
    }
    let mut name = String::new();
    for codec in codecs.split(',') {
        let (done, wall, agent, server, peak) =
            tokio::task::block_in_place(|| bench.measured(|| bench.pbm(&["backup", "--compression", codec, "--wait"])));
        name = done["name"].as_str().unwrap_or_default().to_owned();
        let stored = folder_size(&bench.store.path().join(&name)) as f64 / 1e6;
        println!(
            "{:<28} {wall:>7.2} {:>7.0} {agent:>10.2} {server:>10.2} {peak:>9.0} {stored:>9.0} {:>6.1}x",
            format!("backup, {codec}"),
            mb / wall,
            wall / limit.0
        );
        if codec == "s2" {
            println!("{:<28} agent CPU / mongod CPU of the bare read: {:.2}", "", agent / limit.1);
        }
        std::thread::sleep(Duration::from_millis(1100)); // names are whole seconds
    }
    client.database("bench").drop().await.expect("drop");
    let ((), wall, agent, server, peak) = tokio::task::block_in_place(|| {
        bench.measured(|| {
            bench.pbm(&["restore", &name, "--wait", "--yes"]);
        })
    });
    println!(
        "{:<28} {wall:>7.2} {:>7.0} {agent:>10.2} {server:>10.2} {peak:>9.0}",
        format!("restore, {}", codecs.rsplit(',').next().unwrap_or_default()),
        mb / wall
    );

    tokio::task::block_in_place(|| beside_us(&bench, mb));

    let small = Bench::start(0.25).await;
    let ten = (0..10).map(|n| doc! { "_id": n });
    small.set.client().await.database("t").collection::<Document>("c").insert_many(ten).await.expect("insert");
    let (_, wall, ..) = tokio::task::block_in_place(|| small.measured(|| small.pbm(&["backup", "--wait"])));
    println!("{:<28} {wall:>7.2}", "backup of ten documents");
}

fn folder_size(folder: &std::path::Path) -> u64 {
    fs::read_dir(folder)
        .map(|all| {
            all.flatten()
                .map(|e| if e.path().is_dir() { folder_size(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) })
                .sum()
        })
        .unwrap_or(0)
}
