//! Follows a resync. It has no document: its end is told by the log (`succeed`, or an error line).

use crate::cmd::{
    act::{
        checks,
        give_up::{self, GivenUp, Sent, give_up},
    },
    io::{
        context::Context,
        error::{CliError, Kind, Result},
    },
};
use crate::control::LogQuery;
use crate::model::{command::name, lock::is_stale, log::Severity};
use crate::operation::reap;
use futures::StreamExt;
use std::{collections::HashSet, time::Duration};
use tokio::time::{Instant, sleep};

/// The original's word for a good end.
const SUCCEED: &str = "succeed";
/// Neither a lock nor a line for so long: nobody does it.
const SILENCE: Duration = Duration::from_secs(33);
/// How often the lock is looked at.
const LOOK: Duration = Duration::from_secs(4);

/// Warnings that are told; a storage may hold very many damaged files.
const TOLD: usize = 50;

/// Waits for the end of the resync with this OPID. Warnings, such as files that were left out, are shown to people as
/// they come, and given at the end.
///
/// # Errors
/// It failed, nobody does it, `limit` is over, or SIGINT came.
pub async fn follow(cx: &Context, opid: &str, limit: Option<Duration>) -> Result<Vec<String>> {
    tokio::select! {
        ended = lines(cx, opid) => ended,
        silent = life(cx, opid) => Err(silent),
        () = super::document::runs_out(limit) => Err(CliError::new(Kind::WaitOver, "the resync has not ended within the --wait-time; it goes on")
            .hint(format!("`pbm logs -e resync -i {opid}` shows it"))),
        () = give_up::interruption() => Err(match give_up(cx, Sent { kind: name::RESYNC, opid }).await {
            GivenUp::TooLate { .. } => CliError::new(Kind::Interrupted, "interrupted: the resync goes on without us")
                .hint(format!("`pbm logs -e resync -i {opid}` shows it")),
            given_up => give_up::interrupted("the resync", given_up),
        }),
    }
}

/// Reads the log until it tells the end.
async fn lines(cx: &Context, opid: &str) -> Result<Vec<String>> {
    let query = LogQuery {
        opid: Some(opid.to_owned()),
        event: Some(name::RESYNC.to_owned()),
        severity: Some(Severity::Info as i32),
        ..LogQuery::default()
    };
    let (mut seen, mut told, mut more) = (HashSet::new(), Vec::new(), 0);
    loop {
        let mut waiter = cx.control.bell.waiter();
        if let Ok(stream) = cx.control.logs.follow(&query).await {
            let mut stream = std::pin::pin!(stream);
            // An error, as an end, means a new cursor, which begins with the first line again.
            while let Some(Ok(line)) = stream.next().await {
                if line.msg == SUCCEED {
                    unlocked(cx, opid).await?;
                    if more > 0 {
                        told.push(format!("{more} more; `pbm logs -t 0 -s W -i {opid}` shows all"));
                        cx.out.note(&format!("Warning: {}", told[told.len() - 1]));
                    }
                    return Ok(told);
                }
                if line.s == Severity::Warning as i32 && seen.insert(line.id) {
                    if told.len() < TOLD {
                        cx.out.note(&format!("Warning: {}", line.msg));
                        told.push(line.msg);
                    } else {
                        more += 1;
                    }
                    continue;
                }
                if line.s <= Severity::Error as i32 {
                    return Err(CliError::failed(format!("the resync failed: {}", line.msg)).hint(
                        "remove the cause, or apply a corrected configuration; then run `pbm config --force-resync`",
                    ));
                }
            }
        }
        waiter.next_within(Duration::from_millis(500)).await;
    }
}

/// Waits until the lock is given back, which comes after the last line: the next command should not meet it.
async fn unlocked(cx: &Context, opid: &str) -> Result<()> {
    loop {
        let mut waiter = cx.control.bell.waiter();
        if !checks::living_locks(&cx.control).await?.iter().any(|lock| lock.header.opid == opid) {
            return Ok(());
        }
        waiter.next().await;
    }
}

/// Returns when there has been no sign of life for long.
async fn life(cx: &Context, opid: &str) -> CliError {
    let mut seen = Instant::now();
    loop {
        sleep(LOOK).await;
        // What it ends is seen below; a failure too.
        let _ = reap::end_all_lost(&cx.control).await;
        let alive = async {
            let now = cx.control.cluster_time().await?;
            let locks = cx.control.locks.all().await?;
            anyhow::Ok(locks.iter().any(|lock| lock.header.opid == opid && !is_stale(lock.hb, now)))
        };
        if matches!(alive.await, Ok(true)) {
            seen = Instant::now();
        }
        if seen.elapsed() > SILENCE {
            if !matches!(cx.control.locks.was_taken(opid).await, Ok(true)) {
                match give_up(cx, Sent { kind: name::RESYNC, opid }).await {
                    GivenUp::TooLate { .. } => continue,
                    given_up => return give_up::nobody("the resync", SILENCE, given_up),
                }
            }
            return CliError::failed(format!("the resync gives no sign of life for {} s", SILENCE.as_secs()))
                .hint("see `pbm status -s cluster` for the agents and `pbm logs -e resync`");
        }
    }
}
