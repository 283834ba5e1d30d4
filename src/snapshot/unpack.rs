//! Loads one mongodump archive into many collections, in one pass.
//!
//! The namespaces are interleaved in one compressed stream, so the object is read once from its beginning to its end
//! and every piece goes to its collection. Memory, durability and retries are as in [`super::load`]. At the end of a
//! block its last batch is sent, so that only the current collection has an unfinished batch. Otherwise idle
//! collections could hold the whole budget while the current one waits for a part of it.

use super::{
    insert,
    insert_workers::{Inserter, Shared},
    load_options::{Goal, LoadItem, LoadOptions},
    load_result::{Error, LoadProgress, Loaded},
};
use crate::{
    archive::demux::{self, Archive, Frame},
    compress,
    model::compression::Compression,
    storage::{self, Storage},
};
use mongodb::Client;
use std::{
    collections::HashMap,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The archive of one replica set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub object: String,
    pub compression: Compression,
}

impl Packed {
    /// Reads the archive up to its first block.
    ///
    /// # Errors
    /// The object is missing, can't be read, or is no archive.
    pub async fn open(&self, storage: &dyn Storage) -> Result<Archive, Error> {
        let stream = match storage.get(&self.object, None).await {
            Ok(stream) => stream,
            Err(error) => return Err(self.failed(demux::Error::Read { at: 0, source: as_io(error) })),
        };
        Archive::open(compress::decode(stream, self.compression)).await.map_err(|source| self.failed(source))
    }

    /// Returns an error of the archive with the object's name.
    #[must_use]
    pub fn failed(&self, source: demux::Error) -> Error {
        Error::Archive { object: self.object.clone(), source: Box::new(source) }
    }
}

/// The collections to load from an archive.
#[derive(Debug)]
pub struct Job {
    packed: Packed,
    /// The goals, by the namespace that the blocks contain.
    goals: HashMap<(String, String), Goal>,
    /// The sum of the uncompressed bytes of all goals.
    bytes: u64,
}

impl Job {
    /// Creates a job that loads the collections of `items` from `packed`, even if the items contain other object names.
    #[must_use]
    pub fn new(packed: Packed, items: Vec<LoadItem>) -> Self {
        let bytes = items.iter().map(|item| item.data.size).sum();
        let name = |goal: &Goal| (goal.into.db.clone(), goal.into.coll.clone());
        Self { packed, goals: items.into_iter().map(|item| (name(&item.goal), item.goal)).collect(), bytes }
    }
}

fn as_io(error: storage::Error) -> io::Error {
    let kind = if error.is_not_found() { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
    io::Error::new(kind, error)
}

/// Loads every namespace that has a goal, and skips the others. Returns when a majority has everything and the whole
/// archive was complete and undamaged.
///
/// # Errors
/// The archive is damaged or can't be read, or the server refuses a document. The collections are then incomplete.
pub async fn unpack(
    storage: &dyn Storage,
    client: &Client,
    job: Job,
    (options, progress): (LoadOptions, Arc<LoadProgress>),
    cancel: &CancellationToken,
) -> Result<Loaded, Error> {
    progress.total.store(job.bytes, Relaxed);
    progress.collections_total.store(job.goals.len() as u64, Relaxed);
    let shared = Shared::new(client, options, progress);
    let mut finishing = JoinSet::new();
    let result = tokio::select! {
        () = cancel.cancelled() => Err(Error::Cancelled),
        result = distribute(storage, &shared, job, &mut finishing) => result,
    };
    finishing.shutdown().await;
    let loaded = result?;
    tokio::select! {
        () = cancel.cancelled() => Err(Error::Cancelled),
        confirmed = insert::confirm(client) => Ok(confirmed.map(|()| loaded)?),
    }
}

async fn distribute(
    storage: &dyn Storage,
    shared: &Arc<Shared>,
    Job { packed, mut goals, .. }: Job,
    finishing: &mut JoinSet<Result<Loaded, Error>>,
) -> Result<Loaded, Error> {
    let mut archive = packed.open(storage).await?;
    let mut inserters: Vec<Option<Inserter>> = archive
        .names()
        .iter()
        .map(|name| goals.remove(name).map(|goal| Inserter::new(shared.clone(), goal, &packed.object)))
        .collect();
    let mut sum = Loaded::default();
    while let Some(frame) = archive.next().await.map_err(|source| packed.failed(source))? {
        match frame {
            Frame::Part { ns, bytes } => {
                if let Some(inserter) = &mut inserters[ns] {
                    inserter.add(bytes).await?;
                }
            }
            Frame::BlockEnd { ns } => {
                if let Some(inserter) = &mut inserters[ns] {
                    inserter.check_inserts()?;
                    inserter.send().await?;
                }
            }
            // The last inserts of this collection finish while the next blocks are read.
            Frame::End { ns, .. } => {
                if let Some(inserter) = inserters[ns].take() {
                    finishing.spawn(inserter.finish());
                }
            }
        }
        while let Some(done) = finishing.try_join_next() {
            add(&mut sum, done??);
        }
    }
    while let Some(done) = finishing.join_next().await {
        add(&mut sum, done??);
    }
    Ok(sum)
}

fn add(sum: &mut Loaded, one: Loaded) {
    sum.collections += u64::from(one.documents > 0);
    sum.documents += one.documents;
    sum.bytes += one.bytes;
}
