//! Object stores through real agents and the command line: everything that works on a directory works there.

mod azure;
mod credentials;
mod google;
mod s3;

use crate::sharded::last_write;
use crate::support::cluster::Options;
use crate::support::objects::{BUCKET, KEY, ObjectServer, SECRET};
use crate::support::programs::{Deployment, Sandbox};
use crate::support::sharded::{ShardedCluster, ShardedSandbox, TWO_SHARDS};
use crate::support::{state, wait};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::storage::Storage;
use serde_json::Value;
use std::time::Duration;

/// The settings of a store, as they stand below `storage:`.
fn s3(server: &ObjectServer, more: &str) -> String {
    s3_with(server, more, true)
}

/// As [`s3`]; without keys the agents have to find some.
fn s3_with(server: &ObjectServer, more: &str, keys: bool) -> String {
    let keys = if keys {
        format!("    credentials:\n      access-key-id: {KEY}\n      secret-access-key: {SECRET}\n")
    } else {
        String::new()
    };
    let at = server.endpoint();
    format!("type: s3\n  s3:\n    endpointUrl: {at}\n    bucket: {BUCKET}\n    prefix: cluster/one\n{keys}{more}")
}

async fn fill(client: &Client, from: i32, to: i32) {
    let docs = (from..to).map(|n| doc! { "_id": n, "text": format!("{n} ").repeat(100) });
    let orders = client.database("shop").collection::<Document>("orders");
    orders.insert_many(docs).await.expect("insert");
    let index = mongodb::IndexModel::builder().keys(doc! { "text": 1 }).build();
    orders.create_index(index).await.expect("create an index");
}

/// Fills collections whose names stores can't have as object names, or that listings can't show.
async fn fill_odd(client: &Client, id: i32) {
    for name in ["x/../y", "x//y", "a", "a/b", "line\nfeed\u{1}\u{7f}", "ü \\ & <"] {
        client.database("shop").collection(name).insert_one(doc! { "_id": id }).await.expect("insert");
    }
}

async fn now(client: &Client) -> Timestamp {
    pbmbox::mongo::hello(client).await.expect("hello").majority_write().expect("a write")
}

/// Waits until chunks of a replica set reach `until`.
async fn saved(control: &Client, rs: &str, until: Timestamp) {
    let chunks = control.database("admin").collection::<Document>("pbmPITRChunks");
    wait::until(&format!("chunks of {rs} until {until}"), Duration::from_secs(60), async || {
        chunks.find_one(doc! { "rs": rs, "end_ts": { "$gte": until } }).await.expect("read").map(drop)
    })
    .await;
}

fn differences(expected: &Value, got: &Value) -> Vec<String> {
    let lines = state::differences(expected, got).into_iter();
    lines.filter(|line| !line.starts_with("/users") && !line.starts_with("/roles")).collect()
}

/// Backup, slices, resync elsewhere, restore of a backup and to a time, deletion; `objects` lists what is in the store.
pub async fn everything(storage: &str, objects: impl AsyncFn() -> Vec<String>) {
    let source = Sandbox::unconfigured(Options::default()).await;
    source.configure_with(storage, &["pitr.oplogSpanMin=0.05", "pitr.enabled=true"]).await;
    let client = source.set.client().await;
    fill(&client, 0, 2000).await;
    fill_odd(&client, 0).await;
    let name = source.backup(&["--compression", "zstd"]);
    let at_backup = state::read(&client).await;
    fill(&client, 2000, 3000).await;
    fill_odd(&client, 1).await;
    let later = now(&client).await;
    let at_later = state::read(&client).await;
    saved(&client, "rs0", later).await;
    source.pbm(&["config", "--set", "pitr.enabled=false"]).ok();
    let status = source.pbm(&["status", "-o", "json"]).ok().json();
    assert!(status["backups"]["snapshot"][0]["size"].as_i64().expect("a size") > 0, "{status}");

    let target = Sandbox::unconfigured(Options::default()).await;
    target.configure_with(storage, &[]).await;
    target.pbm(&["config", "--force-resync", "--wait"]).ok();
    target.pbm(&["restore", &name, "--wait", "-y"]).ok();
    let restored = target.set.client().await;
    assert_eq!(differences(&at_backup, &state::read(&restored).await), [""; 0]);
    target.pbm(&["restore", "--time", &format!("{},{}", later.time, later.increment), "--wait", "-y"]).ok();
    assert_eq!(differences(&at_later, &state::read(&restored).await), [""; 0]);
    let described = target.pbm(&["describe-backup", &name, "--with-collections", "-o", "json"]).ok();
    assert!(described.stdout.contains("shop.orders"), "{}", described.stdout);
    clean_up(&target, &name, objects).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_on_s3() {
    let server = ObjectServer::start().await;
    let store = s3::store(&server, |it| it.prefix = "cluster/one".to_owned()).await;
    let objects = async || store.list("").map_ok(|object| object.name).try_collect().await.expect("list");
    everything(&s3(&server, ""), objects).await;
    assert!(server.count("AbortMultipartUpload") == 0, "an upload was given up");
}

/// Lengths of the ranges that were asked for of objects whose name has `part`.
fn ranges(server: &ObjectServer, part: &str) -> Vec<u64> {
    let asked = server.asked();
    let of_it = asked.iter().filter(|it| it.operation() == "GetObject" && it.path.contains(part));
    let range = |header: &str| {
        let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
        Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
    };
    of_it.filter_map(|it| range(it.headers.get("range")?.to_str().ok()?)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_reads_in_ranges_as_the_settings_say() {
    let server = ObjectServer::start().await;
    let sandbox = Sandbox::unconfigured(Options::default()).await;
    sandbox.configure_with(&s3(&server, ""), &[]).await;
    let client = sandbox.set.client().await;
    let docs = (0..40).map(|n| doc! { "_id": n, "text": "x".repeat(100_000) });
    client.database("shop").collection::<Document>("wide").insert_many(docs).await.expect("insert");
    let name = sandbox.backup(&["--compression", "none"]);
    let longest = |asked: Vec<u64>| asked.into_iter().max();
    for (set, most) in [
        ("restore.batchSize=0", 8 << 20),
        ("restore.downloadChunkMb=1", 1 << 20),
        // Four objects at a time have half a MiB each.
        ("restore.maxDownloadBufferMb=2", 1 << 19),
    ] {
        sandbox.pbm(&["config", "--set", set]).ok();
        let before = ranges(&server, "shop.wide").len();
        sandbox.pbm(&["restore", &name, "--wait", "-y"]).ok();
        let asked = ranges(&server, "shop.wide").split_off(before);
        assert_eq!(longest(asked.clone()), Some(most), "{set}: {asked:?}");
    }
    let count = client.database("shop").collection::<Document>("wide").count_documents(doc! {}).await.expect("count");
    assert_eq!(count, 40);
}

/// As [`everything`], on two shards.
pub async fn everything_sharded(storage: &str, objects: impl AsyncFn() -> Vec<String>) {
    let source = ShardedSandbox::around(ShardedCluster::start(Options::default(), TWO_SHARDS).await).await;
    source.configure_with(storage, &["pitr.oplogSpanMin=0.05", "pitr.enabled=true"]).await;
    source.set.create_database("shop", "rs1").await;
    source.set.shard_collection("shop.orders", "n").await;
    source.set.split("shop.orders", 500).await;
    source.set.move_chunk("shop.orders", 700, "shardB").await.expect("move a chunk");
    let mut router = source.set.router().await;
    let mut fill = async |numbers: std::ops::Range<i32>| {
        for n in numbers {
            router.insert("shop.orders", doc! { "_id": n, "n": i64::from(n) }).await;
        }
    };
    fill(0..600).await;
    let name = source.backup(&[]);
    fill(600..900).await;
    let later = last_write(&source.set).await;
    let control = source.set.config.client().await;
    for rs in ["cfgrs", "rs1", "rs2"] {
        saved(&control, rs, later).await;
    }
    source.pbm(&["config", "--set", "pitr.enabled=false"]).ok();

    let target = ShardedSandbox::around(ShardedCluster::start(Options::default(), TWO_SHARDS).await).await;
    target.configure_with(storage, &[]).await;
    target.pbm(&["config", "--force-resync", "--wait"]).ok();
    let counts = async || -> Vec<(String, usize)> {
        let found = target.set.router().await.find("shop.orders", doc! {}).await;
        found.into_iter().map(|(shard, docs)| (shard, docs.len())).collect()
    };
    target.pbm(&["restore", &name, "--wait", "-y"]).ok();
    assert_eq!(counts().await, [("rs1".to_owned(), 500), ("shardB".to_owned(), 100)]);
    target.pbm(&["restore", "--time", &format!("{},{}", later.time, later.increment), "--wait", "-y"]).ok();
    assert_eq!(counts().await, [("rs1".to_owned(), 500), ("shardB".to_owned(), 400)]);
    clean_up(&target, &name, objects).await;
}

/// Deletes the slices and the backup, and checks that nothing of them is left. Either the cluster that made them deletes
/// them, or another cluster, which leaves the mark of the first.
async fn clean_up<D: Deployment>(sandbox: &Sandbox<D>, name: &str, objects: impl AsyncFn() -> Vec<String>) {
    sandbox.pbm(&["delete-pitr", "--all", "-y", "--wait"]).ok();
    sandbox.pbm(&["delete-backup", name, "-y"]).ok();
    let left = objects().await;
    let stays = |name: &String| name.starts_with(".pbm") || name.starts_with("pbmPitr/.clusters/");
    assert!(left.iter().all(stays), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_shards_on_s3() {
    let server = ObjectServer::start().await;
    let store = s3::store(&server, |it| it.prefix = "cluster/one".to_owned()).await;
    let objects = async || store.list("").map_ok(|object| object.name).try_collect().await.expect("list");
    everything_sharded(&s3(&server, ""), objects).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_keeps_to_its_limit() {
    let server = ObjectServer::start().await;
    let sandbox = Sandbox::unconfigured(Options::default()).await;
    sandbox.configure_with(&s3(&server, ""), &["backup.limitUpload=1m"]).await;
    let shown = sandbox.pbm(&["config", "backup.limitUpload"]).ok();
    assert!(shown.stdout.contains("backup.limitUpload=1MiB"), "{}", shown.stdout);
    // About 3 MiB.
    fill(&sandbox.set.client().await, 0, 6000).await;
    let took = |more: &[&str]| {
        let begun = std::time::Instant::now();
        sandbox.backup(&[&["--compression", "none"], more].concat());
        begun.elapsed().as_secs_f64()
    };
    let (limited, half, free) = (took(&[]), took(&["--limit-upload", "512KiB/s"]), took(&["--limit-upload", "0"]));
    assert!(limited > 2.5 && half > limited + 2.0 && free < limited, "{limited} s, {half} s, {free} s");
    let wrong = sandbox.pbm(&["backup", "--limit-upload", "50"]).failed();
    assert!(wrong.stderr.contains("per second with its unit"), "{}", wrong.stderr);
}

/// The store refuses everything in the middle of a backup: it fails clearly, and the next one works.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_begins_to_refuse() {
    use crate::support::objects::Fault;
    let server = ObjectServer::start().await;
    let sandbox = Sandbox::unconfigured(Options::default()).await;
    sandbox.configure_with(&s3(&server, ""), &[]).await;
    fill(&sandbox.set.client().await, 0, 1000).await;
    server.rule(|asked| {
        let data = asked.operation() == "PutObject" && asked.path.contains("shop.orders");
        data.then(|| Fault::error(403, "AccessDenied"))
    });
    let failed = sandbox.pbm(&["backup", "--wait"]).failed();
    let said = format!("{}{}", failed.stdout, failed.stderr);
    assert!(said.contains("AccessDenied"), "{said}");
    server.rule(|_| None);
    sandbox.backup(&[]);
    // Wrong keys are noticed when they are set, and named in the status.
    let wrong = s3(&server, "").replace(SECRET, "wrong");
    let file = sandbox.storage.path().join("wrong.yaml");
    std::fs::write(&file, format!("storage:\n  {wrong}\n")).expect("write");
    sandbox.pbm(&["config", "--file", &file.display().to_string(), "--wait"]).ok();
    let said = wait::until("the agent to see that its keys are wrong", Duration::from_secs(30), async || {
        let status = sandbox.pbm(&["status"]);
        let said = format!("{}{}", status.stdout, status.stderr);
        said.contains("check the secret key").then_some(said)
    })
    .await;
    assert!(!said.contains(SECRET) && !said.contains("wrong\n"), "{said}");
}
