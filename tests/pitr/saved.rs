//! Chunks made by the tests themselves, as a slicer would store them.

use crate::support::cluster::ReplicaSet;
use futures::TryStreamExt;
use mongodb::bson::{Document, RawDocumentBuf, Timestamp, doc};
use pbmbox::compress;
use pbmbox::layout::pitr_chunk;
use pbmbox::model::compression::Compression;
use pbmbox::storage::body;
use std::path::{Path, PathBuf};

/// The newest entry of the primary's oplog, after a note of our own, so that everything before has reached the majority.
pub async fn note(set: &ReplicaSet) -> Timestamp {
    let admin = set.client().await.database("admin");
    let note = doc! { "appendOplogNote": 1, "data": { "by": "test" }, "writeConcern": { "w": "majority" } };
    admin.run_command(note).await.expect("write a note");
    let last = set.client().await.database("local").collection::<Document>("oplog.rs");
    let last = last.find_one(doc! {}).sort(doc! { "$natural": -1 }).await.expect("read the oplog").expect("an entry");
    last.get_timestamp("ts").expect("a time")
}

/// Stores the oplog of a replica set from entry to entry; returns the file.
pub async fn chunk(
    store: &Path,
    rs: &str,
    set: &ReplicaSet,
    from: Timestamp,
    to: Timestamp,
    codec: Compression,
) -> PathBuf {
    let oplog = set.client().await.database("local").collection::<RawDocumentBuf>("oplog.rs");
    let found = oplog.find(doc! { "ts": { "$gte": from, "$lte": to } }).await.expect("read the oplog");
    let entries: Vec<RawDocumentBuf> = found.try_collect().await.expect("read the oplog");
    let content: Vec<u8> = entries.iter().flat_map(|entry| entry.as_bytes().to_vec()).collect();
    let packed = compress::encode(body(content), codec, None).expect("an encoder");
    let packed: Vec<bytes::Bytes> = packed.try_collect().await.expect("encode");
    let path = store.join(pitr_chunk(rs, from, to, codec));
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
    std::fs::write(&path, packed.concat()).expect("write a chunk");
    path
}

pub fn show(ts: Timestamp) -> String {
    format!("{},{}", ts.time, ts.increment)
}
