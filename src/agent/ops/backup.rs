//! `backup`: leads the backup if this agent has to, and takes part in it if this agent is nominated.

use super::{Task, restore::context};
use crate::agent::{
    node::Node,
    nominate::{self, TAKE_OVER},
    reap, sharing,
};
use crate::backup::{self, Job, physical};
use crate::config::resolved::Resolved;
use crate::control::{Look, Waited};
use crate::model::{
    backup::BackupType,
    command::{BackupCmd, name},
    config::Config,
    status::Status,
};
use crate::mongo::{admin::explain, majority};
use crate::operation::Cx;
use crate::storage::Storage;
use crate::storages::place;
use anyhow::{Context, Result};
use std::{sync::Arc, time::Duration};

/// The longest time that an agent waits for its nomination.
const FOR_A_NOMINATION: Duration = Duration::from_secs(60);

pub(in crate::agent) async fn handle(task: Task, backup: BackupCmd) -> Result<()> {
    take_part(task, backup, backup::run).await
}

/// Leads the backup, takes part in it, or both. `run` does this replica set's part.
pub(in crate::agent) async fn take_part(
    task: Task,
    backup: BackupCmd,
    run: impl AsyncFn(&Cx, &Job) -> Result<()>,
) -> Result<()> {
    let node = &task.node;
    let config = node.control.config.main().await?;
    let is_primary = node.hello().await?.is_primary();

    let leading = async {
        if !node.in_leader_rs || (!is_primary && appears(&task, &backup.name).await?) {
            return Ok(());
        }
        nominate::lead(node, &task.opid, &backup, config.as_ref(), &task.cancel).await
    };
    let (led, worked) = tokio::join!(leading, work(&task, &backup, run));
    led.and(worked)
}

/// Waits for the backup's document, as long as the primary's agent has time to lead.
async fn appears(task: &Task, name: &str) -> Result<bool> {
    let node = &task.node;
    let look = || async { Ok(Look::at(node.control.backups.get(name).await?.map(drop))) };
    // An agent that ends while it waits does not lead: others of this replica set do.
    let waited = node.control.bell.until(TAKE_OVER, task.cancel.cancelled(), look).await?;
    Ok(waited != Waited::TimedOut(()))
}

async fn work(task: &Task, backup: &BackupCmd, run: impl AsyncFn(&Cx, &Job) -> Result<()>) -> Result<()> {
    let node = &task.node;
    let Some(op) = task.receive(&backup.name).check(node).await?.go() else { return Ok(()) };
    if let Some(why) = not_nominated(task, &backup.name).await? {
        tracing::debug!("nothing to do here: {why}");
        return Ok(());
    }
    if let Some(why) = no_source(node, backup).await? {
        tracing::warn!("{} was named for the backup and does not take it: {why}", node.me());
        return node.control.backups.decline(&backup.name, &node.rs, &node.me(), &why).await;
    }
    let Some(op) = op.nominated().lease(node, name::BACKUP).await?.go() else { return Ok(()) };
    op.run(async |op| {
        node.control.backups.acknowledge(&op.name, &node.rs, &node.me()).await?;
        let (config, storage) = match storage(node, backup).await {
            Ok(ready) => ready,
            Err(error) => {
                // The recipe has not begun, so only this code can report the error.
                let why = format!("{} can't use the storage: {}", node.me(), explain(&error));
                node.control.backups.set_status(&op.name, Status::Error, &why).await?;
                return Err(error);
            }
        };
        let cx = context(node, op, Some(&config)).await?;
        let (asked, configured) = match backup.kind {
            BackupType::Physical => (backup.num_parallel_files, cx.settings.backup.parallel_files),
            _ => (backup.num_parallel_colls, cx.settings.backup.parallel_collections),
        };
        let asked = asked.filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
        let parallel = asked.or(configured).unwrap_or(node.parallel);
        let (primary, uri) = (node.primary.clone(), node.uri.clone());
        let job = Job { command: backup.clone(), storage, primary, uri, parallel };
        let result = Box::pin(run(&cx, &job)).await;
        if op.lost_its_lock() || result.is_err() {
            // The backup's objects may have been removed before this agent noticed the end, and it may have written
            // since. This can happen with any error: an agent that was suspended for long is considered lost, and often
            // meets broken connections before it notices that its lock is lost.
            node.control.backups.ask_for_cleanup(&op.name).await?;
        }
        if result.is_err() && !op.lost_its_lock() {
            // The objects are removed before the lock is released, so that the next backup starts on a clean storage.
            reap::sweep(node).await?;
        }
        result
    })
    .await
}

/// The configuration for this backup, and its storage. Read again: the leader's decision is based on this configuration or a
/// newer one.
async fn storage(node: &Node, backup: &BackupCmd) -> Result<(Config, Arc<dyn Storage>)> {
    let config = node.control.config.main().await?.context("the configuration is gone")?;
    let limit = backup.limit_upload.unwrap_or(Resolved::of(&config).backup.limit_upload);
    let place = place::storage(&node.control, &config.storage, &backup.profile).await?;
    let storage = node.open_to_write(&place, limit).await?;
    if node.in_leader_rs {
        sharing::begin(node, storage.as_ref(), &place).await;
    }
    Ok((config, storage))
}

/// Returns the reason why this node can't be read now, or `None` if it can. The node was nominated by its document in
/// `pbmAgents`, which is some seconds old.
async fn no_source(node: &Node, backup: &BackupCmd) -> Result<Option<String>> {
    let condition = node.condition().await?;
    let why = match backup.kind {
        BackupType::Physical => {
            let settings = Resolved::of(&node.control.config.main().await?.unwrap_or_default()).backup.physical;
            let files = physical::place::describe(&node.client, &settings, &node.me()).await;
            condition.unfit_for_files(files, backup.allow_only_member)
        }
        _ => condition.unfit(),
    };
    if why.is_some() {
        return Ok(why);
    }
    // The missing majority is reported at once. Otherwise a time-out would report it much later.
    let starved = condition.no_majority().filter(|_| majority::is_asked_for(&node.client));
    Ok(starved.map(|why| node.starved(why)))
}

/// Waits for the nomination round of this replica set. Returns `None` if this node is nominated, and otherwise why it
/// is not.
async fn not_nominated(task: &Task, name: &str) -> Result<Option<String>> {
    let node = &task.node;
    let look = || async {
        let Some((status, round)) = node.control.backups.nomination(name, &node.rs).await? else {
            return Ok(Look::Missing(()));
        };
        if status.is_final() {
            return Ok(Look::Found(Some(format!("the backup has ended: {status}"))));
        }
        Ok(match round {
            Some(round) if !round.ack.is_empty() => Look::Found(Some(format!("{} does it", round.ack))),
            Some(round) if round.n.contains(&node.me()) => Look::Found(None),
            _ => Look::Missing(()),
        })
    };
    Ok(match node.control.bell.until(FOR_A_NOMINATION, task.cancel.cancelled(), look).await? {
        Waited::Found(why) => why,
        Waited::Cancelled => Some("cancelled before it began".into()),
        Waited::TimedOut(()) => Some(format!("not nominated within {} s", FOR_A_NOMINATION.as_secs())),
    })
}
