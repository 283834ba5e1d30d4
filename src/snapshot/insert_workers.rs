//! Cuts the bytes of one collection into documents and batches, and inserts them with several workers. This module
//! keeps the promises of [`super::load`] about memory and durability.

use super::{
    batch::{Batch, MAX_DOCUMENT, MAX_DOCUMENTS, MIN_DOCUMENT},
    budget::{Budget, Reservation},
    insert,
    load_options::{Goal, LoadOptions},
    load_result::{Error, LoadProgress, Loaded},
    stored,
};
use bytes::{Buf as _, Bytes};
use mongodb::Client;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::task::JoinSet;

/// One batch in each of these spans of bytes waits for a majority.
pub const MAJORITY_EVERY: u64 = 64 << 20;

/// The state that all collections of one load share.
pub(super) struct Shared {
    client: Client,
    pub(super) options: LoadOptions,
    progress: Arc<LoadProgress>,
    budget: Budget,
    since_majority: AtomicU64,
}

impl Shared {
    pub(super) fn new(client: &Client, options: LoadOptions, progress: Arc<LoadProgress>) -> Arc<Self> {
        Arc::new(Self {
            client: client.clone(),
            budget: Budget::new(options.in_flight),
            options,
            progress,
            since_majority: AtomicU64::new(0),
        })
    }
}

/// Turns the bytes of a collection into inserts.
pub(super) struct Inserter {
    shared: Arc<Shared>,
    goal: Arc<Goal>,
    /// The object that the bytes come from.
    object: String,
    workers: usize,
    inserts: JoinSet<Result<(), Error>>,
    /// The first bytes of the next document, which contain its length, until all four have arrived.
    header: Vec<u8>,
    /// The number of bytes of the current document that have not arrived yet.
    rest: usize,
    batch: Option<(Batch, Reservation)>,
    documents: u64,
    bytes: u64,
}

impl Inserter {
    pub(super) fn new(shared: Arc<Shared>, goal: Goal, object: &str) -> Self {
        // To keep the natural order, the inserts are sent one after the other.
        let workers = if goal.into.ordered { 1 } else { shared.options.workers.max(1) };
        Self {
            shared,
            goal: Arc::new(goal),
            object: object.to_owned(),
            workers,
            inserts: JoinSet::new(),
            header: Vec::with_capacity(4),
            rest: 0,
            batch: None,
            documents: 0,
            bytes: 0,
        }
    }

    pub(super) fn ns(&self) -> String {
        self.goal.ns()
    }

    fn damaged(&self, reason: &str) -> Error {
        let reason = format!("document number {}: {reason}", self.documents + 1);
        Error::Stored {
            ns: self.ns(),
            source: Box::new(stored::Error::Damaged { object: self.object.clone(), reason }),
        }
    }

    /// Adds the next bytes of the collection, and sends each full batch.
    pub(super) async fn add(&mut self, mut chunk: Bytes) -> Result<(), Error> {
        self.bytes += chunk.len() as u64;
        while !chunk.is_empty() {
            if self.rest == 0 {
                let part = chunk.split_to(chunk.len().min(4 - self.header.len()));
                self.header.extend_from_slice(&part);
                if self.header.len() == 4 {
                    self.begin_document().await?;
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

    /// Begins a document after its length has arrived. If it does not fit into the current batch, a new batch begins.
    async fn begin_document(&mut self) -> Result<(), Error> {
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
            let reservation = self.shared.budget.reserve(capacity).await;
            let batch = Batch::new(&self.goal.into, self.wants_majority(), self.documents, capacity);
            self.batch = Some((batch, reservation));
        }
        if let Some((batch, _)) = &mut self.batch {
            batch.begin();
            batch.extend(&self.header);
        }
        self.header.clear();
        self.rest = length - 4;
        Ok(())
    }

    /// Whether the next batch is the one in its span of [`MAJORITY_EVERY`] bytes that waits for a majority.
    fn wants_majority(&self) -> bool {
        let step = self.shared.options.batch_bytes as u64;
        let before = self.shared.since_majority.fetch_add(step, Relaxed);
        before / MAJORITY_EVERY != (before + step) / MAJORITY_EVERY
    }

    /// Waits for a free worker and passes the current batch to it.
    pub(super) async fn send(&mut self) -> Result<(), Error> {
        let Some((batch, reservation)) = self.batch.take() else { return Ok(()) };
        while self.inserts.len() >= self.workers
            && let Some(done) = self.inserts.join_next().await
        {
            done??;
        }
        let (shared, goal) = (self.shared.clone(), self.goal.clone());
        let insert = batch.finish();
        self.inserts.spawn(async move {
            let (documents, bytes) = (insert.documents as u64, insert.bytes as u64);
            insert::send(&shared.client, &goal.into, insert, goal.series.as_deref()).await?;
            shared.progress.documents.fetch_add(documents, Relaxed);
            shared.progress.bytes.fetch_add(bytes, Relaxed);
            drop(reservation);
            Ok(())
        });
        Ok(())
    }

    /// Returns the error of an insert that has failed. Does not wait for the others.
    pub(super) fn check_inserts(&mut self) -> Result<(), Error> {
        while let Some(done) = self.inserts.try_join_next() {
            done??;
        }
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<Loaded, Error> {
        if self.rest > 0 || !self.header.is_empty() {
            return Err(self.damaged("the object ends within it"));
        }
        self.send().await?;
        while let Some(done) = self.inserts.join_next().await {
            done??;
        }
        self.shared.progress.collections.fetch_add(1, Relaxed);
        Ok(Loaded { collections: 1, documents: self.documents, bytes: self.bytes })
    }
}
