//! The things that every part of an agent uses: its mongod, the leader replica set, its settings.

use super::{handover::Handover, heartbeat_thread::Pulse};
use crate::control::Control;
use crate::log::DbSink;
use crate::model::{
    agent::Tenant,
    backup::BackupMeta,
    config::{Config, StorageConf},
    lock::LockHeader,
    rate::Rate,
};
use crate::mongo::{
    self, Hello, Purpose, Server,
    admin::{self, ReplStatus},
    majority,
};
use crate::storage::{Storage, ranges::Downloads, rate::Pace};
use crate::topo::{
    cluster::{self, Cluster},
    condition::{self, Condition},
    identity::{self, Identity},
};
use crate::{
    config,
    storages::{
        place,
        used_before::{self, Way},
    },
};
use anyhow::{Context, Result};
use bson::Timestamp;
use mongodb::Client;
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The connections and the state of one agent. All handles are cheap to clone and reconnect by themselves.
#[derive(Debug)]
pub(super) struct Node {
    /// A direct connection to this agent's own mongod.
    pub client: Client,
    /// The same mongod, for running commands.
    pub mongod: Arc<dyn Server>,
    /// A client that finds the primary of this node's replica set.
    pub primary: Client,
    /// The control collections, through the leader replica set's primary.
    pub control: Control,
    /// The thread that sends heartbeats.
    pub pulse: Pulse,
    /// The main configuration that this agent read last, at most a heartbeat ago.
    pub config: watch::Sender<Option<Config>>,
    /// Other clusters that make backups on the main storage, if this agent has noticed them.
    pub shared: watch::Sender<Vec<Tenant>>,
    /// Work for which this agent lets go of its cluster.
    pub handover: Handover,
    /// The agent's connection string.
    pub uri: mongo::Uri,
    /// Name of this node's replica set.
    pub rs: String,
    /// `host:port` as the replica set names this node; a reconfiguration can give it another name.
    me: RwLock<String>,
    /// The version at the start of the agent. Operations call [`Node::version_now`] instead.
    pub version: admin::Version,
    /// Name of the leader replica set.
    pub leader_rs: String,
    /// Whether this node belongs to the leader replica set.
    pub in_leader_rs: bool,
    /// Passes this agent's log lines on to the database.
    pub log: DbSink,
    /// How many collections are dumped at once, if the backup sets no number.
    pub parallel: usize,
}

impl Node {
    pub async fn connect(
        uri: &str,
        leader: Client,
        parallel: Option<usize>,
        log: DbSink,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let client = mongo::connect(uri, Purpose::Node { app: "pbm" }).await?;
        let primary = mongo::connect(uri, Purpose::Leader { app: "pbm" }).await?;
        let hello = mongo::hello(&client).await.context("connect to this agent's mongod")?;
        hello.must_be_replica_set()?;
        let leader_rs = mongo::hello(&leader).await.context("connect to the leader replica set")?.set_name;
        Ok(Self {
            version: admin::version(&client).await?,
            control: Control::new(leader),
            pulse: Pulse::start(uri).await?,
            config: watch::Sender::new(None),
            shared: watch::Sender::new(Vec::new()),
            handover: Handover::new(stop),
            uri: mongo::Uri::new(uri),
            in_leader_rs: leader_rs == hello.set_name,
            leader_rs,
            rs: hello.set_name,
            me: RwLock::new(hello.me),
            mongod: Arc::new(client.clone()),
            client,
            primary,
            log,
            parallel: parallel.unwrap_or_else(default_parallel),
        })
    }

    /// `host:port` as the replica set names this node now. Anything long-lived, such as a lock, keeps the name with
    /// which it began.
    pub fn me(&self) -> String {
        self.me.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the name that the replica set now has for this node. Returns the previous name if the name has changed.
    pub fn rename(&self, name: &str) -> Option<String> {
        let mut me = self.me.write().unwrap_or_else(PoisonError::into_inner);
        (!name.is_empty() && *me != name).then(|| std::mem::replace(&mut *me, name.to_owned()))
    }

    /// The connection string; it may hold a password.
    pub fn uri(&self) -> &str {
        self.uri.as_str()
    }

    pub async fn hello(&self) -> Result<Hello> {
        mongo::hello(self.mongod.as_ref()).await
    }

    /// Returns the state of the replica set as this node sees it.
    pub async fn repl_status(&self) -> Result<ReplStatus> {
        admin::repl_status(self.mongod.as_ref()).await
    }

    /// Returns the condition of this node.
    pub async fn condition(&self) -> Result<Condition> {
        condition::of(self.mongod.as_ref()).await
    }

    /// Returns the server version and the feature compatibility version. Both can change while the agent runs.
    pub async fn version_now(&self) -> Result<admin::Version> {
        admin::version(self.mongod.as_ref()).await
    }

    /// Explains to operators what it means that this node's replica set has no majority.
    pub fn starved(&self, why: &str) -> String {
        if majority::is_asked_for(&self.client) {
            format!("{why}. Backups and slicing wait until the majority confirms what they read and write")
        } else {
            format!(
                "{why}. With w=1 in the connection string backups and slicing go on, and what they save can be rolled back"
            )
        }
    }

    /// Returns why the majority of this node's replica set, or of the leader replica set, confirms no writes. Returns
    /// `None` if this connection does not wait for the majority.
    pub async fn lacks_majority(&self) -> Option<String> {
        if !majority::is_asked_for(&self.client) {
            return None;
        }
        if let Some(why) = majority::lack(&self.client).await {
            return Some(format!("replica set {}: {}", self.rs, self.starved(&why)));
        }
        if self.in_leader_rs {
            return None;
        }
        let why = majority::lack(self.control.client()).await?;
        Some(format!("the leader replica set: {}", self.starved(&why)))
    }

    /// Returns the condition of the member at `host`, in any replica set.
    pub async fn look_at(&self, host: &str, patience: Duration) -> Result<Condition> {
        condition::at(self.uri.as_str(), host, "pbm", patience).await
    }

    /// Returns the replica sets of the cluster.
    pub async fn cluster(&self) -> Result<Cluster> {
        cluster::read(self.control.leader()).await
    }

    /// Opens a storage to write backups or oplog to it, at a limited rate. Marks a new storage. Refuses a storage that
    /// was used before if it is not the same storage now ([`crate::storages::used_before`]).
    pub async fn open_to_write(&self, settings: &StorageConf, limit: Rate) -> Result<Arc<dyn Storage>> {
        let me = self.me();
        let way = Way::new(settings, &me).paced(limit.per_second().map(Pace::new));
        used_before::prepare(&self.control, &way).await
    }

    /// Opens a storage to delete from it, if it is the storage that was used before. There is nothing to delete on a
    /// new storage.
    pub async fn open_to_delete(&self, settings: &StorageConf) -> Result<Arc<dyn Storage>> {
        Ok(used_before::find(&self.control, &Way::new(settings, &self.me())).await?.0)
    }

    /// Opens a storage to read large objects from it.
    pub async fn open_to_read(&self, settings: &StorageConf, downloads: Downloads) -> Result<Arc<dyn Storage>> {
        config::open::open_to_read(settings, &self.me(), downloads).await
    }

    /// Opens the storage that holds a backup, to delete the backup.
    pub async fn open_backup(&self, backup: &BackupMeta, main: &Config) -> Result<Arc<dyn Storage>> {
        self.open_to_delete(&place::of_backup(&self.control, backup, &main.storage).await?).await
    }

    /// Returns the id of the cluster, if it has one.
    pub async fn identity(&self) -> Result<Option<Identity>> {
        identity::read(self.control.client(), &self.cluster().await?).await
    }

    /// Reads the main configuration and passes it to the watchers of `config`.
    pub async fn read_config(&self) -> Result<Option<Config>> {
        let config = self.control.config.main().await?;
        self.config.send_if_modified(|seen| {
            let new = *seen != config;
            let mistakes = |config: &Option<Config>| config.as_ref().map_or(Vec::new(), |it| it.mistakes.clone());
            let known = mistakes(seen);
            for mistake in mistakes(&config).iter().filter(|mistake| !known.contains(mistake)) {
                tracing::warn!("in the stored configuration {mistake}; `pbm config --set` corrects it");
            }
            seen.clone_from(&config);
            new
        });
        Ok(config)
    }

    /// Returns the lock document of this replica set for an operation.
    pub fn lock_header(&self, kind: &str, opid: &str, epoch: Option<Timestamp>) -> LockHeader {
        LockHeader {
            kind: kind.to_owned(),
            replset: self.rs.clone(),
            node: self.me(),
            opid: opid.to_owned(),
            epoch: Some(epoch.unwrap_or(Timestamp { time: 0, increment: 0 })),
        }
    }
}

#[cfg(test)]
impl Node {
    /// Creates a node whose servers are in memory.
    pub fn in_memory(control: Control, pulse: Pulse, mongod: Arc<dyn Server>, [rs, me, leader_rs]: [&str; 3]) -> Self {
        let nowhere = crate::mongo::nowhere::client();
        let version = admin::Version { server: "7.0.0".into(), fcv: "7.0".into(), psmdb: None };
        Self {
            client: nowhere.clone(),
            mongod,
            primary: nowhere,
            control,
            pulse,
            config: watch::Sender::new(None),
            shared: watch::Sender::new(Vec::new()),
            handover: Handover::default(),
            uri: mongo::Uri::new(""),
            rs: rs.to_owned(),
            me: RwLock::new(me.to_owned()),
            version,
            leader_rs: leader_rs.to_owned(),
            in_leader_rs: rs == leader_rs,
            log: DbSink::new(),
            parallel: 1,
        }
    }
}

/// Returns half the number of cores, but at least one.
fn default_parallel() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1)
}
