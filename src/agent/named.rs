//! The slicer's side of nominations by a leader, which can be one of our agents or of the original's
//! ([`crate::pitr::beside`]). The slicer reports that it is ready, waits to be nominated, and ends when the leader
//! requires it. The leader's side is in `naming`.

use super::node::Node;
use crate::model::{backup::BackupType, command::name, lock::is_stale};
use crate::pitr::beside::{Leader, Mix, Rules, View};
use anyhow::Result;
use bson::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

/// If the original's leader has not expected this slicer to run for this long, we assume that it waits for all slicers
/// to stop. The leader waits for two minutes.
const LEADER_WAITS: Duration = Duration::from_secs(30);

/// Watches what the leader requires of a nominated slicer.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// The time since which the original's leader has not expected this slicer to run.
    unwanted: Option<Instant>,
}

impl Named {
    /// Returns the reason why the slicer on the node `me` has to end, if there is one. A slicer without a leader never
    /// has to.
    pub async fn must_end(&mut self, node: &Node, mix: &Mix, me: &str, now: Timestamp) -> Result<Option<String>> {
        if !mix.rules.somebody_names() {
            self.unwanted = None;
            return Ok(None);
        }
        if mix.rules == Rules::NamedByOriginal
            && let Some(why) = pause_of_the_original(node, now, true).await?
        {
            return Ok(Some(format!("{why}; the original's slicers end for it, and its leader waits for all")));
        }
        let meta = node.control.pitr.get().await?;
        let leader_is_content = leader_is_content(node, mix, now).await?;
        let view = View { meta: meta.as_ref(), leader_is_content, ..view(&node.rs, me, now) };
        if let Some(why) = view.must_stop(mix.rules) {
            return Ok(Some(why));
        }
        if !view.is_unwanted(mix.rules, node.in_leader_rs) {
            self.unwanted = None;
        } else if self.unwanted.get_or_insert_with(Instant::now).elapsed() >= LEADER_WAITS {
            let why = "the leader, an agent of the original, waits for the end of all slicers to name new ones";
            return Ok(Some(why.to_owned()));
        }
        Ok(None)
    }
}

/// Whether the leader has nominated this node. The original's leader waits until every candidate reports that it is
/// ready, so this function reports that first.
pub(super) async fn is_named(node: &Node, mix: &Mix, now: Timestamp, vacant: Duration) -> Result<bool> {
    if mix.rules == Rules::NamedByOriginal
        && let Some(why) = pause_of_the_original(node, now, false).await?
    {
        tracing::debug!("slicing waits, as that of the original does: {why}");
        return Ok(false);
    }
    let me = node.me();
    let meta = node.control.pitr.get().await?;
    let leader_is_content = leader_is_content(node, mix, now).await?;
    let view = View { meta: meta.as_ref(), leader_is_content, vacant, ..view(&node.rs, &me, now) };
    if view.owes_ready(mix.rules) {
        node.control.pitr.ready(&node.rs, &me).await?;
    }
    Ok(view.is_named(mix.rules))
}

fn view<'a>(rs: &'a str, me: &'a str, now: Timestamp) -> View<'a> {
    View { meta: None, now, rs, me, leader_is_content: false, vacant: Duration::ZERO }
}

/// Whether the original's leader is on another replica set and that replica set is being sliced.
async fn leader_is_content(node: &Node, mix: &Mix, now: Timestamp) -> Result<bool> {
    if node.in_leader_rs || !matches!(mix.leader, Leader::Original(_)) {
        return Ok(false);
    }
    let lock = node.control.locks.slicer_of(&node.leader_rs).await?;
    Ok(lock.is_some_and(|lock| !is_stale(lock.hb, now)))
}

/// Returns the operation for which agents of the original begin no slicing now, if there is one. With `only_backups`,
/// only a logical backup to the main storage counts: the original's slicers end for such a backup, and its leader then
/// waits for all slicers to stop.
async fn pause_of_the_original(node: &Node, now: Timestamp, only_backups: bool) -> Result<Option<String>> {
    for lock in node.control.locks.all().await?.iter().filter(|lock| !is_stale(lock.hb, now)) {
        let header = &lock.header;
        let is_backup = header.kind == name::BACKUP;
        if only_backups && !is_backup {
            continue;
        }
        let pauses = !is_backup
            || node
                .control
                .backups
                .by_opid(&header.opid)
                .await?
                .is_some_and(|backup| backup.kind == BackupType::Logical && backup.store.profile != Some(true));
        if pauses {
            return Ok(Some(format!("a {} runs (OPID {})", header.kind, header.opid)));
        }
    }
    Ok(None)
}

/// Reports that this replica set is not sliced any more, in the form that the agent that nominates the next slicer
/// expects.
pub(super) async fn tell_the_end(node: &Node, me: &str, why: &str, stood_back: bool) -> Result<()> {
    let (pitr, rs) = (&node.control.pitr, &node.rs);
    let now = node.control.cluster_time().await?;
    let agents = node.control.agents.alive_for_slicing(rs, &node.leader_rs, now).await?;
    if Mix::of(&agents, &node.leader_rs, rs).rules != Rules::NamedByOriginal {
        return pitr.leave(rs, me, why).await;
    }
    pitr.leave_beside(rs).await?;
    if stood_back {
        pitr.give_up(rs).await
    } else if why.is_empty() {
        // The acknowledgement is not removed, because it shows the leader that a slicer is missing.
        Ok(())
    } else {
        pitr.failed(rs, me, why).await
    }
}
