//! A random workload with DDL, a fuzzy dump in the middle of it, a replay onto another server: both must be equal.
//!
//! `PBMBOX_REPLAY_SEED` repeats one run (the interleaving of the workers is the machine's), `PBMBOX_REPLAY_RUNS` sets how many.

mod cases;
mod dump;
mod lanes;
pub mod server;
mod state;
pub mod workload;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use pbmbox::replay::apply::{ReplayOptions, Replayer};
use pbmbox::replay::build::CommitQuorum;
use pbmbox::replay::catalog::Catalog;

use self::server::{Server, Version};
use self::workload::{Pace, Workload};
use crate::support::cluster::Options;
use crate::support::doctored::Doctor;

const WORKERS: u64 = 4;

async fn oplog(server: &Server, from: Timestamp, to: Timestamp) -> Vec<RawDocumentBuf> {
    let local = server.client.database("local");
    let cursor = local.collection::<RawDocumentBuf>("oplog.rs").find(doc! {"ts": {"$gte": from, "$lte": to}}).await;
    cursor.unwrap().try_collect().await.unwrap()
}

/// Writes a note and returns a time that is not before it: all that was read before has reached the majority by then.
async fn note(server: &Server) -> Timestamp {
    let note = doc! {"appendOplogNote": 1, "data": {"by": "test"}, "writeConcern": {"w": "majority"}};
    server.run("admin", note).await.unwrap();
    server.last_write().await
}

async fn round(seed: u64, version: Version) {
    round_to(seed, Options { version, ..Options::default() }).await;
}

/// Replays onto such a server.
async fn round_to(seed: u64, options: Options) {
    let version = options.version;
    eprintln!("PBMBOX_REPLAY_SEED={seed} on {version:?}");
    let (source, target) = (Server::start(version).await, Server::with(options).await);
    let major = source.major().await;
    Workload::new(source.client.clone(), seed, major).steps(400).await;
    // What was in the target before must not matter.
    Workload::new(target.client.clone(), seed ^ 1, major).steps(150).await;
    for db in dump::databases(&target.client).await {
        for each in dump::list(&target.client, &db).await {
            let name = each.get_str("name").unwrap();
            if !name.starts_with("system.") && name != "e" {
                target.run(&db, doc! {"drop": name}).await.unwrap();
            }
        }
    }

    let stop = Arc::new(AtomicBool::new(false));
    let (steps, counted) = tokio::sync::watch::channel(0);
    let mut pace = Pace(counted);
    let workers: Vec<_> = (0..WORKERS)
        .map(|n| Workload::new(source.client.clone(), seed * 100 + n, major).run_until(stop.clone(), steps.clone()))
        .map(tokio::spawn)
        .collect();
    pace.wait(20).await;
    let start = source.last_write().await;
    let dumped = dump::dump(&source.client, &mut pace).await;
    // The dump has read what the majority may not have yet.
    let consistent_from = note(&source).await;
    pace.wait(150).await;
    stop.store(true, Ordering::Relaxed);
    let mut done = std::collections::BTreeMap::<&str, usize>::new();
    for worker in workers {
        worker.await.unwrap().done.into_iter().for_each(|(name, count)| *done.entry(name).or_default() += count);
    }
    let end = note(&source).await;
    eprintln!("workload {done:?}");

    let mut catalog = Catalog::new(target.able().await);
    for each in dumped.iter().filter(|each| each.meta.kind == pbmbox::archive::meta::NamespaceKind::Collection) {
        let _ = target.run(&each.meta.db, doc! {"drop": &each.meta.coll}).await;
    }
    for each in dumped.iter().filter(|each| each.meta.kind != pbmbox::archive::meta::NamespaceKind::Collection) {
        let _ = target.run(&each.meta.db, doc! {"drop": &each.meta.coll}).await;
    }
    dump::load(&target.client, &dumped, &mut catalog).await;

    let entries = oplog(&source, start, end).await;
    let mut options = ReplayOptions::new(start, end, consistent_from);
    // Small, so that one batch is sent while the next one is read.
    (options.transaction_bytes, options.batch_bytes, options.lanes) = (4000, 6000, 3);
    let kept = keep(seed, major, &dumped, &entries);
    let mut replayer = Replayer::new(target.client.clone(), catalog, options);
    // In pieces that share their border, as slices do.
    let piece = entries.len() / 3 + 1;
    for at in (0..entries.len()).step_by(piece) {
        let slice = entries[at.saturating_sub(1)..(at + piece).min(entries.len())].to_vec();
        let _ =
            replayer.apply(stream::iter(slice).map(Ok)).await.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    }
    let replayed = replayer.finish().await.unwrap();
    eprintln!("{:?}", replayed.stats);
    assert!(replayed.open.is_empty());
    let built = replayed.catalog.build(&target.client, &CommitQuorum::default()).await;
    let built = built.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    eprintln!("{built:?}");

    let (truth, mut found) = (state::state(&source.client).await, state::state(&target.client).await);
    // It was in the target and is not in the backup.
    found.retain(|ns, _| truth.contains_key(ns) || !ns.ends_with(".e"));
    let differences = state::differences(&truth, &found);
    if !differences.is_empty() {
        panic!(
            "seed {seed} (oplog in {}), {} differences:\n{}",
            kept.display(),
            differences.len(),
            differences.iter().take(12).cloned().collect::<Vec<_>>().join("\n")
        );
    }
    std::fs::remove_file(kept).unwrap();
}

/// Writes down what is to be restored, for a look at it after a failure.
fn keep(seed: u64, major: i32, dumped: &[dump::Dumped], entries: &[RawDocumentBuf]) -> std::path::PathBuf {
    let dumped = dumped.iter().map(|each| format!("{:?}: {} documents\n", each.meta, each.documents.len()));
    let entries =
        entries.iter().map(|entry| format!("{:?}\n", Document::try_from(entry.as_ref() as &RawDocument).unwrap()));
    let path = std::env::temp_dir().join(format!("pbmbox-replay-{seed}-on-{major}.txt"));
    std::fs::write(&path, dumped.chain(entries).collect::<String>()).unwrap();
    path
}

async fn rounds(version: Version) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    if let Some(seed) = number("PBMBOX_REPLAY_SEED") {
        return round(seed, version).await;
    }
    for _ in 0..number("PBMBOX_REPLAY_RUNS").unwrap_or(1) {
        round(rand::random_range(0..1_000_000), version).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fuzzy_dump_and_its_oplog_give_the_source() {
    rounds(Version::Current).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fuzzy_dump_and_its_oplog_give_the_source_on_the_older_server() {
    rounds(Version::Older).await;
}

/// Newer servers may refuse the mode in which the replay sends its operations, and say less of what they did not apply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fuzzy_dump_and_its_oplog_give_the_source_without_the_mode_of_an_initial_sync() {
    let doctor = Doctor::default().without_initial_sync().with_silent_misses();
    round_to(rand::random_range(0..1_000_000), Options { doctor: Some(doctor), ..Options::default() }).await;
}
