//! Reads one collection as a stream of pieces of whole documents, with its checksum.
//!
//! # Consistency
//!
//! The scan follows natural order and is no snapshot. It reads at majority concern, unless the connection string asks
//! for less; in that case a rollback on the node ends the backup, because it closes all connections. Every write before
//! the beginning of the backup's oplog is committed before the scan begins (`oplog::slice::first_write`), so the scan
//! reads no version that is older than that beginning. It also reads no version that is newer than the oplog's end: the
//! end is determined after the last cursor was closed, when the majority has all writes of this node
//! (`oplog::slice::last_write`). Replaying the oplog over the documents therefore gives the state at the oplog's end.
//!
//! # Scans that end early
//!
//! A collection is opened by its UUID if the server allows it, so that a rename does not make the cursor read another
//! collection. When the server ends the scan, the UUID shows why. If the collection does not exist any more, its drop
//! is in the oplog, and the documents that were read can be kept. If it exists, documents that were not read would be
//! missing, so the scan begins again. Possible reasons: the collection was renamed, the oldest documents of a capped
//! collection were removed too soon, or the cursor was killed (possibly with its session, after half an hour in which
//! the storage accepted nothing).

use super::{
    budget::Budget,
    namespaces::Namespace,
    reply::{Owner, Reply},
};
use crate::mongo::{admin, code, majority};
use bson::{Binary, Bson, doc, spec::BinarySubtype};
use futures::{StreamExt, stream};
use mongodb::{
    Client,
    error::Error as MongoError,
    raw_batch_cursor::{RawBatch, RawBatchCursor},
};
use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// The intended size of one server batch in bytes.
const BATCH_BYTES: u64 = 1024 * 1024;
/// The assumed size of a document if the server returns none, as for buckets of time series.
const UNKNOWN_BYTES: u64 = 16 * 1024;

/// Counters of a whole dump that can be read while it runs.
#[derive(Debug, Default)]
pub struct DumpProgress {
    /// The bytes (uncompressed) and documents that were read.
    pub bytes: AtomicU64,
    pub docs: AtomicU64,
    /// Estimates of all bytes and documents.
    pub bytes_total: AtomicU64,
    pub docs_total: AtomicU64,
    /// The number of finished namespaces, and of all namespaces.
    pub collections: AtomicU64,
    pub collections_total: AtomicU64,
}

/// Counts and checksum of a scan.
#[derive(Clone, Default)]
pub struct Scanned {
    pub bytes: u64,
    pub docs: u64,
    crc: crc64fast::Digest,
    /// Why the scan has to begin again, if its stream has failed for such a reason.
    pub repeat: Option<String>,
}

impl Scanned {
    /// Returns the CRC-64/XZ of all bytes, in the form of the metadata.
    #[must_use]
    pub fn crc(&self) -> i64 {
        if self.bytes == 0 { 0 } else { self.crc.sum64().cast_signed() }
    }
}

/// A collection that is being read.
pub struct Scan {
    client: Client,
    namespace: Namespace,
    cursor: RawBatchCursor,
    /// The batch whose documents are being passed on.
    reply: Reply,
    state: Arc<Mutex<Scanned>>,
    progress: Arc<DumpProgress>,
    budget: Budget,
}

/// Opens a collection and reads its first documents. Returns `None` if it has no documents or does not exist any more.
pub async fn open(
    client: &Client,
    namespace: &Namespace,
    budget: &Budget,
    progress: &Arc<DumpProgress>,
) -> Result<Option<Scan>, MongoError> {
    let mut cursor = match find(client, namespace).await {
        Err(error) if code::code(&error) == Some(code::NAMESPACE_NOT_FOUND) => return Ok(None),
        other => other?,
    };
    loop {
        let batch = match cursor.next().await {
            None => return Ok(None),
            // Nothing has been read yet, so nothing is lost.
            Some(Err(error)) if is_interruption(&error) => {
                return Box::pin(open(client, namespace, budget, progress)).await;
            }
            Some(batch) => batch?,
        };
        let reply = Reply::new(&budget.admit(Owner(batch)).await)?;
        if !reply.is_empty() {
            return Ok(Some(Scan {
                client: client.clone(),
                namespace: namespace.clone(),
                cursor,
                reply,
                state: Arc::default(),
                progress: progress.clone(),
                budget: budget.clone(),
            }));
        }
    }
}

async fn find(client: &Client, namespace: &Namespace) -> Result<RawBatchCursor, MongoError> {
    let by_name = Bson::from(namespace.coll.as_str());
    let Some(uuid) = uuid(namespace) else { return find_as(client, namespace, by_name).await };
    match find_as(client, namespace, uuid).await {
        Err(error) if code::code(&error) == Some(code::UNAUTHORIZED) => find_as(client, namespace, by_name).await,
        other => other,
    }
}

async fn find_as(client: &Client, namespace: &Namespace, coll: Bson) -> Result<RawBatchCursor, MongoError> {
    let average = namespace.bytes.checked_div(namespace.count).unwrap_or(UNKNOWN_BYTES).max(64);
    let batch = u32::try_from((BATCH_BYTES / average).clamp(1, 16_384)).unwrap_or(1);
    let filter = namespace.filter.clone().unwrap_or_default();
    client
        .database(&namespace.db)
        .run_cursor_command(doc! {
            "find": coll,
            "filter": filter,
            "batchSize": batch,
            "noCursorTimeout": true,
            // Without it a default of the cluster may end the scan (`defaultMaxTimeMS`, from 8.0 on).
            "maxTimeMS": 0,
            "readConcern": { "level": majority::read_level(client.read_concern()) },
        })
        .batch_size(batch)
        .batch()
        .await
}

fn uuid(namespace: &Namespace) -> Option<Bson> {
    let bytes = namespace.uuid?.bytes().to_vec();
    Some(Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes }))
}

impl Scan {
    /// Returns the present counts and checksum. They are final when the stream has ended.
    #[must_use]
    pub fn state(&self) -> Arc<Mutex<Scanned>> {
        self.state.clone()
    }

    /// Returns the documents as a stream.
    pub fn stream(self) -> crate::storage::ByteStream {
        stream::try_unfold(self, |mut scan| async move {
            loop {
                if let Some(piece) = scan.reply.next_piece()? {
                    let mut state = lock(&scan.state);
                    state.crc.write(&piece.bytes);
                    state.bytes += piece.bytes.len() as u64;
                    state.docs += piece.docs;
                    drop(state);
                    scan.progress.bytes.fetch_add(piece.bytes.len() as u64, Relaxed);
                    scan.progress.docs.fetch_add(piece.docs, Relaxed);
                    return Ok(Some((piece.bytes, scan)));
                }
                // The old reply must return its part of the budget before the new one reserves its own.
                scan.reply = Reply::default();
                let Some(batch) = scan.next_batch().await? else { return Ok(None) };
                scan.reply = Reply::new(&scan.budget.admit(Owner(batch)).await)?;
            }
        })
        .boxed()
    }

    async fn next_batch(&mut self) -> io::Result<Option<RawBatch>> {
        let error = match self.cursor.next().await.transpose() {
            Ok(batch) => return Ok(batch),
            Err(error) => error,
        };
        let failed =
            |error: &MongoError| io::Error::other(format!("reading {}: {}", self.namespace.ns(), admin::reason(error)));
        if !is_interruption(&error) {
            return Err(failed(&error));
        }
        if !still_exists(&self.client, &self.namespace).await.map_err(|e| failed(&e))? {
            return Ok(None);
        }
        lock(&self.state).repeat = Some(admin::reason(&error));
        Err(failed(&error))
    }
}

fn is_interruption(error: &MongoError) -> bool {
    code::is_lost_cursor(error)
}

async fn still_exists(client: &Client, namespace: &Namespace) -> Result<bool, MongoError> {
    let Some(uuid) = uuid(namespace) else { return Ok(true) };
    // A rename into another database creates a new collection there and drops this one.
    let found = client
        .database(&namespace.db)
        .run_command(doc! { "listCollections": 1, "filter": { "info.uuid": uuid } })
        .await?;
    Ok(found.get_document("cursor").and_then(|c| c.get_array("firstBatch")).is_ok_and(|all| !all.is_empty()))
}

/// Ignores a poisoned lock, because the counters are valid between any two writes.
pub(super) fn lock(state: &Mutex<Scanned>) -> std::sync::MutexGuard<'_, Scanned> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
