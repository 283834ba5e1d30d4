//! The condition of a member, as the member itself reports it: whether it may be read for a backup now, and whether its replica
//! set has a majority.
//!
//! An agent asks its node for each update of its document in `pbmAgents`. It asks again right before it begins to work, because
//! the document may be some seconds old.

use super::{lockable, suits};
use crate::model::agent::{AgentStat, Files, Locking};
use crate::mongo::{
    self, Hello, Server,
    admin::{self, ReplStatus},
    connect::connect_member,
    majority,
};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The condition of a member at one time.
#[derive(Debug, Clone)]
pub struct Condition {
    hello: Hello,
    status: ReplStatus,
    /// Why the member may not be read, if no other field of the agent's document shows it: it has no indexes, or is locked.
    unfit: Option<&'static str>,
    /// Why no majority confirms writes.
    no_majority: Option<String>,
    /// What it would mean to lock the member. `None` if the user may not ask.
    locking: Option<Locking>,
    /// The clock of this host minus that of the member, in milliseconds.
    clock: Option<i64>,
}

/// Asks the member.
///
/// # Errors
/// The member does not answer. It is no error if the user lacks a privilege for one of the calls.
pub async fn of(member: &dyn Server) -> Result<Condition> {
    let (sent, begun) = (jiff::Timestamp::now().as_millisecond(), Instant::now());
    let hello = mongo::hello(member).await?;
    let middle = sent + i64::try_from(begun.elapsed().as_millis() / 2).unwrap_or(0);
    let clock = hello.local_time.map(|there| middle - there.timestamp_millis());
    let status = admin::repl_status(member).await?;
    let config = admin::set_config(member).await.ok();
    let no_majority = config.as_ref().and_then(|config| majority::missing(&status, config));
    let locking = config.as_ref().map(|config| lockable::locking(&status, config));
    // An arbiter holds no data that could be locked, and refuses this command.
    let locked = !hello.arbiter_only && admin::is_fsync_locked(member).await.unwrap_or(false);
    let unfit = suits::unreadable(hello.build_indexes == Some(false), locked);
    Ok(Condition { hello, status, unfit, no_majority, locking, clock })
}

/// Does the same as [`of`], over a new connection to the member at `host`.
///
/// # Errors
/// The member does not answer within `patience`, or can't be asked.
pub async fn at(uri: &str, host: &str, app: &'static str, patience: Duration) -> Result<Condition> {
    let client = connect_member(uri, host, app, patience).await?;
    match timeout(patience, of(&client)).await {
        Ok(condition) => condition,
        Err(_) => bail!("{host} has not answered within {} ms", patience.as_millis()),
    }
}

impl Condition {
    /// Writes the condition into an agent's document.
    pub fn enter(&self, stat: &mut AgentStat) {
        stat.hdn = self.hello.hidden;
        stat.psv = self.hello.passive;
        stat.arb = self.hello.arbiter_only;
        stat.delay = i32::try_from(self.hello.delay_secs()).unwrap_or(i32::MAX);
        stat.repl_lag = i32::try_from(self.status.lag_secs()).unwrap_or(i32::MAX);
        stat.unfit = self.unfit.unwrap_or_default().to_owned();
        stat.no_majority = self.no_majority.clone().unwrap_or_default();
        stat.clock = self.clock;
        stat.lock.clone_from(&self.locking);
        if let Some(me) = self.status.me() {
            stat.s = me.state;
            stat.state.clone_from(&me.state_str);
        }
    }

    /// Returns the `host:port` under which the replica set lists this member, or an empty text if it does not.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.hello.me
    }

    /// Returns why this member may not be read for a backup now, or `None` if it may.
    #[must_use]
    pub fn unfit(&self) -> Option<String> {
        let mut stat = AgentStat::unknown(&self.status.set, &self.hello.me);
        self.enter(&mut stat);
        suits::unfit_node(&stat)
    }

    /// Why this member may not be locked for its data files, `files`; `None` if it may. `allow_only`: also if it is the only one
    /// with data.
    #[must_use]
    pub fn unfit_for_files(&self, files: Files, allow_only: bool) -> Option<String> {
        // The other parts of the line concern what the agent needs besides its node.
        let mut stat = AgentStat { own: "this".into(), ..AgentStat::healthy(&self.status.set, &self.hello.me, 2) };
        self.enter(&mut stat);
        stat.files = Some(files);
        suits::unfit_for_files(&stat, allow_only)
    }

    /// Returns why no majority of the member's replica set confirms writes, or `None` if one does.
    #[must_use]
    pub fn no_majority(&self) -> Option<&str> {
        self.no_majority.as_deref()
    }
}
