//! The agents and their locks, as the command line sees them.

use super::{
    context::Context,
    error::{CliError, Result},
};
use crate::control::Control;
use crate::model::{
    command::name,
    lock::{Lock, is_stale},
};

/// Returns the living locks of operations. Whether a lock lives is decided by the newest time that is known without a write.
pub async fn living_locks(control: &Control) -> anyhow::Result<Vec<Lock>> {
    let locks = control.locks.all().await?;
    if locks.is_empty() {
        return Ok(locks);
    }
    let now = control.cluster_time().await?;
    Ok(locks.into_iter().filter(|lock| lock.header.kind != name::PITR && !is_stale(lock.hb, now)).collect())
}

/// The living agents of the original, as `RS/HOST:PORT`. They take our commands, but ignore the fields that we added.
pub async fn agents_of_the_original(cx: &Context) -> Result<Vec<String>> {
    let alive = cx.control.agents.alive(cx.control.cluster_time().await?).await?;
    Ok(alive.iter().filter(|agent| agent.is_original()).map(|it| format!("{}/{}", it.rs, it.n)).collect())
}

/// Refuses `wanted`, which agents of the original would silently ignore, while any of them is alive. `instead` is the hint
/// that the user gets.
pub async fn ours_only(cx: &Context, wanted: &str, instead: &str) -> Result<()> {
    let others = agents_of_the_original(cx).await?;
    if others.is_empty() {
        return Ok(());
    }
    let what = format!("the agents on {}, which are of the original, don't understand {wanted}", others.join(", "));
    Err(CliError::refused(what).hint(instead))
}
