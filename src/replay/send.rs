//! The operations of one lane on their way: sent in order, and what the server says about each of them judged.
//!
//! What is tolerated and what is an error is said in [`super::apply`] (Consistency).

use anyhow::{Result, bail};
use bson::{RawDocument, RawDocumentBuf, Timestamp};

use crate::mongo::code::{self, NAMESPACE_NOT_FOUND};
use crate::oplog::entry::{Kind, crop, excerpt, show};
use crate::raw::find;
use crate::replay::apply::Stats;
use crate::replay::owed::Key;
use crate::replay::target::{Mode, Stop, Target};

/// An operation met a newer document: another `_id` that is equal by collation, or one that would grow over 16 MB.
const SUPERSEDED: &[i32] = &[
    code::ID_WOULD_CHANGE,
    code::IMMUTABLE_FIELD,
    code::BSON_OBJECT_TOO_LARGE,
    code::UPDATED_TOO_LARGE[0],
    code::UPDATED_TOO_LARGE[1],
];

/// An insert, update or delete as it is sent.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) body: RawDocumentBuf,
    pub(super) kind: Kind,
    pub(super) ts: Timestamp,
    pub(super) key: Key,
    /// Position in its batch.
    pub(super) at: usize,
}

/// What the operations of a lane have met so far.
#[derive(Debug)]
pub(super) struct Account {
    consistent_from: Timestamp,
    /// Of what is tolerated; the rest is zero.
    pub(super) stats: Stats,
    /// Collections that the target does not have.
    pub(super) gone: Vec<Key>,
    /// The operation that could not be applied, by its position in the batch. The lane was not sent on.
    pub(super) failed: Option<(usize, anyhow::Error)>,
}

impl Account {
    pub(super) fn new(consistent_from: Timestamp) -> Self {
        Self { consistent_from, stats: Stats::default(), gone: Vec::new(), failed: None }
    }

    fn tolerant(&self, ts: Timestamp) -> bool {
        ts <= self.consistent_from
    }

    /// The server found nothing to do for an operation.
    fn missed(&mut self, op: &Op, again: bool) -> Result<()> {
        if op.kind == Kind::Update && (again || self.tolerant(op.ts)) {
            self.stats.missing_documents += 1;
            return Ok(());
        }
        bail!("{}: the document is not there, so the restored data is not what the oplog continues", describe(op))
    }

    fn refused(&mut self, op: &Op, code: i32, message: &str, again: bool) -> Result<()> {
        if code == NAMESPACE_NOT_FOUND {
            self.gone.push(op.key.clone());
            return self.missing_collection(op);
        }
        if SUPERSEDED.contains(&code) && (again || self.tolerant(op.ts)) {
            self.stats.superseded += 1;
            return Ok(());
        }
        bail!("{}: error {code}: {message}", describe(op))
    }

    pub(super) fn missing_collection(&mut self, op: &Op) -> Result<()> {
        if self.tolerant(op.ts) {
            self.stats.missing_collections += 1;
            return Ok(());
        }
        bail!("{}: the collection is not there, so the restored data is not what the oplog continues", describe(op))
    }
}

/// Applies the operations of one lane in their order; the majority has them when this returns.
pub(super) async fn send(target: Target, mut ops: Vec<Op>, mut account: Account) -> Account {
    let mut at_once = usize::MAX;
    while let Some(first) = ops.first().map(|op| op.at) {
        if let Err((at, error)) = send_once(&target, &mut ops, &mut at_once, &mut account).await {
            account.failed = Some((at.unwrap_or(first), error));
            break;
        }
    }
    account
}

/// Sends one command and takes what it did away from `ops`. An error has the position of its operation, if it has one.
async fn send_once(
    target: &Target,
    ops: &mut Vec<Op>,
    at_once: &mut usize,
    account: &mut Account,
) -> Result<(), (Option<usize>, anyhow::Error)> {
    let now: Vec<&RawDocument> = ops.iter().take(*at_once).map(|op| op.body.as_ref()).collect();
    let sent = now.len();
    let (applied, again) = target.apply_ops(Mode::InitialSync, &now).await.map_err(|error| (None, error))?;
    for at in applied.missed {
        account.missed(&ops[at], again).map_err(|error| (Some(ops[at].at), error))?;
    }
    let mut gone = None;
    let done = match applied.stopped {
        None => sent,
        Some(Stop { at: Some(at), code, message }) => {
            account.refused(&ops[at], code, &message, again).map_err(|error| (Some(ops[at].at), error))?;
            gone = (code == NAMESPACE_NOT_FOUND).then(|| ops[at].key.clone());
            at + 1
        }
        // The server read none of it: find the one that it does not understand.
        Some(Stop { at: None, .. }) if sent > 1 => {
            *at_once = 1;
            0
        }
        Some(Stop { at: None, code, message }) => {
            return Err((None, anyhow::anyhow!("{}: error {code}: {message}", describe(&ops[0]))));
        }
    };
    ops.drain(..done);
    if let Some(gone) = gone {
        let (lost, kept): (Vec<Op>, _) = std::mem::take(ops).into_iter().partition(|op| op.key == gone);
        *ops = kept;
        for op in &lost {
            account.missing_collection(op).map_err(|error| (Some(op.at), error))?;
        }
    }
    Ok(())
}

fn describe(op: &Op) -> String {
    let kind = match op.kind {
        Kind::Insert => "insert",
        Kind::Update => "update",
        Kind::Delete => "delete",
        Kind::Command | Kind::Noop => "entry",
    };
    let ns = op.body.get_str("ns").unwrap_or("?");
    let on = find(&op.body, if op.kind == Kind::Update { "o2" } else { "o" }).and_then(|on| on.document());
    match on.and_then(|on| find(on, "_id")) {
        Some(id) => format!("oplog {kind} in {ns} at {}: {}", show(op.ts), crop(&excerpt(&id.alone("_id")), 200)),
        None => format!("oplog {kind} in {ns} at {}: {}", show(op.ts), on.map(excerpt).unwrap_or_default()),
    }
}
