//! What servers answer that can't be had for these tests, played by a proxy in front of one that can
//! ([`crate::support::doctored`]).

use crate::support::cluster::{Options, PASSWORD, ReplicaSet, USER};
use crate::support::doctored::{Asked, Doctor, listed};
use crate::support::programs::{Output, Sandbox};
use crate::support::sharded::{ShardedSandbox, TWO_SHARDS};
use crate::support::state;
use crate::support::wait::until;
use bson::{Bson, Document, doc};
use mongodb::Client;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_doctored_server_answers_as_it_is_told() {
    let doctor = Doctor::version("8.0.4", "8.0").with_type("plain", "strange").without_buckets();
    let doctor = doctor.refuse(13, "Unauthorized", "not here", |asked| asked.coll() == "secret");
    let set = ReplicaSet::start(Options { members: 2, doctor: Some(doctor), ..Options::default() }).await;
    let client = set.client().await;
    let version = client.database("admin").run_command(doc! { "buildInfo": 1 }).await.expect("the version");
    assert_eq!(version.get_str("version").expect("text"), "8.0.4");
    let db = client.database("shop");
    for command in [
        doc! { "insert": "plain", "documents": [{ "_id": 1 }], "writeConcern": { "w": 2 } },
        doc! { "create": "series", "timeseries": { "timeField": "t" } },
    ] {
        db.run_command(command).await.expect("a command that is passed on");
    }
    let listed = db.run_command(doc! { "listCollections": 1, "nameOnly": true }).await.expect("a list");
    let listed = listed.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).expect("a batch");
    let text =
        |it: &bson::Bson, key: &str| it.as_document().expect("a document").get_str(key).expect("text").to_owned();
    let mut types: Vec<_> = listed.iter().map(|it| (text(it, "name"), text(it, "type"))).collect();
    types.sort();
    let expected = [("plain", "strange"), ("series", "timeseries"), ("system.views", "collection")];
    assert_eq!(types, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
    let refused = db.run_command(doc! { "find": "secret" }).await.expect_err("refused").to_string();
    assert!(refused.contains("not here"), "{refused}");
}

async fn insert(client: &Client, coll: &str, id: i32) {
    client.database("shop").collection(coll).insert_one(doc! { "_id": id }).await.expect("insert");
}

/// The findings of `pbm doctor` that are not fine, each with its next step.
fn complaints(output: &Output) -> String {
    let list = output.json();
    let bad = list["checks"].as_array().expect("checks").iter().filter(|it| it["verdict"] != "ok");
    bad.map(|it| format!("{} {}: {} → {}\n", it["check"], it["subject"], it["detail"], it["next"])).collect()
}

/// Time series without buckets, and types of collections that nobody knows yet: what would be missing in a backup ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_would_lack_data_is_refused_by_its_name() {
    let doctor = Doctor::version("9.0.0", "9.0").without_buckets().with_type("jobs", "queue");
    let sandbox = Sandbox::start(Options { doctor: Some(doctor), ..Options::default() }).await;
    let client = sandbox.set.client().await;
    insert(&client, "plain", 1).await;
    let series = doc! { "create": "series", "timeseries": { "timeField": "t" } };
    client.database("shop").run_command(series).await.expect("create a series");
    let said = sandbox.pbm(&["backup", "--wait"]).failed().stderr;
    assert!(said.contains("the time series 'shop.series' without its buckets"), "{said}");
    let said = sandbox.pbm(&["backup", "--wait", "--ns", "shop.series"]).failed().stderr;
    assert!(said.contains("'shop.series'"), "{said}");

    client.database("shop").run_command(doc! { "drop": "series" }).await.expect("drop the series");
    insert(&client, "jobs", 1).await;
    let said = sandbox.pbm(&["backup", "--wait"]).failed().stderr;
    assert!(said.contains("'shop.jobs' is of the type 'queue'"), "{said}");
    // What is known of it can be backed up.
    sandbox.backup(&["--ns", "shop.plain"]);
    let said = complaints(&sandbox.pbm(&["doctor", "-o", "json"]));
    assert!(said.contains("MongoDB 9.0.0") && said.contains("newer than 8.0"), "{said}");
    assert!(sandbox.agents[0].log().contains("MongoDB 9.0.0 is newer than 8.0"), "{}", sandbox.agents[0].log());
}

/// An entry of the oplog of a kind that nobody knows yet, in place of the insert into `shop.marker`.
fn plant(entry: &mut Document) {
    if entry.get_str("ns").is_ok_and(|ns| ns == "shop.marker") && entry.get_str("op").is_ok_and(|op| op == "i") {
        entry.insert("op", "xi");
        entry.insert("novelty", doc! { "a": [1, "b"] });
    }
}

fn contents(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("read a folder").flatten() {
        let path = entry.path();
        all.extend(if path.is_dir() { contents(&path) } else { fs::read(&path).expect("read a file") });
    }
    all
}

/// A backup and saved oplog keep it, and everything that would replay it is refused before anything is changed.
#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_entry_of_an_unknown_kind_is_kept_and_never_skipped() {
    // A cluster may end every scan that names no limit of its own.
    let is_scan = |it: &Asked| it.name == "find" && it.command.contains_key("noCursorTimeout");
    let limited = Doctor::default().refuse(50, "MaxTimeMSExpired", "operation exceeded time limit", move |asked| {
        is_scan(asked) && !asked.command.contains_key("maxTimeMS")
    });
    let doctor = limited.change(&["find", "getMore"], |asked, answer| {
        if (asked.db.as_str(), asked.coll()) == ("local", "oplog.rs") {
            listed(answer, |batch| batch.iter_mut().filter_map(Bson::as_document_mut).for_each(plant));
        }
    });
    let sandbox = Sandbox::start(Options { doctor: Some(doctor), ..Options::default() }).await;
    let client = sandbox.set.client().await;
    insert(&client, "orders", 1).await;
    let base = sandbox.backup(&["--compression", "none"]);
    let slicing = ["pitr.compression=none", "pitr.oplogSpanMin=0.03", "pitr.enabled=true"];
    for setting in slicing {
        sandbox.pbm(&["config", "--set", setting]).ok();
    }
    let begin = last_write(&client).await;
    insert(&client, "marker", 1).await;
    insert(&client, "orders", 2).await;
    let end = last_write(&client).await;
    until("the oplog to be saved", Duration::from_secs(60), async || {
        let chunks = client.database("admin").collection::<Document>("pbmPITRChunks");
        chunks.find_one(doc! { "end_ts": { "$gte": end } }).await.expect("read the chunks").map(drop)
    })
    .await;
    sandbox.pbm(&["config", "--set", "pitr.enabled=false"]).ok();
    // The planted entry as the server sent it.
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let planted = oplog.find_one(doc! { "ns": "shop.marker" }).await.expect("find").expect("the entry");
    assert_eq!(planted.get_str("op").expect("an op"), "xi");
    let bytes = planted.to_vec().expect("bytes");
    assert!(contents(&sandbox.store()).windows(bytes.len()).any(|window| window == bytes), "not byte for byte");

    let before = state::read(&client).await;
    let at = format!("{},{}", end.time, end.increment);
    let from = format!("{},{}", begin.time, begin.increment);
    for args in [
        &["restore", "--time", &at, "--wait", "-y"][..],
        &["restore", "--time", &at, "--dry-run"],
        &["restore", "--time", &at, "--ns", "shop.orders", "--wait", "-y"],
        &["oplog-replay", "--start", &from, "--end", &at, "--wait", "-y"],
    ] {
        let said = sandbox.pbm(args).failed().stderr;
        assert!(said.contains("unknown op 'xi'") && said.contains("nothing was changed"), "{args:?}: {said}");
        let lines = state::differences(&before, &state::read(&client).await);
        assert!(lines.is_empty(), "{args:?}:\n{}", lines.join("\n"));
    }
    sandbox.pbm(&["restore", &base, "--wait", "-y"]).ok();
}

async fn last_write(client: &Client) -> bson::Timestamp {
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.expect("hello");
    let write = hello.get_document("lastWrite").and_then(|it| it.get_document("opTime")).expect("a last write");
    write.get_timestamp("ts").expect("a time")
}

/// Shards of 8.0 let only users with a right of its own work on them directly. The config servers of later versions can write
/// the history of chunk placements anew, as a restore asks them to.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_work_on_shards_directly_is_told_before() {
    let renewed = Arc::new(AtomicUsize::new(0));
    let count = renewed.clone();
    let doctor = Doctor::version("8.0.4", "8.0").instead(move |asked, _| {
        (asked.name == "_configsvrResetPlacementHistory").then(|| {
            count.fetch_add(1, Ordering::SeqCst);
            doc! { "ok": 1.0 }
        })
    });
    let options = Options { auth: true, doctor: Some(doctor), ..Options::default() };
    let cluster = ShardedSandbox::sharded(options, TWO_SHARDS).await;
    let said = complaints(&cluster.pbm(&["doctor", "-o", "json"]));
    assert!(!said.contains("directShardOperations"), "the agents may do anything: {said}");
    let name = cluster.backup(&[]);
    cluster.pbm(&["restore", &name, "--wait", "-y"]).ok();
    assert_eq!(renewed.load(Ordering::SeqCst), 1);
    for set in std::iter::once(&cluster.set.config).chain(cluster.set.shards.iter().map(|shard| &shard.set)) {
        let roles = ["readWrite", "backup", "clusterMonitor", "restore"];
        let user =
            doc! { "createUser": "half", "pwd": PASSWORD, "roles": &roles[..], "writeConcern": { "w": "majority" } };
        set.client().await.database("admin").run_command(user).await.expect("create a user");
    }
    let uri = cluster.set.config.uri().replace(&format!("//{USER}:"), "//half:");
    let output = cluster.programs.command("pbm").env("PBM_MONGODB_URI", uri).args(["doctor", "-o", "json"]).output();
    let output = output.expect("run pbm");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said =
        complaints(&Output { stdout: text(&output.stdout), stderr: text(&output.stderr), status: output.status });
    for (rs, part) in
        [("rs1", "lacks role directShardOperations"), ("rs2", "grantRolesToUser"), ("cfg", "directShardOperations")]
    {
        let lines: Vec<&str> =
            said.lines().filter(|line| line.starts_with("\"privileges\"") && line.contains(rs)).collect();
        assert!(lines.iter().any(|line| line.contains(part)), "{rs}: {said}");
    }
    assert!(said.contains("{role: \\\"directShardOperations\\\", db: \\\"admin\\\"}"), "{said}");
}

/// Every row of the page about newer servers has a verdict and tests that exist.
#[test]
fn every_difference_of_newer_servers_has_a_verdict_and_a_test() {
    const VERDICTS: [&str; 5] = ["**done**", "**refused**", "**no effect**", "**left out**", "**open**"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code: String = ["src", "tests"].iter().map(|folder| sources(&root.join(folder))).collect();
    let page = fs::read_to_string(root.join("docs/servers.md")).expect("read the page");
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|it| it.trim().to_owned()).collect::<Vec<_>>();
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| from |")).map(cells);
    let mut count = 0;
    for row in rows {
        let [_, difference, verdict, tests] = &row[..] else { panic!("not four cells: {row:?}") };
        count += 1;
        assert!(VERDICTS.iter().any(|it| verdict.starts_with(it)), "{difference}: {verdict}");
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {difference}");
        for name in named {
            assert!(code.contains(&format!("fn {name}()")), "{difference}: there is no test {name}");
        }
    }
    assert!(count > 40, "only {count} rows were found: the tables have another form");
}

/// All code below a folder.
fn sources(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).expect("read a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            all += &sources(&path);
        } else if path.extension().is_some_and(|it| it == "rs") {
            all += &fs::read_to_string(&path).expect("read a file");
        }
    }
    all
}
