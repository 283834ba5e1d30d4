//! `delete`, `deletePitr`, `cleanup`: one agent of the leader replica set makes the plan again and deletes what is in
//! it (docs/format.md A.11, D.6).

use super::{Task, alone, remains};
use crate::agent::sharing;
use crate::model::command::{CleanupCmd, DeleteCmd, DeletePitrCmd, name};
use crate::storage::Storage;
use crate::storages::place;
use crate::upkeep::deletion::{
    plan::Cut,
    prune,
    retention::{self, Ask},
};
use anyhow::{Context, Result, bail, ensure};
use bson::Timestamp;

pub(in crate::agent) async fn backups(task: Task, command: DeleteCmd) -> Result<()> {
    alone::run(task, name::DELETE, async |task| work(task, &backups_of(command)?).await).await
}

pub(in crate::agent) async fn chunks(task: Task, command: DeletePitrCmd) -> Result<()> {
    alone::run(task, name::DELETE_PITR, async |task| {
        let ask = match command.olderthan {
            0 => Ask::AllChunks,
            olderthan => Ask::Chunks { before: seconds(olderthan)? },
        };
        work(task, &ask).await
    })
    .await
}

pub(in crate::agent) async fn cleanup(task: Task, command: CleanupCmd) -> Result<()> {
    alone::run(task, name::CLEANUP, async |task| {
        ensure!(command.older_than.time != 0, "the cleanup command names no time");
        let ask = Ask::Everything { before: command.older_than, profile: profile(command.profile) };
        work(task, &ask).await
    })
    .await
}

/// Returns the backups that the command selects.
fn backups_of(command: DeleteCmd) -> Result<Ask> {
    if !command.backup.is_empty() {
        return Ok(Ask::Backup(command.backup));
    }
    let kind = Some(command.kind.as_str()).filter(|kind| !kind.is_empty()).map(str::parse);
    let kind = kind.transpose().map_err(|why: String| anyhow::anyhow!("type '{}': {why}", command.kind))?;
    Ok(Ask::Backups { before: seconds(command.olderthan)?, kind, profile: profile(command.profile) })
}

fn profile(name: String) -> Option<String> {
    (!place::is_main(&name)).then_some(name)
}

fn seconds(unix: i64) -> Result<Timestamp> {
    match u32::try_from(unix) {
        Ok(time) if time > 0 => Ok(Timestamp { time, increment: 0 }),
        _ => bail!("the command names neither a backup nor a time"),
    }
}

async fn work(task: &Task, ask: &Ask) -> Result<()> {
    let control = &task.node.control;
    let config = control.config.main().await?.context("there is no configuration; run `pbm config --file`")?;
    if let Some(before) = ask.before() {
        let now = control.advanced_cluster_time().await?;
        if before.time > now.time {
            let [asked, now] = [before, now].map(crate::layout::format_ts);
            bail!("nothing was deleted: the time asked for, {asked} UTC, is after now, {now} UTC");
        }
    }
    prune::nothing_else_runs(control, &task.opid).await?;
    let facts = prune::facts(control, &config).await?;
    let plan = retention::plan(&facts, ask)?;
    if let Some(Cut { until, .. }) = &plan.chunks {
        tracing::info!("deleting PITR chunks that end at or before {},{}", until.time, until.increment);
    }
    let settings = match (ask, ask.profile()) {
        // Uses the storage from the backup's document, even if its profile has been removed.
        (Ask::Backup(name), _) => match facts.backups.iter().find(|backup| backup.name == *name) {
            Some(backup) => place::of_backup(control, backup, &config.storage).await?,
            None => config.storage.clone(),
        },
        (_, profile) => place::storage(control, &config.storage, profile.unwrap_or(place::MAIN)).await?,
    };
    let store = task.node.open_to_delete(&settings).await?;
    let done = prune::run(control, store.as_ref(), &plan).await?;
    let strays = match &plan.chunks {
        Some(cut) => strays(task, store.as_ref(), cut).await?,
        None => 0,
    };
    sharing::end(&task.node, store.as_ref(), &settings).await;
    tracing::info!("deleted {} backups and {} PITR chunks", done.backups, done.chunks + strays);
    Ok(())
}

/// Also deletes chunks of the cut that are missing in the index, on a storage where only this cluster can have stored
/// them.
async fn strays(task: &Task, store: &dyn Storage, cut: &Cut) -> Result<usize> {
    if let Some(why) = remains::shared(task, store).await? {
        tracing::warn!("PITR chunks on the storage that are not in the index stay: {why}");
        return Ok(0);
    }
    let ours = task.node.cluster().await?.names().into_iter().collect();
    let strays = prune::strays(&task.node.control, store, cut, &ours).await;
    let strays = strays.context("delete PITR chunks that the index does not know")?;
    if strays > 0 {
        tracing::warn!("{strays} PITR chunks on the storage were not in the index; they are deleted too");
    }
    Ok(strays)
}
