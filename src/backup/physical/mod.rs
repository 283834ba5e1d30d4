//! The physical recipe: the data files of a node, of one moment (docs/format.md A.8).
//!
//! # Overview
//! The server must not change its files while they are taken, so it is locked with `fsync` for as short a time as the file
//! system allows ([`take`]). The files are stored afterwards, from a clone or copy, without any hurry.
//!
//! # Consistency
//! The files contain a checkpoint and the oplog. A server that starts with them applies the oplog from the checkpoint to the
//! newest entry, and so has the state of that entry, which is noted under the lock. The backup counts only if the majority has
//! that entry and it was not rolled back.
//!
//! # The lock always ends
//! A process of its own holds it ([`guard`]); see there, and [`crate::operation::node_lock`] for what happens when that process
//! is killed, too. A primary is never locked, unless it is the only member with data and the operator accepts that.
//!
//! # Crash
//! Copies in the spool folder of a killed agent are removed when it starts again ([`place::clear_spool`]).

pub mod guard;
mod hook;
mod lock;
pub mod place;
mod source;
mod take;

use super::{Job, NOT_SHARDED, cut, ending};
use crate::archive::filelist::{self, DataFile};
use crate::control::ControlBoard;
use crate::datafiles::upload::{self, UploadProgress};
use crate::layout::{self, ReplsetLayout};
use crate::model::{
    backup::{BackupMeta, BackupReplset, Taking},
    status::Status,
};
use crate::mongo::majority;
use crate::operation::{Cx, progress};
use crate::oplog::slice;
use crate::rendezvous::{arrive, reach};
use crate::storage;
use anyhow::{Context, Result, ensure};
use bson::doc;
use source::{Entry, entry_at};
use std::sync::Arc;
use take::{Files, Plan, Taken};

pub(super) async fn run(cx: &Cx, job: &Job, board: &ControlBoard<BackupMeta>) -> Result<()> {
    ensure!(!cx.cluster.sharded, NOT_SHARDED);
    let layout = ReplsetLayout::new(&cx.name, &cx.rs, job.command.compression);
    // After this the backup contains every write acknowledged before it was requested.
    cut::reach(cx, job, "backup begins").await?;
    let first = slice::first_write(&cx.client).await?;
    let plan = take::plan(cx, &layout).await?;
    let planned = Taking { way: plan.way, expected_ms: 0, lock_ms: 0, copied: 0 };
    let options = Some(plan.place.options.clone());
    let part = BackupReplset { mongod_opts: options, physical: Some(planned), ..ending::first_part(cx, first) };
    cx.control.backups.add_member(&cx.name, &cx.rs, &part).await?;
    arrive(board, cx.role, Status::Running, Some(cx.settings.backup.start_within), &cx.cancel, async || {
        ending::publish_first(cx).await
    })
    .await?;

    let progress = Arc::new(UploadProgress::default());
    tokio::select! {
        copied = copy(cx, job, plan, &progress) => copied?,
        () = progress::publish_upload(cx, &progress) => unreachable!("samples have no end"),
    }
    reach(board, cx.role, Status::Done, None, &cx.cancel, async || ending::finish(cx, job, ending::newest).await)
        .await?;
    ending::confirm(cx, job).await
}

/// Takes the files, stores them, and describes them.
async fn copy(cx: &Cx, job: &Job, plan: Plan, progress: &Arc<UploadProgress>) -> Result<()> {
    let Taken { top, taking, files } = take::take(cx, job, &plan, progress).await?;
    must_last(cx, top).await?;
    let stored = match files {
        Files::Stored(stored) => stored,
        Files::Kept { root, files, spool, snapshot } => {
            let stored = upload::upload(&job.storage, &take::upload_plan(job, &plan, root), &files, progress).await?;
            if let Some(snapshot) = snapshot {
                // The files are stored, so the backup is good in any case.
                if let Err(error) = snapshot.remove().await {
                    tracing::warn!("{error:#}");
                }
            }
            tokio::task::spawn_blocking(move || drop(spool)).await.context("remove the copy of the data files")?;
            stored
        }
    };
    describe(cx, job, top, taking, &stored).await
}

/// Checks that the newest entry of the oplog in the files will never be rolled back.
async fn must_last(cx: &Cx, top: Entry) -> Result<()> {
    if majority::must_confirm(&cx.client).await? {
        let mut session = cx.client.start_session().await.context("start a session")?;
        slice::wait_for(&cx.client, top.ts, &mut session).await?;
    }
    ensure!(
        entry_at(&cx.client, top.ts).await? == Some(top),
        "the newest writes in the copied files, of {}, were rolled back; make another backup",
        top.ts
    );
    Ok(())
}

/// Writes the list of files, and what is known of them into the backup's document.
async fn describe(cx: &Cx, job: &Job, top: Entry, taking: Taking, stored: &[DataFile]) -> Result<()> {
    let list = filelist::write(stored)?;
    ensure!(list.len() <= filelist::LARGEST, "the list of {} files is too long to be read again", stored.len());
    let name = layout::filelist(&cx.name, &cx.rs);
    let own = storage::write_all(job.storage.as_ref(), &name, list).await?;
    storage::check_stored(job.storage.as_ref(), &name, own).await?;
    let size =
        stored.iter().map(|file| file.stored).sum::<i64>().saturating_add(i64::try_from(own).unwrap_or(i64::MAX));
    let content: i64 = stored.iter().map(|file| file.content).sum();
    let fields = doc! {
        "first_write_ts": top.ts,
        "last_write_ts": top.ts,
        "size": size,
        "size_uncompressed": content,
        "physical": bson::serialize_to_bson(&taking).context("describe how the files were taken")?,
    };
    cx.control.backups.set_member(&cx.name, &cx.rs, fields).await?;
    cx.control.backups.add_sizes(&cx.name, size, content).await
}
