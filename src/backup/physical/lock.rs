//! The lock of this agent's node, held by a process of its own ([`super::guard`]).
//!
//! Dropping the handle ends the lock: the process sees the end of its input.

use super::guard::{NAME, Order, RELEASE, Report};
use crate::mongo::admin;
use anyhow::{Context, Error, Result, anyhow, bail};
use mongodb::Client;
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// This executable, also after its file was replaced or removed.
const MYSELF: &str = "/proc/self/exe";
/// How long the server may take to lock. Longer means that it waits for something that goes on for long.
const WITHIN: Duration = Duration::from_secs(15);
/// How long the process may take to begin, beside the time for the lock itself.
const START: Duration = Duration::from_secs(30);

/// A node that is locked.
#[derive(Debug)]
pub(super) struct Lock {
    // The process ends by itself; the handle is only kept so that the runtime collects its exit code.
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    client: Client,
}

impl Lock {
    /// Locks the node behind `uri`, to which `client` leads, too, for at most `limit`.
    ///
    /// # Errors
    /// The process can't be started, or the server does not lock. Then the node is not locked, or soon will not be.
    pub async fn take(client: &Client, uri: &str, limit: Duration) -> Result<Self> {
        let mut process = Command::new(MYSELF)
            .arg0("pbmbox")
            .arg(NAME)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Away from the terminal's signals.
            .process_group(0)
            .spawn()
            .context("start the process that holds the lock of the node")?;
        let input = process.stdin.take().context("no way to speak to the process that holds the lock")?;
        let output = process.stdout.take().context("no way to hear the process that holds the lock")?;
        let output = BufReader::new(output).lines();
        let mut lock = Self { _process: process, input, output, client: client.clone() };
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let order = Order { uri: uri.to_owned(), within_ms: ms(WITHIN), limit_ms: ms(limit) };
        lock.write(&serde_json::to_string(&order).context("write the order to lock")?).await?;
        match tokio::time::timeout(START + WITHIN, lock.next()).await {
            Ok(Ok(Report::Locked)) => Ok(lock),
            Ok(Ok(Report::Ended(why))) => bail!("the node could not be locked: {why}"),
            Ok(Ok(report)) => bail!("the process that holds the lock reported '{report}' first"),
            Ok(Err(error)) => Err(error),
            Err(_) => bail!("the process that locks the node did not answer within {} s", (START + WITHIN).as_secs()),
        }
    }

    /// Returns only if the lock ends, with the reason.
    pub async fn ended(&mut self) -> Error {
        match self.next().await {
            Ok(Report::Ended(why)) => lost(&why),
            Ok(report) => anyhow!("the process that holds the lock reported '{report}' unasked"),
            Err(error) => error,
        }
    }

    /// Ends the lock. Returns how long the node was locked.
    ///
    /// # Errors
    /// The lock had ended before, so the files may have changed since.
    pub async fn release(mut self) -> Result<Duration> {
        self.write(RELEASE).await?;
        match self.next().await? {
            Report::Released { held_ms } => Ok(Duration::from_millis(held_ms)),
            Report::Ended(why) => Err(lost(&why)),
            Report::Locked => bail!("the process that holds the lock reported it twice"),
        }
    }

    async fn write(&mut self, line: &str) -> Result<()> {
        let line = format!("{line}\n");
        // If the process has ended, its last report says why.
        let written = self.input.write_all(line.as_bytes()).await;
        if written.is_err() {
            return Err(self.ended().await);
        }
        self.input.flush().await.context("speak to the process that holds the lock")
    }

    async fn next(&mut self) -> Result<Report> {
        match self.output.next_line().await.context("hear the process that holds the lock")? {
            Some(line) => line.parse(),
            // Somebody killed it, so nobody else unlocks the node now.
            None => {
                admin::fsync_unlock(&self.client).await?;
                bail!("the process that held the lock of the node was killed")
            }
        }
    }
}

fn lost(why: &str) -> Error {
    anyhow!("the node was unlocked before its files were copied: {why}")
}
