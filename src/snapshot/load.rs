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
//! of each [`MAJORITY_EVERY`] bytes: its sender waits until most members have it, so that the primary cannot run far
//! ahead of the others. At the end a majority confirms everything, and only then the data counts as loaded.
//!
//! # Retries
//!
//! None: an insert is not idempotent. The caller may drop, create and load again.

use super::{
    batch::{Batch, InsertInto, MAX_DOCUMENT, MAX_DOCUMENTS, MIN_DOCUMENT},
    insert,
    stored::{self, Reading, StoredDocuments},
};
use crate::storage::Storage;
use bytes::{Buf as _, Bytes};
use mongodb::Client;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// One batch out of this many bytes waits for a majority.
pub const MAJORITY_EVERY: u64 = 64 << 20;
/// The unit of the memory budget.
const ADMISSION_UNIT: usize = 1024;

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
    pub into: InsertInto,
    /// For buckets: the name of their time series.
    pub series: Option<String>,
}

/// Counters that anybody may read while the load runs.
#[derive(Debug, Default)]
pub struct LoadProgress {
    /// Uncompressed bytes that the server has acknowledged.
    pub bytes: AtomicU64,
    pub documents: AtomicU64,
    /// Uncompressed bytes to load; known from the start.
    pub total: AtomicU64,
}

/// What was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loaded {
    pub collections: u64,
    pub documents: u64,
    pub bytes: u64,
}

/// Why a load ended early. The collections are then incomplete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("load '{ns}'")]
    Stored { ns: String, source: Box<stored::Error> },
    #[error(transparent)]
    Insert(#[from] insert::Error),
    #[error("the load was cancelled")]
    Cancelled,
    #[error("the load of a collection stopped unexpectedly")]
    Task(#[from] tokio::task::JoinError),
}

/// What all collections of one load share.
struct Shared {
    storage: Arc<dyn Storage>,
    client: Client,
    options: LoadOptions,
    progress: Arc<LoadProgress>,
    admission: Arc<Semaphore>,
    admission_units: usize,
    since_majority: AtomicU64,
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
    progress.total.store(items.iter().map(|item| item.data.size).sum(), Relaxed);
    let admission_units = (options.in_flight / ADMISSION_UNIT).max(1);
    let shared = Arc::new(Shared {
        storage,
        client: client.clone(),
        options,
        progress,
        admission: Arc::new(Semaphore::new(admission_units)),
        admission_units,
        since_majority: AtomicU64::new(0),
    });
    let mut running = JoinSet::new();
    let result = tokio::select! {
        () = cancel.cancelled() => Err(Error::Cancelled),
        result = load_all(&shared, items.into(), &mut running) => result,
    };
    running.shutdown().await;
    let loaded = result?;
    tokio::select! {
        () = cancel.cancelled() => Err(Error::Cancelled),
        confirmed = insert::confirm(client) => Ok(confirmed.map(|()| loaded)?),
    }
}

async fn load_all(
    shared: &Arc<Shared>,
    mut waiting: VecDeque<LoadItem>,
    running: &mut JoinSet<Result<Loaded, Error>>,
) -> Result<Loaded, Error> {
    let mut sum = Loaded::default();
    loop {
        while running.len() < shared.options.collections.max(1)
            && let Some(item) = waiting.pop_front()
        {
            running.spawn(load_one(shared.clone(), item));
        }
        let Some(done) = running.join_next().await else { return Ok(sum) };
        let one = done??;
        sum.collections += one.collections;
        sum.documents += one.documents;
        sum.bytes += one.bytes;
    }
}

/// Loads one collection. All its inserts have been acknowledged when this returns without an error.
async fn load_one(shared: Arc<Shared>, item: LoadItem) -> Result<Loaded, Error> {
    let ns = format!("{}.{}", item.into.db, item.into.coll);
    let stored = |source| Error::Stored { ns: ns.clone(), source: Box::new(source) };
    let mut reading = item.data.open(shared.storage.as_ref()).await.map_err(stored)?;
    let mut filling = Filling::new(shared.clone(), Arc::new(item.clone()));
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

/// Turns a collection's bytes into inserts.
struct Filling {
    shared: Arc<Shared>,
    item: Arc<LoadItem>,
    workers: usize,
    inserts: JoinSet<Result<(), Error>>,
    /// The length of the next document, as far as its four bytes have come.
    header: Vec<u8>,
    /// Bytes of the current document still to come.
    rest: usize,
    batch: Option<(Batch, OwnedSemaphorePermit)>,
    documents: u64,
    bytes: u64,
}

impl Filling {
    fn new(shared: Arc<Shared>, item: Arc<LoadItem>) -> Self {
        // One insert after the other keeps the natural order.
        let workers = if item.into.ordered { 1 } else { shared.options.workers.max(1) };
        Self {
            shared,
            item,
            workers,
            inserts: JoinSet::new(),
            header: Vec::with_capacity(4),
            rest: 0,
            batch: None,
            documents: 0,
            bytes: 0,
        }
    }

    fn ns(&self) -> String {
        format!("{}.{}", self.item.into.db, self.item.into.coll)
    }

    fn damaged(&self, reason: &str) -> Error {
        let reason = format!("document number {}: {reason}", self.documents + 1);
        Error::Stored { ns: self.ns(), source: Box::new(self.item.data.damaged(reason)) }
    }

    /// Takes the next bytes of the collection; sends what is full.
    async fn take(&mut self, mut chunk: Bytes) -> Result<(), Error> {
        self.bytes += chunk.len() as u64;
        while !chunk.is_empty() {
            if self.rest == 0 {
                let part = chunk.split_to(chunk.len().min(4 - self.header.len()));
                self.header.extend_from_slice(&part);
                if self.header.len() == 4 {
                    self.begin().await?;
                }
                continue;
            }
            let Some((batch, _)) = &mut self.batch else { return Err(self.damaged("begins before its batch")) };
            let part = self.rest.min(chunk.len());
            batch.extend(&chunk[..part]);
            chunk.advance(part);
            self.rest -= part;
            if self.rest == 0 {
                if let Err(reason) = batch.end() {
                    return Err(self.damaged(&reason));
                }
                self.documents += 1;
            }
        }
        Ok(())
    }

    /// Begins a document whose length has arrived, in a new batch if it does not fit into the current one.
    async fn begin(&mut self) -> Result<(), Error> {
        let length = self.header.as_slice().get_i32_le();
        let Some(length) = usize::try_from(length).ok().filter(|l| (MIN_DOCUMENT..=MAX_DOCUMENT).contains(l)) else {
            return Err(self.damaged(&format!("a length of {length} bytes is impossible")));
        };
        let options = self.shared.options;
        let full = self.batch.as_ref().is_some_and(|(batch, _)| {
            batch.len() + length > options.batch_bytes
                || batch.documents() >= options.batch_documents.clamp(1, MAX_DOCUMENTS)
        });
        if full {
            self.send().await?;
        }
        if self.batch.is_none() {
            let capacity = length.max(options.batch_bytes);
            let permit = self.admit(capacity).await?;
            self.batch = Some((Batch::new(&self.item.into, self.wants_majority(), self.documents, capacity), permit));
        }
        if let Some((batch, _)) = &mut self.batch {
            batch.begin();
            batch.extend(&self.header);
        }
        self.header.clear();
        self.rest = length - 4;
        Ok(())
    }

    async fn admit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let units = bytes.div_ceil(ADMISSION_UNIT).min(self.shared.admission_units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        self.shared.admission.clone().acquire_many_owned(units).await.map_err(|_| Error::Cancelled)
    }

    fn wants_majority(&self) -> bool {
        let step = self.shared.options.batch_bytes as u64;
        let before = self.shared.since_majority.fetch_add(step, Relaxed);
        before / MAJORITY_EVERY != (before + step) / MAJORITY_EVERY
    }

    /// Hands the current batch to a worker, waiting for a free one.
    async fn send(&mut self) -> Result<(), Error> {
        let Some((batch, permit)) = self.batch.take() else { return Ok(()) };
        while self.inserts.len() >= self.workers
            && let Some(done) = self.inserts.join_next().await
        {
            done??;
        }
        let (shared, item) = (self.shared.clone(), self.item.clone());
        let insert = batch.finish();
        self.inserts.spawn(async move {
            let (documents, bytes) = (insert.documents as u64, insert.bytes as u64);
            insert::send(&shared.client, &item.into, insert, item.series.as_deref()).await?;
            shared.progress.documents.fetch_add(documents, Relaxed);
            shared.progress.bytes.fetch_add(bytes, Relaxed);
            drop(permit);
            Ok(())
        });
        Ok(())
    }

    /// Notices inserts that have ended, without waiting.
    fn reap(&mut self) -> Result<(), Error> {
        while let Some(done) = self.inserts.try_join_next() {
            done??;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Loaded, Error> {
        if self.rest > 0 || !self.header.is_empty() {
            return Err(self.damaged("the object ends within it"));
        }
        self.send().await?;
        while let Some(done) = self.inserts.join_next().await {
            done??;
        }
        Ok(Loaded { collections: 1, documents: self.documents, bytes: self.bytes })
    }
}
