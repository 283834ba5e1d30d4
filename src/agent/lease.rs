//! Holds the lock of a replica set and sends its heartbeats.

use super::{heartbeat_thread::Pulse, node::Node};
use crate::control::{Control, HEARTBEAT, TakeLock};
use crate::model::{
    command::name,
    lock::{LockHeader, STALE_SECS},
};
use crate::mongo::admin::explain;
use crate::operation::reap;
use crate::rendezvous::{Cancel, Early};
use anyhow::{Result, anyhow};
use futures::{StreamExt, stream::FuturesUnordered};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// After this time without a successful heartbeat, the holder stops its work. This is shortly before other agents
/// consider it lost.
pub(super) const FENCE: Duration = Duration::from_secs(STALE_SECS as u64 - 1);

/// The lock is held while this value lives. Release it with [`Lease::release`].
#[derive(Debug)]
pub(super) struct Lease {
    control: Control,
    header: LockHeader,
    beats: AbortOnDropHandle<()>,
    /// Set when the lock is lost, before the operation is cancelled for that reason.
    lost: CancellationToken,
}

/// The result of an attempt to take the lock.
#[must_use]
#[derive(Debug)]
pub(super) enum Taken {
    Yes(Box<Lease>),
    No(String),
    /// The sender has withdrawn the operation.
    Withdrawn,
}

/// Takes the lock. If its holder is lost, cleans up after that holder first. `op` is cancelled if the lock is lost
/// later.
pub(super) async fn take(node: &Node, header: LockHeader, op: &Cancel) -> Result<Taken> {
    let control = &node.control;
    for _ in 0..3 {
        if let Some(early) = op.early() {
            return Ok(Taken::No(format!("{}, before it began", early.sentence(&header.kind))));
        }
        let began = Instant::now();
        // The cluster time is advanced first. Without that, it could be some seconds old: the new lock would begin with
        // an old heartbeat, and a lost lock would seem alive.
        let now = control.advanced_cluster_time().await?;
        match control.locks.try_take(&header, now).await? {
            TakeLock::Taken => return Ok(Taken::Yes(Box::new(Lease::start(node, header, began, op.clone())))),
            TakeLock::AlreadyRun => return Ok(Taken::No("it was already run on this replica set".into())),
            TakeLock::Withdrawn => return Ok(Taken::Withdrawn),
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
    /// Creates the value for a lock that was taken by an attempt that began at `began`.
    fn start(node: &Node, header: LockHeader, began: Instant, op: Cancel) -> Self {
        let lost = CancellationToken::new();
        let leads = node.in_leader_rs;
        let beats = keep_beating(&node.pulse, header.clone(), leads, began, op, lost.clone());
        Self { control: node.control.clone(), header, beats, lost }
    }

    /// Whether the operation ended because the lock was lost.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Releases the lock. Tries several times, because a lock that stays blocks the next operation for 30 s.
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

/// Sends heartbeats. If the lock is lost, ends the operation before other agents may consider it lost: when another
/// agent cleans up after an agent that can't reach the control collections, that agent must already have stopped
/// writing.
fn keep_beating(
    pulse: &Pulse,
    header: LockHeader,
    leads: bool,
    began: Instant,
    op: Cancel,
    lost: CancellationToken,
) -> AbortOnDropHandle<()> {
    let mine = Arc::new((pulse.control.clone(), header.clone()));
    pulse.spawn(async move {
        let attempt = move || {
            let mine = mine.clone();
            async move { attempt(&mine.0, &mine.1, leads).await }
        };
        let why = beat(attempt, began, |last| op.held_until(last + FENCE)).await;
        tracing::error!("{}: {why}; ending the operation", header.replset);
        lost.cancel();
        op.end(Early::LockLost { node: header.node, why });
    })
}

/// Writes one heartbeat to the lock, and to the operation's document if this agent leads it. Returns `false` if the lock is not
/// ours.
async fn attempt(control: &Control, header: &LockHeader, leads: bool) -> Result<bool> {
    let Some(now) = control.beat(header).await? else { return Ok(false) };
    match header.kind.as_str() {
        name::BACKUP if leads => control.backups.beat_of(&header.opid, now).await?,
        name::RESTORE | name::REPLAY if leads => control.restores.beat_of(&header.opid, now).await?,
        _ => {}
    }
    Ok(true)
}

/// Attempts a heartbeat every few seconds until the lock is lost, and returns the reason. `last` is the time at which
/// the attempt that took the lock began. `confirmed` receives this time, and then the time at which each successful
/// heartbeat began.
///
/// An attempt does not wait for the previous one. Each attempt may take nearly as long as [`FENCE`], because the
/// majority may confirm it late. And an attempt that hangs on a dead connection or a frozen server must not delay the
/// next attempt, which may reach a new primary.
async fn beat<F: Future<Output = Result<bool>>>(
    attempt: impl Fn() -> F,
    mut last: Instant,
    confirmed: impl Fn(Instant),
) -> String {
    confirmed(last);
    let mut ticks = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = None;
    let mut attempts = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = sleep_until(last + FENCE) => {
                let why = failed.map(|why| format!(" ({why})")).unwrap_or_default();
                return format!("the lock could not be refreshed for {} s{why}", FENCE.as_secs());
            }
            _ = ticks.tick() => {
                let began = Instant::now();
                let attempt = timeout(FENCE, attempt());
                attempts.push(async move {
                    let done = attempt.await;
                    (began, done.unwrap_or_else(|_| Err(anyhow!("no answer within {} s", FENCE.as_secs()))))
                });
            }
            Some((began, done)) = attempts.next() => match done {
                Ok(true) => {
                    last = last.max(began);
                    confirmed(last);
                }
                Ok(false) => return "the lock was taken away".to_owned(),
                Err(error) => {
                    let why = explain(&error);
                    tracing::warn!("{why}");
                    failed = Some(why);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sim::{self, Host, Process, World};
    use crate::model::{lock::is_stale, status::Status};
    use std::{cell::Cell, future::pending};
    use tokio::time::sleep;

    const HOST: Host = Host { rs: "rs1", at: 0 };

    async fn taken(node: &Node, opid: &str, op: &Cancel) -> Box<Lease> {
        match take(node, node.lock_header(name::BACKUP, opid, None), op).await.expect("an answer") {
            Taken::Yes(lease) => lease,
            other => panic!("the lock is not taken: {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_is_cut_off_gives_up_before_its_lock_is_stale() {
        for idle in 0..10 {
            let (world, op) = (World::new(1), Cancel::default());
            let [mine, other] = [HOST, Host { at: 1, ..HOST }].map(|host| sim::node(&world, host, &Process::default()));
            sleep(Duration::from_secs(idle)).await;
            let lease = taken(&mine, "op", &op).await;
            if idle > 5 {
                sleep(Duration::from_secs(60)).await;
            }
            assert_eq!(op.early(), None, "it shows that it lives");
            world.cut_off(HOST, Duration::from_secs(3600));
            op.cancelled().await;
            assert!(matches!(op.early(), Some(Early::LockLost { .. })) && lease.is_lost());
            let lock = other.control.locks.of("rs1").await.expect("an answer").expect("the lock");
            let now = other.control.advanced_cluster_time().await.expect("the time");
            assert!(!is_stale(lock.hb, now), "given up at {now} with a lock of {}", lock.hb);
        }
    }

    /// Nothing else writes the heartbeat of an operation while it works.
    #[tokio::test(start_paused = true)]
    async fn the_leaders_lock_keeps_the_operations_document_alive() {
        let world = World::new(1);
        for kind in [name::BACKUP, name::RESTORE, name::REPLAY] {
            let node = sim::node(&world, Host { rs: "cfg", at: 0 }, &Process::default());
            let (backups, restores) = (&node.control.backups, &node.control.restores);
            let begun = node.control.advanced_cluster_time().await.expect("the time");
            let running = bson::doc! { "name": kind, "opid": kind, "status": "running", "hb": begun };
            if kind == name::BACKUP {
                backups.insert(&bson::deserialize_from_document(running).expect("it")).await.expect("insert");
            } else {
                restores.insert(&bson::deserialize_from_document(running).expect("it")).await.expect("insert");
            }
            let op = Cancel::default();
            let taken = take(&node, node.lock_header(kind, kind, None), &op).await.expect("an answer");
            let Taken::Yes(lease) = taken else { panic!("the lock is not taken: {taken:?}") };
            sleep(Duration::from_secs(60)).await;
            let found = match kind {
                name::BACKUP => backups.raw(kind).await,
                _ => restores.raw(kind).await,
            };
            let hb = found.expect("an answer").expect("it").get_timestamp("hb").expect("a heartbeat");
            assert!(!is_stale(hb, node.control.cluster_time().await.expect("the time")), "{kind}: {hb}, {begun}");
            lease.release().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_somebody_removed_ends_the_operation() {
        let (world, op) = (World::new(1), Cancel::default());
        let node = sim::node(&world, HOST, &Process::default());
        let lease = taken(&node, "op", &op).await;
        let lock = node.control.locks.of("rs1").await.expect("an answer").expect("the lock");
        assert!(node.control.locks.remove_stale(&lock).await.expect("an answer"));
        timeout(HEARTBEAT * 2, op.cancelled()).await.expect("the next heartbeat shows it");
        assert!(lease.is_lost());
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_holder_ends_the_operation_of_a_lost_one() {
        let world = World::new(1);
        let dead = Process::default();
        let mine = sim::node(&world, HOST, &dead);
        let backup = bson::doc! { "name": "b", "opid": "op", "status": "running", "replsets": [{ "name": "rs1", "status": "running" }] };
        mine.control.backups.insert(&bson::deserialize_from_document(backup).expect("a backup")).await.expect("insert");
        let _lease = taken(&mine, "op", &Cancel::default()).await;
        dead.kill();
        let next = sim::node(&world, Host { at: 1, ..HOST }, &Process::default());
        let attempt = async || take(&next, next.lock_header(name::BACKUP, "next", None), &Cancel::default()).await;
        assert!(
            matches!(attempt().await.expect("an answer"), Taken::No(why) if why.contains("another operation is running"))
        );
        sleep(Duration::from_secs(u64::from(STALE_SECS) + 1)).await;
        assert!(matches!(attempt().await.expect("an answer"), Taken::Yes(_)));
        let backup = next.control.backups.get("b").await.expect("an answer").expect("a backup");
        assert!(backup.status == Status::Error && backup.replsets[0].status == Status::Error, "{backup:?}");
        assert_eq!(next.control.backups.due_for_cleanup().await.expect("an answer"), ["b"]);
        // Its process is dead. But even if it came back, each operation runs only once.
        next.control.locks.release(&next.lock_header(name::BACKUP, "next", None)).await.expect("release");
        let again = take(&next, next.lock_header(name::BACKUP, "op", None), &Cancel::default()).await;
        assert!(matches!(again.expect("an answer"), Taken::No(why) if why.contains("already run")));
    }

    /// Runs `attempt` for ten minutes or until the lock is lost. `attempt` receives the number of previous attempts.
    async fn held<F: Future<Output = Result<bool>>>(attempt: impl Fn(u32) -> F) -> Result<(), (String, u64)> {
        let (since, count) = (Instant::now(), Cell::new(0));
        let attempt = || {
            count.set(count.get() + 1);
            attempt(count.get())
        };
        let beats = beat(attempt, since, |_| {});
        timeout(Duration::from_secs(600), beats).await.map_or(Ok(()), |why| Err((why, since.elapsed().as_secs())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_outlives_slow_and_hanging_heartbeats() {
        let slow = |_| async {
            sleep(Duration::from_secs(22)).await;
            Ok(true)
        };
        assert_eq!(held(slow).await, Ok(()), "confirmed late");
        // These attempts hang for ever, as on a frozen server. Every fourth attempt succeeds, as on a new primary.
        let hanging = |n| async move { if n % 4 == 0 { Ok(true) } else { pending().await } };
        assert_eq!(held(hanging).await, Ok(()), "three of four hang");
        let failing = |n| async move { if n % 4 == 0 { Ok(true) } else { Err(anyhow!("no primary")) } };
        assert_eq!(held(failing).await, Ok(()), "three of four fail");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_cannot_be_refreshed_is_given_up_in_time() {
        let (why, after) = held(|_| async { Err(anyhow!("no primary")) }).await.expect_err("lost");
        assert!(after == 29 && why == "the lock could not be refreshed for 29 s (no primary)", "{after}: {why}");
        let (why, after) =
            held(|n| async move { if n <= 2 { Ok(true) } else { pending().await } }).await.expect_err("lost");
        assert!(after == 39 && why.starts_with("the lock could not be refreshed for 29 s"), "{after}: {why}");
        let (why, after) = held(|n| async move { Ok(n <= 2) }).await.expect_err("lost");
        assert!(after == 15 && why == "the lock was taken away", "{after}: {why}");
    }
}
