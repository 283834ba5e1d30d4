//! The document of a restore or replay in `pbmRestores`. The leader inserts it, and the other members wait for it.

use crate::control::{Control, Look, Waited, unix_now};
use crate::model::{
    backup::BackupType,
    restore::{RestoreMeta, RestoreReplset, RestoreStat},
    serde_help::zero_ts,
    status::{Condition, Status},
};
use crate::operation::Cx;
use crate::rendezvous::Role;
use anyhow::{Result, bail};
use std::time::Duration;

/// How long the members wait for the leader's document.
const DOCUMENT: Duration = Duration::from_secs(30);

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

/// Waits for the document that the leader inserts.
async fn appears(cx: &Cx) -> Result<()> {
    let look = || async {
        if cx.control.restores.raw(&cx.name).await?.is_some() {
            return Ok(Look::Found(()));
        }
        if cx.control.locks.is_withdrawn(&cx.opid).await? {
            bail!("{}: its sender has withdrawn it before all replica sets began; nothing was changed", cx.name);
        }
        Ok(Look::Missing(()))
    };
    match cx.control.bell.until(DOCUMENT, cx.cancel.cancelled(), look).await? {
        Waited::Found(()) => Ok(()),
        Waited::Cancelled => bail!("{}: it was cancelled before it began; nothing was changed", cx.name),
        Waited::TimedOut(()) => bail!(
            "{}: the agent on the config servers' primary has not begun it within {} s; is it running?",
            cx.name,
            DOCUMENT.as_secs()
        ),
    }
}

/// Stores the document of a refused operation, with the reason.
pub(super) async fn insert_refused(control: &Control, mut meta: RestoreMeta, why: &str) -> Result<()> {
    meta.status = Status::Error;
    meta.error = Some(why.to_owned());
    meta.conditions.push(Condition { timestamp: unix_now(), status: Status::Error, error: Some(why.to_owned()) });
    control.restores.insert(&meta).await.map(drop)
}

/// Returns a document for an operation that begins now.
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

/// Returns the first state of this replica set's part.
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
