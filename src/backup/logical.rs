//! The logical recipe: collections dumped while the oplog of the same time is kept beside them (docs/format.md D.3).

use super::{Job, cut, renames, resharding};
use crate::archive::{
    backup_json,
    meta::{self, Written},
};
use crate::control::{ControlBoard, unix_now};
use crate::layout::{self, ReplsetLayout};
use crate::model::{
    backup::{BackupMeta, BackupReplset},
    names::PBM_VERSION,
    selection::Selection,
    serde_help::zero_ts,
    status::{Condition, Status},
};
use crate::operation::{self, Cx, Kind, progress};
use crate::oplog::slice::{self, Slice, Wanted};
use crate::rendezvous::{arrive, reach};
use crate::routing::on_shards;
use crate::snapshot::{
    budget::Budget,
    dump::{self, DumpPlan, Dumped},
    source::DumpProgress,
};
use crate::storage;
use crate::topo::cluster;
use crate::upkeep::contents::verify;
use anyhow::{Context, Result, bail};
use bson::{Timestamp, doc};
use std::{collections::HashMap, sync::Arc};

/// Bytes of documents and oplog entries on their way.
const IN_FLIGHT: usize = 16 * 1024 * 1024;

pub(super) async fn run(cx: &Cx, job: &Job, board: &ControlBoard<BackupMeta>) -> Result<()> {
    let selection = Selection::of(&job.command.nss, job.command.narrowed.as_ref())?;
    let layout = ReplsetLayout::new(&cx.name, &cx.rs, job.command.compression);
    if cx.cluster.sharded {
        cluster::refuse_config_shard(cx.control.client()).await?;
        resharding::none_now(cx.control.client()).await?;
        if let Some(coll) = on_shards::find(&cx.client).await? {
            tracing::warn!(
                "the routing that this shard keeps itself ({coll}) is not in the backup, only that of the config servers"
            );
        }
    }
    // After this the backup contains every write acknowledged before it was requested, and an idle shard's oplog begins now,
    // not hours ago.
    cut::reach(cx, job, "backup begins").await?;
    let first = slice::first_write(&cx.client).await?;
    cx.control.backups.add_member(&cx.name, &cx.rs, &first_part(cx, &layout, first)).await?;
    arrive(board, cx.role, Status::Running, Some(cx.settings.backup.start_within), &cx.cancel, async || {
        publish_first(cx).await
    })
    .await?;

    let budget = Budget::new(IN_FLIGHT / 4);
    let mut oplog =
        Oplog { cx, job, layout: &layout, selection: &selection, budget, next: first, bytes: 0, slices: Vec::new() };
    let dumped = {
        let progress = Arc::new(DumpProgress::default());
        let plan = DumpPlan {
            layout: layout.clone(),
            level: job.command.level,
            parallel: job.parallel,
            in_flight: IN_FLIGHT,
            selection: selection.clone(),
            users: job.command.users_and_roles,
            routing: is_config_server(cx),
        };
        tokio::select! {
            dumped = dump::dump(&cx.client, &job.storage, &plan, &progress) => dumped?,
            failed = oplog.follow() => return failed,
            () = progress::publish_dump(cx, &progress) => unreachable!("samples have no end"),
        }
    };
    tracing::info!("dumped {} documents, {} bytes", dumped.docs, dumped.bytes);
    if !dumped.left_out.is_empty() {
        cx.control.backups.set_member(&cx.name, &cx.rs, doc! { "left_out": &dumped.left_out }).await?;
    }
    if cx.cluster.sharded {
        let end = slice::last_write(&cx.client).await?;
        cx.control.backups.set_member(&cx.name, &cx.rs, doc! { "dump_end": end }).await?;
        cut::publish(&cx.client, cx.control.client()).await?;
    }
    // Other shards may need hours more than this one, and its oplog does not wait for them.
    tokio::select! {
        met = reach(board, cx.role, Status::DumpDone, None, &cx.cancel, async || Ok(())) => met?,
        failed = oplog.follow() => return failed,
    }

    if cx.cluster.sharded {
        cut::reach(cx, job, "backup ends").await?;
    }
    // Taken after the last cursor was closed: no version of a document that was dumped is newer.
    let last = slice::last_write(&cx.client).await?;
    oplog.keep_until(last).await?;
    if is_config_server(cx) {
        resharding::none_between(&cx.client, first, last).await?;
    }
    if !selection.is_everything() {
        let dumped = dumped.namespaces.iter().filter_map(|meta| meta.uuid).collect();
        renames::check(&cx.client, &selection, &dumped, (first, last)).await?;
    }
    // This comes after the last slice, because `metadata.json` lists every object.
    let described = describe(cx, job, &layout, &dumped, oplog.slices).await?;
    cx.control.backups.set_member(&cx.name, &cx.rs, doc! { "last_write_ts": last }).await?;
    let size = dumped.stored + described + oplog.bytes;
    cx.control.backups.add_size(&cx.name, i64::try_from(size).unwrap_or(i64::MAX)).await?;

    reach(board, cx.role, Status::Done, None, &cx.cancel, async || finish(cx, job).await).await?;
    confirm(cx, job).await
}

fn first_part(cx: &Cx, layout: &ReplsetLayout, first: Timestamp) -> BackupReplset {
    let now = unix_now();
    BackupReplset {
        name: cx.rs.clone(),
        dump_name: layout.metadata(),
        oplog_name: layout.oplog_dir(),
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

fn is_config_server(cx: &Cx) -> bool {
    cx.cluster.members.get(&cx.rs).is_some_and(|member| member.config)
}

/// The cluster's first write is the latest of its replica sets'.
async fn publish_first(cx: &Cx) -> Result<()> {
    let meta = document(cx).await?;
    let first = meta.replsets.iter().map(|rs| rs.first_write_ts).max().context("no replica set has begun")?;
    cx.control.backups.set(&cx.name, doc! { "first_write_ts": first }).await.map(drop)
}

async fn document(cx: &Cx) -> Result<BackupMeta> {
    cx.control.backups.get(&cx.name).await?.context("the backup's document is gone")
}

/// The oplog of the backup, kept slice by slice.
struct Oplog<'a> {
    cx: &'a Cx,
    job: &'a Job,
    layout: &'a ReplsetLayout,
    selection: &'a Selection,
    budget: Budget,
    /// Where the next slice begins.
    next: Timestamp,
    /// Bytes kept so far, before compression.
    bytes: u64,
    /// The slices stored so far.
    slices: Vec<Written>,
}

impl Oplog<'_> {
    /// Keeps a slice whenever its time is over. Returns only to fail.
    async fn follow(&mut self) -> Result<()> {
        loop {
            slice::wait_until_due(&self.cx.client, self.next, self.cx.settings.backup.oplog_span).await?;
            let to = slice::last_write(&self.cx.client).await?;
            self.keep_until(to).await?;
        }
    }

    /// Keeps everything up to `to`. Nothing if nothing was written since the last slice.
    async fn keep_until(&mut self, to: Timestamp) -> Result<()> {
        if to <= self.next {
            return Ok(());
        }
        let wanted = Wanted {
            object: self.layout.oplog_slice(self.next, to),
            compression: self.layout.compression,
            level: self.job.command.level,
            from: self.next,
            to,
            selection: self.selection.clone(),
        };
        let Slice { bytes, entries, object, stored, crc, lost, .. } =
            slice::store(&self.cx.client, &self.job.storage, &self.budget, wanted).await?;
        if let Some(lost) = lost {
            bail!("{lost}; repeat the backup");
        }
        tracing::debug!("kept {entries} oplog entries in {object}");
        self.slices.push(written(self.layout, &object, stored, Some((bytes, crc)))?);
        self.next = to;
        self.bytes += bytes;
        Ok(())
    }
}

/// Describes an object as `metadata.json` lists it.
fn written(layout: &ReplsetLayout, object: &str, stored: u64, content: Option<(u64, i64)>) -> Result<Written> {
    let number = |bytes: u64| i64::try_from(bytes).context("an object of more than 8 EiB");
    let content = content.map(|(size, crc)| anyhow::Ok((number(size)?, crc))).transpose()?;
    Ok(Written { name: layout.below(object).to_owned(), stored: number(stored)?, content })
}

/// Stores `meta.pbm`, then `metadata.json`, which lists every other object with its size. Then checks that the objects still
/// have the recorded sizes, if the storage keeps objects. Returns the stored bytes that count in the size of the backup.
async fn describe(cx: &Cx, job: &Job, layout: &ReplsetLayout, dumped: &Dumped, slices: Vec<Written>) -> Result<u64> {
    let (namespaces, remains) = (&dumped.namespaces, &dumped.remains);
    let binary = meta::write_meta_pbm(PBM_VERSION, &cx.version.server, &cx.version.fcv, namespaces, remains)?;
    let size = storage::write_all(job.storage.as_ref(), &layout.meta_pbm(), binary).await?;
    let mut objects = vec![written(layout, &layout.meta_pbm(), size, None)?];
    for (object, stored) in &dumped.objects {
        objects.push(written(layout, object, *stored, None)?);
    }
    objects.extend(slices);
    let archive = meta::ArchiveMeta {
        concurrent_collections: i32::try_from(job.parallel).unwrap_or(1),
        server_version: cx.version.server.clone(),
        tool_version: PBM_VERSION.into(),
        namespaces: dumped.namespaces.clone(),
        remains: dumped.remains.clone(),
        written: objects,
    };
    let text = meta::write_metadata_json(&archive);
    meta::check_size(text.len())?;
    let own = storage::write_all(job.storage.as_ref(), &layout.metadata(), text).await?;
    storage::check_stored(job.storage.as_ref(), &layout.metadata(), own).await?;
    if job.storage.promises().keeps {
        still_there(cx, job, layout, &archive.written).await?;
    }
    Ok(size)
}

/// Checks the stored objects again, because somebody may have changed some of them while the backup wrote others.
async fn still_there(cx: &Cx, job: &Job, layout: &ReplsetLayout, written: &[Written]) -> Result<()> {
    let folder = format!("{}/{}", cx.name, cx.rs);
    let names = written.iter().map(|it| layout.object(&it.name));
    let there = storage::list_with(job.storage.as_ref(), &folder, names).await;
    let there = there.context("look whether the backup's objects are as they were written")?;
    let sizes: HashMap<&str, u64> = there.iter().map(|info| (info.name.as_str(), info.size)).collect();
    for it in written {
        let name = layout.object(&it.name);
        let what = match sizes.get(name.as_str()) {
            Some(size) if u64::try_from(it.stored) == Ok(*size) => continue,
            Some(0) => "is empty".to_owned(),
            Some(size) => format!("has {size} bytes in place of the {} that were written", it.stored),
            None => "is missing".to_owned(),
        };
        bail!("the backup's files are not complete: '{name}' {what}");
    }
    Ok(())
}

/// The leader's last step: the consistency point, a look at every file, and the metadata file. It comes last, so that
/// a storage without it holds no backup.
async fn finish(cx: &Cx, job: &Job) -> Result<()> {
    let mut meta = document(cx).await?;
    let last = cut::check(&meta)?;
    cx.control.backups.set(&cx.name, doc! { "last_write_ts": last }).await?;
    let now = unix_now();
    meta.last_write_ts = last;
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
async fn confirm(cx: &Cx, job: &Job) -> Result<()> {
    let meta = document(cx).await?;
    if meta.status != Status::Done {
        job.storage.delete(&layout::backup_meta(&cx.name)).await?;
        bail!("the backup was ended as {} by somebody else while it finished", meta.status);
    }
    Ok(())
}
