//! An operation on one node, from command to end: each step consumes the last, so that work without a lock does not
//! compile.
//!
//! # Overview
//! `Received` → [`Op::check`] → `Eligible` → election or [`Op::only_primary`] → `Elected` → [`Op::lease`] → `Leased` →
//! [`Op::run`]. Most agents have nothing to do for most commands: standing down is a value, not an error.

use super::{
    lease::{self, Lease, Taken},
    node::Node,
};
use crate::model::agent::AgentStat;
use crate::mongo::admin;
use crate::topo::suits::MAX_LAG_SECS;
use anyhow::{Context, Result};
use bson::Timestamp;
use futures::FutureExt;
use std::panic::{AssertUnwindSafe, resume_unwind};
use tokio_util::sync::CancellationToken;

/// An operation in state `S`.
#[derive(Debug)]
pub(super) struct Op<S> {
    /// Of the backup or restore.
    pub name: String,
    pub opid: String,
    pub epoch: Option<Timestamp>,
    /// Ends the operation early: by command, by signal, or because the lock was lost.
    pub cancel: CancellationToken,
    pub state: S,
}

/// A command has come.
#[derive(Debug)]
pub(super) struct Received;
/// This node could do it.
#[derive(Debug)]
pub(super) struct Eligible {
    pub is_primary: bool,
}
/// This node is meant to do it.
#[derive(Debug)]
pub(super) struct Elected;
/// This node does it, and nobody else in its replica set.
#[derive(Debug)]
pub(super) struct Leased {
    lease: Box<Lease>,
}

/// Go on, or nothing to do here and why.
#[must_use]
#[derive(Debug)]
pub(super) enum Gate<T> {
    Go(T),
    StandDown(String),
}

impl<T> Gate<T> {
    /// The next step, if there is one.
    pub fn and_then<U>(self, step: impl FnOnce(T) -> Gate<U>) -> Gate<U> {
        match self {
            Self::Go(op) => step(op),
            Self::StandDown(why) => Gate::StandDown(why),
        }
    }

    /// The way on; `None`, with the reason in the log, where most agents have nothing to do.
    pub fn go(self) -> Option<T> {
        match self {
            Self::Go(op) => Some(op),
            Self::StandDown(why) => {
                tracing::debug!("nothing to do here: {why}");
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

impl Op<Received> {
    /// Is this node in a state to work at all?
    pub async fn check(self, node: &Node) -> Result<Gate<Op<Eligible>>> {
        let hello = node.hello().await?;
        let status = admin::repl_status(&node.client).await?;
        let me = status.me().context("replSetGetStatus names no member as itself")?;
        if hello.arbiter_only {
            return Ok(Gate::StandDown("this node is an arbiter".into()));
        }
        if !matches!(me.state, 1 | 2) {
            return Ok(Gate::StandDown(format!("this node's state is {}", me.state_str)));
        }
        if status.lag_secs() >= MAX_LAG_SECS {
            return Ok(Gate::StandDown(format!("this node is {} s behind the primary", status.lag_secs())));
        }
        let is_primary = hello.is_primary();
        Ok(Gate::Go(self.into_state(Eligible { is_primary })))
    }
}

impl Op<Eligible> {
    /// For work that only the primary can do.
    pub fn only_primary(self) -> Gate<Op<Elected>> {
        if self.state.is_primary {
            Gate::Go(self.into_state(Elected))
        } else {
            Gate::StandDown("the primary does this".into())
        }
    }

    /// For work that any agent can do: whoever takes the lock first.
    pub fn anybody(self) -> Op<Elected> {
        self.into_state(Elected)
    }

    /// For work with a nomination round, after it named this node.
    pub fn nominated(self) -> Op<Elected> {
        self.into_state(Elected)
    }
}

impl Op<Elected> {
    /// Takes the replica set's lock.
    pub async fn lease(self, node: &Node, kind: &str) -> Result<Gate<Op<Leased>>> {
        let header = node.lock_header(kind, &self.opid, self.epoch);
        Ok(match lease::take(&node.control, header, &self.cancel).await? {
            Taken::Yes(lease) => Gate::Go(self.into_state(Leased { lease })),
            Taken::No(why) => Gate::StandDown(why),
        })
    }
}

impl Op<Leased> {
    /// Runs `work` and gives the lock back, whatever the outcome: a panic goes on only after that.
    pub async fn run<T>(self, work: impl AsyncFnOnce(&Self) -> T) -> T {
        let outcome = AssertUnwindSafe(work(&self)).catch_unwind().await;
        self.state.lease.release().await;
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The operation was cancelled because the lock was lost.
    pub fn lost_its_lock(&self) -> bool {
        self.state.lease.is_lost()
    }
}

/// The living agents of a replica set, for messages: `a (PRIMARY), b (SECONDARY)`.
pub(super) fn roll_call(agents: &[AgentStat]) -> String {
    agents.iter().map(|a| format!("{} ({})", a.n, a.state)).collect::<Vec<_>>().join(", ")
}
