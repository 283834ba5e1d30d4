//! The logical recipe: everything is checked, then dropped, created, loaded, replayed and indexed (spec/format.md E.3).

use super::{
    conduct::{Cx, first_part},
    namespaces::Wish,
    sampler,
    steps::{Order, Steps},
};
use crate::control::ControlBoard;
use crate::model::{backup::BackupMeta, restore::RestoreMeta, status::Status};
use crate::rendezvous::reach;
use crate::snapshot::load::LoadOptions;
use anyhow::{Context, Result, anyhow};
use bson::{Bson, Document, doc};
use std::time::Duration;

/// How long the replica sets have for their checks.
const CHECKS: Duration = Duration::from_secs(60);

pub(super) async fn run(cx: &Cx, board: &ControlBoard<RestoreMeta>) -> Result<()> {
    let restores = &cx.control.restores;
    let name = &cx.restore.name;
    restores.add_member(name, &cx.rs, &first_part(&cx.rs)).await?;
    cx.control.config.switch_pitr_off(cx.control.cluster_time().await?).await?;

    let mut steps = prepare(cx).await?;
    for warning in &steps.plan().warnings {
        tracing::warn!("{warning}");
    }
    reach(board, cx.role, Status::CleanupCluster, Some(CHECKS), &cx.cancel, async || Ok(())).await?;

    tracing::info!("dropping {} collections that the backup replaces", steps.plan().drops.len());
    steps.drop(&cx.cancel).await?;
    reach(board, cx.role, Status::Running, None, &cx.cancel, async || Ok(())).await?;

    let progress = steps.progress();
    let loaded = tokio::select! {
        done = steps.load(&cx.cancel) => done?,
        () = sampler::load(cx, &progress) => unreachable!("samples have no end"),
    };
    tracing::info!("loaded {} documents, {} bytes", loaded.documents, loaded.bytes);
    let swapped = steps.put_users_back(&cx.cancel).await?;
    tracing::info!("put back {} users and {} roles", swapped.users, swapped.roles);
    reach(board, cx.role, Status::DumpDone, None, &cx.cancel, async || Ok(())).await?;

    sampler::phase(cx, "oplog").await;
    let replayed = steps.replay(&cx.cancel).await?;
    tracing::info!("replayed the oplog: {:?}", replayed.stats);
    if !replayed.open.is_empty() {
        tracing::info!("{} transactions were open at the end and are not part of the backup", replayed.open.len());
    }
    sampler::phase(cx, "indexes").await;
    let built = steps.finish(&replayed, &cx.cancel).await?;
    tracing::info!("built {} indexes on {} collections", built.indexes, built.collections);

    reach(board, cx.role, Status::Done, None, &cx.cancel, async || {
        restores.set(name, doc! { "stat": statistics(cx) }).await.map(drop)
    })
    .await?;
    cx.control.config.set_epoch(cx.control.cluster_time().await?).await
}

/// Looks at the backup, the storage and the target, and says what will be done, before anything is changed.
async fn prepare(cx: &Cx) -> Result<Steps> {
    let name = &cx.restore.backup_name;
    let backup: BackupMeta = cx.control.backups.get(name).await?.with_context(|| {
        format!("backup {name} is not known here; if the storage has it, run `pbm config --force-resync` and try again")
    })?;
    let storage = cx.storage.clone().map_err(|e| anyhow!(e))?;
    let order =
        Order { backup, rs: cx.rs.clone(), wish: Wish::default(), load: options(cx), quorum: quorum(cx).parse()? };
    Steps::prepare(storage, cx.client.clone(), order).await
}

fn options(cx: &Cx) -> LoadOptions {
    let configured = cx.config.restore.as_ref();
    let positive = |n: Option<i32>| n.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let mut options = LoadOptions::default();
    if let Some(n) =
        positive(cx.restore.num_parallel_colls).or(positive(configured.map(|c| c.num_parallel_collections)))
    {
        options.collections = n;
    }
    if let Some(n) =
        positive(cx.restore.num_insertion_workers).or(positive(configured.map(|c| c.num_insertion_workers)))
    {
        options.workers = n;
    }
    if let Some(n) = positive(configured.map(|c| c.batch_size)) {
        options.batch_documents = n;
    }
    options
}

fn quorum(cx: &Cx) -> &str {
    let configured = cx.config.restore.as_ref().and_then(|c| c.index_commit_quorum.as_deref());
    cx.restore.index_commit_quorum.as_deref().or(configured).unwrap_or_default()
}

/// Transaction counters in the original's form; there is no download arena in a logical restore.
fn statistics(cx: &Cx) -> Document {
    let primary = doc! {
        "txn": { "partial": 0, "shard_uncommitted": 0, "left_uncommitted": 0 },
        "download": { "a": Bson::Null, "cc": 0, "arSize": 0, "spanNum": 0, "spanSize": 0, "bufSize": 0 },
    };
    doc! { "rs": { cx.rs.as_str(): { "_primary": primary } } }
}
