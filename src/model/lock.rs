//! `admin.pbmLock`, `admin.pbmLockOp`, `admin.pbmOpLog` (docs/format.md C.4-C.6).

use super::command::name;
use bson::Timestamp;
use serde::{Deserialize, Serialize};

/// Who holds what. All fields together identify a lock; `hb` and `_id` are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHeader {
    #[serde(rename = "type")]
    pub kind: String,
    pub replset: String,
    pub node: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub opid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Timestamp>,
}

/// A lock with its last sign of life, a cluster time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    #[serde(flatten)]
    pub header: LockHeader,
    pub hb: Timestamp,
}

impl Lock {
    /// Does no slicing begin while this operation runs? Backups run beside slicing; a lock whose holder is lost counts no more.
    #[must_use]
    pub fn pauses_slicing(&self, now: Timestamp) -> bool {
        !matches!(self.header.kind.as_str(), name::BACKUP | name::PITR) && !is_stale(self.hb, now)
    }
}

/// Seconds without a heartbeat after which a lock, agent or operation counts as lost.
pub const STALE_SECS: u32 = 30;

/// True when a heartbeat is too old to count, both in cluster time.
#[must_use]
pub fn is_stale(hb: Timestamp, now: Timestamp) -> bool {
    hb.time.saturating_add(STALE_SECS) < now.time
}
