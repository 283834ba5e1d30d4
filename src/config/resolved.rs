//! The settings in the form that operations use. If no usable value is set, the default from the table of keys is used.
//!
//! Backups, restores, slicing and `pbm doctor` all use [`Resolved`], so that none of them computes a value differently.
//! The defaults are read from the table when this program is compiled. A key without a default does not compile.

use super::{
    key::{Key, Limits},
    keys::KEYS,
};
use crate::model::{
    compression::Compression,
    config::{BackupConf, Config, PhysicalBackupConf, PitrConf, RestoreConf, Slicing, Timeouts},
    rate::Rate,
};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// All settings of operations.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    pub backup: BackupSettings,
    pub pitr: PitrSettings,
    pub restore: RestoreSettings,
}

#[derive(Debug, Clone, PartialEq)]
pub struct BackupSettings {
    /// The time that the replica sets have to begin.
    pub start_within: Duration,
    /// How long a backup waits for the end of the balancer's round.
    pub balancer_round: Duration,
    /// The time that one slice of the backup's oplog covers.
    pub oplog_span: Duration,
    /// The key from which `oplog_span` comes.
    pub oplog_span_key: &'static str,
    /// How many collections are dumped at the same time. If it is not set, the agent uses its own number.
    pub parallel_collections: Option<usize>,
    pub compression: Compression,
    pub level: Option<i32>,
    pub limit_upload: Rate,
    pub priority: Option<BTreeMap<String, f64>>,
    /// How many data files are stored at the same time. If it is not set, the agent uses its own number.
    pub parallel_files: Option<usize>,
    pub physical: PhysicalSettings,
}

/// How physical backups take the data files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalSettings {
    pub snapshot_command: Option<String>,
    pub remove_snapshot_command: Option<String>,
    /// The folder for clones and copies. If it is not set, it is in the dbPath.
    pub spool: Option<PathBuf>,
    /// How long a server may be locked.
    pub max_lock: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PitrSettings {
    pub slicing: Slicing,
    /// The time that one chunk covers.
    pub oplog_span: Duration,
    /// Writes that are older than this must be on the storage.
    pub max_loss: Option<Duration>,
    pub compression: Compression,
    pub level: Option<i32>,
    pub priority: Option<BTreeMap<String, f64>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSettings {
    /// How long a restore waits for the end of the balancer's round. `None` means without a limit.
    pub balancer_limit: Option<Duration>,
    /// How many collections are loaded at the same time. If it is not set, it is half the number of the node's cores.
    pub parallel_collections: Option<usize>,
    /// How many inserts run at the same time for one collection.
    pub insertion_workers: usize,
    /// The most documents in one insert.
    pub batch_documents: usize,
    pub index_commit_quorum: Option<String>,
    pub downloads: DownloadSettings,
    pub physical: FileRestoreSettings,
}

/// What only physical restores need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileRestoreSettings {
    /// How many files are fetched at the same time, if it is set.
    pub parallel_files: Option<usize>,
    /// The mongod binary, and that of single nodes.
    pub mongod: Option<String>,
    pub mongod_of: BTreeMap<String, String>,
    /// Whether the old data is kept aside; if it is not set, where there is room for it.
    pub fallback: Option<bool>,
    /// What starts and stops mongod.
    pub start: Option<String>,
    pub stop: Option<String>,
}

/// The values of the three keys that [`downloads`](super::downloads) combines, if they are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DownloadSettings {
    pub workers: Option<usize>,
    /// In MiB.
    pub chunk: Option<u64>,
    /// In MiB.
    pub buffer: Option<u64>,
}

const START_WITHIN: u64 = default_of("backup.timeouts.startingStatus");
const BALANCER_ROUND: u64 = default_of("backup.timeouts.balancerStop");
const MAX_LOCK: u64 = default_of("backup.physical.maxLockSec");
const SPAN_KEY: &str = "pitr.oplogSpanMin";
const SPAN_MINUTES: u64 = default_of(SPAN_KEY);
const MOST_MINUTES: f64 = most_of(SPAN_KEY);
const INSERTION_WORKERS: u64 = default_of("restore.numInsertionWorkers");
const BATCH_DOCUMENTS: u64 = default_of("restore.batchSize");

impl Resolved {
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let backup = config.backup.clone().unwrap_or_default();
        let pitr = config.pitr.clone().unwrap_or_default();
        let restore = config.restore.clone().unwrap_or_default();
        let backup = backup_settings(backup, &pitr);
        let pitr = pitr_settings(pitr, config.slicing(), &backup);
        Self { backup, pitr, restore: restore_settings(restore) }
    }
}

fn backup_settings(backup: BackupConf, pitr: &PitrConf) -> BackupSettings {
    let timeouts = backup.timeouts.unwrap_or_default();
    let own = minutes(Some(backup.oplog_span_min));
    BackupSettings {
        start_within: seconds(timeouts.starting_status).unwrap_or(Duration::from_secs(START_WITHIN)),
        balancer_round: balancer_stop(&timeouts).unwrap_or(Duration::from_secs(BALANCER_ROUND)),
        oplog_span_key: if own.is_some() { "backup.oplogSpanMin" } else { SPAN_KEY },
        oplog_span: own.unwrap_or_else(|| span(pitr)),
        parallel_collections: positive(backup.num_parallel_collections),
        compression: backup.compression.unwrap_or_default(),
        level: backup.compression_level,
        limit_upload: backup.limit_upload.unwrap_or_default(),
        priority: backup.priority,
        parallel_files: positive(backup.num_parallel_files),
        physical: physical_settings(backup.physical.unwrap_or_default()),
    }
}

fn physical_settings(physical: PhysicalBackupConf) -> PhysicalSettings {
    let set = |text: String| Some(text).filter(|text| !text.trim().is_empty());
    PhysicalSettings {
        snapshot_command: set(physical.snapshot_command),
        remove_snapshot_command: set(physical.remove_snapshot_command),
        spool: set(physical.spool_path).map(PathBuf::from),
        max_lock: seconds(physical.max_lock_sec).unwrap_or(Duration::from_secs(MAX_LOCK)),
    }
}

fn pitr_settings(pitr: PitrConf, slicing: Slicing, backup: &BackupSettings) -> PitrSettings {
    let compression = pitr.compression.unwrap_or(backup.compression);
    // The level of backups fits only their own codec.
    let inherited = backup.level.filter(|_| pitr.compression.is_none());
    PitrSettings {
        slicing,
        oplog_span: span(&pitr),
        max_loss: pitr.max_loss_sec.filter(|it| *it > 0.0).and_then(|it| Duration::try_from_secs_f64(it).ok()),
        compression,
        level: pitr.compression_level.or(inherited),
        priority: pitr.priority,
    }
}

fn restore_settings(restore: RestoreConf) -> RestoreSettings {
    let commands = restore.physical.unwrap_or_default();
    let downloads = DownloadSettings {
        workers: positive(restore.num_download_workers),
        chunk: positive(restore.download_chunk_mb),
        buffer: positive(restore.max_download_buffer_mb),
    };
    RestoreSettings {
        balancer_limit: restore.timeouts.as_ref().and_then(balancer_stop),
        parallel_collections: positive(restore.num_parallel_collections),
        insertion_workers: positive(restore.num_insertion_workers).unwrap_or(INSERTION_WORKERS as usize),
        batch_documents: positive(restore.batch_size).unwrap_or(BATCH_DOCUMENTS as usize),
        index_commit_quorum: restore.index_commit_quorum.filter(|it| !it.is_empty()),
        downloads,
        physical: FileRestoreSettings {
            parallel_files: positive(restore.num_parallel_files),
            mongod: Some(restore.mongod_location).filter(|it| !it.is_empty()),
            mongod_of: restore.mongod_location_map.unwrap_or_default(),
            fallback: restore.fallback_enabled,
            start: commands.start_command.filter(|it| !it.is_empty()),
            stop: commands.stop_command.filter(|it| !it.is_empty()),
        },
    }
}

/// Returns a number if it is set. For the keys that are read here, 0 means that nothing is set, and a negative number
/// is a mistake.
fn positive<T: TryFrom<i32> + Default + PartialOrd>(number: i32) -> Option<T> {
    T::try_from(number).ok().filter(|it| *it > T::default())
}

fn seconds(set: Option<i64>) -> Option<Duration> {
    set.and_then(|it| u64::try_from(it).ok()).filter(|it| *it > 0).map(Duration::from_secs)
}

fn balancer_stop(timeouts: &Timeouts) -> Option<Duration> {
    seconds(timeouts.balancer_stop)
}

fn minutes(set: Option<f64>) -> Option<Duration> {
    set.filter(|it| *it > 0.0).map(|it| Duration::from_secs_f64(it.min(MOST_MINUTES) * 60.0))
}

fn span(pitr: &PitrConf) -> Duration {
    minutes(pitr.oplog_span_min).unwrap_or(Duration::from_secs(SPAN_MINUTES * 60))
}

/// Returns the default of a key whose value is a whole number.
const fn default_of(path: &str) -> u64 {
    match key(path).default {
        Some(default) => match default.value {
            Some(text) => match u64::from_str_radix(text, 10) {
                Ok(number) => number,
                Err(_) => panic!("the default of this key is not a whole number"),
            },
            None => panic!("another key decides the default of this key"),
        },
        None => panic!("this key has no default"),
    }
}

/// Returns the largest value of a key.
const fn most_of(path: &str) -> f64 {
    match key(path).limits {
        Limits::Within(_, most) => most,
        _ => panic!("this key has no largest value"),
    }
}

const fn key(path: &str) -> &'static Key {
    let mut at = 0;
    while at < KEYS.len() {
        if is_same(KEYS[at].path.as_bytes(), path.as_bytes()) {
            return &KEYS[at];
        }
        at += 1;
    }
    panic!("the table has no such key")
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema;
    use bson::Bson;

    /// Returns the default of a key, read like a value of the configuration.
    fn table(path: &str) -> Bson {
        let key = schema::find(path).expect(path);
        key.kind.parse(key.default.and_then(|default| default.value).expect(path)).expect(path)
    }

    fn whole(path: &str) -> u64 {
        match table(path) {
            Bson::Int32(number) => u64::try_from(number).expect(path),
            Bson::Int64(number) => u64::try_from(number).expect(path),
            other => panic!("{path}: {other}"),
        }
    }

    /// Returns the settings for these keys.
    fn set(keys: &[(&str, Bson)]) -> Resolved {
        let mut doc = bson::Document::new();
        for (path, value) in keys {
            super::super::paths::put(&mut doc, path, value.clone());
        }
        Resolved::of(&super::super::from_document(doc).expect("a configuration"))
    }

    #[test]
    fn each_default_is_that_of_the_table() {
        let it = Resolved::of(&Config::default());
        assert_eq!(it.backup.start_within.as_secs(), whole("backup.timeouts.startingStatus"));
        assert_eq!(it.backup.balancer_round.as_secs(), whole("backup.timeouts.balancerStop"));
        assert_eq!(table("pitr.oplogSpanMin"), Bson::Double(it.pitr.oplog_span.as_secs_f64() / 60.0));
        assert_eq!(it.backup.oplog_span, it.pitr.oplog_span, "backup.oplogSpanMin: as pitr.oplogSpanMin");
        assert_eq!(it.backup.oplog_span_key, "pitr.oplogSpanMin");
        assert_eq!(table("backup.compression"), Bson::String(it.backup.compression.to_string()));
        assert_eq!((it.backup.limit_upload, it.backup.level), (Rate::default(), None));
        assert_eq!(table("pitr.enabled"), Bson::Boolean(it.pitr.slicing.is_on()));
        assert_eq!(table("pitr.oplogOnly"), Bson::Boolean(it.pitr.slicing == Slicing::OplogOnly));
        assert_eq!((it.pitr.max_loss, it.pitr.compression), (None, it.backup.compression));
        assert_eq!(it.restore.insertion_workers as u64, whole("restore.numInsertionWorkers"));
        assert_eq!(it.restore.batch_documents as u64, whole("restore.batchSize"));
        // A default of 0 in the table means that another rule decides the value.
        assert_eq!(it.backup.physical.max_lock.as_secs(), whole("backup.physical.maxLockSec"));
        for path in [
            "backup.numParallelCollections",
            "backup.numParallelFiles",
            "restore.numParallelCollections",
            "restore.timeouts.balancerStop",
        ] {
            assert_eq!(whole(path), 0, "{path}");
        }
        assert_eq!((it.backup.parallel_collections, it.restore.parallel_collections), (None, None));
        assert_eq!(it.backup.parallel_files, None);
        assert_eq!((it.restore.balancer_limit, it.restore.downloads), (None, DownloadSettings::default()));
    }

    #[test]
    fn zero_and_negative_numbers_count_as_not_set() {
        let default = Resolved::of(&Config::default());
        for number in [0, -1, i32::MIN] {
            let (of_32, of_64) = (Bson::Int32(number), Bson::Int64(i64::from(number)));
            let fraction = Bson::Double(f64::from(number));
            let it = set(&[
                ("backup.timeouts.startingStatus", of_64.clone()),
                ("backup.timeouts.balancerStop", of_64.clone()),
                ("backup.oplogSpanMin", fraction.clone()),
                ("backup.numParallelCollections", of_32.clone()),
                ("pitr.oplogSpanMin", fraction.clone()),
                ("pitr.maxLossSec", fraction),
                ("restore.timeouts.balancerStop", of_64),
                ("restore.numParallelCollections", of_32.clone()),
                ("restore.numInsertionWorkers", of_32.clone()),
                ("restore.batchSize", of_32.clone()),
                ("restore.numDownloadWorkers", of_32.clone()),
                ("restore.downloadChunkMb", of_32.clone()),
                ("restore.maxDownloadBufferMb", of_32),
                ("restore.indexCommitQuorum", "".into()),
            ]);
            assert_eq!(it, default, "{number}");
        }
        assert_eq!(set(&[("pitr.oplogSpanMin", f64::NAN.into()), ("pitr.maxLossSec", f64::NAN.into())]), default);
    }

    #[test]
    fn a_span_is_a_day_at_most() {
        for minutes in [1440.0, 1441.0, 1e300, f64::INFINITY] {
            let it = set(&[("pitr.oplogSpanMin", minutes.into())]);
            assert_eq!((it.pitr.oplog_span.as_secs(), it.backup.oplog_span.as_secs()), (86_400, 86_400), "{minutes}");
            let it = set(&[("backup.oplogSpanMin", minutes.into())]);
            assert_eq!((it.pitr.oplog_span.as_secs(), it.backup.oplog_span.as_secs()), (600, 86_400), "{minutes}");
        }
        assert_eq!(set(&[("pitr.maxLossSec", f64::INFINITY.into())]).pitr.max_loss, None);
    }

    #[test]
    fn other_large_numbers_hold_as_they_are() {
        let it = set(&[
            ("backup.timeouts.startingStatus", i64::MAX.into()),
            ("restore.batchSize", i32::MAX.into()),
            ("restore.numInsertionWorkers", i32::MAX.into()),
            ("restore.numDownloadWorkers", i32::MAX.into()),
        ]);
        assert_eq!(it.backup.start_within.as_secs(), i64::MAX.unsigned_abs());
        let most = i32::MAX.unsigned_abs() as usize;
        assert_eq!((it.restore.batch_documents, it.restore.insertion_workers), (most, most));
        assert_eq!(it.restore.downloads.workers, Some(most));
    }

    #[test]
    fn values_that_are_set_win() {
        let it = set(&[
            ("backup.oplogSpanMin", 0.25.into()),
            ("backup.timeouts.balancerStop", 7_i64.into()),
            ("backup.numParallelCollections", 3.into()),
            ("pitr.enabled", true.into()),
            ("pitr.oplogSpanMin", 5.0.into()),
            ("pitr.maxLossSec", 30.5.into()),
            ("restore.timeouts.balancerStop", 9_i64.into()),
            ("restore.indexCommitQuorum", "majority".into()),
            ("restore.downloadChunkMb", 2.into()),
            ("restore.maxDownloadBufferMb", 5.into()),
            ("restore.numParallelCollections", 6.into()),
            ("backup.limitUpload", "10M".into()),
            ("backup.priority", bson::doc! { "a:1": 2.0 }.into()),
            ("pitr.priority", bson::doc! { "b:1": 3.0 }.into()),
        ]);
        assert_eq!(it.backup.limit_upload.per_second().map(u64::from), Some(10 << 20));
        assert_eq!(it.backup.priority, Some(BTreeMap::from([("a:1".to_owned(), 2.0)])));
        assert_eq!(it.pitr.priority, Some(BTreeMap::from([("b:1".to_owned(), 3.0)])));
        assert_eq!(it.restore.parallel_collections, Some(6));
        assert_eq!((it.backup.oplog_span.as_secs(), it.backup.oplog_span_key), (15, "backup.oplogSpanMin"));
        assert_eq!((it.backup.balancer_round.as_secs(), it.backup.parallel_collections), (7, Some(3)));
        assert_eq!((it.pitr.slicing, it.pitr.oplog_span.as_secs()), (Slicing::On, 300));
        assert_eq!(it.pitr.max_loss, Some(Duration::from_millis(30_500)));
        assert_eq!(it.restore.balancer_limit, Some(Duration::from_secs(9)));
        assert_eq!(it.restore.index_commit_quorum.as_deref(), Some("majority"));
        assert_eq!(it.restore.downloads, DownloadSettings { workers: None, chunk: Some(2), buffer: Some(5) });
    }

    #[test]
    fn slices_are_compressed_as_backups_where_nothing_else_is_set() {
        use Compression::{Gzip, Lz4, S2, Zstd};
        for (backup, pitr, expected) in [
            ((None, None), (None, None), (S2, None)),
            ((Some("zstd"), Some(7)), (None, None), (Zstd, Some(7))),
            ((Some("zstd"), Some(7)), (None, Some(3)), (Zstd, Some(3))),
            ((Some("zstd"), Some(7)), (Some("lz4"), None), (Lz4, None)),
            ((Some("zstd"), None), (Some("gzip"), Some(9)), (Gzip, Some(9))),
            ((Some("gzip"), Some(5)), (None, Some(12)), (Gzip, Some(5))),
        ] {
            let mut doc = bson::Document::new();
            for (section, (codec, level)) in [("backup", backup), ("pitr", pitr)] {
                if let Some(codec) = codec {
                    super::super::paths::put(&mut doc, &format!("{section}.compression"), codec.into());
                }
                if let Some(level) = level {
                    super::super::paths::put(&mut doc, &format!("{section}.compressionLevel"), Bson::Int32(level));
                }
            }
            // Read as it is stored, because the reading drops a level that the codec does not have.
            let it = Resolved::of(&super::super::reading::read(&doc));
            assert_eq!((it.pitr.compression, it.pitr.level), expected, "{doc}");
        }
    }

    #[test]
    fn oplog_only_is_nothing_while_slicing_is_off() {
        for (enabled, only, slicing) in [
            (false, false, Slicing::Off),
            (false, true, Slicing::Off),
            (true, false, Slicing::On),
            (true, true, Slicing::OplogOnly),
        ] {
            let it = set(&[("pitr.enabled", enabled.into()), ("pitr.oplogOnly", only.into())]);
            assert_eq!(it.pitr.slicing, slicing, "{enabled} {only}");
        }
    }
}
