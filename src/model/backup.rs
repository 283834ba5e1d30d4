//! `admin.pbmBackups`, and with few other names `<backup>.pbm.json` (docs/format.md A.2, C.7).

use super::config::{StorageConf, any_storage};
use super::selection::Narrowed;
use super::serde_help::{is_default, null_default, null_ts, zero_ts};
use super::status::{Condition, Status};
use bson::{Document, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the data is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    #[default]
    Logical,
    Physical,
    Incremental,
    External,
}

impl BackupType {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logical => "logical",
            Self::Physical => "physical",
            Self::Incremental => "incremental",
            Self::External => "external",
        }
    }
}

impl std::fmt::Display for BackupType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One backup of the whole cluster. Field order is that of the original.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupMeta {
    #[serde(rename = "type", default)]
    pub kind: BackupType,
    /// Hex of the command's `_id`.
    #[serde(default, deserialize_with = "null_default")]
    pub opid: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_backup: Option<String>,
    /// Replica-set name → shard id, only where they differ.
    #[serde(
        rename = "shardRemap",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub shard_remap: BTreeMap<String, String>,
    /// Selected namespaces. Must be absent, not empty, for a full backup.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub nss: Vec<String>,
    /// *Added by us*: what of `nss` it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nss_narrowed: Option<Narrowed>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub sel_users_and_roles: bool,
    #[serde(default, deserialize_with = "null_default")]
    pub replsets: Vec<BackupReplset>,
    #[serde(default)]
    pub compression: super::compression::Compression,
    #[serde(default, deserialize_with = "any_storage")]
    pub store: StorageConf,
    #[serde(default, deserialize_with = "null_default")]
    pub size: i64,
    #[serde(default, deserialize_with = "null_default")]
    pub size_uncompressed: i64,
    #[serde(default, deserialize_with = "null_default")]
    pub mongodb_version: String,
    #[serde(default, deserialize_with = "null_default")]
    pub fcv: String,
    #[serde(default, deserialize_with = "null_default")]
    pub start_ts: i64,
    #[serde(default, deserialize_with = "null_default")]
    pub last_transition_ts: i64,
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub first_write_ts: Timestamp,
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub last_write_ts: Timestamp,
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub hb: Timestamp,
    #[serde(default)]
    pub status: Status,
    #[serde(default, deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    #[serde(default, deserialize_with = "null_default")]
    pub n: Vec<Nomination>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, deserialize_with = "null_default")]
    pub pbm_version: String,
    #[serde(default, deserialize_with = "null_default")]
    pub balancer: String,
    /// *Added by us*: a person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// The part of one replica set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupReplset {
    pub name: String,
    /// `<backup>/<rs>/metadata.json`. Named `backup_name` in the JSON file.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub dump_name: String,
    /// `<backup>/<rs>/oplog`.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub oplog_name: String,
    #[serde(default, deserialize_with = "null_default")]
    pub start_ts: i64,
    #[serde(default)]
    pub status: Status,
    #[serde(default, deserialize_with = "null_default")]
    pub size: i64,
    #[serde(default, deserialize_with = "null_default")]
    pub size_uncompressed: i64,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub iscs: bool,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub configshard: bool,
    #[serde(default, deserialize_with = "null_default")]
    pub last_transition_ts: i64,
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub first_write_ts: Timestamp,
    #[serde(default = "zero_ts", deserialize_with = "null_ts")]
    pub last_write_ts: Timestamp,
    #[serde(default, deserialize_with = "null_default")]
    pub node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    /// Of a physical backup: the settings of the server that its files depend on (docs/format.md A.8.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mongod_opts: Option<Document>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub pbm_version: String,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub mongo_version: String,
    /// *Added by us*: of a physical backup, how its files were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical: Option<Taking>,
    /// *Added by us*: the newest write of the node when its dump was complete. Only in sharded clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump_end: Option<Timestamp>,
    /// *Added by us*: the collections that the backup can't hold, for people.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// *Added by us*: how far the data step is. Only in the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// How the data files of a server that has no backup cursor are taken while they don't change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// The file system clones them.
    Reflink,
    /// A command of the operator makes a snapshot of the volume.
    Snapshot,
    /// They are copied before, and what changed is copied again.
    TwoPasses,
    /// They are sent to the storage while the server is locked.
    UnderLock,
}

impl Way {
    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Reflink => "cloned by the file system",
            Self::Snapshot => "a snapshot of the volume, made by backup.physical.snapshotCommand",
            Self::TwoPasses => "copied in two passes",
            Self::UnderLock => "sent to the storage under the lock",
        }
    }
}

/// *Added by us*: how the files of a physical backup were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taking {
    pub way: Way,
    /// Milliseconds for which the lock was expected to be held.
    #[serde(default)]
    pub expected_ms: i64,
    /// Milliseconds for which it was held.
    #[serde(default)]
    pub lock_ms: i64,
    /// Bytes that were copied meanwhile.
    #[serde(default)]
    pub copied: i64,
}

/// Candidates for one replica set and the one that took the work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Nomination {
    pub rs: String,
    #[serde(default, deserialize_with = "null_default")]
    pub n: Vec<String>,
    #[serde(default, deserialize_with = "null_default")]
    pub ack: String,
}

/// *Added by us* to the replica-set elements of backups and restores: how far the data step is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Progress {
    /// What is going on, for people: `dump`, `oplog`, `load`, `indexes`, `check`.
    pub phase: String,
    /// Uncompressed bytes done and expected (0 = unknown).
    pub bytes: i64,
    pub bytes_total: i64,
    pub docs: i64,
    pub docs_total: i64,
    /// Wall clock of the sample, unix milliseconds.
    pub at: i64,
}
