//! Point-in-time recovery stands still during restores, and comes back in every ending.
//!
//! As with the balancer ([`super::balancer`]): a restore that switches it off says so in its document (`pitr_due`, a field
//! of ours) before it does, and whoever ends the restore switches it on again and takes the remark away. If everybody died,
//! any agent of the leader replica set does it later. A new restore takes the debt over.

use crate::control::{Control, Debt};
use anyhow::Result;

/// Switches point-in-time recovery off for the restore `name`. `true` if it was on, or only off because of a restore that
/// died: then it has to be on again at the end.
pub async fn hold(control: &Control, name: &str) -> Result<bool> {
    let owed = control.restores.owing(Debt::Slicing).await?;
    let on = control.config.main().await?.and_then(|config| config.pitr).is_some_and(|pitr| pitr.enabled);
    if !on && owed.is_empty() {
        return Ok(false);
    }
    control.restores.owe(name, Debt::Slicing).await?;
    for other in owed.into_iter().filter(|other| other != name) {
        control.restores.paid(&other, Debt::Slicing).await?;
    }
    control.config.switch_pitr_off(control.cluster_time().await?).await?;
    Ok(true)
}

/// Switches it on again, unless another restore has taken the debt over.
pub async fn give_back(control: &Control, name: &str) -> Result<()> {
    if !control.restores.owing(Debt::Slicing).await?.iter().any(|owing| owing == name) {
        return Ok(());
    }
    control.config.switch_pitr_on().await?;
    control.restores.paid(name, Debt::Slicing).await
}

/// Switches it on again where a restore was declared lost without doing it. Nothing while any operation holds a lock.
pub async fn give_back_forgotten(control: &Control) -> Result<()> {
    let owed = control.restores.owing(Debt::Slicing).await?;
    if owed.is_empty() || !control.locks.all().await?.is_empty() {
        return Ok(());
    }
    for name in owed {
        if control.restores.has_ended(&name).await? {
            give_back(control, &name).await?;
            tracing::info!("point-in-time recovery is on again: restore {name} had switched it off, and was lost");
        }
    }
    Ok(())
}
