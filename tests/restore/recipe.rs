use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc, oid::ObjectId};
use pbmbox::archive::meta::NamespaceKind;
use pbmbox::model::backup::BackupMeta;
use pbmbox::replay::build::CommitQuorum;
use pbmbox::replay::txn::Committed;
use pbmbox::restore::plan::namespaces::Wish;
use pbmbox::restore::steps::{Order, Steps};
use pbmbox::restore::target_state;
use pbmbox::snapshot::load::LoadOptions;
use pbmbox::storage::Storage;
use std::collections::HashSet;
use tokio_util::sync::CancellationToken;

use super::Server;
use super::store::{RS, Store, ts};
use crate::support::cluster::Options;

const ORDERS: &str = "6291c5a74b0542e3b90e41c4449cbe47";
const SCRIPTS: &str = "ae343c8beb9e4d6ea287244100fc8ead";

fn order(backup: &BackupMeta) -> Order {
    Order {
        backup: backup.clone(),
        rs: RS.to_owned(),
        wish: Wish::default(),
        load: LoadOptions::default(),
        quorum: CommitQuorum::default(),
        point: None,
        sharded: false,
        ids: BTreeMap::new(),
        places: BTreeMap::new(),
    }
}

async fn prepare(server: &Server, store: &Store, backup: &BackupMeta) -> anyhow::Result<Steps> {
    Steps::prepare(store.storage.clone(), server.client.clone(), order(backup)).await
}

async fn restore(server: &Server, store: &Store, backup: &BackupMeta) -> Vec<String> {
    let cancel = CancellationToken::new();
    let restore = prepare(server, store, backup).await.unwrap().drop(&cancel).await.unwrap();
    let (restore, _) = restore.load(&cancel).await.unwrap();
    restore.put_users_back(&cancel).await.unwrap();
    let restore = restore.put_routing_back(&BTreeSet::new(), &cancel).await.unwrap();
    let (restore, _) = restore.replay(&cancel, alone).await.unwrap();
    restore.finish(&cancel).await.unwrap();
    restore.plan().warnings.clone()
}

/// No other shard has anything to tell.
async fn alone(_: &[Committed]) -> anyhow::Result<HashSet<String>> {
    Ok(HashSet::new())
}

async fn all(server: &Server, db: &str, coll: &str) -> Vec<Document> {
    let found = server.client.database(db).collection::<Document>(coll).find(doc! {}).sort(doc! { "_id": 1 }).await;
    found.unwrap().try_collect().await.unwrap()
}

async fn names(server: &Server, db: &str) -> Vec<String> {
    let mut names = server.client.database(db).list_collection_names().await.unwrap();
    names.sort();
    names
}

async fn uuid(server: &Server, db: &str, coll: &str) -> String {
    let found = target_state::list(&server.client.database(db), doc! { "name": coll }).await.unwrap();
    found[0].1.unwrap().to_string().replace('-', "")
}

fn bucket(id: u8, value: Bson) -> Document {
    let (id, at) = (
        ObjectId::from_bytes([0x60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, id]),
        mongodb::bson::DateTime::from_millis(0x6000_0000 * 1000),
    );
    let of = |v: Bson| doc! { "_id": id, "t": at, "v": v };
    doc! {
        "_id": id,
        "control": { "version": 1, "min": of(value.clone()), "max": of(value.clone()) },
        "data": { "_id": { "0": id }, "t": { "0": at }, "v": { "0": value } },
    }
}

/// A store with one of everything.
async fn sample() -> (Store, BackupMeta) {
    let mut store = Store::new();
    let by_id = doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" };
    let indexes = vec![by_id.clone(), doc! { "v": 2, "key": { "sku": 1 }, "name": "sku_1", "unique": true }];
    let orders: Vec<_> = (0..100).map(|i| doc! { "_id": i, "sku": format!("s{i}") }).collect();
    store.add("shop", "orders", NamespaceKind::Collection, doc! { "indexes": indexes, "uuid": ORDERS }, &orders).await;
    let scripts = doc! { "indexes": [by_id.clone()], "uuid": SCRIPTS };
    store.add("shop", "system.js", NamespaceKind::Collection, scripts, &[doc! { "_id": "f", "value": 1 }]).await;
    let view = doc! { "options": { "viewOn": "orders", "pipeline": [{ "$match": { "_id": 1 } }] }, "indexes": [] };
    store.add("shop", "view", NamespaceKind::View, view, &[]).await;
    let series = doc! { "options": { "timeseries": { "timeField": "t", "granularity": "seconds" } }, "indexes": null };
    store.add("shop", "ts", NamespaceKind::Timeseries, series, &[bucket(1, 1.into()), bucket(2, "x".into())]).await;
    let ring = doc! { "options": { "capped": true, "size": 4096, "max": 50 }, "indexes": [by_id], "uuid": Bson::Null };
    store.add("shop", "ring", NamespaceKind::Collection, ring, &orders[..50]).await;
    store.add("admin", "pbmLog", NamespaceKind::Collection, doc! {}, &[doc! { "_id": "not to be restored" }]).await;
    let ui = mongodb::bson::Binary::from(mongodb::bson::Uuid::parse_str(ORDERS).unwrap());
    let entry = |at, id, sku: &str| {
        doc! { "ts": ts(at, 1), "t": 1_i64, "v": 2_i64, "op": "i", "ns": "shop.orders", "ui": ui.clone(), "o": { "_id": id, "sku": sku } }
    };
    // An object that the restore does not need; it begins with the last entry of the object before it.
    let border = doc! { "ts": ts(200, 1), "t": 1_i64, "v": 2_i64, "op": "n", "ns": "", "o": { "msg": "end" } };
    let late = [border, entry(201, 999, "after the end")].map(|entry| entry.to_vec().unwrap()).concat();
    let oplog = [entry(100, 99, "s99"), entry(150, 100, "from the oplog")];
    let backup = store.finish(&oplog).await;
    store.put("b/rs0/oplog/19700101000320-1.19700101000321-1", late).await;
    (store, backup)
}

async fn check(server: &Server) {
    let orders = all(server, "shop", "orders").await;
    assert_eq!((orders.len(), orders[100].get_str("sku").unwrap()), (101, "from the oplog"));
    assert_eq!(uuid(server, "shop", "orders").await, ORDERS);
    assert_eq!(all(server, "shop", "system.js").await, [doc! { "_id": "f", "value": 1 }]);
    assert_eq!(all(server, "shop", "view").await.len(), 1);
    assert_eq!(all(server, "shop", "ts").await.len(), 2);
    assert_eq!(all(server, "shop", "system.buckets.ts").await, [bucket(1, 1.into()), bucket(2, "x".into())]);
    assert_eq!(all(server, "shop", "ring").await.len(), 50);
    assert!(!names(server, "admin").await.contains(&"pbmLog".to_owned()));
    let indexes = server.client.database("shop").collection::<Document>("orders").list_index_names().await.unwrap();
    assert_eq!(indexes, ["_id_", "sku_1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_comes_back_onto_anything() {
    let (store, backup) = sample().await;
    let server = Server::start(Options::default()).await;
    restore(&server, &store, &backup).await;
    check(&server).await;

    // Everything is different now, and there are strangers.
    let db = server.client.database("shop");
    let rename = doc! { "renameCollection": "shop.orders", "to": "shop.orders_old" };
    server.run("admin", rename).await.unwrap();
    server.run("shop", doc! { "create": "orders", "viewOn": "ts", "pipeline": [] }).await.unwrap();
    for coll in ["view", "ring"] {
        server.run("shop", doc! { "drop": coll }).await.unwrap();
        db.collection(coll).insert_one(doc! { "_id": "other" }).await.unwrap();
    }
    db.collection("system.js").insert_one(doc! { "_id": "g", "value": 1 }).await.unwrap();
    db.collection("ts").insert_one(doc! { "t": mongodb::bson::DateTime::now(), "v": 7 }).await.unwrap();
    db.collection("stranger").insert_one(doc! { "_id": 1 }).await.unwrap();
    let warnings = restore(&server, &store, &backup).await;
    check(&server).await;
    assert_eq!(all(&server, "shop", "stranger").await, [doc! { "_id": 1 }]);
    assert_eq!(
        names(&server, "shop").await,
        ["orders", "ring", "stranger", "system.buckets.ts", "system.js", "system.views", "ts", "view"]
    );
    assert!(warnings.iter().any(|warning| warning.contains("'shop.orders_old' is dropped")), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_touched_when_an_object_is_missing() {
    let (store, backup) = sample().await;
    let server = Server::start(Options::default()).await;
    let db = server.client.database("shop");
    db.collection("orders").insert_one(doc! { "_id": "mine" }).await.unwrap();
    let objects = store.storage.names();
    let needed: Vec<_> = objects.iter().filter(|name| !name.contains("320-1.")).collect();
    assert_eq!(needed.len(), 7, "{objects:?}");
    for name in needed {
        let content = store.storage.get(name, None).await.unwrap().try_collect::<Vec<_>>().await.unwrap().concat();
        store.storage.delete(name).await.unwrap();
        let error = format!("{:#}", prepare(&server, &store, &backup).await.unwrap_err());
        assert!(
            error.contains(name) || (name.contains("/oplog/") && error.contains("the oplog in")),
            "{name}: {error}"
        );
        store.put(name, content).await;
    }
    prepare(&server, &store, &backup).await.unwrap();
    assert_eq!(all(&server, "shop", "orders").await, [doc! { "_id": "mine" }]);
    assert_eq!(names(&server, "shop").await, ["orders"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_collection_ends_the_load() {
    let (store, backup) = sample().await;
    let server = Server::start(Options::default()).await;
    let name = "b/rs0/shop.orders";
    let mut content = store.storage.get(name, None).await.unwrap().try_collect::<Vec<_>>().await.unwrap().concat();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    store.put(name, content).await;
    let cancel = CancellationToken::new();
    let restore = prepare(&server, &store, &backup).await.unwrap().drop(&cancel).await.unwrap();
    let error = format!("{:#}", restore.load(&cancel).await.unwrap_err());
    assert!(error.contains("'b/rs0/shop.orders' is damaged: its checksum is"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oplog_slice_that_lost_whole_entries_is_found() {
    let (store, backup) = sample().await;
    let server = Server::start(Options::default()).await;
    let slice = store.storage.names().into_iter().find(|name| name.contains("/oplog/1970010100014")).expect("a slice");
    let content = store.storage.get(&slice, None).await.unwrap().try_collect::<Vec<_>>().await.unwrap().concat();
    let first = usize::try_from(i32::from_le_bytes(content[..4].try_into().unwrap())).unwrap();
    store.put(&slice, content[..first].to_vec()).await;
    let error = format!("{:#}", prepare(&server, &store, &backup).await.unwrap_err());
    assert!(error.contains(&slice) && error.contains("ends at") && error.contains("nothing was changed"), "{error}");
}

/// The target already has a collection that the backup's own oplog creates, in its later state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_oplog_makes_is_not_what_it_became() {
    let mut store = Store::new();
    store.add("shop", "other", NamespaceKind::Collection, doc! {}, &[]).await;
    let ui = mongodb::bson::Binary::from(mongodb::bson::Uuid::parse_str(ORDERS).unwrap());
    let entry = |at, op: &str, ns: &str, o: Document| {
        doc! { "ts": ts(at, 1), "t": 1_i64, "v": 2_i64, "op": op, "ns": ns, "ui": ui.clone(), "o": o }
    };
    let oplog = [
        entry(100, "c", "shop.$cmd", doc! { "create": "orders" }),
        entry(150, "i", "shop.orders", doc! { "_id": 1, "k": 1 }),
    ];
    let mut backup = store.finish(&oplog).await;
    backup.replsets[0].first_write_ts = ts(100, 1);
    let server = Server::start(Options::default()).await;
    restore(&server, &store, &backup).await;
    assert_eq!(all(&server, "shop", "orders").await, [doc! { "_id": 1, "k": 1 }]);

    let unique = doc! { "createIndexes": "orders", "indexes": [{ "key": { "k": 1 }, "name": "k", "unique": true }] };
    server.run("shop", unique).await.unwrap();
    let orders = server.client.database("shop").collection::<Document>("orders");
    orders.delete_one(doc! { "_id": 1 }).await.unwrap();
    orders.insert_one(doc! { "_id": 2, "k": 1 }).await.unwrap();
    server.run("admin", doc! { "renameCollection": "shop.orders", "to": "shop.renamed" }).await.unwrap();
    let warnings = restore(&server, &store, &backup).await;
    assert_eq!(all(&server, "shop", "orders").await, [doc! { "_id": 1, "k": 1 }]);
    assert_eq!(names(&server, "shop").await, ["orders", "other"]);
    assert_eq!(uuid(&server, "shop", "orders").await, ORDERS);
    assert!(warnings.iter().any(|it| it.contains("'shop.renamed' is dropped")), "{warnings:?}");
}

/// An oplog with entries in the forms that servers from 7.0 on write, or may write.
fn of_newer_servers(ui: &mongodb::bson::Binary) -> Vec<Document> {
    let entry = |at, op: &str, ns: &str, o: Document, more: Document| {
        let mut all = doc! { "ts": ts(at, 1), "t": 1_i64, "v": 2_i64, "op": op, "ns": ns, "o": o };
        all.extend(more);
        all
    };
    let ui = doc! { "ui": ui.clone() };
    let with = |more: Document| -> Document { ui.clone().into_iter().chain(more).collect() };
    let insert = |id: i32| {
        let more = with(doc! { "rid": 7_i64, "versionContext": { "OFCV": "8.2" } });
        entry(0, "i", "shop.orders", doc! { "_id": id }, more)
    };
    let container =
        |op: &str| entry(0, op, "shop.orders", doc! { "k": 1_i64, "v": "x" }, doc! { "container": "index-7" });
    let multikey = entry(0, "c", "shop.$cmd", doc! { "setMultikeyMetadata": "orders", "index": "a" }, ui.clone());
    let inner = |all: Vec<Document>| -> Vec<Document> {
        let strip = |mut it: Document| {
            for name in ["ts", "t", "v"] {
                it.remove(name);
            }
            it
        };
        all.into_iter().map(strip).collect()
    };
    let at = |at, mut entry: Document| {
        entry.insert("ts", ts(at, 1));
        entry
    };
    let session = |number: i64| doc! { "lsid": { "id": mongodb::bson::Uuid::from_bytes([7; 16]) }, "txnNumber": number, "prevOpTime": { "ts": ts(0, 0), "t": -1_i64 } };
    let vectored: Document = session(1).into_iter().chain(doc! { "multiOpType": 1 }).collect();
    let create = doc! { "create": "orders", "recordIdsReplicated": true, "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" } };
    let idents = with(doc! { "o2": { "catalogId": 5_i64, "ident": "collection-5", "idIndexIdent": "index-6" } });
    vec![
        entry(100, "c", "shop.$cmd", create, idents),
        at(101, insert(1)),
        at(102, container("ci")),
        at(103, container("cu")),
        at(104, container("cd")),
        entry(105, "km", "", doc! { "key": 1 }, doc! {}),
        entry(106, "c", "admin.$cmd", doc! { "applyOps": inner(vec![insert(2), insert(3)]) }, vectored),
        entry(
            107,
            "c",
            "admin.$cmd",
            doc! { "applyOps": inner(vec![insert(4), multikey, container("ci")]) },
            session(2),
        ),
        entry(108, "c", "admin.$cmd", doc! { "dropIdent": "collection-4" }, doc! {}),
        entry(109, "c", "shop.$cmd", doc! { "createDatabaseMetadata": "shop", "db": { "_id": "shop" } }, doc! {}),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_newer_servers_are_replayed_without_what_only_they_know() {
    let mut store = Store::new();
    let ring = doc! { "options": { "capped": true, "size": 4096, "recordIdsReplicated": true } };
    store.add("shop", "ring", NamespaceKind::Collection, ring, &[]).await;
    let ui = mongodb::bson::Binary::from(mongodb::bson::Uuid::parse_str(ORDERS).unwrap());
    let oplog = of_newer_servers(&ui);
    let backup = store.finish(&oplog).await;
    let server = Server::start(Options::default()).await;
    restore(&server, &store, &backup).await;
    let found: Vec<i32> = all(&server, "shop", "orders").await.iter().map(|it| it.get_i32("_id").unwrap()).collect();
    assert_eq!(found, [1, 2, 3, 4]);

    // What is not known, alone or in a transaction, is refused by its name while nothing is changed.
    let sharded = oplog.last().expect("entries").clone();
    let command = |o: Document| doc! { "ts": ts(109, 1), "t": 1_i64, "v": 2_i64, "op": "c", "ns": "shop.$cmd", "o": o };
    let strange = doc! { "op": "xi", "ns": "shop.orders", "ui": ui.clone(), "o": { "_id": 5 } };
    for (entry, is_sharded, part) in [
        (doc! { "ts": ts(109, 1), "op": "xi", "ns": "shop.orders", "o": { "_id": 5 } }, false, "unknown op 'xi'"),
        (command(doc! { "applyOps": [strange] }), false, "unknown op 'xi'"),
        (command(doc! { "somethingNew": "orders" }), false, "`somethingNew` at 109:1"),
        (command(doc! { "upgradeDowngradeViewlessTimeseries": "ts" }), false, "`upgradeDowngradeViewlessTimeseries`"),
        (
            command(doc! { "create": "c", "timeseries": { "timeField": "t", "bucketRoundingSeconds": 9 } }),
            false,
            "6.3.0",
        ),
        (sharded, true, "`createDatabaseMetadata` at 109:1"),
    ] {
        let mut oplog = oplog.clone();
        *oplog.last_mut().expect("entries") = entry;
        let backup = store.finish(&oplog).await;
        let order = Order { sharded: is_sharded, ..order(&backup) };
        let said = Steps::prepare(store.storage.clone(), server.client.clone(), order).await;
        let said = format!("{:#}", said.expect_err(part));
        assert!(said.contains(part) && said.contains("nothing was changed"), "{part}: {said}");
    }
    assert_eq!(names(&server, "shop").await, ["orders", "ring"]);
}
