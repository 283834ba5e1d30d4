//! `pbmPITRChunks`: the index of PITR oplog chunks (docs/format.md C.8).

use super::{
    Unreadable,
    chunk_table::{ChunkTable, Only},
};
use crate::model::{chunk::Chunk, names};
use crate::mongo::code::{is_duplicate_key, only_duplicate_keys};
use anyhow::{Context, Result};
use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use futures::{Stream, TryStreamExt};
use mongodb::{Collection, Cursor, Database};
use serde::{Deserialize, de::DeserializeOwned};
use std::{collections::HashSet, pin::pin};

/// How many chunks the server sends at a time.
const BATCH: u32 = 10_000;
/// How many chunks are written or removed at a time.
const AT_ONCE: usize = 1000;

/// The times and size of a chunk, without its object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ChunkSpan {
    pub rs: String,
    pub start_ts: Timestamp,
    pub end_ts: Timestamp,
    #[serde(default)]
    pub size: i64,
}

/// The start and the end of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ChunkTimes {
    pub rs: String,
    pub start_ts: Timestamp,
    pub end_ts: Timestamp,
}

/// A chunk and its `_id` in the index.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Indexed {
    #[serde(rename = "_id")]
    pub id: Bson,
    #[serde(flatten)]
    pub chunk: Chunk,
}

const READ: &str = "read admin.pbmPITRChunks";

/// Reads and writes the index.
#[derive(Debug, Clone)]
pub struct Chunks {
    coll: Collection<Chunk>,
    /// The same collection, read as bytes, so that a document that can't be decoded can be left out.
    raw: Collection<RawDocumentBuf>,
    unreadable: Unreadable,
}

impl Chunks {
    pub(super) fn new(db: &Database, unreadable: &Unreadable) -> Self {
        let (coll, raw) = (db.collection(names::PITR_CHUNKS), db.collection(names::PITR_CHUNKS));
        Self { coll, raw, unreadable: unreadable.clone() }
    }

    fn readable<T: DeserializeOwned>(&self, found: Cursor<RawDocumentBuf>) -> impl Stream<Item = Result<T>> + use<T> {
        let unreadable = self.unreadable.clone();
        found
            .map_err(|error| anyhow::Error::new(error).context(READ))
            .try_filter_map(move |it| std::future::ready(Ok(unreadable.read_raw(names::PITR_CHUNKS, &it))))
    }

    /// Returns all chunks, sorted by replica set and start.
    pub async fn all(&self) -> Result<Vec<Chunk>> {
        let found = self.raw.find(doc! {}).sort(doc! { "rs": 1, "start_ts": 1 });
        self.readable(found.await.context(READ)?).try_collect().await
    }

    /// Returns the chunks of a replica set, sorted by start.
    pub async fn of(&self, rs: &str) -> Result<Vec<Chunk>> {
        let found = self.raw.find(doc! { "rs": rs }).sort(doc! { "start_ts": 1, "end_ts": 1 });
        self.readable(found.await.context(READ)?).try_collect().await
    }

    /// Returns the newest chunks of a replica set, sorted by start.
    pub async fn recent(&self, rs: &str, limit: i64) -> Result<Vec<Chunk>> {
        let found = self.raw.find(doc! { "rs": rs }).sort(doc! { "start_ts": -1 }).limit(limit);
        self.readable(found.await.context(READ)?).try_collect().await
    }

    /// Returns the latest end of all chunks.
    pub async fn newest_end(&self) -> Result<Option<Timestamp>> {
        Ok(self.ending_last(doc! {}).await?.map(|chunk| chunk.end_ts))
    }

    /// Returns the chunk of a replica set that has the latest end.
    pub async fn last(&self, rs: &str) -> Result<Option<Chunk>> {
        self.ending_last(doc! { "rs": rs }).await
    }

    async fn ending_last(&self, filter: Document) -> Result<Option<Chunk>> {
        // The server sends one document. More are requested only if the first one can't be decoded.
        let found = self.raw.find(filter).sort(doc! { "end_ts": -1 }).batch_size(1).await.context(READ)?;
        pin!(self.readable(found)).try_next().await
    }

    /// Adds a chunk. It is no error if the index already has it.
    pub async fn add(&self, chunk: &Chunk) -> Result<()> {
        match self.coll.insert_one(chunk).await {
            Err(error) if !is_duplicate_key(&error) => {
                Err(error).with_context(|| format!("note {} in admin.pbmPITRChunks", chunk.fname))
            }
            _ => Ok(()),
        }
    }

    /// Removes chunks from the index by the names of their objects. A missing chunk is no error.
    pub async fn remove(&self, objects: &[String]) -> Result<()> {
        for part in objects.chunks(AT_ONCE) {
            self.coll
                .delete_many(doc! { "fname": { "$in": part } })
                .await
                .context("remove chunks from admin.pbmPITRChunks")?;
        }
        Ok(())
    }

    /// Returns the times and sizes of all chunks, sorted by replica set and start. The result is a stream because there
    /// may be very many.
    pub async fn spans(&self) -> Result<impl Stream<Item = Result<ChunkSpan>> + use<>> {
        let fields = doc! { "_id": 0, "rs": 1, "start_ts": 1, "end_ts": 1, "size": 1 };
        let order = doc! { "rs": 1, "start_ts": 1, "end_ts": 1 };
        let found = self.raw.find(doc! {}).sort(order).projection(fields).batch_size(BATCH).await.context(READ)?;
        Ok(self.readable(found))
    }

    /// Returns the times of all chunks, in the order of [`Chunks::spans`]. The server reads only the keys of one index:
    /// it reads no documents and does not sort. The index is sparse, so the query needs a filter to use it.
    pub async fn times(&self) -> Result<impl Stream<Item = Result<ChunkTimes>> + use<>> {
        let fields = doc! { "_id": 0, "rs": 1, "start_ts": 1, "end_ts": 1 };
        let order = doc! { "rs": 1, "start_ts": 1, "end_ts": 1 };
        let every = doc! { "rs": { "$gte": "" } };
        let found = self.raw.find(every).sort(order).projection(fields).batch_size(BATCH).await.context(READ)?;
        Ok(self.readable(found))
    }

    /// Returns the sum of the sizes of all chunks.
    pub async fn bytes(&self) -> Result<i64> {
        let sum = doc! { "$group": { "_id": null, "bytes": { "$sum": { "$toLong": "$size" } } } };
        let mut found = self.coll.aggregate([sum]).await.context(READ)?;
        let sum = found.try_next().await.context(READ)?;
        Ok(sum.and_then(|sum| sum.get_i64("bytes").ok()).unwrap_or(0))
    }

    /// Returns the chunks that end at or before `until` as a stream, sorted by start.
    pub async fn ending_by(&self, until: Timestamp) -> Result<impl Stream<Item = Result<Indexed>> + use<>> {
        let filter = doc! { "start_ts": { "$lte": until }, "end_ts": { "$lte": until } };
        let found = self.raw.find(filter).sort(doc! { "start_ts": 1, "end_ts": 1 }).batch_size(BATCH);
        Ok(self.readable(found.await.context(READ)?))
    }

    /// Returns which of these objects are in the index. Each object is given with its start.
    pub async fn known(&self, objects: &[(String, Timestamp)]) -> Result<HashSet<String>> {
        let starts: Vec<Timestamp> = objects.iter().map(|(_, start)| *start).collect();
        let names = self.coll.clone_with_type::<Document>();
        let found = names.find(doc! { "start_ts": { "$in": starts } }).projection(doc! { "fname": 1 });
        let found: Vec<Document> = found.await.context(READ)?.try_collect().await.context(READ)?;
        Ok(found.iter().filter_map(|chunk| chunk.get_str("fname").ok().map(str::to_owned)).collect())
    }

    /// Removes chunks from the index by their `_id`.
    pub async fn forget(&self, ids: &[Bson]) -> Result<()> {
        let filter = doc! { "_id": { "$in": ids } };
        self.coll.delete_many(filter).await.context("remove chunks from admin.pbmPITRChunks")?;
        Ok(())
    }

    /// Returns all chunks as a table, in no particular order. Entries that can't be decoded are removed, because the
    /// caller fills the index again and they could conflict with the new entries.
    pub async fn table(&self) -> Result<ChunkTable> {
        let mut found = self.raw.find(doc! {}).batch_size(BATCH).await.context(READ)?;
        let (mut table, mut broken) = (ChunkTable::default(), Vec::new());
        while let Some(raw) = found.try_next().await.context(READ)? {
            match self.unreadable.read_raw(names::PITR_CHUNKS, &raw) {
                Some(chunk) => table.push(chunk),
                None => broken.extend(raw.get("_id").ok().flatten().and_then(|id| Bson::try_from(id).ok())),
            }
        }
        for part in broken.chunks(AT_ONCE) {
            self.forget(part).await?;
        }
        Ok(table)
    }

    /// Changes the index to the chunks that were found on the storage. `known` is the content of the index before the
    /// storage was read. Chunks that were added since then stay.
    pub async fn replace(&self, known: &mut ChunkTable, found: &mut ChunkTable) -> Result<()> {
        // Chunks are removed first, because a chunk with the same times may be added under another name.
        let mut gone = Vec::new();
        for only in known.compare(found) {
            let Only::Mine(chunk) = only else { continue };
            gone.push(chunk.fname);
            if gone.len() == AT_ONCE {
                self.remove(&std::mem::take(&mut gone)).await?;
            }
        }
        self.remove(&gone).await?;
        let mut new = Vec::new();
        for only in known.compare(found) {
            let Only::Theirs(chunk) = only else { continue };
            new.push(chunk);
            if new.len() == AT_ONCE {
                self.add_new(&std::mem::take(&mut new)).await?;
            }
        }
        self.add_new(&new).await
    }

    async fn add_new(&self, chunks: &[Chunk]) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        match self.coll.insert_many(chunks).ordered(false).await {
            // A slicer added the chunk meanwhile.
            Err(error) if !only_duplicate_keys(&error) => Err(error).context("write admin.pbmPITRChunks"),
            _ => Ok(()),
        }
    }
}
