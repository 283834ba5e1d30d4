//! `admin.pbmRestores` (docs/format.md C.9).

use super::backup::{BackupType, Progress};
use super::serde_help::{null_default, null_ts, zero_ts};
use super::status::{Condition, Status};
use bson::{Document, Timestamp};
use serde::{Deserialize, Serialize};

/// One restore, or one oplog replay, of the whole cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreMeta {
    #[serde(default)]
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub name: String,
    #[serde(default, deserialize_with = "null_default")]
    pub opid: String,
    #[serde(default, deserialize_with = "null_default")]
    pub backup: String,
    #[serde(default)]
    pub bcp_chain: Option<Vec<String>>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub nss: Vec<String>,
    #[serde(default, deserialize_with = "null_default")]
    pub start_pitr: i64,
    #[serde(default, deserialize_with = "null_default")]
    pub pitr: i64,
    #[serde(default, deserialize_with = "null_default")]
    pub replsets: Vec<RestoreReplset>,
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub hb: Timestamp,
    #[serde(default, deserialize_with = "null_default")]
    pub start_ts: i64,
    #[serde(default, deserialize_with = "null_default")]
    pub last_transition_ts: i64,
    #[serde(default, deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    #[serde(rename = "type", default)]
    pub kind: BackupType,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stat: Option<Document>,
    /// *Added by us*: cluster time at which it began to change data. Chunks that end up to here are of the time before it,
    /// those that come after it end later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_from: Option<Timestamp>,
}

/// The part of one replica set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreReplset {
    pub name: String,
    #[serde(default, deserialize_with = "null_default")]
    pub start_ts: i64,
    #[serde(default)]
    pub status: Status,
    #[serde(default)]
    pub committed_txn: Option<Vec<CommittedTxn>>,
    #[serde(default, deserialize_with = "null_default")]
    pub txn_set: bool,
    #[serde(default)]
    pub partial_txn: Option<Vec<Document>>,
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub op: Timestamp,
    #[serde(default, deserialize_with = "null_default")]
    pub last_transition_ts: i64,
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub last_write_ts: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub hb: Timestamp,
    #[serde(default, deserialize_with = "null_default")]
    pub stat: RestoreStat,
    /// *Added by us*: how far the data step is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// A distributed transaction that this replica set saw committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedTxn {
    pub id: String,
    pub ts: Timestamp,
    pub state: String,
}

/// Counters of a replica set's replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct RestoreStat {
    #[serde(default, deserialize_with = "null_default")]
    pub txn: TxnStat,
    #[serde(default)]
    pub d: Option<Document>,
}

/// Distributed transactions that were open at the end of the replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TxnStat {
    #[serde(default, deserialize_with = "null_default")]
    pub partial: i32,
    #[serde(default, deserialize_with = "null_default")]
    pub shard_uncommitted: i32,
    #[serde(default, deserialize_with = "null_default")]
    pub left_uncommitted: i32,
}
