//! `backup`: lead it if that is on us, take part if we are named.

use super::Task;
use crate::agent::{
    node::Node,
    nominate::{self, TAKE_OVER},
    reap, sharing,
};
use crate::backup::{self, Cx};
use crate::config::resolved::{BackupSettings, Resolved};
use crate::model::{
    command::{BackupCmd, name},
    status::Status,
};
use crate::mongo::{admin::explain, majority};
use crate::rendezvous::Role;
use crate::storage::Storage;
use crate::storages::place;
use crate::topo::condition;
use anyhow::{Context, Result};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The longest that an agent waits to be named.
const FOR_A_NOMINATION: Duration = Duration::from_secs(60);

pub(in crate::agent) async fn handle(task: Task, command: Option<BackupCmd>) -> Result<()> {
    let backup = command.context("the backup command has no details")?;
    let node = &task.node;
    let config = node.control.config.main().await?;
    let is_primary = node.hello().await?.is_primary();

    let leading = async {
        if !node.in_leader_rs || (!is_primary && appears(node, &backup.name).await?) {
            return Ok(());
        }
        nominate::lead(node, &task.opid, &backup, config.as_ref(), &task.cancel).await
    };
    let (led, worked) = tokio::join!(leading, work(&task, &backup));
    led.and(worked)
}

/// Waits for the backup's document, as long as the lead is left to the primary's agent.
async fn appears(node: &Node, name: &str) -> Result<bool> {
    let until = Instant::now() + TAKE_OVER;
    let mut waiter = node.control.bell.waiter();
    while Instant::now() < until {
        if node.control.backups.get(name).await?.is_some() {
            return Ok(true);
        }
        waiter.next_within(until.saturating_duration_since(Instant::now())).await;
    }
    Ok(false)
}

async fn work(task: &Task, backup: &BackupCmd) -> Result<()> {
    let node = &task.node;
    let Some(op) = task.receive(&backup.name).check(node).await?.go() else { return Ok(()) };
    if let Some(why) = not_nominated(task, &backup.name).await? {
        tracing::debug!("nothing to do here: {why}");
        return Ok(());
    }
    if let Some(why) = no_source(node).await? {
        tracing::warn!("{} was named for the backup and does not take it: {why}", node.me());
        return node.control.backups.decline(&backup.name, &node.rs, &node.me(), &why).await;
    }
    let Some(op) = op.nominated().lease(node, name::BACKUP).await?.go() else { return Ok(()) };
    op.run(async |op| {
        node.control.backups.acknowledge(&op.name, &node.rs, &node.me()).await?;
        let (settings, storage) = match storage(node, backup).await {
            Ok(ready) => ready,
            Err(error) => {
                // Nobody else would say it: the recipe has not begun.
                let why = format!("{} can't use the storage: {}", node.me(), explain(&error));
                node.control.backups.set_status(&op.name, Status::Error, &why).await?;
                return Err(error);
            }
        };
        let cx = Cx {
            storage,
            parallel: backup
                .num_parallel_colls
                .filter(|n| *n > 0)
                .and_then(|n| usize::try_from(n).ok())
                .or(settings.parallel_collections)
                .unwrap_or(node.parallel),
            control: node.control.clone(),
            client: node.client.clone(),
            name: op.name.clone(),
            opid: op.opid.clone(),
            rs: node.rs.clone(),
            me: node.me(),
            role: if node.in_leader_rs { Role::Leader } else { Role::Follower },
            primary: node.primary.clone(),
            cluster: node.cluster().await?,
            backup: backup.clone(),
            version: node.version_now().await?,
            settings,
            cancel: op.cancel.clone(),
        };
        let result = backup::run(&cx).await;
        if op.lost_its_lock() || result.is_err() {
            // The remains may have been removed before we heard of the end, and we have written since. Whatever failed
            // first, we may have been taken for lost: who slept for long often sees broken connections before its lock.
            node.control.backups.ask_for_cleanup(&op.name).await?;
        }
        if result.is_err() && !op.lost_its_lock() {
            // The remains are removed before the lock is given back: the next backup starts on a clean storage.
            reap::sweep(node).await?;
        }
        result
    })
    .await
}

/// The settings for this backup and its storage. Read again: the leader's decision is based on this configuration or a
/// newer one.
async fn storage(node: &Node, backup: &BackupCmd) -> Result<(BackupSettings, Arc<dyn Storage>)> {
    let config = node.control.config.main().await?.context("the configuration is gone")?;
    let settings = Resolved::of(&config).backup;
    let place = place::storage(&node.control, &config.storage, &backup.profile).await?;
    let storage = node.open_to_write(&place, backup.limit_upload.unwrap_or(settings.limit_upload)).await?;
    if node.in_leader_rs {
        sharing::begin(node, storage.as_ref(), &place).await;
    }
    Ok((settings, storage))
}

/// Why this node may not be read now; `None` if it may. The node was named by its line in `pbmAgents`, which is some seconds
/// old.
async fn no_source(node: &Node) -> Result<Option<String>> {
    let condition = condition::of(&node.client).await?;
    if let Some(why) = condition.unfit() {
        return Ok(Some(why));
    }
    // The missing majority is reported at once, in place of a time-out later.
    let starved = condition.no_majority().filter(|_| majority::is_asked_for(&node.client));
    Ok(starved.map(|why| node.starved(why)))
}

/// Waits for the nomination round of this replica set. `None` when this node is named, else why it is not.
async fn not_nominated(task: &Task, name: &str) -> Result<Option<String>> {
    let node = &task.node;
    let until = Instant::now() + FOR_A_NOMINATION;
    loop {
        let mut waiter = node.control.bell.waiter();
        if let Some((status, round)) = node.control.backups.nomination(name, &node.rs).await? {
            if status.is_final() {
                return Ok(Some(format!("the backup has ended: {status}")));
            }
            if let Some(round) = round {
                if !round.ack.is_empty() {
                    return Ok(Some(format!("{} does it", round.ack)));
                }
                if round.n.contains(&node.me()) {
                    return Ok(None);
                }
            }
        }
        if Instant::now() >= until {
            return Ok(Some(format!("not nominated within {} s", FOR_A_NOMINATION.as_secs())));
        }
        tokio::select! {
            () = task.cancel.cancelled() => return Ok(Some("cancelled before it began".into())),
            () = waiter.next() => {}
        }
    }
}
