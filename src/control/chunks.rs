//! `pbmPITRChunks`: the index of PITR oplog chunks (spec/format.md C.8).

use crate::model::{chunk::Chunk, names};
use crate::mongo::admin::{is_duplicate_key, only_duplicate_keys};
use anyhow::{Context, Result};
use bson::{Bson, Document, Timestamp, doc};
use futures::{Stream, TryStreamExt};
use mongodb::{Collection, Database};
use serde::Deserialize;
use std::collections::HashSet;

/// Chunks that come from the server at a time.
const BATCH: u32 = 10_000;

/// The times and size of a chunk, without its object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ChunkSpan {
    pub rs: String,
    pub start_ts: Timestamp,
    pub end_ts: Timestamp,
    #[serde(default)]
    pub size: i64,
}

/// A chunk and its place in the index.
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
}

impl Chunks {
    pub(super) fn new(db: &Database) -> Self {
        Self { coll: db.collection(names::PITR_CHUNKS) }
    }

    /// All chunks by replica set and start.
    pub async fn all(&self) -> Result<Vec<Chunk>> {
        self.coll
            .find(doc! {})
            .sort(doc! { "rs": 1, "start_ts": 1 })
            .await
            .context(READ)?
            .try_collect()
            .await
            .context(READ)
    }

    /// The chunks of a replica set by start.
    pub async fn of(&self, rs: &str) -> Result<Vec<Chunk>> {
        self.coll
            .find(doc! { "rs": rs })
            .sort(doc! { "start_ts": 1, "end_ts": 1 })
            .await
            .context(READ)?
            .try_collect()
            .await
            .context(READ)
    }

    /// The newest chunks of a replica set, by start.
    pub async fn recent(&self, rs: &str, limit: i64) -> Result<Vec<Chunk>> {
        let found = self.coll.find(doc! { "rs": rs }).sort(doc! { "start_ts": -1 }).limit(limit);
        found.await.context(READ)?.try_collect().await.context(READ)
    }

    /// The end of the newest chunk of all.
    pub async fn newest_end(&self) -> Result<Option<Timestamp>> {
        Ok(self.coll.find_one(doc! {}).sort(doc! { "end_ts": -1 }).await.context(READ)?.map(|chunk| chunk.end_ts))
    }

    /// The chunk of a replica set that ends last.
    pub async fn last(&self, rs: &str) -> Result<Option<Chunk>> {
        self.coll.find_one(doc! { "rs": rs }).sort(doc! { "end_ts": -1 }).await.context(READ)
    }

    /// Adds a chunk; fine when it is there.
    pub async fn add(&self, chunk: &Chunk) -> Result<()> {
        match self.coll.insert_one(chunk).await {
            Err(error) if !is_duplicate_key(&error) => {
                Err(error).with_context(|| format!("note {} in admin.pbmPITRChunks", chunk.fname))
            }
            _ => Ok(()),
        }
    }

    /// Removes chunks from the index by their objects' names; those that are not there are no error.
    pub async fn remove(&self, objects: &[String]) -> Result<()> {
        for part in objects.chunks(1000) {
            self.coll
                .delete_many(doc! { "fname": { "$in": part } })
                .await
                .context("remove chunks from admin.pbmPITRChunks")?;
        }
        Ok(())
    }

    /// Times and sizes of all chunks, by replica set and start, as a stream: there may be very many.
    pub async fn spans(&self) -> Result<impl Stream<Item = Result<ChunkSpan>> + use<>> {
        let fields = doc! { "_id": 0, "rs": 1, "start_ts": 1, "end_ts": 1, "size": 1 };
        let spans = self.coll.clone_with_type::<ChunkSpan>();
        let order = doc! { "rs": 1, "start_ts": 1, "end_ts": 1 };
        let found = spans.find(doc! {}).sort(order).projection(fields).batch_size(BATCH).await.context(READ)?;
        Ok(found.map_err(|error| anyhow::Error::new(error).context(READ)))
    }

    /// The chunks that end at or before `until`, by start, as a stream.
    pub async fn ending_by(&self, until: Timestamp) -> Result<impl Stream<Item = Result<Indexed>> + use<>> {
        let indexed = self.coll.clone_with_type::<Indexed>();
        let filter = doc! { "start_ts": { "$lte": until }, "end_ts": { "$lte": until } };
        let found = indexed.find(filter).sort(doc! { "start_ts": 1, "end_ts": 1 }).batch_size(BATCH);
        Ok(found.await.context(READ)?.map_err(|error| anyhow::Error::new(error).context(READ)))
    }

    /// Which of these objects, given with their starts, are in the index.
    pub async fn known(&self, objects: &[(String, Timestamp)]) -> Result<HashSet<String>> {
        let starts: Vec<Timestamp> = objects.iter().map(|(_, start)| *start).collect();
        let names = self.coll.clone_with_type::<Document>();
        let found = names.find(doc! { "start_ts": { "$in": starts } }).projection(doc! { "fname": 1 });
        let found: Vec<Document> = found.await.context(READ)?.try_collect().await.context(READ)?;
        Ok(found.iter().filter_map(|chunk| chunk.get_str("fname").ok().map(str::to_owned)).collect())
    }

    /// Removes chunks from the index by their places.
    pub async fn forget(&self, ids: &[Bson]) -> Result<()> {
        let filter = doc! { "_id": { "$in": ids } };
        self.coll.delete_many(filter).await.context("remove chunks from admin.pbmPITRChunks")?;
        Ok(())
    }

    /// Makes the index what was found on the storage. `known` is what the index held before the storage was looked at:
    /// chunks that were added since then stay.
    pub async fn replace(&self, known: &[Chunk], found: &[Chunk]) -> Result<()> {
        let key = |chunk: &Chunk| (chunk.fname.clone(), chunk.start_ts, chunk.end_ts);
        let there: HashSet<_> = found.iter().map(key).collect();
        let before: HashSet<_> = known.iter().map(key).collect();
        let gone: Vec<String> =
            known.iter().filter(|chunk| !there.contains(&key(chunk))).map(|chunk| chunk.fname.clone()).collect();
        self.remove(&gone).await?;
        let new: Vec<&Chunk> = found.iter().filter(|chunk| !before.contains(&key(chunk))).collect();
        for part in new.chunks(1000) {
            match self.coll.insert_many(part.iter().copied()).ordered(false).await {
                // Added by a slicer meanwhile.
                Err(error) if !only_duplicate_keys(&error) => return Err(error).context("write admin.pbmPITRChunks"),
                _ => {}
            }
        }
        Ok(())
    }
}
