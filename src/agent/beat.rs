//! This node's line in `pbmAgents`: every 5 s, and at once when its storage becomes usable.

use super::{node::Node, sharing};
use crate::config;
use crate::control::HEARTBEAT;
use crate::model::{
    agent::{AgentStat, SubsysStatus},
    config::{Config, StorageConf},
    names::PBM_VERSION,
};
use crate::mongo::admin;
use crate::storage::{self, Storage};
use anyhow::Result;
use bson::Timestamp;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a storage that works is looked at.
const STORAGE_CHECK: Duration = Duration::from_secs(15);
/// How long such a look may take: a storage that hangs must not stop the heartbeat.
const LOOK: Duration = Duration::from_secs(5);
/// How often other clusters' marks on the storage are looked for.
const SHARING_CHECK: Duration = Duration::from_secs(60);
/// How often a line is compared with what is stored, to find a second agent on the same mongod.
const PARALLEL_CHECK: Duration = Duration::from_secs(60);
/// The shortest pause between two beats when the bell rings a lot.
const BREATH: Duration = Duration::from_millis(250);

/// Writes the line until `stop`.
pub(super) async fn keep(node: Arc<Node>, stop: CancellationToken) {
    let mut storage = StorageWatch { conf: None, checked: None, shared: None, status: SubsysStatus::default() };
    let mut written: Option<Timestamp> = None;
    let mut compared = Instant::now();
    loop {
        let mut waiter = node.control.bell.waiter();
        let started = Instant::now();
        if compared.elapsed() >= PARALLEL_CHECK {
            compared = Instant::now();
            warn_if_not_alone(&node, written).await;
        }
        let was_ok = storage.status.ok;
        match beat(&node, &mut storage).await {
            Ok(hb) => {
                // Somebody may wait for this agent to be fit.
                if written.is_none() || storage.status.ok != was_ok {
                    node.control.bell.ring().await;
                }
                written = Some(hb);
            }
            Err(error) => tracing::warn!("heartbeat: {error:#}"),
        }
        let was_ok = storage.status.ok;
        loop {
            let left = HEARTBEAT.saturating_sub(started.elapsed());
            tokio::select! {
                () = stop.cancelled() => return,
                () = waiter.next_within(left) => {}
            }
            if started.elapsed() >= HEARTBEAT {
                break;
            }
            // The first configuration must not wait for the next regular beat: backups need the storage status. The
            // bell may ring only once for it, so it is looked for after the breath, not instead.
            if !was_ok {
                tokio::time::sleep(BREATH.saturating_sub(started.elapsed())).await;
                if storage.changed(&node).await {
                    break;
                }
            }
        }
    }
}

async fn warn_if_not_alone(node: &Node, written: Option<Timestamp>) {
    if let (Some(written), Ok(Some(stored))) = (written, node.control.agents.heartbeat(&node.rs, &node.me).await)
        && stored != written
    {
        tracing::warn!("another pbm-agent writes the line of {}: stop one of them", node.me);
    }
}

async fn beat(node: &Node, storage: &mut StorageWatch) -> Result<Timestamp> {
    let mut stat = describe(node).await;
    storage.check(node).await;
    stat.stors = storage.status.clone();
    stat.shared.clone_from(&node.shared.borrow());
    // The configuration was just read.
    stat.hb = node.control.time_of_last_call().await?;
    stat.pbms = SubsysStatus::usable();
    node.control.agents.put(&stat).await?;
    Ok(stat.hb)
}

/// The node as it is now; problems are part of the description.
async fn describe(node: &Node) -> AgentStat {
    let mut stat = AgentStat {
        v: PBM_VERSION.into(),
        own: env!("CARGO_PKG_VERSION").into(),
        mv: node.version.server.clone(),
        nodes: SubsysStatus::usable(),
        ..AgentStat::unknown(&node.rs, &node.me)
    };
    let facts = async {
        let hello = node.hello().await?;
        let status = admin::repl_status(&node.client).await?;
        anyhow::Ok((hello, status))
    };
    match facts.await {
        Ok((hello, status)) => {
            stat.hdn = hello.hidden;
            stat.psv = hello.passive;
            stat.arb = hello.arbiter_only;
            stat.delay = i32::try_from(hello.secondary_delay_secs).unwrap_or(i32::MAX);
            stat.repl_lag = i32::try_from(status.lag_secs()).unwrap_or(i32::MAX);
            if let Some(me) = status.me() {
                stat.s = me.state;
                stat.state.clone_from(&me.state_str);
            }
        }
        Err(error) => stat.nodes = SubsysStatus::broken(format!("{error:#}")),
    }
    stat
}

/// Is the configured storage usable from here?
struct StorageWatch {
    conf: Option<StorageConf>,
    checked: Option<Instant>,
    /// When other clusters' marks were looked for.
    shared: Option<Instant>,
    status: SubsysStatus,
}

impl StorageWatch {
    /// Another storage is configured than the one that was checked.
    async fn changed(&self, node: &Node) -> bool {
        node.control.config.main().await.is_ok_and(|now| now.map(|c| c.storage) != self.conf)
    }

    async fn check(&mut self, node: &Node) {
        let config = match node.read_config().await {
            Ok(Some(config)) => config,
            Ok(None) => {
                self.conf = None;
                self.status = SubsysStatus::broken("no configuration yet; run `pbm config --file`");
                return;
            }
            Err(error) => {
                self.status = SubsysStatus::broken(format!("{error:#}"));
                return;
            }
        };
        let recent = self.checked.is_some_and(|at| at.elapsed() < STORAGE_CHECK);
        if self.status.ok && recent && self.conf.as_ref() == Some(&config.storage) {
            return;
        }
        let moved = self.conf.as_ref() != Some(&config.storage);
        self.status = match look(node, &config).await {
            Ok(store) => {
                let due = moved || self.shared.is_none_or(|at| at.elapsed() >= SHARING_CHECK);
                // A failure shows at the next backup; the storage itself is usable.
                let looking = sharing::look(node, store.as_ref(), &config.storage);
                if due && node.in_leader_rs && matches!(tokio::time::timeout(LOOK, looking).await, Ok(Ok(()))) {
                    self.shared = Some(Instant::now());
                }
                SubsysStatus::usable()
            }
            Err(error) => SubsysStatus::broken(format!("{error:#}")),
        };
        self.conf = Some(config.storage);
        self.checked = Some(Instant::now());
    }
}

/// A storage without the mark is usable too: the first backup writes it.
async fn look(node: &Node, config: &Config) -> Result<Arc<dyn Storage>> {
    let looking = async {
        let store = config::open::open_briefly(&config.storage, &node.me).await?;
        match store.stat(crate::layout::INIT).await {
            Ok(_) | Err(storage::Error::NotFound { .. }) => Ok(store),
            Err(error) => Err(error.into()),
        }
    };
    match tokio::time::timeout(LOOK, looking).await {
        Ok(seen) => seen,
        Err(_) => anyhow::bail!("the storage did not answer within {} s", LOOK.as_secs()),
    }
}
