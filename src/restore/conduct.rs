//! A restore of this node's replica set from the outside: refusals, announced steps, and a failure that is known.

use super::{
    logical,
    plan::members::{Participants, participants},
};
use crate::config::resolved::RestoreSettings;
use crate::control::{Control, ControlBoard, unix_now};
use crate::model::{
    backup::{BackupMeta, BackupType},
    command::RestoreCmd,
    restore::{RestoreMeta, RestoreReplset, RestoreStat},
    serde_help::zero_ts,
    status::{Condition, Status},
};
use crate::mongo::admin::{self, Version};
use crate::rendezvous::{Cancel, Role, named, supervise, watch};
use crate::storage::Storage;
use crate::topo::cluster::Cluster;
use crate::upkeep::{balancer, pause};
use anyhow::{Context as _, Result};
use bson::Document;
use mongodb::Client;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Everything a restore recipe works with.
#[derive(Debug)]
pub struct Cx {
    pub control: Control,
    /// Direct connection to this replica set's primary.
    pub client: Client,
    /// Where the backup lies, and the oplog behind it; or why that can't be used.
    pub storage: Result<Arc<dyn Storage>, String>,
    pub settings: RestoreSettings,
    pub opid: String,
    pub rs: String,
    pub me: String,
    /// The leader publishes steps for the cluster.
    pub role: Role,
    /// Replica sets of the cluster.
    pub cluster: Cluster,
    /// Of the restore or replay.
    pub name: String,
    pub version: Version,
    pub cancel: Cancel,
}

impl Cx {
    /// Starts the balancer if this restore stopped it, and point-in-time recovery if it was on (`sliced`). What fails is
    /// told; the agents of the leader replica set do it later.
    pub(super) async fn give_back(&self, sliced: bool) {
        if self.role == Role::Leader
            && self.cluster.sharded
            && let Err(error) = balancer::give_back(&self.control, &self.control.restores, &self.name).await
        {
            tracing::warn!("the balancer stays off for now: {}", admin::explain(&error));
        }
        if sliced && let Err(error) = pause::give_back(&self.control, &self.name).await {
            tracing::warn!("point-in-time recovery stays off for now: {}", admin::explain(&error));
        }
    }
}

/// How long the members wait for the leader's document.
const DOCUMENT: Duration = Duration::from_secs(30);

/// What is restored, and who takes part.
pub(super) struct Parts {
    pub backup: BackupMeta,
    pub of: Participants,
    /// Point-in-time recovery was on, and has to be on again at the end.
    pub sliced: bool,
}

impl Parts {
    async fn find(cx: &Cx, restore: &RestoreCmd) -> Result<Self> {
        let name = &restore.backup_name;
        let backup: BackupMeta = cx.control.backups.get(name).await?.with_context(|| {
            format!(
                "backup {name} is not known here; if the storage has it, run `pbm config --force-resync` and try again"
            )
        })?;
        let of = participants(&backup, &cx.cluster, &mapping(&restore.rs_map)?).map_err(|reasons| {
            anyhow::anyhow!("backup '{name}' cannot be restored, nothing was changed: {}", reasons.join("; "))
        })?;
        Ok(Self { backup, of, sliced: false })
    }
}

/// The operator's mapping: replica set of the backup → of the cluster.
pub(super) fn mapping(map: &Document) -> Result<BTreeMap<String, String>> {
    let pairs = map.iter().map(|(from, to)| {
        let to = to.as_str().with_context(|| format!("the mapping of replica set '{from}' is not a name"))?;
        Ok((from.clone(), to.to_owned()))
    });
    pairs.collect()
}

/// Waits for the document that the leader inserts.
async fn appears(cx: &Cx) -> Result<()> {
    let until = Instant::now() + DOCUMENT;
    loop {
        let mut waiter = cx.control.bell.waiter();
        if cx.control.restores.raw(&cx.name).await?.is_some() {
            return Ok(());
        }
        if cx.control.locks.is_withdrawn(&cx.opid).await? {
            anyhow::bail!(
                "{}: its sender has withdrawn it before all replica sets began; nothing was changed",
                cx.name
            );
        }
        if Instant::now() >= until {
            anyhow::bail!(
                "{}: the agent on the config servers' primary has not begun it within {} s; is it running?",
                cx.name,
                DOCUMENT.as_secs()
            );
        }
        waiter.next().await;
    }
}

/// Stores a document with the reason why a restore never began, and releases agents of the original, which have received the
/// command too.
pub async fn refuse(control: &Control, opid: &str, restore: &RestoreCmd, why: &str) -> Result<()> {
    insert_refused(control, first_document(control, opid, restore).await?, why).await?;
    pause::hold_for_originals(control, &restore.name).await
}

pub(super) async fn insert_refused(control: &Control, mut meta: RestoreMeta, why: &str) -> Result<()> {
    meta.status = Status::Error;
    meta.error = Some(why.to_owned());
    meta.conditions.push(Condition { timestamp: unix_now(), status: Status::Error, error: Some(why.to_owned()) });
    control.restores.insert(&meta).await.map(drop)
}

/// Runs the restore of this replica set. On failure the restore's document says why before this returns.
pub async fn run(cx: &Cx, restore: &RestoreCmd) -> Result<()> {
    tracing::info!("restore started");
    if let Some(why) = unsupported(restore) {
        refuse(&cx.control, &cx.opid, restore, &why).await?;
        anyhow::bail!(why);
    }
    begin(cx, first_document(&cx.control, &cx.opid, restore).await?).await?;
    let mut parts = Parts::find(cx, restore).await;
    let members = parts.as_ref().map_or_else(|_| vec![cx.rs.clone()], |parts| parts.of.parts.keys().cloned().collect());
    let board = ControlBoard::new(&cx.control, &cx.name, &cx.opid, &cx.rs, members, cx.role);
    // Nothing of the restore belongs into the slices of the time before it.
    let sliced = match cx.role {
        Role::Leader => pause::hold(&cx.control, &cx.name).await?,
        Role::Follower => false,
    };
    if let Ok(parts) = &mut parts {
        parts.sliced = sliced;
    }
    let recipe = async {
        let parts = parts?;
        match parts.of.parts.contains_key(&cx.rs) {
            true => logical::run(cx, restore, &parts, &board).await,
            false => {
                tracing::info!("the backup has no part for replica set {}", cx.rs);
                Ok(())
            }
        }
    };
    carry_out(cx, &board, recipe, sliced, "restore", "restore again").await
}

/// The leader inserts the document, the others wait for it.
pub(super) async fn begin(cx: &Cx, meta: RestoreMeta) -> Result<()> {
    match cx.role {
        Role::Leader if !cx.control.restores.insert(&meta).await? => {
            anyhow::bail!("a restore named {} exists already", cx.name)
        }
        Role::Leader => Ok(()),
        Role::Follower => appears(cx).await,
    }
}

/// Runs a recipe to its end. On failure the document says why before this returns, and what was stopped goes on.
pub(super) async fn carry_out(
    cx: &Cx,
    board: &ControlBoard<RestoreMeta>,
    recipe: impl Future<Output = Result<()>>,
    sliced: bool,
    what: &str,
    again: &str,
) -> Result<()> {
    let result = supervise(cx.role, recipe, board.keep_beating(), watch(board, cx.role), &cx.cancel).await;
    match result {
        Ok(()) => {
            tracing::info!("{what} finished");
            Ok(())
        }
        Err(error) => {
            let reason = if let Some(early) = cx.cancel.early_end(&error) {
                format!("{}: the data is incomplete; {again}", early.sentence(what))
            } else if cx.cluster.sharded {
                named(admin::explain(&error), &error, &cx.rs, &cx.me)
            } else {
                admin::explain(&error)
            };
            cx.give_back(sliced).await;
            board.end_badly(Status::Error, &reason).await;
            Err(error.context(format!("{what} {}", cx.name)))
        }
    }
}

/// Options that would change what is restored and are not built yet: refused, never ignored.
fn unsupported(restore: &RestoreCmd) -> Option<String> {
    let what = if restore.external {
        "external restores need Percona Server for MongoDB and are"
    } else {
        return None;
    };
    Some(format!("{what} not supported by this agent; nothing was changed"))
}

async fn first_document(control: &Control, opid: &str, restore: &RestoreCmd) -> Result<RestoreMeta> {
    Ok(RestoreMeta {
        backup: restore.backup_name.clone(),
        // As in the original a clone is a restore of what is cloned.
        nss: if restore.ns_from.is_empty() {
            restore.narrowed.as_ref().map_or_else(|| restore.nss.clone(), |narrowed| narrowed.include.clone())
        } else {
            restore.ns_from.split(',').map(|ns| ns.trim().to_owned()).collect()
        },
        pitr: restore.oplog_ts.map_or(0, |ts| i64::from(ts.time)),
        ..empty_document(control, opid, &restore.name).await?
    })
}

/// A document that begins now.
pub(super) async fn empty_document(control: &Control, opid: &str, name: &str) -> Result<RestoreMeta> {
    let now = unix_now();
    Ok(RestoreMeta {
        status: Status::Starting,
        error: None,
        name: name.to_owned(),
        opid: opid.to_owned(),
        backup: String::new(),
        bcp_chain: None,
        nss: Vec::new(),
        start_pitr: 0,
        pitr: 0,
        replsets: Vec::new(),
        hb: control.advanced_cluster_time().await?,
        start_ts: now,
        last_transition_ts: now,
        conditions: vec![Condition { timestamp: now, status: Status::Starting, error: None }],
        kind: BackupType::Logical,
        leader: None,
        stat: None,
        changed_from: None,
    })
}

/// This replica set's part, as it is added first.
pub(super) fn first_part(rs: &str) -> RestoreReplset {
    let now = unix_now();
    RestoreReplset {
        name: rs.to_owned(),
        start_ts: now,
        status: Status::Starting,
        committed_txn: None,
        txn_set: false,
        partial_txn: None,
        op: zero_ts(),
        last_transition_ts: now,
        last_write_ts: zero_ts(),
        error: None,
        conditions: vec![Condition { timestamp: now, status: Status::Starting, error: None }],
        hb: zero_ts(),
        stat: RestoreStat::default(),
        progress: None,
    }
}
