//! What cannot be restored is refused with the reason, and the target is as it was.

use super::fixtures::replica_set;
use crate::support::programs::Sandbox;
use crate::support::{state, wait};
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::control::{Control, Order};
use pbmbox::model::command::RestoreCmd;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const BASE: &str = "2026-11-21T02:21:35Z";

/// Something that a restore would replace.
async fn fill(sandbox: &Sandbox) -> serde_json::Value {
    let client = sandbox.set.client().await;
    client.database("shop").collection("orders").insert_one(doc! { "_id": "mine" }).await.expect("insert");
    client.database("other").collection("kept").insert_one(doc! { "_id": 1 }).await.expect("insert");
    state::read(&client).await
}

async fn refused(sandbox: &Sandbox, args: &[&str], parts: &[&str]) {
    let before = state::read(&sandbox.set.client().await).await;
    let mut all = vec!["restore", "-y", "--wait"];
    all.extend(args);
    let said = sandbox.pbm(&all).failed();
    assert!(matches!(said.status.code(), Some(1 | 2 | 4 | 5)), "by the agents, or before they were asked: {args:?}");
    for part in parts {
        assert!(said.stderr.contains(part), "{args:?}: {part}\n{}", said.stderr);
    }
    let after = state::read(&sandbox.set.client().await).await;
    assert_eq!(state::differences(&before, &after), Vec::<String>::new(), "{args:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_that_nothing_leads_to() {
    let sandbox = replica_set().await;
    fill(&sandbox).await;
    for (args, parts) in [
        (&[][..], &["--time"][..]),
        (&[BASE, "--time", "latest"], &["cannot be used with"]),
        (&[BASE, "--base-snapshot", BASE], &["--base-snapshot"]),
        (&["--base-snapshot", BASE], &["--time"]),
        (&["--time", "yesterday"], &["'yesterday' is not a time", "2026-03-01T10:20:30", "T,I", "latest"]),
        (
            &["--time", "2020-01-01T00:00:00"],
            &[
                "no backup ends at or before 2020-01-01T00:00:00Z",
                BASE,
                "restorable after it: 2026-11-21T02:21:40Z (1795227700,2) to 2026-11-21T02:23:18Z (1795227798,7)",
            ],
        ),
        (
            &["--time", "2030-01-01T00:00:00"],
            &["the oplog of replica set 'rs0' ends at 2026-11-21T02:23:18Z (1795227798,7)", "restorable before it"],
        ),
        (&["--time", "1795227798,8"], &["ends at 2026-11-21T02:23:18Z (1795227798,7)"]),
        (&["--time", "2026-11-21T02:22:44", "--base-snapshot", "nobody"], &["no backup named nobody", "pbm list"]),
        (&["--time", "2026-11-21T02:21:39", "--base-snapshot", BASE], &["before the end of the backup"]),
    ] {
        refused(&sandbox, args, parts).await;
    }

    // A gap: the index knows of it after a resync.
    let away = chunks(&sandbox).remove(3);
    fs::rename(&away, sandbox.store().join("away")).expect("move a chunk");
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    refused(
        &sandbox,
        &["--time", "2026-11-21T02:23:04"],
        &[
            "the oplog of replica set 'rs0' has a gap from 2026-11-21T02:22:38Z (1795227758,276) to 2026-11-21T02:22:51Z (1795227771,53)",
            "restorable before it: 2026-11-21T02:21:40Z (1795227700,2) to 2026-11-21T02:22:38Z (1795227758,276)",
        ],
    )
    .await;

    // Whoever sends the command without asking first gets the same answer, in the restore's document.
    let control = Control::new(sandbox.set.client().await);
    let name = "2026-11-21T03:00:00.5Z";
    let command = doc! {
        "name": name, "backupName": BASE, "fallbackEnabled": null, "allowPartlyDone": null, "external": false,
        "oplogTS": Timestamp { time: 1_924_992_000, increment: 0 },
    };
    let command: RestoreCmd = mongodb::bson::deserialize_from_document(command).expect("a command");
    control.commands.send(Order::Restore(command)).await.expect("send");
    let ended = wait::until("the refusal", Duration::from_secs(30), async || {
        control.restores.get(name).await.expect("read").filter(|restore| restore.status.is_final())
    })
    .await;
    assert_eq!((ended.pitr, ended.start_pitr, ended.backup.as_str()), (1_924_992_000, 0, BASE));
    let reason = ended.error.unwrap_or_default();
    assert!(reason.contains("nothing was changed") && reason.contains("has a gap from"), "{reason}");
    assert_eq!(ended.replsets[0].error.as_deref(), Some(reason.as_str()));
    let kept = sandbox.set.client().await.database("shop").collection::<Document>("orders");
    assert_eq!(kept.count_documents(doc! {}).await.expect("count"), 1);
}

/// In the order of time.
fn chunks(sandbox: &Sandbox) -> Vec<PathBuf> {
    let folder = sandbox.store().join("pbmPitr/rs0/20261121");
    let mut all: Vec<PathBuf> = fs::read_dir(folder).expect("chunks").map(|e| e.expect("a file").path()).collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_lost_or_damaged() {
    let sandbox = replica_set().await;
    fill(&sandbox).await;
    let all = chunks(&sandbox);
    let (third, whole) = (&all[2], fs::read(&all[2]).expect("read a chunk"));
    let name = third.file_name().expect("a name").to_string_lossy().into_owned();
    let advice = "the last moment before it that can be restored is 2026-11-21T02:22:27Z (1795227747,163): repeat with --time 1795227747,163";
    let parts = [name.as_str(), "nothing was changed", advice];
    let time = ["--time", "1795227764,4"];

    fs::remove_file(third).expect("delete a chunk");
    refused(&sandbox, &time, &parts).await;
    for damage in [
        Vec::new(),
        whole[..whole.len() / 2].to_vec(),
        whole.iter().enumerate().map(|(at, byte)| if at == whole.len() / 2 { byte ^ 1 } else { *byte }).collect(),
    ] {
        fs::write(third, damage).expect("write a chunk");
        refused(&sandbox, &time, &parts).await;
    }
    fs::write(third, &whole).expect("write a chunk");
    fs::remove_file(&all[0]).expect("delete a chunk");
    refused(&sandbox, &time, &["only the backup itself can be restored", BASE]).await;
    // What is not needed may be lost.
    sandbox.pbm(&["restore", "--time", "1795227700,2", "--wait", "-y"]).ok();
}
