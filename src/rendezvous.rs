//! Coordinates the steps of an operation: a pure decision ([`next`]), and one loop that waits.
//!
//! An operation has members, which are replica sets, and a status of the cluster. Each member announces a step. When all
//! members have announced it, the leader publishes it as the status of the cluster, and all members continue.
//!
//! # The protocol's states
//! | step | a member announces it when | the leader publishes it when |
//! |---|---|---|
//! | `starting` | (the leader's document has it) | the document is inserted |
//! | backup `running` | its part with its first write is in the document | all parts are there |
//! | backup `dumpDone` | every collection is stored | all dumps are complete, so the end of the oplog is fixed |
//! | restore `cleanupCluster` | its part of the backup was checked, nothing is changed yet | all have checked |
//! | restore `running` | everything that the backup replaces is dropped | all have dropped, so the load begins |
//! | restore `dumpDone` | its data (and the routing tables) is loaded | all have loaded, so the replay begins |
//! | replay `running` | the oplog was checked, nothing is changed yet | all have checked |
//! | `done` | it has nothing more to do | all are done, and the leader's last act (the metadata file) succeeded |
//!
//! A member only waits for the status of the cluster, and the leader waits for all members. If a member fails, it writes this
//! to the status of the cluster at once.
//!
//! # Consistency
//! Steps follow each other in the order of [`rank`]. A member that has announced a later step counts as having announced the
//! earlier one. A final status other than `done` ends the wait of all members.
//!
//! # Crash
//! The heartbeat of its lock shows that a member is lost, and the heartbeat of the operation that the leader is lost. Both end
//! the wait with [`Next::Abort`], so no member waits for ever.

use crate::model::{lock::is_stale, status::Status};
use async_trait::async_trait;
use bson::Timestamp;
use futures::FutureExt;
#[cfg(test)]
use futures::future::BoxFuture;
use std::{
    any::Any,
    future::poll_fn,
    ops::Deref,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::Poll,
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The part of a member in the coordination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Watches the members and publishes steps.
    Leader,
    /// Watches the published steps.
    Follower,
}

/// The state of one member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    pub rs: String,
    /// `None` before its first announcement.
    pub status: Option<Status>,
    pub error: String,
    /// The heartbeat of its lock. `None` if it holds no lock.
    pub lock: Option<Timestamp>,
}

/// The facts of a decision, all read at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    pub cluster: Status,
    pub error: String,
    /// The heartbeat of the leader. `Timestamp(0, 0)` before the first one.
    pub hb: Timestamp,
    /// All members that must take part.
    pub members: Vec<Member>,
    /// The cluster time of the reading.
    pub now: Timestamp,
}

/// Why a wait ended without success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("cancelled")]
    Cancelled,
    #[error("replica set {rs} failed: {error}")]
    MemberFailed { rs: String, error: String },
    #[error("the operation failed: {0}")]
    ClusterFailed(String),
    #[error(
        "the agent of replica set {rs} is lost: it gave no sign of life for more than 30 s; look at its log, then repeat"
    )]
    MemberLost { rs: String },
    #[error("the leading agent is lost: it gave no sign of life for more than 30 s; look at its log, then repeat")]
    LeaderLost,
    #[error("not every replica set reached '{step}' within {seconds} s; missing: {missing}")]
    TimedOut { step: Status, seconds: u64, missing: String },
    #[error("the operation's document is gone from the control collections")]
    Gone,
}

/// The result of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Wait,
    Publish,
    Proceed,
    Abort(Why),
}

/// The order of the steps. Steps with the same number belong to different kinds of operations.
#[must_use]
pub fn rank(status: Status) -> u8 {
    match status {
        Status::Init => 0,
        Status::Ready => 1,
        Status::Starting => 2,
        Status::CleanupCluster => 3,
        Status::Running => 4,
        Status::Down => 5,
        Status::DumpDone => 6,
        Status::CopyReady => 7,
        Status::CopyDone => 8,
        Status::PartlyDone => 9,
        Status::Done => 10,
        Status::Canceled | Status::Error => u8::MAX,
    }
}

/// Decides what to do after a reading. The leader watches the members, a follower the status of the cluster.
#[must_use]
pub fn next(want: Status, role: Role, board: &Board) -> Next {
    match board.cluster {
        Status::Canceled => return Next::Abort(Why::Cancelled),
        Status::Error => return Next::Abort(Why::ClusterFailed(board.error.clone())),
        reached if rank(reached) >= rank(want) => return Next::Proceed,
        _ => {}
    }
    if role == Role::Follower {
        let silent = board.hb.time > 0 && is_stale(board.hb, board.now);
        return if silent { Next::Abort(Why::LeaderLost) } else { Next::Wait };
    }
    let mut missing = false;
    for member in &board.members {
        let lost = member.lock.is_some_and(|hb| is_stale(hb, board.now));
        match member.status {
            Some(Status::Canceled) => return Next::Abort(Why::Cancelled),
            Some(Status::Error) => {
                return Next::Abort(Why::MemberFailed { rs: member.rs.clone(), error: member.error.clone() });
            }
            Some(there) if rank(there) >= rank(want) => {}
            _ if lost => return Next::Abort(Why::MemberLost { rs: member.rs.clone() }),
            _ => missing = true,
        }
    }
    if missing { Next::Wait } else { Next::Publish }
}

/// The place where steps are announced and published.
#[async_trait]
pub trait Rendezvous: Send + Sync {
    /// Announces that this member is at `step`.
    async fn announce(&self, step: Status) -> anyhow::Result<()>;
    /// Reads the facts. `None` if the operation does not exist any more.
    async fn read(&self) -> anyhow::Result<Option<Board>>;
    /// Publishes `step` for the cluster. Returns `false` if the operation has ended meanwhile, or does not exist any more.
    async fn publish(&self, step: Status) -> anyhow::Result<bool>;
    /// Returns when something may have changed since the last call, and after about a second at the latest.
    async fn changed(&self);
}

/// Announces `step` and waits until it is published. The leader runs `last` after all members are there and before it
/// publishes the step.
///
/// # Errors
/// A [`Why`] if the wait ended without success (find it with `downcast_ref`), or the error of a call or of `last`.
pub async fn reach<F>(
    board: &dyn Rendezvous,
    role: Role,
    step: Status,
    limit: Option<Duration>,
    cancel: &CancellationToken,
    last: F,
) -> anyhow::Result<()>
where
    F: AsyncFnOnce() -> anyhow::Result<()>,
{
    board.announce(step).await?;
    arrive(board, role, step, limit, cancel, last).await
}

/// Waits, as the leader, until every member has a part in the operation. A follower does not wait. After that, steps can take
/// as long as they need, because the lock of a member shows whether it is lost.
///
/// # Errors
/// Those of [`reach`]. `step` is the step that the missing members do not reach.
pub async fn gather(
    board: &dyn Rendezvous,
    role: Role,
    step: Status,
    limit: Duration,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    if role == Role::Follower {
        return Ok(());
    }
    let since = Instant::now();
    loop {
        if cancel.is_cancelled() {
            return Err(Why::Cancelled.into());
        }
        let Some(seen) = board.read().await? else { return Err(Why::Gone.into()) };
        if let Next::Abort(why) = next(step, role, &seen) {
            return Err(why.into());
        }
        let missing: Vec<&str> = seen.members.iter().filter(|m| m.status.is_none()).map(|m| m.rs.as_str()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if since.elapsed() >= limit {
            return Err(Why::TimedOut { step, seconds: limit.as_secs(), missing: missing.join(", ") }.into());
        }
        tokio::select! {
            () = cancel.cancelled() => {}
            () = board.changed() => {}
        }
    }
}

/// Does the same as [`reach`] for a step that is already announced.
pub async fn arrive<F>(
    board: &dyn Rendezvous,
    role: Role,
    step: Status,
    limit: Option<Duration>,
    cancel: &CancellationToken,
    last: F,
) -> anyhow::Result<()>
where
    F: AsyncFnOnce() -> anyhow::Result<()>,
{
    let since = Instant::now();
    let mut last = Some(last);
    loop {
        if cancel.is_cancelled() {
            return Err(Why::Cancelled.into());
        }
        let Some(seen) = board.read().await? else { return Err(Why::Gone.into()) };
        match next(step, role, &seen) {
            Next::Proceed => return Ok(()),
            Next::Abort(why) => return Err(why.into()),
            Next::Publish => {
                if let Some(last) = last.take() {
                    last().await?;
                }
                // The operation may have ended since the reading. The next reading has the reason.
                if board.publish(step).await? {
                    return Ok(());
                }
                continue;
            }
            Next::Wait => {}
        }
        if let Some(limit) = limit.filter(|limit| since.elapsed() >= *limit) {
            let missing: Vec<&str> = seen
                .members
                .iter()
                .filter(|m| m.status.is_none_or(|s| rank(s) < rank(step)))
                .map(|m| m.rs.as_str())
                .collect();
            let missing = if missing.is_empty() { "the word of the leading agent".into() } else { missing.join(", ") };
            return Err(Why::TimedOut { step, seconds: limit.as_secs(), missing }.into());
        }
        tokio::select! {
            () = cancel.cancelled() => {}
            () = board.changed() => {}
        }
    }
}

/// Time between two readings of [`watch`].
const LOOK: Duration = Duration::from_secs(2);

/// Returns when the operation has ended without success on another member. A member that moves data for hours waits for no
/// step. Without this check it would keep its lock and load the servers for an operation that has failed. A failed reading is
/// ignored.
pub async fn watch(board: &dyn Rendezvous, role: Role) -> Why {
    loop {
        // The bell does not wake this loop: it rings often, and this check is not urgent.
        tokio::time::sleep(LOOK).await;
        match board.read().await {
            Ok(Some(seen)) => {
                if let Next::Abort(why) = next(Status::Done, role, &seen) {
                    return why;
                }
            }
            Ok(None) => return Why::Gone,
            Err(error) => tracing::debug!("{error:#}"),
        }
    }
}

/// Runs one member's recipe to its end. If this future is dropped, the recipe's tasks stop. `watch` ends when the other
/// members make the work useless. A fault of the program ends the operation like any error, so that no member waits for it.
///
/// # Errors
/// The error of the recipe, the result of `watch`, or [`Why::Cancelled`].
pub async fn supervise(
    recipe: impl Future<Output = anyhow::Result<()>>,
    watch: impl Future<Output = Why>,
    cancel: &Cancel,
) -> anyhow::Result<()> {
    tokio::select! {
        result = AssertUnwindSafe(cancel.while_held(recipe)).catch_unwind() => result.unwrap_or_else(|panic| Err(fault(panic.as_ref()))),
        () = cancel.cancelled() => Err(Why::Cancelled.into()),
        why = watch => Err(why.into()),
    }
}

fn fault(panic: &(dyn Any + Send)) -> anyhow::Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    anyhow::anyhow!(
        "a fault in pbm-agent: {}; the agent's log has the place: please report it",
        text.unwrap_or("no message")
    )
}

/// Adds the replica set and the node to the reason why an operation of several replica sets ended. A [`Why`] already names
/// them.
#[must_use]
pub fn named(reason: String, error: &anyhow::Error, rs: &str, node: &str) -> String {
    if error.downcast_ref::<Why>().is_some() {
        return reason;
    }
    format!("replica set {rs}, agent on {node}: {reason}")
}

/// Why an operation ends before it is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Early {
    /// A user cancelled the operation.
    Asked,
    /// The agent on this node got a signal to end.
    AgentStopped { node: String },
    /// The agent on this node does not have the lock any more.
    LockLost { node: String, why: String },
}

impl Early {
    /// Returns the reason as a sentence. `what` names the work.
    #[must_use]
    pub fn sentence(&self, what: &str) -> String {
        match self {
            Self::Asked => format!("the {what} was cancelled"),
            Self::AgentStopped { node } => format!("the agent on {node} was stopped in the middle of the {what}"),
            Self::LockLost { node, why } => {
                format!("the agent on {node} lost its lock in the middle of the {what}: {why}")
            }
        }
    }
}

/// Ends an operation before it is complete, and keeps the first reason.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    token: CancellationToken,
    early: Arc<OnceLock<Early>>,
    /// The time until which the operation's lock is certainly ours. `None` for work without a lock.
    held_until: Arc<Mutex<Option<Instant>>>,
}

/// Time between two checks whether the lock is certainly ours again.
const HELD_AGAIN: Duration = Duration::from_millis(100);

impl Cancel {
    /// Ends the operation.
    pub fn end(&self, early: Early) {
        // A later reason is ignored.
        let _ = self.early.set(early);
        self.token.cancel();
    }

    /// Records the time until which the operation's lock is certainly ours.
    pub fn held_until(&self, until: Instant) {
        *self.held_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    fn is_held(&self) -> bool {
        let until = *self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_none_or(|until| Instant::now() < until)
    }

    /// Runs `work`, but only while the lock is certainly ours. Otherwise a process that was paused for long would continue its
    /// work before it notices that its lock is lost, and another agent might already be working.
    pub async fn while_held<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let step = poll_fn(|cx| match self.is_held() {
                true => work.as_mut().poll(cx).map(Some),
                false => Poll::Ready(None),
            });
            match step.await {
                Some(done) => return done,
                None => tokio::time::sleep(HELD_AGAIN).await,
            }
        }
    }

    /// Returns why the operation has to end, or `None` if it does not have to.
    #[must_use]
    pub fn early(&self) -> Option<Early> {
        self.token.is_cancelled().then(|| self.early.get().cloned().unwrap_or(Early::Asked))
    }

    /// Returns why an operation that failed with `error` was ended early, on this node or on all nodes. Returns `None` if it
    /// failed for another reason.
    #[must_use]
    pub fn early_end(&self, error: &anyhow::Error) -> Option<Early> {
        self.early().or_else(|| (error.downcast_ref::<Why>() == Some(&Why::Cancelled)).then_some(Early::Asked))
    }
}

impl Deref for Cancel {
    type Target = CancellationToken;

    fn deref(&self) -> &CancellationToken {
        &self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::pending,
        sync::atomic::{AtomicU32, Ordering},
    };

    #[tokio::test]
    async fn a_fault_or_a_cancellation_ends_a_recipe() {
        let cancel = Cancel::default();
        let run = async |recipe: BoxFuture<'static, anyhow::Result<()>>| {
            supervise(recipe, pending(), &cancel).await.map_err(|e| e.to_string())
        };
        assert_eq!(run(async { Ok(()) }.boxed()).await, Ok(()));
        let fault = run(async { panic!("index {}", 7) }.boxed()).await.expect_err("a fault");
        assert!(fault.contains("index 7"), "{fault}");
        cancel.end(Early::Asked);
        let error = supervise(pending(), pending(), &cancel).await.expect_err("cancelled");
        assert_eq!(Cancel::default().early_end(&error), Some(Early::Asked));
    }

    #[tokio::test(start_paused = true)]
    async fn work_stands_still_while_the_lock_may_be_somebody_elses() {
        let (cancel, steps) = (Cancel::default(), AtomicU32::new(0));
        let work = async {
            loop {
                steps.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let mut work = pin!(cancel.while_held(work));
        let mut runs_for = async |seconds: u64| {
            let before = steps.load(Ordering::Relaxed);
            let ended: Result<(), _> =
                tokio::time::timeout(Duration::from_millis(seconds * 1000 + 500), &mut work).await;
            assert!(ended.is_err(), "it has no end");
            steps.load(Ordering::Relaxed) - before
        };
        assert_eq!(runs_for(5).await, 6, "without a lock");
        cancel.held_until(Instant::now() + Duration::from_secs(10));
        assert_eq!(runs_for(20).await, 10, "as long as it is ours");
        cancel.held_until(Instant::now() + Duration::from_secs(60));
        assert!(runs_for(20).await >= 20, "it is ours again");
    }

    #[test]
    fn an_early_end_keeps_its_first_reason() {
        let cancel = Cancel::default();
        assert_eq!(cancel.early_end(&anyhow::anyhow!("no room")), None, "that is a failure");
        let stopped = Early::AgentStopped { node: "h:1".into() };
        cancel.clone().end(stopped.clone());
        cancel.end(Early::Asked);
        assert!(cancel.is_cancelled());
        assert_eq!(cancel.early_end(&Why::Cancelled.into()), Some(stopped.clone()));
        assert_eq!(stopped.sentence("backup"), "the agent on h:1 was stopped in the middle of the backup");
    }

    /// What is read, one after the other; the last one again and again.
    struct Told(Mutex<Vec<Option<Board>>>);

    #[async_trait]
    impl Rendezvous for Told {
        async fn announce(&self, _: Status) -> anyhow::Result<()> {
            unreachable!("it only looks")
        }
        async fn read(&self) -> anyhow::Result<Option<Board>> {
            let mut all = self.0.lock().expect("no panic");
            Ok(if all.len() > 1 { all.remove(0) } else { all[0].clone() })
        }
        async fn publish(&self, _: Status) -> anyhow::Result<bool> {
            // The operation is over, as the next reading tells.
            Ok(false)
        }
        async fn changed(&self) {}
    }

    #[tokio::test]
    async fn a_leader_does_not_go_on_with_what_was_ended_while_it_published() {
        let there = Some(board(Status::Starting, FRESH, vec![member("a", Some(Status::Running), Some(FRESH))]));
        for (end, why) in [
            (Some(board(Status::Error, FRESH, vec![])), Why::ClusterFailed("bang".into())),
            (Some(board(Status::Canceled, FRESH, vec![])), Why::Cancelled),
            (None, Why::Gone),
        ] {
            let told = Told(Mutex::new(vec![there.clone(), end]));
            let cancel = CancellationToken::new();
            let went = arrive(&told, Role::Leader, Status::Running, None, &cancel, async || Ok(())).await;
            assert_eq!(went.expect_err("it is over").downcast_ref::<Why>(), Some(&why));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_works_hears_that_it_is_in_vain() {
        let running = || Some(board(Status::Running, FRESH, vec![member("a", Some(Status::Running), Some(FRESH))]));
        let failed = Some(board(Status::Error, FRESH, vec![]));
        let cancel = Cancel::default();
        let told = Told(Mutex::new(vec![running(), running(), failed]));
        let work = supervise(pending(), watch(&told, Role::Follower), &cancel);
        let error = work.await.expect_err("in vain");
        assert_eq!(error.downcast_ref::<Why>(), Some(&Why::ClusterFailed("bang".into())));

        let told = Told(Mutex::new(vec![running(), None]));
        assert_eq!(watch(&told, Role::Leader).await, Why::Gone);
        let lost = board(Status::Running, FRESH, vec![member("a", Some(Status::Running), Some(OLD))]);
        assert_eq!(watch(&Told(Mutex::new(vec![Some(lost)])), Role::Leader).await, Why::MemberLost { rs: "a".into() });
        let fine = Told(Mutex::new(vec![running(), Some(board(Status::Done, OLD, vec![]))]));
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, watch(&fine, Role::Follower)).await.is_err(), "nothing is wrong");
    }

    const NOW: Timestamp = Timestamp { time: 1000, increment: 1 };
    const FRESH: Timestamp = Timestamp { time: 970, increment: 1 };
    const OLD: Timestamp = Timestamp { time: 969, increment: 1 };

    fn member(rs: &str, status: Option<Status>, lock: Option<Timestamp>) -> Member {
        Member { rs: rs.into(), status, error: "boom".into(), lock }
    }

    fn board(cluster: Status, hb: Timestamp, members: Vec<Member>) -> Board {
        Board { cluster, error: "bang".into(), hb, members, now: NOW }
    }

    #[test]
    fn the_leader_publishes_when_all_are_there() {
        let at = |status| member("a", status, Some(FRESH));
        let ask = |members| next(Status::Running, Role::Leader, &board(Status::Starting, FRESH, members));
        assert_eq!(ask(vec![at(None)]), Next::Wait);
        assert_eq!(ask(vec![at(Some(Status::Running)), at(Some(Status::Starting))]), Next::Wait);
        assert_eq!(ask(vec![at(Some(Status::Running)), at(Some(Status::DumpDone))]), Next::Publish);
        assert_eq!(ask(vec![]), Next::Publish);
    }

    #[test]
    fn failures_of_members_end_the_wait() {
        let ask = |m| next(Status::Running, Role::Leader, &board(Status::Starting, FRESH, vec![m]));
        assert_eq!(ask(member("a", Some(Status::Canceled), None)), Next::Abort(Why::Cancelled));
        assert_eq!(
            ask(member("a", Some(Status::Error), None)),
            Next::Abort(Why::MemberFailed { rs: "a".into(), error: "boom".into() })
        );
        assert_eq!(ask(member("a", None, Some(OLD))), Next::Abort(Why::MemberLost { rs: "a".into() }));
        assert_eq!(ask(member("a", Some(Status::Running), Some(OLD))), Next::Publish, "it did its part before it died");
    }

    #[test]
    fn followers_follow_the_cluster() {
        let ask = |cluster, hb| next(Status::DumpDone, Role::Follower, &board(cluster, hb, vec![]));
        assert_eq!(ask(Status::Running, FRESH), Next::Wait);
        assert_eq!(ask(Status::Running, OLD), Next::Abort(Why::LeaderLost));
        assert_eq!(ask(Status::Running, Timestamp { time: 0, increment: 0 }), Next::Wait, "no heartbeat yet");
        assert_eq!(ask(Status::DumpDone, OLD), Next::Proceed);
        assert_eq!(ask(Status::Done, FRESH), Next::Proceed, "a later step counts");
        assert_eq!(ask(Status::Canceled, FRESH), Next::Abort(Why::Cancelled));
        assert_eq!(ask(Status::Error, FRESH), Next::Abort(Why::ClusterFailed("bang".into())));
    }
}
