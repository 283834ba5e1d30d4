//! The parameters of a load: the documents, their collections, and how many are loaded at once.

use super::{
    batch::{InsertInto, MAX_DOCUMENTS},
    stored::StoredDocuments,
};

/// The collection that gets the documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    pub into: InsertInto,
    /// For a bucket collection: the name of its time series.
    pub series: Option<String>,
}

impl Goal {
    /// `db.coll` of the collection that gets the documents.
    #[must_use]
    pub fn ns(&self) -> String {
        format!("{}.{}", self.into.db, self.into.coll)
    }
}

/// How many collections, inserts and bytes are loaded at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// The number of collections that are loaded at the same time.
    pub collections: usize,
    /// The number of inserts at the same time for one collection.
    pub workers: usize,
    /// The most documents in one insert.
    pub batch_documents: usize,
    /// The most bytes of documents in one insert. A single document may be larger.
    pub batch_bytes: usize,
    /// The most bytes of all batches together.
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

/// The documents of one collection and the collection into which they are inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadItem {
    pub data: StoredDocuments,
    pub goal: Goal,
}
