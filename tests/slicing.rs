//! The continuous slicing of the oplog: what is stored, who does it, and that nothing is ever missing.

mod beside;
mod capped;
mod faults;
mod loss;
pub mod moments;

use crate::support::cluster::{Options, ReplicaSet, Version};
use crate::support::programs::{Deployment, Sandbox};
use crate::support::{state, wait};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Bson, DateTime, Document, Timestamp, doc, oid::ObjectId};
use pbmbox::layout::{self, ChunkName};
use pbmbox::model::chunk::Chunk;
use pbmbox::model::compression::Compression;
use pbmbox::oplog::read;
use pbmbox::storage::fs::{Buffers, FsStorage};
use std::time::Duration;

/// For what takes a moment.
const USUAL: Duration = Duration::from_secs(40);
/// Until a silent holder is replaced.
const REPLACED: Duration = Duration::from_secs(60);

/// A sandbox whose oplog is sliced.
struct Rig<D = ReplicaSet> {
    sandbox: Sandbox<D>,
    /// Leads to the control collections.
    client: Client,
}

impl Rig {
    /// Slicing with these settings, besides `pitr.enabled`.
    async fn start(options: Options, more: &[&str]) -> Self {
        let sandbox = Sandbox::start(options).await;
        let rig = Self { client: sandbox.set.leader().client().await, sandbox };
        rig.write(1).await;
        rig.enable(more).await;
        rig
    }

    /// Writes one document; the time until which chunks must reach to have it.
    async fn write(&self, n: i32) -> Timestamp {
        let coll = self.client.database("shop").collection::<Document>("orders");
        coll.insert_one(doc! { "n": n, "text": "t".repeat(200) }).await.expect("insert");
        self.now().await
    }

    async fn now(&self) -> Timestamp {
        pbmbox::mongo::hello(&self.client).await.expect("hello").majority_write().expect("a write")
    }
}

impl<D: Deployment> Rig<D> {
    async fn enable(&self, more: &[&str]) {
        for setting in more.iter().chain([&"pitr.enabled=true"]) {
            self.sandbox.pbm(&["config", "--set", setting]).ok();
        }
    }

    fn set(&self, setting: &str) {
        self.sandbox.pbm(&["config", "--set", setting]).ok();
    }

    async fn chunks(&self) -> Vec<Chunk> {
        let chunks = self.client.database("admin").collection::<Chunk>("pbmPITRChunks");
        let found = chunks.find(doc! {}).sort(doc! { "rs": 1, "start_ts": 1 }).await.expect("read the chunks");
        let found: Vec<Chunk> = found.try_collect().await.expect("read the chunks");
        // While small chunks are joined, there are both for a moment.
        let part = |a: &Chunk, b: &Chunk| a != b && a.rs == b.rs && a.start_ts >= b.start_ts && a.end_ts <= b.end_ts;
        found.iter().filter(|small| !found.iter().any(|joined| part(small, joined))).cloned().collect()
    }

    /// Waits until the chunks of a replica set reach `until`.
    async fn saved(&self, rs: &str, until: Timestamp) -> Vec<Chunk> {
        wait::until(&format!("the chunks of {rs} to reach {until}"), REPLACED, async || {
            let chunks: Vec<Chunk> = self.chunks().await.into_iter().filter(|chunk| chunk.rs == rs).collect();
            chunks.iter().any(|chunk| chunk.end_ts >= until).then_some(chunks)
        })
        .await
    }

    /// The node that slices a replica set, by its lock.
    async fn slicer(&self, rs: &str) -> String {
        wait::until("a slicer", REPLACED, async || {
            let locks = self.client.database("admin").collection::<Document>("pbmLockOp");
            let lock = locks.find_one(doc! { "replset": rs, "type": "pitr" }).await.ok()??;
            Some(lock.get_str("node").expect("a node").to_owned())
        })
        .await
    }

    async fn no_slicer(&self) {
        wait::until("the slicers to end", USUAL, async || {
            let locks = self.client.database("admin").collection::<Document>("pbmLockOp");
            (locks.count_documents(doc! {}).await.ok()? == 0).then_some(())
        })
        .await;
    }

    /// Every chunk is one object with exactly the entries of its time. Gives the timeline's start.
    async fn assert_whole(&self, chunks: &[Chunk], oplog: &Client) -> Timestamp {
        let store = FsStorage::open(&self.sandbox.store(), Buffers::default()).await.expect("open the storage");
        for (number, chunk) in chunks.iter().enumerate() {
            let name = layout::pitr_chunk(&chunk.rs, chunk.start_ts, chunk.end_ts, chunk.compression);
            assert_eq!(chunk.fname, name);
            if number > 0 {
                assert_eq!(chunk.start_ts, chunks[number - 1].end_ts, "chunks share their border");
            }
            let stored = match read::entries(&store, &chunk.fname, chunk.compression).await {
                Ok(stored) => stored,
                // A small chunk that was joined since.
                Err(_) if !self.chunks().await.contains(chunk) => continue,
                Err(error) => panic!("open the chunk: {error}"),
            };
            let stored: Vec<_> = stored.try_collect().await.expect("read the chunk");
            let times: Vec<Timestamp> = stored.iter().map(|entry| entry.get_timestamp("ts").expect("ts")).collect();
            let range = doc! { "ts": { "$gte": chunk.start_ts, "$lte": chunk.end_ts } };
            let entries = oplog.database("local").collection::<Document>("oplog.rs");
            let there: Vec<Document> =
                entries.find(range).await.expect("read the oplog").try_collect().await.expect("read the oplog");
            // Entries with credentials are left out, and nothing else.
            let secret = |entry: &Document| {
                entry.get_str("ns").is_ok_and(|ns| ns.starts_with("admin.pbm") || ns.starts_with("config."))
            };
            let mut expected: Vec<Timestamp> = Vec::new();
            for entry in &there {
                let ts = entry.get_timestamp("ts").expect("ts");
                if times.contains(&ts) || !secret(entry) {
                    expected.push(ts);
                }
            }
            assert_eq!(times, expected, "{}", chunk.fname);
            assert_eq!((times.first(), times.last()), (Some(&chunk.start_ts), Some(&chunk.end_ts)));
        }
        chunks[0].start_ts
    }
}

fn chunk_files(rig: &Rig<impl Deployment>) -> Vec<String> {
    fn below(folder: &std::path::Path, into: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            // Names of the agents' marks and test objects begin with a dot.
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if entry.path().is_dir() {
                below(&entry.path(), into);
            } else {
                into.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    let mut files = Vec::new();
    below(&rig.sandbox.store().join(layout::PITR), &mut files);
    files.sort();
    files
}

/// docs/format.md A.5, C.5, C.8, C.10, as in the fixture `25-pitr-with-chunks`.
#[tokio::test]
async fn chunks_and_documents_follow_the_format() {
    let rig = Rig::start(Options::default(), &["pitr.oplogSpanMin=0.03", "pitr.compression=gzip"]).await;
    let mut until = rig.write(2).await;
    for n in 3..6 {
        rig.saved("rs0", until).await;
        until = rig.write(n).await;
    }
    let chunks = rig.saved("rs0", until).await;
    assert!(chunks.len() > 2, "{chunks:?}");
    rig.assert_whole(&chunks, &rig.client).await;
    for chunk in &chunks {
        assert!(ChunkName::parse(&chunk.fname).is_some() && chunk.fname.ends_with(".oplog.gz"), "{}", chunk.fname);
        assert_eq!(chunk.compression, Compression::Gzip);
    }
    let admin = rig.client.database("admin");
    let raw = admin.collection::<Document>("pbmPITRChunks").find_one(doc! {}).await.expect("read").expect("a chunk");
    assert_eq!(
        raw.keys().map(String::as_str).collect::<Vec<_>>(),
        ["_id", "rs", "fname", "compression", "start_ts", "end_ts", "size", "stored"]
    );
    assert!(matches!(raw.get("size"), Some(Bson::Int64(size)) if *size > 0), "{raw}");
    let lock = admin.collection::<Document>("pbmLockOp").find_one(doc! {}).await.expect("read").expect("a lock");
    assert_eq!(lock.keys().map(String::as_str).collect::<Vec<_>>(), ["_id", "type", "replset", "node", "epoch", "hb"]);
    let state = wait::until("the slicers' document", USUAL, async || {
        admin.collection::<Document>("pbmPITR").find_one(doc! {}).await.expect("read")
    })
    .await;
    let me = rig.sandbox.set.address_of(0);
    assert_eq!(state.get_array("n").expect("n"), &vec![Bson::from(doc! { "rs": "rs0", "n": [&me], "ack": &me })]);
    assert_eq!(state.get_str("status").expect("status"), "running");
    assert_eq!(state.get_array("replsets").expect("replsets").len(), 0);
    assert!(matches!(state.get("start_ts"), Some(Bson::Int64(_))) && state.get_timestamp("hb").is_ok(), "{state}");
    let ok = doc! { "e": "pitr", "s": 4, "msg": "start_ok" };
    wait::until("the word that all is well", USUAL, async || {
        admin.collection::<Document>("pbmLog").find_one(ok.clone()).await.expect("read the log")
    })
    .await;
    // Switched off: the last chunk is stored, then the lock is free.
    let last = rig.write(7).await;
    rig.set("pitr.enabled=false");
    rig.no_slicer().await;
    let chunks = rig.chunks().await;
    assert!(chunks.last().is_some_and(|chunk| chunk.end_ts >= last), "{last}: {chunks:?}");
}

/// A backup does not interrupt slicing, and the timeline begins with the backup before it.
#[tokio::test]
async fn slicing_begins_at_the_base_and_goes_on_during_backups() {
    let sandbox = Sandbox::start(Options::default()).await;
    let rig = Rig { client: sandbox.set.client().await, sandbox };
    rig.write(1).await;
    let base = rig.sandbox.backup(&[]);
    rig.write(2).await;
    rig.enable(&["pitr.oplogSpanMin=0.03"]).await;
    let slicer = rig.slicer("rs0").await;
    rig.saved("rs0", rig.write(3).await).await;
    rig.sandbox.backup(&[]);
    let chunks = rig.saved("rs0", rig.write(4).await).await;
    assert_eq!(rig.slicer("rs0").await, slicer);
    let start = rig.assert_whole(&chunks, &rig.client).await;
    let backups = rig.client.database("admin").collection::<Document>("pbmBackups");
    let base = backups.find_one(doc! { "name": base }).await.expect("read").expect("the base");
    assert_eq!(start, base.get_timestamp("last_write_ts").expect("its end"));

    // The latest moment is the present, whatever the time span of chunks: the unsaved oplog is saved first.
    rig.set("pitr.oplogSpanMin=10");
    rig.write(5).await;
    rig.sandbox.pbm(&["restore", "--time", "latest", "--wait", "-y"]).ok();
    let orders = rig.client.database("shop").collection::<Document>("orders");
    assert_eq!(orders.count_documents(doc! { "n": 5 }).await.expect("count"), 1);
}

/// With a limit in seconds the tail is stored in small chunks, which are joined when their span is over.
#[tokio::test]
async fn small_chunks_are_joined() {
    let rig = Rig::start(Options::default(), &["pitr.oplogSpanMin=0.3", "pitr.maxLossSec=5"]).await;
    let mut most = 0;
    let joined = wait::until("a joined chunk", USUAL, async || {
        rig.write(2).await;
        let chunks = rig.chunks().await;
        most = most.max(chunks.len());
        chunks.into_iter().find(|chunk| chunk.end_ts.time - chunk.start_ts.time >= 14)
    })
    .await;
    assert!(most >= 3, "at most {most} chunks at a time");
    let chunks = wait::until("the small ones to go", USUAL, async || {
        let chunks = rig.chunks().await;
        let files = chunk_files(&rig);
        (chunks.iter().all(|chunk| {
            chunk.start_ts >= joined.end_ts || chunk.fname == joined.fname || chunk.end_ts <= joined.start_ts
        }) && files.len() == chunks.len())
        .then_some(chunks)
    })
    .await;
    rig.assert_whole(&chunks, &rig.client).await;
}

/// Settings change while slicing goes on.
#[tokio::test]
async fn a_configuration_that_changes_every_moment_leaves_no_hole() {
    let rig = Rig::start(Options::default(), &["pitr.oplogSpanMin=0.05"]).await;
    let first = rig.write(0).await;
    rig.saved("rs0", first).await;
    let settings = [
        "pitr.compression=zstd",
        "pitr.oplogSpanMin=0.02",
        "pitr.maxLossSec=5",
        "pitr.compressionLevel=1",
        "pitr.compression=none",
        "pitr.enabled=false",
        "pitr.oplogOnly=true",
        "pitr.enabled=true",
        "pitr.compression=lz4",
        "pitr.oplogSpanMin=0.04",
    ];
    let mut last = first;
    for (n, setting) in settings.iter().enumerate() {
        rig.set(setting);
        last = rig.write(i32::try_from(n).expect("few")).await;
    }
    rig.saved("rs0", last).await;
    rig.set("pitr.enabled=false");
    rig.no_slicer().await;
    let chunks = rig.chunks().await;
    rig.assert_whole(&chunks, &rig.client).await;
}

/// A creation of a time series that fails half way leaves buckets beside the collection that was quicker, and 5.0 fills them.
/// A series that is created later takes them as they are, and the oplog has no word of it.
async fn a_series_from_remains(version: Version) {
    let rig = Rig::start(Options { version, ..Options::default() }, &["pitr.oplogSpanMin=0.1"]).await;
    let (shop, admin) = (rig.client.database("shop"), rig.client.database("admin"));
    let series = |name: &str| {
        let of = doc! { "timeField": "t", "metaField": "m" };
        doc! { "create": name, "timeseries": of, "expireAfterSeconds": 1_000_000_000_i64 }
    };
    let names = ["empty", "filled"];
    // As the race would leave them.
    shop.run_command(series("pattern")).await.expect("create a series");
    let listed = doc! { "listCollections": 1, "filter": { "name": "system.buckets.pattern" } };
    let listed = shop.run_command(listed).await.expect("list");
    let found = listed.get_document("cursor").and_then(|it| it.get_array("firstBatch")).expect("a list");
    let options = found[0].as_document().and_then(|it| it.get_document("options").ok()).expect("options");
    for name in names {
        shop.collection::<Document>(name).insert_one(doc! { "_id": 1 }).await.expect("insert");
        let mut create = doc! { "create": format!("system.buckets.{name}") };
        create.extend(options.clone());
        let entry = doc! { "op": "c", "ns": "shop.$cmd", "o": create };
        admin.run_command(doc! { "applyOps": [entry] }).await.expect("create the buckets");
    }
    let measured = doc! { "t": DateTime::from_millis(1_700_000_000_000), "m": 1, "v": 7 };
    shop.collection::<Document>("pattern").insert_one(measured.clone()).await.expect("insert");
    let mut bucket = shop.collection::<Document>("system.buckets.pattern").find_one(doc! {}).await.expect("find");
    let bucket = bucket.as_mut().expect("a bucket");
    bucket.insert("_id", ObjectId::from_bytes([7; 12]));
    let entry = doc! { "op": "i", "ns": "shop.system.buckets.filled", "o": bucket };
    admin.run_command(doc! { "applyOps": [entry] }).await.expect("fill the buckets");
    shop.run_command(doc! { "drop": "pattern" }).await.expect("drop");
    let base = rig.sandbox.backup(&[]);
    for name in names {
        let rename = doc! { "renameCollection": format!("shop.{name}"), "to": format!("shop.{name} before") };
        admin.run_command(rename).await.expect("rename");
        shop.run_command(series(name)).await.expect("create the series");
        shop.collection::<Document>(name).insert_one(measured.clone()).await.expect("insert");
    }
    let until = rig.write(2).await;
    rig.saved("rs0", until).await;
    let expected = state::read(&rig.client).await;
    for (name, count) in [("empty", 1), ("filled", 2)] {
        let buckets = format!("system.buckets.{name}");
        assert_eq!(expected["databases"]["shop"]["collections"][buckets]["count"], count, "{expected}");
    }
    rig.set("pitr.enabled=false");
    rig.no_slicer().await;
    shop.drop().await.expect("drop");
    rig.sandbox.pbm(&["restore", "--time", &format!("{},{}", until.time, until.increment), "--wait", "-y"]).ok();
    assert_eq!(state::differences(&expected, &state::read(&rig.client).await), [""; 0], "base {base}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_takes_the_remains_of_another() {
    a_series_from_remains(Version::Current).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_takes_the_remains_of_another_on_the_older_server() {
    a_series_from_remains(Version::Older).await;
}
