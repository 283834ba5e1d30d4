//! Judges the server's answers to the operations of one lane: some are tolerated, others are errors.
//!
//! The section "Consistency" of [`super::apply`] explains which ones, and why.

use anyhow::{Result, bail};
use bson::Timestamp;

use crate::mongo::code::{self, NAMESPACE_NOT_FOUND};
use crate::oplog::entry::Kind;
use crate::replay::key::Key;
use crate::replay::op::Op;
use crate::replay::stats::{Stats, Tolerance};

/// Errors of operations that met newer data: another `_id` is equal by collation, or the document would grow over 16
/// MB.
const SUPERSEDED: &[i32] = &[
    code::ID_WOULD_CHANGE,
    code::IMMUTABLE_FIELD,
    code::BSON_OBJECT_TOO_LARGE,
    code::UPDATED_TOO_LARGE[0],
    code::UPDATED_TOO_LARGE[1],
];

/// The answers to the operations of a lane so far.
#[derive(Debug)]
pub(super) struct LaneReport {
    tolerance: Tolerance,
    /// Only the tolerated operations are counted here.
    pub(super) stats: Stats,
    /// Collections that the target does not have.
    pub(super) missing_collections: Vec<Key>,
    /// The error of the operation that could not be applied, and its position in the batch. The lane ends before this
    /// operation.
    pub(super) failure: Option<(usize, anyhow::Error)>,
}

impl LaneReport {
    pub(super) fn new(tolerance: Tolerance) -> Self {
        Self { tolerance, stats: Stats::default(), missing_collections: Vec::new(), failure: None }
    }

    /// Whether the data may be newer than the operation, because the dump is newer or because the operation was already
    /// sent before.
    fn tolerates(&self, ts: Timestamp, resent: bool) -> bool {
        resent || self.tolerance.includes(ts)
    }

    /// Whether it is fine that there was no document for the operation.
    pub(super) fn tolerates_missing_document(&self, op: &Op, resent: bool) -> bool {
        op.kind == Kind::Update && self.tolerates(op.ts, resent)
    }

    /// Judges an operation for which the server found no document.
    pub(super) fn judge_missing_document(&mut self, op: &Op, resent: bool) -> Result<()> {
        if self.tolerates_missing_document(op, resent) {
            self.stats.missing_documents += 1;
            return Ok(());
        }
        bail!("{}: the document is not there, so the restored data is not what the oplog continues", op.describe())
    }

    /// Judges an operation that the server refused.
    pub(super) fn judge_refusal(&mut self, op: &Op, code: i32, message: &str, resent: bool) -> Result<()> {
        if code == NAMESPACE_NOT_FOUND {
            self.missing_collections.push(op.key.clone());
            return self.judge_missing_collection(op);
        }
        if SUPERSEDED.contains(&code) && self.tolerates(op.ts, resent) {
            self.stats.superseded += 1;
            return Ok(());
        }
        bail!("{}: error {code}: {message}", op.describe())
    }

    /// Judges an operation whose collection the target does not have.
    pub(super) fn judge_missing_collection(&mut self, op: &Op) -> Result<()> {
        if self.tolerance.includes(op.ts) {
            self.stats.missing_collections += 1;
            return Ok(());
        }
        bail!("{}: the collection is not there, so the restored data is not what the oplog continues", op.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    fn ts(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    fn op(kind: Kind, time: u32) -> Op {
        let body = rawdoc! {"op": "u", "ns": "shop.c", "o": {"_id": 1}, "o2": {"_id": 1}};
        Op { body, kind, ts: ts(time), key: Key::name("shop", "c"), at: 0 }
    }

    #[test]
    fn a_missing_document_is_tolerated_only_for_updates_and_while_the_data_may_be_newer() {
        // kind, time, sent before, tolerated; the dump's last write was at 5.
        for (kind, time, resent, tolerated) in [
            (Kind::Update, 5, false, true),
            (Kind::Update, 6, false, false),
            (Kind::Update, 6, true, true),
            (Kind::Delete, 5, true, false),
        ] {
            let mut report = LaneReport::new(Tolerance::new(ts(5)));
            let judged = report.judge_missing_document(&op(kind, time), resent);
            assert_eq!(
                (judged.is_ok(), report.stats.missing_documents == 1),
                (tolerated, tolerated),
                "{kind:?} {time}"
            );
        }
    }

    #[test]
    fn a_refusal_is_tolerated_by_its_code_and_time() {
        for (code, time, resent, tolerated) in [
            (code::ID_WOULD_CHANGE, 5, false, true),
            (code::ID_WOULD_CHANGE, 6, false, false),
            (code::ID_WOULD_CHANGE, 6, true, true),
            (NAMESPACE_NOT_FOUND, 5, false, true),
            // Sending an operation again does not remove a collection, so the error is not tolerated.
            (NAMESPACE_NOT_FOUND, 6, true, false),
            (code::UNAUTHORIZED, 5, true, false),
        ] {
            let mut report = LaneReport::new(Tolerance::new(ts(5)));
            let judged = report.judge_refusal(&op(Kind::Insert, time), code, "why", resent);
            assert_eq!(judged.is_ok(), tolerated, "{code} at {time}");
            assert_eq!(report.stats.superseded + report.stats.missing_collections, u64::from(tolerated), "{code}");
            assert_eq!(report.missing_collections.len(), usize::from(code == NAMESPACE_NOT_FOUND), "{code}");
        }
    }
}
