//! Makes the slicers store the oplog that they still hold, before the latest moment is determined. The latest moment is then
//! now, and not up to ten minutes ago.

use crate::cmd::io::{context::Context, error::Result};
use crate::control::Look;
use crate::model::lock::{Lock, is_stale};
use std::time::Duration;

/// Time limit for the slicers to store a last chunk.
const LIMIT: Duration = Duration::from_secs(30);

/// Asks every living slicer of ours to store its oplog up to now, and waits until it has. If one does not finish in time, a
/// note is printed and the latest moment is an earlier one; that is no error.
pub async fn up_to_now(cx: &Context) -> Result<()> {
    let on = cx.config().await?.pitr_is_on();
    let now = cx.control.cluster_time().await?;
    let slicers = cx.control.locks.slicers().await?;
    let living: Vec<Lock> = slicers.into_iter().filter(|lock| !is_stale(lock.hb, now)).collect();
    if !on || living.is_empty() {
        return Ok(());
    }
    // A slicer of the original stores a chunk only when its time span is over, and takes no requests to store one earlier.
    let states = cx.control.pitr.get().await?.map(|pitr| pitr.slicers).unwrap_or_default();
    let (ours, others): (Vec<Lock>, Vec<Lock>) = living
        .into_iter()
        .partition(|lock| states.iter().any(|state| state.rs == lock.header.replset && state.node == lock.header.node));
    if !others.is_empty() {
        cx.out.note(&format!(
            "{} can't be asked to store the oplog up to now: what was written since the last chunk is not in the latest moment",
            names(&others)
        ));
    }
    let look = || async {
        cx.control.locks.ask_to_flush(now).await?;
        let done = cx.control.locks.flushed_since(now).await?;
        let late: Vec<Lock> = ours.iter().filter(|lock| !done.contains(&lock.header.replset)).cloned().collect();
        Ok(if late.is_empty() { Look::Found(()) } else { Look::Missing(late) })
    };
    if let Err(late) = cx.control.bell.within(LIMIT, look).await? {
        cx.out.note(&format!(
            "{} did not store the oplog up to now within {} s; the latest moment is the one that is saved",
            names(&late),
            LIMIT.as_secs()
        ));
    }
    Ok(())
}

fn names(locks: &[Lock]) -> String {
    let names: Vec<String> =
        locks.iter().map(|lock| format!("{} ({})", lock.header.node, lock.header.replset)).collect();
    format!("the agent on {}", names.join(", on "))
}
