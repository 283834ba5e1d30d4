//! From the command stream to operations, and the orderly end of all of them.

use super::{
    node::Node,
    ops::{self, Task},
};
use crate::control::Place;
use crate::log::operation;
use crate::model::command::{Command, name};
use crate::mongo::admin::explain;
use crate::rendezvous::{Cancel, Early};
use anyhow::Result;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// How long running operations get to end themselves after a signal.
const DRAIN: Duration = Duration::from_secs(60);

/// Runs every command as a task of its own; locks in the database decide what may overlap.
pub(super) struct Dispatcher {
    node: Arc<Node>,
    tasks: TaskTracker,
    running: Running,
}

impl Dispatcher {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, tasks: TaskTracker::new(), running: Running::default() }
    }

    /// Takes commands sent after `place` until `stop`, then cancels what runs and waits for its end.
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

    fn start(&self, command: Command) {
        let opid = command.id.to_hex();
        let object = command
            .backup
            .as_ref()
            .map(|b| b.name.clone())
            .or_else(|| command.restore.as_ref().map(|r| r.name.clone()))
            .or_else(|| command.replay.as_ref().map(|r| r.name.clone()))
            .or_else(|| command.profile.as_ref().map(|p| p.name.clone()))
            .unwrap_or_default();
        let (node, running, cancel) = (self.node.clone(), self.running.clone(), Cancel::default());
        // Here, in the order of the queue, and not in the tasks, which overtake each other: a cancellation meets every
        // backup that was asked for before it, and none after.
        let cancelled = if command.cmd == name::CANCEL_BACKUP { running.cancel_backups() } else { Vec::new() };
        running.begin(&opid, &command.cmd, &cancel);
        let ended = opid.clone();
        self.tasks.spawn(async move {
            // A configuration that can't be read is reported by the operation itself.
            let epoch = node.control.config.main().await.ok().flatten().and_then(|c| c.epoch);
            let span = operation(&command.cmd, &object, &opid, epoch);
            async move {
                tracing::debug!("got command {}", command.cmd);
                match too_late(&node, &command).await {
                    Ok(None) => {}
                    Ok(Some(why)) => {
                        tracing::warn!("{why}");
                        return;
                    }
                    // The operation meets the same error, and reports it where people see it.
                    Err(error) => tracing::debug!("{}", explain(&error)),
                }
                let task = Task { node, opid: opid.clone(), epoch, cancel };
                let result = match command.cmd.as_str() {
                    name::BACKUP => ops::backup::handle(task, command.backup).await,
                    name::CANCEL_BACKUP => {
                        for opid in cancelled {
                            tracing::info!("cancelling the backup with OPID {opid}");
                        }
                        Ok(())
                    }
                    name::RESTORE => ops::restore::handle(task, command.restore).await,
                    name::DELETE => ops::delete::backups(task, command.delete).await,
                    name::DELETE_PITR => ops::delete::chunks(task, command.delete_pitr).await,
                    name::CLEANUP => ops::delete::cleanup(task, command.cleanup).await,
                    name::CLEANUP_FAILED => ops::remains::handle(task, command.cleanup_failed).await,
                    name::REPLAY => ops::replay::handle(task, command.replay).await,
                    name::ADD_PROFILE => ops::profile::add(task, command.profile).await,
                    name::REMOVE_PROFILE => ops::profile::remove(task, command.profile).await,
                    name::RESYNC => ops::resync::handle(task, command.resync).await,
                    other => Err(anyhow::anyhow!(
                        "this agent does not know the command '{other}'; the command line is newer, or of another edition"
                    )),
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

/// The reason why a command must not begin any more; `None` if it may begin.
async fn too_late(node: &Node, command: &Command) -> Result<Option<String>> {
    let opid = command.id.to_hex();
    if node.control.locks.is_withdrawn(&opid).await? {
        return Ok(Some(format!("the {} was withdrawn by its sender before it began", command.cmd)));
    }
    let now = node.control.time_of_last_call().await?;
    Ok(command.until.filter(|until| until.time < now.time).map(|until| {
        format!(
            "the {} came {} s too late: its sender does not wait for it any more, so it is not begun",
            command.cmd,
            now.time - until.time
        )
    }))
}

/// Operations that were asked for and have not ended on this node: the kind and the means to end the operation, by OPID.
#[derive(Debug, Clone, Default)]
struct Running(Arc<Mutex<HashMap<String, (String, Cancel)>>>);

impl Running {
    fn begin(&self, opid: &str, kind: &str, cancel: &Cancel) {
        self.lock().insert(opid.to_owned(), (kind.to_owned(), cancel.clone()));
    }

    fn end(&self, opid: &str) {
        self.lock().remove(opid);
    }

    /// Cancels all backups and returns their OPIDs.
    fn cancel_backups(&self) -> Vec<String> {
        let running = self.lock();
        let backups = running.iter().filter(|(_, (kind, _))| kind == name::BACKUP);
        backups.inspect(|(_, (_, cancel))| cancel.end(Early::Asked)).map(|(opid, _)| opid.clone()).collect()
    }

    /// Ends all operations.
    fn end_all(&self, early: &Early) {
        self.lock().values().for_each(|(_, cancel)| cancel.end(early.clone()));
    }

    /// Poison carries no meaning here: the map is valid between any two calls.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (String, Cancel)>> {
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
        // The agent ends: operations that were cancelled before keep their first reason.
        let stopped = Early::AgentStopped { node: "h:1".into() };
        all.end_all(&stopped);
        let ends = [&ended, &running, &restore, &later].map(|it| it.early());
        assert_eq!(ends, [None, Some(Early::Asked), Some(stopped.clone()), Some(stopped)]);
    }
}
