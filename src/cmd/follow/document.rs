//! Follows an operation by its document, as far as somebody wants to wait.
//!
//! Nobody waits for ever: while we wait, operations of lost agents are ended by us too ([`reap`]), and a document whose
//! heartbeat stands still, or a server that does not answer, ends the waiting with an error.

use crate::cmd::{
    act::give_up::{self, GivenUp, Sent, give_up},
    io::{
        context::Context,
        error::{self, CliError, Kind, Result},
        progress::View,
    },
};
use crate::control::Plane;
use crate::model::{
    backup::{BackupMeta, Progress},
    restore::RestoreMeta,
    status::Status,
};
use crate::operation::reap;
use bson::Timestamp;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How often lost operations are looked for.
const REAP: Duration = Duration::from_secs(4);
/// The longest that one reading may take.
const READ: Duration = Duration::from_secs(15);
/// Silence after which the server counts as gone: an election is over by then.
const SERVER_GONE: Duration = Duration::from_secs(60);
/// A heartbeat that stands still for so long, by our own clock, is dead even if nobody could write that down. Longer
/// than [`crate::model::lock::STALE_SECS`], after which the document itself gets the reason.
const HEART_STOPPED: Duration = Duration::from_secs(50);

/// An operation's document.
pub trait Watched: Plane {
    /// What it is, for people.
    const WHAT: &'static str;
    /// As [`Self::WHAT`], by the event of its log lines.
    fn event(&self) -> &'static str {
        Self::WHAT
    }
    fn status(&self) -> Status;
    fn error(&self) -> Option<&str>;
    fn hb(&self) -> Timestamp;
    /// What the replica sets publish of their progress.
    fn progress(&self) -> Vec<&Progress>;
}

impl Watched for BackupMeta {
    const WHAT: &'static str = "backup";
    fn status(&self) -> Status {
        self.status
    }
    fn error(&self) -> Option<&str> {
        let of_member = || self.replsets.iter().find_map(|rs| rs.error.as_deref().filter(|e| !e.is_empty()));
        self.error.as_deref().filter(|error| !error.is_empty()).or_else(of_member)
    }
    fn hb(&self) -> Timestamp {
        self.hb
    }
    fn progress(&self) -> Vec<&Progress> {
        self.replsets.iter().filter_map(|rs| rs.progress.as_ref()).collect()
    }
}

impl Watched for RestoreMeta {
    const WHAT: &'static str = "restore";
    fn event(&self) -> &'static str {
        if self.start_pitr > 0 { "replay" } else { "restore" }
    }
    fn status(&self) -> Status {
        self.status
    }
    fn error(&self) -> Option<&str> {
        let of_member = || self.replsets.iter().find_map(|rs| rs.error.as_deref().filter(|e| !e.is_empty()));
        self.error.as_deref().filter(|error| !error.is_empty()).or_else(of_member)
    }
    fn hb(&self) -> Timestamp {
        self.hb
    }
    fn progress(&self) -> Vec<&Progress> {
        self.replsets.iter().filter_map(|rs| rs.progress.as_ref()).collect()
    }
}

/// How far to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The work has begun (or is over).
    Started,
    /// It is over.
    Ended,
}

impl Goal {
    fn met(self, status: Status) -> bool {
        match self {
            Self::Ended => status.is_final(),
            Self::Started => !matches!(status, Status::Init | Status::Ready | Status::Starting),
        }
    }
}

/// How long an agent that has taken the command may need to write the operation's document.
const TAKEN: Duration = Duration::from_secs(45);

/// Waits until the operation's document is there.
///
/// # Errors
/// The document does not appear within `limit`, or the user interrupts the waiting. In both cases the command was withdrawn,
/// if that was possible.
pub async fn appears<T: Watched>(cx: &Context, name: &str, sent: Sent<'_>, limit: Duration) -> Result<T> {
    let look = async {
        loop {
            let mut waiter = cx.control.bell.waiter();
            match T::docs(&cx.control).get(name).await {
                Ok(Some(found)) => return found,
                // A failing server is told by the time limit, with the better words.
                Ok(None) | Err(_) => waiter.next().await,
            }
        }
    };
    tokio::pin!(look);
    let what = format!("the {} {name}", T::WHAT);
    let interrupted = tokio::select! {
        found = &mut look => return Ok(found),
        () = sleep(limit) => false,
        () = give_up::interruption() => true,
    };
    let given_up = give_up(cx, sent).await;
    if let GivenUp::Withdrawn = given_up {
        // The leading agent may have written the document a moment before the withdrawal; then no agent takes part in the
        // operation.
        let _ = T::docs(&cx.control).set_status(name, Status::Error, "it was withdrawn before any agent took it").await;
    }
    if interrupted {
        return Err(give_up::interrupted(&what, given_up));
    }
    if let GivenUp::TooLate { .. } = given_up {
        tokio::select! {
            found = &mut look => return Ok(found),
            () = sleep(TAKEN) => {}
            () = give_up::interruption() => return Err(give_up::interrupted(&what, given_up)),
        }
    }
    Err(give_up::nobody(&what, limit, given_up))
}

/// Follows the operation to its goal; shows what happens.
///
/// # Errors
/// It ended badly, its agents are lost, the server is gone, `limit` is over, or SIGINT came.
pub async fn follow<T: Watched>(cx: &Context, name: &str, goal: Goal, limit: Option<Duration>) -> Result<T> {
    let document = interruptible(T::WHAT, name, limit, watch::<T>(cx, name, goal), || {
        let text = format!(
            "the {} {name} has not ended within the --wait-time of {} s; it goes on",
            T::WHAT,
            limit.unwrap_or_default().as_secs()
        );
        CliError::new(Kind::WaitOver, text).hint("`pbm status -s running` shows it")
    })
    .await??;
    judge(name, &document)?;
    Ok(document)
}

/// A bad end as an error.
fn judge<T: Watched>(name: &str, document: &T) -> Result<()> {
    let what = document.event();
    let reason = document.error().unwrap_or("no reason is recorded; see `pbm logs`");
    match document.status() {
        Status::Error => Err(CliError::failed(format!("{what} {name} failed: {reason}"))
            .hint(format!("`pbm logs -s D -t 0 -e {what}/{name}` has the details"))),
        Status::Canceled => Err(CliError::failed(format!("{what} {name} was cancelled"))),
        Status::PartlyDone => Err(CliError::failed(format!("{what} {name} succeeded on some nodes only: {reason}"))),
        _ => Ok(()),
    }
}

/// Returns when the limit is over; never, if there is none.
pub async fn runs_out(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

async fn interruptible<T>(
    what: &str,
    name: &str,
    limit: Option<Duration>,
    work: impl Future<Output = T>,
    over: impl FnOnce() -> CliError,
) -> Result<T> {
    tokio::select! {
        done = work => Ok(done),
        () = runs_out(limit) => Err(over()),
        () = crate::cmd::act::give_up::interruption() => {
            let error = CliError::new(Kind::Interrupted, format!("interrupted: the {what} {name} goes on without us"));
            Err(match what {
                "backup" => error.hint("`pbm cancel-backup` stops it; `pbm status -s running` shows it"),
                _ => error.hint("it can't be stopped halfway without harm; `pbm status -s running` shows it"),
            })
        }
    }
}

async fn watch<T: Watched>(cx: &Context, name: &str, goal: Goal) -> Result<T> {
    let mut view = View::new(cx.out, T::WHAT);
    let mut heard = Instant::now();
    let mut beat = (Timestamp { time: 0, increment: 0 }, Instant::now());
    let mut reap_at = Instant::now() + REAP;
    loop {
        let mut waiter = cx.control.bell.waiter();
        match timeout(READ, T::docs(&cx.control).get(name)).await {
            Ok(Ok(Some(document))) => {
                heard = Instant::now();
                if document.hb() != beat.0 {
                    beat = (document.hb(), heard);
                }
                view.show(document.status(), &document.progress());
                if goal.met(document.status()) {
                    view.end();
                    return Ok(document);
                }
            }
            Ok(Ok(None)) => {
                return Err(CliError::failed(format!("the record of {} {name} has disappeared", T::WHAT))
                    .hint("somebody may have deleted it; see `pbm list`"));
            }
            Ok(Err(error)) if heard.elapsed() > SERVER_GONE => {
                return Err(gone::<T>(name, heard, &format!(" ({})", error::text(&error))));
            }
            Err(_) if heard.elapsed() > SERVER_GONE => {
                return Err(gone::<T>(name, heard, ""));
            }
            Ok(Err(_)) | Err(_) => {}
        }
        if heard.duration_since(beat.1) > HEART_STOPPED {
            return Err(CliError::failed(format!(
                "the agent that leads {} {name} was lost: no heartbeat for {} s",
                T::WHAT,
                heard.duration_since(beat.1).as_secs()
            ))
            .hint("`pbm status -s cluster` shows which agent is missing"));
        }
        if Instant::now() >= reap_at && heard.elapsed() < REAP {
            // What it finds shows in the document; a failure shows at the next reading.
            let _ = timeout(READ, reap::end_all_lost(&cx.control)).await;
            reap_at = Instant::now() + REAP;
        }
        waiter.next().await;
    }
}

/// The server has been silent since `heard`.
fn gone<T: Watched>(name: &str, heard: Instant, why: &str) -> CliError {
    let silent = heard.elapsed().as_secs();
    let what = T::WHAT;
    let text = format!("the server has not answered for {silent} s{why}; what became of {what} {name} is not known");
    CliError::new(Kind::Connection, text).hint("when it is back, `pbm status` and `pbm list` tell")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals() {
        assert!(!Goal::Started.met(Status::Starting));
        assert!(Goal::Started.met(Status::Running) && Goal::Started.met(Status::Error));
        assert!(!Goal::Ended.met(Status::DumpDone));
        assert!(Goal::Ended.met(Status::Canceled) && Goal::Ended.met(Status::Done));
    }
}
