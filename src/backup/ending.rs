//! How the parts of a backup begin and how the backup ends, whatever its type.

use super::Job;
use crate::archive::backup_json;
use crate::control::unix_now;
use crate::layout;
use crate::model::{
    backup::{BackupMeta, BackupReplset},
    names::PBM_VERSION,
    serde_help::zero_ts,
    status::{Condition, Status},
};
use crate::operation::{self, Cx, Kind};
use crate::storage;
use crate::upkeep::contents::verify;
use anyhow::{Context, Result, bail, ensure};
use bson::{Timestamp, doc};

/// This replica set's part when it begins to run.
pub(super) fn first_part(cx: &Cx, first: Timestamp) -> BackupReplset {
    let now = unix_now();
    BackupReplset {
        name: cx.rs.clone(),
        dump_name: String::new(),
        oplog_name: String::new(),
        start_ts: now,
        status: Status::Running,
        size: 0,
        size_uncompressed: 0,
        iscs: is_config_server(cx),
        configshard: false,
        last_transition_ts: now,
        first_write_ts: first,
        last_write_ts: zero_ts(),
        node: cx.me.clone(),
        error: None,
        conditions: vec![Condition { timestamp: now, status: Status::Running, error: None }],
        mongod_opts: None,
        pbm_version: PBM_VERSION.into(),
        mongo_version: cx.version.server.clone(),
        physical: None,
        dump_end: None,
        left_out: Vec::new(),
        progress: None,
    }
}

pub(super) fn is_config_server(cx: &Cx) -> bool {
    cx.cluster.members.get(&cx.rs).is_some_and(|member| member.config)
}

/// The cluster's first write is the latest of its replica sets'.
pub(super) async fn publish_first(cx: &Cx) -> Result<()> {
    let meta = document(cx).await?;
    let first = meta.replsets.iter().map(|rs| rs.first_write_ts).max().context("no replica set has begun")?;
    cx.control.backups.set(&cx.name, doc! { "first_write_ts": first }).await.map(drop)
}

async fn document(cx: &Cx) -> Result<BackupMeta> {
    cx.control.backups.get(&cx.name).await?.context("the backup's document is gone")
}

/// The first and the last write of a physical backup: the newest of its replica sets'.
pub(super) fn newest(meta: &BackupMeta) -> Result<(Timestamp, Timestamp)> {
    let last = meta.replsets.iter().map(|rs| rs.last_write_ts).max().context("no replica set took part")?;
    ensure!(
        meta.replsets.iter().all(|rs| rs.last_write_ts.time > 1),
        "a replica set has not told where its oplog ends"
    );
    Ok((last, last))
}

/// The leader's last step: the consistency point, a look at every file, and the metadata file. It comes last, so that
/// a storage without it holds no backup. `range` gives the first and the last write of the whole backup.
pub(super) async fn finish(
    cx: &Cx,
    job: &Job,
    range: impl Fn(&BackupMeta) -> Result<(Timestamp, Timestamp)>,
) -> Result<()> {
    let mut meta = document(cx).await?;
    let (first, last) = range(&meta)?;
    cx.control.backups.set(&cx.name, doc! { "first_write_ts": first, "last_write_ts": last }).await?;
    let now = unix_now();
    (meta.first_write_ts, meta.last_write_ts) = (first, last);
    meta.status = Status::Done;
    meta.last_transition_ts = now;
    meta.conditions.push(Condition { timestamp: now, status: Status::Done, error: None });
    let problems = verify::backup_files(job.storage.as_ref(), &meta).await.context("check the backup's files")?;
    if !problems.is_empty() {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        bail!("the backup's files are not complete: {}", all.join("; "));
    }
    storage::write_all(job.storage.as_ref(), &layout::backup_meta(&cx.name), backup_json::write(&meta)?).await?;
    // Before anybody sees `done`: whoever waited for it may rely on the balancer.
    operation::pay_debts(cx, Kind::Backup).await;
    Ok(())
}

/// If the backup was declared lost while its last step ran, the metadata file must not claim otherwise.
pub(super) async fn confirm(cx: &Cx, job: &Job) -> Result<()> {
    let meta = document(cx).await?;
    if meta.status != Status::Done {
        job.storage.delete(&layout::backup_meta(&cx.name)).await?;
        bail!("the backup was ended as {} by somebody else while it finished", meta.status);
    }
    Ok(())
}
