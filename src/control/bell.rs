//! Wakes all tasks that wait for a change of the control collections, on every node and within milliseconds.
//!
//! To ring the bell, a process inserts an empty document into `pbmOpLog`. That collection is capped, so a tailable
//! cursor can follow it. The bell must use a collection that the original knows: the original's dumps contain the
//! content of unknown collections, and its replay of the oplog stops at a write to a collection that the target lacks.
//! But the original never restores `pbmOpLog`, neither from a dump nor from the oplog. It only inserts documents into
//! `pbmOpLog`, and the indexes of that collection are sparse, so they skip empty documents. The original inserts a
//! document for each lock that it takes, and these documents ring the bell, too.

use super::table::{Home, Table};
use crate::model::names;
use anyhow::Result;
use bson::doc;
use futures::StreamExt;
use mongodb::options::{Acknowledgment, CollectionOptions, ReadConcern, WriteConcern};
use std::{future::pending, time::Duration};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After the count and before the cursor's first read, up to this many rings may arrive, and the full collection may
/// lose as many old ones. If the cursor skipped too many documents, it would miss new rings.
const IN_BETWEEN: u64 = 1000;

/// Rings the bell, and notices when other processes ring it.
#[derive(Debug)]
pub struct Bell {
    rings: Table,
    heard: watch::Sender<u64>,
}

impl Bell {
    pub(super) fn new(home: &Home) -> Self {
        let quick = WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(false).build();
        let options = CollectionOptions::builder().read_concern(ReadConcern::local()).write_concern(quick).build();
        Self { rings: home.table_with(names::OP_LOG, options), heard: watch::Sender::new(0) }
    }

    /// Wakes every waiter of the cluster. Never fails, because a waiter that misses the ring reads again within
    /// [`super::POLL`].
    pub async fn ring(&self) {
        self.heard.send_modify(|n| *n += 1);
        if let Err(error) = self.rings.insert_one(&doc! {}).await {
            tracing::debug!(%error, "ring the bell");
        }
    }

    /// Listens until `stop`. Run this as a separate task, once per process.
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
            // The cursor ended because the collection does not exist or is empty, or because there is a new primary.
            self.heard.send_modify(|n| *n += 1);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(300)) => {}
            }
        }
    }

    async fn listen(&self) -> mongodb::error::Result<()> {
        if !self.rings.can_be_tailed().await? {
            return Ok(());
        }
        // The count of old rings lets the cursor skip them. Otherwise the server would send up to 10 MiB of them.
        let old = self.rings.count(doc! {}).await?;
        let mut rings = self.rings.tail(Some(doc! { "_id": 1 }), old.saturating_sub(IN_BETWEEN)).await?;
        while let Some(ring) = rings.next().await {
            ring?;
            self.heard.send_modify(|n| *n += 1);
        }
        Ok(())
    }

    /// Calls `look` until it finds the value. The calls happen at once, whenever the bell rings, every [`super::POLL`],
    /// and a last time at the end of `limit`. `cancelled` ends the wait between two calls.
    ///
    /// # Errors
    /// The error that `look` returned.
    pub async fn until<T, M, F: Future<Output = Result<Look<T, M>>>>(
        &self,
        limit: Duration,
        cancelled: impl Future<Output = ()>,
        look: impl Fn() -> F,
    ) -> Result<Waited<T, M>> {
        until(|| self.waiter(), limit, cancelled, look).await
    }

    /// Does the same as [`Self::until`], but nobody can cancel it. Returns the value, or the reason from the last read.
    ///
    /// # Errors
    /// The error that `look` returned.
    pub async fn within<T, M, F: Future<Output = Result<Look<T, M>>>>(
        &self,
        limit: Duration,
        look: impl Fn() -> F,
    ) -> Result<std::result::Result<T, M>> {
        match self.until(limit, pending(), look).await? {
            Waited::Found(found) => Ok(Ok(found)),
            Waited::TimedOut(missing) => Ok(Err(missing)),
            Waited::Cancelled => unreachable!("nobody can cancel it"),
        }
    }

    /// Returns a waiter for the rings from now on. Create it *before* you read the state that you wait to change.
    #[must_use]
    pub fn waiter(&self) -> Waiter {
        let mut heard = self.heard.subscribe();
        heard.borrow_and_update();
        Waiter { heard, returned: Instant::now() }
    }
}

/// The result of reading the control collections once while waiting for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look<T, M = ()> {
    /// The value that the caller waits for.
    Found(T),
    /// The value does not exist yet, for this reason.
    Missing(M),
}

impl<T> Look<T> {
    /// Returns `Found` if there is a value.
    #[must_use]
    pub fn at(value: Option<T>) -> Self {
        value.map_or(Self::Missing(()), Self::Found)
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited<T, M = ()> {
    Found(T),
    /// The time is over. This is the reason from the last read.
    TimedOut(M),
    Cancelled,
}

/// The shortest time between two returns of a waiter. In a large cluster the bell rings for every replica set; after
/// this time a waiter sees several changes with one read.
const TOGETHER: Duration = Duration::from_millis(20);

async fn until<T, M, F: Future<Output = Result<Look<T, M>>>>(
    waiter: impl Fn() -> Waiter,
    limit: Duration,
    cancelled: impl Future<Output = ()>,
    look: impl Fn() -> F,
) -> Result<Waited<T, M>> {
    let end = Instant::now() + limit;
    let mut cancelled = std::pin::pin!(cancelled);
    loop {
        // The waiter is created before the read, so that it notices a change after the read.
        let mut waiter = waiter();
        let missing = match look().await? {
            Look::Found(found) => return Ok(Waited::Found(found)),
            Look::Missing(missing) => missing,
        };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Waited::TimedOut(missing));
        }
        tokio::select! {
            () = &mut cancelled => return Ok(Waited::Cancelled),
            () = waiter.next_within(left.min(super::POLL)) => {}
        }
    }
}

/// Waits for the next ring.
#[derive(Debug)]
pub struct Waiter {
    heard: watch::Receiver<u64>,
    returned: Instant,
}

impl Waiter {
    /// Returns when the bell has rung since the last call, or after [`super::POLL`] at the latest.
    pub async fn next(&mut self) {
        self.next_within(super::POLL).await;
    }

    /// Does the same as [`Self::next`], with another time limit.
    pub async fn next_within(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        if let Ok(Err(_)) = tokio::time::timeout_at(until, self.heard.changed()).await {
            // The bell was dropped together with its control layer, so only the time limit is left.
            tokio::time::sleep_until(until).await;
        }
        tokio::time::sleep_until(self.returned + TOGETHER).await;
        self.heard.borrow_and_update();
        self.returned = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, sync::Arc};
    use tokio::time::{advance, sleep};

    const LIMIT: Duration = Duration::from_secs(30);

    fn waiter(heard: &watch::Sender<u64>) -> Waiter {
        let mut heard = heard.subscribe();
        heard.borrow_and_update();
        Waiter { heard, returned: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_wakes_a_wait_at_once() {
        let heard = Arc::new(watch::Sender::new(0));
        let (begun, looks) = (Instant::now(), Cell::new(0));
        let ringer = heard.clone();
        let ring = async move {
            sleep(Duration::from_millis(300)).await;
            ringer.send_modify(|n| *n += 1);
        };
        let look = || async {
            looks.set(looks.get() + 1);
            Ok(Look::at((looks.get() == 2).then_some("there")))
        };
        let (waited, ()) = tokio::join!(until(|| waiter(&heard), LIMIT, pending(), look), ring);
        assert_eq!(waited.expect("no error"), Waited::Found("there"));
        assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_ring_costs_no_more_than_a_poll() {
        let heard = watch::Sender::new(0);
        let begun = Instant::now();
        let look = || async { Ok(Look::at((begun.elapsed() >= Duration::from_millis(100)).then_some(()))) };
        assert_eq!(until(|| waiter(&heard), LIMIT, pending(), look).await.expect("no error"), Waited::Found(()));
        assert_eq!(begun.elapsed(), super::super::POLL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_limit_after_a_last_look() {
        let heard = watch::Sender::new(0);
        let (begun, last) = (Instant::now(), Cell::new(Duration::ZERO));
        let limit = Duration::from_millis(2500);
        let look = || async {
            last.set(begun.elapsed());
            Ok(Look::<(), _>::Missing(last.get()))
        };
        assert_eq!(until(|| waiter(&heard), limit, pending(), look).await.expect("no error"), Waited::TimedOut(limit));
        assert_eq!((begun.elapsed(), last.get()), (limit, limit));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancel_ends_a_wait_at_once() {
        let heard = watch::Sender::new(0);
        let begun = Instant::now();
        let cancelled = sleep(Duration::from_millis(70));
        let waited = until(|| waiter(&heard), LIMIT, cancelled, || async { Ok(Look::<()>::Missing(())) })
            .await
            .expect("no error");
        assert_eq!((waited, begun.elapsed()), (Waited::Cancelled, Duration::from_millis(70)));
        advance(LIMIT).await;
    }
}
