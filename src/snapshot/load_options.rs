//! What a load takes: which documents, into which collections, and how much at once.

use super::{
    batch::{InsertInto, MAX_DOCUMENTS},
    stored::StoredDocuments,
};

/// The collection that gets the documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    pub into: InsertInto,
    /// For buckets: the name of their time series.
    pub series: Option<String>,
}

impl Goal {
    /// `db.coll` of the collection that gets the documents.
    #[must_use]
    pub fn ns(&self) -> String {
        format!("{}.{}", self.into.db, self.into.coll)
    }
}

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
    pub goal: Goal,
}
