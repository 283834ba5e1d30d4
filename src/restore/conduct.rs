//! A restore of this node's replica set from the outside: refusals, announced steps, and a failure that is known.

use super::logical;
use crate::control::{Control, ControlBoard, unix_now};
use crate::model::{
    backup::BackupType,
    command::RestoreCmd,
    config::Config,
    restore::{RestoreMeta, RestoreReplset, RestoreStat},
    serde_help::zero_ts,
    status::{Condition, Status},
};
use crate::mongo::admin::Version;
use crate::rendezvous::{Role, supervise, was_cancelled};
use crate::storage::Storage;
use anyhow::Result;
use mongodb::Client;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Everything a restore recipe works with.
#[derive(Debug)]
pub struct Cx {
    pub control: Control,
    /// Direct connection to this replica set's primary.
    pub client: Client,
    /// The main storage, or why it can't be used.
    pub storage: Result<Arc<dyn Storage>, String>,
    pub config: Config,
    pub opid: String,
    pub rs: String,
    pub me: String,
    /// The leader publishes steps for the cluster.
    pub role: Role,
    /// Replica sets of the cluster.
    pub members: Vec<String>,
    pub restore: RestoreCmd,
    pub version: Version,
    pub cancel: CancellationToken,
}

impl Cx {
    pub(super) fn board(&self) -> ControlBoard<RestoreMeta> {
        ControlBoard::new(&self.control, &self.restore.name, &self.opid, &self.rs, self.members.clone())
    }
}

/// Leaves a document that says why a restore never began.
pub async fn refuse(control: &Control, opid: &str, restore: &RestoreCmd, why: &str) -> Result<()> {
    let mut meta = first_document(control, opid, restore).await?;
    meta.status = Status::Error;
    meta.error = Some(why.to_owned());
    meta.conditions.push(Condition { timestamp: unix_now(), status: Status::Error, error: Some(why.to_owned()) });
    control.restores.insert(&meta).await.map(drop)
}

/// Runs the restore of this replica set. On failure the restore's document says why before this returns.
pub async fn run(cx: &Cx) -> Result<()> {
    tracing::info!("restore started");
    if let Some(why) = unsupported(&cx.restore) {
        refuse(&cx.control, &cx.opid, &cx.restore, &why).await?;
        anyhow::bail!(why);
    }
    if cx.role == Role::Leader {
        let meta = first_document(&cx.control, &cx.opid, &cx.restore).await?;
        if !cx.control.restores.insert(&meta).await? {
            anyhow::bail!("a restore named {} exists already", cx.restore.name);
        }
    }
    let board = cx.board();
    let result = supervise(cx.role, logical::run(cx, &board), board.keep_beating(), &cx.cancel).await;
    match result {
        Ok(()) => {
            tracing::info!("restore finished");
            Ok(())
        }
        Err(error) => {
            let reason = if was_cancelled(&error, &cx.cancel) {
                format!(
                    "the agent on {} was stopped, or lost its lock, in mid-restore: the data is incomplete; restore again",
                    cx.me
                )
            } else {
                format!("{error:#}")
            };
            board.end_badly(Status::Error, &reason).await;
            Err(error.context(format!("restore {}", cx.restore.name)))
        }
    }
}

/// Options that would change what is restored and are not built yet: refused, never ignored.
fn unsupported(restore: &RestoreCmd) -> Option<String> {
    let what = if restore.external {
        "external restores need Percona Server for MongoDB and are"
    } else if restore.oplog_ts.is_some() {
        "point-in-time restores are"
    } else if !restore.ns_from.is_empty() || !restore.ns_to.is_empty() {
        "restores under another name (--ns-from, --ns-to) are"
    } else if !restore.nss.is_empty() || restore.users_and_roles {
        "selective restores (--ns) are"
    } else if !restore.rs_map.is_empty() {
        "restores to other replica sets (--replset-remapping) are"
    } else {
        return None;
    };
    Some(format!("{what} not supported by this agent; nothing was changed"))
}

async fn first_document(control: &Control, opid: &str, restore: &RestoreCmd) -> Result<RestoreMeta> {
    let now = unix_now();
    Ok(RestoreMeta {
        status: Status::Starting,
        error: None,
        name: restore.name.clone(),
        opid: opid.to_owned(),
        backup: restore.backup_name.clone(),
        bcp_chain: None,
        nss: restore.nss.clone(),
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
