//! Backups made before 2.0: one mongodump archive and one oplog file per replica set, made here as docs/format.md A.6 and A.7
//! say, with metadata of the form that release 1.6 wrote.

use crate::support::archive::{block, bytes, end, head};
use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use bson::{Bson, Document, Timestamp, doc};
use futures::TryStreamExt;
use mongodb::Client;
use pbmbox::{archive::extjson, compress, model::compression::Compression, storage::body};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const ORDERS: &str = "6291c5a7-4b05-42e3-b90e-41c4449cbe47";
const FIRST: u32 = 1_644_242_753;
const LAST: u32 = 1_644_242_763;

/// The metadata file as release 1.6 wrote it: without type, fcv and replica sets' nodes.
pub fn metadata(name: &str, compression: &str, suffix: &str, last: Timestamp) -> Value {
    let condition = |status: &str| json!({ "timestamp": FIRST, "status": status });
    let first = json!({ "T": FIRST, "I": 1 });
    let last = json!({ "T": last.time, "I": last.increment });
    json!({
        "opid": "62012747a5255edf83f0a6e9", "name": name, "compression": compression,
        "replsets": [{
            "name": "rs0", "backup_name": format!("{name}_rs0.dump{suffix}"),
            "oplog_name": format!("{name}_rs0.oplog{suffix}"), "start_ts": FIRST, "status": "done",
            "last_transition_ts": LAST, "first_write_ts": first, "last_write_ts": last,
            "conditions": [condition("running"), condition("dumpDone"), condition("done")],
        }],
        "store": {
            "type": "filesystem", "s3": { "region": "", "endpointUrl": "", "bucket": "" }, "azure": {},
            "filesystem": { "path": "/opt/backups" },
        },
        "mongodb_version": "5.0.5-4", "start_ts": FIRST, "last_transition_ts": LAST, "first_write_ts": first,
        "last_write_ts": last, "hb": last, "status": "done",
        "conditions": [condition("starting"), condition("running"), condition("done")],
        "n": [{ "rs": "rs0", "n": ["rs101:27017"], "ack": "rs101:27017" }], "pbm_version": "1.6.0", "balancer": "",
    })
}

async fn pack(content: Vec<u8>, codec: Compression) -> Vec<u8> {
    let packed = compress::encode(body(content), codec, None).expect("an encoder");
    packed.try_collect::<Vec<_>>().await.expect("packed").concat()
}

async fn store(folder: &Path, name: &str, codec: Compression, dump: Vec<u8>, oplog: Vec<u8>) {
    let suffix = codec.suffix();
    let last = Timestamp { time: LAST, increment: 6 };
    let meta = metadata(name, codec.as_str(), suffix, last);
    fs::create_dir_all(folder).expect("make the storage");
    fs::write(folder.join(format!("{name}_rs0.dump{suffix}")), pack(dump, codec).await).expect("write the dump");
    fs::write(folder.join(format!("{name}_rs0.oplog{suffix}")), pack(oplog, codec).await).expect("write the oplog");
    fs::write(folder.join(format!("{name}.pbm.json")), meta.to_string()).expect("write the metadata");
}

fn orders(from: i32, to: i32) -> Vec<Document> {
    (from..to).map(|i| doc! { "_id": i, "sku": format!("s{i}"), "text": "x".repeat(2000) }).collect()
}

fn described(coll: &str, options: Document, indexes: Vec<Document>, uuid: Option<&str>) -> String {
    let mut meta = doc! { "options": options, "indexes": indexes };
    if let Some(uuid) = uuid {
        meta.insert("uuid", uuid.replace('-', ""));
    }
    meta.insert("collectionName", coll);
    extjson::compact(&meta)
}

/// Blocks of all kinds of namespaces, interleaved as several workers of mongodump leave them.
fn dump(user: &Document) -> Vec<u8> {
    let by_id = doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" };
    let sku = doc! { "v": 2, "key": { "sku": 1 }, "name": "sku_1", "unique": true };
    let ring: Vec<Document> = (0..50).map(|i| doc! { "_id": 49 - i }).collect();
    let log = vec![doc! { "_id": "never restored" }];
    let plain = |coll: &str| described(coll, doc! {}, vec![by_id.clone()], None);
    let mut out = head(&[
        ("shop", "orders", "collection", described("orders", doc! {}, vec![by_id.clone(), sku], Some(ORDERS))),
        ("shop", "ring", "", described("ring", doc! { "capped": true, "size": 65536 }, vec![by_id.clone()], None)),
        ("shop", "empty", "collection", plain("empty")),
        (
            "shop",
            "some",
            "view",
            described("some", doc! { "viewOn": "orders", "pipeline": [{ "$match": { "_id": 1 } }] }, vec![], None),
        ),
        ("admin", "pbmRUsers", "collection", plain("pbmRUsers")),
        ("admin", "pbmLog", "collection", plain("pbmLog")),
        ("config", "image_collection", "collection", plain("image_collection")),
    ]);
    let all = orders(0, 3000);
    for part in 0..10 {
        out.extend(block("shop", "orders", &all[part * 300..][..300]));
        out.extend(block("shop", "ring", &ring[part * 5..][..5]));
        if part == 3 {
            out.extend(block("admin", "pbmRUsers", std::slice::from_ref(user)));
            out.extend(block("admin", "pbmLog", &log));
            out.extend(end("admin", "pbmLog", &log));
        }
    }
    out.extend(end("shop", "ring", &ring));
    out.extend(end("shop", "empty", &[]));
    out.extend(end("admin", "pbmRUsers", std::slice::from_ref(user)));
    out.extend(end("config", "image_collection", &[]));
    out.extend(end("shop", "orders", &all));
    out
}

fn oplog() -> Vec<u8> {
    let ts = |time, increment| Timestamp { time, increment };
    let ui = bson::Binary::from(bson::Uuid::parse_str(ORDERS).expect("a UUID"));
    let insert = |at, id: i32| {
        doc! { "ts": at, "t": 1_i64, "v": 2_i64, "op": "i", "ns": "shop.orders", "ui": ui.clone(),
        "o": { "_id": id, "sku": format!("s{id}") } }
    };
    let delete = doc! { "ts": ts(FIRST + 3, 1), "t": 1_i64, "v": 2_i64, "op": "d", "ns": "shop.orders", "ui": ui.clone(), "o": { "_id": 7 } };
    let note = |at| doc! { "ts": at, "t": 1_i64, "v": 2_i64, "op": "n", "ns": "", "o": { "msg": "periodic noop" } };
    // The document 2999 was read by the dump already.
    bytes(&[
        note(ts(FIRST, 1)),
        insert(ts(FIRST + 1, 1), 2999),
        insert(ts(FIRST + 2, 1), 3000),
        delete,
        note(ts(LAST, 6)),
        insert(ts(LAST, 7), 4000),
    ])
}

async fn ids(client: &Client, coll: &str) -> Vec<i32> {
    let found = client.database("shop").collection::<Document>(coll).find(doc! {}).await.expect("find");
    let found: Vec<Document> = found.try_collect().await.expect("find");
    found.iter().map(|document| document.get_i32("_id").expect("_id")).collect()
}

/// A user's document, from a server that then forgets it.
async fn user(client: &Client) -> Document {
    let shop = client.database("shop");
    shop.run_command(doc! { "createUser": "ann", "pwd": "x", "roles": [] }).await.expect("make a user");
    let users = client.database("admin").collection::<Document>("system.users");
    let user = users.find_one(doc! {}).await.expect("read").expect("the user");
    shop.run_command(doc! { "dropUser": "ann" }).await.expect("drop the user");
    user
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_the_old_layout_is_listed_and_restored() {
    let sandbox = Sandbox::unconfigured(Options::default()).await;
    let client = sandbox.set.client().await;
    let (name, cut, flipped) = ("2022-02-07T14:05:59Z", "2022-02-08T14:05:59Z", "2022-02-09T14:05:59Z");
    let user = user(&client).await;
    let dump = dump(&user);
    store(&sandbox.store(), name, Compression::S2, dump.clone(), oplog()).await;
    // At the border of two blocks: only the namespaces without an end show it.
    let last_block = end("shop", "orders", &orders(0, 3000)).len();
    store(&sandbox.store(), cut, Compression::None, dump[..dump.len() - last_block].to_vec(), oplog()).await;
    let mut damaged = dump.clone();
    let middle = damaged.windows(4).position(|w| w == b"s150").expect("a document");
    damaged[middle] ^= 1;
    store(&sandbox.store(), flipped, Compression::Zstd, damaged, oplog()).await;
    sandbox.configure(&[]).await;
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();

    let list = sandbox.pbm(&["list", "-o", "json"]).ok().json();
    let listed: Vec<&str> =
        list["snapshots"].as_array().expect("snapshots").iter().filter_map(|s| s["name"].as_str()).collect();
    assert!([name, cut, flipped].iter().all(|name| listed.contains(name)), "{list}");
    let shown = sandbox.pbm(&["describe-backup", name, "--with-collections", "-o", "json"]).ok().json();
    assert_eq!(shown["pbm_version"], "1.6.0");
    let stored =
        |kind: &str| fs::metadata(sandbox.store().join(format!("{name}_rs0.{kind}.s2"))).expect("a file").len();
    assert_eq!(shown["size"].as_u64(), Some(stored("dump") + stored("oplog")), "{shown}");
    assert!(shown["replsets"][0]["collections"].as_array().expect("names").contains(&json!("shop.orders")), "{shown}");

    // Damage is found before anything is changed.
    client.database("shop").collection("orders").insert_one(doc! { "_id": -1 }).await.expect("insert");
    for (damaged, reason) in [(cut, "it ends before the end of 'shop.orders'"), (flipped, "its checksum is")] {
        let failed = sandbox.pbm(&["restore", damaged, "--wait", "-y", "-o", "json"]).failed();
        assert!(failed.stdout.contains(reason), "{failed:?}");
        assert_eq!(ids(&client, "orders").await, [-1]);
    }

    client.database("shop").run_command(doc! { "createUser": "eve", "pwd": "x", "roles": [] }).await.expect("a user");
    sandbox.pbm(&["restore", name, "--wait", "-y"]).ok();
    let mut found = ids(&client, "orders").await;
    found.sort_unstable();
    assert!(found == (0..=3000).filter(|id| *id != 7).collect::<Vec<_>>(), "{} documents", found.len());
    assert_eq!(ids(&client, "ring").await, (0..50).rev().collect::<Vec<_>>(), "in natural order");
    assert_eq!(ids(&client, "some").await, [1], "through the view");
    let mut names = client.database("shop").list_collection_names().await.expect("list");
    names.sort();
    assert_eq!(names, ["empty", "orders", "ring", "some", "system.views"]);
    let indexes = client.database("shop").collection::<Document>("orders").list_index_names().await.expect("indexes");
    assert_eq!(indexes, ["_id_", "sku_1"]);
    let info = client.database("shop").run_command(doc! { "listCollections": 1, "filter": { "name": "orders" } }).await;
    let info = info.expect("list");
    let info = info.get_document("cursor").and_then(|c| c.get_array("firstBatch")).expect("a batch");
    let uuid = info[0].as_document().and_then(|d| d.get_document("info").ok()?.get("uuid").cloned());
    assert_eq!(uuid, Some(Bson::from(bson::Uuid::parse_str(ORDERS).expect("a UUID"))));
    let users = client.database("admin").collection::<Document>("system.users").find(doc! {}).await.expect("find");
    assert_eq!(users.try_collect::<Vec<_>>().await.expect("users"), [user]);
    let log = client.database("admin").collection::<Document>("pbmLog");
    let strangers = log.count_documents(doc! { "_id": "never restored" });
    assert_eq!(strangers.await.expect("count"), 0);

    sandbox.pbm(&["delete-backup", name, "-y"]).ok();
    let left = fs::read_dir(sandbox.store())
        .expect("list")
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(name));
    assert_eq!(left.count(), 0, "nothing of it stays");
}
