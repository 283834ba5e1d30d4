//! Starts an operation for each command, and ends all operations when the agent ends.

use super::{
    node::Node,
    ops::{self, Task},
};
use crate::control::{Order, Place, Queued};
use crate::log::operation;
use crate::model::command::name;
use crate::mongo::admin::explain;
use crate::rendezvous::{Cancel, Early};
use anyhow::Result;
use bson::Timestamp;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// The time that running operations have to end themselves after a signal.
const DRAIN: Duration = Duration::from_secs(60);

/// Runs every command in its own task. Locks in the database decide which operations may run at the same time.
pub(super) struct Dispatcher {
    node: Arc<Node>,
    tasks: TaskTracker,
    running: Running,
}

impl Dispatcher {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, tasks: TaskTracker::new(), running: Running::default() }
    }

    /// Takes commands that were sent after `place`, until `stop`. Then cancels the running operations and waits for
    /// their end.
    pub async fn run(self, place: Place, stop: CancellationToken) {
        let (send, mut commands) = mpsc::channel(16);
        let follow = {
            let (commands, stop) = (self.node.control.commands.clone(), stop.clone());
            tokio::spawn(async move { commands.follow(place, send, stop).await })
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                command = commands.recv() => match command {
                    Some(command) => self.start(command),
                    None => break,
                },
            }
        }
        self.running.end_all(&Early::AgentStopped { node: self.node.me() });
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::error!("operations did not end within {} s; leaving them to the other agents", DRAIN.as_secs());
        }
        follow.abort();
    }

    fn start(&self, Queued { id, until, order }: Queued) {
        let (opid, event) = (id.to_hex(), order.event());
        let (node, running, cancel) = (self.node.clone(), self.running.clone(), Cancel::default());
        // Backups are cancelled here, in the order of the queue, because the tasks can overtake each other. So a
        // cancellation ends every backup that was requested before it, and none that was requested later.
        let cancelled = if order == Order::CancelBackup { running.cancel_backups() } else { Vec::new() };
        running.begin(&opid, event, &cancel);
        let ended = opid.clone();
        self.tasks.spawn(async move {
            // If the configuration can't be read, the operation itself reports that.
            let epoch = node.control.config.main().await.ok().flatten().and_then(|c| c.epoch);
            let span = operation(event, order.object(), &opid, epoch);
            async move {
                tracing::debug!("got command {event}");
                match too_late(&node, event, &opid, until).await {
                    Ok(None) => {}
                    Ok(Some(why)) => {
                        tracing::warn!("{why}");
                        return;
                    }
                    // The operation meets the same error, and reports it where operators see it.
                    Err(error) => tracing::debug!("{}", explain(&error)),
                }
                let task = Task { node, opid: opid.clone(), epoch, cancel };
                let result = match order {
                    Order::Backup(it) => ops::backup::handle(task, it).await,
                    Order::CancelBackup => {
                        for opid in cancelled {
                            tracing::info!("cancelling the backup with OPID {opid}");
                        }
                        Ok(())
                    }
                    Order::Restore(it) => ops::physical::handle(task, it).await,
                    Order::Replay(it) => ops::replay::handle(task, it).await,
                    Order::Resync(it) => ops::resync::handle(task, it).await,
                    Order::Delete(it) => ops::delete::backups(task, it).await,
                    Order::DeletePitr(it) => ops::delete::chunks(task, it).await,
                    Order::Cleanup(it) => ops::delete::cleanup(task, it).await,
                    Order::CleanupFailed(it) => ops::remains::handle(task, it).await,
                    Order::AddProfile { name, storage } => ops::profile::add(task, name, storage).await,
                    Order::RemoveProfile { name } => ops::profile::remove(task, name).await,
                };
                if let Err(error) = result {
                    tracing::error!("{}", explain(&error));
                }
            }
            .instrument(span)
            .await;
            running.end(&ended);
        });
    }
}

/// Returns the reason why a command must not begin any more, or `None` if it may begin.
pub(super) async fn too_late(node: &Node, event: &str, opid: &str, until: Option<Timestamp>) -> Result<Option<String>> {
    if node.control.locks.is_withdrawn(opid).await? {
        return Ok(Some(format!("the {event} was withdrawn by its sender before it began")));
    }
    let now = node.control.time_of_last_call().await?;
    Ok(until.filter(|until| until.time < now.time).map(|until| {
        format!(
            "the {event} came {} s too late: its sender does not wait for it any more, so it is not begun",
            now.time - until.time
        )
    }))
}

/// Operations that were requested and have not ended on this node. For each OPID, the command and the handle to cancel
/// it.
#[derive(Debug, Clone, Default)]
struct Running(Arc<Mutex<HashMap<String, (&'static str, Cancel)>>>);

impl Running {
    fn begin(&self, opid: &str, event: &'static str, cancel: &Cancel) {
        self.lock().insert(opid.to_owned(), (event, cancel.clone()));
    }

    fn end(&self, opid: &str) {
        self.lock().remove(opid);
    }

    /// Cancels all backups and returns their OPIDs.
    fn cancel_backups(&self) -> Vec<String> {
        let running = self.lock();
        let backups = running.iter().filter(|(_, (event, _))| *event == name::BACKUP);
        backups.inspect(|(_, (_, cancel))| cancel.end(Early::Asked)).map(|(opid, _)| opid.clone()).collect()
    }

    /// Ends all operations.
    fn end_all(&self, early: &Early) {
        self.lock().values().for_each(|(_, cancel)| cancel.end(early.clone()));
    }

    /// A poisoned lock is ignored, because the map is valid between any two calls.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (&'static str, Cancel)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancellation_meets_what_has_begun_and_nothing_else() {
        let all = Running::default();
        let [ended, running, restore, later] = [(); 4].map(|()| Cancel::default());
        all.begin("ended", name::BACKUP, &ended);
        all.begin("running", name::BACKUP, &running);
        all.begin("restore", name::RESTORE, &restore);
        all.end("ended");
        assert_eq!(all.cancel_backups(), ["running"]);
        all.begin("later", name::BACKUP, &later);
        assert_eq!([&ended, &running, &restore, &later].map(|it| it.is_cancelled()), [false, true, false, false]);
        // The agent ends. Operations that were cancelled before keep their first reason.
        let stopped = Early::AgentStopped { node: "h:1".into() };
        all.end_all(&stopped);
        let ends = [&ended, &running, &restore, &later].map(|it| it.early());
        assert_eq!(ends, [None, Some(Early::Asked), Some(stopped.clone()), Some(stopped)]);
    }
}
