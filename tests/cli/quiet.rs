//! Nothing but the result; and the configuration as it takes effect.

use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use crate::support::wait::until;
use mongodb::bson::{Bson, Document, doc};
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn quiet_calls_leave_results_and_errors() {
    let sandbox = Sandbox::start(Options::default()).await;
    let loud = sandbox.pbm(&["backup", "--wait"]).ok();
    // Scripts of the original find the name in this line, in the place where they look for it.
    let name = loud.stdout.split('\'').nth(1).expect("a name in quotes");
    assert_eq!(loud.stdout.lines().next(), Some(format!("Starting backup '{name}'").as_str()), "{loud:?}");
    assert!(name.ends_with('Z') && loud.stdout.contains(&format!("Backup {name} is complete")), "{loud:?}");
    for args in [&["backup", "--wait", "-q"][..], &["--quiet", "config", "--force-resync", "-w"], &["-q", "profile"]] {
        let quiet = sandbox.pbm(args).ok();
        assert_eq!(quiet.stderr, "", "{args:?}");
        assert!(!quiet.stdout.is_empty(), "{args:?}");
    }
    let json = sandbox.pbm(&["backup", "--wait", "-q", "-o", "json"]).ok();
    assert!(json.json()["name"].is_string() && json.stderr.is_empty(), "{json:?}");
    let wrong = sandbox.pbm(&["-q", "describe-backup", "nosuch"]).failed();
    assert!(wrong.stderr.starts_with("Error: there is no backup named nosuch\nHint: "), "{wrong:?}");
    assert_eq!((wrong.status.code(), wrong.stdout.as_str()), (Some(5), ""));

    // Every default, and what is set; the plain form stays as it is.
    sandbox
        .pbm(&["config", "--set", "restore.batchSize=50", "--set", "storage.s3.credentials.session-token=hunter2"])
        .ok();
    let plain = sandbox.pbm(&["config", "-o", "json"]).ok().json();
    assert_eq!(plain["restore"], json!({ "batchSize": 50 }));
    let all = sandbox.pbm(&["config", "--effective", "-o", "json"]).ok().json();
    assert_eq!((&all["restore"]["batchSize"], &all["restore"]["numInsertionWorkers"]), (&json!(50), &json!(4)));
    assert_eq!((&all["pitr"]["oplogSpanMin"], &all["backup"]["compression"]), (&json!(10), &json!("s2")));
    assert_eq!(all["storage"]["s3"]["credentials"], json!({ "session-token": "***" }));
    let text = sandbox.pbm(&["config", "--effective"]).ok().stdout;
    assert!(text.contains("  batchSize: 50\n") && text.contains("  numInsertionWorkers: 4  # default\n"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let unset = sandbox.pbm(&["config", "backup.limitUpload"]).ok().stdout;
    assert_eq!(unset, "[backup.limitUpload=]\n");

    foreign_values_hide_nothing(&sandbox).await;
}

/// Values that shells and other programs have left in the control collections are reported, everything else works, and `pbm`
/// can correct the values.
async fn foreign_values_hide_nothing(sandbox: &Sandbox) {
    let db = sandbox.set.client().await.database("admin");
    let config = db.collection::<Document>("pbmConfig");
    let main = || doc! { "profile": Bson::Null };
    let write = async |change: Document| config.update_one(main(), change).await.expect("write").matched_count == 1;

    // The configuration that `pbm config` shows can be applied, and its secrets keep their values.
    let file = sandbox.storage.path().join("shown.yaml").display().to_string();
    let shown = sandbox.pbm(&["config"]).ok().stdout;
    std::fs::write(&file, &shown).expect("write the file");
    sandbox.pbm(&["config", "--file", &file]).ok();
    let stored = config.find_one(main()).await.expect("read").expect("a configuration");
    assert!(stored.to_string().contains("hunter2") && !stored.to_string().contains("***"), "{stored}");
    std::fs::write(&file, shown.replace("session-token", "secret-access-key")).expect("write the file");
    let refused = sandbox.pbm(&["config", "--file", &file]).failed();
    assert!(refused.stderr.contains("none is stored"), "{refused:?}");
    let refused = sandbox.pbm(&["profile", "add", "p", &file]).failed();
    assert!(refused.stderr.contains("none is stored"), "{refused:?}");

    let spoilt = doc! { "backup.compression": "zip", "backup.numParallelCollections": 2.0, "newer.key": 1, "pitr.maxLossSec": 60 };
    assert!(write(doc! { "$set": spoilt }).await);
    let broken = doc! {
        "_id": "broken", "name": "broken", "rs": "rs0", "n": "h:1", "fname": "f", "status": "error", "replsets": "x",
        "s": "up", "start_ts": 5,
    };
    for coll in ["pbmBackups", "pbmRestores", "pbmPITRChunks", "pbmAgents"] {
        db.collection::<Document>(coll).insert_one(&broken).await.expect("insert");
    }
    let status = sandbox.pbm(&["status"]).ok();
    for part in ["backup.compression can't be 'zip'", "newer is no key", "broken in admin.pbmBackups"] {
        assert!(status.stderr.contains(part), "{part}: {status:?}");
    }
    assert!(status.stdout.contains("logical"), "backups are shown: {status:?}");
    let json = sandbox.pbm(&["status", "-o", "json"]).ok().json();
    assert_eq!(json["configuration"].as_array().map(Vec::len), Some(2), "{json}");
    let doctor = sandbox.pbm(&["doctor"]).stdout;
    let documents = ["pbmBackups", "pbmRestores", "pbmAgents"].map(|coll| format!("broken in admin.{coll}"));
    for part in documents.iter().map(String::as_str).chain(["backup.compression can't be 'zip'"]) {
        assert!(doctor.contains(part), "{part}: {doctor}");
    }
    sandbox.pbm(&["list"]).ok();
    sandbox.pbm(&["list", "--restore"]).ok();
    let name = sandbox.backup(&[]);
    let made =
        db.collection::<Document>("pbmBackups").find_one(doc! { "name": &name }).await.expect("read").expect("it");
    assert_eq!(made.get_str("compression").ok(), Some("s2"), "the default holds");
    until("the agent's word", Duration::from_secs(30), async || {
        sandbox.agents[0].log().contains("backup.compression can't be 'zip'").then_some(())
    })
    .await;

    // Nothing is written to a storage that can't be read.
    let path = sandbox.store().display().to_string();
    assert!(write(doc! { "$set": { "storage.filesystem.path": 5 } }).await);
    let refused = sandbox.pbm(&["backup", "--wait"]).failed();
    assert!(refused.stderr.contains("storage.filesystem.path can't be '5'"), "{refused:?}");
    sandbox.pbm(&["config", "--set", &format!("storage.filesystem.path={path}"), "--wait"]).ok();

    sandbox.pbm(&["config", "--set", "backup.compression=zstd", "--unset", "newer", "--unset", "pitr.maxLossSec"]).ok();
    let mended = sandbox.pbm(&["config", "-o", "json"]).ok().json();
    assert_eq!((&mended["backup"]["compression"], &mended["pitr"]["maxLossSec"]), (&json!("zstd"), &json!(null)));
    assert_eq!(mended["backup"]["numParallelCollections"], json!(2));
    sandbox.pbm(&["config", "--set", "backup.numParallelCollections="]).ok();
    for coll in ["pbmBackups", "pbmRestores", "pbmAgents"] {
        db.collection::<Document>(coll).delete_one(doc! { "_id": "broken" }).await.expect("delete");
    }
    // The index of chunks was written anew when the storage was read.
    let status = sandbox.pbm(&["status"]).ok();
    assert!(!status.stderr.contains("Warning"), "{status:?}");
}
