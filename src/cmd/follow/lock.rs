//! A command that has no document of its own. An agent takes a lock for it and gives the lock back at the end. The log has
//! the result, and the warnings of a resync.

use super::{
    Followed,
    give_up::{self, GivenUp, Sent, give_up},
    goes_on,
};
use crate::cmd::io::{
    context::Context,
    error::{CliError, Kind, Result},
};
use crate::control::LogQuery;
use crate::model::{
    agent::AgentStat,
    command::name,
    lock::{LockHeader, is_stale},
    log::{DONE, LogEntry, SUCCEED, Severity},
};
use bson::oid::ObjectId;
use futures::{Stream, StreamExt, stream};
use std::{collections::HashSet, future::ready, pin::Pin, time::Duration};
use tokio::time::{Instant, timeout_at};

/// How long agents have to take the command.
const TAKEN_WITHIN: Duration = Duration::from_secs(33);
/// How long after the end of the lock the last lines of the log may come. Agents of the original may write none.
const LAST_WORD: Duration = Duration::from_secs(3);
/// The same for our agents, which always log how the command ended. The lines come late if the log could not be written for
/// a while.
const LAST_WORD_OF_OURS: Duration = Duration::from_secs(15);
/// How long the control collections may be unreadable, as during an election, before the call gives up.
const UNREADABLE: Duration = Duration::from_secs(60);
/// How long one look waits for new warnings while the lock is held.
const GLANCE: Duration = Duration::from_millis(200);
/// The longest time between two attempts to read the log.
const LOG_AGAIN: Duration = Duration::from_millis(500);
/// Warnings that are shown. A storage may hold very many damaged files.
const SHOWN: usize = 50;

/// A command that is followed until its lock has come and gone. Its end returns the warnings, which a resync has.
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
    log: Log,
}

impl<'a> Lock<'a> {
    /// Follows the command with this name and OPID.
    pub fn new(cx: &Context, event: &'static str, opid: &'a str) -> Self {
        Self {
            sent: Sent { kind: event, opid },
            taken_until: Instant::now() + TAKEN_WITHIN,
            is_ours: None,
            is_lost: false,
            failing: None,
            log: Log { lines: lines(cx, event, opid), end: None, warnings: Warnings::default() },
        }
    }

    /// Follows the resync with this OPID. Its warnings, such as files that were left out, are shown to people as they come.
    pub fn resync(cx: &Context, opid: &'a str) -> Self {
        Self::new(cx, name::RESYNC, opid)
    }

    fn is_resync(&self) -> bool {
        self.sent.kind == name::RESYNC
    }

    /// What it is, in messages: with all its words, and after it was named.
    fn what(&self) -> (&'static str, &'static str) {
        if self.is_resync() { ("the resync", "the resync") } else { ("the command", "it") }
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
            given_up => Err(give_up::nobody(self.what().0, TAKEN_WITHIN, given_up)),
        }
    }

    /// Words for where the user finds more.
    fn logs(&self) -> String {
        format!("`pbm logs -e {} -i {}", self.sent.kind, self.sent.opid)
    }
}

impl Followed for Lock<'_> {
    type End = Vec<String>;

    async fn look(&mut self, cx: &Context) -> Result<Option<Vec<String>>> {
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
            if self.is_resync() {
                self.log.read(cx, GLANCE).await;
            }
            return Ok(None);
        }
        // Every agent logs how a resync ends.
        let has_last_word = is_ours || self.is_resync();
        self.log.read(cx, if has_last_word && !self.is_lost { LAST_WORD_OF_OURS } else { LAST_WORD }).await;
        let told = self.log.end.take();
        if let Some(Err(why)) = told.as_ref().filter(|_| self.is_resync()) {
            let next = "remove the cause, or apply a corrected configuration; then run `pbm config --force-resync`";
            return Err(CliError::failed(format!("the resync failed: {why}")).hint(next));
        }
        outcome(told, self.is_lost, has_last_word, &format!("{} -s D` has the details", self.logs()))?;
        Ok(Some(self.log.warnings.all(cx, &self.logs())))
    }

    fn may_reap(&self) -> bool {
        self.is_ours.is_some() && self.failing.is_none()
    }

    fn over(&self, _: Duration) -> CliError {
        CliError::new(Kind::WaitOver, format!("{} has not ended within the --wait-time; it goes on", self.what().1))
            .hint(format!("{}` shows how it goes on", self.logs()))
    }

    async fn interrupted(&self, cx: &Context) -> CliError {
        match give_up(cx, self.sent).await {
            GivenUp::TooLate { .. } => goes_on(self.what().1).hint(format!("{}` shows how it goes on", self.logs())),
            given_up => give_up::interrupted(self.what().0, given_up),
        }
    }
}

/// What the log says about the command.
struct Log {
    lines: Lines,
    /// How it ended: well, or with an error.
    end: Option<Result<(), String>>,
    warnings: Warnings,
}

impl Log {
    /// Reads until the log says how the command ended, but not longer than `patience`.
    async fn read(&mut self, cx: &Context, patience: Duration) {
        let until = Instant::now() + patience;
        while self.end.is_none() {
            let Ok(Some(line)) = timeout_at(until, self.lines.next()).await else { return };
            if line.s <= Severity::Error as i32 {
                self.end = Some(Err(line.msg));
            } else if line.msg == DONE || line.msg == SUCCEED {
                self.end = Some(Ok(()));
            } else if line.s == Severity::Warning as i32 && line.e == name::RESYNC {
                self.warnings.add(cx, line);
            }
        }
    }
}

/// The warnings of a resync.
#[derive(Default)]
struct Warnings {
    /// Those that were read. After an error, the log is read from its beginning again.
    seen: HashSet<Option<ObjectId>>,
    shown: Vec<String>,
    /// The number of warnings that are not shown.
    more: usize,
}

impl Warnings {
    fn add(&mut self, cx: &Context, line: LogEntry) {
        if !self.seen.insert(line.id) {
            return;
        }
        if self.shown.len() < SHOWN {
            cx.out.note(&format!("Warning: {}", line.msg));
            self.shown.push(line.msg);
        } else {
            self.more += 1;
        }
    }

    /// Returns all warnings that are shown, at the end.
    fn all(&mut self, cx: &Context, logs: &str) -> Vec<String> {
        if self.more > 0 {
            let more = format!("{} more; {logs} -t 0 -s W` shows all", self.more);
            cx.out.note(&format!("Warning: {more}"));
            self.shown.push(more);
        }
        std::mem::take(&mut self.shown)
    }
}

/// Lines of an operation's log.
type Lines = Pin<Box<dyn Stream<Item = LogEntry>>>;

/// The lines that the operation writes to the log, at least as severe as [`Severity::Info`], without end. After an error
/// the lines come from the first one on again.
fn lines(cx: &Context, event: &str, opid: &str) -> Lines {
    let (logs, bell) = (cx.control.logs.clone(), cx.control.bell.clone());
    let query = LogQuery {
        opid: Some(opid.to_owned()),
        event: Some(event.to_owned()),
        severity: Some(Severity::Info as i32),
        ..LogQuery::default()
    };
    let read = move |is_first: bool| {
        let (logs, bell, query) = (logs.clone(), bell.clone(), query.clone());
        async move {
            if !is_first {
                bell.waiter().next_within(LOG_AGAIN).await;
            }
            let lines = stream::iter(logs.follow(&query).await.ok()).flatten();
            lines.take_while(|line| ready(line.is_ok())).filter_map(|line| ready(line.ok()))
        }
    };
    Box::pin(stream::once(ready(true)).chain(stream::repeat(false)).then(read).flatten())
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
