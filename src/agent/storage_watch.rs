//! Checks whether the configured storage is usable from this node.
//!
//! The storage is checked every 15 s, as in the original, and at every heartbeat while it is not usable. This check
//! only shows that the storage exists. So every few minutes, and when another storage was configured, a small object is
//! written, read, listed and deleted.

use super::{node::Node, sharing};
use crate::model::{
    agent::{Space, SubsysStatus, Trial},
    config::{Config, StorageConf},
    store::StoreKind,
};
use crate::mongo::admin::explain;
use crate::storage::Storage;
use crate::{
    config::{open::Probe, probe},
    storages::used_before::{self, Way},
};
use anyhow::Result;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// The time between two checks of a storage that works.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// The time limit of a check, so that a storage that hangs does not stop the heartbeat.
const LOOK: Duration = Duration::from_secs(5);
/// The time between two trials of a storage that works. Each trial makes four requests.
const TRY_EVERY: Duration = Duration::from_secs(300);
/// The time limit of a trial.
const TRIAL: Duration = Duration::from_secs(10);
/// The time between two searches for other clusters' marks on the storage.
const SHARING_CHECK: Duration = Duration::from_secs(60);

/// What is known about the storage.
pub(super) struct StorageWatch {
    /// The id of the agent's run.
    instance: String,
    conf: Option<StorageConf>,
    checked: Option<Instant>,
    /// When other clusters' marks were last searched.
    shared: Option<Instant>,
    /// When a trial last wrote an object, and its error if it failed.
    tried: Option<(Instant, Option<String>)>,
    pub status: SubsysStatus,
    pub space: Option<Space>,
}

impl StorageWatch {
    pub fn new(instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            conf: None,
            checked: None,
            shared: None,
            tried: None,
            status: SubsysStatus::default(),
            space: None,
        }
    }

    /// Whether the configured storage is another one than the storage that was checked.
    pub async fn changed(&self, node: &Node) -> bool {
        node.control.config.main().await.is_ok_and(|now| now.map(|c| c.storage) != self.conf)
    }

    /// Returns the newest trial of the storage.
    pub fn trial(&self) -> Option<Trial> {
        let (at, failed) = self.tried.as_ref()?;
        let age = i64::try_from(at.elapsed().as_secs()).unwrap_or(i64::MAX);
        Some(Trial { ok: failed.is_none(), e: failed.clone().unwrap_or_default(), age })
    }

    pub async fn check(&mut self, node: &Node) {
        let config = match node.read_config().await {
            Ok(Some(config)) => config,
            Ok(None) => {
                *self = Self::new(&self.instance);
                self.status = SubsysStatus::broken("no configuration yet; run `pbm config --file`");
                return;
            }
            Err(error) => {
                self.status = SubsysStatus::broken(explain(&error));
                return;
            }
        };
        let recent = self.checked.is_some_and(|at| at.elapsed() < LOOK_EVERY);
        if self.status.ok && recent && self.conf.as_ref() == Some(&config.storage) {
            return;
        }
        let moved = self.conf.as_ref() != Some(&config.storage);
        if moved {
            self.tried = None;
        }
        let usable = match look(node, &config).await {
            Ok(store) => {
                let due = moved || self.shared.is_none_or(|at| at.elapsed() >= SHARING_CHECK);
                // An error of this search is shown at the next backup. The storage itself is usable.
                let looking = sharing::look(node, store.as_ref(), &config.storage);
                if due && node.in_leader_rs && matches!(timeout(LOOK, looking).await, Ok(Ok(()))) {
                    self.shared = Some(Instant::now());
                }
                self.try_out(node, store.as_ref(), &config.storage).await
            }
            Err(error) => Err(error),
        };
        self.status = usable.map_or_else(|error| SubsysStatus::broken(explain(&error)), |()| SubsysStatus::usable());
        self.space = timeout(LOOK, probe::space(&config.storage)).await.ok().flatten();
        self.conf = Some(config.storage);
        self.checked = Some(Instant::now());
    }

    /// Writes, reads, lists and deletes an object if a trial is due. A storage that only refuses deletion can still
    /// hold backups.
    async fn try_out(&mut self, node: &Node, store: &dyn Storage, conf: &StorageConf) -> Result<()> {
        let due = !self.status.ok || self.tried.as_ref().is_none_or(|(at, _)| at.elapsed() >= TRY_EVERY);
        // This kind of storage keeps no objects.
        if !due || conf.is_of(StoreKind::Blackhole) {
            return Ok(());
        }
        let trial = async {
            match probe::attempt(store, &node.me(), &self.instance).await {
                // If two clusters use the storage, another agent of the same name may have disturbed the first attempt.
                Err(_) => probe::attempt(store, &node.me(), &self.instance).await,
                done => done,
            }
        };
        let ended = timeout(TRIAL, trial).await;
        let ended =
            ended.unwrap_or_else(|_| Err(anyhow::anyhow!("no write, read and list within {} s", TRIAL.as_secs())));
        let (failed, result) = match ended {
            Ok(probe::Tried::All) => (None, Ok(())),
            Ok(probe::Tried::NotDeleted(error)) => {
                tracing::warn!("the storage can be used, but nothing can be deleted from it: {error:#}");
                (Some(format!("{error:#}")), Ok(()))
            }
            Err(error) => (Some(format!("{error:#}")), Err(error)),
        };
        self.tried = Some((Instant::now(), failed));
        result
    }
}

/// Checks the storage. A new storage without a mark is usable, too, because the first backup writes the mark.
async fn look(node: &Node, config: &Config) -> Result<Arc<dyn Storage>> {
    let looking = async {
        let me = node.me();
        let way = Way::new(&config.storage, &me).briefly();
        let (store, probe) = used_before::find(&node.control, &way).await?;
        // An earlier version or the original has already marked this storage.
        if probe == Probe::Initialised && node.in_leader_rs {
            used_before::remember(&node.control, &config.storage).await?;
        }
        Ok(store)
    };
    match timeout(LOOK, looking).await {
        Ok(seen) => seen,
        Err(_) => anyhow::bail!("the storage did not answer within {} s", LOOK.as_secs()),
    }
}
