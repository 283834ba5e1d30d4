//! `cleanupFailed` (ours): one agent of the leader replica set lists what failed backups left behind, or deletes what
//! an operator has confirmed.

use super::{Task, alone};
use crate::agent::sharing;
use crate::control::unix_now;
use crate::model::command::{CleanupFailedCmd, name};
use crate::storage::Storage;
use crate::storages::place;
use crate::{
    operation::reap,
    upkeep::{
        contents::{leftovers, tenants},
        deletion::{
            plan::{Fate, Stays},
            prune,
        },
    },
};
use anyhow::{Context, Result, bail};
use std::collections::HashSet;

pub(in crate::agent) async fn handle(task: Task, command: CleanupFailedCmd) -> Result<()> {
    // The lock has a name that the original also knows.
    alone::run(task, name::CLEANUP, async |task| work(task, &command).await).await
}

async fn work(task: &Task, command: &CleanupFailedCmd) -> Result<()> {
    let control = &task.node.control;
    let config = control.config.main().await?.context("there is no configuration; run `pbm config --file`")?;
    let settings = place::storage(control, &config.storage, &command.profile).await?;
    let store = task.node.open_to_delete(&settings).await?;
    if command.look {
        return look(task, store.as_ref()).await;
    }
    prune::nothing_else_runs(control, &task.opid).await?;
    for said in reap::end_all_lost(control).await? {
        tracing::warn!("{said}");
    }
    let profile = place::profile_of(&settings);
    let backups = control.backups.all().await?;
    let now = control.advanced_cluster_time().await?;
    let mut plan = leftovers::plan(&backups, &control.locks.all().await?, profile, now);
    let agreed: HashSet<&String> = command.backups.iter().collect();
    for item in plan.backups.iter_mut().filter(|item| matches!(item.fate, Fate::Goes(_))) {
        if !agreed.contains(&item.name) {
            item.fate = Fate::Stays(Stays::NotAsked);
            continue;
        }
        let Some(backup) = backups.iter().find(|backup| backup.name == item.name) else { continue };
        if leftovers::is_finished_there(store.as_ref(), backup).await? {
            tracing::warn!("backup {} stays: its metadata file says that it was finished", item.name);
            item.fate = Fate::Stays(Stays::Incomplete);
        }
    }
    let done = prune::run(control, store.as_ref(), &plan).await?;
    let folders = orphans(task, store.as_ref(), command).await?;
    sharing::end(&task.node, store.as_ref(), &settings).await;
    tracing::info!("deleted {} failed backups and {folders} folders that belonged to no backup", done.backups);
    Ok(())
}

async fn look(task: &Task, store: &dyn Storage) -> Result<()> {
    if let Some(why) = shared(task, store).await? {
        tracing::warn!("objects that belong to no backup are not looked for: {why}");
        return Ok(());
    }
    for orphan in leftovers::orphans(store, &known(task).await?, unix_now()).await? {
        tracing::info!("{}", leftovers::line(&orphan));
    }
    Ok(())
}

/// Deletes the folders that the operator has confirmed. Returns their number.
async fn orphans(task: &Task, store: &dyn Storage, command: &CleanupFailedCmd) -> Result<usize> {
    if command.orphans.is_empty() {
        return Ok(0);
    }
    if let Some(why) = shared(task, store).await? {
        bail!("the objects that belong to no backup stay: {why}");
    }
    for orphan in &command.orphans {
        leftovers::remove(store, orphan, &known(task).await?, unix_now()).await?;
        tracing::info!("deleted the objects below '{}'", orphan.name);
    }
    Ok(command.orphans.len())
}

/// Returns the names of all backups in the database, on any storage.
async fn known(task: &Task) -> Result<HashSet<String>> {
    Ok(task.node.control.backups.known_names().await?.into_iter().collect())
}

/// Returns the other cluster that makes backups on this storage, if there is one. Objects that are in no record of ours
/// may belong to it.
pub(super) async fn shared(task: &Task, store: &dyn Storage) -> Result<Option<String>> {
    let all = tenants::all(store).await?;
    let others = match task.node.identity().await? {
        Some(me) => tenants::others(all, &me),
        None => all,
    };
    Ok(others.first().map(|other| {
        format!(
            "another cluster, {} (id {}), makes backups on this storage and they may be its own",
            other.name, other.id
        )
    }))
}
