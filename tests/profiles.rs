//! Storages beside the main one, and reading storages again, through the command line on real servers.

#[path = "profiles/many.rs"]
mod many;

use crate::support::cluster::{Folder, Options};
use crate::support::programs::Sandbox;
use crate::support::wait::until;
use mongodb::bson::{Document, doc};
use pbmbox::control::Control;
use pbmbox::model::agent::Tenant;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// A cluster with folders for profiles.
pub struct Stage {
    pub sandbox: Sandbox,
    folder: Folder,
}

impl Stage {
    pub async fn set_up() -> Self {
        let sandbox = Sandbox::start(Options::default()).await;
        Self { sandbox, folder: Folder::new("profiles") }
    }

    /// The root of a profile's storage.
    pub fn store(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A profile's file, with `more` lines.
    pub fn file(&self, name: &str, more: &str) -> String {
        let path = self.folder.path().join(format!("{name}.yaml"));
        let store = self.store(name);
        let yaml = format!("storage:\n  type: filesystem\n  filesystem:\n    path: {}\n{more}", store.display());
        fs::write(&path, yaml).expect("write the profile");
        path.display().to_string()
    }

    pub fn add(&self, name: &str) {
        self.sandbox.pbm(&["profile", "add", name, &self.file(name, ""), "--wait"]).ok();
    }

    pub fn json(&self, args: &[&str]) -> Value {
        self.sandbox.pbm(&[args, &["-o", "json"]].concat()).ok().json()
    }

    /// Names of the backups that `pbm list` shows.
    pub fn listed(&self, profile: &str) -> Vec<String> {
        let list = self.json(&["list", "--profile", profile]);
        let all = list["snapshots"].as_array().cloned().unwrap_or_default();
        all.iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect()
    }

    async fn control(&self) -> Control {
        Control::new(self.sandbox.set.client().await)
    }

    async fn orders(&self) -> mongodb::Collection<Document> {
        self.sandbox.set.client().await.database("shop").collection("orders")
    }

    /// The error of a call that must change nothing.
    async fn refused(&self, args: &[&str]) -> String {
        let state = async || {
            let control = self.control().await;
            let profiles = control.config.profiles().await.expect("profiles");
            let commands = self.sandbox.set.client().await.database("admin").collection::<Document>("pbmCmd");
            (
                profiles,
                control.backups.all().await.expect("backups"),
                commands.count_documents(doc! {}).await.expect("count"),
            )
        };
        let before = state().await;
        let output = self.sandbox.pbm(&[args, &["-o", "json"]].concat());
        assert_eq!(output.clone().failed().stderr, "", "{args:?}: {output:?}");
        assert!(state().await == before, "{args:?} changed something");
        output.json()["Error"].as_str().expect("an Error").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_go_to_a_profile_and_come_back() {
    let stage = Stage::set_up().await;
    let pbm = |args: &[&str]| stage.sandbox.pbm(args).ok();
    assert_eq!(stage.json(&["profile"]), json!({ "profiles": [] }));
    let main_backup = stage.sandbox.backup(&[]);

    let file = stage.file("second", "pitr:\n  oplogSpanMin: 5\n");
    let added = pbm(&["profile", "add", "second", &file, "--sync", "--wait"]);
    assert!(added.stderr.contains("not used: pitr"), "{added:?}");
    stage.add("third");
    let store = stage.store("second").display().to_string();
    let shown = json!({ "name": "second", "profile": true, "storage": { "type": "filesystem", "filesystem": { "path": store } } });
    assert_eq!(stage.json(&["profile", "show", "second"]), shown);
    let list = stage.json(&["profile", "list"]);
    assert_eq!((&list["profiles"][0], &list["profiles"][1]["name"]), (&shown, &json!("third")));
    assert!(pbm(&["profile"]).stdout.contains("\n---\nname: third\n"));
    assert_eq!(fs::read(stage.store("second").join(".pbm.init")).expect("the mark"), b"2.15.0");

    // Into the profile, from where it is restored.
    let orders = stage.orders().await;
    orders.insert_many((0..50).map(|n| doc! { "_id": n })).await.expect("insert");
    let made = stage.json(&["backup", "--profile", "second", "--wait"]);
    let name = made["name"].as_str().expect("a name").to_owned();
    assert_eq!(made, json!({ "name": name, "profile": "second", "storagePath": store }));
    assert!(stage.store("second").join(format!("{name}/rs0/metadata.json")).exists());
    assert!(!stage.sandbox.store().join(&name).exists());
    let meta: Value =
        serde_json::from_slice(&fs::read(stage.store("second").join(format!("{name}.pbm.json"))).expect("read"))
            .expect("JSON");
    assert_eq!((&meta["store"]["name"], &meta["store"]["profile"]), (&json!("second"), &json!(true)));
    let described = stage.json(&["describe-backup", &name, "--with-collections"]);
    assert_eq!((&described["profile"], &described["storage_name"]), (&json!("second"), &json!("second")));
    assert!(described["replsets"][0]["collections"].to_string().contains("shop.orders"), "{described}");

    assert_eq!(stage.listed("*"), [main_backup.clone(), name.clone()]);
    assert_eq!(stage.listed("main"), std::slice::from_ref(&main_backup));
    let list = stage.json(&["list", "--profile", "second"]);
    assert_eq!((&list["snapshots"][0]["profile"], list.get("pitr")), (&json!("second"), None), "{list}");
    assert!(pbm(&["list"]).stdout.contains("second"));
    let status = stage.json(&["status", "-s", "backups", "--profile", "second"]);
    assert_eq!(status["backups"]["snapshot"].as_array().map(Vec::len), Some(1), "{status}");
    assert_eq!(status["backups"]["snapshot"][0]["storage"], json!("second"));
    assert_eq!(
        (status["backups"].get("pitrChunks"), &status["backups"]["path"]),
        (None, &json!(stage.sandbox.store()))
    );

    orders.drop().await.expect("drop");
    // The main storage is not needed for it.
    let away = stage.sandbox.store().with_extension("away");
    fs::rename(stage.sandbox.store(), &away).expect("move the main storage away");
    pbm(&["restore", &name, "-y", "--wait"]);
    assert_eq!(orders.count_documents(doc! {}).await.expect("count"), 50);
    fs::remove_dir_all(stage.sandbox.store()).ok();
    fs::rename(&away, stage.sandbox.store()).expect("move the main storage back");

    // Forgotten and found again, with a damaged file beside it.
    pbm(&["profile", "sync", "second", "--clear", "--wait"]);
    assert_eq!(stage.listed("*"), std::slice::from_ref(&main_backup));
    fs::write(stage.store("second").join("2020-01-01T00:00:00Z.pbm.json"), "{").expect("write");
    let synced = pbm(&["profile", "sync", "--all", "--wait"]);
    assert!(synced.stderr.contains("2020-01-01T00:00:00Z.pbm.json can't be read"), "{synced:?}");
    let synced = stage.json(&["profile", "sync", "second", "--wait"]);
    assert_eq!(synced["msg"], json!("OK"));
    assert!(
        synced["warnings"][0].as_str().is_some_and(|said| said.contains("2020-01-01T00:00:00Z.pbm.json")),
        "{synced}"
    );
    assert_eq!(stage.listed("second"), std::slice::from_ref(&name));
    orders.drop().await.expect("drop");
    pbm(&["restore", &name, "-y", "--wait"]);
    assert_eq!(orders.count_documents(doc! {}).await.expect("count"), 50);

    // The main storage knows nothing of it, also when it is read again.
    pbm(&["config", "--force-resync", "--wait"]);
    assert_eq!(stage.listed("*"), [main_backup.clone(), name.clone()]);

    // Deletion finds it by its name; age means one storage.
    let other = stage.sandbox.backup(&["--profile", "third"]);
    let border = "0d";
    let control = stage.control().await;
    let last = control.backups.get(&other).await.expect("read").expect("there").last_write_ts;
    until("the time to pass", SOON, async || {
        (control.advanced_cluster_time().await.ok()?.time > last.time).then_some(())
    })
    .await;
    pbm(&["delete-backup", &name, "-y"]);
    assert!(
        !stage.store("second").join(format!("{name}.pbm.json")).exists() && !stage.store("second").join(&name).exists()
    );
    let plan = stage.json(&["cleanup", "--older-than", border, "--profile", "third", "--dry-run"]);
    assert_eq!(plan["backups"][0]["why"], json!("it is on the main storage"), "{plan}");
    pbm(&["cleanup", "--older-than", border, "--profile", "third", "-y", "--wait"]);
    assert!(!stage.store("third").join(format!("{other}.pbm.json")).exists());
    assert_eq!(stage.listed("*"), std::slice::from_ref(&main_backup));

    // Removed: forgotten, with the files left.
    let kept = stage.sandbox.backup(&["--profile", "third"]);
    pbm(&["profile", "remove", "third", "--wait"]);
    assert_eq!(stage.listed("*"), [main_backup]);
    assert!(stage.store("third").join(format!("{kept}.pbm.json")).exists());
    assert_eq!(stage.json(&["profile"])["profiles"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_refused_and_change_nothing() {
    let stage = Stage::set_up().await;
    stage.add("second");
    let name = stage.sandbox.backup(&["--profile", "second"]);
    let good = stage.file("good", "");
    let wrong = stage.file("wrong", "storag: 1\n");
    let moved = stage.file("elsewhere", "");
    for (args, part) in [
        (&["profile", "add", "main", &good][..], "can't be the name of a profile"),
        (&["profile", "add", "x", &wrong], "storag"),
        (&["profile", "add", "x", "/nosuch.yaml"], "/nosuch.yaml"),
        (&["profile", "add", "second", &moved], "where 1 backups are known"),
        (&["profile", "show", "nosuch"], "no profile named 'nosuch'; there are: second"),
        (&["profile", "remove", "nosuch"], "there are: second"),
        (&["profile", "sync", "nosuch"], "there are: second"),
        (&["profile", "sync"], "PROFILE"),
        (&["backup", "--profile", "nosuch"], "there are: second"),
        (&["list", "--profile", "nosuch"], "there are: second"),
        (&["status", "--profile", "nosuch"], "there are: second"),
        (&["cleanup", "--older-than", "1d", "--profile", "nosuch", "-y"], "there are: second"),
        (&["delete-backup", "--older-than", "1d", "--profile", "nosuch", "-y"], "there are: second"),
        (&["delete-backup", &name, "--profile", "main", "-y"], "on that of second"),
    ] {
        let said = stage.refused(args).await;
        assert!(said.contains(part), "{args:?}: {said}");
    }

    // What only an agent sees: told by the waiting command line, nothing stored.
    fs::write(stage.store("good"), "a file").expect("write");
    let failed = stage.sandbox.pbm(&["profile", "add", "good", &good, "--wait"]).failed();
    assert!(failed.stderr.contains("not a directory"), "{failed:?}");
    assert_eq!(stage.json(&["profile"])["profiles"].as_array().map(Vec::len), Some(1));
    // A profile whose storage is gone fails the backup with the reason, at once.
    fs::remove_dir_all(stage.store("second")).expect("remove");
    fs::write(stage.store("second"), "a file").expect("write");
    let failed = stage.sandbox.pbm(&["backup", "--profile", "second", "--wait"]).failed();
    assert!(failed.stderr.contains("can't use the storage") && failed.stderr.contains("not a directory"), "{failed:?}");
    let failed = stage.sandbox.pbm(&["profile", "sync", "--all", "--wait"]).failed();
    assert!(failed.stderr.contains("profile second"), "{failed:?}");
    // The same keys of the same place may be given again.
    fs::remove_file(stage.store("second")).expect("remove");
    stage.add("second");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_originals_commands_are_understood() {
    let stage = Stage::set_up().await;
    let db = stage.sandbox.set.client().await.database("admin");
    let commands = db.collection::<Document>("pbmCmd");
    let path = stage.store("theirs").display().to_string();
    let storage = doc! { "type": "filesystem", "filesystem": { "path": &path } };
    let add = doc! { "cmd": "addConfigProfile", "profile": { "name": "theirs", "profile": true, "storage": storage.clone() }, "ts": 1_i64 };
    commands.insert_one(add).await.expect("send");
    let profiles = db.collection::<Document>("pbmConfig");
    let stored = until("the profile", SOON, async || {
        profiles.find_one(doc! { "profile": true, "name": "theirs" }).await.expect("read")
    })
    .await;
    assert_eq!(stored.keys().filter(|key| *key != "_id").collect::<Vec<_>>(), ["name", "profile", "storage", "epoch"]);
    assert_eq!(stored.get_document("storage").ok(), Some(&storage));
    assert!(stored.get_timestamp("epoch").is_ok_and(|epoch| epoch.time > 1));

    let ours = stage.sandbox.backup(&["--profile", "theirs"]);
    let store =
        db.collection::<Document>("pbmBackups").find_one(doc! { "name": &ours }).await.expect("read").expect("there");
    let store = store.get_document("store").expect("store").clone();
    assert_eq!(
        store,
        doc! { "name": "theirs", "profile": true, "type": "filesystem", "filesystem": { "path": &path } }
    );

    let remove = doc! { "cmd": "removeConfigProfile", "profile": { "name": "theirs", "profile": false, "storage": { "type": "" } }, "ts": 2_i64 };
    commands.insert_one(remove).await.expect("send");
    until("the profile to go", SOON, async || {
        profiles.find_one(doc! { "profile": true }).await.expect("read").is_none().then_some(())
    })
    .await;
    assert_eq!(stage.listed("*"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_is_restored_from_a_base_on_a_profile_that_is_named() {
    let stage = Stage::set_up().await;
    stage.add("second");
    stage.sandbox.backup(&[]);
    stage.sandbox.pbm(&["config", "--set", "pitr.maxLossSec=5"]).ok();
    stage.sandbox.pbm(&["config", "--set", "pitr.enabled=true"]).ok();
    let control = stage.control().await;
    until("slicing to begin", SOON, async || (!control.locks.slicers().await.ok()?.is_empty()).then_some(())).await;
    let orders = stage.orders().await;
    orders.insert_one(doc! { "_id": 0 }).await.expect("insert");
    let base = stage.sandbox.backup(&["--profile", "second"]);
    orders.insert_one(doc! { "_id": 1 }).await.expect("insert");
    let written = control.cluster_time().await.expect("time");
    until("the write to be saved", SOON, async || (control.chunks.newest_end().await.ok()?? >= written).then_some(()))
        .await;
    assert_eq!(fs::read_dir(stage.store("second")).expect("read").count(), 4, "no oplog there");
    orders.drop().await.expect("drop");
    let target = format!("{},{}", written.time, written.increment);
    let args = ["restore", "--time", &target, "--base-snapshot", &base, "-y", "--wait", "-o", "json"];
    let restored = stage.sandbox.pbm(&args).ok().json();
    assert_eq!(orders.count_documents(doc! {}).await.expect("count"), 2);
    let name = restored["name"].as_str().expect("a name");
    assert_eq!(stage.json(&["describe-restore", name])["backup"], json!(base));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_on_one_storage_are_told() {
    let stage = Stage::set_up().await;
    let first = stage.json(&["backup", "--wait"]);
    assert_eq!(first.get("warnings"), None, "{first}");
    let marks = stage.sandbox.store().join("pbmPitr/.clusters");
    let own: Tenant = {
        let entry = fs::read_dir(&marks).expect("marks").next().expect("one").expect("an entry");
        serde_json::from_slice(&fs::read(entry.path()).expect("read")).expect("a mark")
    };
    assert_eq!((own.name.as_str(), own.id.len()), ("rs0", 24));

    let other = Tenant { id: "f".repeat(24), name: "other-rs".into(), node: "far:1".into(), last: 1_795_221_871 };
    fs::write(marks.join(&other.id), serde_json::to_vec(&other).expect("JSON")).expect("write");
    let second = stage.json(&["backup", "--wait"]);
    assert!(second["warnings"][0].as_str().is_some_and(|said| said.contains("cluster other-rs")), "{second}");
    let checked = until("the agent's line", SOON, async || {
        let checked = stage.sandbox.pbm(&["status", "--check"]);
        checked.stdout.contains("WARNING: the main storage is shared").then_some(checked)
    })
    .await;
    assert_eq!(checked.status.code(), Some(2));
    assert!(checked.stderr.contains("--force-resync") && checked.stderr.contains("far:1"), "{checked:?}");
    assert_eq!(stage.json(&["status", "-s", "backups"])["backups"]["sharedWith"][0]["name"], json!("other-rs"));

    stage.sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    assert!(!marks.join(&other.id).exists() && marks.join(&own.id).exists());
    let third = stage.json(&["backup", "--wait"]);
    assert_eq!(third.get("warnings"), None, "{third}");
    until("the warning to go", SOON, async || stage.sandbox.pbm(&["status", "--check"]).status.success().then_some(()))
        .await;

    // Only reading, as another cluster that restores from here does, leaves no trace.
    fs::remove_file(marks.join(&own.id)).expect("remove");
    fs::write(marks.join(&other.id), serde_json::to_vec(&other).expect("JSON")).expect("write");
    let read = stage.json(&["config", "--force-resync", "--wait"]);
    assert!(read["warnings"][0].as_str().is_some_and(|said| said.contains("belongs to another cluster")), "{read}");
    assert_eq!(fs::read_dir(&marks).expect("marks").count(), 1);
    stage.sandbox.pbm(&["status", "--check"]).ok();
}
