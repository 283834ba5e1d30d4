//! The balancer stands still during backups and restores, and comes back in every ending.
//!
//! An operation that stops the balancer says so in its document (`balancer_due`, a field of ours) before it does. Whoever
//! ends the operation starts the balancer again and takes the remark away; if everybody died, any agent of the config
//! servers does it later ([`give_back_forgotten`]). A new operation takes the debt over, so that it is never paid in
//! the middle of another one.

use crate::control::{Control, Debt, OpDocs, OpDocument};
use crate::topo::balancer;
use anyhow::{Result, bail};
use std::time::Duration;
use tokio::time::Instant;

/// How long a restore waits for the end of a round before it warns and waits again.
const ROUND: Duration = Duration::from_secs(30);

/// Was the balancer on, or is it only off because an operation that died owes it?
pub async fn was_on(control: &Control) -> Result<bool> {
    Ok(balancer::state(control.client()).await?.on || is_owed(control).await?)
}

async fn is_owed(control: &Control) -> Result<bool> {
    Ok(!control.backups.owing(Debt::Balancer).await?.is_empty()
        || !control.restores.owing(Debt::Balancer).await?.is_empty())
}

/// Stops the balancer for the backup `name`, if it was on. Whatever the balancer still moves after `round` is in the oplog
/// of both shards, so a backup need not wait for it.
pub async fn hold_for_backup(control: &Control, name: &str, round: Duration) -> Result<()> {
    if !hold(control, &control.backups, name, round).await? {
        tracing::warn!("the balancer's round has not ended within {} s; going on while it ends", round.as_secs());
    }
    Ok(())
}

/// Stops the balancer for the restore `name`, if it was on, and waits for the end of its round: what is dropped and loaded
/// must not move at the same time. Without a `limit` it waits for as long as it takes.
///
/// # Errors
/// The round has not ended within `limit`.
pub async fn hold_for_restore(control: &Control, name: &str, limit: Option<Duration>) -> Result<()> {
    let since = Instant::now();
    loop {
        let round = limit.map_or(ROUND, |limit| limit.saturating_sub(since.elapsed()).min(ROUND));
        if hold(control, &control.restores, name, round).await? {
            return Ok(());
        }
        let waited = since.elapsed();
        if let Some(limit) = limit.filter(|limit| waited >= *limit) {
            bail!(
                "the balancer still moves a chunk after {} s (restore.timeouts.balancerStop); nothing was changed; repeat the restore \
                 when sh.isBalancerRunning() says that no round is in progress",
                limit.as_secs()
            );
        }
        tracing::warn!(
            "the balancer still moves a chunk after {} s; the restore begins when that is done",
            waited.as_secs()
        );
    }
}

/// Whether the balancer stands still, `round` after it was told to.
async fn hold<T: OpDocument>(control: &Control, docs: &OpDocs<T>, name: &str, round: Duration) -> Result<bool> {
    if !was_on(control).await? {
        return Ok(true);
    }
    docs.owe(name, Debt::Balancer).await?;
    take_over(&control.backups, name).await?;
    take_over(&control.restores, name).await?;
    let still = balancer::stop(control.client(), round).await?;
    tracing::info!("the balancer is stopped until the operation ends");
    Ok(still)
}

async fn take_over<T: OpDocument>(docs: &OpDocs<T>, name: &str) -> Result<()> {
    for other in docs.owing(Debt::Balancer).await?.into_iter().filter(|other| other != name) {
        docs.paid(&other, Debt::Balancer).await?;
    }
    Ok(())
}

/// Starts the balancer again if the operation `name` stopped it.
pub async fn give_back<T: OpDocument>(control: &Control, docs: &OpDocs<T>, name: &str) -> Result<()> {
    if !docs.owing(Debt::Balancer).await?.iter().any(|owing| owing == name) {
        return Ok(());
    }
    balancer::start(control.client()).await?;
    docs.paid(name, Debt::Balancer).await?;
    tracing::info!("the balancer is on again");
    Ok(())
}

/// Starts the balancer again where an operation ended, or was declared lost, without doing it. Nothing while any
/// operation holds a lock: that one stopped the balancer for itself, or is about to.
pub async fn give_back_forgotten(control: &Control) -> Result<()> {
    if !is_owed(control).await? || !control.locks.all().await?.is_empty() {
        return Ok(());
    }
    for name in control.backups.owing(Debt::Balancer).await? {
        if control.backups.has_ended(&name).await? {
            give_back(control, &control.backups, &name).await?;
        }
    }
    for name in control.restores.owing(Debt::Balancer).await? {
        if control.restores.has_ended(&name).await? {
            give_back(control, &control.restores, &name).await?;
        }
    }
    Ok(())
}
