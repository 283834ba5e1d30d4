//! Sends the operations of one lane in their order.

use std::collections::BTreeMap;

use anyhow::Result;
use bson::RawDocument;

use crate::mongo::code::NAMESPACE_NOT_FOUND;
use crate::replay::key::Key;
use crate::replay::lane_report::LaneReport;
use crate::replay::op::Op;
use crate::replay::target::{Mode, Refusal, Target};

/// An error. If one operation caused it, its position in the batch is included.
type Failure = (Option<usize>, anyhow::Error);

/// Applies the operations of one lane in their order. Returns when the majority has them.
pub(super) async fn send(target: Target, mut ops: Vec<Op>, mut report: LaneReport) -> LaneReport {
    let mut limit = usize::MAX;
    while let Some(first) = ops.first().map(|op| op.at) {
        if let Err((at, error)) = send_once(&target, &mut ops, &mut limit, &mut report).await {
            report.failure = Some((at.unwrap_or(first), error));
            break;
        }
    }
    report
}

/// Whether the collection of an operation is there. Newer servers say of a missing one only that nothing was done.
async fn is_there(target: &Target, op: &Op, asked: &mut BTreeMap<Key, bool>) -> Result<bool, Failure> {
    if let Some(there) = asked.get(&op.key) {
        return Ok(*there);
    }
    let ns = op.body.get_str("ns").unwrap_or_default();
    let there = target.has_collection(&op.key, ns).await.map_err(|error| (Some(op.at), error))?;
    asked.insert(op.key.clone(), there);
    Ok(there)
}

/// Sends one command with at most `limit` operations, and removes the operations that were applied from `ops`.
async fn send_once(
    target: &Target,
    ops: &mut Vec<Op>,
    limit: &mut usize,
    report: &mut LaneReport,
) -> Result<(), Failure> {
    let bodies: Vec<&RawDocument> = ops.iter().take(*limit).map(|op| op.body.as_ref()).collect();
    let sent = bodies.len();
    let reply = target.apply_ops(Mode::InitialSync, &bodies).await.map_err(|error| (None, error))?;
    let mut asked: BTreeMap<Key, bool> = BTreeMap::new();
    for at in reply.without_document {
        let op = &ops[at];
        let judged = if report.tolerates_missing_document(op, reply.resent) || is_there(target, op, &mut asked).await? {
            report.judge_missing_document(op, reply.resent)
        } else {
            report.missing_collections.push(op.key.clone());
            report.judge_missing_collection(op)
        };
        judged.map_err(|error| (Some(op.at), error))?;
    }
    let mut missing = None;
    let done = match reply.refusal {
        None => sent,
        Some(Refusal { at: Some(at), code, message }) => {
            let judged = report.judge_refusal(&ops[at], code, &message, reply.resent);
            judged.map_err(|error| (Some(ops[at].at), error))?;
            missing = (code == NAMESPACE_NOT_FOUND).then(|| ops[at].key.clone());
            at + 1
        }
        // The server refused the whole command. The operations are sent one at a time to find the one that the server
        // refuses.
        Some(Refusal { at: None, .. }) if sent > 1 => {
            *limit = 1;
            0
        }
        Some(Refusal { at: None, code, message }) => {
            return Err((None, anyhow::anyhow!("{}: error {code}: {message}", ops[0].describe())));
        }
    };
    ops.drain(..done);
    if let Some(missing) = missing {
        let (lost, kept): (Vec<Op>, _) = std::mem::take(ops).into_iter().partition(|op| op.key == missing);
        *ops = kept;
        for op in &lost {
            report.judge_missing_collection(op).map_err(|error| (Some(op.at), error))?;
        }
    }
    Ok(())
}
