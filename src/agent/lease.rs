//! A replica set's lock with its heartbeat, as a guard.

use crate::control::{Control, HEARTBEAT, TakeLock};
use crate::model::lock::{LockHeader, STALE_SECS};
use crate::mongo::admin::explain;
use crate::upkeep::reap;
use anyhow::Result;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Without a successful heartbeat for this long the holder gives up; a little before it counts as lost.
const FENCE: Duration = Duration::from_secs(STALE_SECS as u64 - 1);

/// The lock is ours while this lives; give it back with [`Lease::release`].
#[derive(Debug)]
pub(super) struct Lease {
    control: Control,
    header: LockHeader,
    beats: AbortOnDropHandle<()>,
    /// Set when the lock was lost, before the operation is cancelled for it.
    lost: CancellationToken,
}

/// How an attempt ended.
#[must_use]
#[derive(Debug)]
pub(super) enum Taken {
    Yes(Box<Lease>),
    No(String),
}

/// Takes the lock, after cleaning up behind a holder that is lost. `op` is cancelled if the lock is lost later.
pub(super) async fn take(control: &Control, header: LockHeader, op: &CancellationToken) -> Result<Taken> {
    for _ in 0..3 {
        let now = control.cluster_time().await?;
        match control.locks.try_take(&header, now).await? {
            TakeLock::Taken => return Ok(Taken::Yes(Box::new(Lease::start(control.clone(), header, op.clone())))),
            TakeLock::AlreadyRun => return Ok(Taken::No("it was already run on this replica set".into())),
            TakeLock::Busy { by } if by.header.opid == header.opid => {
                return Ok(Taken::No(format!("{} does it", by.header.node)));
            }
            TakeLock::Busy { by } => {
                return Ok(Taken::No(format!(
                    "another operation is running: {} with OPID {} on {}",
                    by.header.kind, by.header.opid, by.header.node
                )));
            }
            TakeLock::Stale { by } => reap::end_lost(control, &by).await?,
            TakeLock::Gone => {}
        }
    }
    Ok(Taken::No("other agents keep taking the lock".into()))
}

impl Lease {
    fn start(control: Control, header: LockHeader, op: CancellationToken) -> Self {
        let lost = CancellationToken::new();
        let beats = tokio::spawn(beat(control.clone(), header.clone(), op, lost.clone()));
        Self { control, header, beats: AbortOnDropHandle::new(beats), lost }
    }

    /// Did the operation end because the lock was lost?
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Gives the lock back. Tries for a while: a lock that stays blocks the next operation for 30 s.
    pub async fn release(self) {
        drop(self.beats);
        let until = Instant::now() + Duration::from_secs(u64::from(STALE_SECS));
        loop {
            match self.control.locks.release(&self.header).await {
                Ok(()) => return,
                Err(error) if Instant::now() >= until => {
                    tracing::error!("{}; it will count as stale after {STALE_SECS} s", explain(&error));
                    return;
                }
                Err(error) => tracing::warn!("{}; trying again", explain(&error)),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Ends the operation when the lock is lost, and before others may think so: who can't reach the control collections
/// must have stopped to write when somebody else cleans up behind it.
async fn beat(control: Control, header: LockHeader, op: CancellationToken, lost: CancellationToken) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let began = Instant::now();
        let attempt = async {
            let now = control.cluster_time().await?;
            control.locks.beat(&header, now).await
        };
        // Limited by our own clock's seconds: to find no server takes the driver long.
        match tokio::time::timeout_at(last + FENCE, attempt).await {
            Ok(Ok(true)) => last = began,
            Ok(Ok(false)) => {
                tracing::error!("the lock of {} was taken away; ending the operation", header.replset);
                break;
            }
            Ok(Err(error)) if last.elapsed() < FENCE => tracing::warn!("{}", explain(&error)),
            Ok(Err(_)) | Err(_) => {
                tracing::error!("the lock could not be refreshed for {} s; ending the operation", FENCE.as_secs());
                break;
            }
        }
    }
    lost.cancel();
    op.cancel();
}
