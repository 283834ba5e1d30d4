//! `pbmLock`, `pbmOpLog`: a replica set runs one operation at a time, and each operation only once (docs/format.md C.4,
//! C.6).

use super::{
    Bell, Control,
    table::{Home, Table},
};
use crate::model::{
    lock::{Lock, LockHeader, is_stale},
    names,
};
use crate::mongo::code::is_duplicate_key;
use anyhow::{Context, Result};
use bson::{Document, Timestamp, doc};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use std::{collections::HashSet, sync::Arc};

/// Fields of a slicing lock, *added by us*: the time up to which the slicer was asked to store the oplog, and the time
/// up to which it has then stored it.
const FLUSH: &str = "flush";
const FLUSHED: &str = "flushed";

/// Locks with heartbeats.
#[derive(Debug, Clone)]
pub struct Locks {
    coll: Table<Lock>,
    once: Table<LockHeader>,
    slicing: Table<Lock>,
    /// The same two collections; the primary alone confirms a write.
    coll_quick: Table<Lock>,
    slicing_quick: Table<Lock>,
    bell: Arc<Bell>,
}

impl Control {
    /// Shows that the holder of an operation's lock lives. Returns the cluster time of this heartbeat; `None` if the lock is not
    /// ours any more.
    pub async fn beat(&self, mine: &LockHeader) -> Result<Option<Timestamp>> {
        self.beat_in(&self.locks.coll_quick, &self.locks.coll, mine).await
    }

    /// As [`Self::beat`], for the lock of a slicer.
    pub async fn beat_slicing(&self, mine: &LockHeader) -> Result<Option<Timestamp>> {
        self.beat_in(&self.locks.slicing_quick, &self.locks.slicing, mine).await
    }

    /// The time of a silent cluster stands still for up to ten seconds, so a heartbeat with it would count as stale too early.
    /// A write advances the time. The first write is confirmed by the primary alone; then only one write waits for the majority.
    async fn beat_in(&self, quick: &Table<Lock>, coll: &Table<Lock>, mine: &LockHeader) -> Result<Option<Timestamp>> {
        let what = || format!("refresh the {} lock of {}", mine.kind, mine.replset);
        let filter = header_filter(mine)?;
        // Attempts overtake each other: a late one must not replace a newer heartbeat.
        let newest = |now: Timestamp| doc! { "$max": { "hb": now } };
        let now = self.time_of_last_call().await?;
        let done = quick.update_one(filter.clone(), newest(now)).await.with_context(what)?;
        if done.matched == 0 {
            return Ok(None);
        }
        if done.modified == 0 {
            // The time has not moved since the last heartbeat.
            self.bell.ring().await;
        }
        let now = self.time_of_last_call().await?;
        let done = coll.update_one(filter, newest(now)).await.with_context(what)?;
        Ok((done.matched > 0).then_some(now))
    }
}

/// How an attempt to take a lock ended.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakeLock {
    /// This process has the lock and must now send heartbeats.
    Taken,
    /// A living process holds the lock.
    Busy { by: Lock },
    /// The holder of the lock is lost. Clean up after it, then try again.
    Stale { by: Lock },
    /// The lock was released a moment ago. There is nothing to clean up, so try again.
    Gone,
    /// This operation was already run on this replica set.
    AlreadyRun,
    /// The sender has withdrawn this operation: it must not begin.
    Withdrawn,
}

/// How an attempt to withdraw an operation ended.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withdrawal {
    /// No agent has begun the operation, and none will.
    Done,
    /// The agent that holds `taken` was faster than the sender: the operation runs, or has run.
    TooLate { taken: LockHeader },
}

/// Replaces the node's name in the `pbmOpLog` entry of a withdrawn operation.
const WITHDRAWN: &str = "(withdrawn)";

impl Locks {
    pub(super) fn new(home: &Home, bell: &Arc<Bell>) -> Self {
        let quick = WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(false).build();
        let quick = CollectionOptions::builder().write_concern(quick).build();
        Self {
            coll: home.table(names::LOCK),
            once: home.table(names::OP_LOG),
            slicing: home.table(names::LOCK_OP),
            coll_quick: home.table_with(names::LOCK, quick.clone()),
            slicing_quick: home.table_with(names::LOCK_OP, quick),
            bell: bell.clone(),
        }
    }

    /// Tries to take the lock of `want.replset` at cluster time `now`.
    pub async fn try_take(&self, want: &LockHeader, now: Timestamp) -> Result<TakeLock> {
        if self.is_withdrawn(&want.opid).await? {
            return Ok(TakeLock::Withdrawn);
        }
        let lock = Lock { header: want.clone(), hb: now };
        match self.coll.insert_one(&lock).await {
            Ok(_) => {}
            Err(error) if is_duplicate_key(&error) => {
                let Some(by) = self.of(&want.replset).await? else {
                    return Ok(TakeLock::Gone);
                };
                return Ok(if is_stale(by.hb, now) { TakeLock::Stale { by } } else { TakeLock::Busy { by } });
            }
            Err(error) => {
                return Err(error).with_context(|| format!("take the {} lock of {}", want.kind, want.replset));
            }
        }
        match self.once.insert_one(want).await {
            Ok(_) => {
                self.bell.ring().await;
                Ok(TakeLock::Taken)
            }
            Err(error) if is_duplicate_key(&error) => {
                self.release(want).await?;
                let withdrawn = self.is_withdrawn(&want.opid).await?;
                Ok(if withdrawn { TakeLock::Withdrawn } else { TakeLock::AlreadyRun })
            }
            Err(error) => {
                self.release(want).await?;
                Err(error).context("write admin.pbmOpLog")
            }
        }
    }

    /// Writes a heartbeat into the lock. Returns `false` if this process does not hold the lock any more.
    pub async fn beat(&self, mine: &LockHeader, now: Timestamp) -> Result<bool> {
        let done = self
            .coll
            // Several attempts can arrive out of order. `$max` prevents that a late one replaces a newer heartbeat.
            .update_one(header_filter(mine)?, doc! { "$max": { "hb": now } })
            .await
            .with_context(|| format!("refresh the {} lock of {}", mine.kind, mine.replset))?;
        Ok(done.matched > 0)
    }

    /// Releases the lock. It is no error if the lock does not exist.
    pub async fn release(&self, mine: &LockHeader) -> Result<()> {
        self.coll
            .delete_one(header_filter(mine)?)
            .await
            .with_context(|| format!("release the {} lock of {}", mine.kind, mine.replset))?;
        self.bell.ring().await;
        Ok(())
    }

    /// Removes a stale lock, unless its heartbeat has changed since it was read. Returns `false` if the lock has
    /// changed or is missing.
    pub async fn remove_stale(&self, lock: &Lock) -> Result<bool> {
        let mut filter = header_filter(&lock.header)?;
        filter.insert("hb", lock.hb);
        let done = self.coll.delete_one(filter).await.context("remove a stale lock")?;
        self.bell.ring().await;
        Ok(done > 0)
    }

    /// Returns the lock of a replica set.
    pub async fn of(&self, replset: &str) -> Result<Option<Lock>> {
        self.coll.find_one(doc! { "replset": replset }).await.context("read admin.pbmLock")
    }

    /// Tries to take the slicing lock of a replica set. A stale lock is removed first. Its holder leaves nothing to
    /// clean up.
    pub async fn try_take_slicing(&self, want: &LockHeader, now: Timestamp) -> Result<bool> {
        if let Some(by) = self.slicer_of(&want.replset).await? {
            if !is_stale(by.hb, now) {
                return Ok(false);
            }
            let mut filter = header_filter(&by.header)?;
            filter.insert("hb", by.hb);
            self.slicing.delete_one(filter).await.context("remove a stale slicing lock")?;
        }
        let done = match self.slicing.insert_one(&Lock { header: want.clone(), hb: now }).await {
            Ok(_) => true,
            Err(error) if is_duplicate_key(&error) => false,
            Err(error) => return Err(error).with_context(|| format!("take the slicing lock of {}", want.replset)),
        };
        self.bell.ring().await;
        Ok(done)
    }

    /// Does the same as [`Self::beat`], for the slicing lock.
    pub async fn beat_slicing(&self, mine: &LockHeader, now: Timestamp) -> Result<bool> {
        let done = self
            .slicing
            // Several attempts can arrive out of order. `$max` prevents that a late one replaces a newer heartbeat.
            .update_one(header_filter(mine)?, doc! { "$max": { "hb": now } })
            .await
            .with_context(|| format!("refresh the slicing lock of {}", mine.replset))?;
        Ok(done.matched > 0)
    }

    /// Removes the lock of a slicer that sends no heartbeats. Returns `false` if the slicer has sent one since `seen`
    /// was read.
    pub async fn remove_silent_slicer(&self, seen: &Lock) -> Result<bool> {
        let mut filter = header_filter(&seen.header)?;
        filter.insert("hb", seen.hb);
        let removed = self.slicing.delete_one(filter).await;
        let removed = removed.with_context(|| format!("remove the stale slicing lock of {}", seen.header.replset))?;
        Ok(removed > 0)
    }

    /// Releases the slicing lock. It is no error if the lock does not exist.
    pub async fn release_slicing(&self, mine: &LockHeader) -> Result<()> {
        self.slicing
            .delete_one(header_filter(mine)?)
            .await
            .with_context(|| format!("release the slicing lock of {}", mine.replset))?;
        self.bell.ring().await;
        Ok(())
    }

    /// Asks every slicer to store the oplog up to `at`, through a field of its lock, *added by us*.
    pub async fn ask_to_flush(&self, at: Timestamp) -> Result<()> {
        let later = doc! { "type": "pitr", FLUSH: { "$not": { "$gte": at } } };
        let asked = self.slicing.update_many(later, doc! { "$set": { FLUSH: at } }).await;
        if asked.context("ask the slicers to store what they have")?.modified > 0 {
            self.bell.ring().await;
        }
        Ok(())
    }

    /// Returns the time up to which this slicer was asked to store the oplog.
    pub async fn asked_to_flush(&self, mine: &LockHeader) -> Result<Option<Timestamp>> {
        let lock = self.slicing.as_stored().find_one(header_filter(mine)?).await;
        let lock = lock.context("read admin.pbmLockOp")?;
        Ok(lock.and_then(|lock| lock.get_timestamp(FLUSH).ok()))
    }

    /// Records in the lock that the slicer has stored the oplog up to `at`, as requested.
    pub async fn flushed(&self, mine: &LockHeader, at: Timestamp) -> Result<()> {
        self.slicing
            .update_one(header_filter(mine)?, doc! { "$set": { FLUSHED: at } })
            .await
            .with_context(|| format!("tell that the oplog of {} is stored", mine.replset))?;
        self.bell.ring().await;
        Ok(())
    }

    /// Returns the replica sets whose slicers have stored the oplog up to `at`.
    pub async fn flushed_since(&self, at: Timestamp) -> Result<HashSet<String>> {
        let found = self.slicing.find(doc! { FLUSHED: { "$gte": at } }).await.context("read admin.pbmLockOp")?;
        Ok(found.into_iter().map(|lock| lock.header.replset).collect())
    }

    /// Returns the slicing lock of a replica set, even if it is stale.
    pub async fn slicer_of(&self, replset: &str) -> Result<Option<Lock>> {
        self.slicing.find_one(doc! { "replset": replset, "type": "pitr" }).await.context("read admin.pbmLockOp")
    }

    /// Returns the slicing locks of all replica sets, including stale ones.
    pub async fn slicers(&self) -> Result<Vec<Lock>> {
        self.slicing.find(doc! {}).await.context("read admin.pbmLockOp")
    }

    /// Withdraws an operation that no agent has begun.
    ///
    /// An agent begins an operation by writing the operation and its replica set into `pbmOpLog`, where each pair can
    /// exist only once. The original's agents do the same. The sender tries to write the pair before an agent does, so
    /// exactly one of the two wins. The entry of the `leader` replica set decides, because without that replica set's
    /// agent no operation gets beyond its checks. The entries of the `others` only let their agents stop waiting
    /// earlier.
    pub async fn withdraw(&self, kind: &str, opid: &str, leader: &str, others: &[String]) -> Result<Withdrawal> {
        let entry = |replset: &str| LockHeader {
            kind: kind.to_owned(),
            replset: replset.to_owned(),
            node: WITHDRAWN.to_owned(),
            opid: opid.to_owned(),
            epoch: None,
        };
        match self.once.insert_one(&entry(leader)).await {
            Ok(_) => {}
            Err(error) if is_duplicate_key(&error) => {
                let taken = self.begun_in(opid, leader).await?;
                // The entry does not exist any more, or it is from an earlier attempt of ours whose answer was lost.
                if let Some(taken) = taken.filter(|taken| taken.node != WITHDRAWN) {
                    return Ok(Withdrawal::TooLate { taken });
                }
            }
            Err(error) => return Err(error).context("withdraw the operation in admin.pbmOpLog"),
        }
        for other in others {
            if let Err(error) = self.once.insert_one(&entry(other)).await
                && !is_duplicate_key(&error)
            {
                tracing::debug!("withdraw the operation for {other}: {error}");
            }
        }
        self.bell.ring().await;
        Ok(Withdrawal::Done)
    }

    /// Whether the sender has withdrawn this operation.
    pub async fn is_withdrawn(&self, opid: &str) -> Result<bool> {
        if opid.is_empty() {
            return Ok(false);
        }
        let found = self.once.find_one(doc! { "opid": opid, "node": WITHDRAWN }).await;
        Ok(found.context("read admin.pbmOpLog")?.is_some())
    }

    /// Returns which node began this operation in this replica set, or that it was withdrawn.
    pub async fn begun_in(&self, opid: &str, replset: &str) -> Result<Option<LockHeader>> {
        self.once.find_one(doc! { "opid": opid, "replset": replset }).await.context("read admin.pbmOpLog")
    }

    /// Whether any node takes or took the lock for this operation.
    pub async fn was_taken(&self, opid: &str) -> Result<bool> {
        Ok(self.taken_by(opid).await?.is_some())
    }

    /// Returns one of the nodes that take or took the lock for this operation.
    pub async fn taken_by(&self, opid: &str) -> Result<Option<LockHeader>> {
        let taken = doc! { "opid": opid, "node": { "$ne": WITHDRAWN } };
        self.once.find_one(taken).await.context("read admin.pbmOpLog")
    }

    /// Returns all locks, including stale ones.
    pub async fn all(&self) -> Result<Vec<Lock>> {
        self.coll.find(doc! {}).await.context("read admin.pbmLock")
    }
}

fn header_filter(header: &LockHeader) -> Result<Document> {
    bson::serialize_to_document(header).context("encode a lock header")
}
