//! The metadata file of a backup.

use super::words;
use crate::{
    archive::backup_json::{read, write},
    model::backup::BackupMeta,
};

pub fn check(input: &[u8]) {
    match read(input) {
        Ok(meta) => accepted(&meta),
        Err(error) => {
            words(error);
        }
    }
}

fn accepted(meta: &BackupMeta) {
    let written = text(meta);
    let again = read(written.as_bytes()).unwrap_or_else(|error| panic!("{error:#}: {written}"));
    assert_eq!(text(&again), written);
    // Secrets are masked and empty errors are left out. Everything else is unchanged.
    assert_eq!(
        (&again.name, again.kind, again.status, again.compression, &again.opid),
        (&meta.name, meta.kind, meta.status, meta.compression, &meta.opid)
    );
    assert_eq!((&again.nss, &again.nss_narrowed), (&meta.nss, &meta.nss_narrowed));
    let times = |meta: &BackupMeta| (meta.start_ts, meta.first_write_ts, meta.last_write_ts, meta.hb, meta.size);
    assert_eq!(times(&again), times(meta));
    let sets = |meta: &BackupMeta| -> Vec<_> {
        let sets = meta.replsets.iter();
        sets.map(|set| (set.name.clone(), set.dump_name.clone(), set.oplog_name.clone(), set.last_write_ts)).collect()
    };
    assert_eq!(sets(&again), sets(meta));
    let store = &again.store;
    assert_eq!(
        (&store.kind, &store.name, &store.filesystem),
        (&meta.store.kind, &meta.store.name, &meta.store.filesystem)
    );
}

fn text(meta: &BackupMeta) -> String {
    String::from_utf8(write(meta).expect("metadata that was read")).expect("JSON is text")
}
