//! Stops the balancer during backups and restores, and starts it again however they end.
//!
//! An operation that stops the balancer records that as a debt ([`super::debt`], field `balancer_due`). If all agents
//! of the operation died, any agent of the config servers starts the balancer later ([`give_back_forgotten`]).

use super::{Cx, debt};
use crate::control::{Control, Debt, OpDocs, OpDocument};
use crate::mongo::admin;
use crate::rendezvous::Role;
use crate::topo::balancer;
use anyhow::{Result, bail};
use std::time::Duration;
use tokio::time::Instant;

/// How long a restore waits for the end of a balancer round before it warns and waits again.
const ROUND: Duration = Duration::from_secs(30);

/// Whether the balancer was on before, or is off only because an operation that died has stopped it.
pub async fn was_on(control: &Control) -> Result<bool> {
    Ok(balancer::state(control.leader()).await?.on || debt::is_owed(control, Debt::Balancer).await?)
}

/// Stops the balancer for the backup `name`, if it was on. A backup waits only for `round`: whatever the balancer still
/// moves after that is in the oplog of both shards.
pub async fn hold_for_backup(control: &Control, name: &str, round: Duration) -> Result<()> {
    if !hold(control, &control.backups, name, round).await? {
        tracing::warn!("the balancer's round has not ended within {} s; going on while it ends", round.as_secs());
    }
    Ok(())
}

/// Stops the balancer for the restore `name`, if it was on, and waits for the end of its round, because chunks must not
/// move while they are dropped and loaded. Without a `limit` it waits for as long as necessary.
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

/// Stops the balancer. Returns whether it has no round in progress after the time `round`.
async fn hold<T: OpDocument>(control: &Control, docs: &OpDocs<T>, name: &str, round: Duration) -> Result<bool> {
    if !was_on(control).await? {
        return Ok(true);
    }
    debt::take(control, docs, name, Debt::Balancer).await?;
    let still = balancer::stop(control.leader(), round).await?;
    tracing::info!("the balancer is stopped until the operation ends");
    Ok(still)
}

/// Starts the balancer again if this operation stopped it. If that fails, the agents of the config servers start it
/// later.
pub async fn give_back_of<T: OpDocument>(cx: &Cx, docs: &OpDocs<T>) {
    if cx.role == Role::Leader
        && cx.cluster.sharded
        && let Err(error) = give_back(&cx.control, docs, &cx.name).await
    {
        tracing::warn!("the balancer stays off for now: {}", admin::explain(&error));
    }
}

/// Starts the balancer again if the operation `name` stopped it.
pub async fn give_back<T: OpDocument>(control: &Control, docs: &OpDocs<T>, name: &str) -> Result<()> {
    debt::pay(docs, name, Debt::Balancer, || switch_on(control)).await.map(drop)
}

async fn switch_on(control: &Control) -> Result<()> {
    balancer::start(control.leader()).await?;
    tracing::info!("the balancer is on again");
    Ok(())
}

/// Starts the balancer again if an operation that stopped it has ended, or was declared lost, without starting it. Does
/// nothing while any operation holds a lock, because that operation needs the stopped balancer or is about to stop it.
pub async fn give_back_forgotten(control: &Control) -> Result<()> {
    if !debt::is_owed(control, Debt::Balancer).await? || !control.locks.all().await?.is_empty() {
        return Ok(());
    }
    debt::pay_forgotten(control, Debt::Balancer, || switch_on(control)).await.map(drop)
}
