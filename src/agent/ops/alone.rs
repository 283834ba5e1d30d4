//! Runs work that one agent of the leader replica set does. The agent that takes the lock first does it, and the sender
//! waits for this lock.

use super::Task;
use crate::model::log::DONE;
use crate::mongo::admin::explain;
use anyhow::{Result, anyhow};
use std::time::Duration;

/// How long the lock is held at most until the last line has reached the log in the database.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Takes the lock of kind `kind` and does `work`. Before it releases the lock, it logs `done` or the error.
/// The original's command line looks for the lock after a second and waits for its release. So the lock is taken first,
/// and errors in the command are reported while it is held.
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
        // The line is logged before the lock is released, because a sender that waits for the lock reads the log then.
        match ended {
            Ok(()) => tracing::info!("{DONE}"),
            Err(error) => tracing::error!("{}", explain(&error)),
        }
        node.log.settle(LAST_WORD).await;
    })
    .await;
    Ok(())
}
