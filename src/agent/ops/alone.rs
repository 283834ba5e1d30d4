//! Work that one agent of the leader replica set does, whichever comes first, while whoever asked waits for its lock.

use super::Task;
use crate::model::log::DONE;
use crate::mongo::admin::explain;
use anyhow::{Result, anyhow};
use std::time::Duration;

/// How long the lock is held for the last line to arrive in the log.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Takes the lock of kind `kind`, does `work`, and says `done` or why not before the lock is given back.
///
/// The original's command line waits for the lock, which it looks for after a second: it is taken first, and what is
/// wrong with the command is told while it is held.
pub(super) async fn run(task: Task, kind: &str, work: impl AsyncFnOnce(&Task) -> Result<()>) -> Result<()> {
    let node = &task.node;
    if !node.in_leader_rs {
        return Ok(());
    }
    let Some(op) = task.receive("").check(node).await?.go() else { return Ok(()) };
    let Some(op) = op.anybody().lease(node, kind).await?.go() else { return Ok(()) };
    op.run(async |op| {
        let ended = tokio::select! {
            () = op.cancel.cancelled() => Err(anyhow!("{}; the same command goes on with it", op.why_early(kind))),
            done = op.cancel.while_held(work(&task)) => done,
        };
        // Told before the lock is given back: who waits for the lock reads the log then.
        match ended {
            Ok(()) => tracing::info!("{DONE}"),
            Err(error) => tracing::error!("{}", explain(&error)),
        }
        node.log.settle(LAST_WORD).await;
    })
    .await;
    Ok(())
}
