//! Backups and restores of selected namespaces: those of the original (fixtures/rs-selective), and our own.

use crate::compat::{copy, fixtures, is_lost_in_the_backup};
use crate::logical::{Load, forget_remains, truth};
use crate::support::cluster::{Options, ReplicaSet};
use crate::support::programs::Sandbox;
use crate::support::state;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use pbmbox::model::selection::Selection;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

fn cases() -> Map<String, Value> {
    let bytes = fs::read(fixtures().join("rs-selective/expected.json")).expect("read expected.json");
    let expected: Value = serde_json::from_slice(&bytes).expect("JSON");
    expected["cases"].as_object().expect("cases").clone()
}

async fn insert(client: &Client, db: &str, coll: &str, documents: Vec<Document>) {
    client.database(db).collection(coll).insert_many(documents).await.expect("insert");
}

/// What the original's restores found on the server.
async fn prepare(client: &Client, orders: bool) {
    insert(client, "shop", "keep", (0..3).map(|id| doc! { "_id": id }).collect()).await;
    insert(client, "other", "keep", vec![doc! { "_id": 0 }]).await;
    if orders {
        insert(client, "shop", "orders", vec![doc! { "_id": "old" }]).await;
    }
    let run = async |db: &str, command: Document| client.database(db).run_command(command).await.expect("run");
    let on = |db: &str| vec![doc! { "role": "read", "db": db }];
    run("crm", doc! { "createUser": "olduser", "pwd": "throwaway", "roles": on("crm") }).await;
    run("admin", doc! { "createUser": "oldadmin", "pwd": "throwaway", "roles": on("shop") }).await;
    run("crm", doc! { "createRole": "oldrole", "privileges": [], "roles": on("crm") }).await;
}

/// A server with these collections, and the original's backups.
async fn stage(orders: bool) -> (Sandbox, Client) {
    let sandbox = Sandbox::unconfigured(Options::default()).await;
    copy(&fixtures().join("rs-selective/store"), &sandbox.store());
    sandbox.configure(&[]).await;
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    let client = sandbox.set.client().await;
    prepare(&client, orders).await;
    (sandbox, client)
}

fn selection(case: &Value) -> Selection {
    let words: Vec<&str> = case["restore_args"].as_str().expect("arguments").split_whitespace().collect();
    let asked = words.iter().position(|word| *word == "--ns").map(|at| words[at + 1].split(',').collect::<Vec<_>>());
    let backup = case["nss_in_backup"].as_array().into_iter().flatten().map(|ns| ns.as_str().expect("a namespace"));
    Selection::parse(&asked.unwrap_or_else(|| backup.collect())).expect("a selection")
}

/// What the original restored, with the truth in place of it where namespaces are selected.
fn expected(case: &Value) -> Value {
    let mut expected = case["restored"]["rs0"].clone();
    let truth = &case["source_at_last_write_ts"]["rs0"];
    let selection = selection(case);
    let databases = expected["databases"].as_object_mut().expect("databases");
    for (db, content) in databases {
        for kind in ["collections", "views", "timeseries"] {
            let Some(there) = content.get_mut(kind).and_then(Value::as_object_mut) else { continue };
            // It was there before, and the backup has none of that name.
            there.retain(|name, _| name == "keep" || !selection.wants(db, name));
            let right = truth["databases"][db][kind].as_object().into_iter().flatten();
            let right = right.filter(|(name, _)| selection.wants(db, name));
            there.extend(right.map(|(name, value)| (name.clone(), value.clone())));
        }
    }
    expected
}

/// What was there before has UUIDs and secrets of its own.
fn is_of_the_server(line: &str, selection: &Selection) -> bool {
    let stays = |coll: &str| coll == "keep" || !selection.wants("shop", coll);
    ["keep", "orders"].iter().any(|coll| stays(coll) && line.contains(&format!("/{coll}/uuid")))
        || ["olduser", "oldadmin"].iter().any(|user| line.contains(&format!("{user}\"]/raw_sha256")))
}

#[tokio::test(flavor = "multi_thread")]
async fn selections_of_the_original() {
    let mut wrong = Vec::new();
    for (label, case) in cases().iter().filter(|(_, case)| case["clone_of"].is_null()) {
        let (sandbox, client) = stage(true).await;
        let mut restore = vec!["restore", case["backup"].as_str().expect("a name"), "--wait", "-y"];
        restore.extend(case["restore_args"].as_str().expect("arguments").split_whitespace());
        sandbox.pbm(&restore).ok();

        let mut expected = expected(case);
        if label == "backup timeseries-only" {
            // The original did not save its measurements.
            expected["databases"]["shop"] = case["restored"]["rs0"]["databases"]["shop"].clone();
        }
        let mut lines = state::differences(&expected, &state::read(&client).await);
        lines.retain(|line| !is_lost_in_the_backup(line) && !is_of_the_server(line, &selection(case)));
        wrong.extend(lines.into_iter().map(|line| format!("{label}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a restore would do is told before, and refused for the same reasons.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_and_changes_nothing() {
    let (sandbox, client) = stage(true).await;
    let before = state::read(&client).await;
    let backup = cases()["full backup, restore --ns shop.orders"]["backup"].as_str().expect("a name").to_owned();
    let dry = |more: &[&str]| sandbox.pbm(&[&["restore", &backup, "--dry-run"], more].concat());

    let told = dry(&["--ns", "shop.orders", "-o", "json"]).ok().json();
    let part = &told["replsets"][0];
    assert_eq!((&part["drops"], &part["users"]), (&json!(["shop.orders"]), &json!(false)), "{told}");
    assert_eq!(part["creates"][0]["ns"], "shop.orders", "{told}");
    assert!(part["bytes"].as_u64().is_some_and(|bytes| bytes > 1000), "{told}");
    assert_eq!(part["oplog"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(part["stays"], json!(["other.keep", "shop.keep"]), "{told}");
    let text = dry(&[]).ok().stdout;
    assert!(text.contains("drops     1\n            shop.orders") && text.contains("nothing was changed"), "{text}");
    let cloned = dry(&["--ns-from", "shop.orders", "--ns-to", "shop.copy", "-o", "json"]).ok().json();
    assert_eq!(cloned["replsets"][0]["drops"], json!([]), "{cloned}");

    for (more, why) in [
        (vec!["--ns", "shop.nowhere"], "it holds nothing of shop.nowhere"),
        (vec!["--ns-from", "shop.orders", "--ns-to", "shop.keep"], "'shop.keep' exists on the target"),
    ] {
        let refused = dry(&more).failed().stderr;
        assert!(refused.contains("would be refused") && refused.contains(why), "{refused}");
    }
    fs::remove_file(sandbox.store().join(&backup).join("rs0/shop.orders.s2")).expect("remove an object");
    let refused = dry(&[]).failed().stderr;
    assert!(refused.contains("shop.orders.s2' does not exist"), "{refused}");
    assert_eq!(state::differences(&before, &state::read(&client).await), [""; 0]);
}

/// A collection of the original's backup under another name, with all indexes.
#[tokio::test(flavor = "multi_thread")]
async fn clones_of_the_original() {
    let mut wrong = Vec::new();
    for (label, case) in cases().iter().filter(|(_, case)| !case["clone_of"].is_null()) {
        let (sandbox, client) = stage(false).await;
        let before = state::read(&client).await;
        let arguments: Vec<&str> = case["restore_args"].as_str().expect("arguments").split_whitespace().collect();
        let (db, coll) = arguments[3].split_once('.').expect("a namespace");
        let mut restore = vec!["restore", case["backup"].as_str().expect("a name"), "--wait", "-y"];
        restore.extend(&arguments);
        sandbox.pbm(&restore).ok();
        let again = sandbox.pbm(&restore).failed();
        assert!(again.stderr.contains(&format!("'{db}.{coll}' exists on the target")), "{again:?}");

        let mut got = state::read(&client).await;
        let clone = got["databases"][db]["collections"].as_object_mut().expect("collections").remove(coll);
        let clone = clone.unwrap_or_else(|| panic!("{label}: no {db}.{coll} in {got}"));
        let mut wanted = case["clone_of"].clone();
        // Its UUID is new.
        wanted["uuid"] = clone["uuid"].clone();
        let mut lines = state::differences(&wanted, &clone);
        lines.extend(state::differences(&before, &got));
        lines.retain(|line| !is_lost_in_the_backup(line) && !line.contains("/hidden"));
        wrong.extend(lines.into_iter().map(|line| format!("{label}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const SELECTED: &str = "shop.*,crm.a,crm.x";

/// Only what is selected.
fn part_of(mut state: Value) -> Value {
    let selection = Selection::parse(&SELECTED.split(',').collect::<Vec<_>>()).expect("a selection");
    let databases = state["databases"].as_object_mut().expect("databases");
    databases.retain(|db, content| {
        for kind in ["collections", "views", "timeseries"] {
            if let Some(there) = content.get_mut(kind).and_then(Value::as_object_mut) {
                there.retain(|name, _| selection.wants(db, name) && name != "system.views");
            }
        }
        let content = content.as_object().expect("a database");
        selection.touches(db) && content.values().any(|kind| kind.as_object().is_some_and(|all| !all.is_empty()))
    });
    state["users"] = Value::Null;
    state["roles"] = Value::Null;
    state
}

/// Collections come and go, and take names of the selection and leave them, while the backup is made.
async fn under_load(backup: &[&str], restore: &[&str], later: bool) {
    let seed = std::env::var("PBMBOX_SEED")
        .map_or_else(|_| rand::random_range(0..1_000_000), |seed| seed.parse().expect("a number"));
    eprintln!("PBMBOX_SEED={seed}");
    let source = Sandbox::start(Options::default()).await;
    let client = source.set.client().await;
    let mut load = Load::start(&client, seed).await;
    load.pace.wait(20).await;
    let mut args = vec!["backup", "--wait", "-o", "json"];
    args.extend(backup);
    let name = loop {
        let output = tokio::task::block_in_place(|| source.pbm(&args));
        // Then the backup lacks what the collection held, and says so.
        if output.stdout.contains("repeat it") && backup.contains(&"--ns") {
            continue;
        }
        break output.ok().json()["name"].as_str().expect("a name").to_owned();
    };
    let backups = client.database("admin").collection::<Document>("pbmBackups");
    let meta = backups.find_one(doc! { "name": &name }).await.expect("read").expect("the backup");
    let mut end = meta.get_timestamp("last_write_ts").expect("last_write_ts");
    let mut args = vec!["restore", "--wait", "-y"];
    args.extend(restore);
    let time;
    if later {
        source.pbm(&["config", "--set", "pitr.enabled=true", "--set", "pitr.oplogSpanMin=0.03"]).ok();
        load.pace.wait(150).await;
        end = crate::support::wait::until("slices", Duration::from_secs(60), async || {
            let chunks = client.database("admin").collection::<Document>("pbmPITRChunks");
            let last = chunks.find_one(doc! {}).sort(doc! { "end_ts": -1 }).await.expect("read")?;
            last.get_timestamp("end_ts").ok().filter(|last| last.time > end.time + 2)
        })
        .await;
        time = format!("{},{}", end.time, end.increment);
        args.extend(["--time", &time]);
    } else {
        load.pace.wait(20).await;
        args.push(&name);
    }
    load.stop().await;
    let replica = ReplicaSet::start(Options::default()).await;
    truth::replay(&client, &replica, end).await;
    let mut expected = part_of(state::read(&replica.client().await).await);

    let target = Sandbox::unconfigured(Options::default()).await;
    target.configure_at(&source.store(), &[]).await;
    target.pbm(&["config", "--force-resync", "--wait"]).ok();
    let restored = target.set.client().await;
    insert(&restored, "crm", "b", vec![doc! { "_id": "mine" }]).await;
    insert(&restored, "crm", "keep", vec![doc! { "_id": "mine" }]).await;
    target.pbm(&args).ok();
    for coll in ["b", "keep"] {
        let found = restored.database("crm").collection::<Document>(coll).find_one(doc! {}).await.expect("find");
        assert_eq!(found, Some(doc! { "_id": "mine" }), "PBMBOX_SEED={seed}: crm.{coll} is not selected");
    }
    let others: Vec<String> = restored.database("crm").list_collection_names().await.expect("list");
    let mine = |name: &&String| !["a", "b", "keep", "x", "system.views", "system.buckets.x"].contains(&name.as_str());
    assert_eq!(others.iter().filter(mine).collect::<Vec<_>>(), [""; 0], "PBMBOX_SEED={seed}");
    let mut got = part_of(state::read(&restored).await);
    forget_remains(&mut expected, &mut got);
    let lines = state::differences(&expected, &got);
    assert!(lines.is_empty(), "PBMBOX_SEED={seed}, backup {name}:\n{}", lines.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_full_backup() {
    under_load(&[], &["--ns", SELECTED], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_later_moment() {
    under_load(&[], &["--ns", SELECTED], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_part() {
    under_load(&["--ns", SELECTED, "--compression", "zstd"], &[], false).await;
}

/// Several collections and whole databases under other names, while the old ones stay.
#[tokio::test(flavor = "multi_thread")]
async fn several_clones_and_whole_databases() {
    let sandbox = Sandbox::start(Options::default()).await;
    let client = sandbox.set.client().await;
    let shop = client.database("shop");
    let run = async |command: Document| shop.run_command(command).await.expect("run");
    insert(&client, "shop", "a", (0..10).map(|id| doc! { "_id": id, "x": id }).collect()).await;
    insert(&client, "shop", "b", vec![doc! { "_id": "b" }]).await;
    run(doc! { "createIndexes": "a", "indexes": [{ "key": { "x": 1 }, "name": "x_1" }] }).await;
    run(doc! { "create": "v", "viewOn": "a", "pipeline": [{ "$match": { "x": 3 } }] }).await;
    run(doc! { "create": "ts", "timeseries": { "timeField": "t" } }).await;
    insert(&client, "shop", "ts", vec![doc! { "t": mongodb::bson::DateTime::now(), "n": 1 }]).await;
    let name = sandbox.backup(&[]);
    let before = state::read(&client).await;
    insert(&client, "shop", "b", vec![doc! { "_id": "later" }]).await;

    let clone =
        |from: &str, to: &str| sandbox.pbm(&["restore", &name, "--ns-from", from, "--ns-to", to, "--wait", "-y"]);
    // Names may cross.
    clone("shop.a,shop.b", "other.b,other.a").ok();
    clone("shop.*", "copy.*").ok();
    let content = async |db: &str, coll: &str| {
        client.database(db).collection::<Document>(coll).count_documents(doc! {}).await.expect("count")
    };
    assert_eq!((content("other", "b").await, content("other", "a").await), (10, 1));
    assert_eq!((content("copy", "a").await, content("copy", "b").await, content("copy", "v").await), (10, 1, 1));
    assert_eq!((content("copy", "ts").await, content("shop", "b").await), (1, 2));
    let after = state::read(&client).await;
    let mut kinds = Vec::new();
    for kind in ["collections", "views", "timeseries"] {
        let names = |state: &Value, db: &str| -> BTreeSet<String> {
            let there = state["databases"][db][kind].as_object();
            there.into_iter().flatten().map(|(name, _)| name.clone()).collect()
        };
        kinds.push((names(&before, "shop"), names(&after, "copy")));
        let indexes = |state: &Value, db: &str| state["databases"][db]["collections"]["a"]["indexes"].clone();
        assert_eq!(indexes(&before, "shop"), indexes(&after, "copy"));
    }
    assert!(kinds.iter().all(|(shop, copy)| shop == copy), "{kinds:?}");
    for (from, to, why) in [
        ("shop.*", "copy.*", "exists on the target"),
        ("shop.a,shop.b", "new.a,other.x", "both 'new' and 'other'"),
        ("shop.a,shop.b", "new.a", "each one needs its own"),
    ] {
        let refused = clone(from, to).failed();
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
}
