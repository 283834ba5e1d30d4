//! A command that has no document of its own: its lock comes and goes, and the log has its error.

use super::{Followed, goes_on, lines, withdrawn};
use crate::cmd::{
    act::give_up::{self, GivenUp, Sent, give_up},
    io::{
        context::Context,
        error::{CliError, Kind, Result},
    },
};
use crate::model::{
    agent::AgentStat,
    lock::{LockHeader, is_stale},
    log::{DONE, Severity},
};
use futures::StreamExt;
use std::{future::ready, pin::pin, time::Duration};
use tokio::time::{Instant, timeout};

/// How long agents have to take the command.
const TAKEN_WITHIN: Duration = Duration::from_secs(33);
/// The last lines of the log come a moment after the lock is gone; the original's agents may write none.
const LAST_WORD: Duration = Duration::from_secs(3);
/// Agents of ours always log how it ended, later only when the log could not be written for a while.
const LAST_WORD_OF_OURS: Duration = Duration::from_secs(15);
/// How long the control collections may be unreadable, as during an election, before the call gives up.
const UNREADABLE: Duration = Duration::from_secs(60);

/// A command that is followed until its lock has come and gone.
pub struct Lock<'a> {
    sent: Sent<'a>,
    /// When the command is withdrawn, if no agent has taken it.
    taken_until: Instant,
    /// Whether the agent that took it is one of ours; `None` until an agent takes it.
    is_ours: Option<bool>,
    /// The lock's heartbeat stood still at the last look.
    is_lost: bool,
    /// Since when the control collections can't be read.
    failing: Option<Instant>,
}

impl<'a> Lock<'a> {
    /// Of the command with this name and OPID.
    pub fn new(event: &'static str, opid: &'a str) -> Self {
        Self {
            sent: Sent { kind: event, opid },
            taken_until: Instant::now() + TAKEN_WITHIN,
            is_ours: None,
            is_lost: false,
            failing: None,
        }
    }

    /// The lock that the first agent took; `None` if no agent has taken one yet.
    async fn taker(&self, cx: &Context) -> Result<Option<LockHeader>> {
        // A server that does not answer may answer in a moment; the time limit below decides.
        if let Ok(Some(taker)) = cx.control.locks.taken_by(self.sent.opid).await {
            return Ok(Some(taker));
        }
        if Instant::now() < self.taken_until {
            return Ok(None);
        }
        match give_up(cx, self.sent).await {
            GivenUp::TooLate { taken } => Ok(Some(taken)),
            given_up => Err(give_up::nobody("the command", TAKEN_WITHIN, given_up)),
        }
    }

    /// How the operation ended, by its agent's last line in the log; `None` if that does not come.
    async fn last_word(&self, cx: &Context, patience: Duration) -> Option<Result<(), String>> {
        let ends = lines(cx, self.sent.kind, self.sent.opid).filter_map(|line| {
            ready(match line.s <= Severity::Error as i32 {
                true => Some(Err(line.msg)),
                false => (line.msg == DONE).then_some(Ok(())),
            })
        });
        timeout(patience, pin!(ends).next()).await.ok().flatten()
    }

    /// Words for where the user finds more.
    fn logs(&self) -> String {
        format!("`pbm logs -e {} -i {}", self.sent.kind, self.sent.opid)
    }
}

impl Followed for Lock<'_> {
    type End = ();

    async fn look(&mut self, cx: &Context) -> Result<Option<()>> {
        let is_ours = if let Some(is_ours) = self.is_ours {
            is_ours
        } else {
            let Some(taker) = self.taker(cx).await? else { return Ok(None) };
            let is_taker = |agent: &AgentStat| agent.rs == taker.replset && agent.n == taker.node;
            // Asked now: an agent that is stopped takes its line with it.
            let is_ours = cx.control.agents.all().await?.iter().any(|agent| is_taker(agent) && !agent.is_original());
            *self.is_ours.insert(is_ours)
        };
        let read = async { anyhow::Ok((cx.control.locks.all().await?, cx.control.time_of_last_call().await?)) };
        let (locks, now) = match read.await {
            Ok(read) => read,
            Err(error) if self.failing.get_or_insert_with(Instant::now).elapsed() >= UNREADABLE => {
                return Err(error.into());
            }
            Err(_) => return Ok(None),
        };
        self.failing = None;
        if let Some(lock) = locks.iter().find(|lock| lock.header.opid == self.sent.opid) {
            self.is_lost = is_stale(lock.hb, now);
            return Ok(None);
        }
        let patience = if is_ours && !self.is_lost { LAST_WORD_OF_OURS } else { LAST_WORD };
        let told = self.last_word(cx, patience).await;
        outcome(told, self.is_lost, is_ours, &format!("{} -s D` has the details", self.logs())).map(Some)
    }

    fn may_reap(&self) -> bool {
        self.is_ours.is_some() && self.failing.is_none()
    }

    fn over(&self, _: Duration) -> CliError {
        CliError::new(Kind::WaitOver, "it has not ended within the --wait-time; it goes on")
            .hint(format!("{}` shows how it goes on", self.logs()))
    }

    async fn interrupted(&self, cx: &Context) -> CliError {
        let goes_on = goes_on("it").hint(format!("{}` shows how it goes on", self.logs()));
        withdrawn(cx, self.sent, "the command", goes_on).await
    }
}

/// How it ended, by what was `told` of it, if anything.
fn outcome(told: Option<Result<(), String>>, lost: bool, ours: bool, details: &str) -> Result<()> {
    match told {
        Some(Err(error)) => Err(CliError::failed(error).hint(format!("{details}; remove the cause and repeat"))),
        None if lost => Err(CliError::failed("the agent that did it was lost: no heartbeat; a part may be deleted")
            .hint(
                "`pbm status -s cluster` shows which agent is missing; repeat the command, it goes on where it ended",
            )),
        None if ours => Err(CliError::failed("the agent that did it has not told how it ended: a part may be missing")
            .hint(format!("{details}; repeat the command, it goes on where it ended"))),
        Some(Ok(())) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_a_good_end_only_of_the_originals_agents() {
        let failed = |told, lost, ours| outcome(told, lost, ours, "").err().map(|error| error.source.to_string());
        for (lost, ours) in [(false, false), (false, true), (true, false), (true, true)] {
            assert_eq!(failed(Some(Ok(())), lost, ours), None);
            assert_eq!(failed(Some(Err("no room".into())), lost, ours), Some("no room".into()));
            let silent = failed(None, lost, ours);
            assert_eq!(silent.is_some(), lost || ours, "{lost} {ours}: {silent:?}");
        }
    }
}
