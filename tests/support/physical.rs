//! A physical backup made by hand, as the formats describe it: without any code that makes such backups.

use super::cluster::ReplicaSet;
use bson::{Document, Timestamp, doc};
use pbmbox::archive::{
    crc::Crc64,
    filelist::{self, DataFile},
};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Locks member `n`, copies its files to the storage in the folder `store`, and unlocks it. Returns the time of its last entry.
pub async fn by_hand(set: &ReplicaSet, n: usize, store: &Path, name: &str) -> Timestamp {
    let admin = set.client_of(n).await.database("admin");
    admin.run_command(doc! { "fsync": 1, "lock": true }).await.expect("lock");
    let rs = &set.options().name;
    let top = top(set, n).await;
    let files = copy(&set.data_of(n), &store.join(name).join(rs));
    admin.run_command(doc! { "fsyncUnlock": 1 }).await.expect("unlock");

    let list = filelist::write(&files).expect("a list");
    fs::write(store.join(name).join(rs).join("filelist.pbm"), list).expect("write the list");
    let version = admin.run_command(doc! { "buildInfo": 1 }).await.expect("buildInfo");
    let version = version.get_str("version").expect("a version");
    let (at, size) = (json!({ "T": top.time, "I": top.increment }), files.iter().map(|it| it.stored).sum::<i64>());
    let series: Vec<&str> = version.split('.').take(2).collect();
    let now = jiff::Timestamp::now().as_second();
    let meta = json!({
        "type": "physical", "opid": "6a600000000000000000beef", "name": name, "compression": "none", "store": { "type": "filesystem" },
        "size": size, "mongodb_version": version, "fcv": series.join("."), "start_ts": now, "last_transition_ts": now,
        "first_write_ts": at, "last_write_ts": at, "status": "done", "pbm_version": "2.15.0", "balancer": "off",
        "replsets": [{
            "name": rs, "start_ts": now, "status": "done", "size": size, "last_transition_ts": now, "first_write_ts": at,
            "last_write_ts": at, "node": set.address_of(n), "conditions": [],
            "mongod_opts": { "storage": { "directoryPerDB": false, "dbPath": "/data/db" } },
        }],
    });
    fs::write(store.join(format!("{name}.pbm.json")), meta.to_string()).expect("write the metadata");
    top
}

/// The time of the last entry in the oplog of member `n`.
pub async fn top(set: &ReplicaSet, n: usize) -> Timestamp {
    let oplog = set.client_of(n).await.database("local").collection::<Document>("oplog.rs");
    let last = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await.expect("read the oplog").expect("an entry");
    last.get_timestamp("ts").expect("a time")
}

fn copy(from: &Path, to: &Path) -> Vec<DataFile> {
    let mut files = Vec::new();
    let mut open = vec![from.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").map(|it| it.expect("an entry").path()) {
            let path = entry.strip_prefix(from).expect("inside").to_str().expect("a name").to_owned();
            if entry.is_dir() {
                if !["diagnostic.data", "_tmp"].contains(&&*path) {
                    open.push(entry);
                }
            } else if !["mongod.lock", "WiredTiger.lock"].contains(&&*path) {
                let target = to.join(&path);
                fs::create_dir_all(target.parent().expect("a folder")).expect("make a folder");
                let size = i64::try_from(fs::copy(&entry, target).expect("copy")).expect("a size");
                let mut crc = Crc64::new();
                crc.update(&fs::read(to.join(&path)).expect("the copy"));
                let mode = i64::from(fs::metadata(&entry).expect("a file").permissions().mode() & 0o777);
                files.push(DataFile {
                    path,
                    offset: 0,
                    length: 0,
                    file_size: size,
                    stored: size,
                    content: size,
                    mode,
                    crc: Some(crc.value()),
                });
            }
        }
    }
    files
}
