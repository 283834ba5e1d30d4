//! Sets a final state for operations whose agents are lost, so that none stays `running` and no lock blocks for ever.
//!
//! Any agent or waiting command line may do this: the write that removes a stale lock succeeds for only one of them,
//! and a final status is never overwritten.

use crate::control::{Control, OpDocs, OpDocument};
use crate::model::{
    command::name,
    lock::{Lock, is_stale},
    status::Status,
};
use anyhow::Result;
use bson::{Bson, Timestamp};

/// Ends every operation without a heartbeat for longer than [`crate::model::lock::STALE_SECS`]. Returns a sentence
/// about each.
pub async fn end_all_lost(control: &Control) -> Result<Vec<String>> {
    let now = control.advanced_cluster_time().await?;
    let mut ended = Vec::new();
    let locks = control.locks.all().await?;
    for lock in locks.iter().filter(|l| is_stale(l.hb, now)) {
        if let Some(said) = end_holder(control, lock).await? {
            ended.push(said);
        }
    }
    let alive: Vec<&str> = locks.iter().filter(|l| !is_stale(l.hb, now)).map(|l| l.header.opid.as_str()).collect();
    ended.extend(end_silent(&control.backups, &alive, now).await?);
    ended.extend(end_silent(&control.restores, &alive, now).await?);
    Ok(ended)
}

/// Ends the operation of a lost lock holder and removes the lock.
pub async fn end_lost(control: &Control, lock: &Lock) -> Result<()> {
    if let Some(said) = end_holder(control, lock).await? {
        tracing::warn!("{said}");
    }
    Ok(())
}

async fn end_holder(control: &Control, lock: &Lock) -> Result<Option<String>> {
    let header = &lock.header;
    let reason = format!(
        "the agent on {} of replica set {} was lost during the {}: it gave no sign of life; see its log, then repeat the {}",
        header.node, header.replset, header.kind, header.kind
    );
    // The operation is ended first. If the lock were removed first and this process died then, no lock would lead to
    // the operation any more.
    match header.kind.as_str() {
        name::BACKUP => end_member(&control.backups, lock, &reason).await?,
        name::RESTORE | name::REPLAY => end_member(&control.restores, lock, &reason).await?,
        _ => {}
    }
    Ok(control.locks.remove_stale(lock).await?.then_some(reason))
}

async fn end_member<T: OpDocument>(docs: &OpDocs<T>, lock: &Lock, reason: &str) -> Result<()> {
    let Some(name) = docs.name_by_opid(&lock.header.opid).await? else { return Ok(()) };
    docs.set_member_status(&name, &lock.header.replset, Status::Error, reason).await?;
    docs.set_status(&name, Status::Error, reason).await?;
    Ok(())
}

/// Ends unfinished operations that have no living lock and no heartbeat of their leader.
async fn end_silent<T: OpDocument>(docs: &OpDocs<T>, alive: &[&str], now: Timestamp) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    for document in docs.unfinished().await? {
        let name = document.get_str("name").unwrap_or_default().to_owned();
        let opid = document.get_str("opid").unwrap_or_default();
        let hb = document.get("hb").and_then(Bson::as_timestamp).unwrap_or(Timestamp { time: 0, increment: 0 });
        if alive.contains(&opid) || !is_stale(hb, now) {
            continue;
        }
        let reason = "the leading agent was lost: it gave no sign of life; see its log, then repeat";
        if docs.set_status(&name, Status::Error, reason).await? {
            ended.push(format!("{} {name}: {reason}", T::COLLECTION));
        }
    }
    Ok(ended)
}
