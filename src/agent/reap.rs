//! Finds operations whose agents are lost, and removes what failed backups and earlier releases left.

use super::node::Node;
use crate::control::{Control, HEARTBEAT};
use crate::model::lock::{Lock, is_stale};
use crate::mongo::admin::explain;
use crate::{
    operation::{balancer, reap, slicing_pause},
    upkeep::deletion::objects,
};
use anyhow::Result;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A lock of this very node that nobody refreshes for this long after our start was left by an earlier life of ours.
const OWN_SILENCE: Duration = Duration::from_secs(7);

/// How often the agent checks whether the bell of earlier releases can be dropped.
const OLD_BELL: Duration = Duration::from_secs(60);

/// Runs until `stop`. Only agents of the leader replica set do this.
pub(super) async fn keep(node: Arc<Node>, stop: CancellationToken) {
    let work = async {
        if let Err(error) = end_own(&node).await {
            tracing::warn!("look for operations that an earlier run of this agent left: {}", explain(&error));
        }
        let mut quiet = None;
        // By then, agents that started before this one have reported their release.
        let mut bell_due = Instant::now() + HEARTBEAT * 2;
        loop {
            if node.in_leader_rs && Instant::now() >= bell_due {
                bell_due = Instant::now() + OLD_BELL;
                if let Err(error) = drop_old_bell(&node).await {
                    tracing::debug!("{}", explain(&error));
                }
            }
            if node.in_leader_rs {
                let done = async {
                    if !is_needed(&node.control).await? {
                        return Ok(());
                    }
                    for said in reap::end_all_lost(&node.control).await? {
                        tracing::warn!("{said}");
                    }
                    sweep(&node).await?;
                    balancer::give_back_forgotten(&node.control).await?;
                    slicing_pause::give_back_forgotten(&node.control, &mut quiet).await
                };
                if let Err(error) = done.await {
                    tracing::warn!("look for lost operations: {}", explain(&error));
                }
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Drops the bell of earlier releases when no agent of such a release lives. An agent of such a release that starts later
/// creates it again.
async fn drop_old_bell(node: &Node) -> Result<()> {
    if !node.hello().await?.is_primary() || !node.control.has_old_bell().await? {
        return Ok(());
    }
    let now = node.control.cluster_time().await?;
    let agents = node.control.agents.all().await?;
    if agents.iter().any(|agent| !is_stale(agent.hb, now) && !agent.is_original() && !agent.names_slicers()) {
        return Ok(());
    }
    node.control.drop_old_bell().await?;
    tracing::info!("dropped admin.pbmBell, which only earlier releases used");
    Ok(())
}

/// Mostly nothing is under way: three questions then, and nobody is woken.
async fn is_needed(control: &Control) -> Result<bool> {
    Ok(!control.locks.all().await?.is_empty()
        || control.backups.any_open().await?
        || control.restores.any_open().await?)
}

/// Ends what an earlier run of this agent held. Its locks look alive for 30 s; that nobody refreshes them shows
/// earlier that nobody is there.
async fn end_own(node: &Node) -> Result<()> {
    let mine = |locks: Vec<Lock>| locks.into_iter().filter(|l| l.header.node == node.me()).collect::<Vec<_>>();
    let before = mine(node.control.locks.all().await?);
    if before.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(OWN_SILENCE).await;
    let after = mine(node.control.locks.all().await?);
    for lock in before.into_iter().filter(|l| after.contains(l)) {
        reap::end_lost(&node.control, &lock).await?;
    }
    Ok(())
}

/// Removes the objects of backups that failed while running, once no other agent works on them any more.
pub(super) async fn sweep(node: &Node) -> Result<()> {
    let due = node.control.backups.due_for_cleanup().await?;
    if due.is_empty() {
        return Ok(());
    }
    let Some(config) = node.control.config.main().await? else { return Ok(()) };
    let locks = node.control.locks.all().await?;
    for name in due {
        if let Some(backup) = node.control.backups.get(&name).await? {
            if locks.iter().any(|lock| lock.header.opid == backup.opid && lock.header.node != node.me()) {
                continue;
            }
            let swept = async { objects::backup(node.open_backup(&backup, &config).await?.as_ref(), &name).await };
            if let Err(error) = swept.await {
                // Those on other storages need not wait for this one.
                tracing::warn!("remove what the failed backup {name} left on its storage: {}", explain(&error));
                continue;
            }
        }
        node.control.backups.cleaned_up(&name).await?;
        tracing::info!("removed what the failed backup {name} left on the storage");
    }
    Ok(())
}
