//! `pbm oplog-replay`: data at the start of a window, its saved oplog, and the data at its end.

use super::saved::{chunk, note, show};
use crate::support::cluster::Options;
use crate::support::programs::{Deployment, Sandbox};
use crate::support::sharded::{ShardedCluster, ShardedSandbox, TWO_SHARDS};
use crate::support::{state, wait};
use mongodb::Client;
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::control::{Control, Order};
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
    client.database("shop").drop().await.expect("drop");
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
        assert_eq!(said.status.code(), Some(4));
    }
    let control = Control::new(client.clone());
    let name = "2026-11-21T03:00:00.5Z";
    let nothing = Timestamp { time: 1_000_000_000, increment: 1 };
    let command = ReplayCmd { name: name.into(), start: nothing, end: nothing, rs_map: doc! {} };
    control.commands.send(Order::Replay(command)).await.expect("send");
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

    let done = replay(&show(start), &show(end)).ok();
    assert!(done.stdout.contains("is complete"), "{}", done.stdout);
    let lines = state::differences(&truth, &state::read(&client).await);
    assert!(lines.is_empty(), "{}", lines.join("\n"));

    // Replays again over later changes: collections that are created within the window are created again, and an unrelated
    // collection with such a name is dropped.
    let shop = client.database("shop");
    shop.collection("fresh").insert_one(doc! { "_id": "later" }).await.expect("insert");
    replay(&show(start), &show(end)).ok();
    let lines = state::differences(&truth, &state::read(&client).await);
    assert!(lines.is_empty(), "on newer documents: {}", lines.join("\n"));
    shop.collection::<Document>("fresh").drop().await.expect("drop");
    shop.collection("fresh").insert_one(doc! { "_id": "another" }).await.expect("insert");
    replay(&show(start), &show(end)).ok();
    let lines = state::differences(&truth, &state::read(&client).await);
    assert!(lines.is_empty(), "on another collection: {}", lines.join("\n"));

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
}

/// Notes on every replica set until each has one at or after `until`; gives each one's last.
async fn notes(cluster: &ShardedCluster, until: Timestamp) -> Vec<Timestamp> {
    let mut all = Vec::new();
    for set in cluster.sets() {
        let noted = wait::until("a note that is late enough", Duration::from_secs(30), async || {
            Some(note(set).await).filter(|at| *at >= until)
        });
        all.push(noted.await);
    }
    all
}

async fn contents(cluster: &ShardedCluster) -> Vec<serde_json::Value> {
    let mut all = vec![state::routing(&cluster.config.client().await).await];
    for shard in &cluster.shards {
        all.push(state::read(&shard.set.client().await).await["databases"].clone());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn all_replica_sets_of_a_cluster_or_none() {
    let sandbox = ShardedSandbox::sharded(Options::default(), TWO_SHARDS).await;
    let cluster = &sandbox.set;
    let mut router = cluster.router().await;
    cluster.create_database("shop", "rs1").await;
    let spread = async |ns: &str| {
        cluster.shard_collection(ns, "_id").await;
        cluster.split(ns, 0).await;
        cluster.move_chunk(ns, 1, "shardB").await.expect("move a chunk");
    };
    spread("shop.orders").await;
    for key in -20..20_i64 {
        router.insert("shop.orders", doc! { "_id": key, "n": 0 }).await;
    }
    let backup = sandbox.backup(&[]);
    let control = Control::new(cluster.config.client().await);
    let meta = control.backups.get(&backup).await.expect("read").expect("the backup");

    spread("shop.later").await;
    let mut transaction = router.begin(true);
    for (key, n) in [(-3, 1), (3, -1)] {
        router.update_in(&mut transaction, "shop.orders", key, doc! { "$inc": { "n": n } }).await.expect("update");
    }
    router.commit(&transaction).await.expect("commit");
    for key in [-7, 7_i64] {
        router.insert("shop.later", doc! { "_id": key }).await;
        router.delete("shop.orders", key).await;
    }
    let end = notes(cluster, meta.last_write_ts).await.into_iter().max().expect("a note");
    let truth = contents(cluster).await;
    let mut saved = Vec::new();
    for (set, to) in cluster.sets().into_iter().zip(notes(cluster, end).await) {
        let rs = set.options().name.clone();
        let from = meta.replsets.iter().find(|part| part.name == rs).expect("a part").first_write_ts;
        saved.push(chunk(&sandbox.store(), &rs, set, from, to, Compression::S2).await);
    }
    sandbox.pbm(&["restore", &backup, "--wait", "-y"]).ok();

    let (start, end) = (show(meta.last_write_ts), show(end));
    let replay = ["oplog-replay", "--start", &start, "--end", &end, "--wait", "-y"];
    let at_start = contents(cluster).await;
    let away = sandbox.store().join("away");
    fs::rename(&saved[2], &away).expect("move a chunk");
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    let said = sandbox.pbm(&replay).failed();
    assert!(said.stderr.contains("no oplog of replica set 'rs2' is saved"), "{}", said.stderr);
    assert_eq!(contents(cluster).await, at_start);

    fs::rename(&away, &saved[2]).expect("move a chunk");
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    sandbox.pbm(&replay).ok();
    assert_is(cluster, &truth).await;
    // The same chunks behind the backup: here an operation without its document would be an error.
    sandbox.pbm(&["restore", "--time", &end, "--wait", "-y"]).ok();
    assert_is(cluster, &truth).await;
    assert_eq!(cluster.balancer_mode().await, "full", "as it was before");
}

async fn assert_is(cluster: &ShardedCluster, truth: &[serde_json::Value]) {
    for (truth, got) in truth.iter().zip(&contents(cluster).await) {
        let lines = state::differences(truth, got);
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}
