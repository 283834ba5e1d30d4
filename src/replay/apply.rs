//! The replay: reads oplog entries in their order and applies them to a primary.
//!
//! # Consistency
//!
//! A dump reads its collections one after the other while writes and DDL go on, so the loaded data is of many moments.
//! All of these moments lie in the window of the oplog that begins with the dump. The replay applies that window in
//! order, with operations that can be repeated, so the result is the exact state at the last entry. Within the window
//! an operation may meet data that the dump read later: a document or a collection may already be removed, or may be
//! newer. The replay tolerates and counts such operations up to [`ReplayOptions::consistent_from`]. A later one is an
//! error that names the operation, because data is missing.
//!
//! Collections are found by UUID, so a collection that the dump saw under a later name is still the right one. Creating a
//! collection that the dump already has changes nothing, because every later operation on it is applied again.
//!
//! # Order
//!
//! Ranges are given in the order of their start and may overlap. An entry that is not newer than the last one is a
//! duplicate and is left out. Operations are sent in batches; a command ends a batch, and so does an operation on
//! `system.views`. The operations of a batch are spread over [`ReplayOptions::lanes`] lanes. Each lane sends its own
//! `applyOps`, at the same time as the others. The order is kept for each document, and for all documents of a
//! collection if its data depends on the order (see the table in `lanes.rs`). A batch is sent only after the majority
//! has the previous one, so a change of the primary loses nothing. Only the lanes of the current batch can be resent,
//! and no later operations have been sent by then.
//!
//! # Memory
//!
//! The replay holds two batches of [`ReplayOptions::batch_bytes`] (or of one larger operation): one is being sent, and
//! for that is copied a few times, while the next is collected. It also holds one entry, and at most
//! [`ReplayOptions::transaction_bytes`] of operations of undecided transactions. Lanes share the batch, so their number
//! does not change the memory.
//!
//! # Retries, cancellation, crash
//!
//! If the result of a lane is unknown (network, change of the primary), the lane is sent again, which is harmless. If
//! operations fail, the error of the first of them is returned after all lanes of its batch have ended; the operations
//! collected after this batch are not sent. If the caller drops a future of [`Replayer::apply`], each lane stops
//! between two operations, and the restore has to be started again from its beginning. If the caller drops the
//! [`Replayer`], the lanes end, but the server still applies the commands that it has received.

use std::collections::{BTreeSet, HashSet};

use anyhow::{Context, Result, bail};
use bson::{RawArray, RawDocumentBuf, Timestamp};
use futures::{Stream, StreamExt};
use mongodb::Client;

use crate::oplog::entry::{Command, Entry, Kind, Part, TxnEntry, excerpt, operations, show};
use crate::oplog::unreadable_names::leave_out;
use crate::replay::batch::Batch;
use crate::replay::catalog::Catalog;
use crate::replay::ddl::Ddl;
use crate::replay::filter::Scope;
use crate::replay::key::{Key, lasting_uuid};
use crate::replay::op::document_id;
use crate::replay::state::State;
use crate::replay::stats::{Stats, Tolerance};
use crate::replay::target::Target;
use crate::replay::txn::{Committed, Open, Transactions};
use crate::routing::own;

/// The server applies each command in one thread. If the server and this program share two processors, a second lane
/// makes the replay a fifth faster, and more than two lanes make it slower (benches/replay.rs).
const LANES: usize = 2;

/// The part of the oplog to replay, and the limits of the replay.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// Entries before this time are left out.
    pub start: Timestamp,
    /// The time of the last entry that is applied.
    pub end: Timestamp,
    /// The time of the last write that the dump contains, or the greatest time if it is not known. An entry up to this
    /// time (included) may be older than the data that it changes.
    pub consistent_from: Timestamp,
    pub scope: Scope,
    /// How many bytes of operations of undecided transactions are held in memory. The rest goes to temporary files.
    pub transaction_bytes: usize,
    /// How many bytes of operations a batch has at most (not more than 14 MiB).
    pub batch_bytes: usize,
    /// How many commands are sent to the server at the same time. With 0 or 1, all entries are applied in the order of
    /// the oplog.
    pub lanes: usize,
}

impl ReplayOptions {
    /// The window `start ..= end` of a dump whose last write was at `consistent_from`.
    pub fn new(start: Timestamp, end: Timestamp, consistent_from: Timestamp) -> Self {
        let scope = Scope::default();
        Self { start, end, consistent_from, scope, transaction_bytes: 16 << 20, batch_bytes: 6 << 20, lanes: LANES }
    }
}

/// Whether later ranges have entries to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    Continue,
    /// An entry after the end of the window was read, so no later range has entries to apply.
    PastEnd,
}

/// The result of a replay.
#[derive(Debug)]
pub struct Replayed {
    /// The catalogue at the end of the replay. The caller builds it ([`Catalog::build`]) after the last replay.
    pub catalog: Catalog,
    pub stats: Stats,
    /// Time of the last entry that was read.
    pub last: Option<Timestamp>,
    /// Transactions that were not applied, because the oplog has neither their commit nor their abort.
    pub open: Vec<(String, Open)>,
}

/// Counts of the transactions that had no decision at the end of the oplog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// The number of these transactions.
    pub undecided: usize,
    /// Transactions that were applied, because another shard committed them.
    pub applied: usize,
    /// Transactions that were not applied, because no shard committed them.
    pub dropped: usize,
    /// Transactions that another shard committed, but of which a part is missing here: data is lost.
    pub partial: Vec<String>,
}

/// A replay in progress.
#[derive(Debug)]
pub struct Replayer {
    target: Target,
    scope: Scope,
    /// Times of the first and of the last entry to apply.
    window: (Timestamp, Timestamp),
    state: State,
    batch: Batch,
    ddl: Ddl,
    txns: Transactions,
    last: Option<Timestamp>,
    range_start: Option<Timestamp>,
    /// Some of the collections whose operations were left out.
    left_out: BTreeSet<String>,
}

impl Replayer {
    /// `client` must be connected to the primary, and `catalog` must contain all collections of the dump.
    pub fn new(client: Client, catalog: Catalog, options: ReplayOptions) -> Self {
        let ReplayOptions { start, end, consistent_from, scope, transaction_bytes, batch_bytes, lanes } = options;
        let target = Target::new(client);
        Self {
            batch: Batch::new(target.clone(), lanes, batch_bytes),
            ddl: Ddl::new(target.clone(), scope.selection.clone()),
            state: State { catalog, stats: Stats::default(), tolerance: Tolerance::new(consistent_from) },
            txns: Transactions::new(transaction_bytes),
            window: (start, end),
            target,
            scope,
            last: None,
            range_start: None,
            left_out: BTreeSet::new(),
        }
    }

    /// Applies one range of the oplog (one stored object). The ranges must be given in the order of their start.
    pub async fn apply(&mut self, entries: impl Stream<Item = std::io::Result<RawDocumentBuf>>) -> Result<Flow> {
        let mut entries = std::pin::pin!(entries);
        let mut in_range = None;
        while let Some(entry) = entries.next().await {
            let raw = entry.context("read oplog")?;
            // Entries outside the window are not replayed, so this program need not understand them.
            let ts = Entry::time(&raw)?;
            self.check_order(in_range, ts)?;
            in_range = Some(ts);
            let (start, end) = self.window;
            if ts < start {
                continue;
            }
            if ts > end {
                self.flush().await?;
                return Ok(Flow::PastEnd);
            }
            let shortened = leave_out(&raw, &|ns| self.scope.selection.wants_namespace(ns))?;
            let entry = Entry::parse(shortened.as_ref().map_or(&raw, |shortened| &shortened.entry), None)?;
            self.state.stats.entries += 1;
            if self.last.is_some_and(|last| entry.ts <= last) {
                self.state.stats.duplicates += 1;
                continue;
            }
            self.last = Some(entry.ts);
            self.count_left_out(shortened.iter().flat_map(|shortened| &shortened.names));
            match entry.transaction()? {
                Some(part) => self.take_transaction_part(&entry, part).await?,
                None => self.apply_operation(&entry).await?,
            }
        }
        self.flush().await?;
        Ok(Flow::Continue)
    }

    fn count_left_out<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        const NAMED: usize = 10;
        for name in names {
            self.state.stats.left_out += 1;
            if self.left_out.len() < NAMED {
                self.left_out.insert(name.clone());
            }
        }
    }

    /// Time of the last entry in the window that was read.
    pub fn last(&self) -> Option<Timestamp> {
        self.last
    }

    /// Fails if entries or ranges are not sorted. Without this check, entries in the wrong order would be taken for
    /// duplicates and left out without a message.
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

    async fn take_transaction_part(&mut self, entry: &Entry<'_>, txn: TxnEntry<'_>) -> Result<()> {
        let TxnEntry { id, part, prev } = txn;
        match part {
            Part::Partial(ops) => self.txns.append(&id, ops, entry.ts, prev, true).await,
            Part::Prepare(ops) => self.txns.append(&id, ops, entry.ts, prev, false).await,
            Part::Last(ops) if prev.time == 0 => {
                self.txns.take(&id);
                self.state.stats.transactions += 1;
                self.apply_operations(ops, entry.ts).await
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
                self.state.stats.aborted += u64::from(self.txns.take(&id).is_some());
                Ok(())
            }
        }
    }

    /// Applies the collected operations of a transaction that was committed at `at`.
    async fn commit(&mut self, id: &str, open: Option<Open>, at: Timestamp) -> Result<()> {
        self.state.stats.transactions += 1;
        if open.as_ref().is_none_or(|open| open.torn) {
            self.state.stats.torn_transactions += 1;
            tracing::warn!(
                transaction = id,
                at = show(at),
                "a transaction began before the oplog that is replayed: what it did before is not restored unless the dump has it"
            );
        }
        let Some(open) = open else { return Ok(()) };
        let mut ops = open.read().await?;
        while let Some(op) = ops.next().await? {
            self.apply_operation(&Entry::parse(&op, Some(at))?).await?;
        }
        Ok(())
    }

    async fn apply_operations(&mut self, ops: &RawArray, ts: Timestamp) -> Result<()> {
        for op in operations(ops, ts) {
            // An `applyOps` can contain another `applyOps`.
            Box::pin(self.apply_operation(&Entry::parse(op?, Some(ts))?)).await?;
        }
        Ok(())
    }

    async fn apply_operation(&mut self, entry: &Entry<'_>) -> Result<()> {
        let command = if entry.kind == Kind::Command { Some(entry.command()?) } else { None };
        if !self.scope.wants(entry, command.as_ref(), self.is_restored(entry)) || !self.wants_routing(entry).await? {
            self.state.stats.skipped += 1;
            return Ok(());
        }
        match command {
            Some(Command::ApplyOps(ops)) => return self.apply_operations(ops, entry.ts).await,
            Some(command) => self.apply_command(entry, &command).await.with_context(|| {
                format!("apply the oplog entry at {}: {} {}", show(entry.ts), entry.ns, excerpt(entry.o))
            })?,
            None => self.apply_document(entry).await?,
        }
        self.state.stats.applied += 1;
        Ok(())
    }

    async fn apply_command(&mut self, entry: &Entry<'_>, command: &Command<'_>) -> Result<()> {
        self.flush().await?;
        self.ddl.apply(entry, command, &mut self.state).await
    }

    /// Applies an insert, update or delete.
    async fn apply_document(&mut self, entry: &Entry<'_>) -> Result<()> {
        let (db, coll) = entry.split_ns();
        if coll != "system.views" {
            return self.batch.add(entry, &mut self.state).await;
        }
        // A write to `system.views` changes which collection or view has a name, so it must not share a batch with
        // operations before or after it.
        self.flush().await?;
        if entry.kind == Kind::Insert {
            self.ddl.make_room_for_view(db, entry, &self.state).await?;
        }
        self.batch.add(entry, &mut self.state).await?;
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        self.batch.flush(&mut self.state).await
    }

    /// Whether an operation changes a collection of the restore. The collection is found by its UUID, because it may not have
    /// its selected name yet.
    fn is_restored(&self, entry: &Entry<'_>) -> bool {
        let (db, coll) = entry.split_ns();
        lasting_uuid(db, coll, entry.ui).is_some_and(|uuid| {
            self.scope.followed.contains(&uuid.bytes()) || self.state.catalog.knows(&Key::uuid(uuid))
        })
    }

    /// Whether an operation may change the routing table that it writes to.
    async fn wants_routing(&mut self, entry: &Entry<'_>) -> Result<bool> {
        if let Some(wanted) = self.scope.wants_routing(entry) {
            return Ok(wanted);
        }
        let (Some(table), Some(id)) = (self.scope.routing_table(entry), document_id(entry)) else { return Ok(false) };
        // An operation that was collected and not sent may have inserted the document.
        self.flush().await?;
        let stored = own::stored_document(self.target.client(), table, id).await?;
        Ok(stored.is_some_and(|stored| self.scope.routing.includes_document(table, &stored)))
    }

    /// The last prepared transactions that the replayed oplog committed. The other shards need this list.
    pub fn committed(&self) -> Vec<Committed> {
        self.txns.committed()
    }

    /// Applies the open transactions that another shard committed, in the order in which they began, and drops the
    /// other open transactions. Must be called after the last range.
    pub async fn settle(&mut self, committed: &HashSet<String>) -> Result<Settled> {
        let mut settled = Settled::default();
        for (id, open) in self.txns.take_all() {
            settled.undecided += 1;
            if !committed.contains(&id) {
                settled.dropped += 1;
            } else if open.complete && !open.torn {
                tracing::info!(transaction = id, "another shard saw it committed");
                self.commit(&id, Some(open), self.window.1).await?;
                settled.applied += 1;
            } else {
                settled.partial.push(id);
            }
        }
        self.flush().await?;
        Ok(settled)
    }

    /// Ends the replay, after the majority has all of its operations.
    pub async fn finish(mut self) -> Result<Replayed> {
        self.flush().await?;
        self.ddl.finish(&mut self.state).await?;
        self.scope.routing.remove_orphaned_chunks(self.target.client()).await?;
        if !self.left_out.is_empty() {
            let names: Vec<_> = self.left_out.iter().map(String::as_str).collect();
            tracing::warn!(
                "{} operations were left out, because the names of their collections are not valid UTF-8: {}",
                self.state.stats.left_out,
                names.join(", ")
            );
        }
        let open = self.txns.take_all();
        Ok(Replayed { catalog: self.state.catalog, stats: self.state.stats, last: self.last, open })
    }
}
