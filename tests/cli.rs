//! The command line as its callers see it: JSON shapes, exit codes, refusals before anything is queued, waiting.

mod bad_inputs;
mod quiet;

use crate::looking::shapes;
use crate::support::cluster::{Options, ReplicaSet};
use crate::support::programs::{Output, Programs, Sandbox, signal};
use crate::support::wait::until;
use mongodb::bson::{Bson, Document, doc};
use serde_json::{Value, json};
use std::{
    io::Read,
    process::Stdio,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(30);

/// The error of a failed call with `-o json`: one value on stdout, which names the exit code, and nothing on stderr.
#[track_caller]
fn refusal(output: Output) -> String {
    let output = output.failed();
    assert_eq!(output.stderr, "", "with JSON everything is on stdout");
    let value = output.json();
    assert_eq!(value["Code"].as_i64(), output.status.code().map(i64::from), "{value}");
    assert!(value["Hints"].as_array().is_some_and(|hints| !hints.is_empty()), "no next step: {value}");
    value["Error"].as_str().expect("an Error").to_owned()
}

/// Commands that the agents could have seen.
async fn queued(sandbox: &Sandbox) -> u64 {
    let client = sandbox.set.client().await;
    client.database("admin").collection::<Document>("pbmCmd").count_documents(doc! {}).await.expect("count")
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_refused_before_anything_is_queued() {
    let mut sandbox = Sandbox::unconfigured(Options::default()).await;
    for args in [&["list"][..], &["status"], &["backup"], &["config"], &["restore", "x"]] {
        let said = refusal(sandbox.pbm(&[args, &["-o", "json"]].concat()));
        assert!(said.contains("no configuration"), "{args:?}: {said}");
    }
    sandbox.configure(&[]).await;
    beside_the_original(&sandbox).await;
    let before = queued(&sandbox).await;
    for (args, part) in [
        (&["backup", "--compression", "rar"][..], "unknown compression 'rar'"),
        (&["backup", "--compression", "gzip", "--compression-level", "10"], "level 10"),
        (&["backup", "-t", "incremental"], "Percona Server"),
        (&["restore", "nosuch", "-y"], "no backup named nosuch"),
        (&["restore", "nosuch", "-y", "--index-commit-quorum", "51"], "votingMembers"),
        (&["describe-backup", "nosuch"], "no backup named nosuch"),
        (&["describe-restore", "nosuch"], "no restore named nosuch"),
        (&["cancel-backup"], "no backup is running"),
        (&["config", "--set", "no.such.key=1"], "no.such.key"),
        (&["config", "--set", "restore.batchSize=abc"], "whole number"),
        (&["config", "no.such.key"], "no.such.key"),
        (&["logs", "--timezone", "No/Where"], "no such time zone"),
        (&["nosuch"], "nosuch"),
    ] {
        let said = refusal(sandbox.pbm(&[args, &["-o", "json"]].concat()));
        assert!(said.contains(part), "{args:?}: {said}");
    }
    let text = sandbox.pbm(&["describe-backup", "nosuch"]).failed();
    assert!(
        text.stdout.is_empty() && text.stderr.starts_with("Error: ") && text.stderr.contains("\nHint: "),
        "{text:?}"
    );

    // A lock with a heartbeat is an operation, whoever holds it.
    let locks = sandbox.set.client().await.database("admin").collection::<Document>("pbmLock");
    let now = last_write(&sandbox.set).await;
    locks
        .insert_one(doc! { "type": "restore", "replset": "rs0", "node": "far:1", "opid": "abc", "hb": now })
        .await
        .expect("lock");
    let said = refusal(sandbox.pbm(&["backup", "-o", "json"]));
    assert!(["restore", "abc", "far:1"].iter().all(|part| said.contains(part)), "{said}");
    for args in [&["delete-pitr", "--all", "-y"][..], &["cleanup", "--older-than", "1d", "-y"]] {
        let said = refusal(sandbox.pbm(&[args, &["-o", "json"]].concat()));
        assert!(said.contains("another operation in progress"), "{args:?}: {said}");
    }
    locks.delete_many(doc! {}).await.expect("unlock");

    for agent in &mut sandbox.agents {
        agent.terminate().await;
    }
    let said = refusal(sandbox.pbm(&["backup", "-o", "json"]));
    assert!(said.contains("no pbm-agent of replica set"), "{said}");
    assert_eq!(queued(&sandbox).await, before, "something was queued");
}

/// Runs an agent of the original beside ours, and then alone: `pbm` refuses requests that such an agent would silently
/// ignore.
async fn beside_the_original(sandbox: &Sandbox) {
    let agents = sandbox.set.client().await.database("admin").collection::<Document>("pbmAgents");
    let mut theirs = agents.find_one(doc! {}).await.expect("read").expect("our agent's line");
    theirs.remove("_id");
    for (key, value) in [("own", Bson::Null), ("n", "far:1".into())] {
        theirs.insert(key, value);
    }
    theirs.insert("hb", last_write(&sandbox.set).await);
    agents.insert_one(theirs).await.expect("insert");
    for args in [&["backup", "--limit-upload", "5MiB"][..], &["backup", "--ns-exclude", "a.b"]] {
        let said = refusal(sandbox.pbm(&[args, &["-o", "json"]].concat()));
        assert!(said.contains("rs0/far:1") && said.contains("don't understand"), "{args:?}: {said}");
    }
    sandbox.pbm(&["cleanup", "--failed", "--dry-run"]).ok();
    // Until its next heartbeat, our agent's document no longer shows that the agent is ours.
    let begun = Instant::now();
    let said = until("a refusal between two beats", SOON, async || {
        agents.update_many(doc! {}, doc! { "$unset": { "own": 1 } }).await.expect("update");
        let said = sandbox.pbm(&["cleanup", "--failed", "--dry-run"]);
        (!said.status.success()).then_some(said)
    })
    .await;
    assert_eq!(said.status.code(), Some(4), "{said:?}");
    assert!(said.stderr.contains("cleanup --failed is not known") && said.stderr.contains("delete-backup"), "{said:?}");
    assert!(begun.elapsed() < SOON, "at once");
    agents.delete_one(doc! { "n": "far:1" }).await.expect("delete");
}

async fn last_write(set: &ReplicaSet) -> Bson {
    let hello = set.client().await.database("admin").run_command(doc! { "hello": 1 }).await.expect("hello");
    hello
        .get_document("lastWrite")
        .expect("lastWrite")
        .get_document("opTime")
        .expect("opTime")
        .get("ts")
        .expect("ts")
        .clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn results_have_the_originals_shapes() {
    let sandbox = Sandbox::start(Options::default()).await;
    let client = sandbox.set.client().await;
    client.database("shop").collection("users").insert_one(doc! { "a": 1 }).await.expect("insert");

    let made = sandbox.pbm(&["backup", "--wait", "-o", "json"]).ok();
    assert_eq!(made.stderr, "");
    let made = made.json();
    let name = made["name"].as_str().expect("a name");
    assert_eq!(made, json!({ "name": name, "storagePath": sandbox.store().display().to_string() }));
    assert_eq!((name.len(), name.ends_with('Z')), (20, true), "{name}");

    let list = sandbox.pbm(&["list", "-o", "json"]).ok().json();
    let restore_to = list["snapshots"][0]["restoreTo"].as_i64().expect("a time");
    let item = json!({
        "name": name, "status": "done", "printStatus": "success", "restoreTo": restore_to, "pbmVersion": "2.15.0",
        "type": "logical", "src": "",
    });
    assert_eq!(list, json!({ "snapshots": [item], "pitr": { "on": false, "ranges": [] } }));

    let status = sandbox.pbm(&["status", "-o", "json-pretty"]).ok().json();
    assert_eq!(status["running"], json!({}));
    assert_eq!(status["pitr"], json!({ "conf": false, "run": false, "nodes": null }));
    assert_eq!(status["backups"]["type"], "FS");
    assert!(status["backups"]["snapshot"][0]["size"].as_i64().is_some_and(|size| size > 0), "{status}");
    let node = &status["cluster"][0]["nodes"][0];
    assert_eq!((&node["agent"], &node["role"], &node["ok"]), (&json!("v2.15.0"), &json!("P"), &json!(true)));
    let only = sandbox.pbm(&["status", "-s", "running", "-o", "json"]).ok().json();
    assert_eq!(only, json!({ "running": {} }));

    let described = sandbox.pbm(&["describe-backup", name, "--with-collections", "-o", "json"]).ok().json();
    assert_eq!(shapes::check(&shapes::backup(), &described), [""; 0]);
    assert_eq!(shapes::check(&shapes::status(), &status), [""; 0]);
    assert_eq!((&described["storage_type"], &described["status"]), (&json!("filesystem"), &json!("done")));
    let collections = described["replsets"][0]["collections"].as_array().expect("collections");
    assert!(collections.contains(&json!("shop.users")), "{described}");

    // No terminal, no -y: nothing happens, and a script sees that.
    let asked = sandbox.pbm(&["restore", name]).failed();
    assert!(asked.stderr.contains("no terminal") && asked.stderr.contains("shop (1)"), "{asked:?}");
    let restored = sandbox.pbm(&["restore", name, "-y", "--wait", "-o", "json"]).ok().json();
    let restore = restored["name"].as_str().expect("a name");
    assert_eq!(restored, json!({ "name": restore, "snapshot": name }));
    let history = sandbox.pbm(&["list", "--restore", "-o", "json"]).ok().json();
    let start = history[0]["start"].as_i64().expect("a time");
    let item = json!({ "start": start, "status": "done", "type": "snapshot", "snapshot": name, "name": restore });
    assert_eq!(history, json!([item]));
    let described = sandbox.pbm(&["describe-restore", restore, "-o", "json"]).ok().json();
    assert_eq!(shapes::check(&shapes::restore(), &described), [""; 0]);
    assert_eq!((&described["backup"], &described["type"]), (&json!(name), &json!("logical")));
    assert!(described["finish"].is_string(), "{described}");

    let said = until("the agent's log", SOON, async || {
        let lines = sandbox.pbm(&["logs", "-t", "0", "-e", &format!("backup/{name}"), "-o", "json"]).ok().json();
        lines.as_array().is_some_and(|lines| !lines.is_empty()).then_some(lines)
    })
    .await;
    assert_eq!(shapes::check(&shapes::logs(), &said), [""; 0]);
    let text = sandbox.pbm(&["list"]).ok();
    assert!(text.stdout.contains(name) && text.stderr.is_empty(), "{text:?}");
    nothing_of_the_last_backup_is_left(&sandbox, name);
    help_is_no_error(&sandbox);
}

/// Checks that a search of the bucket for leftovers finds none.
fn nothing_of_the_last_backup_is_left(sandbox: &Sandbox, name: &str) {
    let top = || -> Vec<String> {
        let entries = std::fs::read_dir(sandbox.store()).expect("read");
        let mut names: Vec<_> = entries.flatten().map(|it| it.file_name().into_string().expect("text")).collect();
        names.sort();
        names
    };
    // Our objects that belong to no backup are in the folder in which the original keeps its oplog.
    assert_eq!(top(), [".pbm.init".to_owned(), name.to_owned(), format!("{name}.pbm.json"), "pbmPitr".to_owned()]);
    let shown = sandbox.pbm(&["delete-backup", name, "--dry-run", "-o", "json"]).ok().json();
    assert_eq!(shown["msg"], "", "{shown}");
    sandbox.pbm(&["delete-backup", name, "-y"]).ok();
    assert_eq!(top(), [".pbm.init"]);
    for args in [&["cleanup", "--older-than", "0d"][..], &["delete-pitr", "--all"]] {
        for more in [&["--dry-run"][..], &["-y"]] {
            let said = sandbox.pbm(&[args, more, &["-o", "json"]].concat()).ok().json();
            assert_eq!(said["msg"], "nothing to delete", "{args:?} {more:?}: {said}");
        }
    }
}

/// Help ends with success, as in the original.
fn help_is_no_error(sandbox: &Sandbox) {
    let uri = sandbox.set.uri();
    for (args, part) in [
        (&["help", "backup", "--mongodb-uri", &uri][..], "Usage: pbm backup"),
        (&["--mongodb-uri", &uri], "Usage: pbm "),
        (&["--version"], "pbm 2.15.0 (pbmbox "),
    ] {
        let said = sandbox.pbm(args).ok();
        assert!(said.stdout.contains(part) && said.stderr.is_empty(), "{args:?}: {said:?}");
    }
    for (args, error, hint) in [
        (&["backup", "--num-parallel-collections", "x"][..], "a whole number is expected", "`pbm backup --help`"),
        (&["profile", "add", "--nosuch"], "--nosuch", "`pbm profile add --help`"),
        (&["nosuch"], "nosuch", "`pbm --help`"),
    ] {
        let said = sandbox.pbm(args).failed();
        assert!(said.stderr.contains(error) && said.stderr.contains(hint), "{args:?}: {said:?}");
    }
    let said = sandbox.pbm(&["logs", "--event", "foo", "--node", "nope"]).ok();
    assert!(
        said.stderr.contains("no event is called foo") && said.stderr.contains("no agent is called nope"),
        "{said:?}"
    );
    let checked = sandbox.pbm(&["status", "--check", "--max-age", "26h", "-s", "cluster,pitr", "-o", "json"]).failed();
    assert_eq!(
        checked.json()["problems"],
        json!(["there is no complete backup (wanted: one that is not older than 26h0m0s)"])
    );
    let names = sandbox.pbm(&["__names", "nodes"]).ok();
    assert_eq!(names.stdout, format!("rs0/{}\n", sandbox.set.address_of(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_strict_masked_and_has_generations() {
    let sandbox = Sandbox::start(Options::default()).await;
    let configs = sandbox.set.client().await.database("admin").collection::<Document>("pbmConfig");
    let epoch =
        async || configs.find_one(doc! {}).await.expect("read").expect("there").get("epoch").expect("epoch").clone();

    let first = epoch().await;
    let one = sandbox.pbm(&["config", "--set", "backup.compression=zstd", "-o", "json"]).ok().json();
    assert_eq!(one, json!([{ "key": "backup.compression", "value": "zstd" }]));
    assert_eq!(epoch().await, first, "only some keys start a generation");
    let two = sandbox.pbm(&["config", "--set", "pitr.enabled=true", "--set", "pitr.oplogSpanMin=0.2", "-o", "json"]);
    assert_eq!(two.ok().json()[1], json!({ "key": "pitr.oplogSpanMin", "value": "0.2" }));
    let second = epoch().await;
    assert_ne!(second, first);
    sandbox.pbm(&["config", "--set", "pitr.enabled=true"]).ok();
    assert_eq!(epoch().await, second, "it was on already");

    // All keys or none.
    sandbox.pbm(&["config", "--set", "backup.compression=s2", "--set", "backup.compressionLevel=x"]).failed();
    assert_eq!(sandbox.pbm(&["config", "backup.compression"]).ok().stdout, "[backup.compression=zstd]\n");

    sandbox.pbm(&["config", "--set", "storage.s3.credentials.secret-access-key=hunter2"]).ok();
    for args in [&["config"][..], &["config", "--list", "-o", "json"], &["config", "storage", "-o", "json"]] {
        let shown = sandbox.pbm(args).ok();
        assert!(shown.stdout.contains("***") && !shown.stdout.contains("hunter2"), "{shown:?}");
    }

    let file = sandbox.storage.path().join("typo.yaml");
    std::fs::write(&file, "storage: {type: filesystem, filesystem: {pth: /x}}\n").expect("write");
    let said = refusal(sandbox.pbm(&["config", "-f", &file.display().to_string(), "-o", "json"]));
    assert!(said.contains("storage.filesystem.pth"), "{said}");
    assert_eq!(epoch().await, second, "a refused file changes nothing");

    let resync = sandbox.pbm(&["config", "--force-resync", "--wait", "-o", "json"]).ok().json();
    assert!(resync["msg"].is_string(), "{resync}");
    sandbox.pbm(&["config", "--include-restores"]).failed();

    std::fs::write(&file, "storage: {type: filesystem, filesystem: {path: /dev/null/x}}\n").expect("write");
    let said = refusal(sandbox.pbm(&["config", "-f", &file.display().to_string(), "--wait", "-o", "json"]));
    assert!(said.contains("/dev/null/x"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_can_be_limited_and_interrupted_and_a_backup_cancelled() {
    let sandbox = Sandbox::start(Options::default()).await;
    fill(&sandbox).await;
    let slow = ["--compression", "gzip", "--compression-level", "9", "--wait"];

    let limited = sandbox.pbm(&[&["backup", "--wait-time", "2s"], &slow[..]].concat()).failed();
    assert_eq!(limited.status.code(), Some(7), "{limited:?}");
    assert!(limited.stderr.contains("--wait-time of 2 s") && limited.stderr.contains("backup: dump"), "{limited:?}");
    let running = sandbox.pbm(&["status", "-s", "running", "-o", "json"]).ok().json();
    assert_eq!(running["running"]["type"], "backup", "{running}");
    let said = refusal(sandbox.pbm(&["backup", "-o", "json"]));
    assert!(said.contains(running["running"]["opID"].as_str().expect("an OPID")), "{said}");
    cancel(&sandbox).await;

    let waiting = sandbox.pbm_spawn(&[&["backup"], &slow[..]].concat());
    until("the backup to run", SOON, async || {
        let running = sandbox.pbm(&["status", "-s", "running", "-o", "json"]).ok().json();
        (running["running"]["status"] == "snapshot backup").then_some(())
    })
    .await;
    signal(waiting.id(), "INT");
    let ended = waiting.wait_with_output().expect("wait");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("goes on") && said.contains("pbm cancel-backup"), "{said}");
    cancel(&sandbox).await;
}

/// Data that takes seconds to compress.
async fn fill(sandbox: &Sandbox) {
    let coll = sandbox.set.client().await.database("shop").collection::<Document>("noise");
    for _ in 0..40 {
        let noise = |_| doc! { "s": mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: rand::random_iter().take(4000).collect() } };
        coll.insert_many((0..500).map(noise)).await.expect("insert");
    }
}

/// Cancels what runs and waits until its record and its lock say so.
async fn cancel(sandbox: &Sandbox) {
    sandbox.pbm(&["cancel-backup"]).ok();
    until("the backup to be cancelled", SOON, async || {
        let status = sandbox.pbm(&["status", "-s", "backups", "-s", "running", "-o", "json"]).ok().json();
        let snapshots = status["backups"]["snapshot"].as_array().cloned().unwrap_or_default();
        let all = snapshots.iter().all(|it| it["status"] == "canceled" && it["printStatus"] == "failed");
        (all && status["running"] == json!({})).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_call_ends_the_backup_of_a_lost_agent() {
    let mut sandbox = Sandbox::start(Options::default()).await;
    fill(&sandbox).await;
    let waiting =
        sandbox.pbm_spawn(&["backup", "--compression", "gzip", "--compression-level", "9", "--wait", "-o", "json"]);
    until("the backup to run", SOON, async || {
        let running = sandbox.pbm(&["status", "-s", "running", "-o", "json"]).ok().json();
        (running["running"]["status"] == "snapshot backup").then_some(())
    })
    .await;
    sandbox.agents[0].kill();
    let ended = waiting.wait_with_output().expect("wait");
    let value: Value = serde_json::from_slice(&ended.stdout).expect("one JSON value");
    assert_eq!(ended.status.code(), Some(1), "{value}");
    assert!(value["Error"].as_str().is_some_and(|said| said.contains("was lost")), "{value}");
    let status = sandbox.pbm(&["status", "-s", "backups", "-s", "running", "-o", "json"]).ok().json();
    assert_eq!((&status["backups"]["snapshot"][0]["status"], &status["running"]), (&json!("error"), &json!({})));
}

#[test]
fn help_and_version_come_at_once() {
    let programs = Programs::new();
    for args in [&["version"][..], &["--help"], &["help", "restore"], &["-o", "json", "version"]] {
        // The best of ten: this machine has other things to do.
        let first_output = || {
            let begun = Instant::now();
            let mut call = programs.command("pbm").args(args).stdout(Stdio::piped()).spawn().expect("run pbm");
            let read = call.stdout.take().expect("its stdout").read(&mut [0; 1]).expect("read");
            let taken = begun.elapsed();
            call.wait().expect("wait");
            assert_eq!(read, 1, "{args:?}");
            taken
        };
        let best = (0..10).map(|_| first_output()).min().expect("ten");
        assert!(best < Duration::from_millis(30), "{args:?}: {best:?}");
    }
}

#[test]
fn programs_are_chosen_by_name() {
    let programs = Programs::new();
    let run = |command: &mut std::process::Command| command.output().expect("run");
    let version = run(programs.command("pbm").args(["version", "-o", "json"]));
    let version: Value = serde_json::from_slice(&version.stdout).expect("JSON");
    for key in ["Version", "Platform", "GitCommit", "GitBranch", "BuildTime", "GoVersion"] {
        assert!(version[key].is_string(), "{version}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(programs.command("pbm").args(["completion", shell]));
        assert!(script.status.success() && String::from_utf8_lossy(&script.stdout).contains("describe-backup"));
    }
    let binary = || std::process::Command::new(env!("CARGO_BIN_EXE_pbmbox"));
    let listed = run(&mut binary());
    assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("pbm-agent"));
    assert_eq!(run(binary().args(["pbm", "version", "--short"])).stdout, b"2.15.0\n");
    let unknown = run(binary().arg("pbm-nothing"));
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("pbm-agent") && unknown.stdout.is_empty());
    let alone = run(programs.command("pbm").args(["list", "-o", "json"]));
    let alone: Value = serde_json::from_slice(&alone.stdout).expect("JSON");
    assert!(alone["Error"].as_str().is_some_and(|said| said.contains("no connection string")), "{alone}");
}
