//! The logical recipe: collections dumped while the oplog of the same time is kept beside them (docs/format.md D.3).

use super::{
    Job, cut,
    ending::{self, is_config_server},
    renames, resharding,
};
use crate::archive::meta::{self, Written};
use crate::control::ControlBoard;
use crate::layout::ReplsetLayout;
use crate::model::{
    backup::{BackupMeta, BackupReplset},
    names::PBM_VERSION,
    selection::Selection,
    status::Status,
};
use crate::operation::{Cx, progress};
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
        ending::publish_first(cx).await
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

    reach(board, cx.role, Status::Done, None, &cx.cancel, async || ending::finish(cx, job, range).await).await?;
    ending::confirm(cx, job).await
}

fn first_part(cx: &Cx, layout: &ReplsetLayout, first: Timestamp) -> BackupReplset {
    BackupReplset { dump_name: layout.metadata(), oplog_name: layout.oplog_dir(), ..ending::first_part(cx, first) }
}

/// The first write is that of the beginning; the last one is the cut of all members.
fn range(meta: &BackupMeta) -> Result<(Timestamp, Timestamp)> {
    Ok((meta.first_write_ts, cut::check(meta)?))
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
