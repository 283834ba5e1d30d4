//! An operation that has a document: a backup, a restore or a replay. A document whose heartbeat stands still, or a server
//! that does not answer, ends the waiting with an error.

use super::{
    Followed, READ, REAP,
    give_up::{self, GivenUp, Sent, give_up},
    goes_on,
};
use crate::cmd::io::{
    context::Context,
    error::{self, CliError, Kind, Result},
    progress::View,
};
use crate::control::{Look, Plane, Waited};
use crate::model::{
    backup::{BackupMeta, Progress},
    restore::RestoreMeta,
    status::Status,
};
use bson::Timestamp;
use std::{marker::PhantomData, time::Duration};
use tokio::time::{Instant, timeout};

/// Silence after which the server counts as gone: an election is over by then.
const SERVER_GONE: Duration = Duration::from_secs(60);
/// If the heartbeat has not changed for this time by our own clock, the leading agent is lost, even if no other agent could write
/// that into the document. It is longer than [`crate::model::lock::STALE_SECS`], after which the document gets the reason.
const HEART_STOPPED: Duration = Duration::from_secs(50);

/// Refusals of the server over this time are final: the user of the connection does not come back.
const SHUT_OUT: Duration = Duration::from_secs(3);

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

/// The reason of the whole operation, or the first one of a replica set.
fn first_reason<'a>(own: &'a Option<String>, parts: impl Iterator<Item = &'a Option<String>>) -> Option<&'a str> {
    std::iter::once(own).chain(parts).find_map(|reason| reason.as_deref().filter(|it| !it.is_empty()))
}

impl Watched for BackupMeta {
    const WHAT: &'static str = "backup";
    fn status(&self) -> Status {
        self.status
    }
    fn error(&self) -> Option<&str> {
        first_reason(&self.error, self.replsets.iter().map(|rs| &rs.error))
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
        first_reason(&self.error, self.replsets.iter().map(|rs| &rs.error))
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
    let what = format!("the {} {name}", T::WHAT);
    let interrupted = match read_within(cx, name, limit).await? {
        Waited::Found(found) => return Ok(found),
        Waited::TimedOut(()) => false,
        Waited::Cancelled => true,
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
        match read_within(cx, name, TAKEN).await? {
            Waited::Found(found) => return Ok(found),
            Waited::TimedOut(()) => {}
            Waited::Cancelled => return Err(give_up::interrupted(&what, given_up)),
        }
    }
    Err(give_up::nobody(&what, limit, given_up))
}

/// Waits for the operation's document. `Cancelled` means that the user interrupts the waiting.
async fn read_within<T: Watched>(cx: &Context, name: &str, limit: Duration) -> Result<Waited<T>> {
    // If the server fails, the wait ends at its limit, and the caller's error says more than the server's.
    let look = || async {
        let read = timeout(READ, T::docs(&cx.control).get(name)).await;
        Ok(Look::at(read.ok().and_then(|read| read.ok().flatten())))
    };
    tokio::select! {
        () = give_up::interruption() => Ok(Waited::Cancelled),
        read = cx.control.bell.within(limit, look) => Ok(read?.map_or_else(Waited::TimedOut, Waited::Found)),
    }
}

/// An operation that is followed by its document to its goal; what happens is shown.
pub struct Document<'a, T> {
    name: &'a str,
    goal: Goal,
    view: View,
    /// When the document was read the last time.
    heard: Instant,
    /// The newest heartbeat, and when it was read for the first time.
    beat: (Timestamp, Instant),
    /// Since when the server has not let the user in any more.
    refused: Option<Instant>,
    kind: PhantomData<T>,
}

impl<'a, T: Watched> Document<'a, T> {
    pub fn new(cx: &Context, name: &'a str, goal: Goal) -> Self {
        let now = Instant::now();
        let beat = (Timestamp { time: 0, increment: 0 }, now);
        Self { name, goal, view: View::new(cx.out, T::WHAT), heard: now, beat, refused: None, kind: PhantomData }
    }
}

impl<T: Watched> Followed for Document<'_, T> {
    type End = T;

    async fn look(&mut self, cx: &Context) -> Result<Option<T>> {
        let name = self.name;
        match timeout(READ, T::docs(&cx.control).get(name)).await {
            Ok(Ok(Some(document))) => {
                self.heard = Instant::now();
                self.refused = None;
                if document.hb() != self.beat.0 {
                    self.beat = (document.hb(), self.heard);
                }
                self.view.show(document.status(), &document.progress());
                if self.goal.met(document.status()) {
                    self.view.end();
                    judge(name, &document)?;
                    return Ok(Some(document));
                }
            }
            Ok(Ok(None)) => {
                return Err(CliError::failed(format!("the record of {} {name} has disappeared", T::WHAT))
                    .hint("somebody may have deleted it; see `pbm list`"));
            }
            Ok(Err(error)) if error::is_shut_out(&error) => {
                if self.refused.get_or_insert_with(Instant::now).elapsed() > SHUT_OUT {
                    return Err(shut_out::<T>(name, &error));
                }
            }
            Ok(Err(error)) if self.heard.elapsed() > SERVER_GONE => {
                return Err(gone::<T>(name, self.heard, &format!(" ({})", error::text(&error))));
            }
            Err(_) if self.heard.elapsed() > SERVER_GONE => return Err(gone::<T>(name, self.heard, "")),
            Ok(Err(_)) | Err(_) => {}
        }
        let silent = self.heard.duration_since(self.beat.1);
        if silent > HEART_STOPPED {
            return Err(CliError::failed(format!(
                "the agent that leads {} {name} was lost: no heartbeat for {} s",
                T::WHAT,
                silent.as_secs()
            ))
            .hint("`pbm status -s cluster` shows which agent is missing"));
        }
        Ok(None)
    }

    fn may_reap(&self) -> bool {
        self.heard.elapsed() < REAP
    }

    fn over(&self, limit: Duration) -> CliError {
        let (what, name, limit) = (T::WHAT, self.name, limit.as_secs());
        let text = format!("the {what} {name} has not ended within the --wait-time of {limit} s; it goes on");
        CliError::new(Kind::WaitOver, text).hint("`pbm status -s running` shows it")
    }

    async fn interrupted(&self, _: &Context) -> CliError {
        goes_on(&format!("the {} {}", T::WHAT, self.name)).hint(match T::WHAT {
            "backup" => "`pbm cancel-backup` stops it; `pbm status -s running` shows it",
            _ => "it can't be stopped halfway without harm; `pbm status -s running` shows it",
        })
    }
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

/// The server answered before and does not let the user in any more.
fn shut_out<T: Watched>(name: &str, error: &anyhow::Error) -> CliError {
    let what = T::WHAT;
    let because = match what {
        "restore" => {
            "the users are those of the backup now, and there it is missing or has another password or fewer roles"
        }
        _ => "somebody has changed it",
    };
    let text = format!(
        "the server does not let the user of --mongodb-uri in any more: {because}; {what} {name} goes on, and its end can't be seen \
         from here ({})",
        error::text(error)
    );
    CliError::new(Kind::Connection, text)
        .hint(format!("`pbm describe-{what} {name}` with the URI of another user shows how it ended"))
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
