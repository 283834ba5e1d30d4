//! A restore to a moment into the cluster that the backup came from: all changes after the moment are undone, in every place.

use super::saved::{chunk, note, show};
use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use crate::support::state;
use mongodb::Client;
use mongodb::bson::{DateTime, Document, Timestamp, doc};
use pbmbox::control::Control;
use pbmbox::model::compression::Compression;
use serde_json::{Value, json};

async fn run(client: &Client, db: &str, command: Document) {
    let text = command.to_string();
    client.database(db).run_command(command).await.unwrap_or_else(|error| panic!("{text}: {error}"));
}

async fn insert(client: &Client, ns: &str, document: Document) {
    let (db, coll) = ns.split_once('.').expect("a namespace");
    client.database(db).collection(coll).insert_one(document).await.expect("insert");
}

async fn rename(client: &Client, from: &str, to: &str) {
    run(client, "admin", doc! { "renameCollection": from, "to": to, "dropTarget": true }).await;
}

fn index(on: &str, unique: bool) -> Vec<Document> {
    vec![doc! { "key": { on: 1 }, "name": on, "unique": unique }]
}

/// Writes the data that the base backup holds.
async fn before(client: &Client) {
    for ns in ["s.old", "s.base", "other.kept"] {
        insert(client, ns, doc! { "_id": 0 }).await;
    }
    run(client, "s", doc! { "createUser": "early", "pwd": "p", "roles": [] }).await;
}

/// Makes the changes between the backup and the moment.
async fn within(client: &Client) {
    insert(client, "s.plain", doc! { "_id": 1 }).await;
    run(client, "s", doc! { "createIndexes": "unique", "indexes": index("k", true) }).await;
    insert(client, "s.unique", doc! { "_id": 1, "k": 1 }).await;
    for ns in ["s.gone", "s.left", "s.over", "s.source", "late.x", "late.y"] {
        insert(client, ns, doc! { "_id": 1 }).await;
    }
    run(client, "s", doc! { "drop": "gone" }).await;
    rename(client, "s.old", "s.moved").await;
    run(client, "s", doc! { "create": "ring", "capped": true, "size": 4096 }).await;
    insert(client, "s.ring", doc! { "_id": 1 }).await;
    let out = doc! { "aggregate": "source", "pipeline": [{ "$out": "result" }], "cursor": {} };
    run(client, "s", out).await;
    run(client, "s", doc! { "create": "series", "timeseries": { "timeField": "t" } }).await;
    insert(client, "s.series", doc! { "t": DateTime::from_millis(0), "v": 1 }).await;
    run(client, "s", doc! { "create": "view", "viewOn": "plain", "pipeline": [] }).await;
    insert(client, "s.system.js", doc! { "_id": "f", "value": 1 }).await;
    run(client, "s", doc! { "createUser": "within", "pwd": "p", "roles": [] }).await;
}

/// Makes the changes after the moment: newer documents, the same keys in other documents, other options and indexes, renamed
/// collections, and other collections under the same names.
async fn after(client: &Client) {
    insert(client, "s.plain", doc! { "_id": 2 }).await;
    run(client, "s", doc! { "createIndexes": "plain", "indexes": index("later", false) }).await;
    run(client, "s", doc! { "collMod": "plain", "validator": { "_id": { "$gt": 0 } } }).await;
    client.database("s").collection::<Document>("unique").delete_one(doc! { "_id": 1 }).await.expect("delete");
    insert(client, "s.unique", doc! { "_id": 2, "k": 1 }).await;
    insert(client, "s.gone", doc! { "_id": "again" }).await;
    insert(client, "s.old", doc! { "_id": "again" }).await;
    rename(client, "s.left", "s.renamed").await;
    insert(client, "s.left", doc! { "_id": "another" }).await;
    rename(client, "s.source", "s.over").await;
    run(client, "s", doc! { "convertToCapped": "result", "size": 4096 }).await;
    for id in 2..5 {
        insert(client, "s.ring", doc! { "_id": id }).await;
    }
    insert(client, "s.series", doc! { "t": DateTime::from_millis(1000), "v": 2 }).await;
    run(client, "s", doc! { "drop": "view" }).await;
    insert(client, "s.view", doc! { "_id": "a collection" }).await;
    insert(client, "s.system.js", doc! { "_id": "g", "value": 1 }).await;
    client.database("late").collection::<Document>("x").drop().await.expect("drop");
    insert(client, "late.x", doc! { "_id": "another" }).await;
    insert(client, "s.never", doc! { "_id": "not in the oplog that is replayed" }).await;
    run(client, "s", doc! { "createUser": "late", "pwd": "p", "roles": [] }).await;
    run(client, "s", doc! { "dropUser": "early" }).await;
}

/// The state without the collections that a restore to the first moment does not touch.
async fn seen(client: &Client) -> Value {
    let mut state = state::read(client).await;
    let collections = state["databases"]["s"]["collections"].as_object_mut().expect("collections");
    collections.remove("never");
    // The server chooses the UUID of this collection.
    collections.get_mut("system.js").map(|scripts| scripts["uuid"].take());
    state
}

fn assert_is(expected: &Value, got: &Value, when: &str) {
    let lines = state::differences(expected, got);
    assert!(lines.is_empty(), "{when}:\n{}", lines.join("\n"));
}

/// A moment with the state at it, and a later moment with its state.
struct World {
    sandbox: Sandbox,
    client: Client,
    moments: [(Timestamp, Value); 2],
}

async fn world() -> World {
    let sandbox = Sandbox::start(Options::default()).await;
    let client = sandbox.set.client().await;
    before(&client).await;
    let backup = sandbox.backup(&[]);
    let meta = Control::new(client.clone()).backups.get(&backup).await.expect("read").expect("the backup");
    within(&client).await;
    let first = (note(&sandbox.set).await, seen(&client).await);
    after(&client).await;
    let second = (note(&sandbox.set).await, seen(&client).await);
    let (from, to) = (meta.last_write_ts, second.0);
    chunk(&sandbox.store(), "rs0", &sandbox.set, from, to, Compression::S2).await;
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    World { sandbox, client, moments: [first, second] }
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_come_back_where_they_were() {
    let World { sandbox, client, moments: [(first, early), (second, late)] } = world().await;
    let (first, second) = (show(first), show(second));
    let restore =
        |time: &str, more: &[&str]| sandbox.pbm(&[&["restore", "--time", time], more, &["--wait", "-y"]].concat());

    // A selective restore is refused if a selected collection was renamed to a name outside the selection: no data is lost.
    let refused = restore(&first, &["--ns", "s.left"]).failed();
    assert!(refused.stderr.contains("'s.renamed' on the target is 's.left' of the oplog"), "{refused:?}");
    assert_is(&late, &seen(&client).await, "refused");
    restore(&first, &["--ns", "s.pl*,s.unique"]).ok();
    let mut expected = late.clone();
    for coll in ["plain", "unique"] {
        expected["databases"]["s"]["collections"][coll] = early["databases"]["s"]["collections"][coll].clone();
    }
    assert_is(&expected, &seen(&client).await, "a selection");

    // The plan includes the collections from the oplog, too.
    let told = sandbox.pbm(&["restore", "--time", &first, "--dry-run", "-o", "json"]).ok().json();
    let drops = [
        "late.x",
        "late.y",
        "other.kept",
        "s.base",
        "s.gone",
        "s.left",
        "s.moved",
        "s.old",
        "s.over",
        "s.plain",
        "s.renamed",
        "s.result",
        "s.ring",
        "s.series",
        "s.system.buckets.series",
        "s.system.js",
        "s.unique",
        "s.view",
    ];
    assert_eq!(told["replsets"][0]["drops"], json!(drops), "{told}");
    assert_eq!(told["replsets"][0]["stays"], json!(["s.never"]), "{told}");
    let warnings = told["replsets"][0]["warnings"].to_string();
    assert!(warnings.contains("'s.renamed' is dropped: it is 's.left' of the oplog"), "{warnings}");
    let text = sandbox.pbm(&["restore", "--time", &first, "--dry-run"]).ok().stdout;
    assert!(text.contains("drops     18"), "{text}");

    // Restores to the earlier moment, to the later one, and to the earlier one again.
    for (time, expected) in [(&first, &early), (&second, &late), (&first, &early)] {
        restore(time, &[]).ok();
        let got = seen(&client).await;
        assert_is(expected, &got, time);
    }
    let log = sandbox.agents[0].log();
    assert!(log.contains("dropping 18 collections"), "as the dry run said");
}
