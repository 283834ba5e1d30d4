//! `pbmPITRChunks`: the index of PITR oplog chunks (spec/format.md C.8).

use crate::model::{chunk::Chunk, names};
use crate::mongo::admin::is_duplicate_key;
use anyhow::{Context, Result};
use bson::doc;
use futures::TryStreamExt;
use mongodb::{Collection, Database};

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
            .context("read admin.pbmPITRChunks")?
            .try_collect()
            .await
            .context("read admin.pbmPITRChunks")
    }

    /// The chunks of a replica set by start.
    pub async fn of(&self, rs: &str) -> Result<Vec<Chunk>> {
        self.coll
            .find(doc! { "rs": rs })
            .sort(doc! { "start_ts": 1, "end_ts": 1 })
            .await
            .context("read admin.pbmPITRChunks")?
            .try_collect()
            .await
            .context("read admin.pbmPITRChunks")
    }

    /// The newest chunks of a replica set, by start.
    pub async fn recent(&self, rs: &str, limit: i64) -> Result<Vec<Chunk>> {
        let found = self.coll.find(doc! { "rs": rs }).sort(doc! { "start_ts": -1 }).limit(limit);
        found.await.context("read admin.pbmPITRChunks")?.try_collect().await.context("read admin.pbmPITRChunks")
    }

    /// The chunk of a replica set that ends last.
    pub async fn last(&self, rs: &str) -> Result<Option<Chunk>> {
        self.coll.find_one(doc! { "rs": rs }).sort(doc! { "end_ts": -1 }).await.context("read admin.pbmPITRChunks")
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

    /// Replaces the whole index, as a resync does.
    pub async fn replace_all(&self, chunks: &[Chunk]) -> Result<()> {
        self.coll.delete_many(doc! {}).await.context("empty admin.pbmPITRChunks")?;
        for part in chunks.chunks(1000) {
            self.coll.insert_many(part).ordered(false).await.context("write admin.pbmPITRChunks")?;
        }
        Ok(())
    }
}
