//! Is the configured storage usable from this node?
//!
//! It is looked at every 15 s, as the original does, and at every beat while it is not usable. Looking tells that it is
//! there and no more, so every few minutes, and when another storage was configured, a small object is written, read,
//! listed and deleted.

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

/// How often a storage that works is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How long such a look may take: a storage that hangs must not stop the heartbeat.
const LOOK: Duration = Duration::from_secs(5);
/// How often a storage that works is tried: four requests each time.
const TRY_EVERY: Duration = Duration::from_secs(300);
/// How long a trial may take.
const TRIAL: Duration = Duration::from_secs(10);
/// How often other clusters' marks on the storage are looked for.
const SHARING_CHECK: Duration = Duration::from_secs(60);

/// What is known of the storage.
pub(super) struct StorageWatch {
    /// Of the agent's run.
    instance: String,
    conf: Option<StorageConf>,
    checked: Option<Instant>,
    /// When other clusters' marks were looked for.
    shared: Option<Instant>,
    /// When an object was written, and what then did not work.
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

    /// Another storage is configured than the one that was checked.
    pub async fn changed(&self, node: &Node) -> bool {
        node.control.config.main().await.is_ok_and(|now| now.map(|c| c.storage) != self.conf)
    }

    /// The newest trial of the storage.
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
                // A failure shows at the next backup; the storage itself is usable.
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

    /// Writes, reads, lists and deletes, if that is due. What can't be deleted can still hold backups.
    async fn try_out(&mut self, node: &Node, store: &dyn Storage, conf: &StorageConf) -> Result<()> {
        let due = !self.status.ok || self.tried.as_ref().is_none_or(|(at, _)| at.elapsed() >= TRY_EVERY);
        // That one keeps nothing.
        if !due || conf.is_of(StoreKind::Blackhole) {
            return Ok(());
        }
        let trial = async {
            match probe::attempt(store, &node.me(), &self.instance).await {
                // Another agent of the same name, on a storage of two clusters, may have been in the way.
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

/// A new storage without the mark is usable too: the first backup writes it.
async fn look(node: &Node, config: &Config) -> Result<Arc<dyn Storage>> {
    let looking = async {
        let me = node.me();
        let way = Way::new(&config.storage, &me).briefly();
        let (store, probe) = used_before::find(&node.control, &way).await?;
        // An earlier version or the original has marked this storage.
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
