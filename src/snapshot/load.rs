//! Loads compressed objects into collections.
//!
//! # Overview
//!
//! `storage → decompress → checksum → batches of whole documents → insert`. Several collections are loaded at once,
//! with several inserts of one collection at once. The collections already exist; this module creates and drops none.
//!
//! # Memory
//!
//! All collections share one budget. A batch reserves its part of the budget before its first byte is copied. So the
//! bytes of all batches (that are being filled, wait or are being sent) stay below [`LoadOptions::in_flight`], whatever
//! the documents are. A document larger than the whole budget waits until no other batch is in memory.
//!
//! # Durability
//!
//! Only the primary acknowledges most batches, which is faster than a majority each time. One batch in each span of
//! [`MAJORITY_EVERY`](super::insert_workers::MAJORITY_EVERY) bytes waits until a majority has it, so that the other
//! members do not fall far behind. At the end a majority confirms everything, and only then the data counts as loaded.
//!
//! # Retries
//!
//! There are no retries, because an insert is not idempotent. The caller may drop, create and load again.

use super::{
    insert,
    insert_workers::{Inserter, Shared},
    stored::Reading,
};
use crate::storage::Storage;
use bytes::Bytes;
use mongodb::Client;
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use super::{
    load_options::{Goal, LoadItem, LoadOptions},
    load_result::{Error, LoadProgress, Loaded},
};

/// Loads everything, with the largest collections first. Returns when a majority has it and every object had the
/// recorded size and checksum.
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

/// Loads one collection. When this returns without an error, all its inserts have been acknowledged.
async fn load_one(storage: Arc<dyn Storage>, shared: Arc<Shared>, item: LoadItem) -> Result<Loaded, Error> {
    let ns = item.goal.ns();
    let stored = |source| Error::Stored { ns: ns.clone(), source: Box::new(source) };
    let mut reading = item.data.open(storage.as_ref()).await.map_err(stored)?;
    let mut inserter = Inserter::new(shared, item.goal.clone(), &item.data.object);
    while let Some(chunk) = read_next(&mut reading, &mut inserter).await? {
        inserter.add(chunk).await?;
    }
    inserter.finish().await
}

/// Reads the next chunk of the object.
///
/// # Errors
/// The object is damaged or can't be read, or one of the running inserts has failed.
async fn read_next(reading: &mut Reading<'_>, inserter: &mut Inserter) -> Result<Option<Bytes>, Error> {
    inserter.check_inserts()?;
    reading.next().await.map_err(|source| Error::Stored { ns: inserter.ns(), source: Box::new(source) })
}
