//! Switches point-in-time recovery off during restores, and on again however they end.
//!
//! A restore that switches it off records that as a debt ([`super::debt`], field `pitr_due`). If all agents of the
//! restore died, any agent of the leader replica set switches it on later.
//!
//! Agents of the original take every restore command, even if our agents refuse the restore. They then wait up to two
//! minutes until point-in-time recovery is off and no agent slices their replica set, which they check every 5 s. So
//! while an agent of the original is alive, point-in-time recovery is switched off for refused restores, too, and stays
//! off long enough for these agents to notice it.

use super::debt;
use crate::control::{Control, Debt};
use crate::model::{agent::AgentStat, command::name, lock::is_stale};
use anyhow::Result;
use std::time::Duration;
use tokio::time::Instant;

/// How long point-in-time recovery stays off after the last slicer has ended, so that agents of the original notice it.
const SEEN: Duration = Duration::from_secs(6);

/// Switches point-in-time recovery off for the restore `name`.
pub async fn hold(control: &Control, name: &str) -> Result<()> {
    let on = control.config.main().await?.is_some_and(|config| config.pitr_is_on());
    if !on && !debt::is_owed(control, Debt::Slicing).await? {
        return Ok(());
    }
    debt::take(control, &control.restores, name, Debt::Slicing).await?;
    control.config.switch_pitr_off(control.cluster_time().await?).await.map(drop)
}

/// Switches point-in-time recovery off for a restore that is refused: agents of the original may wait until it is off.
pub async fn hold_for_originals(control: &Control, name: &str) -> Result<()> {
    let on = control.config.main().await?.is_some_and(|config| config.pitr_is_on());
    // If point-in-time recovery is already off, these agents do not wait, and another restore may be running.
    if on && originals_live(control).await? {
        hold(control, name).await?;
    }
    Ok(())
}

async fn originals_live(control: &Control) -> Result<bool> {
    let agents = control.agents.living(control.time_of_last_call().await?).await?;
    Ok(agents.iter().any(AgentStat::is_original))
}

/// Switches point-in-time recovery on again, unless another restore has taken the debt over. While an agent of the
/// original is alive, [`give_back_forgotten`] does this instead, after the restore has ended.
pub async fn give_back(control: &Control, name: &str) -> Result<()> {
    if originals_live(control).await? {
        return Ok(());
    }
    debt::pay(&control.restores, name, Debt::Slicing, || control.config.switch_pitr_on()).await.map(drop)
}

/// Switches point-in-time recovery on again if a restore has ended without doing so. Does nothing while any operation
/// except a backup holds a lock. `quiet` is kept between calls: the time since which only the wait for the original's
/// agents prevents the switch.
pub async fn give_back_forgotten(control: &Control, quiet: &mut Option<Instant>) -> Result<()> {
    let busy = async { anyhow::Ok(control.locks.all().await?.iter().any(|lock| lock.header.kind != name::BACKUP)) };
    if !debt::is_owed(control, Debt::Slicing).await? || busy.await? {
        *quiet = None;
        return Ok(());
    }
    if originals_live(control).await? {
        let slicers = control.locks.slicers().await?;
        let now = control.time_of_last_call().await?;
        if slicers.iter().any(|lock| !is_stale(lock.hb, now)) {
            *quiet = None;
            return Ok(());
        }
        if quiet.get_or_insert_with(Instant::now).elapsed() < SEEN {
            return Ok(());
        }
    }
    for name in debt::pay_forgotten(control, Debt::Slicing, || control.config.switch_pitr_on()).await? {
        tracing::info!("point-in-time recovery is on again: restore {name}, which had switched it off, has ended");
    }
    *quiet = None;
    Ok(())
}
