//! Keeps slicing the oplog of this replica set: checks the facts, takes the lock or leaves it to another agent, and
//! slices until there is a reason to stop.
//!
//! # Overview
//! Every agent checks every few seconds whether an agent slices its replica set; [`crate::pitr::election`] decides
//! whether this agent has to begin. The agent that holds the lock slices ([`slicing`]). It keeps checking the
//! configuration, its own fitness and better candidates, and publishes its progress.
//!
//! While agents of the original live in the cluster, a leader decides who slices, and when all slicers have to stop
//! ([`crate::pitr::beside`]). If the leader is one of our agents, `naming` does the leader's part.
//!
//! # Cancellation
//! When slicing has to end (because it is switched off, of a signal, or of a better node), a last chunk is stored and
//! the lock is released, so the next slicer has no backlog. Only if the lock is lost, nothing more is stored.
//!
//! # Crash
//! The lock becomes stale after 30 s. The next agent on the same node notices sooner that its lock has no holder. Then
//! another slicer begins where the index of chunks ends.

use super::{
    lease::FENCE,
    named::{self, Named},
    node::Node,
    sharing,
    slice_begin::{self, Elsewhere},
};
use crate::backup::cut;
use crate::config::resolved::{PitrSettings, Resolved};
use crate::control::HEARTBEAT;
use crate::layout::format_ts;
use crate::log::operation;
use crate::model::{
    agent::AgentStat,
    command::name,
    config::{self, Config},
    lock::{Lock, LockHeader, STALE_SECS, is_stale},
    pitr::SlicerState,
    rate::Rate,
    serde_help::zero_ts,
};
use crate::mongo::admin::explain;
use crate::oplog::slice;
use crate::pitr::{
    begin::{self, Begin},
    beside::{Mix, Rules},
    election::{self, Rank},
    slicing::{self, Progress, Settings, Slicing},
    timeline::Line,
};
use crate::topo::cluster;
use anyhow::{Context, Result, bail};
use bson::Timestamp;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// The time after which a warning is repeated if its reason still exists.
const REPEAT: Duration = Duration::from_secs(300);
/// How long a replica set may take to confirm the entry that ends a flush.
const FLUSH: Duration = Duration::from_secs(5);
/// The shortest time between two checks when the bell rings often.
const BREATH: Duration = Duration::from_millis(250);
/// Time between two checks while this node waits for its nomination. It is short because a nomination round may be
/// short.
const NAMED_LOOK: Duration = Duration::from_secs(1);

/// Slices, whenever it is this agent's turn, until `stop`.
pub(super) async fn keep(node: Arc<Node>, stop: CancellationToken) {
    let mut watch = Watch { seen: None, stood_back: None, waits_to_be_named: false };
    let mut config = node.config.subscribe();
    while !stop.is_cancelled() {
        let now = config.borrow_and_update().clone();
        let span = operation(name::PITR, "", "", now.as_ref().and_then(|c| c.epoch));
        if let Some(conf) = now.filter(Config::pitr_is_on) {
            let turn = async {
                match watch.my_turn(&node, &conf).await {
                    Ok(Some((lock, candidates))) => {
                        slice(&node, lock, candidates, conf, watch.stood_back.map(|it| it.0), &stop).await
                    }
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                }
            };
            match turn.instrument(span.clone()).await {
                Ok(()) => {}
                Err(error) => match error.downcast_ref::<Elsewhere>() {
                    Some(elsewhere) => {
                        span.in_scope(|| tracing::warn!("{elsewhere}"));
                        watch.stood_back = Some((elsewhere.saved, Instant::now() + elsewhere.patience()));
                    }
                    None => span.in_scope(|| tracing::error!("slicing of the oplog: {}", explain(&error))),
                },
            }
        } else {
            watch = Watch { seen: None, stood_back: None, waits_to_be_named: false };
        }
        let pause = if watch.waits_to_be_named { NAMED_LOOK } else { HEARTBEAT };
        let mut waiter = node.control.bell.waiter();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = config.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
            // A slicer that ends rings the bell. While PITR is off, no agent has to react to it.
            () = waiter.next_within(HEARTBEAT), if config.borrow().as_ref().is_some_and(Config::pitr_is_on) => {
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

fn pitr(config: &Config) -> PitrSettings {
    Resolved::of(config).pitr
}

/// The last slicing lock that was seen, and the time since which it has not changed.
struct Watch {
    seen: Option<(Option<Lock>, Instant)>,
    /// The end of the timeline for which this agent left the work to other members, which may have more of the oplog,
    /// and until when it does so.
    stood_back: Option<(Timestamp, Instant)>,
    /// Whether no agent slices and this node waits until a leader nominates a slicer.
    waits_to_be_named: bool,
}

impl Watch {
    /// Takes the lock if no agent has it and it is this agent's turn. Also returns the candidates.
    async fn my_turn(&mut self, node: &Node, config: &Config) -> Result<Option<(LockHeader, Vec<String>)>> {
        if self.stood_back.is_some_and(|(_, until)| Instant::now() < until) {
            return Ok(None);
        }
        let lock = node.control.locks.slicer_of(&node.rs).await?;
        let since = match &self.seen {
            Some((seen, since)) if *seen == lock => *since,
            _ => self.seen.insert((lock.clone(), Instant::now())).1,
        };
        let now = node.control.time_of_last_call().await?;
        self.waits_to_be_named = false;
        if let Some(lock) = &lock {
            // A lock of this node without heartbeats belongs to an agent that was killed here.
            let orphan = lock.header.node == node.me() && since.elapsed() > HEARTBEAT * 2;
            if !orphan && !is_stale(lock.hb, now) {
                return Ok(None);
            }
        }
        if let Some(other) = node.control.locks.of(&node.rs).await?
            && other.pauses_slicing(now)
        {
            tracing::debug!("slicing waits for the end of {} (OPID {})", other.header.kind, other.header.opid);
            return Ok(None);
        }
        let conf = pitr(config);
        let agents = node.control.agents.alive_for_slicing(&node.rs, &node.leader_rs, now).await?;
        let mix = Mix::of(&agents, &node.leader_rs, &node.rs);
        let (rank, candidates) = rank(&node.me(), node, &mix, &agents, &conf);
        if let Rank::Unfit(why) = &rank {
            tracing::debug!("this node can't slice: {why}");
        }
        match mix.rules {
            Rules::Own | Rules::OwnBeside => {
                let vacant = if lock.is_some() { Duration::MAX } else { since.elapsed() };
                if !rank.may_take(vacant) {
                    return Ok(None);
                }
            }
            Rules::Named | Rules::NamedByOriginal => {
                self.waits_to_be_named = true;
                if !named::is_named(node, &mix, now, since.elapsed()).await? || matches!(rank, Rank::Unfit(_)) {
                    return Ok(None);
                }
            }
        }
        // The agent's document in `pbmAgents` may be some seconds old.
        if let Some(why) = node.condition().await?.unfit() {
            tracing::debug!("this node can't slice: {why}");
            return Ok(None);
        }
        // The lock is removed only if it has not changed, because its holder may have sent a heartbeat since.
        if let Some(lock) = lock
            && !node.control.locks.remove_silent_slicer(&lock).await?
        {
            return Ok(None);
        }
        let header = LockHeader {
            kind: name::PITR.to_owned(),
            replset: node.rs.clone(),
            node: node.me(),
            opid: String::new(),
            epoch: config.epoch,
        };
        // By the time of a silent cluster the new lock would begin seconds old.
        let now = node.control.advanced_cluster_time().await?;
        if !node.control.locks.try_take_slicing(&header, now).await? {
            return Ok(None);
        }
        if mix.rules.somebody_names() {
            node.control.pitr.claim(&node.rs, &header.node).await?;
        }
        Ok(Some((header, candidates)))
    }
}

/// Returns the position of this node among the candidates. If a leader nominates the slicer, all agents of the replica
/// set are candidates. Otherwise only our agents are, because no leader nominates the original's agents.
fn rank(me: &str, node: &Node, mix: &Mix, agents: &[AgentStat], conf: &PitrSettings) -> (Rank, Vec<String>) {
    let ours_only = !mix.rules.somebody_names();
    let agents: Vec<AgentStat> = agents.iter().filter(|it| !ours_only || !it.is_original()).cloned().collect();
    election::rank(&election::Facts { rs: &node.rs, me, agents: &agents, priority: conf.priority.as_ref() })
}

/// Slices until there is a reason to stop, and then releases the lock.
async fn slice(
    node: &Node,
    lock: LockHeader,
    candidates: Vec<String>,
    config: Config,
    stood_back: Option<Timestamp>,
    stop: &CancellationToken,
) -> Result<()> {
    let result = hold(node, &lock, candidates, config, stood_back, stop).await;
    let why = result.as_ref().err().filter(|error| !error.is::<Elsewhere>()).map(explain).unwrap_or_default();
    let stood_back = result.as_ref().is_err_and(|error| error.is::<Elsewhere>());
    let leave = async {
        named::tell_the_end(node, &lock.node, &why, stood_back).await?;
        node.control.locks.release_slicing(&lock).await
    };
    match tokio::time::timeout(FENCE, leave).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("{}; the slicing lock goes stale after {STALE_SECS} s", explain(&error)),
        Err(_) => tracing::warn!("the control collections don't answer; the slicing lock goes stale"),
    }
    result
}

async fn hold(
    node: &Node,
    lock: &LockHeader,
    candidates: Vec<String>,
    config: Config,
    stood_back: Option<Timestamp>,
    stop: &CancellationToken,
) -> Result<()> {
    let storage = node.open_to_write(&config.storage, Rate::default()).await?;
    if node.cluster().await?.sharded {
        // What is saved of such a cluster can't be restored by this program.
        cluster::refuse_config_shard(node.control.client()).await?;
    }
    if node.in_leader_rs {
        sharing::begin(node, storage.as_ref(), &config.storage).await;
    }
    slicing::adopt(&node.control, storage.as_ref(), &node.rs).await?;
    slicing::drop_contained(&node.control, storage.as_ref(), &node.rs).await?;
    let Begin { at, gap, needs_base } = begin::begin(&slice_begin::facts(node, config.slicing()).await?);
    if let Some(Line { start: saved, .. }) = gap
        && stood_back != Some(saved)
    {
        let others = candidates.iter().filter(|host| **host != lock.node);
        if let Some(host) = slice_begin::reaches_back(node, others, saved).await {
            bail!(Elsewhere { host, saved, candidates: candidates.len() });
        }
    }
    // `at` may be the end of a cluster's backup, which can lie between two entries of this replica set.
    let at = slice::newest_until(&node.client, at).await?.unwrap_or(at);
    if let Some(gap) = gap {
        tracing::error!("{}", slicing::gap_message(gap));
    }
    if needs_base && config.slicing() != config::Slicing::OplogOnly {
        tracing::warn!(
            "no base backup for the timeline that begins at {}: run `pbm backup`, or nothing of it can be restored",
            format_ts(at)
        );
    }
    tracing::debug!("start_ok");
    tracing::info!("slicing the oplog of {} from {}", node.me(), format_ts(at));

    let (settings_in, settings) = watch::channel(settings_of(&config, storage));
    let (progress, progress_out) = watch::channel(Progress { saved: at, error: String::new() });
    let (flush, flush_out) = watch::channel(zero_ts());
    let quit = CancellationToken::new();
    let work = Slicing {
        control: node.control.clone(),
        client: node.client.clone(),
        lock: lock.clone(),
        settings,
        progress,
        flush: flush_out,
        quit: quit.clone(),
    };
    let guard = Guard {
        node,
        lock,
        candidates,
        config,
        settings: settings_in,
        flush,
        progress: progress_out,
        quit,
        oldest: None,
        warned: None,
        named: Named::default(),
    };
    tokio::select! {
        ended = work.run(at) => ended,
        lost = guard.watch(stop) => lost,
    }
}

fn settings_of(config: &Config, storage: Arc<dyn crate::storage::Storage>) -> Settings {
    let PitrSettings { oplog_span, max_loss, compression, level, .. } = pitr(config);
    Settings { span: oplog_span, max_loss, compression, level, storage }
}

/// The checks that run beside the slicing.
struct Guard<'a> {
    node: &'a Node,
    lock: &'a LockHeader,
    candidates: Vec<String>,
    config: Config,
    settings: watch::Sender<Settings>,
    flush: watch::Sender<Timestamp>,
    progress: watch::Receiver<Progress>,
    quit: CancellationToken,
    /// The oldest entry of the oplog when this slicer began.
    oldest: Option<Timestamp>,
    /// When the last warning was logged that the oplog will soon lack unsaved entries.
    warned: Option<Instant>,
    named: Named,
}

/// The result of checking the other agents once: whether this slicer may continue.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    GoesOn,
    /// The slicer ends only if two checks in a row give this verdict, because a single one may be due to a passing
    /// state.
    Doubted(String),
    Ends(String),
}

impl Guard<'_> {
    /// Returns only when the lock is lost.
    async fn watch(mut self, stop: &CancellationToken) -> Result<()> {
        let mut beaten = Instant::now();
        let mut doubted = false;
        let mut due = Instant::now();
        loop {
            let mut waiter = self.node.control.bell.waiter();
            if stop.is_cancelled() {
                self.end("the agent ends");
            }
            let began = Instant::now();
            if began >= due {
                match tokio::time::timeout_at(beaten + FENCE, self.beat()).await {
                    Ok(Ok(verdict)) => {
                        beaten = began;
                        due = began + HEARTBEAT;
                        match &verdict {
                            Verdict::Ends(why) => self.end(why),
                            Verdict::Doubted(why) if doubted => self.end(why),
                            Verdict::Doubted(_) | Verdict::GoesOn => {}
                        }
                        doubted = verdict != Verdict::GoesOn;
                    }
                    Ok(Err(error)) if error.is::<slicing::LockLost>() => return Err(error),
                    Ok(Err(error)) if beaten.elapsed() < FENCE => {
                        tracing::warn!("{}", explain(&error));
                        due = began + Duration::from_secs(1);
                    }
                    Ok(Err(_)) | Err(_) => bail!("the slicing lock could not be refreshed for {} s", FENCE.as_secs()),
                }
            }
            if let Err(error) = self.follow_config().await {
                tracing::warn!("{}", explain(&error));
            }
            match tokio::time::timeout(FLUSH, self.pass_flush_on()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("{}", explain(&error)),
                Err(_) => tracing::warn!("the oplog can't be stored up to now: this replica set takes no write"),
            }
            tokio::select! {
                () = stop.cancelled(), if !self.quit.is_cancelled() => {}
                () = tokio::time::sleep_until(due) => {}
                () = waiter.next_within(HEARTBEAT) => tokio::time::sleep(BREATH).await,
            }
        }
    }

    fn end(&self, why: &str) {
        if !self.quit.is_cancelled() {
            tracing::info!("slicing of the oplog ends: {why}");
            self.quit.cancel();
        }
    }

    /// Writes a heartbeat into the lock, publishes the progress, and checks which other agents could do the work.
    async fn beat(&mut self) -> Result<Verdict> {
        let node = self.node;
        let Some(now) = node.control.beat_slicing(self.lock).await? else { return Err(slicing::LockLost.into()) };
        let agents = node.control.agents.alive_for_slicing(&node.rs, &node.leader_rs, now).await?;
        let mix = Mix::of(&agents, &node.leader_rs, &node.rs);
        let (rank, candidates) = rank(&self.lock.node, node, &mix, &agents, &pitr(&self.config));
        self.candidates = candidates;
        let (oldest, newest) = slice::window(&node.client).await.context("look at the oplog")?;
        let Progress { saved, error } = self.progress.borrow().clone();
        let (rs, me) = (node.rs.clone(), self.lock.node.clone());
        let rolling = *self.oldest.get_or_insert(oldest) != oldest;
        let state = SlicerState { rs, node: me, saved, newest, oldest, rolling, error, hb: now };
        self.warn(&state);
        match mix.rules {
            Rules::Own => node.control.pitr.report(&state, &self.candidates).await?,
            Rules::OwnBeside => node.control.pitr.report_beside(&state, Some(&self.candidates)).await?,
            Rules::Named | Rules::NamedByOriginal => node.control.pitr.report_beside(&state, None).await?,
        }
        self.judge(&mix, &rank, now).await
    }

    /// Decides by the current rules whether this slicer continues.
    async fn judge(&mut self, mix: &Mix, rank: &Rank, now: Timestamp) -> Result<Verdict> {
        let node = self.node;
        let doubts = match rank {
            Rank::Unfit(_) => rank.must_yield(),
            // A nominated slicer does not yield, because only a new nomination shows whether a better candidate takes
            // over.
            _ if mix.rules.somebody_names() => None,
            _ => rank.must_yield(),
        };
        match self.named.must_end(node, mix, &self.lock.node, now).await? {
            Some(why) => Ok(Verdict::Ends(why)),
            None => Ok(doubts.map_or(Verdict::GoesOn, Verdict::Doubted)),
        }
    }

    /// Passes on a request to store the oplog up to the present time. In an idle replica set the oplog may end long
    /// before that time, so an entry is written first.
    async fn pass_flush_on(&self) -> Result<()> {
        let node = self.node;
        let Some(asked) = node.control.locks.asked_to_flush(self.lock).await? else { return Ok(()) };
        if *self.flush.borrow() < asked {
            cut::note(node.control.client(), &node.primary, &node.client, "stored up to here").await?;
            self.flush.send_replace(asked);
        }
        Ok(())
    }

    /// Warns when two thirds of the oplog's window have passed without a chunk, before it is too late.
    fn warn(&mut self, state: &SlicerState) {
        if !state.is_nearly_overtaken() {
            self.warned = None;
        } else if self.warned.is_none_or(|at| at.elapsed() >= REPEAT) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                "{} s of writes are not saved yet and the oplog keeps them for {} s more; after that there is a gap{}",
                state.lag_secs(),
                state.window_left_secs(),
                if state.error.is_empty() {
                    String::new()
                } else {
                    format!(". What stands against it: {}", state.error)
                }
            );
        }
    }

    /// Applies changes of the configuration.
    async fn follow_config(&mut self) -> Result<()> {
        let config = self.node.read_config().await?;
        let Some(config) = config.filter(Config::pitr_is_on) else {
            self.end("point-in-time recovery was switched off");
            return Ok(());
        };
        if config == self.config {
            return Ok(());
        }
        let storage = if config.storage == self.config.storage {
            self.settings.borrow().storage.clone()
        } else {
            self.node.open_to_write(&config.storage, Rate::default()).await?
        };
        self.settings.send_replace(settings_of(&config, storage));
        self.config = config;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sim::{self, Host, Process, World};
    use crate::control::TakeLock;
    use crate::topo::elect::Preference;

    const PRIMARY: Host = Host { rs: "rs1", at: 0 };
    const SECONDARY: Host = Host { rs: "rs1", at: 1 };

    fn watch() -> Watch {
        Watch { seen: None, stood_back: None, waits_to_be_named: false }
    }

    /// Returns the agents of the secondary, which has to slice, and of the primary.
    async fn nodes(world: &Arc<World>) -> [Arc<Node>; 2] {
        let nodes = [SECONDARY, PRIMARY].map(|host| sim::node(world, host, &Process::default()));
        lines(&nodes[0]).await;
        nodes
    }

    async fn lines(node: &Node) {
        for host in Host::all() {
            let hb = node.control.cluster_time().await.expect("the time");
            let line = AgentStat {
                hb,
                own: "1".into(),
                rules: AgentStat::RULES,
                ..AgentStat::healthy(host.rs, &host.name(), if host.at == 0 { 1 } else { 2 })
            };
            node.control.agents.put(&line).await.expect("a line");
        }
        let agents = node.control.agents.all().await.expect("the lines");
        let tiers = crate::topo::elect::field(&agents, "rs1", Preference::default()).tiers;
        assert_eq!(tiers, [[SECONDARY.name()], [PRIMARY.name()]], "the secondary is the better one");
    }

    async fn turn(watch: &mut Watch, node: &Node) -> Option<LockHeader> {
        watch.my_turn(node, &Config::default()).await.expect("an answer").map(|(lock, _)| lock)
    }

    #[tokio::test(start_paused = true)]
    async fn the_best_node_slices_at_once_and_the_next_one_when_nobody_does() {
        let world = World::new(1);
        let [best, next] = nodes(&world).await;
        let (mut of_best, mut of_next) = (watch(), watch());
        assert_eq!(turn(&mut of_next, &next).await, None, "the better one has the first choice");
        let lock = turn(&mut of_best, &best).await.expect("the lock");
        assert_eq!(
            (turn(&mut of_best, &best).await, turn(&mut of_next, &next).await),
            (None, None),
            "somebody does it"
        );
        best.control.locks.release_slicing(&lock).await.expect("release");
        assert_eq!(turn(&mut of_next, &next).await, None);
        tokio::time::sleep(election::PER_TIER + Duration::from_secs(1)).await;
        assert_eq!(turn(&mut of_next, &next).await.expect("the lock").node, PRIMARY.name());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slicer_that_is_lost_is_replaced() {
        let world = World::new(1);
        let [best, next] = nodes(&world).await;
        let mut of_next = watch();
        turn(&mut watch(), &best).await.expect("the lock");
        // The agent on the same node knows sooner that its lock has no holder, and a running operation pauses slicing.
        let mut restarted = watch();
        assert_eq!(turn(&mut restarted, &best).await, None);
        tokio::time::sleep(HEARTBEAT * 2 + Duration::from_secs(1)).await;
        let now = best.control.cluster_time().await.expect("the time");
        let restore = best.lock_header(name::RESTORE, "op", None);
        assert_eq!(best.control.locks.try_take(&restore, now).await.expect("an answer"), TakeLock::Taken);
        assert_eq!(turn(&mut restarted, &best).await, None, "a restore runs");
        best.control.locks.release(&restore).await.expect("release");
        assert!(turn(&mut restarted, &best).await.is_some());
        assert_eq!(turn(&mut of_next, &next).await, None);
        tokio::time::sleep(Duration::from_secs(u64::from(STALE_SECS) + 1)).await;
        lines(&best).await;
        assert_eq!(turn(&mut of_next, &next).await.expect("a stale lock goes").node, PRIMARY.name());
    }
}
