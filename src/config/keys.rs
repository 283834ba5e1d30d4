//! The table of keys: their types, secrecy, defaults and limits (docs/format.md C.3.1, C.3.2).

use super::key::{Key, Kind, Limits, Preset};

const fn key(path: &'static str, kind: Kind) -> Key {
    Key { path, kind, secret: false, default: None, limits: Limits::Any }
}

const fn secret(path: &'static str) -> Key {
    Key { secret: true, ..key(path, Kind::Text) }
}

impl Key {
    /// Sets the default value.
    const fn or(self, value: &'static str) -> Self {
        self.or_so(value, "")
    }

    /// Does the same as [`Self::or`], with a remark for values that don't explain themselves.
    const fn or_so(self, value: &'static str, words: &'static str) -> Self {
        Self { default: Some(Preset { value: Some(value), words }), ..self }
    }

    /// States that the default follows another key.
    const fn like(self, words: &'static str) -> Self {
        Self { default: Some(Preset { value: None, words }), ..self }
    }

    const fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    const fn within(self, least: f64, most: f64) -> Self {
        self.limits(Limits::Within(least, most))
    }

    const fn not_negative(self) -> Self {
        self.limits(Limits::AtLeast(0.0))
    }

    const fn one_of(self, choices: &'static [&'static str]) -> Self {
        self.limits(Limits::OneOf(choices))
    }

    const fn address(self) -> Self {
        self.limits(Limits::Address)
    }
}

/// The most collections, files and inserts at the same time.
const MOST_WORKERS: f64 = 1024.0;
/// The largest range in MiB that the drivers of Azure and Google accept.
const LARGEST_RANGE: f64 = 256.0;
/// A month, in seconds.
const LONGEST: f64 = 2_592_000.0;
const PATIENT: &str = "for two minutes";
const PREFERENCE: &str = "hidden members 2, other secondaries 1, the primary 0.5";

/// All keys, in the order in which users expect them.
pub const KEYS: &[Key] = &[
    key("storage.type", Kind::Text),
    key("storage.filesystem.path", Kind::Text),
    key("storage.filesystem.maxObjSizeGB", Kind::F64).or("5018").limits(Limits::AtLeast(1.0)),
    key("storage.filesystem.backupBuffSize", Kind::I32)
        .or_so("0", "the agent's own")
        .limits(Limits::ZeroOr(32_768.0, 10_485_760.0)),
    key("storage.filesystem.restoreBuffSize", Kind::I32)
        .or_so("0", "the agent's own")
        .limits(Limits::ZeroOr(32_768.0, 10_485_760.0)),
    key("storage.filesystem.fileMode", Kind::Text)
        .or_so("640", "less what the umask takes away")
        .limits(Limits::Mode { needed: 0o600, allowed: 0o664 }),
    key("storage.filesystem.dirMode", Kind::Text)
        .or_so("750", "less what the umask takes away")
        .limits(Limits::Mode { needed: 0o700, allowed: 0o775 }),
    key("storage.s3.region", Kind::Text).or("us-east-1"),
    key("storage.s3.endpointUrl", Kind::Text).address(),
    key("storage.s3.endpointUrlMap", Kind::MapText).address(),
    key("storage.s3.forcePathStyle", Kind::Bool).or("true"),
    key("storage.s3.bucket", Kind::Text),
    key("storage.s3.prefix", Kind::Text),
    secret("storage.s3.credentials.access-key-id"),
    secret("storage.s3.credentials.secret-access-key"),
    secret("storage.s3.credentials.session-token"),
    key("storage.s3.credentials.vault.server", Kind::Text),
    secret("storage.s3.credentials.vault.secret"),
    secret("storage.s3.credentials.vault.token"),
    key("storage.s3.serverSideEncryption.sseAlgorithm", Kind::Text).one_of(&["AES256", "aws:kms", "aws:kms:dsse"]),
    key("storage.s3.serverSideEncryption.kmsKeyID", Kind::Text),
    key("storage.s3.serverSideEncryption.sseCustomerAlgorithm", Kind::Text).one_of(&["AES256"]),
    secret("storage.s3.serverSideEncryption.sseCustomerKey"),
    key("storage.s3.uploadPartSize", Kind::I32).or("10485760").not_negative(),
    key("storage.s3.maxUploadParts", Kind::I32).or("10000").within(0.0, 10_000.0),
    key("storage.s3.storageClass", Kind::Text).or("STANDARD"),
    key("storage.s3.maxObjSizeGB", Kind::F64).or("5018").limits(Limits::AtLeast(1.0)),
    key("storage.s3.insecureSkipTLSVerify", Kind::Bool).or("false"),
    key("storage.s3.debugLogLevels", Kind::Text),
    key("storage.s3.retryer.numMaxRetries", Kind::I32).or_so("0", PATIENT).not_negative(),
    key("storage.s3.retryer.minRetryDelay", Kind::Duration).or_so("200ms", "200ms").not_negative(),
    key("storage.s3.retryer.maxRetryDelay", Kind::Duration).or_so("10s", "10s").not_negative(),
    key("storage.minio.region", Kind::Text).or("us-east-1"),
    key("storage.minio.endpoint", Kind::Text).address(),
    key("storage.minio.endpointMap", Kind::MapText).address(),
    key("storage.minio.bucket", Kind::Text),
    key("storage.minio.prefix", Kind::Text),
    key("storage.minio.credentials.signature-ver", Kind::Text).or("V4"),
    secret("storage.minio.credentials.access-key-id"),
    secret("storage.minio.credentials.secret-access-key"),
    secret("storage.minio.credentials.session-token"),
    key("storage.minio.secure", Kind::Bool).or("false"),
    key("storage.minio.debugTrace", Kind::Bool).or("false"),
    key("storage.minio.partSize", Kind::I64).or("10485760").not_negative(),
    key("storage.minio.maxObjSizeGB", Kind::F64).or("5018").limits(Limits::AtLeast(1.0)),
    key("storage.minio.retryer.numMaxRetries", Kind::I32).or_so("0", PATIENT).not_negative(),
    key("storage.minio.insecureSkipTLSVerify", Kind::Bool).or("false"),
    key("storage.minio.forcePathStyle", Kind::Bool).or("true"),
    key("storage.gcs.bucket", Kind::Text),
    key("storage.gcs.prefix", Kind::Text),
    key("storage.gcs.credentials.workloadIdentity", Kind::Bool).or("false"),
    secret("storage.gcs.credentials.clientEmail"),
    secret("storage.gcs.credentials.privateKey"),
    secret("storage.gcs.credentials.hmacAccessKey"),
    secret("storage.gcs.credentials.hmacSecret"),
    key("storage.gcs.chunkSize", Kind::I32).or("10485760").not_negative(),
    key("storage.gcs.maxObjSizeGB", Kind::F64).or("5018").limits(Limits::AtLeast(1.0)),
    key("storage.gcs.retryer.backoffInitial", Kind::Duration).or_so("200ms", "200ms").not_negative(),
    key("storage.gcs.retryer.backoffMax", Kind::Duration).or_so("10s", "10s").not_negative(),
    key("storage.gcs.retryer.backoffMultiplier", Kind::F64).or("2").limits(Limits::ZeroOr(1.0, 100.0)),
    key("storage.gcs.retryer.maxAttempts", Kind::I32).or_so("0", PATIENT).not_negative(),
    key("storage.gcs.retryer.chunkRetryDeadline", Kind::Duration).like("as for other requests").not_negative(),
    key("storage.azure.account", Kind::Text),
    key("storage.azure.container", Kind::Text),
    key("storage.azure.endpointUrl", Kind::Text).address(),
    key("storage.azure.endpointUrlMap", Kind::MapText).address(),
    key("storage.azure.prefix", Kind::Text),
    secret("storage.azure.credentials.key"),
    secret("storage.azure.credentials.sas"),
    key("storage.azure.retryer.numMaxRetries", Kind::I32).or_so("0", PATIENT).not_negative(),
    key("storage.azure.retryer.minRetryDelay", Kind::Duration).or_so("200ms", "200ms").not_negative(),
    key("storage.azure.retryer.maxRetryDelay", Kind::Duration).or_so("10s", "10s").not_negative(),
    key("storage.azure.maxObjSizeGB", Kind::F64).or("194560").limits(Limits::AtLeast(1.0)),
    key("storage.oss.region", Kind::Text),
    key("storage.oss.endpointUrl", Kind::Text).address(),
    key("storage.oss.bucket", Kind::Text),
    key("storage.oss.prefix", Kind::Text),
    secret("storage.oss.credentials.accessKeyId"),
    secret("storage.oss.credentials.accessKeySecret"),
    secret("storage.oss.credentials.securityToken"),
    key("storage.oss.credentials.roleArn", Kind::Text),
    key("storage.oss.credentials.sessionName", Kind::Text),
    key("storage.oss.retryer.maxAttempts", Kind::I32).or_so("0", PATIENT).not_negative(),
    key("storage.oss.retryer.maxBackoff", Kind::Duration).or_so("10s", "10s").not_negative(),
    key("storage.oss.retryer.baseDelay", Kind::Duration).or_so("200ms", "200ms").not_negative(),
    key("storage.oss.connectTimeout", Kind::Duration).or_so("5s", "5s").not_negative(),
    key("storage.oss.uploadPartSize", Kind::I64).or("10485760").not_negative(),
    key("storage.oss.maxUploadParts", Kind::I32).or("10000").within(0.0, 10_000.0),
    key("storage.oss.maxObjSizeGB", Kind::F64).or("48700").limits(Limits::AtLeast(1.0)),
    key("storage.oss.serverSideEncryption.encryptionMethod", Kind::Text),
    key("storage.oss.serverSideEncryption.encryptionAlgorithm", Kind::Text),
    secret("storage.oss.serverSideEncryption.encryptionKeyId"),
    key("storage.oci.region", Kind::Text),
    key("storage.oci.namespace", Kind::Text),
    key("storage.oci.bucket", Kind::Text),
    key("storage.oci.prefix", Kind::Text),
    key("storage.oci.credentials.type", Kind::Text).one_of(&[
        "userPrincipal",
        "instancePrincipal",
        "okeWorkloadIdentity",
    ]),
    secret("storage.oci.credentials.accessKeyId"),
    secret("storage.oci.credentials.secretAccessKey"),
    key("storage.oci.credentials.userPrincipal.tenancy", Kind::Text),
    key("storage.oci.credentials.userPrincipal.user", Kind::Text),
    key("storage.oci.credentials.userPrincipal.fingerprint", Kind::Text),
    secret("storage.oci.credentials.userPrincipal.privateKey"),
    secret("storage.oci.credentials.userPrincipal.privateKeyPassphrase"),
    key("storage.oci.retryer.maxAttempts", Kind::I32).or_so("0", PATIENT).not_negative(),
    key("storage.oci.retryer.maxBackoff", Kind::Duration).or_so("10s", "10s").not_negative(),
    key("storage.oci.serverSideEncryption.kmsKeyID", Kind::Text),
    secret("storage.oci.serverSideEncryption.sseCustomerKey"),
    key("storage.oci.uploadPartSize", Kind::I64).or("10485760").not_negative(),
    key("storage.oci.maxObjSizeGB", Kind::F64).or("10138").limits(Limits::AtLeast(1.0)),
    key("storage.oci.uploadConcurrency", Kind::I32).or("4").within(0.0, MOST_WORKERS),
    key("pitr.enabled", Kind::Bool).or("false"),
    key("pitr.oplogSpanMin", Kind::F64).or("10").within(0.0, 1440.0),
    key("pitr.maxLossSec", Kind::F64).within(5.0, 86_400.0),
    key("pitr.oplogOnly", Kind::Bool).or("false"),
    key("pitr.priority", Kind::MapF64).or_so("{}", PREFERENCE),
    key("pitr.compression", Kind::Codec).like("as backup.compression"),
    key("pitr.compressionLevel", Kind::I32).like("as backup.compressionLevel"),
    key("backup.oplogSpanMin", Kind::F64).or_so("0", "as pitr.oplogSpanMin").within(0.0, 1440.0),
    key("backup.priority", Kind::MapF64).or_so("{}", PREFERENCE),
    key("backup.timeouts.startingStatus", Kind::I64).or("33").within(0.0, LONGEST),
    key("backup.timeouts.balancerStop", Kind::I64).or("30").within(0.0, LONGEST),
    key("backup.compression", Kind::Codec).or("s2"),
    key("backup.compressionLevel", Kind::I32),
    key("backup.numParallelCollections", Kind::I32).or_so("0", "half of each node's cores").within(0.0, MOST_WORKERS),
    key("backup.numParallelFiles", Kind::I32).or_so("0", "half of each node's cores").within(0.0, MOST_WORKERS),
    key("backup.limitUpload", Kind::Rate).or_so("0", "no limit"),
    key("backup.physical.snapshotCommand", Kind::Text),
    key("backup.physical.removeSnapshotCommand", Kind::Text),
    key("backup.physical.spoolPath", Kind::Text),
    key("backup.physical.maxLockSec", Kind::I64).or("60").within(0.0, 3600.0),
    key("restore.batchSize", Kind::I32).or("100000").within(0.0, 100_000.0),
    key("restore.numInsertionWorkers", Kind::I32).or("4").within(0.0, MOST_WORKERS),
    key("restore.numParallelCollections", Kind::I32).or_so("0", "half of each node's cores").within(0.0, MOST_WORKERS),
    key("restore.numParallelFiles", Kind::I32).or("4").within(0.0, MOST_WORKERS),
    key("restore.indexCommitQuorum", Kind::Text).or("votingMembers"),
    key("restore.numDownloadWorkers", Kind::I32).or("4").within(0.0, MOST_WORKERS),
    key("restore.maxDownloadBufferMb", Kind::I32)
        .or_so("0", "workers x chunk, or 32 for each object read at once if that is more")
        .not_negative(),
    key("restore.downloadChunkMb", Kind::I32).or("8").within(0.0, LARGEST_RANGE),
    key("restore.mongodLocation", Kind::Text),
    key("restore.mongodLocationMap", Kind::MapText),
    key("restore.fallbackEnabled", Kind::Bool).like("where there is room for it"),
    key("restore.allowPartlyDone", Kind::Bool).or("true"),
    key("restore.physical.startCommand", Kind::Text),
    key("restore.physical.stopCommand", Kind::Text),
    key("restore.timeouts.startingStatus", Kind::I64).within(0.0, LONGEST),
    key("restore.timeouts.balancerStop", Kind::I64).or_so("0", "no limit").within(0.0, LONGEST),
];
