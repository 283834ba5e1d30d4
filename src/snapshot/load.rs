//! Compressed objects into collections.
//!
//! # Overview
//!
//! `storage → decompress → checksum → batches of whole documents → insert`, several collections at once and several
//! inserts of one collection at once. Collections exist already; nothing here creates or drops one.
//!
//! # Memory
//!
//! A batch is admitted before its first byte is copied, against one budget for all collections, so the bytes of all
//! batches, being filled, waiting or being sent, stay below [`LoadOptions::in_flight`] whatever the documents are.
//! A document larger than the whole budget is admitted alone.
//!
//! # Durability
//!
//! Batches are acknowledged by the primary alone, which is faster than a majority each time, except for one batch out
//! of each [`MAJORITY_EVERY`](super::insert_workers::MAJORITY_EVERY) bytes: its sender waits until most members have it, so that the primary cannot run far
//! ahead of the others. At the end a majority confirms everything, and only then the data counts as loaded.
//!
//! # Retries
//!
//! None: an insert is not idempotent. The caller may drop, create and load again.

use super::{
    batch::MAX_DOCUMENTS,
    insert,
    insert_workers::{Filling, Shared},
    stored::{self, Reading, StoredDocuments},
};
use crate::{archive::demux, storage::Storage};
use bytes::Bytes;
use mongodb::Client;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use super::insert_workers::Goal;

/// How much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Collections at the same time.
    pub collections: usize,
    /// Inserts at the same time for one collection.
    pub workers: usize,
    /// Documents in one insert, at most.
    pub batch_documents: usize,
    /// Bytes of documents in one insert, except that one document may be larger.
    pub batch_bytes: usize,
    /// Bytes of all batches together.
    pub in_flight: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            collections: (cpus / 2).max(1),
            workers: 4,
            batch_documents: MAX_DOCUMENTS,
            batch_bytes: 1 << 20,
            in_flight: 8 << 20,
        }
    }
}

/// The documents of one collection and where they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadItem {
    pub data: StoredDocuments,
    pub goal: Goal,
}

/// Counters that anybody may read while the load runs.
#[derive(Debug, Default)]
pub struct LoadProgress {
    /// Uncompressed bytes that the server has acknowledged.
    pub bytes: AtomicU64,
    pub documents: AtomicU64,
    /// Uncompressed bytes to load; known from the start of each load.
    pub total: AtomicU64,
    /// Collections that are done, and all that there are.
    pub collections: AtomicU64,
    pub collections_total: AtomicU64,
}

/// What was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loaded {
    pub collections: u64,
    pub documents: u64,
    pub bytes: u64,
}

impl std::ops::Add for Loaded {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            collections: self.collections + other.collections,
            documents: self.documents + other.documents,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Why a load ended early. The collections are then incomplete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("load '{ns}'")]
    Stored { ns: String, source: Box<stored::Error> },
    #[error("load '{object}'")]
    Archive { object: String, source: Box<demux::Error> },
    #[error(transparent)]
    Insert(#[from] insert::Error),
    #[error("the load was cancelled")]
    Cancelled,
    #[error("the load of a collection stopped unexpectedly")]
    Task(#[from] tokio::task::JoinError),
}

/// Loads everything, the largest first, and returns when a majority has it and every object had the recorded size and
/// checksum.
pub async fn load(
    storage: Arc<dyn Storage>,
    client: &Client,
    mut items: Vec<LoadItem>,
    options: LoadOptions,
    progress: Arc<LoadProgress>,
    cancel: &CancellationToken,
) -> Result<Loaded, Error> {
    items.sort_by(|a, b| (b.data.size, &a.data.object).cmp(&(a.data.size, &b.data.object)));
    progress.total.fetch_add(items.iter().map(|item| item.data.size).sum(), Relaxed);
    progress.collections_total.fetch_add(items.len() as u64, Relaxed);
    let shared = Shared::new(client, options, progress);
    let mut running = JoinSet::new();
    let result = tokio::select! {
        () = cancel.cancelled() => Err(Error::Cancelled),
        result = load_all(&storage, &shared, items.into(), &mut running) => result,
    };
    running.shutdown().await;
    let loaded = result?;
    tokio::select! {
        () = cancel.cancelled() => Err(Error::Cancelled),
        confirmed = insert::confirm(client) => Ok(confirmed.map(|()| loaded)?),
    }
}

async fn load_all(
    storage: &Arc<dyn Storage>,
    shared: &Arc<Shared>,
    mut waiting: VecDeque<LoadItem>,
    running: &mut JoinSet<Result<Loaded, Error>>,
) -> Result<Loaded, Error> {
    let mut sum = Loaded::default();
    loop {
        while running.len() < shared.options.collections.max(1)
            && let Some(item) = waiting.pop_front()
        {
            running.spawn(load_one(storage.clone(), shared.clone(), item));
        }
        let Some(done) = running.join_next().await else { return Ok(sum) };
        sum = sum + done??;
    }
}

/// Loads one collection. All its inserts have been acknowledged when this returns without an error.
async fn load_one(storage: Arc<dyn Storage>, shared: Arc<Shared>, item: LoadItem) -> Result<Loaded, Error> {
    let ns = item.goal.ns();
    let stored = |source| Error::Stored { ns: ns.clone(), source: Box::new(source) };
    let mut reading = item.data.open(storage.as_ref()).await.map_err(stored)?;
    let mut filling = Filling::new(shared, item.goal.clone(), &item.data.object);
    while let Some(chunk) = next(&mut reading, &mut filling).await? {
        filling.take(chunk).await?;
    }
    filling.finish().await
}

/// The next chunk, unless an insert failed meanwhile.
async fn next(reading: &mut Reading<'_>, filling: &mut Filling) -> Result<Option<Bytes>, Error> {
    filling.reap()?;
    reading.next().await.map_err(|source| Error::Stored { ns: filling.ns(), source: Box::new(source) })
}
