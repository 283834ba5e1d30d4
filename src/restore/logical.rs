//! The logical recipe: it checks everything, and then drops, creates, loads, replays and builds indexes (docs/format.md
//! E.3).

use super::{
    oplog_check,
    plan::{
        PointInTime,
        members::{Participants, mapping, participants},
        moment,
        namespaces::Wish,
    },
    record::first_part,
    shard_transactions, slicing_end,
    sources::Source,
    steps::{Order, Steps, all_shards},
    stream::until,
};
use crate::config::resolved::RestoreSettings;
use crate::control::ControlBoard;
use crate::model::{
    backup::BackupMeta, command::RestoreCmd, restore::RestoreMeta, selection::Selection, status::Status,
};
use crate::operation::{self, Cx, Kind, balancer, progress};
use crate::rendezvous::{Role, gather, reach};
use crate::replay::txn::Committed;
use crate::routing;
use crate::snapshot::load::LoadOptions;
use crate::topo::cluster;
use anyhow::{Context, Result, anyhow, bail};
use bson::{Bson, Document, doc};
use std::{collections::BTreeSet, time::Duration};

/// How long the replica sets have to report that they take part. The checks may take longer, because they read the
/// whole oplog.
pub(super) const APPEAR: Duration = Duration::from_secs(60);

/// The backup that is restored, and the replica sets that take part.
pub(super) struct Parts {
    pub backup: BackupMeta,
    pub of: Participants,
}

impl Parts {
    pub async fn find(cx: &Cx, restore: &RestoreCmd) -> Result<Self> {
        let name = &restore.backup_name;
        let backup: BackupMeta = cx.control.backups.get(name).await?.with_context(|| {
            format!(
                "backup {name} is not known here; if the storage has it, run `pbm config --force-resync` and try again"
            )
        })?;
        let of = participants(&backup, &cx.cluster, &mapping(&restore.rs_map)?).map_err(|reasons| {
            anyhow::anyhow!("backup '{name}' cannot be restored, nothing was changed: {}", reasons.join("; "))
        })?;
        Ok(Self { backup, of })
    }
}

pub(super) async fn run(
    cx: &Cx,
    storage: &Source,
    restore: &RestoreCmd,
    parts: &Parts,
    board: &ControlBoard<RestoreMeta>,
) -> Result<()> {
    let restores = &cx.control.restores;
    let name = &cx.name;
    restores.add_member(name, &cx.rs, &first_part(&cx.rs)).await?;
    if cx.role == Role::Leader && cx.cluster.sharded {
        hold_balancer(cx).await?;
    }
    let me = cx.cluster.members.get(&cx.rs).context("this replica set is not in the cluster any more")?;

    gather(board, cx.role, Status::CleanupCluster, APPEAR, &cx.cancel).await?;
    slicing_end::wait_for_their_end(cx).await?;

    progress::publish_phase(cx, "check").await;
    let mut steps = until(&cx.cancel, Box::pin(prepare(cx, storage, restore, parts, me.config))).await?;
    for warning in &steps.plan().warnings {
        tracing::warn!("{warning}");
    }
    if cx.cluster.sharded {
        let made = until(&cx.cancel, steps.makes(cx.control.client())).await.context("nothing was changed")?;
        tell(cx, &made).await?;
    }
    reach(board, cx.role, Status::CleanupCluster, None, &cx.cancel, async || end_timeline(cx).await).await?;
    let ours = replaced_everywhere(cx, &steps, parts).await?;
    if !me.config {
        steps.replace(&ours);
    }

    tracing::info!("dropping {} collections that the restore replaces", steps.plan().drops.len());
    if cx.cluster.sharded && !me.config {
        Box::pin(steps.drop_on_all_shards(cx.control.client(), &me.id, &ours)).await?;
    }
    let steps = steps.drop(&cx.cancel).await?;
    reach(board, cx.role, Status::Running, None, &cx.cancel, async || Ok(())).await?;

    let progress = steps.progress();
    let (steps, loaded) = tokio::select! {
        done = steps.load(&cx.cancel) => done?,
        () = progress::publish_load(cx, &progress) => unreachable!("samples have no end"),
    };
    tracing::info!("loaded {} documents, {} bytes", loaded.documents, loaded.bytes);
    let swapped = steps.put_users_back(&cx.cancel).await?;
    tracing::info!("put back {} users and {} roles", swapped.users, swapped.roles);
    steps.put_settings_back(&cx.cancel).await?;
    let steps = steps.put_routing_back(&ours, &cx.cancel).await?;
    reach(board, cx.role, Status::DumpDone, None, &cx.cancel, async || Ok(())).await?;

    progress::publish_phase(cx, "oplog").await;
    let members: Vec<String> = parts.of.parts.keys().cloned().collect();
    let exchange = async |mine: &[Committed]| shard_transactions::exchange(cx, &members, mine).await;
    let (steps, settled) = steps.replay(&cx.cancel, exchange).await?;
    tracing::info!("replayed the oplog: {:?}", steps.replayed().stats);
    if settled.undecided > 0 {
        tracing::info!("transactions without a decision at the end of the oplog: {settled:?}");
        shard_transactions::report(cx, &settled).await?;
    }
    progress::publish_phase(cx, "indexes").await;
    let built = steps.finish(&cx.cancel).await?;
    tracing::info!("built {} indexes on {} collections", built.indexes, built.collections);

    if cx.cluster.sharded {
        // The restored collections must be usable at once, so no server may keep the routing from before the restore.
        routing::drop::forget(&cx.client).await?;
    }
    if me.config {
        routing::put_back::renew_placement_history(&cx.client).await;
    }
    reach(board, cx.role, Status::Done, None, &cx.cancel, async || {
        operation::pay_debts(cx, Kind::Restore).await;
        restores.set(name, doc! { "stat": statistics(cx) }).await.map(drop)
    })
    .await?;
    if cx.role == Role::Leader {
        cx.control.config.set_epoch(cx.control.cluster_time().await?).await?;
    }
    Ok(())
}

/// Records the end of all present timelines. By now the slicers have ended, and nothing has been changed.
async fn end_timeline(cx: &Cx) -> Result<()> {
    let now = cx.control.advanced_cluster_time().await?;
    // The clocks of shards may be a little ahead of the config servers.
    let last = cx.control.chunks.newest_end().await?.unwrap_or(now);
    cx.control.restores.set(&cx.name, doc! { "changed_from": now.max(last) }).await.map(drop)
}

/// The key under which a replica set's part of the restore stores the result of [`Steps::makes`]. *Added by us*.
const MAKES: &str = "makes";

/// Reports `made` to the other replica sets. When the oplog created a database, its primary shard may have been another
/// one than now.
async fn tell(cx: &Cx, made: &BTreeSet<String>) -> Result<()> {
    if made.is_empty() {
        return Ok(());
    }
    cx.control.restores.set_member(&cx.name, &cx.rs, doc! { MAKES: made.iter().collect::<Vec<_>>() }).await.map(drop)
}

/// Returns what the restore replaces on every shard, from the reports of all replica sets. Empty if the cluster is not
/// sharded.
async fn replaced_everywhere(cx: &Cx, steps: &Steps, parts: &Parts) -> Result<BTreeSet<String>> {
    let mut made = BTreeSet::new();
    if !cx.cluster.sharded {
        return Ok(made);
    }
    let restore = cx.control.restores.raw(&cx.name).await?.context("the restore's record is gone")?;
    for part in
        restore.get_array("replsets").context("read the restore's replica sets")?.iter().filter_map(Bson::as_document)
    {
        let told = part.get_array(MAKES).map(Vec::as_slice).unwrap_or_default();
        made.extend(told.iter().filter_map(Bson::as_str).map(str::to_owned));
    }
    all_shards::replaced(steps.storage(), &parts.backup, steps.selection(), made).await
}

/// Stops the balancer, and waits for the end of its round, but not longer than configured.
pub(super) async fn hold_balancer(cx: &Cx) -> Result<()> {
    // Stopping the balancer may take long, and an operator who waits for the restore should see why.
    progress::publish_phase(cx, "balancer").await;
    let limit = cx.settings.restore.balancer_limit;
    until(&cx.cancel, balancer::hold_for_restore(&cx.control, &cx.name, limit)).await
}

/// Reads the backup, the storage and the target, and logs what the restore will do, before anything is changed.
async fn prepare(cx: &Cx, storage: &Source, restore: &RestoreCmd, parts: &Parts, config_server: bool) -> Result<Steps> {
    let storage = storage.clone().map_err(|e| anyhow!(e))?;
    let rs = parts.of.parts.get(&cx.rs).context("this replica set takes no part")?.clone();
    let wish = Wish { config_server, ..wish(restore, &parts.backup)? };
    if cx.cluster.sharded && wish.clone.is_some() {
        bail!("clones in sharded clusters are not supported; nothing was changed");
    }
    if cx.cluster.sharded {
        cluster::refuse_config_shard(cx.control.client()).await.context("nothing was changed")?;
    }
    let point = match restore.oplog_ts {
        Some(target) => {
            let chunks = cx.control.chunks.all().await?;
            let obstacles = moment::obstacles(&parts.backup, &chunks, target);
            if !obstacles.is_empty() {
                bail!("the restore to this moment is refused, nothing was changed: {}", obstacles.join("; "));
            }
            Some(PointInTime { target, chunks: chunks.into_iter().filter(|chunk| chunk.rs == rs).collect() })
        }
        None => None,
    };
    let (load, quorum) = (options(&cx.settings.restore, restore), quorum(cx, restore).parse()?);
    let (sharded, ids, places) = (cx.cluster.sharded, parts.of.ids.clone(), parts.of.places.clone());
    let order = Order { backup: parts.backup.clone(), rs, wish, load, quorum, point, sharded, ids, places };
    Steps::prepare(storage, cx.client.clone(), order).await
}

fn wish(restore: &RestoreCmd, backup: &BackupMeta) -> Result<Wish> {
    if restore.ns_from.is_empty() && restore.ns_to.is_empty() {
        let asked = Selection::of(&restore.nss, restore.narrowed.as_ref())?;
        return Ok(Wish { drop_extra: restore.drop_extra, ..Wish::of(asked, restore.users_and_roles, backup)? });
    }
    Wish::cloning(&restore.ns_from, &restore.ns_to).map_err(|why| anyhow!("{why}; nothing was changed"))
}

/// Returns how many objects are read at the same time at most, both while the oplog is checked and while collections
/// are loaded.
#[must_use]
pub fn readers(settings: &RestoreSettings, restore: Option<&RestoreCmd>) -> usize {
    let loading = restore.map_or(0, |restore| options(settings, restore).collections);
    loading.max(oplog_check::AT_ONCE)
}

/// Combines the options of the command with the settings. The command has priority.
fn options(settings: &RestoreSettings, restore: &RestoreCmd) -> LoadOptions {
    let asked = |number: Option<i32>| number.and_then(|it| usize::try_from(it).ok()).filter(|it| *it > 0);
    let default = LoadOptions::default();
    LoadOptions {
        collections: asked(restore.num_parallel_colls).or(settings.parallel_collections).unwrap_or(default.collections),
        workers: asked(restore.num_insertion_workers).unwrap_or(settings.insertion_workers),
        batch_documents: settings.batch_documents,
        ..default
    }
}

fn quorum<'a>(cx: &'a Cx, restore: &'a RestoreCmd) -> &'a str {
    let configured = cx.settings.restore.index_commit_quorum.as_deref();
    restore.index_commit_quorum.as_deref().or(configured).unwrap_or_default()
}

/// Returns transaction counters in the original's form. The values for downloads are empty, because a logical restore
/// has no download buffers.
pub(super) fn statistics(cx: &Cx) -> Document {
    let primary = doc! {
        "txn": { "partial": 0, "shard_uncommitted": 0, "left_uncommitted": 0 },
        "download": { "a": Bson::Null, "cc": 0, "arSize": 0, "spanNum": 0, "spanSize": 0, "bufSize": 0 },
    };
    doc! { "rs": { cx.rs.as_str(): { "_primary": primary } } }
}
