//! `pbm doctor`, and the same checks before a backup and a restore.

use crate::support::cluster::{Options, PASSWORD, USER};
use crate::support::programs::{Agent, Deployment, Output, Sandbox};
use crate::support::sharded::{ShardedSandbox, TWO_SHARDS};
use crate::support::wait::until;
use mongodb::bson::{Document, Timestamp, doc};
use serde_json::{Value, json};
use std::{fs, time::Duration};

const SOON: Duration = Duration::from_secs(40);

/// The list as data. The exit code says the same as the list.
#[track_caller]
fn list(output: &Output) -> Value {
    assert_eq!(output.stderr, "", "with JSON everything is on stdout");
    let list = output.json();
    let all = list["checks"].as_array().expect("checks");
    let failed = all.iter().any(|it| it["verdict"] == "failure");
    assert_eq!((&list["ok"], output.status.code()), (&json!(!failed), Some(if failed { 2 } else { 0 })), "{list}");
    assert!(all.iter().all(|it| it["verdict"] == "ok" || it["next"].is_string()), "no next step: {list}");
    list
}

fn doctor<D: Deployment>(sandbox: &Sandbox<D>) -> Value {
    list(&sandbox.pbm(&["doctor", "-o", "json"]))
}

/// As another user of the same servers.
fn doctor_as(sandbox: &Sandbox, user: &str) -> Value {
    let uri = sandbox.set.uri().replace(&format!("//{USER}:"), &format!("//{user}:"));
    let output = sandbox.programs.command("pbm").env("PBM_MONGODB_URI", uri).args(["doctor", "-o", "json"]).output();
    let output = output.expect("run pbm");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    list(&Output { stdout: text(&output.stdout), stderr: text(&output.stderr), status: output.status })
}

/// The findings of a check that are not fine, as `subject: detail`.
fn complaints(list: &Value, check: &str) -> Vec<String> {
    let all = list["checks"].as_array().expect("checks").iter();
    let bad = all.filter(|it| it["check"] == check && it["verdict"] != "ok");
    bad.map(|it| {
        format!("{}: {}", it["subject"].as_str().expect("a subject"), it["detail"].as_str().expect("a detail"))
    })
    .collect()
}

#[track_caller]
fn assert_green(list: &Value, but_for: &[&str]) {
    let all = list["checks"].as_array().expect("checks").iter();
    let bad: Vec<&Value> =
        all.filter(|it| it["verdict"] != "ok" && !but_for.contains(&it["check"].as_str().expect("a name"))).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

/// A list that `good` likes, soon.
async fn becomes<D: Deployment>(what: &str, sandbox: &Sandbox<D>, good: impl Fn(&Value) -> bool) -> Value {
    until(what, SOON, async || Some(doctor(sandbox)).filter(|list| good(list))).await
}

/// Everything in the control collections that nobody writes by itself.
async fn queue(sandbox: &Sandbox) -> Vec<u64> {
    let db = sandbox.set.client().await.database("admin");
    let mut counts = Vec::new();
    for name in ["pbmCmd", "pbmLock", "pbmLockOp", "pbmBackups", "pbmRestores", "pbmConfig", "pbmAgents"] {
        counts.push(db.collection::<Document>(name).count_documents(doc! {}).await.expect("count"));
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_with_users_is_examined() {
    let mut sandbox = Sandbox::start(Options { members: 2, auth: true, ..Options::default() }).await;
    let before = queue(&sandbox).await;
    let healthy = doctor(&sandbox);
    assert_green(&healthy, &[]);
    for (check, subject) in [
        ("connection", format!("rs0/{}", sandbox.set.address_of(0))),
        ("agent", format!("rs0/{}", sandbox.set.address_of(1))),
        ("storage", format!("rs0/{}", sandbox.set.address_of(1))),
        ("free space", format!("rs0/{}", sandbox.set.address_of(1))),
        ("privileges", "rs0".to_owned()),
    ] {
        let all = healthy["checks"].as_array().expect("checks");
        assert!(all.iter().any(|it| it["check"] == check && it["subject"] == subject.as_str()), "{check}: {healthy:#}");
    }
    assert!(healthy.to_string().contains("write, read, list and delete worked"), "{healthy:#}");
    assert_eq!(queue(&sandbox).await, before, "it changed something");
    let text = sandbox.pbm(&["doctor"]).ok().stdout;
    assert!(text.contains("ok    configuration") && text.ends_with(" 0 warnings, 0 failed\n"), "{text}");

    grants_are_named(&sandbox).await;
    agents_are_found(&mut sandbox).await;
    storage_is_tried(&mut sandbox).await;
    agents_without_grants_stop_a_restore(&mut sandbox).await;
}

/// Members are asked one by one, by addresses that are in nobody's connection string: with its certificates.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_with_tls_is_examined() {
    let sandbox = Sandbox::start(Options { members: 2, auth: true, tls: true, ..Options::default() }).await;
    let healthy = doctor(&sandbox);
    assert_green(&healthy, &[]);
    let connections = |list: &Value| {
        let all = list["checks"].as_array().expect("checks").iter();
        all.filter(|it| it["check"] == "connection" && it["verdict"] == "ok").count()
    };
    assert_eq!(connections(&healthy), 2, "{healthy:#}");
    let name = sandbox.backup(&[]);
    let restored = sandbox.pbm(&["restore", &name, "--wait", "-y"]).ok();
    assert!(!restored.stderr.contains("Warning"), "{restored:?}");

    // Without a CA in the connection string the system's authorities count, and a company's may be among them.
    let uri = sandbox.set.uri();
    let (at, ca) = (uri.find("&tlsCAFile=").expect("a CA"), uri.split("tlsCAFile=").nth(1).expect("a CA"));
    let ca = ca.split('&').next().expect("a path");
    let plain = uri[..at].to_owned() + &uri[at + "&tlsCAFile=".len() + ca.len()..] + "&serverSelectionTimeoutMS=2000";
    let status = |authorities: &str| {
        let mut pbm = sandbox.programs.command("pbm");
        pbm.args(["list", "--mongodb-uri", &plain]).env("SSL_CERT_FILE", authorities).output().expect("run pbm")
    };
    assert!(status(ca).status.success(), "{:?}", status(ca));
    assert_eq!(status("/etc/ssl/certs/ca-certificates.crt").status.code(), Some(3));
}

async fn grants_are_named(sandbox: &Sandbox) {
    let admin = sandbox.set.client().await.database("admin");
    // Roles may come by other roles.
    let roles = ["readWrite", "backup", "clusterMonitor"];
    admin.run_command(doc! { "createRole": "most", "privileges": [], "roles": roles }).await.expect("create a role");
    for (user, roles) in [("weak", vec!["most"]), ("nobody", vec![])] {
        let create = doc! { "createUser": user, "pwd": PASSWORD, "roles": roles, "writeConcern": { "w": "majority" } };
        admin.run_command(create).await.expect("create a user");
    }
    let weak = doctor_as(sandbox, "weak");
    let said = complaints(&weak, "privileges");
    assert_eq!(said, ["rs0: user weak@admin lacks role restore, anyAction on anyResource"], "{weak:#}");
    assert!(weak.to_string().contains("grantRolesToUser(\\\"weak\\\""), "{weak:#}");
    assert_green(&weak, &["privileges"]);
    let nobody = doctor_as(sandbox, "nobody");
    let said = complaints(&nobody, "privileges").join("; ");
    for grant in ["readWrite on admin", "backup", "clusterMonitor", "restore", "anyAction on anyResource"] {
        assert!(said.contains(grant), "{grant}: {nobody:#}");
    }
    assert!(complaints(&nobody, "agent").is_empty(), "nobody knows: {nobody:#}");
    assert!(
        complaints(&nobody, "connection").join("; ").contains("read admin.pbmConfig: the user may not do this"),
        "{nobody:#}"
    );
}

/// Stopped, killed; and a backup goes on with a warning.
async fn agents_are_found(sandbox: &mut Sandbox) {
    let where_ = format!("rs0/{}", sandbox.set.address_of(1));
    sandbox.agents[1].terminate().await;
    assert_eq!(complaints(&doctor(sandbox), "agent"), [format!("{where_}: no pbm-agent runs here")]);
    let made = sandbox.pbm(&["backup", "--wait"]).ok();
    assert!(made.stderr.contains(&format!("Warning: agent of {where_}: no pbm-agent runs here")), "{made:?}");
}

/// A trial of one agent fails: its folder can't be made, though the storage is there.
async fn storage_is_tried(sandbox: &mut Sandbox) {
    let address = sandbox.set.address_of(1);
    let folder = sandbox.store().join(format!("pbmPitr/.probe.{address}"));
    fs::write(&folder, "in the way").expect("write");
    sandbox.agents[1] = Agent::start(&sandbox.programs, &sandbox.set.uri_of(1));
    let failed = becomes("the trial to fail", sandbox, |list| {
        complaints(list, "storage").iter().any(|it| it.contains("write to the storage"))
    })
    .await;
    let said = complaints(&failed, "storage");
    assert!(said.len() == 1 && said[0].starts_with(&format!("rs0/{address}: ")), "{said:?}");
    fs::remove_file(&folder).expect("remove");
    let healed = becomes("the trial to work", sandbox, |list| list["ok"] == true).await;
    assert_green(&healed, &[]);
    assert!(!folder.exists(), "a trial leaves nothing");

    // The whole storage is gone for everybody.
    let (store, aside) = (sandbox.store(), sandbox.storage.path().join("aside"));
    fs::rename(&store, &aside).expect("move the storage");
    fs::write(&store, "a file").expect("write");
    let gone = becomes("the storage to be missed", sandbox, |list| complaints(list, "storage").len() == 2).await;
    assert!(complaints(&gone, "storage").iter().all(|it| it.contains("not a directory")), "{gone:#}");
    fs::remove_file(&store).expect("remove");
    fs::rename(&aside, &store).expect("put the storage back");
    becomes("the storage to be back", sandbox, |list| list["ok"] == true).await;
}

/// The agents' own user, which may be another one than that of the command line.
async fn agents_without_grants_stop_a_restore(sandbox: &mut Sandbox) {
    let name = sandbox.backup(&[]);
    let admin = sandbox.set.client().await.database("admin");
    let create = doc! {
        "createUser": "agent", "pwd": PASSWORD, "roles": ["readWrite", "backup", "clusterMonitor"],
        "writeConcern": { "w": "majority" },
    };
    admin.run_command(create).await.expect("create a user");
    for n in 0..2 {
        sandbox.agents[n].terminate().await;
        let uri = sandbox.set.uri_of(n).replace(&format!("//{USER}:"), "//agent:");
        sandbox.agents[n] = Agent::start(&sandbox.programs, &uri);
    }
    let told = becomes("the agents to tell", sandbox, |list| complaints(list, "privileges").len() == 2).await;
    assert!(complaints(&told, "privileges")[0].contains("the user of its agent lacks role restore"), "{told:#}");
    let said = sandbox.agents[0].log().matches("the user of this agent lacks role restore").count();
    assert_eq!(said, 1, "the agent's own log says it, and not at every beat");
    let refused = sandbox.pbm(&["restore", &name, "-y"]).failed();
    assert!(refused.stderr.contains("this restore would fail: privileges of rs0/"), "{refused:?}");
    assert!(refused.stderr.contains("\nHint: grant it"), "{refused:?}");
    let chunk = doc! {
        "rs": "rs0", "fname": "pbmPitr/rs0/20200101/20200101000000-1.20200101001000-1.oplog.s2", "compression": "s2",
        "start_ts": Timestamp { time: 1_577_836_800, increment: 1 }, "end_ts": Timestamp { time: 1_577_837_400, increment: 1 },
        "size": 1_i64,
    };
    let chunks = sandbox.set.client().await.database("admin").collection::<Document>("pbmPITRChunks");
    chunks.insert_one(chunk).await.expect("insert");
    let replay = ["oplog-replay", "--start", "2020-01-01T00:01:00", "--end", "2020-01-01T00:02:00", "-y"];
    let refused = sandbox.pbm(&replay).failed();
    assert!(refused.stderr.contains("this replay would fail: privileges of rs0/"), "{refused:?}");
    let restores = sandbox.set.client().await.database("admin").collection::<Document>("pbmRestores");
    assert_eq!(restores.count_documents(doc! {}).await.expect("count"), 0, "it was queued");
    // What they lack is not needed for a backup.
    let made = sandbox.pbm(&["backup", "--wait"]).ok();
    assert!(made.stderr.contains("Warning: privileges of rs0/"), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_oplog_a_second_agent_and_missing_slices_are_found() {
    let sandbox = Sandbox::unconfigured(Options { oplog_mb: 1, ..Options::default() }).await;
    let bare = doctor(&sandbox);
    assert_eq!(complaints(&bare, "configuration").len(), 1, "{bare:#}");
    sandbox.configure(&[]).await;
    assert_green(&doctor(&sandbox), &["authorization"]);

    let second = Agent::start(&sandbox.programs, &sandbox.set.uri_of(0));
    becomes("the second agent to be seen", &sandbox, |list| {
        complaints(list, "agent").iter().any(|it| it.ends_with("two agents run for this mongod"))
    })
    .await;
    drop(second);
    sandbox.pbm(&["config", "--set", "pitr.enabled=true"]).ok();
    becomes("missing slices", &sandbox, |list| {
        complaints(list, "slicing").iter().any(|it| it.starts_with("rs0: nobody saves its oplog"))
    })
    .await;

    let client = sandbox.set.client().await;
    let big = client.database("shop").collection::<Document>("big");
    let text = "x".repeat(100_000);
    let short = until("the oplog to roll over", SOON, async || {
        big.insert_many((0..10).map(|_| doc! { "text": &text })).await.expect("insert");
        // Only what is in a checkpoint may go.
        client.database("admin").run_command(doc! { "fsync": 1 }).await.expect("fsync");
        Some(doctor(&sandbox)).filter(|list| !complaints(list, "oplog").is_empty())
    })
    .await;
    let said = complaints(&short, "oplog");
    assert!(said[0].contains("less than a slice covers (pitr.oplogSpanMin: 10 min)"), "{said:?}");
    let text = sandbox.pbm(&["doctor"]);
    assert_eq!(text.status.code(), Some(2));
    assert!(text.stdout.contains("\nFAIL  oplog") && text.stderr.contains("failed\nHint: "), "{text:?}");
    // A short backup may well end in time.
    let made = sandbox.pbm(&["backup", "--wait"]);
    assert!(made.stderr.contains("Warning: oplog of rs0/"), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_cluster_is_examined() {
    let mut sandbox = ShardedSandbox::sharded(Options::default(), TWO_SHARDS).await;
    let healthy = doctor(&sandbox);
    assert_green(&healthy, &["authorization"]);
    let members: Vec<String> = sandbox
        .set
        .sets()
        .into_iter()
        .flat_map(|set| (0..set.size()).map(|n| format!("{}/{}", set.options().name, set.address_of(n))))
        .collect();
    for check in ["connection", "agent", "storage"] {
        let all = healthy["checks"].as_array().expect("checks").iter();
        let mut seen: Vec<_> = all.filter(|it| it["check"] == check).filter_map(|it| it["subject"].as_str()).collect();
        seen.sort_unstable();
        let mut wanted: Vec<_> = members.iter().map(String::as_str).collect();
        wanted.sort_unstable();
        assert_eq!(seen, wanted, "{check}");
    }
    // A shard that is down, and whose agent can't tell otherwise.
    sandbox.set.shards[1].set.kill(0);
    let down = doctor(&sandbox);
    let gone = format!("rs2/{}: no connection from here", sandbox.set.shards[1].set.address_of(0));
    assert!(complaints(&down, "connection").iter().any(|it| it.starts_with(&gone)), "{down:#}");
}
