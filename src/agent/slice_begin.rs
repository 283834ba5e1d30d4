//! Decides where slicing begins, from the control collections and this node's oplog, and whether another member has
//! more of the oplog.

use super::node::Node;
use crate::control::HEARTBEAT;
use crate::model::{
    backup::{BackupMeta, BackupType},
    config::Slicing,
    status::Status,
};
use crate::mongo::admin::explain;
use crate::oplog::slice;
use crate::pitr::{begin, election};
use anyhow::Result;
use bson::Timestamp;
use mongodb::options::SelectionCriteria;
use std::{sync::Arc, time::Duration};

/// This node's oplog lacks entries that must be saved next, but another member's oplog has them. A node that was down
/// or has been synced again must not end the timeline.
#[derive(Debug, thiserror::Error)]
#[error(
    "the oplog of this node begins after what is to be saved next, that of {host} does not: it is left to that node's agent"
)]
pub(super) struct Elsewhere {
    pub host: String,
    pub saved: Timestamp,
    pub candidates: usize,
}

impl Elsewhere {
    /// How long the other members have to take the work. After that, the gap is accepted.
    pub fn patience(&self) -> Duration {
        election::PER_TIER * u32::try_from(self.candidates).unwrap_or(u32::MAX) + HEARTBEAT * 2
    }
}

/// How long another member may take to report the oldest entry of its oplog.
const TELL: Duration = Duration::from_secs(5);

/// Returns the first of `others` whose oplog reaches back to `saved`.
pub(super) async fn reaches_back(
    node: &Node,
    others: impl Iterator<Item = &String>,
    saved: Timestamp,
) -> Option<String> {
    for host in others {
        let criteria = member(host);
        match tokio::time::timeout(TELL, slice::oldest_of(&node.primary, criteria)).await {
            Ok(Ok(oldest)) if oldest <= saved => return Some(host.clone()),
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!("{host}: {}", explain(&error)),
        }
    }
    None
}

/// Selects exactly this member.
fn member(host: &str) -> SelectionCriteria {
    let host = host.to_owned();
    SelectionCriteria::Predicate(Arc::new(move |server| server.address().to_string() == host))
}

/// Reads the facts that decide where slicing begins.
pub(super) async fn facts(node: &Node, slicing: Slicing) -> Result<begin::Facts> {
    let newest = slice::last_write(&node.client).await?;
    let (oldest, _) = slice::window(&node.client).await?;
    let (base, coming) = if slicing == Slicing::OplogOnly { (None, None) } else { bases(node).await? };
    let saved = node.control.chunks.last(&node.rs).await?.map(|chunk| chunk.end_ts);
    Ok(begin::Facts { saved, base, coming, restored: restored(node).await?, oldest, newest })
}

/// Returns the last write of the newest backup on which chunks can be replayed, and the first write of a backup that is
/// in progress.
async fn bases(node: &Node) -> Result<(Option<Timestamp>, Option<Timestamp>)> {
    let all = node.control.backups.readable().await?;
    let fit = |b: &&BackupMeta| b.nss.is_empty() && b.kind != BackupType::External && b.store.profile != Some(true);
    let (mut base, mut coming) = (None, None);
    for backup in all.iter().filter(fit) {
        let Some(part) = backup.replsets.iter().find(|part| part.name == node.rs) else { continue };
        if backup.status == Status::Done {
            base = base.max(Some(backup.last_write_ts));
        } else if !backup.status.is_final() && part.first_write_ts.time > 0 {
            coming = coming.max(Some(part.first_write_ts));
        }
    }
    Ok((base, coming))
}

/// Returns the time at which the newest restore began to change data.
async fn restored(node: &Node) -> Result<Option<Timestamp>> {
    Ok(node.control.restores.readable().await?.iter().filter_map(begin::changed_from).max())
}
