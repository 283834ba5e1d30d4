//! `admin.pbmAgents` (spec/format.md C.2).

use super::serde_help::{null_default, null_ts, zero_ts};
use bson::Timestamp;
use serde::{Deserialize, Serialize};

/// One agent's line about itself, replaced every 5 s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStat {
    /// `host:port` as the replica set names it.
    pub n: String,
    pub rs: String,
    /// Member state: 1 primary, 2 secondary, 6 unknown, 7 arbiter.
    #[serde(default, deserialize_with = "null_default")]
    pub s: i32,
    #[serde(rename = "str", default, deserialize_with = "null_default")]
    pub state: String,
    #[serde(default, deserialize_with = "null_default")]
    pub hdn: bool,
    #[serde(default, deserialize_with = "null_default")]
    pub psv: bool,
    #[serde(default, deserialize_with = "null_default")]
    pub arb: bool,
    #[serde(default, deserialize_with = "null_default")]
    pub delay: i32,
    #[serde(default, deserialize_with = "null_default")]
    pub repl_lag: i32,
    #[serde(default, deserialize_with = "null_default")]
    pub v: String,
    #[serde(default, deserialize_with = "null_default")]
    pub mv: String,
    #[serde(default, deserialize_with = "null_default")]
    pub pbms: SubsysStatus,
    #[serde(default, deserialize_with = "null_default")]
    pub nodes: SubsysStatus,
    #[serde(default, deserialize_with = "null_default")]
    pub stors: SubsysStatus,
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub hb: Timestamp,
    #[serde(default, deserialize_with = "null_default")]
    pub e: String,
}

/// Is a part of the agent's surroundings usable?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct SubsysStatus {
    #[serde(default, deserialize_with = "null_default")]
    pub ok: bool,
    #[serde(default, deserialize_with = "null_default")]
    pub e: String,
}

impl AgentStat {
    /// The agent works and can reach its node, the leader and the storage.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.pbms.ok && self.nodes.ok && self.stors.ok
    }
}
