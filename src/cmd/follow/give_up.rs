//! Gives up on a command that no agent has begun. The command is withdrawn first, so that it can't begin after the user has
//! been told that it did not.

use crate::cmd::io::context::Context;
use crate::cmd::io::error::{self, CliError, Kind};
use crate::control::Withdrawal;
use crate::model::lock::LockHeader;
use anyhow::anyhow;
use std::{
    sync::{LazyLock, Once},
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

/// How long the withdrawal may take.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(20);

static INTERRUPTED: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// From this call on, Ctrl-C no longer ends the process; [`interruption`] waits for it. Call this before sending a command,
/// so that the process can't end between sending the command and withdrawing it.
pub fn heed_interruptions() {
    static HEEDING: Once = Once::new();
    HEEDING.call_once(|| {
        // If the handler can't be installed, Ctrl-C ends the process at once, as before.
        let Ok(mut interrupt) = signal(SignalKind::interrupt()) else { return };
        tokio::spawn(async move {
            interrupt.recv().await;
            INTERRUPTED.send_replace(true);
        });
    });
}

/// Returns once the user has pressed Ctrl-C.
pub async fn interruption() {
    heed_interruptions();
    // This fails only if the sender is dropped, and the sender is a static.
    let _ = INTERRUPTED.subscribe().wait_for(|it| *it).await;
}

/// A command that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// Name of the command in the queue.
    pub kind: &'static str,
    pub opid: &'a str,
}

/// Result of the attempt to withdraw a command.
#[derive(Debug)]
pub enum GivenUp {
    /// The command is withdrawn and will never begin.
    Withdrawn,
    /// An agent took the command before it could be withdrawn.
    TooLate { taken: LockHeader },
    /// The database did not answer, so the command may or may not be withdrawn.
    Unknown { why: String },
}

/// Withdraws the command, unless an agent has begun it.
pub async fn give_up(cx: &Context, sent: Sent<'_>) -> GivenUp {
    let work = async {
        let leader = crate::mongo::hello(cx.control.client()).await?.set_name;
        // Withdrawing the command from the other replica sets is optional: if it fails, their agents only wait for a moment.
        let others: Vec<String> =
            cx.members().await.unwrap_or_default().into_iter().filter(|rs| *rs != leader).collect();
        cx.control.locks.withdraw(sent.kind, sent.opid, &leader, &others).await
    };
    let done = timeout(WITHDRAWN_WITHIN, work).await;
    match done.unwrap_or_else(|_| Err(anyhow!("the database gave no answer within {} s", WITHDRAWN_WITHIN.as_secs()))) {
        Ok(Withdrawal::Done) => GivenUp::Withdrawn,
        Ok(Withdrawal::TooLate { taken }) => GivenUp::TooLate { taken },
        Err(error) => GivenUp::Unknown { why: error::text(&error) },
    }
}

/// The error for `what` that no agent began in time, by the result of its withdrawal.
pub fn nobody(what: &str, waited: Duration, given_up: GivenUp) -> CliError {
    let nobody = format!("no agent took {what} within {} s", waited.as_secs());
    match given_up {
        GivenUp::Withdrawn => CliError::failed(format!("{nobody}; it was withdrawn and will not run"))
            .hint("see `pbm status -s cluster` for the agents and `pbm logs -s D` for what they say; then repeat it"),
        GivenUp::TooLate { taken } => CliError::failed(format!(
            "{what} was taken by the agent on {} of replica set {}, which has not begun it; it may still run",
            taken.node, taken.replset
        ))
        .hint("`pbm status -s running` shows it; `pbm logs -s D` has what that agent says"),
        GivenUp::Unknown { why } => CliError::failed(format!(
            "{nobody}, and it could not be withdrawn ({why}): it may still run"
        ))
        .hint("`pbm status -s running` shows whether it does; no agent begins it later than 90 s after it was sent"),
    }
}

/// The error for `what` that the user interrupted before it began, by the result of its withdrawal.
pub fn interrupted(what: &str, given_up: GivenUp) -> CliError {
    let (text, hint) = match given_up {
        GivenUp::Withdrawn => (format!("interrupted: {what} was withdrawn before it began"), "nothing was started"),
        GivenUp::TooLate { taken } => (
            format!("interrupted: {what} was just begun by the agent on {} and goes on without us", taken.node),
            "`pbm status -s running` shows it",
        ),
        GivenUp::Unknown { why } => (
            format!("interrupted: {what} could not be withdrawn ({why}): it may still run"),
            "`pbm status -s running` shows whether it does",
        ),
    };
    CliError::new(Kind::Interrupted, text).hint(hint)
}
