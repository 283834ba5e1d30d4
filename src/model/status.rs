//! The steps of an operation, as written in `status` fields.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A step of a backup or restore, of one replica set or of the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub enum Status {
    #[default]
    #[serde(rename = "init")]
    Init,
    #[serde(rename = "ready")]
    Ready,
    #[serde(rename = "starting")]
    Starting,
    #[serde(rename = "running")]
    Running,
    #[serde(rename = "dumpDone")]
    DumpDone,
    #[serde(rename = "copyReady")]
    CopyReady,
    #[serde(rename = "copyDone")]
    CopyDone,
    #[serde(rename = "cleanupCluster")]
    CleanupCluster,
    #[serde(rename = "partlyDone")]
    PartlyDone,
    #[serde(rename = "down")]
    Down,
    #[serde(rename = "done")]
    Done,
    #[serde(rename = "canceled")]
    Canceled,
    #[serde(rename = "error")]
    Error,
}

impl Status {
    /// The spelling in documents and files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::DumpDone => "dumpDone",
            Self::CopyReady => "copyReady",
            Self::CopyDone => "copyDone",
            Self::CleanupCluster => "cleanupCluster",
            Self::PartlyDone => "partlyDone",
            Self::Down => "down",
            Self::Done => "done",
            Self::Canceled => "canceled",
            Self::Error => "error",
        }
    }

    /// True when nothing will change any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Canceled | Self::Error | Self::PartlyDone)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One transition, appended to `conditions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Unix seconds, wall clock of the writer.
    pub timestamp: i64,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
