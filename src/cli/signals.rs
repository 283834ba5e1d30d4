//! The signals with which people and systems end a program.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Returns when the program should end: SIGINT, SIGTERM or SIGHUP came.
///
/// # Errors
/// The signals can't be heard.
pub async fn end() -> Result<()> {
    let listen = |kind| signal(kind).context("listen for signals");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
