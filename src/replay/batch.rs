//! Collects document operations and sends them: many in one command, several commands at the same time.
//!
//! A batch is spread over lanes ([`super::lanes`]), and each lane is one `applyOps`. While the lanes of one batch are
//! applied, the next batch is collected. It is sent when the majority has every lane of the previous batch.

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::model::names::BUCKETS;
use crate::oplog::entry::{Entry, Kind};
use crate::replay::key::Key;
use crate::replay::lane_report::LaneReport;
use crate::replay::lanes::lane;
use crate::replay::op::{Op, document_id};
use crate::replay::send::send;
use crate::replay::state::State;
use crate::replay::target::Target;

/// How many operations of a lane are sent in one command, at most and on the average. The limit keeps each command
/// short.
const MOST_OPERATIONS: usize = 4000;

/// Operations that are not applied yet: the collected operations in their order, and the operations that are being
/// sent.
#[derive(Debug)]
pub(super) struct Batch {
    target: Target,
    lane_count: usize,
    most_bytes: usize,
    /// The collected operations of each lane.
    lanes: Vec<Vec<Op>>,
    count: usize,
    bytes: usize,
    /// One task for each lane that is being sent. Dropping the batch ends them.
    sending: JoinSet<LaneReport>,
}

impl Batch {
    /// A batch of at most `most_bytes` (or one larger operation), sent in `lane_count` lanes.
    pub(super) fn new(target: Target, lane_count: usize, most_bytes: usize) -> Self {
        let lane_count = lane_count.max(1);
        Self { target, lane_count, most_bytes, lanes: Vec::new(), count: 0, bytes: 0, sending: JoinSet::new() }
    }

    /// Adds an insert, update or delete.
    pub(super) async fn add(&mut self, entry: &Entry<'_>, state: &mut State) -> Result<()> {
        let (db, coll) = entry.split_ns();
        let key = state.key(db, coll, entry.ui);
        let tolerated = state.tolerance.includes(entry.ts);
        let collection = state.catalog.get(&key);
        if coll.starts_with(BUCKETS) && collection.is_none() && !tolerated {
            // Neither the dump nor the oplog has a bucket collection of that name. The server writes into such a bucket
            // collection if a failed creation or a half dropped series left it behind, and a backup that the original
            // made does not contain it.
            if state.stats.missing_collections == 0 {
                tracing::warn!("{}.{coll} belongs to no time series of the backup: writes to it are left out", db);
            }
            state.stats.missing_collections += 1;
            return Ok(());
        }
        let ns = match &key {
            Key::Name(_) => Some(entry.ns),
            Key::Uuid(_) => collection.map(|collection| collection.ns.as_str()),
        };
        let Some(ns) = ns else {
            let mut report = LaneReport::new(state.tolerance);
            report.judge_missing_collection(&Op::new(entry, key, entry.ns))?;
            state.stats.add_tolerated(&report.stats);
            return Ok(());
        };
        // A capped collection keeps its documents in the order of their last insertion. If the dump already has the
        // document, an insert would only replace it in place, so it is deleted first.
        let is_capped = collection.is_some_and(|collection| collection.deferred.cap.is_some());
        let delete =
            (entry.kind == Kind::Insert && tolerated && is_capped).then(|| Op::delete_before(entry, key.clone(), ns));
        let op = Op::new(entry, key, ns);
        if let Some(delete) = delete {
            self.push(entry, delete, state).await?;
        }
        self.push(entry, op, state).await
    }

    async fn push(&mut self, entry: &Entry<'_>, op: Op, state: &mut State) -> Result<()> {
        let size = op.body.as_bytes().len();
        if self.count >= MOST_OPERATIONS * self.lane_count || self.bytes + size > self.most_bytes {
            self.send_collected(state).await?;
        }
        let (db, coll) = entry.split_ns();
        let lane = lane(db, coll, &op.key, state.catalog.get(&op.key), document_id(entry), self.lane_count);
        if self.lanes.len() <= lane {
            self.lanes.resize_with(self.lane_count, Vec::new);
        }
        self.lanes[lane].push(Op { at: self.count, ..op });
        self.bytes += size;
        self.count += 1;
        Ok(())
    }

    /// Waits until the operations that are being sent are applied, and begins to send the collected ones.
    async fn send_collected(&mut self, state: &mut State) -> Result<()> {
        self.wait_for_lanes(state).await?;
        for ops in std::mem::take(&mut self.lanes).into_iter().filter(|ops| !ops.is_empty()) {
            let report = LaneReport::new(state.tolerance);
            self.sending.spawn(send(self.target.clone(), ops, report).in_current_span());
        }
        (self.count, self.bytes) = (0, 0);
        Ok(())
    }

    /// Sends the collected operations and waits until everything is applied.
    pub(super) async fn flush(&mut self, state: &mut State) -> Result<()> {
        self.send_collected(state).await?;
        self.wait_for_lanes(state).await
    }

    /// Waits for all lanes, even if one of them has failed. If several fail, the error of the earliest operation is
    /// returned.
    async fn wait_for_lanes(&mut self, state: &mut State) -> Result<()> {
        let mut failure: Option<(usize, anyhow::Error)> = None;
        while let Some(report) = self.sending.join_next().await {
            let report = report.context("apply operations")?;
            report.missing_collections.iter().for_each(|key| state.catalog.forget(key));
            state.stats.add_tolerated(&report.stats);
            failure = [failure, report.failure].into_iter().flatten().min_by_key(|(at, _)| *at);
        }
        failure.map_or(Ok(()), |(_, error)| Err(error))
    }
}
