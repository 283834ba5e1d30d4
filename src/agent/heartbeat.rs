//! This node's line in `pbmAgents`: every 5 s, and at once when its storage becomes usable.

use super::{node::Node, storage_watch::StorageWatch};
use crate::control::HEARTBEAT;
use crate::model::{
    agent::{AgentStat, SubsysStatus},
    names::PBM_VERSION,
};
use crate::mongo::{admin::explain, login};
use crate::preflight::grants;
use anyhow::Result;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it is said that a second agent writes the line.
const REPEAT: Duration = Duration::from_secs(60);
/// How often the warning that there is no majority is repeated.
const STARVED_REPEAT: Duration = Duration::from_secs(300);
/// How long a second agent counts as there after it was seen.
const TWIN: Duration = Duration::from_secs(15);
/// How often it is asked what the user may do.
const LOGIN_CHECK: Duration = Duration::from_secs(60);
/// How often the warning about the user's missing privileges is repeated.
const LACKS_REPEAT: Duration = Duration::from_secs(3600);
/// The shortest pause between two beats when the bell rings a lot.
const BREATH: Duration = Duration::from_millis(250);

/// What is remembered from beat to beat.
struct Line {
    /// Tells this run from others.
    instance: String,
    /// The server's version when it answered last.
    server: String,
    written: bool,
    storage: StorageWatch,
    /// When somebody else's line was found in place of ours, and when that was said.
    twin: Option<Instant>,
    warned: Option<Instant>,
    /// The last warning that the majority confirms nothing: its reason and its time.
    starved: Option<(String, Instant)>,
    /// What the user may not do, and when the server was last asked about it.
    lacks: Vec<String>,
    asked: Option<Instant>,
    /// When the last warning about the missing privileges was logged.
    complained: Option<Instant>,
}

/// Writes the line until `stop`.
pub(super) async fn keep(node: Arc<Node>, stop: CancellationToken) {
    let instance = format!("{:016x}", rand::random::<u64>());
    let storage = StorageWatch::new(&instance);
    let server = node.version.server.clone();
    let mut line = Line {
        instance,
        server,
        written: false,
        storage,
        twin: None,
        warned: None,
        starved: None,
        lacks: Vec::new(),
        asked: None,
        complained: None,
    };
    loop {
        let mut waiter = node.control.bell.waiter();
        let started = Instant::now();
        let was_ok = line.storage.status.ok;
        let first = !line.written;
        match line.beat(&node).await {
            // Somebody may wait for this agent to be fit.
            Ok(()) if first || line.storage.status.ok != was_ok => node.control.bell.ring().await,
            Ok(()) => {}
            Err(error) => tracing::warn!("heartbeat: {}", explain(&error)),
        }
        let was_ok = line.storage.status.ok;
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
                if line.storage.changed(&node).await {
                    break;
                }
            }
        }
    }
}

impl Line {
    async fn beat(&mut self, node: &Node) -> Result<()> {
        let mut stat = describe(node, &mut self.server).await;
        // This comes before anything that waits for the majority.
        self.warn_of_starvation(node, &stat.no_majority);
        if let Some(before) = node.rename(&stat.n) {
            tracing::info!("the replica set calls this node {} now, no longer {before}", stat.n);
            // Without this removal the node would seem to be there twice, once with a lost agent.
            node.control.agents.remove(&node.rs, &before).await?;
            self.written = false;
        }
        self.storage.check(node).await;
        self.look_at_login(node).await;
        stat.stors = self.storage.status.clone();
        stat.probe = self.storage.trial();
        stat.space = self.storage.space;
        stat.lacks.clone_from(&self.lacks);
        stat.shared.clone_from(&node.shared.borrow());
        stat.instance.clone_from(&self.instance);
        stat.doubled = self.twin.is_some_and(|seen| seen.elapsed() < TWIN);
        // The configuration was just read.
        stat.hb = node.control.time_of_last_call().await?;
        stat.pbms = SubsysStatus::usable();
        let before = node.control.agents.put(&stat).await?;
        // Until the first line is written, the one of an earlier run is there.
        if self.written && before.is_some_and(|instance| instance != self.instance) {
            self.twin = Some(Instant::now());
            if self.warned.is_none_or(|at| at.elapsed() >= REPEAT) {
                self.warned = self.twin;
                tracing::warn!("another pbm-agent writes the line of {}: stop one of them", node.me());
            }
        }
        self.written = true;
        Ok(())
    }

    /// Logs that the majority confirms nothing: at once and then at intervals. Also logs when the majority confirms writes
    /// again.
    fn warn_of_starvation(&mut self, node: &Node, why: &str) {
        if why.is_empty() {
            if self.starved.take().is_some() {
                tracing::info!("replica set {} has a majority again", node.rs);
            }
            return;
        }
        if self.starved.as_ref().is_none_or(|(said, at)| said != why || at.elapsed() >= STARVED_REPEAT) {
            self.starved = Some((why.to_owned(), Instant::now()));
            tracing::warn!("replica set {}: {}", node.rs, node.starved(why));
        }
    }

    /// What the user of this agent may not do here.
    async fn look_at_login(&mut self, node: &Node) {
        if self.asked.is_some_and(|at| at.elapsed() < LOGIN_CHECK) {
            return;
        }
        self.asked = Some(Instant::now());
        // Everybody may ask this; a node that does not answer is told by its status.
        if let Ok(login) = login::login(&node.client).await {
            let lacking = grants::lacking(&login);
            let lacks: Vec<String> = lacking.iter().map(|grant| grant.title().to_owned()).collect();
            let due = self.complained.is_none_or(|at| at.elapsed() >= LACKS_REPEAT);
            if !lacks.is_empty() && (due || lacks != self.lacks) {
                self.complained = Some(Instant::now());
                tracing::warn!("{}", grants::complaint(&login).unwrap_or_default());
            }
            if lacks.is_empty() && !self.lacks.is_empty() {
                self.complained = None;
                tracing::info!("the user of this agent has all that is needed now");
            }
            self.lacks = lacks;
        }
    }
}

/// The node as it is now; problems are part of the description.
async fn describe(node: &Node, server: &mut String) -> AgentStat {
    let mut stat = AgentStat {
        v: PBM_VERSION.into(),
        own: env!("CARGO_PKG_VERSION").into(),
        rules: AgentStat::RULES,
        nodes: SubsysStatus::usable(),
        ..AgentStat::unknown(&node.rs, &node.me())
    };
    match node.condition().await {
        Ok(condition) => {
            // Only asked of a node that answers: a beat must not wait for the rest of them, one question after another.
            if let Ok(version) = node.version_now().await {
                *server = version.server;
            }
            condition.enter(&mut stat);
            if !condition.name().is_empty() {
                condition.name().clone_into(&mut stat.n);
            }
        }
        Err(error) => stat.nodes = SubsysStatus::broken(explain(&error)),
    }
    stat.mv.clone_from(server);
    stat
}
