//! The states of an operation on one node, from the command to its end. Each step consumes the previous state, so code
//! that works without a lock does not compile.
//!
//! # Overview
//! `Received` → [`Op::check`] → `Eligible` → election, or [`Op::on_primary`] → `Elected` → [`Op::lease`] → `Leased` →
//! [`Op::run`]. For most commands most agents have nothing to do, so standing down is a value and not an error.

use super::{
    lease::{self, Lease, Taken},
    node::Node,
};
use crate::control::{Look, Waited};
use crate::model::agent::AgentStat;
use crate::mongo::admin::explain;
use crate::rendezvous::{Cancel, Early};
use crate::topo::suits::MAX_LAG_SECS;
use anyhow::{Context, Result};
use bson::Timestamp;
use futures::FutureExt;
use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    time::Duration,
};

/// An operation in state `S`.
#[derive(Debug)]
pub(super) struct Op<S> {
    /// The name of the backup or restore.
    pub name: String,
    pub opid: String,
    pub epoch: Option<Timestamp>,
    /// Ends the operation early: after a command or a signal, or because the lock was lost.
    pub cancel: Cancel,
    pub state: S,
}

/// A command has arrived.
#[derive(Debug)]
pub(super) struct Received;
/// This node could do the work.
#[derive(Debug)]
pub(super) struct Eligible;
/// This node was chosen for the work.
#[derive(Debug)]
pub(super) struct Elected;
/// This node does the work. No other node of its replica set does.
#[derive(Debug)]
pub(super) struct Leased {
    lease: Box<Lease>,
}

/// Whether to continue. If not, the reason why this node has nothing to do.
#[must_use]
#[derive(Debug)]
pub(super) enum Gate<T> {
    Go(T),
    StandDown(String),
    /// The sender has withdrawn the operation: the agent writes nothing about it anywhere.
    Withdrawn,
}

impl<T> Gate<T> {
    /// Returns the next state. Where this node has nothing to do, logs the reason and returns `None`.
    pub fn go(self) -> Option<T> {
        match self {
            Self::Go(op) => Some(op),
            Self::StandDown(why) => {
                tracing::debug!("nothing to do here: {why}");
                None
            }
            Self::Withdrawn => {
                tracing::info!("it was withdrawn by its sender before it began");
                None
            }
        }
    }
}

impl<S> Op<S> {
    fn into_state<T>(self, state: T) -> Op<T> {
        Op { name: self.name, opid: self.opid, epoch: self.epoch, cancel: self.cancel, state }
    }
}

/// How long a node that is not the primary waits to become the primary, while no other node does the work. A command
/// may arrive in the middle of an election.
const FOR_AN_ELECTION: Duration = Duration::from_secs(20);

impl Op<Received> {
    /// Chooses this node if it is the primary, for work that only the primary can do.
    pub async fn on_primary(self, node: &Node) -> Result<Gate<Op<Elected>>> {
        let look = || async {
            // A node that does not answer now may become the primary soon.
            let why = match is_fit(node).await {
                Ok(Fit::Primary) => return Ok(Look::Found(None)),
                Ok(Fit::Secondary) => "the primary does this".to_owned(),
                Ok(Fit::Never(why)) => return Ok(Look::Found(Some(why))),
                Ok(Fit::NotNow(why)) => why,
                Err(error) => explain(&error),
            };
            match node.control.locks.begun_in(&self.opid, &node.rs).await {
                Ok(Some(begun)) => return Ok(Look::Found(Some(format!("{why}; {} has begun it", begun.node)))),
                Ok(None) => {}
                // The query may also fail because the leader replica set is in the middle of an election.
                Err(error) => tracing::debug!("{}", explain(&error)),
            }
            Ok(Look::Missing(why))
        };
        let waited = node.control.bell.until(FOR_AN_ELECTION, self.cancel.cancelled(), look).await?;
        Ok(match waited {
            Waited::Found(None) => Gate::Go(self.into_state(Elected)),
            Waited::Found(Some(why)) | Waited::TimedOut(why) => Gate::StandDown(why),
            Waited::Cancelled => Gate::StandDown("it was ended before this node became the primary".to_owned()),
        })
    }

    /// Checks whether this node is in a state to do any work.
    pub async fn check(self, node: &Node) -> Result<Gate<Op<Eligible>>> {
        Ok(match is_fit(node).await? {
            Fit::Primary | Fit::Secondary => Gate::Go(self.into_state(Eligible)),
            Fit::Never(why) | Fit::NotNow(why) => Gate::StandDown(why),
        })
    }
}

/// Whether this node can work now.
enum Fit {
    Primary,
    Secondary,
    Never(String),
    NotNow(String),
}

async fn is_fit(node: &Node) -> Result<Fit> {
    let hello = node.hello().await?;
    let status = node.repl_status().await?;
    let me = status.me().context("replSetGetStatus names no member as itself")?;
    if hello.arbiter_only {
        return Ok(Fit::Never("this node is an arbiter".into()));
    }
    if !me.state.is_readable() {
        return Ok(Fit::NotNow(format!("this node's state is {}", me.state_str)));
    }
    if status.lag_secs() >= MAX_LAG_SECS {
        return Ok(Fit::NotNow(format!("this node is {} s behind the primary", status.lag_secs())));
    }
    Ok(if hello.is_primary() { Fit::Primary } else { Fit::Secondary })
}

impl Op<Eligible> {
    /// Chooses this node, for work that any agent can do: the first one to take the lock does it.
    pub fn anybody(self) -> Op<Elected> {
        self.into_state(Elected)
    }

    /// Chooses this node after the nomination round has named it.
    pub fn nominated(self) -> Op<Elected> {
        self.into_state(Elected)
    }
}

impl Op<Elected> {
    /// Takes the lock of the replica set.
    pub async fn lease(self, node: &Node, kind: &str) -> Result<Gate<Op<Leased>>> {
        let header = node.lock_header(kind, &self.opid, self.epoch);
        Ok(match lease::take(node, header, &self.cancel).await? {
            Taken::Yes(lease) => Gate::Go(self.into_state(Leased { lease })),
            Taken::No(why) => Gate::StandDown(why),
            Taken::Withdrawn => Gate::Withdrawn,
        })
    }
}

impl Op<Leased> {
    /// Runs `work` and then releases the lock in any case. A panic continues only after that.
    pub async fn run<T>(self, work: impl AsyncFnOnce(&Self) -> T) -> T {
        let outcome = AssertUnwindSafe(work(&self)).catch_unwind().await;
        self.state.lease.release().await;
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Returns the reason why the operation ends early, as a sentence about `what`.
    pub fn why_early(&self, what: &str) -> String {
        self.cancel.early().unwrap_or(Early::Asked).sentence(what)
    }

    /// Whether the operation was cancelled because the lock was lost.
    pub fn lost_its_lock(&self) -> bool {
        self.state.lease.is_lost()
    }
}

/// Lists the living agents of a replica set for messages: `a (PRIMARY), b (SECONDARY)`.
pub(super) fn roll_call(agents: &[AgentStat]) -> String {
    agents.iter().map(|a| format!("{} ({})", a.n, a.state)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sim::{self, Host, Process, World};
    use crate::model::command::name;
    use std::sync::Arc;
    use tokio::time::Instant;

    const SECONDARY: Host = Host { rs: "rs1", at: 1 };

    fn received() -> Op<Received> {
        let (name, opid) = ("r".to_owned(), "op".to_owned());
        Op { name, opid, epoch: None, cancel: Cancel::default(), state: Received }
    }

    fn nodes(world: &Arc<World>) -> [Arc<Node>; 2] {
        [Host { at: 0, ..SECONDARY }, SECONDARY].map(|host| sim::node(world, host, &Process::default()))
    }

    fn why<T: std::fmt::Debug>(gate: Gate<T>) -> String {
        match gate {
            Gate::StandDown(why) => why,
            other => panic!("it goes on: {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_in_the_middle_of_an_election_waits_for_the_primary() {
        let world = World::new(1);
        let [primary, secondary] = nodes(&world);
        assert!(matches!(received().on_primary(&primary).await.expect("an answer"), Gate::Go(_)));
        let (since, election) = (Instant::now(), Duration::from_secs(7));
        let elected = async {
            tokio::time::sleep(election).await;
            world.elect(SECONDARY);
        };
        let (gate, ()) = tokio::join!(received().on_primary(&secondary), elected);
        assert!(matches!(gate.expect("an answer"), Gate::Go(_)));
        assert!(since.elapsed() >= election && since.elapsed() < election + Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_secondary_leaves_the_work_to_the_primary() {
        let world = World::new(1);
        let [primary, secondary] = nodes(&world);
        let since = Instant::now();
        assert_eq!(why(received().on_primary(&secondary).await.expect("an answer")), "the primary does this");
        assert!(since.elapsed() >= FOR_AN_ELECTION, "{:?}", since.elapsed());
        let Gate::Go(op) = received().on_primary(&primary).await.expect("an answer") else { panic!("the primary") };
        let op = op.lease(&primary, name::RESTORE).await.expect("an answer").go().expect("the lock");
        let since = Instant::now();
        let begun = why(received().on_primary(&secondary).await.expect("an answer"));
        assert_eq!(begun, "the primary does this; rs1-0:27017 has begun it");
        assert!(since.elapsed() < Duration::from_secs(1), "nobody waits for what has begun");
        op.run(async |_| ()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_lock_is_given_back_in_every_ending() {
        let world = World::new(1);
        let [_, node] = nodes(&world);
        let held = async || node.control.locks.of("rs1").await.expect("an answer").is_some();
        let lease = async |opid: &str| {
            let op =
                Op { opid: opid.to_owned(), ..received() }.check(&node).await.expect("an answer").go().expect("fit");
            op.anybody().lease(&node, name::DELETE).await.expect("an answer").go().expect("the lock")
        };
        assert!(lease("one").await.run(async |_| held().await).await, "held meanwhile");
        assert!(!held().await);
        let fault = AssertUnwindSafe(lease("two").await.run(async |_| panic!("a fault"))).catch_unwind().await;
        assert!(fault.is_err() && !held().await, "after a fault, too");
        node.control.locks.withdraw(name::DELETE, "three", "rs1", &[]).await.map(drop).expect("withdraw");
        let op =
            Op { opid: "three".to_owned(), ..received() }.check(&node).await.expect("an answer").go().expect("fit");
        assert!(matches!(op.anybody().lease(&node, name::DELETE).await.expect("an answer"), Gate::Withdrawn));
    }
}
