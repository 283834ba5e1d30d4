//! Follows a command that has no document of its own: its lock comes and goes, and the log has its error.

use super::{
    context::Context,
    error::{CliError, Kind, Result},
};
use crate::config::duration;
use crate::control::LogQuery;
use crate::model::{lock::is_stale, log::Severity};
use crate::upkeep::reap;
use clap::Args;
use futures::StreamExt;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long agents have to take the command.
const TAKEN_WITHIN: Duration = Duration::from_secs(33);
/// The last lines of the log come a moment after the lock is gone; the original's agents may write none.
const LAST_WORD: Duration = Duration::from_secs(3);
/// How often lost agents are looked for.
const REAP: Duration = Duration::from_secs(4);
/// The agents' word for a good end.
const DONE: &str = "done";

/// Whether and how long to wait for the end of what an agent does.
#[derive(Debug, Args)]
pub struct Waiting {
    /// Wait for the end
    #[arg(short, long)]
    pub wait: bool,
    /// Wait no longer than this, such as 30m or 1h30m
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, requires = "wait")]
    pub wait_time: Option<Duration>,
}

/// Waits until the lock of the operation with this OPID has come and gone.
///
/// # Errors
/// It failed, nobody does it, its agent is lost, `limit` is over, or SIGINT came.
pub async fn follow(cx: &Context, event: &str, opid: &str, limit: Option<Duration>) -> Result<()> {
    let hint = format!("`pbm logs -e {event} -i {opid}` shows how it goes on");
    let limited = async {
        match limit {
            Some(limit) => sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = watch(cx, event, opid) => ended,
        () = limited => {
            Err(CliError::new(Kind::WaitOver, "it has not ended within the --wait-time; it goes on").hint(hint))
        }
        _ = tokio::signal::ctrl_c() => {
            Err(CliError::new(Kind::Interrupted, "interrupted: it goes on without us").hint(hint))
        }
    }
}

async fn watch(cx: &Context, event: &str, opid: &str) -> Result<()> {
    let until = Instant::now() + TAKEN_WITHIN;
    let mut waiter = cx.control.bell.waiter();
    while !cx.control.locks.was_taken(opid).await? {
        if Instant::now() >= until {
            return Err(CliError::failed(format!("no agent took the command within {} s", TAKEN_WITHIN.as_secs()))
                .hint("see `pbm status -s cluster` for the agents and `pbm logs -s D` for what they say"));
        }
        waiter.next().await;
    }
    let mut reap_at = Instant::now() + REAP;
    let mut lost = false;
    loop {
        let locks = cx.control.locks.all().await?;
        let Some(lock) = locks.iter().find(|lock| lock.header.opid == opid) else { break };
        lost = is_stale(lock.hb, cx.control.time_of_last_call().await?);
        if Instant::now() >= reap_at {
            // A failure shows at the next reading.
            let _ = reap::end_all_lost(&cx.control).await;
            reap_at = Instant::now() + REAP;
        }
        waiter.next().await;
    }
    match timeout(LAST_WORD, last_word(cx, event, opid)).await {
        Ok(Some(error)) => Err(CliError::failed(error)
            .hint(format!("`pbm logs -e {event} -i {opid} -s D` has the details; remove the cause and repeat"))),
        Err(_) if lost => Err(CliError::failed("the agent that did it was lost: no heartbeat; a part may be deleted")
            .hint(
                "`pbm status -s cluster` shows which agent is missing; repeat the command, it goes on where it ended",
            )),
        Ok(None) | Err(_) => Ok(()),
    }
}

/// The error of the operation, if it ended with one.
async fn last_word(cx: &Context, event: &str, opid: &str) -> Option<String> {
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
                    return Some(line.msg);
                }
                if line.msg == DONE {
                    return None;
                }
            }
        }
        waiter.next().await;
    }
}
