//! Waits until the slices of the time before the restore have ended, because the restore's own writes belong to no
//! timeline.

use crate::control::{Look, Waited};
use crate::model::lock::is_stale;
use crate::operation::Cx;
use anyhow::{Result, bail};
use std::time::Duration;

/// How long a living slicer has to store its entries, as in the original. A lost slicer counts as ended when its lock
/// is stale.
const TO_FINISH: Duration = Duration::from_secs(120);

/// Waits until point-in-time recovery is off and no agent slices the oplog of this replica set.
pub(super) async fn wait_for_their_end(cx: &Cx) -> Result<()> {
    let look = || async {
        let on = cx.control.config.main().await?.is_some_and(|config| config.pitr_is_on());
        let holder = cx.control.locks.slicer_of(&cx.rs).await?;
        let alive = match &holder {
            Some(lock) => !is_stale(lock.hb, cx.control.time_of_last_call().await?),
            None => false,
        };
        if !on && !alive {
            return Ok(Look::Found(()));
        }
        Ok(Look::Missing(match holder.filter(|_| alive) {
            Some(lock) => format!("the agent on {} still slices its oplog", lock.header.node),
            None => "point-in-time recovery was switched on again".to_owned(),
        }))
    };
    match cx.control.bell.until(TO_FINISH, cx.cancel.cancelled(), look).await? {
        Waited::Found(()) => Ok(()),
        Waited::Cancelled => bail!("the restore was cancelled"),
        Waited::TimedOut(why) => bail!(
            "nothing was changed: {why} ({} s after it was to stop); look at its log, then repeat",
            TO_FINISH.as_secs()
        ),
    }
}
