//! `pbmPITRChunks`: the index of PITR oplog chunks (spec/format.md C.8).

use crate::model::{chunk::Chunk, names};
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

    /// Replaces the whole index, as a resync does.
    pub async fn replace_all(&self, chunks: &[Chunk]) -> Result<()> {
        self.coll.delete_many(doc! {}).await.context("empty admin.pbmPITRChunks")?;
        for part in chunks.chunks(1000) {
            self.coll.insert_many(part).ordered(false).await.context("write admin.pbmPITRChunks")?;
        }
        Ok(())
    }
}
