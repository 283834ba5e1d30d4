//! How a restore reads objects of a store: `restore.numDownloadWorkers`, `downloadChunkMb` and `maxDownloadBufferMb`.
//!
//! - `downloadChunkMb`: the size of one ranged read. The default is 8.
//! - `numDownloadWorkers`: how many ranges of one object are downloaded at the same time. The default is 4.
//! - `maxDownloadBufferMb`: the most memory that all ranges on a node may use together, whatever the other two settings
//!   are. If it is too small for one range of each object that is read at the same time, the ranges become smaller.
//!
//! If this limit is not set, it is the product of the other two settings or, if that is more, the product of their
//! defaults for each object that is read at the same time (4 × 8 MiB each). So more workers or larger ranges make a
//! single large object faster, but do not multiply the memory by the number of collections. (The original's own limit
//! is sixteen times the product.)
//!
//! Files in a folder are not read in ranges.

use super::resolved::DownloadSettings;
use crate::storage::ranges::{AT_ONCE, Downloads, SIZE};

/// Returns the result of the settings if `readers` objects are read at the same time.
#[must_use]
pub fn of(set: DownloadSettings, readers: usize) -> Downloads {
    if set == DownloadSettings::default() {
        return Downloads::default();
    }
    let size = set.chunk.map_or(SIZE, |mib| mib << 20);
    let at_once = set.workers.unwrap_or(AT_ONCE);
    let usual = SIZE * AT_ONCE as u64 * readers.max(1) as u64;
    let ceiling = set.buffer.map_or(usual.max(size.saturating_mul(at_once as u64)), |mib| mib << 20);
    Downloads::within(ceiling, readers, size, at_once)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolved::Resolved;
    use crate::model::config::{Config, RestoreConf};

    #[cfg(feature = "stores")]
    #[test]
    fn ranges_that_can_be_set_can_be_had() {
        let limits =
            super::super::keys::KEYS.iter().find(|key| key.path == "restore.downloadChunkMb").map(|it| it.limits);
        let most = (crate::storage::cloud::LARGEST_ANSWER >> 20) as f64;
        assert!(matches!(limits, Some(super::super::schema::Limits::Within(_, it)) if it == most));
    }

    #[test]
    fn the_three_keys_combine() {
        const MIB: u64 = 1 << 20;
        for (workers, chunk, ceiling, size, at_once) in [
            (0, 0, 0, 8 * MIB, 4),
            (6, 0, 0, 8 * MIB, 6),
            (0, 2, 0, 2 * MIB, 4),
            (16, 32, 0, 32 * MIB, 16),
            // One worker per object reads ranges of 64 MiB, from four objects. The limit is not larger than with the
            // defaults.
            (1, 64, 0, 32 * MIB, 1),
            (0, 0, 64, 8 * MIB, 4),
            (16, 32, 64, 16 * MIB, 16),
            (0, 0, 1, MIB / 4, 4),
            (-1, -1, -1, 8 * MIB, 4),
        ] {
            let conf = RestoreConf {
                num_download_workers: workers,
                download_chunk_mb: chunk,
                max_download_buffer_mb: ceiling,
                ..RestoreConf::default()
            };
            let config = Config { restore: Some(conf), ..Config::default() };
            let it = of(Resolved::of(&config).restore.downloads, 4);
            assert_eq!((it.size, it.at_once), (size, at_once), "{workers} × {chunk}, {ceiling}");
        }
        assert_eq!(of(DownloadSettings::default(), 4).size, SIZE);
    }
}
