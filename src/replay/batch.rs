//! Document operations on their way to the server: many in one command, several commands at the same time.
//!
//! A batch is spread over lanes ([`super::lanes`]), one `applyOps` each. While it is applied the next one is read; it is
//! sent when all lanes of the one before have been written by the majority.

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::oplog::entry::{Entry, Kind};
use crate::raw::find;
use crate::replay::apply::{Replayer, operation_document};
use crate::replay::lanes::lane;
use crate::replay::owed::Key;
use crate::replay::own_routing::id;
use crate::replay::send::{Account, Op, send};

/// Operations of a lane that are sent in one command at most (on the average); keeps the time of a command short.
const MOST_OPERATIONS: usize = 4000;

/// Operations that were not applied yet: those that are collected, in order, and those that are sent now.
#[derive(Debug, Default)]
pub(super) struct Batch {
    lanes: Vec<Vec<Op>>,
    count: usize,
    bytes: usize,
    /// One task for each lane. They end with the replayer.
    sent: JoinSet<Account>,
}

impl Replayer {
    /// Takes an insert, update or delete.
    pub(super) async fn document(&mut self, entry: &Entry<'_>) -> Result<()> {
        let (db, coll) = entry.split_ns();
        // It changes what names mean to the operations before and after it.
        let alone = coll == "system.views";
        if alone {
            self.flush().await?;
            if entry.kind == Kind::Insert {
                self.make_room_for_view(db, entry).await?;
            }
        }
        let key = self.key(db, coll, entry.ui);
        if coll.starts_with("system.buckets.") && !self.catalog.knows(&key) && !self.tolerant(entry.ts) {
            // Neither the dump nor the oplog had buckets of that name: the server writes so into what a failed creation or
            // a half dropped series left, and a backup that the original made has no part of that.
            if self.stats.missing_collections == 0 {
                tracing::warn!("{}.{coll} belongs to no time series of the backup: writes to it are left out", db);
            }
            self.stats.missing_collections += 1;
            return Ok(());
        }
        let ns = match (&key, self.catalog.get(&key)) {
            (Key::Name(_), _) => Some(entry.ns),
            (Key::Uuid(_), collection) => collection.map(|collection| collection.ns.as_str()),
        };
        let body = operation_document(entry, &key, ns.unwrap_or(entry.ns));
        let there = ns.is_some();
        let op = Op { body, kind: entry.kind, ts: entry.ts, key, at: 0 };
        if !there {
            let mut account = Account::new(self.options.consistent_from);
            account.missing_collection(&op)?;
            self.count(&account);
            return Ok(());
        }
        if entry.kind == Kind::Insert && self.tolerant(entry.ts) && self.keeps_order(&op.key) {
            // Inserting over the document that the dump already has would leave it at its place there.
            let id = find(entry.o, "_id").map(|id| id.alone("_id"));
            let delete = Entry { kind: Kind::Delete, o: id.as_deref().unwrap_or(entry.o), ..*entry };
            let body = operation_document(&delete, &op.key, op.body.get_str("ns").unwrap_or(entry.ns));
            self.push(entry, Op { body, kind: Kind::Delete, key: op.key.clone(), ..op }).await?;
        }
        self.push(entry, op).await?;
        if alone { self.flush().await } else { Ok(()) }
    }

    /// A capped collection: the order of its documents is that of their last insertion.
    fn keeps_order(&self, key: &Key) -> bool {
        self.catalog.get(key).is_some_and(|collection| collection.waiting.cap.is_some())
    }

    async fn push(&mut self, entry: &Entry<'_>, op: Op) -> Result<()> {
        let size = op.body.as_bytes().len();
        let lanes = self.options.lanes.max(1);
        if self.batch.count >= MOST_OPERATIONS * lanes || self.batch.bytes + size > self.options.batch_bytes {
            self.hand_over().await?;
        }
        let (db, coll) = entry.split_ns();
        let lane = lane(db, coll, &op.key, self.catalog.get(&op.key), id(entry), lanes);
        let batch = &mut self.batch;
        if batch.lanes.len() <= lane {
            batch.lanes.resize_with(lanes, Vec::new);
        }
        batch.lanes[lane].push(Op { at: batch.count, ..op });
        batch.bytes += size;
        batch.count += 1;
        Ok(())
    }

    /// Begins to send what was collected, when what was sent before is applied.
    async fn hand_over(&mut self) -> Result<()> {
        self.applied().await?;
        let batch = &mut self.batch;
        for ops in std::mem::take(&mut batch.lanes).into_iter().filter(|ops| !ops.is_empty()) {
            let account = Account::new(self.options.consistent_from);
            batch.sent.spawn(send(self.target.clone(), ops, account).in_current_span());
        }
        (batch.count, batch.bytes) = (0, 0);
        Ok(())
    }

    /// Sends what was collected and waits until everything is applied.
    pub(super) async fn flush(&mut self) -> Result<()> {
        self.hand_over().await?;
        self.applied().await
    }

    /// Waits for all lanes, also if one has failed. The error is that of the first operation that has one.
    async fn applied(&mut self) -> Result<()> {
        let mut failed: Option<(usize, anyhow::Error)> = None;
        while let Some(account) = self.batch.sent.join_next().await {
            let account = account.context("apply operations")?;
            account.gone.iter().for_each(|key| self.catalog.forget(key));
            self.count(&account);
            failed = [failed, account.failed].into_iter().flatten().min_by_key(|(at, _)| *at);
        }
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    fn count(&mut self, account: &Account) {
        self.stats.missing_documents += account.stats.missing_documents;
        self.stats.missing_collections += account.stats.missing_collections;
        self.stats.superseded += account.stats.superseded;
    }
}
