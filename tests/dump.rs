//! The data engines of a backup against a real server: what is listed, what is stored, and where the oplog is cut.

use crate::support::cluster::{Folder, Options, ReplicaSet};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Bson, Document, Timestamp, doc};
use pbmbox::archive::meta::{NamespaceKind, NamespaceMeta};
use pbmbox::backup::cut;
use pbmbox::compress;
use pbmbox::config::open;
use pbmbox::layout::ReplsetLayout;
use pbmbox::model::compression::Compression;
use pbmbox::model::config::{FilesystemConf, StorageConf};
use pbmbox::model::selection::Selection;
use pbmbox::oplog::slice;
use pbmbox::snapshot::budget::Budget;
use pbmbox::snapshot::dump::{self, DumpPlan, Dumped};
use pbmbox::snapshot::namespaces::{self, Namespace};
use pbmbox::snapshot::source::{self, DumpProgress};
use pbmbox::storage::{Storage, memory::Memory};
use std::sync::{Arc, atomic::Ordering::Relaxed};
use std::time::Duration;

async fn run(client: &Client, db: &str, command: Document) -> Document {
    client.database(db).run_command(command.clone()).await.unwrap_or_else(|e| panic!("{command}: {e}"))
}

async fn insert(client: &Client, db: &str, coll: &str, documents: Vec<Document>) {
    client.database(db).collection(coll).insert_many(documents).await.expect("insert");
}

fn numbered(count: i32, filler: usize) -> Vec<Document> {
    (0..count).map(|i| doc! { "_id": i, "s": "x".repeat(filler) }).collect()
}

fn layout(compression: Compression) -> ReplsetLayout {
    ReplsetLayout::new("b", "rs0", compression)
}

fn store() -> Arc<dyn Storage> {
    Arc::new(Memory::new())
}

/// A folder as agents open it, with all that is around the driver.
async fn store_in(folder: &Folder) -> Arc<dyn Storage> {
    let filesystem = FilesystemConf { path: folder.path().display().to_string(), ..FilesystemConf::default() };
    let conf = StorageConf { kind: "filesystem".to_owned(), filesystem: Some(filesystem), ..StorageConf::default() };
    open::open(&conf, "").await.expect("open the storage")
}

async fn dump_all(client: &Client, storage: &Arc<dyn Storage>, compression: Compression) -> Dumped {
    let plan = DumpPlan {
        layout: layout(compression),
        level: None,
        parallel: 2,
        in_flight: 4 << 20,
        selection: Selection::default(),
        users: false,
        routing: false,
    };
    dump::dump(client, storage, &plan, &Arc::default()).await.expect("dump")
}

async fn content(storage: &Arc<dyn Storage>, object: &str, compression: Compression) -> Vec<u8> {
    let body = storage.get(object, None).await.expect("the object");
    compress::decode(body, compression)
        .try_fold(Vec::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
        .expect("decode")
}

fn documents(mut bytes: &[u8]) -> Vec<Document> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        found.push(Document::from_reader(&mut bytes).expect("a document"));
    }
    found
}

fn find<'a>(dumped: &'a Dumped, db: &str, coll: &str) -> Option<&'a NamespaceMeta> {
    dumped.namespaces.iter().find(|meta| meta.db == db && meta.coll == coll)
}

async fn namespace(client: &Client, coll: &str) -> Namespace {
    let all = namespaces::list(client, &Selection::default()).await.expect("list");
    all.namespaces.into_iter().find(|n| n.db == "shop" && n.coll == coll).expect("it is listed")
}

#[tokio::test]
async fn everything_is_stored_as_it_is_read() {
    let set = ReplicaSet::start(Options { auth: true, ..Options::default() }).await;
    let client = set.client_of(0).await;
    insert(&client, "shop", "orders", numbered(3000, 900)).await;
    insert(&client, "shop", "large", numbered(3, 15 << 20)).await;
    for coll in ["wide", "wider"] {
        insert(&client, "shop", coll, numbered(40, 255 << 10)).await;
    }
    run(&client, "shop", doc! { "create": "empty", "capped": true, "size": 4096 }).await;
    run(&client, "shop", doc! { "create": "view", "viewOn": "orders", "pipeline": [] }).await;
    run(&client, "shop", doc! { "create": "series", "timeseries": { "timeField": "t", "metaField": "m" } }).await;
    run(&client, "shop", doc! { "createIndexes": "series", "indexes": [{ "key": { "m.s": 1 }, "name": "ms" }] }).await;
    insert(&client, "shop", "series", vec![doc! { "t": mongodb::bson::DateTime::now(), "m": { "s": 1 } }]).await;
    run(
        &client,
        "shop",
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "s": 1 }, "name": "hid", "hidden": true, "sparse": true }] },
    )
    .await;
    insert(&client, "admin", "pbmConfig", vec![doc! { "secret": 1 }]).await;
    run(&client, "admin", doc! { "createRole": "mine", "privileges": [], "roles": [] }).await;

    for compression in [Compression::None, Compression::S2, Compression::Zstd] {
        let folder = Folder::new("dump");
        let storage = store_in(&folder).await;
        let dumped = tokio::time::timeout(Duration::from_secs(120), dump_all(&client, &storage, compression)).await;
        let dumped = dumped.unwrap_or_else(|_| panic!("{compression}: the dump hangs"));
        let at = layout(compression);
        for (coll, count) in [("orders", 3000), ("large", 3), ("wide", 40), ("wider", 40), ("system.buckets.series", 1)]
        {
            let meta = find(&dumped, "shop", coll).expect("it is dumped");
            let bytes = content(&storage, &at.collection("shop", coll), compression).await;
            assert_eq!(documents(&bytes).len(), count, "{coll}");
            assert_eq!(i64::try_from(bytes.len()).unwrap(), meta.size, "{coll}");
            let mut crc = pbmbox::archive::crc::Crc64::new();
            crc.update(&bytes);
            assert_eq!(crc.value(), meta.crc, "{coll}");
        }
        let read: Vec<Document> =
            client.database("shop").collection("orders").find(doc! {}).await.unwrap().try_collect().await.unwrap();
        assert_eq!(documents(&content(&storage, &at.collection("shop", "orders"), compression).await), read);

        let empty = find(&dumped, "shop", "empty").expect("it is listed");
        assert_eq!((empty.size, empty.crc), (0, 0));
        assert!(storage.stat(&at.collection("shop", "empty")).await.expect_err("no object").is_not_found());
        assert_eq!(empty.options, doc! { "capped": true, "size": 4096 });
        assert_eq!(find(&dumped, "shop", "view").expect("it is listed").kind, NamespaceKind::View);

        let orders = find(&dumped, "shop", "orders").unwrap().indexes.clone().unwrap();
        assert!(
            orders
                .iter()
                .find(|i| i.get_str("name").is_ok_and(|name| name == "hid"))
                .unwrap()
                .get_bool("hidden")
                .unwrap()
        );
        let series = find(&dumped, "shop", "series").expect("it is listed");
        assert_eq!(series.kind, NamespaceKind::Timeseries);
        assert_eq!(series.indexes, Some(vec![doc! { "v": 2, "key": { "m.s": 1 }, "name": "ms" }]));

        assert!(find(&dumped, "admin", "pbmConfig").is_none(), "it holds credentials");
        for (from, to) in [("system.users", "pbmRUsers"), ("system.roles", "pbmRRoles")] {
            let (from_meta, to_meta) = (find(&dumped, "admin", from).unwrap(), find(&dumped, "admin", to).unwrap());
            assert!(from_meta.size > 0 && (from_meta.size, from_meta.crc) == (to_meta.size, to_meta.crc));
            assert_eq!(
                content(&storage, &at.collection("admin", from), compression).await,
                content(&storage, &at.collection("admin", to), compression).await
            );
        }
        assert_eq!(
            dumped.bytes,
            dumped.namespaces.iter().filter(|m| !m.coll.starts_with("pbmR")).map(|m| m.size as u64).sum::<u64>()
        );
    }
}

/// Opens `coll`, lets `meanwhile` happen after the first batch, and reads on.
async fn interrupted(client: &Client, coll: &str, meanwhile: impl AsyncFnOnce()) -> (bool, Option<String>, u64) {
    let namespace = namespace(client, coll).await;
    let progress = Arc::new(DumpProgress::default());
    let scan =
        source::open(client, &namespace, &Budget::new(64 << 20), &progress).await.expect("open").expect("documents");
    let state = scan.state();
    meanwhile().await;
    let ended = scan.stream().try_for_each(async |_| Ok(())).await.is_ok();
    let repeat = state.lock().unwrap().repeat.clone();
    (ended, repeat, progress.docs.load(Relaxed))
}

#[tokio::test]
async fn a_dropped_collection_ends_and_a_renamed_one_begins_again() {
    let set = ReplicaSet::start(Options::default()).await;
    let client = set.client_of(0).await;
    for coll in ["dropped", "renamed", "killed", "whole"] {
        insert(&client, "shop", coll, numbered(4000, 1000)).await;
    }
    let (ended, repeat, docs) = interrupted(&client, "dropped", async || {
        run(&client, "shop", doc! { "drop": "dropped" }).await;
    })
    .await;
    assert!(ended && repeat.is_none() && docs > 0 && docs < 4000, "{ended} {repeat:?} {docs}");

    // What was not read yet would be missing under the new name.
    let before = namespace(&client, "renamed").await;
    let (ended, repeat, _) = interrupted(&client, "renamed", async || {
        run(&client, "admin", doc! { "renameCollection": "shop.renamed", "to": "shop.new" }).await;
        insert(&client, "shop", "renamed", numbered(1, 1)).await;
    })
    .await;
    // The server may call this "collection dropped" too: only the UUID tells.
    assert!(!ended && repeat.is_some(), "{ended} {repeat:?}");
    // Again, by its UUID and under the name it was listed with: not the new collection of that name.
    let progress = Arc::new(DumpProgress::default());
    let scan = source::open(&client, &before, &Budget::new(64 << 20), &progress).await.unwrap().expect("documents");
    scan.stream().try_for_each(async |_| Ok(())).await.expect("read");
    assert_eq!(progress.docs.load(Relaxed), 4000);

    let (ended, repeat, _) = interrupted(&client, "killed", async || {
        run(&client, "admin", doc! { "killAllSessions": [] }).await;
    })
    .await;
    assert!(!ended && repeat.is_some());

    let (ended, repeat, docs) = interrupted(&client, "whole", async || {}).await;
    assert!(ended && repeat.is_none() && docs == 4000);
}

#[tokio::test]
async fn a_capped_collection_that_moved_on_begins_again() {
    let set = ReplicaSet::start(Options::default()).await;
    let client = set.client_of(0).await;
    run(&client, "shop", doc! { "create": "log", "capped": true, "size": 6 << 20 }).await;
    insert(&client, "shop", "log", numbered(4000, 1000)).await;
    let (ended, repeat, _) = interrupted(&client, "log", async || {
        insert(&client, "shop", "log", (10_000..17_000).map(|i| doc! { "_id": i, "s": "x".repeat(1000) }).collect())
            .await;
    })
    .await;
    assert!(!ended && repeat.is_some_and(|why| why.contains("apped")));
    let storage = store();
    let dumped = dump_all(&client, &storage, Compression::None).await;
    let bytes = content(&storage, "b/rs0/shop.log", Compression::None).await;
    assert_eq!(
        documents(&bytes).len() as u64,
        run(&client, "shop", doc! { "count": "log" }).await.get_i32("n").unwrap() as u64
    );
    assert!(dumped.docs > 0);
}

#[tokio::test]
async fn an_index_that_is_being_built_is_not_listed() {
    let set = ReplicaSet::start(Options { args: test_commands(), ..Options::default() }).await;
    let client = set.client_of(0).await;
    insert(&client, "shop", "orders", numbered(10, 1)).await;
    let fail = |mode: &str| doc! { "configureFailPoint": "hangAfterStartingIndexBuild", "mode": mode };
    run(&client, "admin", fail("alwaysOn")).await;
    let builder = client.clone();
    let build = tokio::spawn(async move {
        run(&builder, "shop", doc! { "createIndexes": "orders", "indexes": [{ "key": { "s": 1 }, "name": "s_1" }] })
            .await
    });
    let hanging = doc! { "waitForFailPoint": "hangAfterStartingIndexBuild", "timesEntered": 1, "maxTimeMS": 30_000 };
    run(&client, "admin", hanging).await;
    let names = |n: Namespace| -> Vec<String> {
        n.indexes.unwrap().iter().map(|i| i.get_str("name").unwrap().to_owned()).collect()
    };
    assert_eq!(names(namespace(&client, "orders").await), ["_id_"]);
    run(&client, "admin", fail("off")).await;
    build.await.expect("the index is built");
    assert_eq!(names(namespace(&client, "orders").await), ["_id_", "s_1"]);
}

fn test_commands() -> Vec<String> {
    ["--setParameter", "enableTestCommands=1"].map(str::to_owned).to_vec()
}

/// What the server says when a name went to a series between two steps of its lookup (seen on 6.0.5, and too rare to wait
/// for).
#[tokio::test]
async fn a_name_that_goes_to_a_series_does_not_end_a_listing() {
    let set = ReplicaSet::start(Options { args: test_commands(), ..Options::default() }).await;
    let client = set.client_of(0).await;
    insert(&client, "shop", "x", numbered(1, 10)).await;
    let fail = async |mode: Document| {
        let data = doc! { "failCommands": ["listIndexes"], "errorCode": 166 };
        run(&client, "admin", doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data }).await;
    };
    fail(doc! { "times": 3 }).await;
    assert!(namespace(&client, "x").await.indexes.is_some(), "it was asked for again by its UUID");
    fail(doc! { "times": 100_000 }).await;
    namespaces::list(&client, &Selection::default()).await.expect_err("a collection that can't be described");
    run(&client, "admin", doc! { "configureFailPoint": "failCommand", "mode": "off" }).await;
}

async fn oplog(client: &Client, from: Timestamp, to: Timestamp) -> Vec<Document> {
    let entries = client.database("local").collection::<Document>("oplog.rs");
    entries.find(doc! { "ts": { "$gte": from, "$lte": to } }).await.unwrap().try_collect().await.unwrap()
}

fn time(entry: &Document) -> Timestamp {
    entry.get_timestamp("ts").expect("an entry has a time")
}

async fn keep(
    client: &Client,
    storage: &Arc<dyn Storage>,
    from: Timestamp,
    to: Timestamp,
) -> anyhow::Result<slice::Slice> {
    let object = layout(Compression::S2).oplog_slice(from, to);
    let wanted =
        slice::Wanted { object, compression: Compression::S2, level: None, from, to, selection: Selection::default() };
    slice::store(client, storage, &Budget::new(4 << 20), wanted).await
}

#[tokio::test]
async fn slices_share_their_borders_and_hold_no_credentials() {
    let set = ReplicaSet::start(Options::default()).await;
    let client = set.client_of(0).await;
    let storage = store();
    let first = slice::first_write(&client).await.expect("the beginning");
    insert(&client, "shop", "orders", numbered(500, 5000)).await;
    insert(&client, "admin", "pbmConfig", vec![doc! { "key": "TOP-SECRET" }]).await;
    let middle = slice::last_write(&client).await.expect("the middle");
    insert(&client, "shop", "orders", (1000..1100).map(|i| doc! { "_id": i }).collect()).await;
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    client
        .database("admin")
        .collection("pbmConfig")
        .insert_one(doc! { "key": "TOP-SECRET" })
        .session(&mut session)
        .await
        .unwrap();
    client
        .database("shop")
        .collection("orders")
        .insert_one(doc! { "_id": "in txn" })
        .session(&mut session)
        .await
        .unwrap();
    session.commit_transaction().await.unwrap();
    let last = slice::last_write(&client).await.expect("the end");
    assert!(first < middle && middle < last);

    let mut kept = Vec::new();
    for (from, to) in [(first, middle), (middle, last)] {
        let stored = keep(&client, &storage, from, to).await.expect("store");
        let bytes = content(&storage, &stored.object, Compression::S2).await;
        assert_eq!(bytes.len() as u64, stored.bytes);
        assert!(!bytes.windows(10).any(|w| w == b"TOP-SECRET"), "credentials");
        let entries = documents(&bytes);
        assert_eq!(entries.len() as u64, stored.entries);
        let ts = |entry: Option<&Document>| time(entry.unwrap());
        assert_eq!((ts(entries.first()), ts(entries.last())), (from, to));
        kept.extend(entries);
    }
    let border = kept.iter().find(|e| time(e) == middle).unwrap();
    assert_eq!(
        (border.get_str("op").unwrap(), border.get_str("ns").unwrap()),
        ("n", ""),
        "the entry at the border was a secret"
    );
    kept.retain(|e| time(e) != middle);
    let is_mine = |e: &Document| e.get_str("ns").is_ok_and(|ns| ns.starts_with("shop."));
    let (ours, all) = (kept.iter().filter(|e| is_mine(e)).count(), oplog(&client, first, last).await);
    assert_eq!(ours, all.iter().filter(|e| is_mine(e)).count());
    let transaction =
        kept.iter().find_map(|e| e.get_document("o").ok()?.get_array("applyOps").ok()).expect("it is kept");
    assert_eq!(transaction.len(), 1);
}

#[tokio::test]
async fn a_range_that_the_oplog_lacks_is_refused() {
    let set = ReplicaSet::start(Options::default()).await;
    let client = set.client_of(0).await;
    insert(&client, "shop", "orders", numbered(10, 1)).await;
    let last = slice::last_write(&client).await.unwrap();
    let storage = store();
    let before = Timestamp { time: 1000, increment: 1 };
    let error = keep(&client, &storage, before, last).await.expect_err("it begins later");
    assert!(format!("{error:#}").contains("insufficient range"), "{error:#}");
    let first = slice::first_write(&client).await.unwrap();
    let after = Timestamp { time: last.time + 1000, increment: 1 };
    let error = keep(&client, &storage, first, after).await.expect_err("it ends earlier");
    assert!(format!("{error:#}").contains("in place of"), "{error:#}");
    assert!(storage.list("b").try_collect::<Vec<_>>().await.unwrap().is_empty(), "nothing is stored");

    let error = slice::wait_until_due(&client, before, Duration::from_secs(60)).await.expect_err("it is lost");
    assert!(error.to_string().contains("insufficient range"));
    slice::wait_until_due(&client, last, Duration::from_millis(50)).await.expect("after its span");
}

#[tokio::test]
async fn the_oplog_begins_where_an_open_transaction_does() {
    let set = ReplicaSet::start(Options { args: test_commands(), ..Options::default() }).await;
    let client = set.client().await;
    insert(&client, "shop", "orders", numbered(1, 1)).await;
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    client.database("shop").collection("orders").insert_one(doc! { "_id": 77 }).session(&mut session).await.unwrap();
    let admin = client.database("admin");
    let prepared =
        admin.run_command(doc! { "prepareTransaction": 1, "writeConcern": { "w": "majority" } }).session(&mut session);
    let prepared = prepared.await.expect("prepare").get_timestamp("prepareTimestamp").unwrap();
    insert(&client, "shop", "other", numbered(5, 1)).await;
    assert!(slice::last_write(&client).await.unwrap() > prepared);
    assert_eq!(slice::first_write(&client).await.unwrap(), prepared);
    admin.run_command(doc! { "abortTransaction": 1 }).session(&mut session).await.expect("abort");
    assert!(slice::first_write(&client).await.unwrap() > prepared);
}

#[tokio::test]
async fn bounds_wait_for_the_majority() {
    let set = ReplicaSet::start(Options { members: 3, args: test_commands(), ..Options::default() }).await;
    let primary = set.primary().await;
    let client = set.client_of(primary).await;
    insert(&client, "shop", "orders", numbered(10, 1)).await;
    let secondaries: Vec<usize> = (0..3).filter(|n| *n != primary).collect();
    for n in &secondaries {
        let stop = doc! { "configureFailPoint": "stopReplProducer", "mode": "alwaysOn" };
        run(&set.client_of(*n).await, "admin", stop).await;
        let stopped = doc! { "waitForFailPoint": "stopReplProducer", "timesEntered": 1, "maxTimeMS": 30_000 };
        run(&set.client_of(*n).await, "admin", stopped).await;
    }
    let before = run(&client, "admin", doc! { "hello": 1 }).await;
    let majority = |hello: &Document| {
        let last = hello.get_document("lastWrite").unwrap().get_document("majorityOpTime").unwrap();
        last.get_timestamp("ts").unwrap()
    };
    client
        .database("shop")
        .collection("orders")
        .insert_one(doc! { "_id": 99 })
        .write_concern(mongodb::options::WriteConcern::nodes(1))
        .await
        .expect("on the primary only");
    let waiter = client.clone();
    let mut first = tokio::spawn(async move { slice::first_write(&waiter).await });
    assert!(
        tokio::time::timeout(Duration::from_millis(700), &mut first).await.is_err(),
        "the majority does not have it"
    );
    for n in &secondaries {
        run(&set.client_of(*n).await, "admin", doc! { "configureFailPoint": "stopReplProducer", "mode": "off" }).await;
    }
    let first = first.await.unwrap().expect("the beginning");
    assert!(first > majority(&before));

    // A dump from a secondary holds what the majority has.
    let secondary = set.client_of(secondaries[0]).await;
    slice::first_write(&secondary).await.expect("the beginning");
    let dumped = dump_all(&secondary, &store(), Compression::S2).await;
    assert!(find(&dumped, "shop", "orders").unwrap().size > 0);

    // The primary refuses the note of a backup until another member is the primary, which writes it.
    let any = set.client().await;
    let refuse = doc! { "failCommands": ["appendOplogNote"], "errorCode": 10107 };
    run(&client, "admin", doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": refuse }).await;
    let note = tokio::spawn({
        let (any, secondary) = (any.clone(), secondary.clone());
        async move { cut::note(&any, &any, &secondary, "backup begins").await }
    });
    let refused = doc! { "waitForFailPoint": "failCommand", "timesEntered": 1, "maxTimeMS": 30_000 };
    run(&client, "admin", refused).await;
    let insert = doc! { "insert": "orders", "documents": [{ "_id": 100 }], "writeConcern": { "w": "majority" } };
    let written = run(&client, "shop", insert).await.get_timestamp("operationTime").expect("a time");
    run(&client, "admin", doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 20 }).await;
    note.await.expect("no panic").expect("the note");
    assert!(slice::last_write(&secondary).await.expect("the end") > written);
    let notes = doc! { "o.pbm": "backup begins" };
    let oplog = secondary.database("local").collection::<Document>("oplog.rs");
    assert_eq!(oplog.count_documents(notes).await.expect("count"), 1);
}

#[tokio::test]
async fn dropping_a_dump_leaves_nothing_half_done() {
    let set = ReplicaSet::start(Options::default()).await;
    let client = set.client_of(0).await;
    insert(&client, "shop", "orders", numbered(40_000, 1000)).await;
    let storage = store();
    let progress = Arc::new(DumpProgress::default());
    let plan = DumpPlan {
        layout: layout(Compression::Gzip),
        level: None,
        parallel: 1,
        in_flight: 4 << 20,
        selection: Selection::default(),
        users: false,
        routing: false,
    };
    tokio::select! {
        dumped = dump::dump(&client, &storage, &plan, &progress) => panic!("too fast to be stopped: {dumped:?}"),
        () = async { while progress.bytes.load(Relaxed) == 0 { tokio::task::yield_now().await; } } => {}
    }
    assert!(storage.stat("b/rs0/shop.orders.gz").await.expect_err("not stored").is_not_found());
    // The cursor is closed, not left to its session's half hour.
    crate::support::wait::until("the cursor to be closed", Duration::from_secs(10), async || {
        let status = run(&client, "admin", doc! { "serverStatus": 1 }).await;
        let open =
            status.get_document("metrics").unwrap().get_document("cursor").unwrap().get_document("open").unwrap();
        (open.get("noTimeout") == Some(&Bson::Int64(0))).then_some(())
    })
    .await;
}
