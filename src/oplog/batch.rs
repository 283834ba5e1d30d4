//! Document operations on their way to the server, many in one command.

use anyhow::{Result, bail};
use bson::{RawDocument, RawDocumentBuf, Timestamp, rawdoc};

use crate::oplog::apply::{Replayer, operation_document};
use crate::oplog::catalog::Key;
use crate::oplog::entry::{Entry, Kind, excerpt, show};
use crate::oplog::target::{Mode, Stop};

/// Operations that are sent in one command at most; keeps the time of a command short.
const MOST_OPERATIONS: usize = 4000;

const NAMESPACE_NOT_FOUND: i32 = 26;
/// An operation met a newer document: another `_id` that is equal by collation, or one that would grow over 16 MB.
const SUPERSEDED: &[i32] = &[13596, 66, 10334, 17419, 17420];

/// Operations not sent yet, in order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    ops: Vec<Op>,
    bytes: usize,
}

#[derive(Debug)]
struct Op {
    body: RawDocumentBuf,
    kind: Kind,
    ts: Timestamp,
    key: Key,
}

impl Replayer {
    /// Takes an insert, update or delete.
    pub(super) async fn document(&mut self, entry: &Entry<'_>) -> Result<()> {
        let (db, coll) = entry.split_ns();
        if coll == "system.views" && entry.kind == Kind::Insert {
            self.flush().await?;
            self.make_room_for_view(db, entry).await?;
        }
        let key = self.key(db, coll, entry.ui);
        let ns = match (&key, self.catalog.get(&key)) {
            (Key::Name(_), _) => Some(entry.ns),
            (Key::Uuid(_), collection) => collection.map(|collection| collection.ns.as_str()),
        };
        let body = operation_document(entry, &key, ns.unwrap_or(entry.ns));
        let there = ns.is_some();
        let op = Op { body, kind: entry.kind, ts: entry.ts, key };
        if !there {
            return self.missing_collection(&op);
        }
        if entry.kind == Kind::Insert && self.tolerant(entry.ts) && self.keeps_order(&op.key) {
            // Inserting over the document that the dump already has would leave it at its place there.
            let id = entry.o.get("_id").ok().flatten().map(|id| rawdoc! {"_id": id});
            let delete = Entry { kind: Kind::Delete, o: id.as_ref().map_or(entry.o, |id| id), ..*entry };
            let body = operation_document(&delete, &op.key, op.body.get_str("ns").unwrap_or(entry.ns));
            self.push(Op { body, kind: Kind::Delete, ts: entry.ts, key: op.key.clone() }).await?;
        }
        self.push(op).await
    }

    /// A capped collection: the order of its documents is that of their last insertion.
    fn keeps_order(&self, key: &Key) -> bool {
        self.catalog.get(key).is_some_and(|collection| collection.waiting.cap.is_some())
    }

    async fn push(&mut self, op: Op) -> Result<()> {
        let size = op.body.as_bytes().len();
        if self.batch.ops.len() >= MOST_OPERATIONS || self.batch.bytes + size > self.options.batch_bytes {
            self.flush().await?;
        }
        self.batch.bytes += size;
        self.batch.ops.push(op);
        Ok(())
    }

    /// Sends what is waiting.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let mut ops = std::mem::take(&mut self.batch).ops;
        let mut at_once = usize::MAX;
        while !ops.is_empty() {
            let now: Vec<&RawDocument> = ops.iter().take(at_once).map(|op| op.body.as_ref()).collect();
            let sent = now.len();
            let (applied, again) = self.target.apply_ops(Mode::InitialSync, &now).await?;
            for at in applied.missed {
                self.missed(&ops[at], again)?;
            }
            let mut gone = None;
            let done = match applied.stopped {
                None => sent,
                Some(Stop { at: Some(at), code, message }) => {
                    self.refused(&ops[at], code, &message, again)?;
                    gone = (code == NAMESPACE_NOT_FOUND).then(|| ops[at].key.clone());
                    at + 1
                }
                // The server read none of it: find the one that it does not understand.
                Some(Stop { at: None, .. }) if sent > 1 => {
                    at_once = 1;
                    0
                }
                Some(Stop { at: None, code, message }) => bail!("{}: error {code}: {message}", describe(&ops[0])),
            };
            ops.drain(..done);
            if let Some(gone) = gone {
                let (lost, kept): (Vec<Op>, _) = ops.into_iter().partition(|op| op.key == gone);
                ops = kept;
                lost.iter().try_for_each(|op| self.missing_collection(op))?;
            }
        }
        Ok(())
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
            self.catalog.forget(&op.key);
            return self.missing_collection(op);
        }
        if SUPERSEDED.contains(&code) && (again || self.tolerant(op.ts)) {
            self.stats.superseded += 1;
            return Ok(());
        }
        bail!("{}: error {code}: {message}", describe(op))
    }

    fn missing_collection(&mut self, op: &Op) -> Result<()> {
        if self.tolerant(op.ts) {
            self.stats.missing_collections += 1;
            return Ok(());
        }
        bail!("{}: the collection is not there, so the restored data is not what the oplog continues", describe(op))
    }
}

fn describe(op: &Op) -> String {
    let kind = match op.kind {
        Kind::Insert => "insert",
        Kind::Update => "update",
        Kind::Delete => "delete",
        Kind::Command | Kind::Noop => "entry",
    };
    let ns = op.body.get_str("ns").unwrap_or("?");
    let on = op.body.get_document(if op.kind == Kind::Update { "o2" } else { "o" }).ok();
    let id = on.and_then(|on| on.get("_id").ok().flatten()).map(|id| format!(" _id {id:?}")).unwrap_or_default();
    match on {
        Some(on) if id.is_empty() => format!("oplog {kind} in {ns} at {}: {}", show(op.ts), excerpt(on)),
        _ => format!("oplog {kind} in {ns} at {}:{}", show(op.ts), super::entry::crop(&id, 200)),
    }
}
