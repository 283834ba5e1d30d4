//! A replica set's part of a backup made before 2.0: one compressed archive without any other description.

use super::{compress::codec, wait, words};
use crate::{
    archive::meta::NamespaceKind,
    model::{backup::BackupReplset, compression::Compression},
    restore::{
        legacy_archive::{Contents, databases, inspect},
        plan::namespaces::{Wish, aside_name},
    },
    storage::{memory::Memory, read_all, write_all},
};

const OBJECT: &str = "2020-01-01T00:00:00Z_rs0.dump";

/// The first byte chooses the codec.
pub fn check(input: &[u8]) {
    let Some((codec, archive)) = codec(input) else { return };
    let store = Memory::new();
    wait(write_all(&store, OBJECT, archive.to_vec())).expect("memory takes everything");
    for config_server in [false, true] {
        let wish = Wish { config_server, ..Wish::default() };
        let part: BackupReplset =
            BackupReplset { dump_name: OBJECT.to_owned(), oplog_name: "none".to_owned(), ..replset() };
        match wait(inspect(&store, &part, codec, &wish)) {
            Ok(contents) => accepted(&store, codec, &contents),
            Err(error) => assert!(words(error).contains(OBJECT), "the object is named"),
        }
    }
}

fn replset() -> BackupReplset {
    bson::deserialize_from_document(bson::doc! { "name": "rs0" }).expect("a replica set")
}

fn accepted(store: &Memory, codec: Compression, contents: &Contents) {
    let names = wait(databases(store, OBJECT, codec)).expect("the list was read before");
    for ns in &contents.namespaces {
        assert!(!ns.db.is_empty() && !ns.coll.is_empty() && names.contains(&ns.db), "{}.{}", ns.db, ns.coll);
        assert!(ns.size >= 0 && (ns.size > 0 || ns.crc == 0), "{}.{}: {} bytes", ns.db, ns.coll, ns.size);
        if let Ok(aside) = wait(read_all(contents.aside.as_ref(), &aside_name(&ns.db, &ns.coll), usize::MAX)) {
            assert!(ns.kind == NamespaceKind::Timeseries || aside.len() as i64 == ns.size, "{}.{}", ns.db, ns.coll);
        }
    }
}
