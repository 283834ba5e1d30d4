//! A resync. It has no document: the log has its end, [`SUCCEED`] or an error, and its warnings.

use super::{Followed, Lines, goes_on, lines, withdrawn};
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
use crate::model::{
    command::name,
    lock::is_stale,
    log::{SUCCEED, Severity},
};
use bson::oid::ObjectId;
use futures::StreamExt;
use std::{collections::HashSet, time::Duration};
use tokio::time::{Instant, timeout};

/// Neither a lock nor a line for so long: nobody does it.
const SILENCE: Duration = Duration::from_secs(33);
/// How often the lock is looked at.
const LOOK: Duration = Duration::from_secs(4);

/// Warnings that are shown; a storage may hold very many damaged files.
const SHOWN: usize = 50;

/// A resync that is followed by its log. Warnings, such as files that were left out, are shown to people as they come, and
/// returned at the end.
pub struct Resync<'a> {
    sent: Sent<'a>,
    lines: Lines,
    /// Warnings that were read; the log may be read from its beginning again.
    seen: HashSet<Option<ObjectId>>,
    warnings: Vec<String>,
    /// The number of warnings that are not shown.
    more: usize,
    /// The log says that it ended well.
    has_succeeded: bool,
    /// When an agent held the lock the last time.
    alive: Instant,
}

impl<'a> Resync<'a> {
    /// Of the command with this OPID.
    pub fn new(cx: &Context, opid: &'a str) -> Self {
        Self {
            sent: Sent { kind: name::RESYNC, opid },
            lines: lines(cx, name::RESYNC, opid),
            seen: HashSet::new(),
            warnings: Vec::new(),
            more: 0,
            has_succeeded: false,
            alive: Instant::now(),
        }
    }

    /// Reads the log up to its end; returns the warnings.
    async fn read(&mut self, cx: &Context) -> Result<Vec<String>> {
        while !self.has_succeeded {
            // The lines have no end.
            let Some(line) = self.lines.next().await else { std::future::pending().await };
            if line.msg == SUCCEED {
                self.has_succeeded = true;
            } else if line.s == Severity::Warning as i32 && self.seen.insert(line.id) {
                if self.warnings.len() < SHOWN {
                    cx.out.note(&format!("Warning: {}", line.msg));
                    self.warnings.push(line.msg);
                } else {
                    self.more += 1;
                }
            } else if line.s <= Severity::Error as i32 {
                return Err(CliError::failed(format!("the resync failed: {}", line.msg)).hint(
                    "remove the cause, or apply a corrected configuration; then run `pbm config --force-resync`",
                ));
            }
        }
        self.unlocked(cx).await?;
        if self.more > 0 {
            let more = format!("{} more; `pbm logs -t 0 -s W -i {}` shows all", self.more, self.sent.opid);
            cx.out.note(&format!("Warning: {more}"));
            self.warnings.push(more);
        }
        Ok(std::mem::take(&mut self.warnings))
    }

    /// Waits until the lock is given back, which comes after the last line: the next command should not meet it.
    async fn unlocked(&self, cx: &Context) -> Result<()> {
        loop {
            let mut waiter = cx.control.bell.waiter();
            let locks = checks::living_locks(&cx.control).await?;
            if !locks.iter().any(|lock| lock.header.opid == self.sent.opid) {
                return Ok(());
            }
            waiter.next().await;
        }
    }

    async fn is_alive(&self, cx: &Context) -> anyhow::Result<bool> {
        let now = cx.control.cluster_time().await?;
        let locks = cx.control.locks.all().await?;
        Ok(locks.iter().any(|lock| lock.header.opid == self.sent.opid && !is_stale(lock.hb, now)))
    }

    /// Words for where the user finds more.
    fn shown(&self) -> String {
        format!("`pbm logs -e resync -i {}` shows it", self.sent.opid)
    }
}

impl Followed for Resync<'_> {
    type End = Vec<String>;

    async fn look(&mut self, cx: &Context) -> Result<Option<Vec<String>>> {
        if let Ok(end) = timeout(LOOK, self.read(cx)).await {
            return end.map(Some);
        }
        if matches!(self.is_alive(cx).await, Ok(true)) {
            self.alive = Instant::now();
        }
        if self.alive.elapsed() <= SILENCE {
            return Ok(None);
        }
        if !matches!(cx.control.locks.was_taken(self.sent.opid).await, Ok(true)) {
            return match give_up(cx, self.sent).await {
                GivenUp::TooLate { .. } => Ok(None),
                given_up => Err(give_up::nobody("the resync", SILENCE, given_up)),
            };
        }
        Err(CliError::failed(format!("the resync gives no sign of life for {} s", SILENCE.as_secs()))
            .hint("see `pbm status -s cluster` for the agents and `pbm logs -e resync`"))
    }

    fn may_reap(&self) -> bool {
        true
    }

    fn over(&self, _: Duration) -> CliError {
        CliError::new(Kind::WaitOver, "the resync has not ended within the --wait-time; it goes on").hint(self.shown())
    }

    async fn interrupted(&self, cx: &Context) -> CliError {
        withdrawn(cx, self.sent, "the resync", goes_on("the resync").hint(self.shown())).await
    }
}
