//! `pbm oplog-replay`: data at the start of a window, its saved oplog, and the data at its end.

use super::saved::{chunk, note, show};
use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use crate::support::{state, wait};
use mongodb::Client;
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::control::Control;
use pbmbox::model::chunk::Chunk;
use pbmbox::model::command::ReplayCmd;
use pbmbox::model::compression::Compression;
use pbmbox::model::status::Status;
use std::fs;
use std::time::Duration;

async fn run(client: &Client, db: &str, command: Document) {
    let text = command.to_string();
    client.database(db).run_command(command).await.unwrap_or_else(|error| panic!("{text}: {error}"));
}

fn index(name: &str, field: &str) -> Document {
    doc! { "key": { field: 1 }, "name": name }
}

async fn before(client: &Client) {
    let docs: Vec<Document> = (0..200).map(|n| doc! { "_id": n, "a": n, "b": n % 7 }).collect();
    client.database("shop").collection("orders").insert_many(docs).await.expect("insert");
    let mut unique = index("unique", "a");
    unique.insert("unique", true);
    let mut ttl = index("ttl", "at");
    ttl.insert("expireAfterSeconds", 1_000_000);
    let indexes = vec![index("kept", "b"), index("gone", "c"), unique, ttl];
    run(client, "shop", doc! { "createIndexes": "orders", "indexes": indexes }).await;
    run(client, "shop", doc! { "create": "ring", "capped": true, "size": 8192 }).await;
    run(client, "shop", doc! { "create": "series", "timeseries": { "timeField": "t", "metaField": "m" } }).await;
    client.database("shop").collection("ring").insert_one(doc! { "_id": 1 }).await.expect("insert");
    client.database("shop").collection("old").insert_one(doc! { "_id": 1 }).await.expect("insert");
    client.database("shop").collection("dropped").insert_one(doc! { "_id": 1 }).await.expect("insert");
    run(client, "shop", doc! { "createIndexes": "old", "indexes": [index("moves", "x")] }).await;
}

/// Documents of every kind of change, and every DDL that has an effect on indexes or names.
async fn within(client: &Client) {
    let shop = client.database("shop");
    let orders = shop.collection::<Document>("orders");
    run(client, "shop", doc! { "createIndexes": "orders", "indexes": [index("made", "b,a")] }).await;
    run(client, "shop", doc! { "dropIndexes": "orders", "index": "gone" }).await;
    run(client, "shop", doc! { "dropIndexes": "orders", "index": "unique" }).await;
    // Only without the unique index.
    orders.insert_one(doc! { "_id": "twin", "a": 5 }).await.expect("insert");
    orders.update_many(doc! { "b": 3 }, doc! { "$set": { "changed": true } }).await.expect("update");
    orders.delete_many(doc! { "b": 4 }).await.expect("delete");
    let change = doc! { "collMod": "orders", "index": { "name": "ttl", "expireAfterSeconds": 2_000_000 } };
    run(client, "shop", change).await;
    run(client, "shop", doc! { "collMod": "orders", "validator": { "a": { "$exists": true } } }).await;
    run(client, "shop", doc! { "collMod": "ring", "cappedSize": 16384 }).await;
    shop.collection("ring").insert_one(doc! { "_id": 2 }).await.expect("insert");
    run(client, "admin", doc! { "renameCollection": "shop.old", "to": "shop.young" }).await;
    shop.collection("young").insert_one(doc! { "_id": 2 }).await.expect("insert");
    run(client, "shop", doc! { "drop": "dropped" }).await;
    run(client, "shop", doc! { "create": "fresh", "collation": { "locale": "de" } }).await;
    run(client, "shop", doc! { "createIndexes": "fresh", "indexes": [index("of_fresh", "x")] }).await;
    shop.collection("fresh").insert_one(doc! { "_id": 1 }).await.expect("insert");
    run(client, "shop", doc! { "create": "view", "viewOn": "orders", "pipeline": [] }).await;
    let at = mongodb::bson::DateTime::from_millis(1_700_000_000_000);
    shop.collection("series").insert_one(doc! { "t": at, "m": 1, "v": 2 }).await.expect("insert");
    let mut session = client.start_session().await.expect("a session");
    session.start_transaction().await.expect("a transaction");
    for n in 1000..1020 {
        orders.insert_one(doc! { "_id": n, "a": n }).session(&mut session).await.expect("insert");
    }
    session.commit_transaction().await.expect("commit");
}

struct World {
    sandbox: Sandbox,
    start: Timestamp,
    end: Timestamp,
    /// What the data is at the end.
    truth: serde_json::Value,
    chunk: std::path::PathBuf,
}

/// The oplog from a backup's end on is saved, and the data is that of the backup again.
async fn world() -> World {
    let sandbox = Sandbox::start(Options::default()).await;
    let client = sandbox.set.client().await;
    before(&client).await;
    let backup = sandbox.backup(&[]);
    let meta = Control::new(client.clone()).backups.get(&backup).await.expect("read").expect("the backup");
    let start = meta.last_write_ts;
    within(&client).await;
    let truth = state::read(&client).await;
    let end = note(&sandbox.set).await;
    let chunk = chunk(&sandbox.store(), "rs0", &sandbox.set, start, end, Compression::Zstd).await;
    for db in ["shop"] {
        client.database(db).drop().await.expect("drop");
    }
    sandbox.pbm(&["restore", &backup, "--wait", "-y"]).ok();
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    World { sandbox, start, end, truth, chunk }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_and_its_indexes_are_those_of_the_end() {
    let World { sandbox, start, end, truth, chunk } = world().await;
    let client = sandbox.set.client().await;
    let at_start = state::read(&client).await;
    let replay =
        |start: &str, end: &str| sandbox.pbm(&["oplog-replay", "--start", start, "--end", end, "--wait", "-y"]);
    let untouched = async || {
        let now = state::read(&client).await;
        assert_eq!(state::differences(&at_start, &now), Vec::<String>::new());
    };

    // Not saved: before, after, and through somebody who did not ask first.
    let early = show(Timestamp { time: start.time - 100, ..start });
    let late = show(Timestamp { time: end.time + 100, ..end });
    for (from, to, part) in [
        (early.as_str(), show(end), "no oplog of replica set 'rs0' is saved from"),
        (&show(start), late.clone(), "no oplog of replica set 'rs0' is saved from"),
        (&show(end), show(start), "is after the end"),
    ] {
        let said = replay(from, &to).failed();
        assert!(said.stderr.contains(part) && said.stderr.contains("nothing was changed"), "{}", said.stderr);
        assert_eq!(said.status.code(), Some(1));
    }
    let control = Control::new(client.clone());
    let name = "2026-11-21T03:00:00.5Z";
    let nothing = Timestamp { time: 1_000_000_000, increment: 1 };
    let command = ReplayCmd { name: name.into(), start: nothing, end: nothing, rs_map: doc! {} };
    control.commands.send_replay(command).await.expect("send");
    let ended = wait::until("the refusal", Duration::from_secs(30), async || {
        control.restores.get(name).await.expect("read").filter(|replay| replay.status.is_final())
    })
    .await;
    let reason = ended.error.unwrap_or_default();
    assert!(ended.status == Status::Error && reason.contains("no oplog of replica set 'rs0' is saved"), "{reason}");

    // Damaged.
    let whole = fs::read(&chunk).expect("read the chunk");
    fs::write(&chunk, &whole[..whole.len() - 9]).expect("write the chunk");
    let said = replay(&show(start), &show(end)).failed();
    assert!(said.stderr.contains("replay") && said.stderr.contains("pbmPitr/rs0/"), "{}", said.stderr);
    untouched().await;
    fs::write(&chunk, &whole).expect("write the chunk");

    // Through the second of the start and into that of the end.
    let done = replay(&show(start), &show(end)).ok();
    assert!(done.stdout.contains("is complete"), "{}", done.stdout);
    let lines = state::differences(&truth, &state::read(&client).await);
    assert!(lines.is_empty(), "{}", lines.join("\n"));

    // The record is the original's.
    let all = control.restores.all().await.expect("read");
    let replayed =
        all.iter().find(|replay| replay.status == Status::Done && replay.start_pitr > 0).expect("the replay");
    assert_eq!((replayed.start_pitr, replayed.pitr), (i64::from(start.time), i64::from(end.time)));
    assert_eq!((replayed.backup.as_str(), replayed.kind.as_str()), ("", "logical"));
    let steps = [Status::Starting, Status::Running, Status::Done];
    assert_eq!(replayed.conditions.iter().map(|c| c.status).collect::<Vec<_>>(), steps);
    assert_eq!(replayed.replsets[0].conditions.iter().map(|c| c.status).collect::<Vec<_>>(), steps);
    let list = sandbox.pbm(&["list", "--restore", "-o", "json"]).ok().json();
    let listed = list.as_array().expect("a list").iter().find(|r| r["name"] == replayed.name.as_str());
    assert_eq!(listed.expect("the replay")["type"], "replay", "{list}");
    let _: Vec<Chunk> = control.chunks.all().await.expect("read");
}
