//! The process that holds the lock of a mongod, so that the lock ends whatever happens to the agent.
//!
//! The lock of `fsync` belongs to no connection: it stays until somebody takes it away. So the agent does not lock its node
//! itself. It starts this program, which locks the node, and unlocks it
//!
//! - when the agent asks for it,
//! - when its input ends, because the agent gave the work up or was killed,
//! - when the replica set has had no primary for two heartbeats, because a locked member can't vote,
//! - when the time limit is reached.
//!
//! It takes no other orders: signals that end the agent, such as Ctrl-C in a terminal, don't end it.

use crate::mongo::{self, Purpose, admin};
use anyhow::{Context, Result, bail};
use bson::{Bson, doc};
use mongodb::Client;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    io::Write,
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin},
    signal::unix::{SignalKind, signal},
    time::sleep,
};

/// The name of this program in the arguments of the executable. No help mentions it.
pub const NAME: &str = "hold-lock";

/// How often it is looked whether there is a primary.
const LOOK: Duration = Duration::from_millis(250);
/// How long a node may leave questions without an answer.
const SILENCE: Duration = Duration::from_secs(10);
/// Time between two attempts to unlock, and how long they are made.
const AGAIN: Duration = Duration::from_millis(200);
const ATTEMPTS: Duration = Duration::from_secs(600);
/// The usual time between two heartbeats of a replica set.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What the agent writes first, as one line of JSON.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    /// Leads to the node.
    pub uri: String,
    /// How long the server may take to lock.
    pub within_ms: u64,
    /// How long the lock may be held.
    pub limit_ms: u64,
}

/// What the agent writes to have the lock ended.
pub(super) const RELEASE: &str = "release";

/// What this program reports, each as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    /// The files don't change from now on.
    Locked,
    /// The agent has asked for the end, and until then nothing changed.
    Released {
        /// Milliseconds since the lock was asked for.
        held_ms: u64,
    },
    /// There is no lock any more, or never was one; this is why.
    Ended(String),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => f.write_str("locked"),
            Self::Released { held_ms } => write!(f, "released {held_ms}"),
            Self::Ended(why) => write!(f, "ended {}", why.replace('\n', " ")),
        }
    }
}

impl FromStr for Report {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("locked", "") => Ok(Self::Locked),
            ("released", held) => Ok(Self::Released { held_ms: held.parse().context("read the time of a lock")? }),
            ("ended", why) => Ok(Self::Ended(why.to_owned())),
            _ => bail!("the process that holds the lock wrote '{line}'"),
        }
    }
}

/// Runs the program.
#[must_use]
pub fn run() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&Report::Ended(format!("start the async runtime: {error}")));
            return ExitCode::FAILURE;
        }
    };
    let report = runtime.block_on(hold()).unwrap_or_else(|error| Report::Ended(admin::explain(&error)));
    say(&report);
    // A thread of the runtime still waits for the end of the input.
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

/// Reports to the agent, if it still listens.
fn say(report: &Report) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{report}").and_then(|()| out.flush());
}

async fn hold() -> Result<Report> {
    ignore_signals()?;
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let order = input.next_line().await.context("read the order")?.context("there is no order")?;
    let order: Order = serde_json::from_str(&order).context("read the order")?;
    let client = mongo::connect(&order.uri, Purpose::Node { app: "pbm lock" }).await?;
    let patience = primary_patience(&client).await?;

    let begun = Instant::now();
    let mut locking = tokio::spawn(lock(client.clone()));
    let given_up = tokio::select! {
        locked = &mut locking => {
            locked.context("lock the node")??;
            None
        }
        () = sleep(Duration::from_millis(order.within_ms)) => {
            Some(format!("the server did not lock within {} ms: something that runs there does not let it", order.within_ms))
        }
        why = asked(&mut input) => Some(why.unwrap_or_else(|| "it was given up before the server had locked".to_owned())),
    };
    if let Some(why) = given_up {
        // The server may still lock. The agent need not wait for that.
        say(&Report::Ended(why.clone()));
        if let Ok(Ok(())) = locking.await {
            unlock(&client).await?;
        }
        return Ok(Report::Ended(why));
    }
    say(&Report::Locked);
    let limit = Duration::from_millis(order.limit_ms);
    let why = tokio::select! {
        why = asked(&mut input) => why,
        () = sleep(limit.saturating_sub(begun.elapsed())) => Some(format!(
            "the lock was held for {} s, which backup.physical.maxLockSec does not allow to exceed",
            limit.as_secs()
        )),
        why = without_primary(&client, patience) => Some(why),
    };
    let was_locked = unlock(&client).await?;
    Ok(match why {
        Some(why) => Report::Ended(why),
        None if !was_locked => Report::Ended("somebody else unlocked the node, or it was restarted".to_owned()),
        None => Report::Released { held_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) },
    })
}

/// A service manager sends its signals to all processes of the agent. The agent then ends the backup, and with it the input.
fn ignore_signals() -> Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::pipe()] {
        let mut signals = signal(kind).context("listen for signals")?;
        tokio::spawn(async move { while signals.recv().await.is_some() {} });
    }
    Ok(())
}

/// Returns when the lock is to end: `None` if the agent asked for that, otherwise the reason.
async fn asked(input: &mut Lines<BufReader<Stdin>>) -> Option<String> {
    match input.next_line().await {
        Ok(Some(line)) if line == RELEASE => None,
        _ => Some("the agent gave it up, or was killed".to_owned()),
    }
}

/// Locks the node.
async fn lock(client: Client) -> Result<()> {
    let answer = client.database("admin").run_command(doc! { "fsync": 1, "lock": true }).await;
    let answer = answer.context("lock the node (fsync)")?;
    let count = match answer.get("lockCount") {
        Some(Bson::Int64(count)) => *count,
        Some(Bson::Int32(count)) => i64::from(*count),
        _ => 1,
    };
    if count > 1 {
        unlock(&client).await?;
        bail!("somebody else has locked this node, too; see who runs db.fsyncLock()");
    }
    Ok(())
}

/// Unlocks the node. Returns `false` if it was not locked.
async fn unlock(client: &Client) -> Result<bool> {
    let until = Instant::now() + ATTEMPTS;
    loop {
        match admin::fsync_unlock(client).await {
            Ok(was_locked) => return Ok(was_locked),
            Err(error) if Instant::now() >= until => {
                return Err(error.context("the node may still be locked: run db.fsyncUnlock() there"));
            }
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// How long a replica set may be without a primary: two of its heartbeats.
async fn primary_patience(client: &Client) -> Result<Duration> {
    // A user without this right is not refused; the usual time holds.
    let config = client.database("admin").run_command(doc! { "replSetGetConfig": 1 }).await.unwrap_or_default();
    let settings = config.get_document("config").and_then(|config| config.get_document("settings"));
    let between = settings.ok().and_then(|settings| match settings.get("heartbeatIntervalMillis")? {
        Bson::Int32(ms) => u64::try_from(*ms).ok(),
        Bson::Int64(ms) => u64::try_from(*ms).ok(),
        _ => None,
    });
    Ok(between.map_or(HEARTBEAT, Duration::from_millis) * 2)
}

/// Returns when the node has seen no primary for `patience`, or does not answer.
async fn without_primary(client: &Client, patience: Duration) -> String {
    let (mut seen, mut heard) = (Instant::now(), Instant::now());
    loop {
        match tokio::time::timeout(SILENCE, mongo::hello(client)).await {
            Ok(Ok(hello)) => {
                heard = Instant::now();
                if !hello.primary.is_empty() {
                    seen = heard;
                }
            }
            Ok(Err(error)) => drop(error),
            Err(_) => {}
        }
        if heard.elapsed() >= SILENCE {
            return format!("the node has not answered for {} s", SILENCE.as_secs());
        }
        if heard.elapsed() < LOOK * 2 && seen.elapsed() >= patience {
            return format!(
                "the replica set has had no primary for {} ms, and could elect none without this member's vote",
                patience.as_millis()
            );
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_were_written() {
        for report in [
            Report::Locked,
            Report::Released { held_ms: 1310 },
            Report::Ended("no primary".to_owned()),
            Report::Ended(String::new()),
        ] {
            assert_eq!(report.to_string().parse::<Report>().expect("a report"), report);
        }
        assert_eq!(Report::Ended("two\nlines".to_owned()).to_string(), "ended two lines");
        for line in ["", "locked now", "released", "released x", "what"] {
            assert!(line.parse::<Report>().is_err(), "{line}");
        }
    }
}
