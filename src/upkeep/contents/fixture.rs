//! The storage in `tests/fixtures/upkeep`, in memory so that tests can damage it.

use crate::storage::{
    SizeHint, Storage,
    fs::{Buffers, FsStorage},
    memory::Memory,
};
use futures::TryStreamExt;
use std::path::Path;

/// The sharded backup, zstd.
pub(in crate::upkeep) const SHARDED: &str = "2026-11-21T02:27:24Z";
/// The backup of one collection, gzip.
pub(in crate::upkeep) const SELECTIVE: &str = "2026-11-21T02:26:20Z";

pub(in crate::upkeep) async fn load() -> Memory {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/upkeep");
    let (from, to) = (FsStorage::open(&path, Buffers::default()).await.expect("open the fixture"), Memory::new());
    let objects: Vec<_> = from.list("").try_collect().await.expect("list the fixture");
    for object in objects {
        let body = from.get(&object.name, None).await.expect("read the fixture");
        to.put(&object.name, body, SizeHint(Some(object.size))).await.expect("put");
    }
    to
}
