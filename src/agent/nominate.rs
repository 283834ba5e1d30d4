//! The leader's side of a backup: its document, and the nomination of an agent per replica set (docs/format.md D.2).
//!
//! The agent on the primary of the leader replica set leads every backup. If that agent does not run, another agent of
//! the leader replica set leads instead. The unique index on the backup's name lets only one of them insert the
//! document.

use super::{node::Node, op::roll_call};
use crate::backup as recipes;
use crate::config::resolved::Resolved;
use crate::control::{Declined, HEARTBEAT, Look, unix_now};
use crate::model::{
    agent::AgentStat,
    backup::{BackupMeta, BackupType},
    command::BackupCmd,
    config::{Config, StorageConf},
    lock::is_stale,
    names::PBM_VERSION,
    selection::Selection,
    serde_help::zero_ts,
    status::{Condition, Status},
};
use crate::mongo::admin::explain;
use crate::operation::{Kind, balancer};
use crate::rendezvous::{Cancel, Early};
use crate::storages::place;
use crate::topo::{
    cluster::Cluster,
    elect::{self, Field, Locked, Preference},
    suits::unfit,
};
use anyhow::{Result, anyhow, bail};
use bson::Timestamp;
use futures::future::{join_all, try_join_all};
use std::time::Duration;

/// How long a group of candidates has to take the lock before the next group is nominated.
const PER_TIER: Duration = Duration::from_secs(5);
/// How long to wait for a first candidate if agents are running but none can do the work.
const FOR_A_CANDIDATE: Duration = Duration::from_secs(10);
/// How long a member with an agent of the original may take to answer whether it can be read.
const LOOK: Duration = Duration::from_secs(2);
/// How long agents on other members wait for the agent on the primary to lead.
pub(super) const TAKE_OVER: Duration = Duration::from_secs(3);

/// Inserts the backup's document and nominates an agent for every replica set. If the backup can't start, the document
/// gets the reason and a final status. The same happens if the backup is cancelled before that, because an agent that
/// waits for its nomination writes nothing. Does nothing if another agent leads.
pub(super) async fn lead(
    node: &Node,
    opid: &str,
    backup: &BackupCmd,
    config: Option<&Config>,
    cancel: &Cancel,
) -> Result<()> {
    let place = place(node, backup, config).await?;
    let cluster = node.cluster().await?;
    let reject = match &place {
        Err(why) => Some(why.clone()),
        Ok(_) => refusal(node, &cluster, opid, backup).await?,
    };
    let mut meta = first_document(node, &cluster, opid, backup, place.unwrap_or_default()).await?;
    if let Some(reason) = &reject {
        meta.status = Status::Error;
        meta.error = Some(reason.clone());
        meta.conditions.push(Condition { timestamp: unix_now(), status: Status::Error, error: Some(reason.clone()) });
    }
    // This check runs before and after the insert. The sender withdraws the operation and then looks for its document,
    // so at least one of the two notices the other.
    if node.control.locks.is_withdrawn(opid).await? || !node.control.backups.insert(&meta).await? {
        return Ok(());
    }
    if node.control.locks.is_withdrawn(opid).await? {
        let why = "it was withdrawn by its sender before any agent took it";
        node.control.backups.set_status(&backup.name, Status::Error, why).await?;
        bail!("backup {}: {why}", backup.name);
    }
    if let Some(reason) = reject {
        bail!("backup {} can't start: {reason}", backup.name);
    }
    // A backup to another storage should run on a node that does not also slice to the main storage.
    let slicing: Vec<String> = if place::is_main(&backup.profile) {
        Vec::new()
    } else {
        node.control.locks.slicers().await?.into_iter().map(|lock| lock.header.node).collect()
    };
    let settings = config.map(|config| Resolved::of(config).backup);
    let priority = settings.as_ref().and_then(|settings| settings.priority.as_ref());
    let files = (backup.kind == BackupType::Physical).then_some(Locked { only_member: backup.allow_only_member });
    let preference = Preference { priority, slicing: &slicing, files };
    let nominations = async {
        let alive = living(node).await?;
        let fields: Vec<(String, Field)> =
            cluster.names().into_iter().map(|rs| (rs.clone(), elect::field(&alive, &rs, preference))).collect();
        let first = |(rs, field): &(String, Field)| Some((rs.clone(), field.tiers.first()?.clone()));
        node.control.backups.nominate_first(&backup.name, &fields.iter().filter_map(first).collect::<Vec<_>>()).await?;
        try_join_all(fields.into_iter().map(|(rs, field)| nominate(node, &backup.name, rs, field, preference))).await
    };
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => {
            let (status, reason) = Kind::Backup.early_end(cancel.early().unwrap_or(Early::Asked));
            node.control.backups.set_status(&backup.name, status, &reason).await?;
            tracing::info!("the backup ended before it began: {reason}");
            return Ok(());
        }
        result = nominations => result.map(drop),
        never = keep_beating(node, &backup.name) => never,
    };
    if let Err(error) = &result {
        node.control.backups.set_status(&backup.name, Status::Error, &explain(error)).await?;
    }
    result
}

async fn keep_beating(node: &Node, name: &str) -> Result<()> {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let now = node.control.cluster_time().await?;
        node.control.backups.beat(name, now).await?;
    }
}

/// Returns the storage of the backup in the form of its document, or the reason why it has none.
async fn place(node: &Node, backup: &BackupCmd, config: Option<&Config>) -> Result<Result<StorageConf, String>> {
    let Some(config) = config else {
        return Ok(Err("there is no configuration; give one with `pbm config --file`".into()));
    };
    match place::storage(&node.control, &config.storage, &backup.profile).await {
        Err(error) if error.is::<place::Unknown>() => Ok(Err(error.to_string())),
        place => place.map(Ok),
    }
}

/// Returns the reason why this backup must not start, if there is one.
async fn refusal(node: &Node, cluster: &Cluster, opid: &str, backup: &BackupCmd) -> Result<Option<String>> {
    if let Some(why) = refused_kind(cluster, backup) {
        return Ok(Some(why));
    }
    match Selection::of(&backup.nss, backup.narrowed.as_ref()) {
        Err(error) => return Ok(Some(format!("the selection can't be used: {error}"))),
        Ok(selection) if backup.users_and_roles && selection.databases().is_empty() => {
            return Ok(Some("users and roles belong to databases: select at least one as a whole (db.*)".into()));
        }
        Ok(_) => {}
    }
    let now = node.control.cluster_time().await?;
    let busy = node.control.locks.all().await?.into_iter().find(|l| l.header.opid != opid && !is_stale(l.hb, now));
    Ok(busy.map(|lock| {
        format!(
            "another operation is running: {} with OPID {} on {}; wait for its end or cancel it",
            lock.header.kind, lock.header.opid, lock.header.node
        )
    }))
}

/// Returns the reason why a backup of this type can't be made, if there is one.
fn refused_kind(cluster: &Cluster, backup: &BackupCmd) -> Option<String> {
    match backup.kind {
        BackupType::Logical => None,
        BackupType::Physical if cluster.sharded => Some(recipes::NOT_SHARDED.to_owned()),
        BackupType::Physical if is_selective(backup) => Some(recipes::NOT_SELECTIVE.to_owned()),
        BackupType::Physical => None,
        kind => Some(format!("{kind} backups are not supported by this agent; use --type logical or --type physical")),
    }
}

fn is_selective(backup: &BackupCmd) -> bool {
    Selection::of(&backup.nss, backup.narrowed.as_ref()).is_ok_and(|selection| !selection.is_everything())
}

async fn first_document(
    node: &Node,
    cluster: &Cluster,
    opid: &str,
    backup: &BackupCmd,
    store: StorageConf,
) -> Result<BackupMeta> {
    let balanced = cluster.sharded && balancer::was_on(&node.control).await?;
    let version = node.version_now().await?;
    let unset = Timestamp { time: 1, increment: 1 };
    let started = unix_now();
    Ok(BackupMeta {
        kind: backup.kind,
        opid: opid.to_owned(),
        name: backup.name.clone(),
        src_backup: None,
        shard_remap: cluster.remap(),
        // For a full backup the field must be missing.
        nss: if is_selective(backup) { backup.nss.clone() } else { Vec::new() },
        nss_narrowed: backup.narrowed.clone(),
        sel_users_and_roles: backup.users_and_roles,
        replsets: Vec::new(),
        compression: backup.compression,
        store,
        size: 0,
        size_uncompressed: 0,
        mongodb_version: version.server,
        fcv: version.fcv,
        start_ts: started,
        last_transition_ts: started,
        first_write_ts: unset,
        last_write_ts: unset,
        hb: node.control.cluster_time().await.unwrap_or_else(|_| zero_ts()),
        status: Status::Starting,
        conditions: vec![Condition { timestamp: started, status: Status::Starting, error: None }],
        n: Vec::new(),
        error: None,
        pbm_version: PBM_VERSION.into(),
        balancer: if balanced { "full" } else { "off" }.into(),
        description: backup.description.clone(),
    })
}

/// Nominates candidates for `rs`, one group after another, until a candidate has taken the work. The first group of
/// `field` is already nominated.
async fn nominate(node: &Node, name: &str, rs: String, field: Field, preference: Preference<'_>) -> Result<()> {
    let rs = rs.as_str();
    let mut named = !field.tiers.is_empty();
    let field = if named { field } else { candidates(node, rs, preference).await? };
    let mut declined: Vec<Declined> = Vec::new();
    for tier in field.tiers {
        tracing::debug!("nominating {} for replica set {rs}", tier.join(", "));
        if !std::mem::take(&mut named) {
            node.control.backups.nominate(name, rs, &tier).await?;
        }
        let look = || async {
            let Some(round) = node.control.backups.round(name, rs).await? else {
                bail!("the backup's document is gone")
            };
            if round.status.is_final() || round.nomination.is_some_and(|round| !round.ack.is_empty()) {
                return Ok(Look::Found(None));
            }
            let has_declined = |node: &String| round.declined.iter().any(|declined| declined.node == *node);
            let nobody_left = tier.iter().all(has_declined);
            Ok(if nobody_left { Look::Found(Some(round.declined)) } else { Look::Missing(round.declined) })
        };
        // If the backup is cancelled, the caller drops this wait.
        match node.control.bell.within(PER_TIER, look).await? {
            // The work is taken, or the backup has ended.
            Ok(None) => return Ok(()),
            Ok(Some(all)) => declined = all,
            Err(some) => declined = some,
        }
    }
    if declined.is_empty() {
        bail!(
            "no agent of replica set {rs} took the backup, although candidates were named; see the agents' logs with `pbm logs`"
        );
    }
    let mut why: Vec<(String, String)> = declined.into_iter().map(|it| (it.node, it.why)).collect();
    why.extend(
        field.unfit.into_iter().filter(|(node, _)| !why.iter().any(|(other, _)| other == node)).collect::<Vec<_>>(),
    );
    Err(nobody(rs, &why))
}

fn nobody(rs: &str, why: &[(String, String)]) -> anyhow::Error {
    let why: Vec<String> = why.iter().map(|(node, why)| format!("{node}: {why}")).collect();
    anyhow!("no agent of replica set {rs} can take the backup: {}", why.join("; "))
}

/// Returns the agents that are alive. The documents of the original's agents don't contain every reason that makes a
/// node unfit, so their nodes are asked directly.
async fn living(node: &Node) -> Result<Vec<AgentStat>> {
    let mut alive = node.control.agents.alive(node.control.cluster_time().await?).await?;
    let silent = alive.iter_mut().filter(|agent| agent.is_original() && unfit(agent).is_none());
    let looks = silent.map(|agent| async {
        match node.look_at(&agent.n, LOOK).await {
            Ok(condition) => agent.unfit = condition.unfit().unwrap_or_default(),
            // The node can't be asked, but its agent reports that it works.
            Err(error) => tracing::debug!("look at {}: {}", agent.n, explain(&error)),
        }
    });
    join_all(looks).await;
    Ok(alive)
}

async fn candidates(node: &Node, rs: &str, preference: Preference<'_>) -> Result<Field> {
    let look = || async {
        let alive = living(node).await?;
        let field = elect::field(&alive, rs, preference);
        if !field.tiers.is_empty() {
            return Ok(Look::Found(field));
        }
        if field.unfit.is_empty() {
            bail!(
                "no available agent(s) on replsets: {rs}; start pbm-agent beside each mongod of {rs} (agents seen: {})",
                roll_call(&alive)
            );
        }
        Ok(Look::Missing(field.unfit))
    };
    node.control.bell.within(FOR_A_CANDIDATE, look).await?.map_err(|unfit| nobody(rs, &unfit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sim::{self, Host, Process, World};
    use bson::doc;
    use std::sync::Arc;

    fn backup(name: &str) -> BackupCmd {
        bson::deserialize_from_document(doc! { "name": name, "compression": "none" }).expect("a command")
    }

    /// Returns the agent of the leader replica set's primary, in a cluster whose members all have a document in
    /// `pbmAgents`.
    async fn leader(world: &Arc<World>) -> Arc<Node> {
        let node = sim::node(world, Host { rs: "cfg", at: 0 }, &Process::default());
        for host in Host::all() {
            let hb = node.control.cluster_time().await.expect("the time");
            let line =
                AgentStat { hb, own: "1".into(), ..AgentStat::healthy(host.rs, &host.name(), 2 - host.at as i32) };
            node.control.agents.put(&line).await.expect("a line");
        }
        sim::configure(&node.control).await;
        node
    }

    async fn led(node: &Node, opid: &str, name: &str, cancel: &Cancel) -> (Result<()>, BackupMeta) {
        let config = node.control.config.main().await.expect("a configuration");
        let led = lead(node, opid, &backup(name), config.as_ref(), cancel).await;
        (led, node.control.backups.get(name).await.expect("an answer").expect("a document"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_backup_without_a_worker_ends_with_the_reason() {
        let node = leader(&World::new(1)).await;
        let (led, meta) = led(&node, "op", "b", &Cancel::default()).await;
        assert!(led.is_err() && meta.status == Status::Error);
        let error = meta.error.unwrap_or_default();
        assert!(error.contains("took the backup, although candidates were named"), "{error}");
        assert_eq!(meta.n.iter().map(|round| round.rs.as_str()).collect::<Vec<_>>(), ["cfg", "rs1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_declines_is_replaced_and_named() {
        let node = leader(&World::new(1)).await;
        let answer = async {
            let mut waiter = node.control.bell.waiter();
            loop {
                for rs in ["cfg", "rs1"] {
                    let round = node.control.backups.round("b", rs).await.expect("an answer");
                    let Some(named) = round.and_then(|round| round.nomination) else { continue };
                    // The secondary is nominated first but can't do the work.
                    match named.n.first() {
                        Some(last) if *last == format!("{rs}-0:27017") => {
                            node.control.backups.acknowledge("b", rs, last).await.expect("acknowledge");
                        }
                        Some(first) => node.control.backups.decline("b", rs, first, "locked").await.expect("decline"),
                        None => {}
                    }
                }
                waiter.next().await;
            }
        };
        let cancel = Cancel::default();
        let (led, meta) = tokio::select! {
            led = led(&node, "op", "b", &cancel) => led,
            () = answer => unreachable!("it has no end"),
        };
        led.expect("somebody took it");
        assert_eq!(meta.status, Status::Starting);
        assert_eq!(meta.n.iter().map(|round| round.ack.as_str()).collect::<Vec<_>>(), ["cfg-0:27017", "rs1-0:27017"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_or_refused_backup_never_begins() {
        let node = leader(&World::new(1)).await;
        let cancel = Cancel::default();
        cancel.end(Early::Asked);
        let (ended, meta) = led(&node, "op1", "cancelled", &cancel).await;
        assert!(ended.is_ok() && meta.status == Status::Canceled && meta.error.as_deref() == Some("backup canceled"));

        let now = node.control.cluster_time().await.expect("the time");
        let other = node.lock_header("restore", "other", None);
        assert_eq!(node.control.locks.try_take(&other, now).await.expect("an answer"), crate::control::TakeLock::Taken);
        let (ended, meta) = led(&node, "op2", "refused", &Cancel::default()).await;
        assert!(ended.is_err() && meta.status == Status::Error && meta.n.is_empty());
        assert!(
            meta.error.is_some_and(|error| error.contains("another operation is running: restore with OPID other"))
        );

        node.control.locks.withdraw("backup", "op3", "cfg", &[]).await.map(drop).expect("withdraw");
        let config = node.control.config.main().await.expect("a configuration");
        lead(&node, "op3", &backup("withdrawn"), config.as_ref(), &Cancel::default()).await.expect("nothing to do");
        assert_eq!(node.control.backups.get("withdrawn").await.expect("an answer"), None);
    }
}
