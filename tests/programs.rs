//! The programs beside `pbm` and the agent, and reports for support: one sandbox, and none where none is needed.

use crate::support::cluster::{Folder, Options, Version, binary};
use crate::support::programs::{Output, Programs, Sandbox};
use crate::support::wait::until;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
/// Secrets that are put where reports could find them.
const KEY: &str = "AKIDTHROWAWAY";
const SECRET: &str = "throw/away+secret=";
const URI_SECRET: &str = "uri-secret-77";

#[tokio::test(flavor = "multi_thread")]
async fn programs_beside_pbm_on_one_cluster() {
    let sandbox = Sandbox::start(Options { auth: true, ..Options::default() }).await;
    let coll = sandbox.set.client().await.database("shop").collection::<Document>("orders");
    coll.insert_many((0..500).map(|n| doc! { "_id": n, "text": "the same words again" })).await.expect("insert");

    let name = ctl_backs_up_and_restores(&sandbox).await;
    ctl_lists(&sandbox, &name);
    reports(&sandbox, &name).await;
    speed(&sandbox).await;
}

fn store(sandbox: &Sandbox) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(sandbox.store()).expect("read").flatten().map(|it| it.path()).collect();
    files.sort();
    files
}

async fn ctl_backs_up_and_restores(sandbox: &Sandbox) -> String {
    let ctl = |args: &[&str]| sandbox.call("pbmctl", args);
    let empty = ctl(&["list", "backups"]).ok();
    assert_eq!(empty.stdout, "No backups found\n");
    let made =
        ctl(&["run", "backup", "--description", "before the move", "--storage", "main", "-o", "json"]).ok().json();
    let name = made["name"].as_str().expect("a name").to_owned();
    let described = sandbox.pbm(&["describe-backup", &name, "-o", "json"]).ok().json();
    assert_eq!((&described["description"], &described["status"]), (&json!("before the move"), &json!("done")));
    let file = fs::read(sandbox.store().join(format!("{name}.pbm.json"))).expect("the metadata");
    let file: Value = serde_json::from_slice(&file).expect("JSON");
    assert_eq!(file["description"], "before the move", "a resync brings it back");

    for (args, part) in [
        (&["run", "backup", "--description", "d", "--storage", "old-s3"][..], "no profile named 'old-s3'"),
        (
            &["run", "backup", "--description", "d", "--storage", "main", "--backup-type", "hot"],
            "can take a physical backup",
        ),
        (&["run", "restore", &format!("{name}.json"), "--storage", "old-s3"], "is on the storage main"),
        (&["run", "restore", "nosuch.json", "--storage", "main"], "no backup named nosuch"),
        (&["run", "restore", &name, "--storage", "main", "--skip-users-and-roles"], "--skip-users-and-roles"),
    ] {
        let said = ctl(args).failed();
        assert!(said.stderr.contains(part) && said.stderr.contains("\nHint: "), "{args:?}: {said:?}");
    }

    let coll = sandbox.set.client().await.database("shop").collection::<Document>("orders");
    coll.delete_many(doc! { "_id": { "$lt": 100 } }).await.expect("delete");
    let restored =
        ctl(&["-s", "coordinator:10001", "run", "restore", &format!("{name}.json"), "--storage", "main"]).ok();
    assert!(restored.stderr.contains("Warning: --server-address is not used"), "{restored:?}");
    assert_eq!(coll.count_documents(doc! {}).await.expect("count"), 500);
    name
}

fn ctl_lists(sandbox: &Sandbox, name: &str) {
    let ctl = |args: &[&str]| sandbox.call("pbmctl", args).ok();
    let backups = ctl(&["list", "backups"]).stdout;
    assert_eq!(backups.lines().nth(2), Some(format!("{:<30} - before the move", format!("{name}.json")).as_str()));
    assert_eq!(
        ctl(&["-o", "json", "list", "backups"]).json(),
        json!([{ "filename": format!("{name}.json"), "description": "before the move" }])
    );
    let me = sandbox.set.address_of(0);
    let nodes = ctl(&["list", "nodes", "--verbose", "-o", "json"]).json();
    let node = &nodes[0];
    assert_eq!((&node["id"], &node["replicaset_name"]), (&json!(me), &json!("rs0")));
    assert_eq!((&node["node_type"], &node["running_db_backup"]), (&json!("NODE_TYPE_MONGOD_REPLSET"), &json!(false)));
    assert_eq!(
        (node["cluster_id"].as_str().map(str::len), node["replicaset_id"].as_str()),
        (Some(24), node["cluster_id"].as_str())
    );
    assert!(
        ctl(&["list", "nodes"])
            .stdout
            .lines()
            .nth(2)
            .is_some_and(|line| line.starts_with(&me) && line.ends_with("      No / No"))
    );
    let storages = ctl(&["list", "storages"]).stdout;
    let path = format!("  Path       : {}", sandbox.store().display());
    for line in ["Name         : main", &format!("MatchClients : {me},"), "Storage configuration is valid.", &path] {
        assert!(storages.lines().any(|it| it == line), "{line}: {storages}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

async fn reports(sandbox: &Sandbox, name: &str) {
    // Secrets in every place that a report reads: the configuration, the backup's document, and the log.
    for setting in ["access-key-id", "secret-access-key"].iter().zip([KEY, SECRET]) {
        sandbox.pbm(&["config", "--set", &format!("storage.s3.credentials.{}={}", setting.0, setting.1)]).ok();
    }
    let admin = sandbox.set.client().await.database("admin");
    let backups = admin.collection::<Document>("pbmBackups");
    let mut opid = String::new();
    for kind in ["s3", "minio"] {
        let set = doc! { format!("store.{kind}"): { "bucket": "b", "credentials": { "secret-access-key": SECRET } } };
        backups.update_one(doc! { "name": name }, doc! { "$set": set }).await.expect("update");
        let found = backups.find_one(doc! { "name": name }).await.expect("read").expect("there");
        found.get_str("opid").expect("an OPID").clone_into(&mut opid);
    }
    let log = admin.collection::<Document>("pbmLog");
    until("the backup's lines in the log", SOON, async || {
        let there = log.count_documents(doc! { "opid": &opid, "msg": "backup finished" }).await.expect("count");
        (there > 0).then_some(())
    })
    .await;
    for msg in [
        format!("PUT refused for {KEY}: signature by {SECRET} does not match"),
        format!("connect to mongodb://far:{URI_SECRET}@h:1/?tls=true failed"),
    ] {
        let line = doc! { "ts": 1_i64, "s": 3, "rs": "rs0", "node": "h:1", "e": "backup", "eobj": name, "opid": &opid, "msg": msg };
        log.insert_one(line).await.expect("insert");
    }

    let folder = Folder::new("report");
    let to = folder.path().join("by-name");
    let path = to.display().to_string();
    let made = sandbox.pbm(&["diagnostic", "--path", &path, "--name", name, "--archive", "-o", "json"]).ok();
    assert_eq!(made.stderr, "");
    let made = made.json();
    assert!(made["msg"].as_str().is_some_and(|msg| msg.contains(name)), "{made}");
    assert_eq!(made["missing"], Value::Null, "{made}");
    assert_eq!(mode(&to), 0o700);
    let read = |kind: &str| fs::read_to_string(to.join(format!("{name}.{kind}"))).expect(kind);
    for kind in ["report.json", "backup.json", "nodes.json", "log", "log.jsonl", "zip"] {
        assert_eq!(mode(&to.join(format!("{name}.{kind}"))), 0o600, "{kind}");
    }
    let report: Value = serde_json::from_str(&read("report.json")).expect("JSON");
    assert_eq!(
        (&report["opid"], &report["server_version"], &report["command"]["cmd"]),
        (&json!(opid), &json!("6.0.5"), &json!("backup"))
    );
    let me = sandbox.set.address_of(0);
    assert_eq!(report["replsets"], json!([{ "_id": "rs0", "host": format!("rs0/{me}") }]));
    assert_eq!((&report["agents"][0]["n"], &report["agents"][0]["v"]), (&json!(me), &json!("2.15.0")));
    assert_eq!(report["config"][0]["storage"]["filesystem"]["path"], sandbox.store().display().to_string());
    assert_eq!(report["config"][0]["storage"]["s3"]["credentials"]["secret-access-key"], "***");
    let backup: Value = serde_json::from_str(&read("backup.json")).expect("JSON");
    assert_eq!((&backup["name"], &backup["store"]["s3"]["bucket"]), (&json!(name), &json!("b")));
    let nodes: Value = serde_json::from_str(&read("nodes.json")).expect("JSON");
    assert_eq!(nodes["nodes"][0]["repl_status"]["members"][0]["stateStr"], "PRIMARY");
    let lines: Vec<Value> = read("log.jsonl").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), read("log").lines().count());
    assert!(lines.iter().all(|line| line["opid"] == json!(opid)));
    assert!(lines.iter().any(|line| line["msg"] == "backup finished"), "the agent's lines too");
    assert!(read("log").contains("PUT refused for ***: signature by *** does not match"), "{}", read("log"));

    // By OPID: with a file of somebody else in the directory, and in all text of both reports no secret.
    fs::write(to.join("other"), "x").expect("write");
    let said = sandbox.pbm(&["diagnostic", "--path", &path, "--opid", &opid]).ok();
    assert!(said.stdout.contains(&format!("{opid}.report.json")), "{said:?}");
    let mut files = 0;
    for entry in fs::read_dir(&to).expect("read").flatten() {
        let text = String::from_utf8_lossy(&fs::read(entry.path()).expect("read")).into_owned();
        let password = crate::support::cluster::PASSWORD;
        for secret in [KEY, SECRET, URI_SECRET, password, "throwaway%201%2F2"] {
            assert!(!text.contains(secret), "{secret} is in {}", entry.path().display());
        }
        files += 1;
    }
    assert_eq!(files, 6 + 5 + 1);

    // Nothing is overwritten unless that is asked for.
    let before = read("report.json");
    let again = sandbox.pbm(&["diagnostic", "--path", &path, "--name", name]).failed();
    assert!(again.stderr.contains("is there already") && again.stderr.contains("--force"), "{again:?}");
    assert_eq!(read("report.json"), before);
    sandbox.pbm(&["diagnostic", "--path", &path, "--name", name, "--force"]).ok();
    assert!(
        read("report.json") != before && !to.join(format!("{name}.zip")).exists(),
        "the old archive is of the old report"
    );

    // A restore, with the backup that it restored; what has no document of its own; what nobody knows.
    let restore =
        sandbox.pbm(&["list", "--restore", "-o", "json"]).ok().json()[0]["name"].as_str().expect("a name").to_owned();
    let other = folder.path().join("restore").display().to_string();
    let made = sandbox.pbm(&["diagnostic", "--path", &other, "--name", &restore, "-o", "json"]).ok().json();
    let files: Vec<&str> = made["files"].as_array().expect("files").iter().filter_map(Value::as_str).collect();
    for kind in ["restore.json", "backup.json"] {
        assert!(files.contains(&format!("{other}/{restore}.{kind}").as_str()), "{files:?}");
    }
    let resync = sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    assert!(resync.status.success());
    let commands = admin.collection::<Document>("pbmCmd");
    let resync =
        commands.find_one(doc! { "cmd": "resync" }).sort(doc! { "ts": -1 }).await.expect("read").expect("there");
    let id = resync.get_object_id("_id").expect("an id").to_hex();
    sandbox.pbm(&["diagnostic", "--path", &other, "--opid", &id]).ok();
    let missing = folder.path().join("missing");
    for args in [["--name", "nosuch"], ["--opid", "nosuch"], ["--opid", "6b00e96ba335c6b2a98b25e5"]] {
        let said = sandbox.pbm(&["diagnostic", "--path", &missing.display().to_string(), args[0], args[1]]).failed();
        assert!(said.stderr.contains("no operation is known") && said.stderr.contains("\nHint: "), "{said:?}");
    }
    assert!(!missing.exists(), "nothing is made for an operation that nobody knows");
    let said = sandbox.pbm(&["diagnostic", "--path", &missing.display().to_string(), "-o", "json"]).failed();
    assert!(said.json()["Error"].is_string(), "{said:?}");
}

async fn speed(sandbox: &Sandbox) {
    let test = |args: &[&str]| sandbox.call("pbm-speed-test", args);
    let before = store(sandbox);
    let written =
        test(&["storage", "--size-gb", "0.01", "--compression", "gzip", "--compression-level", "1", "-o", "json"])
            .ok()
            .json();
    assert_eq!((&written["test"], &written["bytes"]), (&json!("storage"), &json!(10_737_418)), "{written}");
    assert_eq!(written["storagePath"], sandbox.store().display().to_string());
    assert!(written["storedMbPerSec"].as_f64().is_some_and(|rate| rate > 0.0), "{written}");
    let sampled =
        test(&["compression", "-c", "shop.orders", "-s", "0.001", "--compression", "zstd", "-o", "json"]).ok().json();
    assert_eq!(sampled["data"], "shop.orders");
    assert!(sampled["ratio"].as_f64().is_some_and(|ratio| ratio > 5.0), "text that repeats itself: {sampled}");
    assert!(sampled["notes"][0].as_str().is_some_and(|note| note.contains("repeated")), "{sampled}");
    let none = test(&["compression", "-c", "shop.nothing", "-s", "0.001"]).failed();
    assert!(none.stderr.contains("no documents in shop.nothing") && none.stderr.contains("\nHint: "), "{none:?}");

    // A storage that takes nothing: an error, and nothing stays.
    fs::set_permissions(sandbox.store(), fs::Permissions::from_mode(0o500)).expect("close the store");
    let closed = test(&["storage", "-s", "0.001"]);
    fs::set_permissions(sandbox.store(), fs::Permissions::from_mode(0o700)).expect("open the store");
    // Whoever may write everywhere is not stopped by that.
    if !is_root() {
        assert!(closed.failed().stderr.starts_with("Compressing"));
    }
    // Neither does it when the test is interrupted in the middle of a large object.
    let mut running = sandbox
        .programs
        .command("pbm-speed-test")
        .env("PBM_MONGODB_URI", sandbox.set.uri())
        .args(["storage", "-s", "1000", "--compression", "gzip"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("start");
    until("the object", SOON, async || sandbox.store().join(".pbm.speed-test").exists().then_some(())).await;
    crate::support::programs::signal(running.id(), "INT");
    assert_eq!(running.wait().expect("wait").code(), Some(130));
    assert_eq!(store(sandbox), before, "something stayed on the storage");
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0)
}

fn run(command: &mut std::process::Command) -> Output {
    let output = command.output().expect("run");
    Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        status: output.status,
    }
}

#[test]
fn what_needs_no_server_works_without_one() {
    let programs = Programs::new();
    let call = |program: &str, args: &[&str]| run(programs.command(program).args(args));
    for codec in ["none", "s2"] {
        let it =
            call("pbm-speed-test", &["compression", "-s", "0.002", "--compression", codec, "-o", "json"]).ok().json();
        assert_eq!(
            (&it["compression"], &it["data"], &it["bytes"]),
            (&json!(codec), &json!("random documents"), &json!(2_147_483))
        );
        assert_eq!(it["ratio"].as_f64().is_some_and(|ratio| ratio > 1.1), codec != "none", "{it}");
    }
    let text = call("pbm-speed-test", &["compression", "-s", "0.001"]).ok().stdout;
    assert!(text.contains("MB/s") && text.contains("ratio"), "{text}");
    for (program, args, part) in [
        ("pbm-speed-test", &["storage"][..], "no connection string"),
        ("pbm-speed-test", &["compression", "-c", "a.b"], "no connection string"),
        ("pbm-speed-test", &["compression", "--compression", "gzip", "--compression-level", "10"], "level 10"),
        ("pbmctl", &["list", "backups"], "no connection string"),
        ("pbmctl", &["list", "nodes", "--server-address", "h:10001"], "there is no coordinator"),
        ("pbmctl", &["run", "backup", "--storage", "s"], "--description"),
        ("pbmctl", &["nosuch"], "nosuch"),
    ] {
        let said = call(program, &[args, &["-o", "json"]].concat()).failed();
        assert_eq!((said.status.code(), said.stderr.as_str()), (Some(2), ""), "{args:?}: {said:?}");
        let value = said.json();
        assert!(value["Error"].as_str().is_some_and(|text| text.contains(part)), "{args:?}: {value}");
        assert!(value["Hints"].is_array(), "{args:?}: {value}");
    }
    assert_eq!(call("pbm-speed-test", &["version", "--short"]).ok().stdout, "2.15.0\n");
    assert!(call("pbm-speed-test", &["version", "--format", "json"]).ok().json()["Version"].is_string());
    assert!(call("pbmctl", &["version"]).ok().stdout.starts_with("Version   : 2.15.0\nCommit    :"));
}

/// All files of a directory with their content.
/// The first command of the README.
#[test]
fn the_sandbox_loses_data_and_restores_it_and_leaves_nothing_behind() {
    let (mongod, _) = binary(Version::Current);
    let temporary = Folder::new("sandbox");
    let mut sandbox = std::process::Command::new(env!("CARGO_BIN_EXE_pbmbox"));
    sandbox.env_clear().env("TMPDIR", temporary.path()).arg("sandbox").arg("--mongod").arg(mongod);
    let done = run(&mut sandbox).ok();
    assert!(done.stdout.contains("every byte and every index as before"), "{done:?}");
    assert_eq!(content(temporary.path()), Vec::new(), "its folder is removed");

    let mut without = std::process::Command::new(env!("CARGO_BIN_EXE_pbmbox"));
    without.env_clear().env("TMPDIR", temporary.path()).args(["sandbox", "--mongod", "/nowhere/mongod"]);
    let refused = run(&mut without).failed();
    assert!(refused.stderr.contains("start /nowhere/mongod; install MongoDB, or give"), "{refused:?}");
    assert_eq!(content(temporary.path()), Vec::new(), "its folder is removed");
}

fn content(folder: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("read")
        .flatten()
        .map(|it| (it.file_name().into_string().expect("text"), fs::read_to_string(it.path()).expect("read")))
        .collect();
    files.sort();
    files
}

/// The completions that bash offers for the last word.
fn offered(programs: &Programs, script: &Path, words: &[&str]) -> Vec<String> {
    let pbm = programs.path("pbm").display().to_string();
    let words = [&[pbm.as_str()], words].concat();
    let call = r#"compopt() { :; }; source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pbm "$1" "${!#}" "${COMP_WORDS[COMP_CWORD-1]}"; printf '%s\n' "${COMPREPLY[@]}""#;
    let done = std::process::Command::new("bash")
        .env_remove("PBM_MONGODB_URI")
        .args(["-c", call, "bash"])
        .arg(script)
        .args(words)
        .output()
        .expect("run bash");
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    String::from_utf8(done.stdout).expect("text").lines().map(str::to_owned).filter(|it| !it.is_empty()).collect()
}

fn completion_offers_values(programs: &Programs, script: &Path) {
    let offered = |words: &[&str]| offered(programs, script, words);
    assert_eq!(offered(&["backup", "--compression", ""]), ["none", "gzip", "pgzip", "snappy", "lz4", "s2", "zstd"]);
    assert_eq!(offered(&["backup", "--compression", "s"]), ["snappy", "s2"]);
    assert_eq!(offered(&["backup", "--type", ""]), ["logical", "physical"]);
    assert_eq!(offered(&["logs", "--event", "rest"]), ["restore"]);
    // Without a connection bash offers nothing, and no file names either.
    for words in [&["backup", "--profile", ""][..], &["restore", "--base-snapshot", ""], &["backup", "--wait-time", ""]]
    {
        assert_eq!(offered(words), [""; 0], "{words:?}");
    }
    assert!(offered(&["backup", "--wa"]).contains(&"--wait".to_owned()));
}

#[test]
fn manual_pages_and_completions_cover_every_program_and_are_always_the_same() {
    let programs = Programs::new();
    let folder = Folder::new("pages");
    let binary = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pbmbox"));
        command.env_clear();
        command
    };
    for what in ["man", "completions"] {
        let (one, two) = (folder.path().join(format!("{what}1")), folder.path().join(format!("{what}2")));
        run(binary().arg(what).arg(&one)).ok();
        let secret = "mongodb://u:throwaway@h";
        let environment = [
            ("PBM_MONGODB_URI", secret),
            ("COLUMNS", "40"),
            ("TERM", "xterm"),
            ("PBMCTL_TLS", "true"),
            ("LOG_PATH", "/x"),
        ];
        run(binary().envs(environment).arg(what).arg(&two)).ok();
        let files = content(&one);
        assert_eq!(files, content(&two), "{what} depend on the environment");
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        let wanted: &[&str] = if what == "man" {
            &[
                "pbm.1",
                "pbm-backup.1",
                "pbm-profile-add.1",
                "pbm-diagnostic.1",
                "pbm-agent.1",
                "pbm-speed-test-storage.1",
                "pbmctl-run-backup.1",
            ]
        } else {
            &["pbm.bash", "_pbm", "pbm.fish", "pbm-agent.bash", "_pbm-speed-test", "pbm-speed-test.fish", "pbmctl.bash"]
        };
        for name in wanted {
            assert!(names.contains(name), "{name}: {names:?}");
        }
    }
    let page = fs::read_to_string(folder.path().join("man1/pbm-restore.1")).expect("read");
    assert!(page.contains("PBM_REPLSET_REMAPPING") && page.contains("\\-\\-dry\\-run"), "{page}");
    // The programs write the same scripts themselves.
    for program in ["pbm", "pbm-agent", "pbm-speed-test", "pbmctl"] {
        for (shell, file) in
            [("bash", format!("{program}.bash")), ("zsh", format!("_{program}")), ("fish", format!("{program}.fish"))]
        {
            let script = run(programs.command(program).args(["completion", shell])).ok().stdout;
            assert_eq!(
                script,
                fs::read_to_string(folder.path().join("completions1").join(&file)).expect("read"),
                "{file}"
            );
        }
        // A shell must be able to read it.
        let script = folder.path().join("completions1").join(format!("{program}.bash"));
        let read = std::process::Command::new("bash").arg("-n").arg(&script).output().expect("run bash");
        assert!(read.status.success(), "{read:?}");
    }
    completion_offers_values(&programs, &folder.path().join("completions1/pbm.bash"));
    for (arg, part) in [("help", "install-links DIR"), ("--version", "pbmbox "), ("--help", "pbm-agent ")] {
        assert!(run(binary().arg(arg)).ok().stdout.contains(part), "{arg}");
    }
    let folderless = run(binary().arg("man")).failed();
    assert!(
        folderless.stderr.contains("man needs a folder") && folderless.stderr.contains("pbmbox man DIR"),
        "{folderless:?}"
    );
    let nowhere = run(binary().args(["man", "/dev/null/x"])).failed();
    assert!(nowhere.stderr.contains("/dev/null/x") && nowhere.stderr.contains("Hint: "), "{nowhere:?}");
    let listed = run(&mut binary()).ok().stdout;
    for program in ["pbm ", "pbm-agent ", "pbm-speed-test ", "pbmctl "] {
        assert!(listed.contains(&format!("\n  {program}")), "{listed}");
    }
}
