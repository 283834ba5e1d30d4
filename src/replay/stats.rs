//! What a replay counts, and until when it tolerates that data is newer than an operation.

use bson::Timestamp;

/// Counts of the entries that were read and of their operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries read in the window.
    pub entries: u64,
    /// Entries that an earlier range contained (ranges overlap at least by one).
    pub duplicates: u64,
    /// Operations left out: no-ops, and operations that a restore does not apply.
    pub skipped: u64,
    /// Operations applied, also those inside transactions.
    pub applied: u64,
    pub transactions: u64,
    pub aborted: u64,
    /// Transactions that began before the replay. Their earlier operations are missing unless the dump has them.
    pub torn_transactions: u64,
    /// Tolerated: updates of documents that the dump no longer had.
    pub missing_documents: u64,
    /// Tolerated: operations on collections that the dump no longer had.
    pub missing_collections: u64,
    /// Tolerated: operations that did not fit the newer data of the dump.
    pub superseded: u64,
}

impl Stats {
    /// Adds the tolerated operations that another part of the replay counted.
    pub(super) fn add_tolerated(&mut self, other: &Self) {
        self.missing_documents += other.missing_documents;
        self.missing_collections += other.missing_collections;
        self.superseded += other.superseded;
    }
}

/// Up to which operation the data of the target may be newer than the operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerance {
    until: Timestamp,
}

impl Tolerance {
    /// `until` is the time of the dump's last write.
    pub(super) fn new(until: Timestamp) -> Self {
        Self { until }
    }

    /// Whether the data may be newer than the operation at `ts`.
    pub(super) fn includes(self, ts: Timestamp) -> bool {
        ts <= self.until
    }
}
