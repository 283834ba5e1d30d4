//! `admin.pbmConfig` (docs/format.md C.3): settings of the cluster's backups.

use super::compression::Compression;
use super::rate::Rate;
use super::serde_help::{is_default, null_default};
use super::store::StoreKind;
use bson::{Document, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The main configuration document (`profile` absent).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(rename = "_id", default, skip_serializing)]
    pub id: Option<bson::Bson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<bool>,
    #[serde(default, deserialize_with = "null_default")]
    pub storage: StorageConf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pitr: Option<PitrConf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupConf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreConf>,
    /// Generation: changes when the file is applied, PITR is switched, after a resync and a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Timestamp>,
    /// The values of the stored document that can't be used; the defaults apply in their place.
    #[serde(skip)]
    pub mistakes: Vec<Mistake>,
}

/// Is the oplog being saved, and does that need a backup to begin with?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Slicing {
    #[default]
    Off,
    On,
    OplogOnly,
}

impl Slicing {
    #[must_use]
    pub fn is_on(self) -> bool {
        self != Self::Off
    }
}

impl Config {
    #[must_use]
    pub fn slicing(&self) -> Slicing {
        match self.pitr.as_ref().filter(|pitr| pitr.enabled) {
            None => Slicing::Off,
            Some(pitr) if pitr.oplog_only == Some(true) => Slicing::OplogOnly,
            Some(_) => Slicing::On,
        }
    }
    /// The codec of PITR chunks: their own setting, else that of backups.
    #[must_use]
    pub fn pitr_compression(&self) -> Compression {
        let own = self.pitr.as_ref().and_then(|pitr| pitr.compression);
        own.or_else(|| self.backup.as_ref()?.compression).unwrap_or_default()
    }

    /// Is point-in-time recovery switched on?
    #[must_use]
    pub fn pitr_is_on(&self) -> bool {
        self.slicing().is_on()
    }
}

/// A stored value that this program can't use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Dotted path of the key.
    pub key: String,
    /// The value and what is wrong with it, for people. It contains no secret.
    pub problem: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.key, self.problem)
    }
}

/// Where backups are kept: `type` and one sub-document of that name.
///
/// Only the filesystem is typed so far; the others are carried through unchanged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct StorageConf {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<bool>,
    #[serde(rename = "type", default, deserialize_with = "null_default")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemConf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<Document>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minio: Option<Document>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<Document>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<Document>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oss: Option<Document>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<Document>,
    /// Why this storage must not be written or read: a stored setting can't be read, and it decides about the place, the access
    /// or the protection of data.
    #[serde(skip)]
    pub unusable: Option<String>,
}

/// Reads the storage in a backup's document. A storage that can't be read must not hide the backup.
pub fn any_storage<'de, D: serde::Deserializer<'de>>(de: D) -> Result<StorageConf, D::Error> {
    let Some(stored) = Option::<bson::Bson>::deserialize(de)? else { return Ok(StorageConf::default()) };
    let bson::Bson::Document(stored) = stored else {
        let unusable = Some("the document names no storage".to_owned());
        return Ok(StorageConf { unusable, ..StorageConf::default() });
    };
    match bson::deserialize_from_document(stored.clone()) {
        Ok(storage) => Ok(storage),
        Err(error) => Ok(StorageConf {
            name: stored.get_str("name").ok().map(str::to_owned),
            profile: stored.get_bool("profile").ok(),
            kind: stored.get_str("type").unwrap_or_default().to_owned(),
            unusable: Some(format!("its settings in the backup's document can't be read: {error}")),
            ..StorageConf::default()
        }),
    }
}

impl StorageConf {
    /// The kind that `type` names; `None` if this program does not know it.
    #[must_use]
    pub fn store_kind(&self) -> Option<StoreKind> {
        StoreKind::of(&self.kind)
    }

    #[must_use]
    pub fn is_of(&self, kind: StoreKind) -> bool {
        self.kind == kind.name()
    }

    /// The settings of the object store that `type` names; `None` for other types, and if they are missing.
    #[must_use]
    pub fn object_store(&self) -> Option<&Document> {
        match self.store_kind()? {
            StoreKind::Filesystem | StoreKind::Blackhole => None,
            StoreKind::S3 => self.s3.as_ref(),
            StoreKind::Minio => self.minio.as_ref(),
            StoreKind::Gcs => self.gcs.as_ref(),
            StoreKind::Azure => self.azure.as_ref(),
            StoreKind::Oss => self.oss.as_ref(),
            StoreKind::Oci => self.oci.as_ref(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct FilesystemConf {
    /// Empty beside the settings of another storage type only.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// GiB; objects above it are split.
    #[serde(rename = "maxObjSizeGB", default, skip_serializing_if = "Option::is_none")]
    pub max_obj_size_gb: Option<f64>,
    #[serde(rename = "backupBuffSize", default, skip_serializing_if = "Option::is_none")]
    pub backup_buff_size: Option<i32>,
    #[serde(rename = "restoreBuffSize", default, skip_serializing_if = "Option::is_none")]
    pub restore_buff_size: Option<i32>,
    /// *Added by us*: permissions of files, in octal digits. The default is 640, less what the umask takes away.
    #[serde(rename = "fileMode", default, skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<String>,
    /// *Added by us*: permissions of folders, in octal digits. The default is 750, less what the umask takes away.
    #[serde(rename = "dirMode", default, skip_serializing_if = "Option::is_none")]
    pub dir_mode: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct PitrConf {
    #[serde(default, deserialize_with = "null_default")]
    pub enabled: bool,
    #[serde(rename = "oplogSpanMin", default, skip_serializing_if = "Option::is_none")]
    pub oplog_span_min: Option<f64>,
    /// *Added by us*: writes that are older than this many seconds are on the storage.
    #[serde(rename = "maxLossSec", default, skip_serializing_if = "Option::is_none")]
    pub max_loss_sec: Option<f64>,
    #[serde(rename = "oplogOnly", default, skip_serializing_if = "Option::is_none")]
    pub oplog_only: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<BTreeMap<String, f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    #[serde(rename = "compressionLevel", default, skip_serializing_if = "Option::is_none")]
    pub compression_level: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct BackupConf {
    /// Minutes covered by one oplog slice.
    #[serde(rename = "oplogSpanMin", default, deserialize_with = "null_default")]
    pub oplog_span_min: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<BTreeMap<String, f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    #[serde(rename = "compressionLevel", default, skip_serializing_if = "Option::is_none")]
    pub compression_level: Option<i32>,
    #[serde(
        rename = "numParallelCollections",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub num_parallel_collections: i32,
    #[serde(
        rename = "numParallelFiles",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub num_parallel_files: i32,
    /// *Added by us*: how fast each node sends a backup to the storage.
    #[serde(rename = "limitUpload", default, skip_serializing_if = "Option::is_none")]
    pub limit_upload: Option<Rate>,
    /// *Added by us*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical: Option<PhysicalBackupConf>,
}

/// *Added by us*: how physical backups take the data files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PhysicalBackupConf {
    /// Makes a snapshot of the volume and prints the path of the data files in it.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub snapshot_command: String,
    /// Removes that snapshot.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub remove_snapshot_command: String,
    /// Where clones and copies lie for a while.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub spool_path: String,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lock_sec: Option<i64>,
}

/// Seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    #[serde(rename = "startingStatus", default, skip_serializing_if = "Option::is_none")]
    pub starting_status: Option<i64>,
    #[serde(rename = "balancerStop", default, skip_serializing_if = "Option::is_none")]
    pub balancer_stop: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct RestoreConf {
    #[serde(rename = "batchSize", default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub batch_size: i32,
    #[serde(
        rename = "numInsertionWorkers",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub num_insertion_workers: i32,
    #[serde(
        rename = "numParallelCollections",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub num_parallel_collections: i32,
    #[serde(
        rename = "numParallelFiles",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub num_parallel_files: i32,
    #[serde(rename = "indexCommitQuorum", default, skip_serializing_if = "Option::is_none")]
    pub index_commit_quorum: Option<String>,
    #[serde(
        rename = "numDownloadWorkers",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub num_download_workers: i32,
    #[serde(
        rename = "maxDownloadBufferMb",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub max_download_buffer_mb: i32,
    #[serde(
        rename = "downloadChunkMb",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "is_default"
    )]
    pub download_chunk_mb: i32,
    #[serde(rename = "mongodLocation", default, deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub mongod_location: String,
    #[serde(rename = "mongodLocationMap", default, skip_serializing_if = "Option::is_none")]
    pub mongod_location_map: Option<BTreeMap<String, String>>,
    #[serde(rename = "fallbackEnabled", default, skip_serializing_if = "Option::is_none")]
    pub fallback_enabled: Option<bool>,
    #[serde(rename = "allowPartlyDone", default, skip_serializing_if = "Option::is_none")]
    pub allow_partly_done: Option<bool>,
    /// *Added by us*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical: Option<RestorePhysicalConf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
}

/// *Added by us*: how mongod is stopped and started by a physical restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RestorePhysicalConf {
    #[serde(rename = "startCommand", default, skip_serializing_if = "Option::is_none")]
    pub start_command: Option<String>,
    #[serde(rename = "stopCommand", default, skip_serializing_if = "Option::is_none")]
    pub stop_command: Option<String>,
}
