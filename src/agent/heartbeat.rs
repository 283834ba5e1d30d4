//! Writes the document of this node in `pbmAgents`: every 5 s, and at once when its storage becomes usable.

use super::{node::Node, storage_watch::StorageWatch};
use crate::backup::physical::place;
use crate::config::resolved::{PhysicalSettings, Resolved};
use crate::control::HEARTBEAT;
use crate::model::{
    agent::{AgentStat, Files, SubsysStatus},
    names::PBM_VERSION,
};
use crate::mongo::{admin::explain, capabilities::Capabilities, login};
use crate::preflight::grants;
use anyhow::Result;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the warning is repeated that a second agent writes the same document.
const REPEAT: Duration = Duration::from_secs(60);
/// How often the warning that there is no majority is repeated.
const STARVED_REPEAT: Duration = Duration::from_secs(300);
/// How long a second agent counts as running after its document was last seen.
const TWIN: Duration = Duration::from_secs(15);
/// How often the server is asked for the privileges of the user.
const LOGIN_CHECK: Duration = Duration::from_secs(60);
/// How often the warning about the user's missing privileges is repeated.
const LACKS_REPEAT: Duration = Duration::from_secs(3600);
/// The shortest pause between two heartbeats when the bell rings often.
const BREATH: Duration = Duration::from_millis(250);

/// The state that is kept between two heartbeats.
struct Line {
    /// A random text that identifies this run of the agent.
    instance: String,
    /// The server's version from its last answer.
    server: String,
    written: bool,
    storage: StorageWatch,
    /// When another agent's document was last found in place of ours, and when the last warning about it was logged.
    twin: Option<Instant>,
    warned: Option<Instant>,
    /// The reason and the time of the last warning that no majority confirms writes.
    starved: Option<(String, Instant)>,
    /// The privileges that the user lacks, and when the server was last asked for them.
    lacks: Vec<String>,
    asked: Option<Instant>,
    /// When the last warning about the missing privileges was logged.
    complained: Option<Instant>,
    files: FilesWatch,
}

/// What is known of the node's data files.
#[derive(Default)]
struct FilesWatch {
    known: Option<Files>,
    looked: Option<Instant>,
    settings: Option<PhysicalSettings>,
}

/// How often it is looked whether the data files can be copied, and how often while they can't.
const FILES_CHECK: Duration = Duration::from_secs(300);
const FILES_AGAIN: Duration = Duration::from_secs(30);
/// How long that may take.
const FILES_LIMIT: Duration = Duration::from_secs(5);

impl FilesWatch {
    /// Looks at the files when it is time for it. The folder may be on a disk that hangs, so it does not wait for long.
    async fn check(&mut self, node: &Node) {
        let config = node.config.borrow().clone().unwrap_or_default();
        let settings = Resolved::of(&config).backup.physical;
        let works = self.known.as_ref().is_some_and(|files| files.e.is_empty());
        let every = if works { FILES_CHECK } else { FILES_AGAIN };
        let is_new = self.settings.as_ref() != Some(&settings);
        if !is_new && self.looked.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.looked = Some(Instant::now());
        let me = node.me();
        let look = place::describe(&node.client, &settings, &me);
        self.known = Some(match tokio::time::timeout(FILES_LIMIT, look).await {
            Ok(files) => files,
            Err(_) => Files {
                e: format!("they could not be looked at within {} s", FILES_LIMIT.as_secs()),
                ..Files::default()
            },
        });
        self.settings = Some(settings);
    }
}

/// Writes the document regularly until `stop`.
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
        files: FilesWatch::default(),
    };
    loop {
        let mut waiter = node.control.bell.waiter();
        let started = Instant::now();
        let was_ok = line.storage.status.ok;
        let first = !line.written;
        match line.beat(&node).await {
            // Another process may wait until this agent can work.
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
            // The first configuration must not wait for the next regular heartbeat, because backups need the status of
            // its storage. The bell may ring only once for it, so the check always happens after the pause.
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
        // The warning comes before the first call that waits for the majority.
        self.warn_of_starvation(node, &stat.no_majority);
        if let Some(before) = node.rename(&stat.n) {
            tracing::info!("the replica set calls this node {} now, no longer {before}", stat.n);
            // Without this removal the node would have two documents, one of them of an agent that seems lost.
            node.control.agents.remove(&node.rs, &before).await?;
            self.written = false;
        }
        self.storage.check(node).await;
        self.look_at_login(node).await;
        self.files.check(node).await;
        stat.files.clone_from(&self.files.known);
        stat.stors = self.storage.status.clone();
        stat.probe = self.storage.trial();
        stat.space = self.storage.space;
        stat.lacks.clone_from(&self.lacks);
        stat.shared.clone_from(&node.shared.borrow());
        stat.instance.clone_from(&self.instance);
        stat.doubled = self.twin.is_some_and(|seen| seen.elapsed() < TWIN);
        // The configuration was read just before, so the time is up to date.
        stat.hb = node.control.time_of_last_call().await?;
        stat.pbms = SubsysStatus::usable();
        let before = node.control.agents.put(&stat).await?;
        // Before the first write, the document is that of an earlier run.
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

    /// Logs a warning when no majority confirms writes, at once and then at intervals. Also logs when a majority
    /// confirms writes again.
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

    /// Reads which privileges the user of this agent lacks.
    async fn look_at_login(&mut self, node: &Node) {
        if self.asked.is_some_and(|at| at.elapsed() < LOGIN_CHECK) {
            return;
        }
        self.asked = Some(Instant::now());
        // Every user may make this call. If the node does not answer, its status shows that.
        if let Ok(login) = login::login(&node.client).await {
            let asked = asked_of(node).await;
            let lacking = grants::lacking(&login, asked);
            let lacks: Vec<String> = lacking.iter().map(|grant| grant.title().to_owned()).collect();
            let due = self.complained.is_none_or(|at| at.elapsed() >= LACKS_REPEAT);
            if !lacks.is_empty() && (due || lacks != self.lacks) {
                self.complained = Some(Instant::now());
                tracing::warn!("{}", grants::complaint(&login, asked).unwrap_or_default());
            }
            if lacks.is_empty() && !self.lacks.is_empty() {
                self.complained = None;
                tracing::info!("the user of this agent has all that is needed now");
            }
            self.lacks = lacks;
        }
    }
}

/// What the cluster asks of the user besides. Nothing if that can't be found out now.
async fn asked_of(node: &Node) -> grants::Asked {
    let (version, cluster) = tokio::join!(node.version_now(), node.cluster());
    let able = version.ok().and_then(|it| Capabilities::read(&it.server, &it.fcv));
    let shards = cluster.map_or(0, |it| it.members.values().filter(|member| it.sharded && !member.config).count());
    grants::Asked::of(able, shards)
}

/// Describes the present state of the node. Problems are part of the description.
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
            // The other calls are made only if the node has answered the first one, so that a heartbeat does not wait
            // for one time-out after another.
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
