//! From the command stream to operations, and the orderly end of all of them.

use super::{
    node::Node,
    ops::{self, Task},
};
use crate::control::Place;
use crate::log::operation;
use crate::model::command::{Command, name};
use crate::mongo::admin::explain;
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
    backups: Backups,
    /// Parent of all operations' tokens.
    all: CancellationToken,
}

impl Dispatcher {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, tasks: TaskTracker::new(), backups: Backups::default(), all: CancellationToken::new() }
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
        self.all.cancel();
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
        let (node, backups, token) = (self.node.clone(), self.backups.clone(), self.all.child_token());
        // Here, in the order of the queue, and not in the tasks, which overtake each other: a cancellation meets every
        // backup that was asked for before it, and none after.
        let mut cancelled = Vec::new();
        match command.cmd.as_str() {
            name::BACKUP => backups.begin(&opid, &token),
            name::CANCEL_BACKUP => cancelled = backups.cancel(),
            _ => {}
        }
        self.tasks.spawn(async move {
            // A configuration that can't be read is reported by the operation itself.
            let epoch = node.control.config.main().await.ok().flatten().and_then(|c| c.epoch);
            let span = operation(&command.cmd, &object, &opid, epoch);
            async move {
                tracing::debug!("got command {}", command.cmd);
                let task = Task { node, opid: opid.clone(), epoch, cancel: token };
                let result = match command.cmd.as_str() {
                    name::BACKUP => {
                        let result = ops::backup::handle(task, command.backup).await;
                        backups.end(&opid);
                        result
                    }
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
        });
    }
}

/// Backups that were asked for and have not ended here, by OPID.
#[derive(Debug, Clone, Default)]
struct Backups(Arc<Mutex<HashMap<String, CancellationToken>>>);

impl Backups {
    fn begin(&self, opid: &str, token: &CancellationToken) {
        self.lock().insert(opid.to_owned(), token.clone());
    }

    fn end(&self, opid: &str) {
        self.lock().remove(opid);
    }

    /// Cancels all; gives their OPIDs.
    fn cancel(&self) -> Vec<String> {
        let running = self.lock();
        running.values().for_each(CancellationToken::cancel);
        running.keys().cloned().collect()
    }

    /// Poison carries no meaning here: the map is valid between any two calls.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancellation_meets_what_has_begun_and_nothing_else() {
        let backups = Backups::default();
        let [ended, running, later] = [(); 3].map(|()| CancellationToken::new());
        backups.begin("ended", &ended);
        backups.begin("running", &running);
        backups.end("ended");
        assert_eq!(backups.cancel(), ["running"]);
        backups.begin("later", &later);
        assert_eq!([ended, running, later].map(|token| token.is_cancelled()), [false, true, false]);
    }
}
