//! Writes to a replica set, its state at a time, and that of a copy of its files.

use crate::support::cluster::{Folder, ReplicaSet, Version, binary};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Document, RawDocumentBuf, Timestamp, doc};
use pbmbox::archive::{backup_json, filelist};
use pbmbox::compress;
use pbmbox::datafiles::{program::Program, server::Launch};
use pbmbox::layout::ReplsetLayout;
use pbmbox::storage::{
    Storage,
    fs::{Buffers, FsStorage},
};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};
use tokio::task::JoinHandle;

/// Inserts, updates and deletes until it is stopped, each confirmed by the majority.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Writer {
    pub async fn start(set: &ReplicaSet) -> Self {
        let client = set.client().await;
        let load = client.database("shop").collection::<Document>("load");
        let first: Vec<Document> = (0..2000).map(|n| doc! { "_id": n, "n": 0, "text": "x".repeat(500) }).collect();
        load.insert_many(first).await.expect("insert");
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn({
            let (stop, count) = (stop.clone(), count.clone());
            async move {
                for n in 2000_i64.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    load.insert_one(doc! { "_id": n, "n": 1, "text": "y".repeat(300) }).await.expect("insert");
                    load.update_one(doc! { "_id": n % 1999 }, doc! { "$inc": { "n": 1 } }).await.expect("update");
                    if n % 50 == 0 {
                        load.delete_one(doc! { "_id": n - 25 }).await.expect("delete");
                        let name = format!("made{n}");
                        client.database("shop").create_collection(&name).await.expect("create");
                    }
                    count.store(n.unsigned_abs(), Relaxed);
                }
            }
        });
        Self { stop, count, task }
    }

    pub async fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.task.await.expect("the writer");
        self.count.load(Relaxed)
    }
}

/// All documents of the collection that is written, as the set had them at this time.
pub async fn state_at(set: &ReplicaSet, time: Timestamp) -> Vec<RawDocumentBuf> {
    read(&set.client().await, Some(time)).await
}

async fn read(client: &Client, at: Option<Timestamp>) -> Vec<RawDocumentBuf> {
    let mut find = doc! { "find": "load", "sort": { "_id": 1 }, "batchSize": 1_000_000 };
    if let Some(time) = at {
        find.insert("readConcern", doc! { "level": "snapshot", "atClusterTime": time });
    }
    let cursor = client.database("shop").run_cursor_command(find).await.expect("find");
    let documents: Vec<Document> = cursor.try_collect().await.expect("documents");
    documents.iter().map(|it| RawDocumentBuf::try_from(it).expect("a document")).collect()
}

/// Fetches the files of a backup, lets a server of its own apply the oplog in them, and reads the documents.
pub async fn restored(store: &Path, name: &str, rs: &str) -> Vec<RawDocumentBuf> {
    let folder = Folder::new("copy");
    let data = folder.path().join("data");
    fetch(store, name, rs, &data).await;
    let program = Program::find(Some(&binary(Version::Current).0.display().to_string()), None).await.expect("a mongod");
    let launch = Launch::new(&program, &data).parameter("recoverFromOplogAsStandalone", true);
    let server = launch.start().await.expect("the copy starts");
    let documents = read(server.client(), None).await;
    server.finish(Ok(documents)).await.expect("the copy stops")
}

async fn fetch(store: &Path, name: &str, rs: &str, data: &Path) {
    let storage = FsStorage::open(store, Buffers::default()).await.expect("the storage");
    let meta =
        backup_json::read(&fs::read(store.join(format!("{name}.pbm.json"))).expect("the metadata")).expect("readable");
    assert!(meta.replsets[0].mongod_opts.is_some() && meta.replsets[0].physical.is_some());
    let layout = ReplsetLayout::new(name, rs, meta.compression);
    let list = fs::read(store.join(name).join(rs).join("filelist.pbm")).expect("the list");
    for file in filelist::read(&list).expect("a list") {
        let content =
            compress::decode(storage.get(&file.object(&layout), None).await.expect("an object"), meta.compression);
        let content = content.try_collect::<Vec<_>>().await.expect("the content").concat();
        let path = data.join(&file.path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        let target = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).expect("a file");
        target.write_all_at(&content, file.offset.unsigned_abs()).expect("write");
    }
}
