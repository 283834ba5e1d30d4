//! What the checks judge, as data.

use crate::model::{agent::AgentStat, config::Config, lock::Lock, member::MemberState, pitr::PitrMeta};
use crate::mongo::{admin::Version, login::Login};
use bson::Timestamp;

/// Everything that was found out.
#[derive(Debug, Default)]
pub struct Facts {
    pub replsets: Vec<ReplsetFacts>,
    pub control: ControlFacts,
    /// Questions to the leader replica set that had no answer.
    pub unanswered: Vec<String>,
    /// How many shards the cluster has; 0 if it is not sharded.
    pub shards: usize,
    /// The config servers are a shard, too.
    pub config_shard: bool,
    /// The connection string asks for confirmation of writes by fewer members than the majority.
    pub with_few: bool,
}

/// One replica set.
#[derive(Debug, Default, Clone)]
pub struct ReplsetFacts {
    pub name: String,
    pub nodes: Vec<NodeFacts>,
    /// Why the majority of this replica set can't confirm anything, as one of its members reports it.
    pub no_majority: Option<String>,
}

/// One member.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// `host:port` as the replica set names it.
    pub host: String,
    /// As some member sees it; `None` when no member told.
    pub state: Option<MemberState>,
    /// The state in words.
    pub state_str: String,
    /// What it said itself, or why it did not. Arbiters are not asked: they know no users.
    pub answer: Result<Answer, String>,
}

/// What a member said. Each part can be denied, with the reason.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its wall clock minus ours, in milliseconds.
    pub clock_ms: i64,
    /// Time of one question and its answer, in milliseconds.
    pub round_ms: u64,
    pub version: Result<Version, String>,
    pub login: Result<Login, String>,
    /// It is locked by `fsync`. `false` where the user may not ask.
    pub locked: bool,
    pub oplog: Result<Oplog, String>,
}

/// What an oplog holds, and how much it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oplog {
    pub oldest: Timestamp,
    pub newest: Timestamp,
    /// Bytes.
    pub size: u64,
    pub max: u64,
}

/// What the control collections say.
#[derive(Debug, Default)]
pub struct ControlFacts {
    /// Cluster time.
    pub now: Option<Timestamp>,
    /// Cluster time minus our wall clock, in seconds.
    pub ahead_secs: i64,
    /// Name of the leader replica set.
    pub leader_rs: String,
    pub config: Option<Config>,
    pub agents: Vec<AgentStat>,
    pub locks: Vec<Lock>,
    pub slicers: Vec<Lock>,
    pub pitr: Option<PitrMeta>,
    /// Errors of slicing that the log has, with the replica set.
    pub slicing_errors: Vec<(String, String)>,
    /// Documents of the control collections that can't be read, one sentence for each.
    pub unreadable: Vec<String>,
    /// Operations that have not come to an end.
    pub unfinished: Vec<Unfinished>,
    /// Of the newest complete full backup on the main storage: bytes, and seconds that it took.
    pub newest_backup: Option<(i64, i64)>,
}

/// An operation that has not come to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// `backup` or `restore`.
    pub kind: &'static str,
    pub name: String,
    pub opid: String,
    pub hb: Timestamp,
}

impl NodeFacts {
    /// It can have an agent.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.state != Some(MemberState::Arbiter)
    }
}

impl Facts {
    /// Every member with its replica set's name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &NodeFacts)> {
        self.replsets.iter().flat_map(|set| set.nodes.iter().map(|node| (set.name.as_str(), node)))
    }
}
