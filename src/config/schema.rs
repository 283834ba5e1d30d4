//! Every key of the configuration with its type (spec/format.md C.3.1, C.3.2): the one table behind strict files,
//! `--set`, reading a key and hiding secrets.

use crate::model::{compression::Compression, rate::Rate};
use bson::{Bson, Document};
use std::str::FromStr;

/// What a key's value is, and so how its text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    I32,
    I64,
    F64,
    Text,
    Codec,
    /// Bytes per second.
    Rate,
    /// Nanoseconds in the database; written as `30ms` or as a number.
    Duration,
    /// Name → number; names may contain dots (`host:port`).
    MapF64,
    /// Name → text.
    MapText,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub path: &'static str,
    pub kind: Kind,
    /// Shown as `***`.
    pub secret: bool,
}

const fn key(path: &'static str, kind: Kind) -> Key {
    Key { path, kind, secret: false }
}

const fn secret(path: &'static str) -> Key {
    Key { path, kind: Kind::Text, secret: true }
}

/// All keys, in the order in which people expect to read them.
pub const KEYS: &[Key] = &[
    key("storage.type", Kind::Text),
    key("storage.filesystem.path", Kind::Text),
    key("storage.filesystem.maxObjSizeGB", Kind::F64),
    key("storage.filesystem.backupBuffSize", Kind::I32),
    key("storage.filesystem.restoreBuffSize", Kind::I32),
    key("storage.s3.region", Kind::Text),
    key("storage.s3.endpointUrl", Kind::Text),
    key("storage.s3.endpointUrlMap", Kind::MapText),
    key("storage.s3.forcePathStyle", Kind::Bool),
    key("storage.s3.bucket", Kind::Text),
    key("storage.s3.prefix", Kind::Text),
    secret("storage.s3.credentials.access-key-id"),
    secret("storage.s3.credentials.secret-access-key"),
    secret("storage.s3.credentials.session-token"),
    key("storage.s3.credentials.vault.server", Kind::Text),
    secret("storage.s3.credentials.vault.secret"),
    secret("storage.s3.credentials.vault.token"),
    key("storage.s3.serverSideEncryption.sseAlgorithm", Kind::Text),
    key("storage.s3.serverSideEncryption.kmsKeyID", Kind::Text),
    key("storage.s3.serverSideEncryption.sseCustomerAlgorithm", Kind::Text),
    secret("storage.s3.serverSideEncryption.sseCustomerKey"),
    key("storage.s3.uploadPartSize", Kind::I32),
    key("storage.s3.maxUploadParts", Kind::I32),
    key("storage.s3.storageClass", Kind::Text),
    key("storage.s3.maxObjSizeGB", Kind::F64),
    key("storage.s3.insecureSkipTLSVerify", Kind::Bool),
    key("storage.s3.debugLogLevels", Kind::Text),
    key("storage.s3.retryer.numMaxRetries", Kind::I32),
    key("storage.s3.retryer.minRetryDelay", Kind::Duration),
    key("storage.s3.retryer.maxRetryDelay", Kind::Duration),
    key("storage.minio.region", Kind::Text),
    key("storage.minio.endpoint", Kind::Text),
    key("storage.minio.endpointMap", Kind::MapText),
    key("storage.minio.bucket", Kind::Text),
    key("storage.minio.prefix", Kind::Text),
    key("storage.minio.credentials.signature-ver", Kind::Text),
    secret("storage.minio.credentials.access-key-id"),
    secret("storage.minio.credentials.secret-access-key"),
    secret("storage.minio.credentials.session-token"),
    key("storage.minio.secure", Kind::Bool),
    key("storage.minio.debugTrace", Kind::Bool),
    key("storage.minio.partSize", Kind::I64),
    key("storage.minio.maxObjSizeGB", Kind::F64),
    key("storage.minio.retryer.numMaxRetries", Kind::I32),
    key("storage.minio.insecureSkipTLSVerify", Kind::Bool),
    key("storage.minio.forcePathStyle", Kind::Bool),
    key("storage.gcs.bucket", Kind::Text),
    key("storage.gcs.prefix", Kind::Text),
    key("storage.gcs.credentials.workloadIdentity", Kind::Bool),
    secret("storage.gcs.credentials.clientEmail"),
    secret("storage.gcs.credentials.privateKey"),
    secret("storage.gcs.credentials.hmacAccessKey"),
    secret("storage.gcs.credentials.hmacSecret"),
    key("storage.gcs.chunkSize", Kind::I32),
    key("storage.gcs.maxObjSizeGB", Kind::F64),
    key("storage.gcs.retryer.backoffInitial", Kind::Duration),
    key("storage.gcs.retryer.backoffMax", Kind::Duration),
    key("storage.gcs.retryer.backoffMultiplier", Kind::F64),
    key("storage.gcs.retryer.maxAttempts", Kind::I32),
    key("storage.gcs.retryer.chunkRetryDeadline", Kind::Duration),
    key("storage.azure.account", Kind::Text),
    key("storage.azure.container", Kind::Text),
    key("storage.azure.endpointUrl", Kind::Text),
    key("storage.azure.endpointUrlMap", Kind::MapText),
    key("storage.azure.prefix", Kind::Text),
    secret("storage.azure.credentials.key"),
    secret("storage.azure.credentials.sas"),
    key("storage.azure.retryer.numMaxRetries", Kind::I32),
    key("storage.azure.retryer.minRetryDelay", Kind::Duration),
    key("storage.azure.retryer.maxRetryDelay", Kind::Duration),
    key("storage.azure.maxObjSizeGB", Kind::F64),
    key("storage.oss.region", Kind::Text),
    key("storage.oss.endpointUrl", Kind::Text),
    key("storage.oss.bucket", Kind::Text),
    key("storage.oss.prefix", Kind::Text),
    secret("storage.oss.credentials.accessKeyId"),
    secret("storage.oss.credentials.accessKeySecret"),
    secret("storage.oss.credentials.securityToken"),
    key("storage.oss.credentials.roleArn", Kind::Text),
    key("storage.oss.credentials.sessionName", Kind::Text),
    key("storage.oss.retryer.maxAttempts", Kind::I32),
    key("storage.oss.retryer.maxBackoff", Kind::Duration),
    key("storage.oss.retryer.baseDelay", Kind::Duration),
    key("storage.oss.connectTimeout", Kind::Duration),
    key("storage.oss.uploadPartSize", Kind::I64),
    key("storage.oss.maxUploadParts", Kind::I32),
    key("storage.oss.maxObjSizeGB", Kind::F64),
    key("storage.oss.serverSideEncryption.encryptionMethod", Kind::Text),
    key("storage.oss.serverSideEncryption.encryptionAlgorithm", Kind::Text),
    secret("storage.oss.serverSideEncryption.encryptionKeyId"),
    key("storage.oci.region", Kind::Text),
    key("storage.oci.namespace", Kind::Text),
    key("storage.oci.bucket", Kind::Text),
    key("storage.oci.prefix", Kind::Text),
    key("storage.oci.credentials.type", Kind::Text),
    secret("storage.oci.credentials.accessKeyId"),
    secret("storage.oci.credentials.secretAccessKey"),
    key("storage.oci.credentials.userPrincipal.tenancy", Kind::Text),
    key("storage.oci.credentials.userPrincipal.user", Kind::Text),
    key("storage.oci.credentials.userPrincipal.fingerprint", Kind::Text),
    secret("storage.oci.credentials.userPrincipal.privateKey"),
    secret("storage.oci.credentials.userPrincipal.privateKeyPassphrase"),
    key("storage.oci.retryer.maxAttempts", Kind::I32),
    key("storage.oci.retryer.maxBackoff", Kind::Duration),
    key("storage.oci.serverSideEncryption.kmsKeyID", Kind::Text),
    secret("storage.oci.serverSideEncryption.sseCustomerKey"),
    key("storage.oci.uploadPartSize", Kind::I64),
    key("storage.oci.maxObjSizeGB", Kind::F64),
    key("storage.oci.uploadConcurrency", Kind::I32),
    key("pitr.enabled", Kind::Bool),
    key("pitr.oplogSpanMin", Kind::F64),
    key("pitr.maxLossSec", Kind::F64),
    key("pitr.oplogOnly", Kind::Bool),
    key("pitr.priority", Kind::MapF64),
    key("pitr.compression", Kind::Codec),
    key("pitr.compressionLevel", Kind::I32),
    key("backup.oplogSpanMin", Kind::F64),
    key("backup.priority", Kind::MapF64),
    key("backup.timeouts.startingStatus", Kind::I64),
    key("backup.timeouts.balancerStop", Kind::I64),
    key("backup.compression", Kind::Codec),
    key("backup.compressionLevel", Kind::I32),
    key("backup.numParallelCollections", Kind::I32),
    key("backup.numParallelFiles", Kind::I32),
    key("backup.limitUpload", Kind::Rate),
    key("restore.batchSize", Kind::I32),
    key("restore.numInsertionWorkers", Kind::I32),
    key("restore.numParallelCollections", Kind::I32),
    key("restore.numParallelFiles", Kind::I32),
    key("restore.indexCommitQuorum", Kind::Text),
    key("restore.numDownloadWorkers", Kind::I32),
    key("restore.maxDownloadBufferMb", Kind::I32),
    key("restore.downloadChunkMb", Kind::I32),
    key("restore.mongodLocation", Kind::Text),
    key("restore.mongodLocationMap", Kind::MapText),
    key("restore.fallbackEnabled", Kind::Bool),
    key("restore.allowPartlyDone", Kind::Bool),
    key("restore.timeouts.startingStatus", Kind::I64),
    key("restore.timeouts.balancerStop", Kind::I64),
];

/// The key of exactly this path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Is this the last part of a secret key's path?
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    KEYS.iter().filter(|key| key.secret).any(|key| key.path.rsplit('.').next() == Some(name))
}

/// Is this the last part of the path of a key that is no secret?
#[must_use]
pub fn is_open_name(name: &str) -> bool {
    KEYS.iter().filter(|key| !key.secret).any(|key| key.path.rsplit('.').next() == Some(name))
}

/// The map key that `path` is an entry of, with the entry's name: `backup.priority.127.0.0.1:27017`.
#[must_use]
pub fn find_entry(path: &str) -> Option<(&'static Key, &str)> {
    KEYS.iter().filter(|key| matches!(key.kind, Kind::MapF64 | Kind::MapText)).find_map(|key| {
        let entry = path.strip_prefix(key.path)?.strip_prefix('.')?;
        (!entry.is_empty()).then_some((key, entry))
    })
}

/// Names directly under `group` (empty = top level), in order; empty when there is no such group.
#[must_use]
pub fn children(group: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for key in KEYS {
        let rest = if group.is_empty() {
            Some(key.path)
        } else {
            key.path.strip_prefix(group).and_then(|rest| rest.strip_prefix('.'))
        };
        if let Some(name) = rest.and_then(|rest| rest.split('.').next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

impl Kind {
    /// Reads a value's text; `Err` says what would be right.
    pub fn parse(self, text: &str) -> Result<Bson, String> {
        match self {
            Self::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "1" => Ok(Bson::Boolean(true)),
                "false" | "f" | "0" => Ok(Bson::Boolean(false)),
                _ => Err("expected true or false".to_owned()),
            },
            Self::I32 => text.parse().map(Bson::Int32).map_err(|_| "expected a whole number of 32 bits".to_owned()),
            Self::I64 => text.parse().map(Bson::Int64).map_err(|_| "expected a whole number".to_owned()),
            Self::F64 => number(text).map(Bson::Double),
            Self::Text => Ok(Bson::String(text.to_owned())),
            Self::Codec => Compression::from_str(text).map(|codec| Bson::String(codec.to_string())),
            Self::Rate => Rate::from_str(text).map(|rate| Bson::String(rate.to_string())),
            Self::Duration => match text.parse::<i64>() {
                Ok(nanos) => Ok(Bson::Int64(nanos)),
                Err(_) => {
                    super::duration::parse(text).map(|it| Bson::Int64(i64::try_from(it.as_nanos()).unwrap_or(i64::MAX)))
                }
            },
            Self::MapF64 | Self::MapText => {
                let map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
                    .map_err(|_| "expected a JSON object such as {\"host:port\": …}".to_owned())?;
                let mut out = Document::new();
                for (name, value) in map {
                    let text = match value {
                        serde_json::Value::String(text) => text,
                        other => other.to_string(),
                    };
                    out.insert(name, self.parse_entry(&text)?);
                }
                Ok(Bson::Document(out))
            }
        }
    }

    /// Reads the value of one entry of a map.
    pub fn parse_entry(self, text: &str) -> Result<Bson, String> {
        match self {
            Self::MapF64 => number(text).map(Bson::Double),
            _ => Ok(Bson::String(text.to_owned())),
        }
    }
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|it: &f64| it.is_finite()).ok_or_else(|| "expected a number".to_owned())
}
