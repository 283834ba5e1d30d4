//! Backups made by hand in a storage in memory.

use std::sync::Arc;

use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::archive::meta::{ArchiveMeta, NamespaceKind, NamespaceMeta, write_metadata_json};
use pbmbox::layout::ReplsetLayout;
use pbmbox::model::backup::BackupMeta;
use pbmbox::model::compression::Compression;
use pbmbox::snapshot::stored::StoredDocuments;
use pbmbox::storage::memory::Memory;
use pbmbox::storage::write_all;
use serde_json::json;

pub const RS: &str = "rs0";

pub fn ts(time: u32, increment: u32) -> Timestamp {
    Timestamp { time, increment }
}

/// A backup under construction.
pub struct Store {
    pub storage: Arc<Memory>,
    layout: ReplsetLayout,
    namespaces: Vec<NamespaceMeta>,
}

impl Store {
    pub fn new() -> Self {
        let layout = ReplsetLayout::new("b", RS, Compression::None);
        Self { storage: Arc::new(Memory::new()), layout, namespaces: Vec::new() }
    }

    pub async fn put(&self, name: &str, content: Vec<u8>) {
        write_all(self.storage.as_ref(), name, content).await.expect("memory takes everything");
    }

    /// Stores documents and says what metadata would say of them.
    pub async fn documents(&self, db: &str, coll: &str, documents: &[Document]) -> StoredDocuments {
        let content: Vec<u8> = documents.iter().flat_map(|document| document.to_vec().expect("bytes")).collect();
        let mut digest = crc64fast::Digest::new();
        digest.write(&content);
        let object = self.layout.collection(db, coll);
        let (size, crc) = (content.len() as u64, digest.sum64().cast_signed());
        if size > 0 {
            self.put(&object, content).await;
        }
        StoredDocuments { object, compression: Compression::None, size, crc }
    }

    /// Adds a namespace. `more` may have `options`, `indexes` and `uuid`.
    pub async fn add(&mut self, db: &str, coll: &str, kind: NamespaceKind, more: Document, documents: &[Document]) {
        let data = self.documents(db, coll, documents).await;
        let indexes = more.get_array("indexes").ok();
        self.namespaces.push(NamespaceMeta {
            db: db.to_owned(),
            coll: coll.to_owned(),
            kind,
            options: more.get_document("options").cloned().unwrap_or_default(),
            indexes: indexes.map(|list| list.iter().filter_map(|each| each.as_document().cloned()).collect()),
            uuid: more.get_str("uuid").ok().map(|text| bson::Uuid::parse_str(text).expect("a UUID")),
            crc: data.crc,
            size: i64::try_from(data.size).expect("small"),
            object: None,
        });
    }

    /// Writes metadata and an oplog slice; the backup ends at `ts(200, 1)`.
    pub async fn finish(&self, oplog: &[Document]) -> BackupMeta {
        let metadata = ArchiveMeta {
            written: Vec::new(),
            concurrent_collections: 1,
            server_version: "6.0.5".to_owned(),
            tool_version: "2.15.0".to_owned(),
            namespaces: self.namespaces.clone(),
            remains: Vec::new(),
        };
        self.put(&self.layout.metadata(), write_metadata_json(&metadata)).await;
        let border = doc! { "ts": ts(200, 1), "t": 1_i64, "v": 2_i64, "op": "n", "ns": "", "o": { "msg": "end" } };
        let entries = oplog.iter().chain([&border]).flat_map(|entry| entry.to_vec().expect("bytes")).collect();
        self.put(&self.layout.oplog_slice(ts(100, 1), ts(200, 1)), entries).await;
        let backup = serde_json::from_value(json!({
            "type": "logical", "name": "b", "compression": "none", "status": "done", "pbm_version": "2.15.0",
            "mongodb_version": "6.0.5", "fcv": "6.0", "replsets": [{"name": RS, "status": "done"}],
        }));
        let mut backup: BackupMeta = backup.expect("a backup");
        (backup.first_write_ts, backup.last_write_ts) = (ts(100, 1), ts(200, 1));
        (backup.replsets[0].first_write_ts, backup.replsets[0].last_write_ts) = (ts(100, 1), ts(200, 1));
        backup
    }
}
