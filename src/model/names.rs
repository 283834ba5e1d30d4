//! Names of databases, collections, programs and the version that decides a backup's layout.

/// The release of the original whose formats we write. It stands in `pbm_version` of every document, because that
/// field selects the layout of a backup's files.
pub const PBM_VERSION: &str = "2.15.0";

/// The database that holds the control collections.
pub const CONTROL_DB: &str = "admin";

pub const CMD: &str = "pbmCmd";
pub const CONFIG: &str = "pbmConfig";
pub const AGENTS: &str = "pbmAgents";
pub const LOCK: &str = "pbmLock";
pub const LOCK_OP: &str = "pbmLockOp";
pub const OP_LOG: &str = "pbmOpLog";
pub const BACKUPS: &str = "pbmBackups";
pub const RESTORES: &str = "pbmRestores";
pub const PITR: &str = "pbmPITR";
pub const PITR_CHUNKS: &str = "pbmPITRChunks";
pub const LOG: &str = "pbmLog";
/// The bell collection of our earlier releases. The original does not know it: its dumps contained the collection, and its
/// replay stopped at the writes. The collection is dropped when no agent of such a release is left.
pub const OLD_BELL: &str = "pbmBell";
/// Temporary copies of `system.users` and `system.roles`, on every replica set while a backup or restore runs.
pub const TMP_USERS: &str = "pbmRUsers";
pub const TMP_ROLES: &str = "pbmRRoles";

/// Control collections (in [`CONTROL_DB`]) that are never restored and, in our backups, never dumped: they describe
/// the cluster that made the backup, and `pbmConfig` holds storage credentials in clear.
pub const CONTROL: &[&str] = &[
    CMD,
    CONFIG,
    AGENTS,
    LOCK,
    LOCK_OP,
    OP_LOG,
    BACKUPS,
    RESTORES,
    PITR,
    PITR_CHUNKS,
    LOG,
    OLD_BELL,
    "pbmBackups.old",
    "pbmPITRChunks.old",
];

/// True for a full namespace (`db.coll`) of a control collection.
#[must_use]
pub fn is_control_namespace(ns: &str) -> bool {
    ns.strip_prefix("admin.").is_some_and(|coll| CONTROL.contains(&coll))
}

/// Begins the name of the collection that holds the buckets of a time series.
pub const BUCKETS: &str = "system.buckets.";

/// The name of the time series for the collection of its buckets; every other name as it is.
#[must_use]
pub fn series_name(coll: &str) -> &str {
    coll.strip_prefix(BUCKETS).unwrap_or(coll)
}
