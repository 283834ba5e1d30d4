//! Follows a command that has no document of its own: its lock comes and goes, and the log has its error.

use crate::cmd::{
    act::give_up::{self, GivenUp, Sent, give_up},
    io::{
        context::Context,
        error::{CliError, Kind, Result},
    },
};
use crate::config::duration;
use crate::control::LogQuery;
use crate::model::{agent::AgentStat, lock::is_stale, log::Severity};
use crate::operation::reap;
use clap::Args;
use futures::StreamExt;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long agents have to take the command.
const TAKEN_WITHIN: Duration = Duration::from_secs(33);
/// The last lines of the log come a moment after the lock is gone; the original's agents may write none.
const LAST_WORD: Duration = Duration::from_secs(3);
/// Agents of ours always tell how it ended, later only when the log could not be written for a while.
const LAST_WORD_OF_OURS: Duration = Duration::from_secs(15);
/// How often lost agents are looked for.
const REAP: Duration = Duration::from_secs(4);
/// The agents' word for a good end.
const DONE: &str = "done";

/// Whether and how long to wait for the end of what an agent does.
#[derive(Debug, Default, Args)]
pub struct Waiting {
    /// Wait for the end
    #[arg(short, long)]
    pub wait: bool,
    /// Wait no longer than this, such as 30m or 1h30m
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    wait_time: Option<Duration>,
}

impl Waiting {
    /// For ever.
    pub const FOREVER: Self = Self { wait: true, wait_time: None };

    /// How long to wait at most.
    pub fn limit(&self) -> Option<Duration> {
        limit(self.wait_time)
    }
}

/// What counts of a `--wait-time`: as in the original nothing up to a second.
pub fn limit(given: Option<Duration>) -> Option<Duration> {
    given.filter(|limit| *limit > Duration::from_secs(1))
}

/// Waits until the lock of the operation with this OPID has come and gone.
///
/// # Errors
/// It failed, nobody does it, its agent is lost, `limit` is over, or SIGINT came.
pub async fn follow(cx: &Context, event: &'static str, opid: &str, limit: Option<Duration>) -> Result<()> {
    let hint = format!("`pbm logs -e {event} -i {opid}` shows how it goes on");
    tokio::select! {
        ended = watch(cx, event, opid) => ended,
        () = super::document::runs_out(limit) => {
            Err(CliError::new(Kind::WaitOver, "it has not ended within the --wait-time; it goes on").hint(hint))
        }
        () = give_up::interruption() => {
            Err(match give_up(cx, Sent { kind: event, opid }).await {
                GivenUp::TooLate { .. } => {
                    CliError::new(Kind::Interrupted, "interrupted: it goes on without us").hint(hint)
                }
                given_up => give_up::interrupted("the command", given_up),
            })
        }
    }
}

/// How long the control collections may be unreadable, as during an election, before the call gives up.
const UNREADABLE: Duration = Duration::from_secs(60);

async fn watch(cx: &Context, event: &'static str, opid: &str) -> Result<()> {
    let until = Instant::now() + TAKEN_WITHIN;
    let mut waiter = cx.control.bell.waiter();
    let taker = loop {
        // A server that does not answer may answer in a moment; the time limit below decides.
        if let Ok(Some(taker)) = cx.control.locks.taken_by(opid).await {
            break taker;
        }
        if Instant::now() >= until {
            match give_up(cx, Sent { kind: event, opid }).await {
                GivenUp::TooLate { taken } => break taken,
                given_up => return Err(give_up::nobody("the command", TAKEN_WITHIN, given_up)),
            }
        }
        waiter.next().await;
    };
    // Asked now: an agent that is stopped takes its line with it.
    let is_taker = |agent: &AgentStat| agent.rs == taker.replset && agent.n == taker.node;
    let ours = cx.control.agents.all().await?.iter().any(|agent| is_taker(agent) && !agent.is_original());
    let mut reap_at = Instant::now() + REAP;
    let (mut lost, mut failing) = (false, None);
    loop {
        let read = async { anyhow::Ok((cx.control.locks.all().await?, cx.control.time_of_last_call().await?)) };
        let (locks, now) = match read.await {
            Ok(read) => read,
            Err(error) if failing.get_or_insert_with(Instant::now).elapsed() >= UNREADABLE => return Err(error.into()),
            Err(_) => {
                waiter.next().await;
                continue;
            }
        };
        failing = None;
        let Some(lock) = locks.iter().find(|lock| lock.header.opid == opid) else { break };
        lost = is_stale(lock.hb, now);
        if Instant::now() >= reap_at {
            // A failure shows at the next reading.
            let _ = reap::end_all_lost(&cx.control).await;
            reap_at = Instant::now() + REAP;
        }
        waiter.next().await;
    }
    let patience = if ours && !lost { LAST_WORD_OF_OURS } else { LAST_WORD };
    let told = timeout(patience, last_word(cx, event, opid)).await.ok();
    let details = format!("`pbm logs -e {event} -i {opid} -s D` has the details");
    outcome(told, lost, ours, &details)
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

/// How the operation ended, as its agent tells it.
async fn last_word(cx: &Context, event: &str, opid: &str) -> Result<(), String> {
    let query = LogQuery {
        opid: Some(opid.to_owned()),
        event: Some(event.to_owned()),
        severity: Some(Severity::Info as i32),
        ..LogQuery::default()
    };
    let mut waiter = cx.control.bell.waiter();
    loop {
        if let Ok(stream) = cx.control.logs.follow(&query).await {
            let mut stream = std::pin::pin!(stream);
            while let Some(Ok(line)) = stream.next().await {
                if line.s <= Severity::Error as i32 {
                    return Err(line.msg);
                }
                if line.msg == DONE {
                    return Ok(());
                }
            }
        }
        waiter.next().await;
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
