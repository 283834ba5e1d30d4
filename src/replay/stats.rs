//! Counts the entries of a replay, and decides up to which time the replay tolerates data that is newer than an
//! operation.

use bson::Timestamp;

/// Counts of the entries that were read and of their operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries that were read and lie in the window.
    pub entries: u64,
    /// Entries that were already in an earlier range (ranges overlap by at least one entry).
    pub duplicates: u64,
    /// Operations that were left out: no-ops, and operations that a restore does not apply.
    pub skipped: u64,
    /// Operations that were left out because the names of their collections are not valid UTF-8.
    pub left_out: u64,
    /// Operations that were applied, including those inside transactions.
    pub applied: u64,
    pub transactions: u64,
    pub aborted: u64,
    /// Transactions that began before the replay. Their earlier operations are missing unless the dump contains them.
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

/// The time up to which the data of the target may be newer than the operations.
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
