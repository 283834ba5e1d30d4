//! Ends operations whose agents are lost, and removes what failed backups and earlier releases left behind.

use super::node::Node;
use crate::control::{Control, HEARTBEAT};
use crate::model::lock::{Lock, is_stale};
use crate::mongo::admin::explain;
use crate::{
    operation::{balancer, node_lock, reap, slicing_pause},
    upkeep::deletion::objects,
};
use anyhow::Result;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// If a lock of this node gets no heartbeat for this long after the agent's start, an earlier run of this agent left
/// it.
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
        // After this time, agents that started before this one have reported their release.
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
                    node_lock::unlock_forgotten(&node.control, &node.uri).await?;
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

/// Drops the bell of earlier releases when no agent of such a release is alive. If an agent of such a release starts
/// later, it creates the collection again.
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

/// Whether anything may have to be ended. In most cases nothing runs, and then this makes three queries and wakes no
/// task.
async fn is_needed(control: &Control) -> Result<bool> {
    Ok(!control.locks.all().await?.is_empty()
        || control.backups.any_open().await?
        || control.restores.any_open().await?)
}

/// Ends the operations of an earlier run of this agent. Its locks look alive for 30 s, but missing heartbeats show
/// earlier that the agent does not run any more.
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

/// Removes the objects of backups that failed while they ran, as soon as no agent works on them any more.
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
                // Failed backups on other storages need not wait for this one.
                tracing::warn!("remove what the failed backup {name} left on its storage: {}", explain(&error));
                continue;
            }
        }
        node.control.backups.cleaned_up(&name).await?;
        tracing::info!("removed what the failed backup {name} left on the storage");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sim::{self, Host, Process, World};
    use crate::control::Debt;
    use crate::model::{command::name, status::Status};
    use bson::doc;

    const HOST: Host = Host { rs: "cfg", at: 0 };

    async fn running(node: &Node) {
        let backup = doc! { "name": "b", "opid": "op", "status": "running", "replsets": [{ "name": "cfg", "status": "running" }] };
        let backup = bson::deserialize_from_document(backup).expect("a backup");
        node.control.backups.insert(&backup).await.expect("insert");
        let now = node.control.cluster_time().await.expect("the time");
        let taken = node.control.locks.try_take(&node.lock_header(name::BACKUP, "op", None), now).await;
        assert_eq!(taken.expect("an answer"), crate::control::TakeLock::Taken);
        node.control.backups.beat("b", now).await.expect("a heartbeat");
    }

    async fn status(node: &Node) -> Status {
        node.control.backups.get("b").await.expect("an answer").expect("a backup").status
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_starts_again_ends_what_it_held() {
        let world = World::new(1);
        let node = sim::node(&world, HOST, &Process::default());
        running(&node).await;
        let since = Instant::now();
        end_own(&node).await.expect("an answer");
        assert!(since.elapsed() < Duration::from_secs(10), "sooner than its lock is stale");
        assert!(status(&node).await == Status::Error && node.control.locks.all().await.expect("an answer").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_of_this_node_that_is_refreshed_belongs_to_somebody() {
        let world = World::new(1);
        let node = sim::node(&world, HOST, &Process::default());
        running(&node).await;
        let beats = async {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                let now = node.control.cluster_time().await.expect("the time");
                let mine = node.lock_header(name::BACKUP, "op", None);
                assert!(node.control.locks.beat(&mine, now).await.expect("an answer"));
            }
        };
        tokio::select! {
            ended = end_own(&node) => ended.expect("an answer"),
            () = beats => unreachable!("it has no end"),
        }
        assert_eq!(status(&node).await, Status::Running);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_lost_agent_left_is_cleared_up() {
        let world = World::new(1);
        let lost = sim::node(&world, HOST, &Process::default());
        sim::configure(&lost.control).await;
        running(&lost).await;
        lost.control.backups.owe("b", Debt::Balancer).await.expect("a debt");
        crate::topo::balancer::stop(lost.control.leader(), Duration::from_secs(1)).await.expect("stop");
        let node = sim::node(&world, Host { at: 1, ..HOST }, &Process::default());
        let (stop, since) = (CancellationToken::new(), Instant::now());
        let reaper = tokio::spawn(keep(node.clone(), stop.clone()));
        while !world.unfinished().is_empty() {
            assert!(since.elapsed() < Duration::from_secs(60), "left: {:?}", world.unfinished());
            assert!(
                since.elapsed() < Duration::from_secs(25)
                    || !world.cluster.balancer_is_on()
                    || status(&node).await.is_final()
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(since.elapsed() > Duration::from_secs(29), "not while the agent may live");
        assert_eq!(status(&node).await, Status::Error);
        stop.cancel();
        reaper.await.expect("the end");
    }
}
