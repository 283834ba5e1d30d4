//! `pbmPITRChunks`: the index of PITR oplog chunks (spec/format.md C.8).

use crate::model::{chunk::Chunk, names};
use crate::mongo::admin::{is_duplicate_key, only_duplicate_keys};
use anyhow::{Context, Result};
use bson::doc;
use futures::TryStreamExt;
use mongodb::{Collection, Database};
use std::collections::HashSet;

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
