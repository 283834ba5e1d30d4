//! The replay: oplog entries in, their effect on a primary out.
//!
//! # Consistency
//!
//! A dump reads its collections one after the other while writes and DDL go on, so the loaded data is of many moments.
//! All of them lie in the window of the oplog that begins with the dump, and applying that window in order, with operations
//! that can be repeated, ends in the exact state of its last entry. While the window lasts an operation may meet what the
//! dump saw later: a document or a collection that is already gone, or a newer one. That is tolerated and counted up to
//! [`ReplayOptions::consistent_from`]; after it, it is an error that names the operation, because data is missing.
//!
//! Collections are found by UUID, so what the dump saw under a later name is still the right one. Creating a collection that
//! the dump already has changes nothing: everything that happened to it since is applied again.
//!
//! # Order
//!
//! Ranges are given in the order of their start and may overlap; an entry not newer than the last one is a duplicate and is
//! left out. Operations are sent in batches; a command ends a batch, and so does an operation on `system.views`. The
//! operations of a batch are spread over [`ReplayOptions::lanes`] lanes, one `applyOps` each, at the same time: the order is
//! kept for each document, and for all documents of a collection where more depends on it (`lanes.rs`, the table). Each
//! batch is written by the majority before the next is sent, so that a change of the primary loses nothing: what is sent
//! again then, a lane, has nothing after it yet.
//!
//! # Memory
//!
//! Two batches of [`ReplayOptions::batch_bytes`] (or of one larger operation): one is sent, a few times in memory on its way,
//! while the next is collected; one entry; and [`ReplayOptions::transaction_bytes`] of operations of undecided
//! transactions. Lanes share the batch, so their number changes nothing.
//!
//! # Retries, cancellation, crash
//!
//! A lane whose fate is unknown (network, change of the primary) is sent again, which is harmless. An error is told when all
//! lanes of its batch have ended, and is that of the first operation that has one; what was collected after it is not sent.
//! Dropping a future of [`Replayer::apply`] leaves the target between two operations of each lane; the restore has to be
//! started again from its beginning. Dropping the [`Replayer`] ends the lanes; what the server has of them it still applies.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};
use bson::{RawArray, RawDocument, RawDocumentBuf, Timestamp, Uuid, cstr};
use futures::{Stream, StreamExt};
use mongodb::Client;

use crate::oplog::entry::{Command, Entry, Kind, Part, TxnEntry, operations, show};
use crate::replay::batch::Batch;
use crate::replay::filter::{Scope, by_name};
use crate::replay::owed::{Catalog, Key};
use crate::replay::target::Target;
use crate::replay::txn::{Committed, Open, Transactions};

/// The server applies a command on one thread. On two processors, which it shares with all others, a second lane is
/// worth a fifth and more than two cost more than they give (benches/replay.rs).
const LANES: usize = 2;

/// What to replay, and how.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// Entries before it are left out.
    pub start: Timestamp,
    /// The last entry to apply, itself included.
    pub end: Timestamp,
    /// Up to this time (included) the data may be newer than the entry that is applied: the last write of the dump. The
    /// greatest time if it is not known.
    pub consistent_from: Timestamp,
    pub scope: Scope,
    /// Bytes of operations of undecided transactions held in memory; more go to a temporary file.
    pub transaction_bytes: usize,
    /// Bytes of operations sent at once (at most 14 MiB).
    pub batch_bytes: usize,
    /// Commands at the same time; 1 (or 0) applies everything in the order of the oplog.
    pub lanes: usize,
}

impl ReplayOptions {
    /// The window `start ..= end` of a dump whose last write was at `consistent_from`.
    pub fn new(start: Timestamp, end: Timestamp, consistent_from: Timestamp) -> Self {
        let scope = Scope::default();
        Self { start, end, consistent_from, scope, transaction_bytes: 16 << 20, batch_bytes: 6 << 20, lanes: LANES }
    }
}

/// Whether more ranges are of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    Continue,
    /// An entry after the end was seen.
    PastEnd,
}

/// What was met, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries read in the window.
    pub entries: u64,
    /// Entries seen before (ranges overlap at least by one).
    pub duplicates: u64,
    /// Operations left out: no-ops, and what a restore does not apply.
    pub skipped: u64,
    /// Operations applied, those inside of transactions included.
    pub applied: u64,
    pub transactions: u64,
    pub aborted: u64,
    /// Transactions that began before the replay: what they did before it is missing unless the dump has it.
    pub torn_transactions: u64,
    /// Tolerated: updates of documents that the dump no longer had.
    pub missing_documents: u64,
    /// Tolerated: operations on collections that the dump no longer had.
    pub missing_collections: u64,
    /// Tolerated: operations that did not fit the newer data of the dump.
    pub superseded: u64,
}

/// The result of a replay.
#[derive(Debug)]
pub struct Replayed {
    /// To be built ([`Catalog::build`]) when nothing is to be replayed any more.
    pub catalog: Catalog,
    pub stats: Stats,
    /// Time of the last entry that was read.
    pub last: Option<Timestamp>,
    /// Transactions whose decision was not in the range; they were not applied.
    pub open: Vec<(String, Open)>,
}

/// What became of the transactions without a decision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// All of them.
    pub undecided: usize,
    /// Committed according to another shard, and applied.
    pub applied: usize,
    /// Committed by nobody, so not applied.
    pub dropped: usize,
    /// Committed, but a part of them is missing: data is lost.
    pub partial: Vec<String>,
}

/// A replay that is under way.
#[derive(Debug)]
pub struct Replayer {
    pub(super) target: Target,
    pub(super) catalog: Catalog,
    pub(super) options: ReplayOptions,
    pub(super) stats: Stats,
    pub(super) batch: Batch,
    /// Collections that have a name of ours until the oplog gives them their own.
    pub(super) aside: HashSet<Uuid>,
    /// Databases that have a `system.views`.
    pub(super) views: HashSet<String>,
    txns: Transactions,
    last: Option<Timestamp>,
    range_start: Option<Timestamp>,
}

impl Replayer {
    /// `client` is connected to the primary, `catalog` has all collections of the dump.
    pub fn new(client: Client, catalog: Catalog, options: ReplayOptions) -> Self {
        Self {
            target: Target::new(client),
            catalog,
            stats: Stats::default(),
            batch: Batch::default(),
            aside: HashSet::new(),
            views: HashSet::new(),
            txns: Transactions::new(options.transaction_bytes),
            options,
            last: None,
            range_start: None,
        }
    }

    /// Applies one range of the oplog (one object). Ranges come in the order of their start.
    pub async fn apply(&mut self, entries: impl Stream<Item = std::io::Result<RawDocumentBuf>>) -> Result<Flow> {
        let mut entries = std::pin::pin!(entries);
        let mut in_range = None;
        while let Some(entry) = entries.next().await {
            let raw = entry.context("read oplog")?;
            // Entries outside the window are not replayed, so this program need not understand them.
            let ts = Entry::time(&raw)?;
            self.check_order(in_range, ts)?;
            in_range = Some(ts);
            if ts < self.options.start {
                continue;
            }
            if ts > self.options.end {
                self.flush().await?;
                return Ok(Flow::PastEnd);
            }
            let entry = Entry::parse(&raw, None)?;
            self.stats.entries += 1;
            if self.last.is_some_and(|last| entry.ts <= last) {
                self.stats.duplicates += 1;
                continue;
            }
            self.last = Some(entry.ts);
            match entry.transaction()? {
                Some(part) => self.transaction(&entry, part).await?,
                None => self.operation(&entry).await?,
            }
        }
        self.flush().await?;
        Ok(Flow::Continue)
    }

    /// Time of the last entry that was read, of those in the window.
    pub fn last(&self) -> Option<Timestamp> {
        self.last
    }

    /// Unsorted ranges would look like duplicates, and their entries would be lost without a word.
    fn check_order(&mut self, before: Option<Timestamp>, ts: Timestamp) -> Result<()> {
        match (before, self.range_start) {
            (Some(before), _) if ts < before => {
                bail!("the oplog is out of order: {} comes after {}", show(ts), show(before))
            }
            (None, Some(start)) if ts < start => {
                bail!(
                    "the ranges of the oplog are out of order: {} begins one after {} began one",
                    show(ts),
                    show(start)
                )
            }
            (None, _) => self.range_start = Some(ts),
            _ => {}
        }
        Ok(())
    }

    async fn transaction(&mut self, entry: &Entry<'_>, txn: TxnEntry<'_>) -> Result<()> {
        let TxnEntry { id, part, prev } = txn;
        match part {
            Part::Partial(ops) => self.txns.append(&id, ops, entry.ts, prev, true).await,
            Part::Prepare(ops) => self.txns.append(&id, ops, entry.ts, prev, false).await,
            Part::Last(ops) if prev.time == 0 => {
                self.txns.take(&id);
                self.stats.transactions += 1;
                self.inner(ops, entry.ts).await
            }
            Part::Last(ops) => {
                self.txns.append(&id, ops, entry.ts, prev, false).await?;
                let open = self.txns.take(&id);
                self.commit(&id, open, entry.ts).await
            }
            Part::Commit { at } => {
                let open = self.txns.take(&id);
                self.txns.remember(&id, at);
                self.commit(&id, open, entry.ts).await
            }
            Part::Abort => {
                self.stats.aborted += u64::from(self.txns.take(&id).is_some());
                Ok(())
            }
        }
    }

    /// Applies a transaction whose operations were kept until `at`.
    async fn commit(&mut self, id: &str, open: Option<Open>, at: Timestamp) -> Result<()> {
        self.stats.transactions += 1;
        if open.as_ref().is_none_or(|open| open.torn) {
            self.stats.torn_transactions += 1;
            tracing::warn!(
                transaction = id,
                at = show(at),
                "a transaction began before the oplog that is replayed: what it did before is not restored unless the dump has it"
            );
        }
        let Some(open) = open else { return Ok(()) };
        let mut ops = open.read().await?;
        while let Some(op) = ops.next().await? {
            self.operation(&Entry::parse(&op, Some(at))?).await?;
        }
        Ok(())
    }

    async fn inner(&mut self, ops: &RawArray, ts: Timestamp) -> Result<()> {
        for op in operations(ops, ts) {
            // The operations of an applyOps can hold another one.
            Box::pin(self.operation(&Entry::parse(op?, Some(ts))?)).await?;
        }
        Ok(())
    }

    async fn operation(&mut self, entry: &Entry<'_>) -> Result<()> {
        let command = if entry.kind == Kind::Command { Some(entry.command()?) } else { None };
        if !self.options.scope.wants(entry, command.as_ref(), self.is_mine(entry)) {
            self.stats.skipped += 1;
            return Ok(());
        }
        if command.is_none() && self.options.scope.is_routing(entry) && !self.owns_routing(entry).await? {
            self.stats.skipped += 1;
            return Ok(());
        }
        match command {
            Some(Command::ApplyOps(ops)) => return self.inner(ops, entry.ts).await,
            Some(command) => self.command(entry, &command).await.with_context(|| {
                format!(
                    "apply the oplog entry at {}: {} {}",
                    show(entry.ts),
                    entry.ns,
                    crate::oplog::entry::excerpt(entry.o)
                )
            })?,
            None => self.document(entry).await?,
        }
        self.stats.applied += 1;
        Ok(())
    }

    /// A selection is followed by what its collections are, not by their names.
    fn is_mine(&self, entry: &Entry<'_>) -> bool {
        let (db, coll) = entry.split_ns();
        entry.ui.filter(|_| !by_name(db, coll)).is_some_and(|uuid| {
            self.options.scope.followed.contains(&uuid.bytes()) || self.catalog.knows(&Key::uuid(uuid))
        })
    }

    /// How the collection of an operation is found on the target.
    pub(super) fn key(&self, db: &str, coll: &str, ui: Option<Uuid>) -> Key {
        let name = Key::name(db, coll);
        let Some(ui) = ui.filter(|_| !by_name(db, coll)) else { return name };
        let key = Key::uuid(ui);
        // Restored from a dump without UUIDs.
        if !self.catalog.knows(&key) && self.catalog.knows(&name) { name } else { key }
    }

    /// Up to `consistent_from` the data may be newer than the operation.
    pub(super) fn tolerant(&self, ts: Timestamp) -> bool {
        ts <= self.options.consistent_from
    }

    /// The prepared transactions that were committed in what was applied (the last of them), for the other shards.
    pub fn committed(&self) -> Vec<Committed> {
        self.txns.committed()
    }

    /// Applies the open transactions that another shard saw committed, in the order of their beginnings, as the last thing
    /// of the replay. The others did not happen.
    pub async fn settle(&mut self, committed: &HashSet<String>) -> Result<Settled> {
        let mut settled = Settled::default();
        for (id, open) in self.txns.take_all() {
            settled.undecided += 1;
            if !committed.contains(&id) {
                settled.dropped += 1;
            } else if open.complete && !open.torn {
                tracing::info!(transaction = id, "another shard saw it committed");
                self.commit(&id, Some(open), self.options.end).await?;
                settled.applied += 1;
            } else {
                settled.partial.push(id);
            }
        }
        self.flush().await?;
        Ok(settled)
    }

    /// Ends the replay. Everything was written by the majority.
    pub async fn finish(mut self) -> Result<Replayed> {
        self.flush().await?;
        self.nothing_left_aside().await?;
        self.drop_unselected().await?;
        self.forget_lost_chunks().await?;
        let open = self.txns.take_all();
        Ok(Replayed { catalog: self.catalog, stats: self.stats, last: self.last, open })
    }
}

/// The document of an operation as `applyOps` takes it.
///
/// `ns` is the present name of the collection: the server locks it, whatever the UUID says.
pub(super) fn operation_document(entry: &Entry<'_>, key: &Key, ns: &str) -> RawDocumentBuf {
    let mut op = RawDocumentBuf::new();
    let kind = match entry.kind {
        Kind::Insert => "i",
        Kind::Update => "u",
        Kind::Delete => "d",
        Kind::Command => "c",
        Kind::Noop => "n",
    };
    op.append(cstr!("op"), kind);
    op.append(cstr!("ns"), ns);
    append_uuid(&mut op, key);
    op.append(cstr!("o"), entry.o.to_owned());
    if let (Kind::Update, Some(o2)) = (entry.kind, entry.o2) {
        op.append(cstr!("o2"), o2.to_owned());
    }
    op
}

pub(super) fn append_uuid(op: &mut RawDocumentBuf, key: &Key) {
    if let Key::Uuid(uuid) = key {
        op.append(cstr!("ui"), bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: uuid.to_vec() });
    }
}

/// A raw document for a command of our own.
pub(super) fn command_document(db: &str, key: &Key, o: &RawDocument) -> RawDocumentBuf {
    let mut op = RawDocumentBuf::new();
    op.append(cstr!("op"), "c");
    op.append(cstr!("ns"), format!("{db}.$cmd"));
    append_uuid(&mut op, key);
    op.append(cstr!("o"), o.to_owned());
    op
}
