//! `admin.pbmCmd` (docs/format.md C.1): what the CLI asks of the agents.

use super::backup::BackupType;
use super::compression::Compression;
use super::config::StorageConf;
use super::rate::Rate;
use super::selection::Narrowed;
use super::serde_help::{is_default, is_zero_ts, null_default, null_ts, zero_ts};
use bson::{Document, Timestamp, oid::ObjectId};
use serde::{Deserialize, Serialize};

/// One command document. `_id` is the OPID; other documents name it by its hex string.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    #[serde(rename = "_id")]
    pub id: ObjectId,
    pub cmd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupCmd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreCmd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayCmd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<ResyncCmd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<DeleteCmd>,
    #[serde(rename = "deletePitr", default, skip_serializing_if = "Option::is_none")]
    pub delete_pitr: Option<DeletePitrCmd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<CleanupCmd>,
    #[serde(rename = "cleanupFailed", default, skip_serializing_if = "Option::is_none")]
    pub cleanup_failed: Option<CleanupFailedCmd>,
    /// Of the commands that add and remove a storage profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileCmd>,
    /// Unix seconds, wall clock of the sender.
    pub ts: i64,
    /// *Added by us*: after this cluster time no agent may begin the command, because no sender waits for it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Values of `cmd`, of a lock's `type` and of a log line's event.
pub mod name {
    pub const BACKUP: &str = "backup";
    pub const RESTORE: &str = "restore";
    pub const REPLAY: &str = "replay";
    pub const CANCEL_BACKUP: &str = "cancelBackup";
    pub const RESYNC: &str = "resync";
    pub const DELETE: &str = "delete";
    pub const DELETE_PITR: &str = "deletePitr";
    pub const CLEANUP: &str = "cleanup";
    /// *Added by us*: a command of its own, because the original's agents do nothing at all for a name that they don't know.
    pub const CLEANUP_FAILED: &str = "cleanupFailed";
    pub const ADD_PROFILE: &str = "addConfigProfile";
    pub const REMOVE_PROFILE: &str = "removeConfigProfile";
    pub const PITR: &str = "pitr";
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupCmd {
    #[serde(rename = "type", default)]
    pub kind: BackupType,
    #[serde(default, deserialize_with = "null_default")]
    pub base: bool,
    pub name: String,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub nss: Vec<String>,
    /// *Added by us*: what of `nss` is wanted.
    #[serde(rename = "nsNarrowed", default, skip_serializing_if = "Option::is_none")]
    pub narrowed: Option<Narrowed>,
    #[serde(default)]
    pub compression: Compression,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i32>,
    #[serde(rename = "numParallelColls", default, skip_serializing_if = "Option::is_none")]
    pub num_parallel_colls: Option<i32>,
    #[serde(rename = "numParallelFiles", default, skip_serializing_if = "Option::is_none")]
    pub num_parallel_files: Option<i32>,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub profile: String,
    #[serde(rename = "usersAndRoles", default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub users_and_roles: bool,
    /// *Added by us*: in place of the configuration's.
    #[serde(rename = "limitUpload", default, skip_serializing_if = "Option::is_none")]
    pub limit_upload: Option<Rate>,
    /// *Added by us*: a person's words, kept with the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// *Added by us*: the only member of a replica set may be locked for a physical backup.
    #[serde(
        rename = "allowLockOnOnlyMember",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub allow_only_member: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreCmd {
    pub name: String,
    #[serde(rename = "backupName", default, deserialize_with = "null_default")]
    pub backup_name: String,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub nss: Vec<String>,
    /// *Added by us*: what of `nss` is wanted.
    #[serde(rename = "nsNarrowed", default, skip_serializing_if = "Option::is_none")]
    pub narrowed: Option<Narrowed>,
    /// *Added by us*: drop what the backup lacks.
    #[serde(rename = "dropExtra", default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub drop_extra: bool,
    #[serde(rename = "nsFrom", default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub ns_from: String,
    #[serde(rename = "nsTo", default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub ns_to: String,
    #[serde(rename = "usersAndRoles", default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub users_and_roles: bool,
    #[serde(rename = "rsMap", default, deserialize_with = "null_default", skip_serializing_if = "Document::is_empty")]
    pub rs_map: Document,
    #[serde(rename = "fallbackEnabled", default)]
    pub fallback_enabled: Option<bool>,
    #[serde(rename = "allowPartlyDone", default)]
    pub allow_partly_done: Option<bool>,
    #[serde(rename = "numParallelColls", default, skip_serializing_if = "Option::is_none")]
    pub num_parallel_colls: Option<i32>,
    /// *Added by us*: files of a physical backup that are fetched at a time.
    #[serde(rename = "numParallelFiles", default, skip_serializing_if = "Option::is_none")]
    pub num_parallel_files: Option<i32>,
    #[serde(rename = "numInsertionWorkers", default, skip_serializing_if = "Option::is_none")]
    pub num_insertion_workers: Option<i32>,
    #[serde(rename = "indexCommitQuorum", default, skip_serializing_if = "Option::is_none")]
    pub index_commit_quorum: Option<String>,
    #[serde(rename = "oplogTS", default, skip_serializing_if = "Option::is_none")]
    pub oplog_ts: Option<Timestamp>,
    #[serde(default, deserialize_with = "null_default")]
    pub external: bool,
    #[serde(rename = "extConf", default)]
    pub ext_conf: Option<Document>,
    #[serde(rename = "extTS", default = "zero_ts", deserialize_with = "null_ts")]
    pub ext_ts: Timestamp,
    #[serde(default, deserialize_with = "null_default")]
    pub exit: bool,
}

/// Both ends inclusive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplayCmd {
    pub name: String,
    #[serde(default = "zero_ts", deserialize_with = "null_ts", skip_serializing_if = "is_zero_ts")]
    pub start: Timestamp,
    #[serde(default = "zero_ts", deserialize_with = "null_ts", skip_serializing_if = "is_zero_ts")]
    pub end: Timestamp,
    #[serde(rename = "rsMap", default, deserialize_with = "null_default", skip_serializing_if = "Document::is_empty")]
    pub rs_map: Document,
}

/// One backup by name, or all older than a time (unix seconds; 0: not used).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct DeleteCmd {
    #[serde(default, deserialize_with = "null_default")]
    pub backup: String,
    #[serde(default, deserialize_with = "null_default")]
    pub olderthan: i64,
    #[serde(rename = "type", default, deserialize_with = "null_default")]
    pub kind: String,
    #[serde(default, deserialize_with = "null_default")]
    pub profile: String,
}

/// Unix seconds; 0 means all chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct DeletePitrCmd {
    #[serde(default, deserialize_with = "null_default")]
    pub olderthan: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanupCmd {
    #[serde(rename = "olderThan", default = "zero_ts", deserialize_with = "null_ts")]
    pub older_than: Timestamp,
    #[serde(default, deserialize_with = "null_default")]
    pub profile: String,
}

/// *Added by us*: look for objects that belong to no backup, or delete what somebody agreed to, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct CleanupFailedCmd {
    #[serde(default)]
    pub profile: String,
    /// Only look, and say in the log what was found.
    #[serde(default)]
    pub look: bool,
    /// Failed backups to delete.
    #[serde(default)]
    pub backups: Vec<String>,
    /// Orphans to delete, if they are still as they were.
    #[serde(default)]
    pub orphans: Vec<Orphan>,
}

/// *Added by us*: a folder that has the form of a backup's and belongs to none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    pub name: String,
    pub objects: i64,
    /// Bytes.
    pub size: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ResyncCmd {
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub name: String,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub all: bool,
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub clear: bool,
    #[serde(
        rename = "includeRestores",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub include_restores: bool,
    /// *Added by us*: treat a storage that was used before and lacks its mark as a new one.
    #[serde(rename = "acceptEmpty", default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub accept_empty: bool,
}

/// A storage profile to add, with its secrets in clear; of one to remove only the name counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct ProfileCmd {
    pub name: String,
    /// `true` when it is added.
    #[serde(default, deserialize_with = "null_default")]
    pub profile: bool,
    #[serde(default, deserialize_with = "null_default")]
    pub storage: StorageConf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn profiles_are_sent_in_the_originals_form() {
        let remove = ProfileCmd { name: "p".to_owned(), ..ProfileCmd::default() };
        let sent = bson::serialize_to_document(&remove).expect("encode");
        assert_eq!(sent, doc! { "name": "p", "profile": false, "storage": { "type": "" } });
        let add =
            doc! { "name": "p", "profile": true, "storage": { "type": "filesystem", "filesystem": { "path": "/b" } } };
        let read: ProfileCmd = bson::deserialize_from_document(add.clone()).expect("decode");
        assert_eq!(bson::serialize_to_document(&read).expect("encode"), add);
    }
}
