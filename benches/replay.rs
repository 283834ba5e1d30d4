//! How fast the oplog is replayed: our replay beside the original's way, one entry per `applyOps` command.
//!
//! `cargo bench --bench replay [-- ENTRIES [LANES]]` makes a CRUD workload of that many oplog entries (200 000 by default) on a
//! private replica set of one node and stores its oplog as a slice is stored. Then, in this one run and on this one
//! server, it empties the collections, creates them again as a restore does and applies
//!
//! - the first entries one by one, each waited for as the original does: the command names no write concern, so the
//!   server's default decides, the majority (and, to be fair, with `w: 1`, which the original can't be told);
//! - the same entries, then all entries, with our replay.
//!
//! Every result is compared: the first ones with each other, the last one with the state that the workload left behind
//! (`dbHash`). Indexes are built after a replay, in the original and here, and not measured. Ratios count; times are
//! those of the machine and its load.

#[path = "../tests/support/cluster.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod cluster;
#[path = "../tests/support/doctored.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod doctored;
#[path = "../tests/support/wait.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod wait;

use bytes::Bytes;
use cluster::{Folder, Options, ReplicaSet};
use futures::{StreamExt, TryStreamExt};
use mongodb::bson::{Document, RawDocumentBuf, Timestamp, doc, rawdoc};
use mongodb::{Client, IndexModel};
use pbmbox::archive::meta::{NamespaceKind, NamespaceMeta};
use pbmbox::model::compression::Compression;
use pbmbox::mongo::capabilities::Capabilities;
use pbmbox::oplog::read;
use pbmbox::replay::apply::{ReplayOptions, Replayed, Replayer};
use pbmbox::replay::catalog::Catalog;
use pbmbox::storage::fs::{Buffers, FsStorage};
use pbmbox::storage::{SizeHint, Storage};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

const DB: &str = "bench";
const COLLECTIONS: [&str; 5] = ["orders", "users", "visits", "carts", "stock"];
/// What is applied one by one: enough for a rate, few enough to see the end.
const SAMPLE: usize = 3000;
const OBJECT: &str = "oplog.s2";

/// Seconds of CPU time of a process.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read the process's statistics");
    let after_name: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    [11, 12].map(|at: usize| after_name[at].parse::<f64>().expect("a number")).iter().sum::<f64>() / 100.0
}

fn peak_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the process's status");
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
    peak.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

/// A document of 200 B to 2 KB.
fn document(rng: &mut StdRng, id: i64) -> Document {
    let size = if rng.random_ratio(2, 3) { rng.random_range(120..500) } else { rng.random_range(500..1900) };
    let text: String = (0..size).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
    doc! {"_id": id, "sku": rng.random_range(0..10_000), "n": rng.random_range(0..1000), "at": {"city": "x", "zip": 1}, "text": text}
}

/// Rounds of inserts, updates, replacements and deletes until there are `entries` of them.
async fn work(client: &Client, entries: usize) {
    let db = client.database(DB);
    let mut rng = StdRng::seed_from_u64(1);
    let (mut done, mut next) = (0, 0_i64);
    for round in 0.. {
        let coll = db.collection::<Document>(COLLECTIONS[round % COLLECTIONS.len()]);
        let name = coll.name();
        if done >= entries {
            return;
        }
        let inserts: Vec<Document> = (0..400).map(|n| document(&mut rng, next + n)).collect();
        next += 400;
        coll.insert_many(inserts).ordered(round % 3 == 0).await.expect("insert");
        let updates: Vec<Document> = (0..500)
            .map(|n| {
                // Mostly young documents, some of other rounds (of this collection or of none).
                let id = if n % 3 == 0 { rng.random_range(0..next) } else { next - rng.random_range(1..=400) };
                let by: i32 = rng.random_range(0..1000);
                let change = match n % 5 {
                    0 => document(&mut rng, id),
                    1 => doc! {"$inc": {"n": 1}, "$set": {"at.zip": by}},
                    2 => doc! {"$set": {format!("f{}", by % 4): by}},
                    _ => doc! {"$set": {"sku": by}},
                };
                doc! {"q": {"_id": id}, "u": change}
            })
            .collect();
        let reply = db.run_command(doc! {"update": name, "updates": updates, "ordered": false}).await.expect("update");
        let modified = usize::try_from(reply.get_i32("nModified").expect("nModified")).expect("a count");
        let gone = doc! {"_id": {"$gte": next - 400}, "n": {"$lt": 150}};
        let deleted = coll.delete_many(gone).await.expect("delete").deleted_count;
        done += 400 + modified + usize::try_from(deleted).expect("few");
    }
}

/// Collection name -> hash of its documents.
async fn hashes(client: &Client) -> Document {
    let reply = client.database(DB).run_command(doc! {"dbHash": 1}).await.expect("dbHash");
    reply.get_document("collections").expect("collections").clone()
}

async fn last_write(client: &Client) -> Timestamp {
    let note = doc! {"appendOplogNote": 1, "data": {"by": "bench"}, "writeConcern": {"w": "majority"}};
    let reply = client.database("admin").run_command(note).await.expect("write a note");
    reply.get_timestamp("operationTime").expect("operationTime")
}

/// What a backup says of the collections.
async fn metadata(client: &Client) -> Vec<NamespaceMeta> {
    let mut all = Vec::new();
    for coll in COLLECTIONS {
        let db = client.database(DB);
        let listed: Vec<Document> = db
            .run_cursor_command(doc! {"listCollections": 1, "filter": {"name": coll}})
            .await
            .expect("list")
            .try_collect()
            .await
            .expect("list");
        let uuid = listed[0].get_document("info").expect("info").get("uuid").expect("uuid").clone();
        let indexes =
            db.run_cursor_command(doc! {"listIndexes": coll}).await.expect("list").try_collect().await.expect("list");
        all.push(NamespaceMeta {
            db: DB.into(),
            coll: coll.into(),
            kind: NamespaceKind::Collection,
            options: doc! {},
            indexes: Some(indexes),
            uuid: Some(mongodb::bson::deserialize_from_bson(uuid).expect("a UUID")),
            crc: 0,
            size: 0,
            object: None,
        });
    }
    all
}

struct Bench {
    set: ReplicaSet,
    client: Client,
    store: FsStorage,
    collections: Vec<NamespaceMeta>,
    start: Timestamp,
    end: Timestamp,
    /// Time of the last entry that is applied one by one.
    sample_end: Timestamp,
    /// How many they are.
    sample: usize,
    entries: usize,
    bytes: u64,
    lanes: Option<usize>,
}

impl Bench {
    async fn start(folder: &Folder, entries: usize, lanes: Option<usize>) -> Self {
        let set = ReplicaSet::start(Options { cache_gb: 1.0, ..Options::default() }).await;
        let client = set.client().await;
        let db = client.database(DB);
        for coll in COLLECTIONS {
            db.create_collection(coll).await.expect("create");
            let keys = [doc! {"sku": 1}, doc! {"n": -1, "sku": 1}];
            let models = keys.map(|keys| IndexModel::builder().keys(keys).build());
            db.collection::<Document>(coll).create_indexes(models).await.expect("index");
        }
        let start = last_write(&client).await;
        work(&client, entries).await;
        let end = last_write(&client).await;
        let store = FsStorage::open(folder.path(), Buffers::default()).await.expect("open the storage");
        let collections = metadata(&client).await;
        let mut bench = Self {
            set,
            client,
            store,
            collections,
            start,
            end,
            sample_end: end,
            sample: 0,
            entries: 0,
            bytes: 0,
            lanes,
        };
        bench.keep().await;
        bench
    }

    /// Stores the oplog of the workload.
    async fn keep(&mut self) {
        let (mut entries, mut bytes, mut sample_end) = (0, 0, self.end);
        let oplog = self.client.database("local").collection::<RawDocumentBuf>("oplog.rs");
        let found: Vec<RawDocumentBuf> = oplog
            .find(doc! {"ts": {"$gte": self.start, "$lte": self.end}, "ns": {"$regex": "^bench"}})
            .await
            .expect("read the oplog")
            .try_collect()
            .await
            .expect("read the oplog");
        for entry in &found {
            entries += 1;
            bytes += entry.as_bytes().len() as u64;
            if entries == SAMPLE {
                sample_end = entry.get_timestamp("ts").expect("ts");
            }
        }
        let body = futures::stream::iter(found.into_iter().map(|entry| Ok(Bytes::from(entry.into_bytes())))).boxed();
        let encoded = pbmbox::compress::encode(body, Compression::S2, None).expect("compress");
        self.store.put(OBJECT, encoded, SizeHint(None)).await.expect("store the oplog");
        (self.entries, self.bytes, self.sample_end, self.sample) = (entries, bytes, sample_end, entries.min(SAMPLE));
    }

    /// The collections as a restore makes them, empty.
    async fn emptied(&self) -> Catalog {
        self.client.database(DB).drop().await.expect("drop");
        let mut catalog = Catalog::new(Capabilities::release(6, 0));
        let metas: Vec<_> =
            self.collections.iter().map(|m| NamespaceMeta { options: catalog.add(m), ..m.clone() }).collect();
        pbmbox::restore::create::create_all(&self.client, &metas, &[], &CancellationToken::new())
            .await
            .expect("create");
        last_write(&self.client).await;
        catalog
    }

    /// As the original does: an entry, a command, an answer.
    async fn one_by_one(&self, concern: Option<Document>) -> f64 {
        self.emptied().await;
        let entries = read::entries(&self.store, OBJECT, Compression::S2).await.expect("open the oplog");
        let entries: Vec<_> = entries.take(self.sample).try_collect().await.expect("read the oplog");
        let admin = self.client.database("admin");
        let since = Instant::now();
        for entry in entries {
            let mut command = rawdoc! {"applyOps": [entry]};
            if let Some(concern) = &concern {
                command.append(mongodb::bson::cstr!("writeConcern"), RawDocumentBuf::try_from(concern).expect("raw"));
            }
            admin.run_raw_command(command).await.expect("apply an entry");
        }
        since.elapsed().as_secs_f64()
    }

    async fn ours(&self, end: Timestamp) -> (f64, Replayed) {
        let catalog = self.emptied().await;
        let since = Instant::now();
        // What follows the workload's beginning is exact: nothing is tolerated.
        let mut options = ReplayOptions::new(self.start, end, self.start);
        options.lanes = self.lanes.unwrap_or(options.lanes);
        let mut replayer = Replayer::new(self.client.clone(), catalog, options);
        let entries = read::entries(&self.store, OBJECT, Compression::S2).await.expect("open the oplog");
        let _ = replayer.apply(entries).await.unwrap_or_else(|error| panic!("{error:#}"));
        let replayed = replayer.finish().await.unwrap_or_else(|error| panic!("{error:#}"));
        (since.elapsed().as_secs_f64(), replayed)
    }
}

#[tokio::main]
async fn main() {
    // Cargo adds `--bench`.
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse().ok());
    let (entries, lanes) = (numbers.next().unwrap_or(200_000), numbers.next());
    let folder = Folder::new("replay");
    println!("working until there are {entries} entries ...");
    let bench = Bench::start(&folder, entries, lanes).await;
    let truth = hashes(&bench.client).await;
    println!(
        "{} entries, {:.1} MB, {:.0} B each",
        bench.entries,
        bench.bytes as f64 / 1e6,
        bench.bytes as f64 / bench.entries as f64
    );
    let line = |what: &str, count: usize, seconds: f64| {
        println!("{what:<44} {count:>8} entries {seconds:>7.2} s {:>8.0} entries/s", count as f64 / seconds);
        count as f64 / seconds
    };

    let seconds = bench.one_by_one(None).await;
    let expected = hashes(&bench.client).await;
    let original = line("one by one, the server's default (majority)", bench.sample, seconds);
    let seconds = bench.one_by_one(Some(doc! {"w": 1})).await;
    assert_eq!(hashes(&bench.client).await, expected);
    let weak = line("one by one, w: 1", bench.sample, seconds);

    let (seconds, _) = bench.ours(bench.sample_end).await;
    assert_eq!(hashes(&bench.client).await, expected, "the sample, replayed, is not what one by one gives");
    line("our replay of the same entries", bench.sample, seconds);

    let (us, server) = (std::process::id(), bench.set.pid_of(0));
    fs::write(format!("/proc/{us}/clear_refs"), "5").expect("reset the peak");
    let before = (cpu(us), cpu(server));
    let (seconds, replayed) = bench.ours(bench.end).await;
    let used = (cpu(us) - before.0, cpu(server) - before.1);
    assert_eq!(hashes(&bench.client).await, truth, "the replay does not end in the state of the workload");
    let ours = line("our replay, to the end", bench.entries, seconds);
    println!("  {:.1} s CPU of ours, {:.1} s of mongod; our peak {:.0} MiB", used.0, used.1, peak_mib(us));
    println!("  {:?}", replayed.stats);
    println!("ratio {:.1} (against w: 1: {:.1}); every result is equal to the source's", ours / original, ours / weak);
}
