//! Wakes whoever waits for a change of the control collections, on every node, within milliseconds.
//!
//! A ring is an empty document in `pbmOpLog`. That collection is capped, so a tailable cursor can follow it. The bell needs a
//! collection that the original knows: the original's dumps contain the content of unknown collections, and its replay of the
//! oplog stops at a write to a collection that the target lacks. The original never restores `pbmOpLog`, neither from a dump
//! nor from the oplog. The original only inserts into `pbmOpLog`; its indexes there are sparse, so they skip a document without
//! its fields. The documents that the original inserts, one for each lock that it takes, ring the bell, too.

use crate::model::names;
use bson::{Document, doc};
use futures::StreamExt;
use mongodb::{
    Database,
    options::{CursorType, ReadConcern, WriteConcern},
};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between the count and the cursor's first look, up to this many rings may arrive, and as many old ones may leave the full
/// collection. A cursor that skips too many documents would miss new rings.
const IN_BETWEEN: u64 = 1000;

/// Rings for others, and hears when others ring.
#[derive(Debug)]
pub struct Bell {
    db: Database,
    heard: watch::Sender<u64>,
}

impl Bell {
    pub(super) fn new(db: Database) -> Self {
        Self { db, heard: watch::Sender::new(0) }
    }

    /// Wakes every waiter of the cluster. Never fails: whoever misses it looks again within [`super::POLL`].
    pub async fn ring(&self) {
        self.heard.send_modify(|n| *n += 1);
        let bell = self.db.collection::<Document>(names::OP_LOG);
        let quick = WriteConcern::builder().w(mongodb::options::Acknowledgment::Nodes(1)).journal(false).build();
        if let Err(error) = bell.insert_one(doc! {}).write_concern(quick).await {
            tracing::debug!(%error, "ring the bell");
        }
    }

    /// Listens until `stop`; run as a task of its own, once per process.
    pub async fn follow(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                result = self.listen() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "listen to the bell");
                    }
                }
            }
            // The cursor ended: no such collection yet, an empty one, or a new primary.
            self.heard.send_modify(|n| *n += 1);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(300)) => {}
            }
        }
    }

    async fn listen(&self) -> mongodb::error::Result<()> {
        let bell = self.db.collection::<Document>(names::OP_LOG);
        if !super::can_be_tailed(&bell).await? {
            return Ok(());
        }
        // The server need not send up to 10 MiB of old rings.
        let old = bell.count_documents(doc! {}).read_concern(ReadConcern::local()).await?;
        let mut rings = bell
            .find(doc! {})
            .skip(old.saturating_sub(IN_BETWEEN))
            .projection(doc! { "_id": 1 })
            .cursor_type(CursorType::TailableAwait)
            .read_concern(ReadConcern::local())
            .max_await_time(super::AWAIT)
            .await?;
        while let Some(ring) = rings.next().await {
            ring?;
            self.heard.send_modify(|n| *n += 1);
        }
        Ok(())
    }

    /// A waiter that has heard everything so far. Take it *before* reading the state that is waited for.
    #[must_use]
    pub fn waiter(&self) -> Waiter {
        let mut heard = self.heard.subscribe();
        heard.borrow_and_update();
        Waiter { heard, returned: Instant::now() }
    }
}

/// A waiter returns at most once in this time: in a large cluster the bell rings for every replica set, and what the
/// others do is seen as well a moment later, together.
const TOGETHER: Duration = Duration::from_millis(20);

/// Waits for the next ring.
#[derive(Debug)]
pub struct Waiter {
    heard: watch::Receiver<u64>,
    returned: Instant,
}

impl Waiter {
    /// Returns when the bell has rung since the last call, and after [`super::POLL`] at the latest.
    pub async fn next(&mut self) {
        self.next_within(super::POLL).await;
    }

    /// As [`Self::next`], with another limit.
    pub async fn next_within(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        if let Ok(Err(_)) = tokio::time::timeout_at(until, self.heard.changed()).await {
            // The bell is gone with its control layer; keep the pace of the fallback.
            tokio::time::sleep_until(until).await;
        }
        tokio::time::sleep_until(self.returned + TOGETHER).await;
        self.heard.borrow_and_update();
        self.returned = Instant::now();
    }
}
