//! `admin.pbmPITR` (docs/format.md C.10): who slices the oplog for point-in-time recovery, and how that goes.

use super::backup::Nomination;
use super::serde_help::{null_default, null_ts, zero_ts};
use bson::Timestamp;
use serde::{Deserialize, Serialize};

/// How many seconds agents have to begin slicing after point-in-time recovery was switched on, or after the end of an operation
/// that pauses slicing. The agents may first have to settle which of them slices.
pub const BEGINS_WITHIN: u32 = 30;

/// Values of [`PitrMeta::status`] and [`PitrReport::status`].
pub mod state {
    pub const READY: &str = "ready";
    pub const RUNNING: &str = "running";
    pub const RECONFIG: &str = "reconfig";
    pub const ERROR: &str = "error";
}

/// The only document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitrMeta {
    /// Unix seconds.
    #[serde(default, deserialize_with = "null_default")]
    pub start_ts: i64,
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub hb: Timestamp,
    #[serde(default, deserialize_with = "null_default")]
    pub status: String,
    /// Per replica set: who may slice, and who does.
    #[serde(default, deserialize_with = "null_default")]
    pub n: Vec<Nomination>,
    #[serde(default, deserialize_with = "null_default")]
    pub replsets: Vec<PitrReport>,
    /// *Added by us*: how far each replica set's slicer is.
    #[serde(default, deserialize_with = "null_default")]
    pub slicers: Vec<SlicerState>,
}

/// What went wrong on a replica set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitrReport {
    pub name: String,
    pub node: String,
    #[serde(default, deserialize_with = "null_default")]
    pub status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// *Added by us*: how far the slicer of a replica set is. All times are cluster times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicerState {
    pub rs: String,
    /// `host:port` of the node that is read.
    pub node: String,
    /// Everything up to here is on the storage: the end of the last chunk, or the place where slicing began.
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub saved: Timestamp,
    /// The newest entry of the oplog.
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub newest: Timestamp,
    /// The oldest entry of the oplog; when it passes `saved`, entries are lost.
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub oldest: Timestamp,
    /// The oplog is full and loses its oldest entries: `oldest` has moved while this slicer worked.
    #[serde(default, deserialize_with = "null_default")]
    pub rolling: bool,
    /// Why the last attempt to save failed; empty when it did not.
    #[serde(default, deserialize_with = "null_default")]
    pub error: String,
    /// When this was written.
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub hb: Timestamp,
}

impl SlicerState {
    /// Seconds of writes that are not on the storage yet.
    #[must_use]
    pub fn lag_secs(&self) -> u32 {
        self.newest.time.saturating_sub(self.saved.time)
    }

    /// Seconds of the oplog's window that are left before unsaved entries are lost, if the oplog goes on as it did.
    #[must_use]
    pub fn window_left_secs(&self) -> u32 {
        self.saved.time.saturating_sub(self.oldest.time)
    }

    /// Seconds between the oldest and the newest entry of the oplog.
    #[must_use]
    pub fn window_secs(&self) -> u32 {
        self.newest.time.saturating_sub(self.oldest.time)
    }

    /// Two thirds of the window have passed without a chunk.
    #[must_use]
    pub fn is_nearly_overtaken(&self) -> bool {
        self.rolling && self.lag_secs() > 0 && self.window_left_secs() < self.window_secs() / 3
    }
}
