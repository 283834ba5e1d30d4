//! `admin.pbmPITRChunks` (docs/format.md C.8).

use super::compression::Compression;
use bson::Timestamp;
use serde::{Deserialize, Serialize};

/// One PITR oplog chunk on the main storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub rs: String,
    /// Full object name, `pbmPitr/…`.
    pub fname: String,
    pub compression: Compression,
    pub start_ts: Timestamp,
    pub end_ts: Timestamp,
    #[serde(default)]
    pub size: i64,
    /// Bytes on the storage. *Added by us*; the original and a resync leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<i64>,
}
