//! Documents that servers accept and the BSON library does not: a backup and a restore keep every byte of them.

use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use crate::support::wait;
use bson::{Document, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc};
use futures::TryStreamExt;
use mongodb::Client;
use pbmbox::model::{compression::Compression, selection::Selection};
use pbmbox::oplog::slice::{self, Wanted};
use pbmbox::raw::{Writer, fields};
use pbmbox::snapshot::budget::Budget;
use pbmbox::storage::{Storage, memory::Memory};
use std::collections::BTreeMap;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

const DB: &str = "strange";

fn text(bytes: &[u8]) -> Vec<u8> {
    let length = i32::try_from(bytes.len() + 1).expect("short");
    [&length.to_le_bytes(), bytes, b"\0"].concat()
}

fn made(fields: &[(u8, &[u8], &[u8])]) -> RawDocumentBuf {
    let mut writer = Writer::new();
    for (kind, name, value) in fields {
        writer.value(*kind, name, value);
    }
    writer.finish()
}

/// A value of every type; every text in the values is invalid UTF-8.
fn values() -> Vec<(u8, Vec<u8>)> {
    let inner = made(&[(0x10, b"\xff", &[1, 0, 0, 0]), (0x10, b"\xff", &[2, 0, 0, 0]), (0x0a, b"", b"")]);
    let scope = made(&[(0x02, b"\xfe", &text(b"\xfd"))]);
    let code = text(b"f(\xff)");
    let size = i32::try_from(4 + code.len() + scope.as_bytes().len()).expect("short").to_le_bytes();
    vec![
        (0x01, f64::NAN.to_le_bytes().to_vec()),
        (0x02, text(b"a\0b\xc3\x28")),
        (0x03, inner.into_bytes()),
        (0x04, made(&[(0x02, b"0", &text(b"\x80"))]).into_bytes()),
        (0x05, vec![6, 0, 0, 0, 2, 2, 0, 0, 0, 7, 8]),
        (0x06, vec![]),
        (0x07, vec![9; 12]),
        (0x08, vec![1]),
        (0x09, i64::MIN.to_le_bytes().to_vec()),
        (0x0a, vec![]),
        (0x0b, b"\xe9+\0i\0".to_vec()),
        (0x0c, [&text(b"db.\xff")[..], &[3; 12]].concat()),
        (0x0d, text(b"\xff")),
        (0x0e, text(b"\xff")),
        (0x0f, [&size[..], &code, scope.as_bytes()].concat()),
        (0x10, vec![7, 0, 0, 0]),
        (0x11, vec![0; 8]),
        (0x12, vec![1; 8]),
        (0x13, vec![3; 16]),
        (0x7f, vec![]),
        (0xff, vec![]),
    ]
}

/// One document for every type: its value under names of all kinds, one of them twice.
fn documents(first: i32) -> Vec<RawDocumentBuf> {
    let with = |(at, (kind, value)): (i32, &(u8, Vec<u8>))| {
        let id = (first + at).to_le_bytes();
        let names: [&[u8]; 7] = [b"\xff\xfe", b"same", b"same", b"", b"a.b", b"$c", b"last"];
        let mut fields: Vec<(u8, &[u8], &[u8])> = vec![(0x10, b"_id", &id)];
        fields.extend(names.map(|name| (*kind, name, &value[..])));
        made(&fields)
    };
    (0..).zip(&values()).map(with).collect()
}

/// Every type that an `_id` can have.
fn with_ids() -> Vec<RawDocumentBuf> {
    let no_id = [0x04, 0x06, 0x0b];
    let usual = values().into_iter().filter(|(kind, _)| !no_id.contains(kind));
    let made = |(kind, value): (u8, Vec<u8>)| made(&[(kind, b"_id", &value), (0x10, b"\xff", &[1, 0, 0, 0])]);
    usual.map(made).collect()
}

fn deep(levels: usize) -> RawDocumentBuf {
    let mut document = rawdoc! { "bottom": true };
    for _ in 0..levels {
        document = made(&[(0x03, b"\xff", document.as_bytes())]);
    }
    document
}

/// A document of the largest size that a server stores.
fn large(id: i32) -> RawDocumentBuf {
    const SIZE: usize = 16 << 20;
    let empty = made(&[(0x10, b"_id", &id.to_le_bytes()), (0x05, b"\xff", &[0, 0, 0, 0, 0])]);
    let room = SIZE - empty.as_bytes().len();
    let mut value = i32::try_from(room).expect("short").to_le_bytes().to_vec();
    value.resize(5 + room, 0);
    let large = made(&[(0x10, b"_id", &id.to_le_bytes()), (0x05, b"\xff", &value)]);
    assert_eq!(large.as_bytes().len(), SIZE);
    large
}

fn array(documents: &[RawDocumentBuf]) -> bson::RawArrayBuf {
    let mut array = bson::RawArrayBuf::new();
    documents.iter().for_each(|document| array.push(document.clone()));
    array
}

async fn run(client: &Client, command: RawDocumentBuf) {
    run_in(client, DB, command).await;
}

async fn run_in(client: &Client, db: &str, command: RawDocumentBuf) {
    let said = client.database(db).run_raw_command(command.clone()).await;
    let said = said.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(!said.contains_key("writeErrors"), "{command:?}: {said}");
}

async fn insert(client: &Client, coll: &str, documents: &[RawDocumentBuf]) {
    run(client, rawdoc! { "insert": coll, "documents": array(documents) }).await;
}

/// Changes fields whose names are invalid UTF-8, also nested ones.
async fn update(client: &Client, coll: &str, id: i32, n: i32) {
    let set = made(&[
        (0x10, b"\xfd", &n.to_le_bytes()),
        (0x02, b"sub.\xfc", &text(b"\xff")),
        (0x03, b"sub.\xfb", made(&[(0x0e, b"\xff", &text(b"\xff"))]).as_bytes()),
    ]);
    let unset = made(&[(0x02, b"last", &text(b""))]);
    let change = rawdoc! { "$set": set, "$unset": unset };
    run(client, rawdoc! { "update": coll, "updates": [{ "q": { "_id": id }, "u": change, "upsert": true }] }).await;
}

async fn delete(client: &Client, coll: &str, query: RawDocumentBuf) {
    run(client, rawdoc! { "delete": coll, "deletes": [{ "q": query, "limit": 1 }] }).await;
}

async fn listed(client: &Client, db: &str, command: Document) -> Vec<Vec<u8>> {
    let mut batches = client.database(db).run_cursor_command(command).batch().await.expect("a list");
    let mut found = Vec::new();
    while let Some(batch) = batches.try_next().await.expect("a list") {
        for document in batch.doc_slices().expect("a list") {
            found.push(document.expect("an element").as_document().expect("a document").as_bytes().to_vec());
        }
    }
    found
}

const USER: &[u8] = b"strange.user \xff";

/// Makes a user whose name is invalid UTF-8, from one that the server makes. The driver can't send the name in a command of its
/// own.
async fn make_user(client: &Client) {
    let usual = doc! { "createUser": "usual", "pwd": "p", "roles": [] };
    client.database(DB).run_command(usual).await.expect("make a user");
    let users = listed(client, "admin", doc! { "find": "system.users", "filter": { "db": DB } }).await;
    let mut copy = Writer::new();
    for field in fields(RawDocument::from_bytes(&users[0]).expect("a user")) {
        let field = field.expect("a field");
        match field.name {
            b"_id" => copy.text(b"_id", USER),
            b"user" => copy.text(b"user", b"user \xff"),
            b"userId" => copy.uuid(b"userId", bson::Uuid::new()),
            _ => copy.value(field.kind, field.name, field.value),
        }
    }
    run_in(client, "admin", rawdoc! { "insert": "system.users", "documents": [copy.finish()] }).await;
}

/// All documents of the database as the server sends them, in order where the order counts.
async fn state(client: &Client) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut state = BTreeMap::new();
    for description in listed(client, DB, doc! { "listCollections": 1 }).await {
        let raw = RawDocument::from_bytes(&description).expect("a document");
        // No backup has the collections whose names are invalid UTF-8.
        let Ok(name) = raw.get_str("name").map(str::to_owned) else { continue };
        let kind = raw.get_str("type").expect("a type").to_owned();
        // The server creates this collection again with another UUID.
        if name == "system.views" {
            continue;
        }
        state.insert(format!("{name}: described"), vec![description.clone()]);
        if kind != "collection" {
            continue;
        }
        let mut indexes = listed(client, DB, doc! { "listIndexes": &name }).await;
        indexes.sort();
        state.insert(format!("{name}: indexes"), indexes);
        let mut documents = listed(client, DB, doc! { "find": &name }).await;
        if name != "ring" {
            documents.sort();
        }
        state.insert(format!("{name}: documents"), documents);
    }
    let mut users = listed(client, "admin", doc! { "find": "system.users", "filter": { "db": DB } }).await;
    users.sort();
    state.insert("users".to_owned(), users);
    let mut settings = listed(client, "config", doc! { "find": "settings" }).await;
    settings.sort();
    state.insert("settings".to_owned(), settings);
    state
}

fn assert_same(expected: &BTreeMap<String, Vec<Vec<u8>>>, got: &BTreeMap<String, Vec<Vec<u8>>>) {
    assert_eq!(expected.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    for (what, expected) in expected {
        let got = &got[what];
        assert_eq!(expected.len(), got.len(), "{what}");
        for (expected, got) in expected.iter().zip(got) {
            let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned();
            assert!(expected == got, "{what}:\n{:?}\n{:?}", shown(expected), shown(got));
        }
    }
}

async fn prepare(client: &Client) {
    let strange = made(&[(0x03, b"\xff", rawdoc! { "$exists": true }.as_bytes())]);
    let checked = rawdoc! { "create": "checked", "validator": strange.clone(), "validationAction": "warn" };
    let view = rawdoc! { "create": "view", "viewOn": "plain", "pipeline": [{ "$match": strange.clone() }] };
    for command in [checked, view, rawdoc! { "create": "ring", "capped": true, "size": 1 << 20 }] {
        run(client, command).await;
    }
    insert(client, "plain", &documents(0)).await;
    insert(client, "ring", &documents(0)).await;
    insert(client, "ids", &with_ids()).await;
    insert(client, "sizes", &[deep(150), large(1)]).await;
    let key = made(&[(0x10, b"\xff", &[1, 0, 0, 0]), (0x10, b"b", &(-1_i32).to_le_bytes())]);
    let mut index = Writer::new();
    index.document(b"key", &key);
    index.text(b"name", b"by_\xff");
    index.document(b"partialFilterExpression", &strange);
    run(client, rawdoc! { "createIndexes": "plain", "indexes": [index.finish()] }).await;
    make_user(client).await;
    let setting = made(&[(0x02, b"_id", &text(b"mine \xff")), (0x02, b"\xfe", &text(b"\xfd"))]);
    run_in(client, "config", rawdoc! { "insert": "settings", "documents": [setting] }).await;
}

/// Makes every kind of write while the dump runs.
async fn write(client: Client, stop: Arc<AtomicBool>) {
    for n in 0.. {
        let id = 1000 + n % 40;
        update(&client, "plain", id, n).await;
        let zero = made(&[
            (0x10, b"_id", &(5000 + n).to_le_bytes()),
            (0x11, b"\xfe", &[0; 8]),
            (0x02, b"\xff", &text(b"\xff")),
        ]);
        insert(&client, "plain", std::slice::from_ref(&zero)).await;
        insert(&client, "ring", std::slice::from_ref(&zero)).await;
        if n % 3 == 0 {
            delete(&client, "plain", rawdoc! { "_id": id }).await;
        }
        // The scan may read this document twice.
        let twice = with_ids().swap_remove(1);
        delete(&client, "ids", made(&[(0x02, b"_id", &text(b"a\0b\xc3\x28"))])).await;
        insert(&client, "ids", &[twice]).await;
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Writes after the backup: a transaction, DDL, and the operations that follow an update.
async fn go_on(client: &Client) {
    insert(client, "plain", &documents(100)).await;
    for id in [0, 5, 101, 104] {
        update(client, "plain", id, id).await;
        update(client, "ring", id % 20, id).await;
    }
    delete(client, "ids", made(&[(0x0e, b"_id", &text(b"\xff"))])).await;
    insert(client, "sizes", &[large(2)]).await;
    run(client, rawdoc! { "delete": "sizes", "deletes": [{ "q": { "_id": 1 }, "limit": 1 }] }).await;
    let mut session = client.start_session().await.expect("a session");
    session.start_transaction().await.expect("a transaction");
    let coll = client.database(DB).collection::<RawDocumentBuf>("plain");
    for document in documents(200) {
        coll.insert_one(document).session(&mut session).await.expect("insert in a transaction");
    }
    session.commit_transaction().await.expect("commit");
    let later = made(&[(0x03, b"\xfe", rawdoc! { "$exists": true }.as_bytes())]);
    run(client, rawdoc! { "collMod": "checked", "validator": later.clone() }).await;
    run(client, rawdoc! { "create": "later", "validator": later }).await;
    let mut index = Writer::new();
    index.document(b"key", &made(&[(0x10, b"\xfd", &[1, 0, 0, 0])]));
    index.text(b"name", b"later_\xff");
    run(client, rawdoc! { "createIndexes": "ids", "indexes": [index.finish()] }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_takes_comes_back_byte_for_byte() {
    let sandbox = Sandbox::start(Options::default()).await;
    let client = sandbox.set.client().await;
    prepare(&client).await;
    for setting in ["pitr.oplogSpanMin=0.03", "pitr.enabled=true"] {
        sandbox.pbm(&["config", "--set", setting]).ok();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(client.clone(), stop.clone()));
    let base = tokio::task::block_in_place(|| sandbox.backup(&["--compression", "none"]));
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("the writer");
    go_on(&client).await;
    let expected = state(&client).await;
    let end = last_majority_write(&client).await;
    wait_for_saved_oplog(&client, end).await;
    let quiet = sandbox.backup(&["--compression", "s2"]);
    client.database(DB).drop().await.expect("drop");

    let time = format!("{},{}", end.time, end.increment);
    sandbox.pbm(&["restore", "--time", &time, "--base-snapshot", &base, "--wait", "-y"]).ok();
    assert_same(&expected, &state(&client).await);
    insert(&client, "plain", &documents(7000)).await;
    let user = made(&[(0x02, b"_id", &text(USER))]);
    run_in(&client, "config", rawdoc! { "delete": "settings", "deletes": [{ "q": {}, "limit": 0 }] }).await;
    run_in(&client, "admin", rawdoc! { "delete": "system.users", "deletes": [{ "q": user, "limit": 1 }] }).await;
    sandbox.pbm(&["restore", &quiet, "--wait", "-y"]).ok();
    assert_same(&expected, &state(&client).await);

    let clone = [
        "restore",
        "--time",
        &time,
        "--base-snapshot",
        &base,
        "--ns-from",
        "strange.plain",
        "--ns-to",
        "strange.copy",
        "--wait",
        "-y",
    ];
    sandbox.pbm(&clone).ok();
    let cloned = state(&client).await;
    assert!(cloned["copy: documents"] == expected["plain: documents"], "a clone");
    assert_eq!(cloned["copy: indexes"], expected["plain: indexes"]);

    collections_with_such_names_are_left_out(&sandbox, &client).await;
}

/// An operation on the collection with the name `bad\xff`.
fn on_bad(ns: &[u8], op: &[u8], o: &RawDocument) -> RawDocumentBuf {
    let mut operation = Writer::new();
    operation.text(b"op", op);
    operation.text(b"ns", ns);
    operation.document(b"o", o);
    let operation = operation.finish();
    rawdoc! { "applyOps": [operation] }
}

async fn insert_into_bad(client: &Client, id: i32) {
    run_in(client, "admin", on_bad(b"strange.bad\xff", b"i", &rawdoc! { "_id": id })).await;
}

/// The number of documents of this collection. A cursor of the collection itself would contain its name, which the driver
/// can't read.
async fn count_bad(client: &Client) -> usize {
    let mut command = Writer::new();
    command.text(b"aggregate", b"nothing");
    let union = made(&[(0x02, b"$unionWith", &text(b"bad\xff"))]);
    command.value(0x04, b"pipeline", pbmbox::raw::array([&*union]).as_bytes());
    command.document(b"cursor", &rawdoc! { "batchSize": 100_000 });
    let answer = client.database(DB).run_raw_command(command.finish()).await.expect("an answer");
    answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).expect("a batch").len()
}

async fn wait_for_saved_oplog(client: &Client, end: Timestamp) {
    wait::until("the oplog to be saved", Duration::from_secs(60), async || {
        let chunks = client.database("admin").collection::<Document>("pbmPITRChunks");
        let last = chunks.find_one(doc! {}).sort(doc! { "end_ts": -1 }).await.ok()??;
        (last.get_timestamp("end_ts").ok()? >= end).then_some(())
    })
    .await;
}

async fn last_majority_write(client: &Client) -> Timestamp {
    pbmbox::mongo::hello(client).await.expect("hello").majority_write().expect("a write")
}

/// A slice of a backup ends the backup for that reason, and a slice of point-in-time recovery warns.
async fn assert_slice_warns(client: &Client, from: Timestamp, to: Timestamp) {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    for (selection, warns) in
        [(Selection::default(), true), (Selection::parse(&["crm.*"]).expect("a selection"), false)]
    {
        let from = slice::newest_until(client, from).await.expect("read").expect("an entry");
        let (object, compression) = ("x".to_owned(), Compression::None);
        let wanted = Wanted { object, compression, level: None, from, to, selection };
        let stored = slice::store(client, &storage, &Budget::new(1 << 20), wanted).await.expect("a slice");
        let lost = stored.lost.unwrap_or_default();
        assert_eq!(lost.contains("'strange.ids' was renamed to"), warns, "{lost}");
    }
}

async fn collections_with_such_names_are_left_out(sandbox: &Sandbox, client: &Client) {
    let create = |name: &[u8]| made(&[(0x02, b"create", &text(name))]);
    run_in(client, "admin", on_bad(b"strange.$cmd", b"c", &create(b"bad\xff"))).await;
    run_in(client, "admin", on_bad(b"base\xff.$cmd", b"c", &create(b"c"))).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (client, stop) = (client.clone(), stop.clone());
        async move {
            for id in 0.. {
                insert_into_bad(&client, id).await;
                if stop.load(Ordering::Relaxed) {
                    return usize::try_from(id + 1).expect("a count");
                }
            }
            0
        }
    });
    let output = tokio::task::block_in_place(|| sandbox.pbm(&["backup", "--wait", "-o", "json"])).ok();
    stop.store(true, Ordering::Relaxed);
    let inserted = writer.await.expect("the writer");
    let result: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    let base = result["name"].as_str().expect("a name");
    let warned = result["warnings"].to_string();
    assert!(warned.contains(r"strange.bad\\xff") && warned.contains("databases"), "{output:?}");
    let described = sandbox.pbm(&["describe-backup", base]).ok().stdout;
    assert!(described.contains(r"- strange.bad\xff"), "{described}");
    let list = sandbox.pbm(&["list"]).ok().stdout;
    assert!(list.contains("2 left out"), "{list}");
    let file = sandbox.store().with_file_name("archive").display().to_string();
    let exported = sandbox.pbm(&["export", base, "--out", &file]).ok().stderr;
    assert!(
        exported.contains(r"strange.bad\xff") && exported.contains("operations of the oplog were left out"),
        "{exported}"
    );

    insert(client, "plain", &documents(9000)).await;
    insert_into_bad(client, -1).await;
    let other = client.database("other");
    other.create_collection("x").await.expect("create");
    other.drop().await.expect("drop");
    let (expected, end) = (state(client).await, last_majority_write(client).await);
    insert(client, "plain", &documents(9500)).await;
    run_in(client, "admin", on_bad(b"other.$cmd", b"c", &create(b"bad\xff"))).await;
    let moment = |time: Timestamp| format!("{},{}", time.time, time.increment);
    let rename = |from: &[u8], to: &[u8]| made(&[(0x02, b"renameCollection", &text(from)), (0x02, b"to", &text(to))]);
    run_in(client, "admin", on_bad(b"strange.$cmd", b"c", &rename(b"strange.ids", b"strange.\xfe"))).await;
    let renamed = last_majority_write(client).await;
    wait_for_saved_oplog(client, renamed).await;
    assert_slice_warns(client, end, renamed).await;
    let refused = |time: Timestamp| {
        sandbox.pbm(&["restore", "--time", &moment(time), "--base-snapshot", base, "--wait", "-y"]).failed().stderr
    };
    let said = refused(end);
    assert!(said.contains("is 'strange.ids', renamed since then"), "{said}");
    run_in(client, "admin", on_bad(b"strange.$cmd", b"c", &rename(b"strange.\xfe", b"strange.ids"))).await;
    let said = refused(renamed);
    assert!(
        said.contains("'strange.ids' was renamed to 'strange.\\xfe'") && said.contains("nothing was changed"),
        "{said}"
    );
    let moment = moment(end);
    let there = sandbox.pbm(&["restore", "--time", &moment, "--base-snapshot", base, "--dry-run"]).ok().stdout;
    assert!(there.contains(r"'strange.bad\xff' stays as it is"), "{there}");
    sandbox.pbm(&["restore", "--time", &moment, "--base-snapshot", base, "--wait", "-y"]).ok();
    assert_same(&expected, &state(client).await);
    assert_eq!(count_bad(client).await, inserted + 1, "it stays as it was");
    assert_eq!(
        listed(client, "other", doc! { "listCollections": 1 }).await.len(),
        1,
        "the database is dropped without it"
    );
    let logged = sandbox.pbm(&["logs", "--tail", "0", "--severity", "W"]).ok().stdout;
    assert!(logged.contains("operations were left out, because the names"), "{logged}");
}
