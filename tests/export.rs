//! `pbm export`: what it writes is read here by docs/format.md A.7 alone, compared with the source, and restored again.

use crate::compat::fixtures;
use crate::legacy::metadata;
use crate::support::archive::{Decoded, decode};
use crate::support::cluster::{Folder, Options, ReplicaSet};
use crate::support::programs::{Output, Programs, Sandbox};
use crate::support::state;
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use futures::TryStreamExt;
use mongodb::Client;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A collection whose name would forge a line of a plan, and clear a terminal.
const HOSTILE: &str = "shop.drops\n  creates   nothing\u{1b}[2J\u{202e}";

/// Without a server: no address is given.
fn pbm(programs: &Programs, args: &[&str]) -> (Output, Vec<u8>) {
    let output = programs.command("pbm").args(args).output().expect("run pbm");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (Output { stdout: text(&output.stdout), stderr: text(&output.stderr), status: output.status }, output.stdout)
}

async fn fill(client: &Client) {
    let shop = client.database("shop");
    let orders: Vec<Document> = (0..2000).map(|i| doc! { "_id": i, "text": "x".repeat(2000) }).collect();
    shop.collection("orders").insert_many(orders).await.expect("insert");
    let index =
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "text": 1 }, "name": "text_1", "sparse": true }] };
    let series = doc! { "create": "ts", "timeseries": { "timeField": "t", "metaField": "m" } };
    let view = doc! { "create": "some", "viewOn": "orders", "pipeline": [{ "$match": { "_id": 1 } }] };
    let ring = doc! { "create": "ring", "capped": true, "size": 65536 };
    for command in [index, series, view, ring, doc! { "create": "empty" }, doc! { "create": "log" }] {
        shop.run_command(command).await.expect("prepare");
    }
    let points = (0..300).map(|i| doc! { "t": bson::DateTime::from_millis(i * 60_000), "m": i % 3, "v": i });
    shop.collection::<Document>("ts").insert_many(points).await.expect("insert");
    shop.collection("ring").insert_many((0..10).map(|i| doc! { "_id": 9 - i })).await.expect("insert");
    client.database("crm").collection("notes").insert_one(doc! { "_id": 1 }).await.expect("insert");
    shop.run_command(doc! { "createUser": "ann", "pwd": "x", "roles": [] }).await.expect("a user");
}

async fn documents(client: &Client, db: &str, coll: &str) -> Vec<RawDocumentBuf> {
    let found = client.database(db).collection::<RawDocumentBuf>(coll).find(doc! {}).await.expect("find");
    found.try_collect().await.expect("find")
}

/// `shop.log` as the dump and the inserts of the oplog make it.
fn log(decoded: &Decoded) -> Vec<i32> {
    let mut found: BTreeMap<i32, ()> = BTreeMap::new();
    let dumped = decoded.of("shop.log").expect("the collection").iter();
    let replayed = decoded
        .of(".oplog")
        .expect("the oplog")
        .iter()
        .filter(|entry| entry.get_str("ns").is_ok_and(|ns| ns == "shop.log"));
    let replayed: Vec<RawDocumentBuf> = replayed.map(|entry| entry.get_document("o").expect("o").to_owned()).collect();
    for document in dumped.chain(&replayed) {
        found.insert(document.get_i32("_id").expect("_id"), ());
    }
    found.into_keys().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_the_backup_and_can_be_restored() {
    let sandbox = Sandbox::start(Options::default()).await;
    let client = sandbox.set.client().await;
    fill(&client).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (client, stop) = (client.clone(), stop.clone());
        async move {
            for id in 0.. {
                client.database("shop").collection("log").insert_one(doc! { "_id": id }).await.expect("insert");
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    });
    let name = tokio::task::block_in_place(|| sandbox.backup(&["--compression", "zstd"]));
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("the writer");

    let folder = Folder::new("export");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let store = sandbox.store().display().to_string();
    // From the configured cluster, and without any server.
    sandbox.pbm(&["export", &name, "--out", &path("a")]).ok();
    let (out, _) = pbm(&sandbox.programs, &["export", &name, "--dir", &store, "-o", &path("b")]);
    assert!(out.ok().stdout.contains("namespaces"));
    let archive = fs::read(path("a")).expect("the archive");
    let mode = fs::metadata(path("a")).expect("the archive").permissions().mode();
    assert_eq!(mode & 0o137, 0, "it holds credentials: {mode:o}");
    assert!(archive == fs::read(path("b")).expect("the archive"));
    fs::write(path("pbm.yaml"), format!("storage: {{type: filesystem, filesystem: {{path: {store}}}}}"))
        .expect("write");
    let (out, gzipped) =
        pbm(&sandbox.programs, &["export", &name, "--config", &path("pbm.yaml"), "--gzip", "--out", "-"]);
    out.ok();
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&gzipped[..]), &mut plain).expect("gzip");
    assert!(plain == archive);

    let decoded = decode(&archive);
    let mut names = decoded.names();
    names.sort_unstable();
    let expected = [
        ".oplog",
        "crm.notes",
        "shop.empty",
        "shop.log",
        "shop.orders",
        "shop.ring",
        "shop.some",
        "shop.system.buckets.ts",
    ];
    assert_eq!(names, expected);
    for (db, coll) in [("crm", "notes"), ("shop", "orders"), ("shop", "ring"), ("shop", "system.buckets.ts")] {
        let exported = decoded.of(&format!("{db}.{coll}")).expect("the collection");
        assert!(exported == documents(&client, db, coll).await, "{db}.{coll}");
    }
    let log = log(&decoded);
    assert!(
        !log.is_empty() && log == (0..i32::try_from(log.len()).expect("few")).collect::<Vec<_>>(),
        "a prefix of what was written"
    );
    let entry = |coll: &str| {
        decoded.entries.iter().find(|e| e.get_str("collection").is_ok_and(|name| name == coll)).expect("an entry")
    };
    assert_eq!(decoded.header.get_str("server_version").expect("a version"), "6.0.5");
    let text = |coll: &str, key: &str| entry(coll).get_str(key).expect("a text").to_owned();
    assert_eq!([text("ts", "type"), text("some", "type")], ["timeseries", "view"]);
    assert!(text("orders", "metadata").contains(r#""name":"text_1","sparse":true"#));
    assert_eq!([text("oplog", "db"), text("oplog", "metadata")], ["", ""]);

    selected(&sandbox, &name, &store, &path("some"));
    damaged(&sandbox, &name, folder.path());
    by_mongorestore(&path("a"), &decoded).await;

    // The same data again, through the layout of old backups.
    sandbox.pbm(&["restore", &name, "--wait", "-y"]).ok();
    let expected = state::read(&client).await;
    let old = "2022-02-07T14:05:59Z";
    let at = |file: String| sandbox.store().join(file);
    sandbox.pbm(&["export", &name, "--no-oplog", "--out", &at(format!("{old}_rs0.dump")).display().to_string()]).ok();
    let oplog = decoded.of(".oplog").expect("the oplog");
    let last = oplog.last().expect("an entry").get_timestamp("ts").expect("ts");
    let entries: Vec<u8> = oplog.iter().flat_map(|entry| entry.as_bytes().to_vec()).collect();
    fs::write(at(format!("{old}_rs0.oplog")), entries).expect("write the oplog");
    let meta = metadata(old, "none", "", Timestamp { time: last.time, increment: last.increment });
    fs::write(at(format!("{old}.pbm.json")), meta.to_string()).expect("write the metadata");
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    client.database("shop").collection::<Document>("orders").delete_many(doc! {}).await.expect("delete");
    sandbox.pbm(&["restore", old, "--wait", "-y"]).ok();
    let lines = state::differences(&expected, &state::read(&client).await);
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

/// `--ns`, and users and roles.
fn selected(sandbox: &Sandbox, name: &str, store: &str, file: &str) {
    let export = |more: &[&str]| {
        let args = [&["export", name, "--dir", store, "--out", file], more].concat();
        pbm(&sandbox.programs, &args).0.ok();
        decode(&fs::read(file).expect("the archive"))
    };
    let some = export(&["--ns", "crm.*,shop.ts"]);
    assert_eq!(some.names(), ["crm.notes", "shop.system.buckets.ts", ".oplog"]);
    assert_eq!(some.of(".oplog").map(<[_]>::len), Some(0), "only shop.log was written to");
    assert!(!export(&["--ns", "shop.log"]).of(".oplog").expect("the oplog").is_empty());
    let users = export(&["--with-users-and-roles", "--no-oplog"]);
    let user = &users.of("admin.system.users").expect("users")[0];
    assert_eq!(user.get_str("_id").expect("_id"), "shop.ann");
    assert!(users.of("admin.system.version").is_some_and(|documents| !documents.is_empty()));
}

/// No archive is better than a wrong one.
fn damaged(sandbox: &Sandbox, name: &str, folder: &Path) {
    let object = sandbox.store().join(name).join("rs0/shop.ring.zst");
    let good = fs::read(&object).expect("the object");
    let packed = zstd::bulk::decompress(&good, 1 << 20).expect("zstd");
    let mut wrong = packed.clone();
    let at = wrong.len() / 2;
    wrong[at] ^= 1;
    fs::write(&object, zstd::bulk::compress(&wrong, 3).expect("zstd")).expect("write");
    let out = folder.join("damaged");
    let failed = sandbox.pbm(&["export", name, "--out", &out.display().to_string()]).failed();
    assert!(failed.stderr.contains("shop.ring.zst' is damaged"), "{failed:?}");
    let left: Vec<_> =
        fs::read_dir(folder).expect("list").flatten().map(|e| e.file_name().into_string().expect("text")).collect();
    assert!(left.iter().all(|file| !file.starts_with("damaged")), "{left:?}");
    fs::write(&object, good).expect("write");
}

/// The stock tool takes it, where there is one.
async fn by_mongorestore(archive: &str, decoded: &Decoded) {
    let found = std::env::var_os("PATH").and_then(|paths| {
        std::env::split_paths(&paths).map(|path| path.join("mongorestore")).find(|program| program.exists())
    });
    let Some(program) = found else { return };
    let set = ReplicaSet::start(Options::default()).await;
    let archive = format!("--archive={archive}");
    let done = Command::new(program)
        .args(["--uri", &set.uri(), &archive, "--oplogReplay"])
        .output()
        .expect("run mongorestore");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let client = set.client().await;
    for (db, coll) in [("crm", "notes"), ("shop", "orders"), ("shop", "system.buckets.ts")] {
        assert!(Some(&documents(&client, db, coll).await[..]) == decoded.of(&format!("{db}.{coll}")), "{db}.{coll}");
    }
    assert_eq!(documents(&client, "shop", "log").await.len(), log(decoded).len());
}

#[test]
fn backups_of_the_original_are_exported_without_a_server() {
    let programs = Programs::new();
    let folder = Folder::new("export");
    let out = folder.path().join("archive").display().to_string();
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(fixtures().join(name).join("expected.json")).expect("read")).expect("JSON")
    };
    let store = |name: &str| fixtures().join(name).join("store").display().to_string();
    // Every codec.
    for (label, backup) in read("rs")["backups"].as_object().expect("backups") {
        let name = backup["name"].as_str().expect("a name");
        pbm(&programs, &["export", name, "--dir", &store("rs"), "--out", &out]).0.ok();
        let decoded = decode(&fs::read(&out).expect("the archive"));
        assert!(decoded.names().len() > 10, "{label}: {:?}", decoded.names());
        assert!(decoded.names().iter().all(|ns| !ns.starts_with("config.") && !ns.starts_with("admin.pbm")), "{label}");
    }
    let sharded = read("sharded");
    let name = sharded["backup"]["name"].as_str().expect("a name");
    let (refused, _) = pbm(&programs, &["export", name, "--dir", &store("sharded"), "--out", &out]);
    let refused = refused.failed().stderr;
    assert!(
        ["several replica sets", "--replset", "cfgrs", "rs1", "rs2"].iter().all(|part| refused.contains(part)),
        "{refused}"
    );
    pbm(&programs, &["export", name, "--dir", &store("sharded"), "--replset", "rs1", "--out", &out]).0.ok();
    assert!(!decode(&fs::read(&out).expect("the archive")).names().is_empty());
    let (refused, _) = pbm(&programs, &["export", "none", "--dir", &store("rs"), "--out", &out]);
    assert!(refused.failed().stderr.contains("its newest one is"));
    let (refused, _) = pbm(&programs, &["export", name, "--out", &out]);
    assert!(refused.failed().stderr.contains("--dir PATH"));
}

/// Collection names that can't be object names, that belong to the backup's own files, that listings hide, and that would
/// forge lines: the restore brings back these collections and everything beside them.
#[tokio::test(flavor = "multi_thread")]
async fn collections_with_unlucky_names_come_back() {
    let sandbox = Sandbox::start(Options::default()).await;
    let client = sandbox.set.client().await;
    let long = "x".repeat(248);
    let unlucky = [
        ("shop", "plain"),
        ("shop", "import.tmp"),
        ("shop", "old.pbmpart.1"),
        ("shop", "old"),
        ("shop", "x/../y"),
        ("shop", "x//y"),
        ("shop", "a"),
        ("shop", "a/b"),
        ("shop", "a.s2/b"),
        ("shop", "ends/"),
        ("shop", HOSTILE.strip_prefix("shop.").expect("a database")),
        ("shop", long.as_str()),
        ("metadata", "json"),
        ("meta", "pbm"),
    ];
    let fill = async || {
        for (db, coll) in unlucky {
            client.database(db).collection(coll).insert_one(doc! { "_id": coll }).await.expect("insert");
        }
    };
    fill().await;
    let folder = Folder::new("export");
    for compression in ["none", "s2"] {
        let name = sandbox.backup(&["--compression", compression]);
        let out = folder.path().join(compression).display().to_string();
        sandbox.pbm(&["export", &name, "--out", &out]).ok();
        let decoded = decode(&fs::read(&out).expect("the archive"));
        let plan = sandbox.pbm(&["restore", &name, "--dry-run"]).ok().stdout;
        let forged = plan.lines().any(|line| line.starts_with("  creates   nothing"));
        assert!(!forged && !plan.contains(['\u{1b}', '\u{202e}']), "{plan}");
        assert!(plan.contains("shop.drops\\n  creates   nothing\\u{1b}[2J\\u{202e}"), "{plan}");
        let clone = ["restore", &name, "--ns-from", "shop.plain", "--ns-to", HOSTILE, "--wait", "-y"];
        let refused = sandbox.pbm(&clone).failed().stderr;
        let forged = refused.lines().any(|line| line.starts_with("  creates   nothing"));
        assert!(!forged && !refused.contains(['\u{1b}', '\u{202e}']), "{refused}");
        assert!(refused.contains("creates   nothing\\u{1b}[2J\\u{202e}"), "{refused}");
        for db in ["shop", "metadata", "meta"] {
            client.database(db).drop().await.expect("drop");
        }
        sandbox.pbm(&["restore", &name, "--wait", "-y"]).ok();
        for (db, coll) in unlucky {
            let back = documents(&client, db, coll).await;
            assert_eq!(back.len(), 1, "{compression}: {coll:?}");
            assert_eq!(decoded.of(&format!("{db}.{coll}")), Some(&back[..]), "{compression}: {coll:?}");
        }
        // The files that the original reads name only collections that it can find.
        let root = sandbox.store().join(&name).join("rs0");
        let text = fs::read_to_string(root.join("metadata.json")).expect("metadata.json");
        let listed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let suffix = if compression == "none" { "" } else { ".s2" };
        for namespace in listed["namespaces"].as_array().expect("namespaces") {
            if namespace["size"]["$numberLong"] != "0" && namespace["type"] == "collection" {
                let (db, coll) =
                    (namespace["db"].as_str().expect("db"), namespace["collection"].as_str().expect("name"));
                assert!(root.join(format!("{db}.{coll}{suffix}")).is_file(), "{db}.{coll}");
            }
        }
        assert!(listed["escaped"].as_array().is_some_and(|escaped| escaped.len() >= 4), "{listed}");
        sandbox.pbm(&["delete-backup", &name, "-y"]).ok();
    }
    let log = sandbox.agents.iter().map(crate::support::programs::Agent::log).collect::<String>();
    assert!(
        log.contains("shop.x/../y") && log.contains("a restore by the original leaves the collection out"),
        "{log}"
    );
    assert!(!log.contains('\u{1b}'), "{log}");
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
}
