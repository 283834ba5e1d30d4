//! `delete`, `deletePitr`, `cleanup`: one agent of the leader replica set makes the plan again and carries it out
//! (spec/format.md A.11, D.6).

use super::Task;
use crate::agent::op::Gate;
use crate::model::command::{CleanupCmd, DeleteCmd, DeletePitrCmd, name};
use crate::mongo::admin::explain;
use crate::upkeep::{
    prune,
    retention::{self, Ask, Cut},
};
use anyhow::{Context, Result, bail};
use bson::Timestamp;
use std::time::Duration;

/// What the original's storage profile for the main storage is called; empty means the same.
const MAIN: &str = "main";

pub(in crate::agent) async fn backups(task: Task, command: Option<DeleteCmd>) -> Result<()> {
    let ask = command.context("the delete command has no details").and_then(|command| {
        no_profile(&command.profile)?;
        if !command.backup.is_empty() {
            return Ok(Ask::Backup(command.backup));
        }
        let kind = Some(command.kind.as_str()).filter(|kind| !kind.is_empty()).map(str::parse);
        let kind = kind.transpose().map_err(|why: String| anyhow::anyhow!("type '{}': {why}", command.kind))?;
        Ok(Ask::Backups { before: seconds(command.olderthan)?, kind })
    });
    run(task, name::DELETE, ask).await
}

pub(in crate::agent) async fn chunks(task: Task, command: Option<DeletePitrCmd>) -> Result<()> {
    let ask = command.context("the deletePitr command has no details").and_then(|command| match command.olderthan {
        0 => Ok(Ask::AllChunks),
        olderthan => Ok(Ask::Chunks { before: seconds(olderthan)? }),
    });
    run(task, name::DELETE_PITR, ask).await
}

pub(in crate::agent) async fn cleanup(task: Task, command: Option<CleanupCmd>) -> Result<()> {
    let ask = command.context("the cleanup command has no details").and_then(|command| {
        no_profile(&command.profile)?;
        if command.older_than.time == 0 {
            bail!("the cleanup command names no time");
        }
        Ok(Ask::Everything { before: command.older_than })
    });
    run(task, name::CLEANUP, ask).await
}

fn no_profile(profile: &str) -> Result<()> {
    if profile.is_empty() || profile == MAIN {
        return Ok(());
    }
    bail!("storage profiles are not supported by this agent, so nothing of profile {profile} is deleted")
}

/// How long the lock is held for the last line to arrive in the log.
const LAST_WORD: Duration = Duration::from_secs(10);

fn seconds(unix: i64) -> Result<Timestamp> {
    match u32::try_from(unix) {
        Ok(time) if time > 0 => Ok(Timestamp { time, increment: 0 }),
        _ => bail!("the command names neither a backup nor a time"),
    }
}

/// The original's command line waits for the lock, which it looks for after a second: it is taken first, and what is
/// wrong with the command is told while it is held.
async fn run(task: Task, kind: &str, ask: Result<Ask>) -> Result<()> {
    let node = &task.node;
    if !node.in_leader_rs {
        return Ok(());
    }
    let op = match task.receive("").check(node).await? {
        Gate::Go(op) => op.anybody().lease(node, kind).await?,
        Gate::StandDown(why) => Gate::StandDown(why),
    };
    let Some(op) = op.go() else { return Ok(()) };
    op.run(async |op| {
        let work = async {
            let ask = ask?;
            tokio::select! {
                () = op.cancel.cancelled() => bail!("the deletion was cancelled; the same command goes on with it"),
                done = work(&task, &ask) => done,
            }
        };
        // Told before the lock is given back: who waits for the lock reads the log then.
        match work.await {
            Ok(()) => tracing::info!("done"),
            Err(error) => tracing::error!("{}", explain(&error)),
        }
        node.log.settle(LAST_WORD).await;
    })
    .await;
    Ok(())
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
    let plan = retention::plan(&prune::facts(control, &config).await?, ask)?;
    if let Some(Cut { until, .. }) = &plan.chunks {
        tracing::info!("deleting PITR chunks that end at or before {},{}", until.time, until.increment);
    }
    let store = task.node.open_storage(&config).await?;
    let done = prune::run(control, store.as_ref(), &plan).await?;
    if done.unindexed > 0 {
        tracing::warn!("{} PITR chunks on the storage were not in the index; they are deleted too", done.unindexed);
    }
    tracing::info!("deleted {} backups and {} PITR chunks", done.backups, done.chunks);
    Ok(())
}
