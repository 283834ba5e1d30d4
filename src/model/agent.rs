//! `admin.pbmAgents` (docs/format.md C.2).

use super::backup::Way;
use super::member::MemberState;
use super::serde_help::{is_default, null_default, null_ts, zero_ts};
use bson::Timestamp;
use serde::{Deserialize, Serialize};

/// One agent's line about itself, replaced every 5 s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStat {
    /// `host:port` as the replica set names it.
    pub n: String,
    pub rs: String,
    #[serde(default, deserialize_with = "null_default")]
    pub s: MemberState,
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
    /// *Added by us*: the version of this program; the original has none.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub own: String,
    /// *Added by us*: which behaviour our agents can expect of each other ([`AgentStat::RULES`]). Earlier releases don't write
    /// this field.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub rules: i32,
    /// *Added by us*: other clusters that make backups on the main storage.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<Tenant>,
    /// *Added by us*: tells this run of the agent from every other process that writes the line.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// *Added by us*: another process writes the line of this node too.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub doubled: bool,
    /// *Added by us*: what the agent's user may not do and would have to, in words.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// *Added by us*: why the node may not be read, if the other fields don't show it: the node has no indexes, or is locked.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub unfit: String,
    /// *Added by us*: why the majority of the replica set confirms nothing.
    #[serde(
        rename = "noMajority",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub no_majority: String,
    /// *Added by us*: the clock of the agent's host minus that of its mongod, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<i64>,
    /// *Added by us*: the newest trial of the storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Trial>,
    /// *Added by us*: room on the storage, where that is a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<Space>,
    /// *Added by us*: what it would mean for the replica set if the node were locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Locking>,
    /// *Added by us*: whether the agent can copy the node's data files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
}

/// *Added by us*: what it would mean for a replica set if one of its members were locked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Locking {
    /// Why that endangers the others; empty if it does not.
    #[serde(default, deserialize_with = "null_default")]
    pub e: String,
    /// No other member has data.
    #[serde(default, deserialize_with = "null_default")]
    pub only: bool,
    #[serde(default, deserialize_with = "null_default")]
    pub votes: bool,
}

/// *Added by us*: the data files of a node, as its agent sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Files {
    /// Why they can't be copied; empty if they can.
    #[serde(default, deserialize_with = "null_default")]
    pub e: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<Way>,
    /// Of all files.
    #[serde(default, deserialize_with = "null_default")]
    pub bytes: i64,
}

/// *Added by us*: an object was written to the storage, read, listed and deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Trial {
    pub ok: bool,
    /// What did not work.
    #[serde(default, deserialize_with = "null_default")]
    pub e: String,
    /// Seconds between the trial and the line's heartbeat.
    #[serde(default, deserialize_with = "null_default")]
    pub age: i64,
}

/// *Added by us*: the file system of a folder. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Space {
    pub free: i64,
    pub total: i64,
}

/// *Added by us*: a cluster that makes backups on a storage, as it says itself on that storage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub struct Tenant {
    /// Of the sharded cluster or replica set; no other one has it.
    pub id: String,
    /// The leader replica set.
    pub name: String,
    /// Where its agent runs, as `host:port` of the mongod.
    pub node: String,
    /// When its newest backup, or slicing, began, unix seconds.
    pub last: i64,
}

/// Is a part of the agent's surroundings usable?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct SubsysStatus {
    #[serde(default, deserialize_with = "null_default")]
    pub ok: bool,
    #[serde(default, deserialize_with = "null_default")]
    pub e: String,
}

impl SubsysStatus {
    /// Nothing is wrong.
    #[must_use]
    pub const fn usable() -> Self {
        Self { ok: true, e: String::new() }
    }

    /// Not usable, and why.
    #[must_use]
    pub fn broken(why: impl ToString) -> Self {
        Self { ok: false, e: why.to_string() }
    }
}

impl AgentStat {
    /// A member of which nothing is known but its names: no part is usable until somebody says so.
    #[must_use]
    pub fn unknown(rs: &str, n: &str) -> Self {
        Self {
            n: n.to_owned(),
            rs: rs.to_owned(),
            s: MemberState::Unknown,
            state: "UNKNOWN".to_owned(),
            hdn: false,
            psv: false,
            arb: false,
            delay: 0,
            repl_lag: 0,
            own: String::new(),
            rules: 0,
            shared: Vec::new(),
            instance: String::new(),
            doubled: false,
            lacks: Vec::new(),
            unfit: String::new(),
            no_majority: String::new(),
            clock: None,
            probe: None,
            space: None,
            lock: None,
            files: None,
            v: String::new(),
            mv: String::new(),
            pbms: SubsysStatus::default(),
            nodes: SubsysStatus::default(),
            stors: SubsysStatus::default(),
            hb: zero_ts(),
            e: String::new(),
        }
    }

    /// A primary or secondary with all that its agent needs.
    #[must_use]
    pub fn healthy(rs: &str, n: &str, s: impl Into<MemberState>) -> Self {
        let s = s.into();
        Self {
            s,
            state: if s == MemberState::Primary { "PRIMARY" } else { "SECONDARY" }.to_owned(),
            pbms: SubsysStatus::usable(),
            nodes: SubsysStatus::usable(),
            stors: SubsysStatus::usable(),
            ..Self::unknown(rs, n)
        }
    }

    /// The rules of this release. 1 means: the bell rings in `pbmOpLog`, and our leader names slicers for agents of the
    /// original.
    pub const RULES: i32 = 1;

    /// Is this an agent of the original? Ours write their own version into `own`.
    #[must_use]
    pub fn is_original(&self) -> bool {
        self.own.is_empty()
    }

    /// Is this an agent of ours that names slicers for agents of the original? Such an agent does not need the old bell.
    #[must_use]
    pub fn names_slicers(&self) -> bool {
        !self.is_original() && self.rules >= 1
    }

    /// The parts of its surroundings that it can't use, each with the reason.
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [(&self.nodes, "mongod"), (&self.pbms, "control collections"), (&self.stors, "storage")]
            .into_iter()
            .filter(|(part, _)| !part.ok)
            .map(|(part, what)| (what, if part.e.is_empty() { "no reason given" } else { &part.e }))
    }

    /// The agent works and can reach its node, the leader and the storage.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.pbms.ok && self.nodes.ok && self.stors.ok
    }
}
