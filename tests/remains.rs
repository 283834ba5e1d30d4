//! `pbm cleanup --failed` on a real agent and a real folder: what goes, and all that must stay.

use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::control::{Control, Order};
use pbmbox::model::command::CleanupFailedCmd;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

const FAILED: &str = "2026-01-01T00:00:00Z";
const CANCELED: &str = "2026-01-02T00:00:00Z";
const INCOMPLETE: &str = "2026-01-03T00:00:00Z";
const ORPHAN: &str = "2026-01-04T00:00:00Z";
const OF_ANOTHER: &str = "2026-01-05T00:00:00Z";

fn write(store: &Path, name: &str, text: &str) {
    let path = store.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
    std::fs::write(path, text).expect("write the object");
}

fn objects(root: &Path, folder: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("read a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            objects(root, &path, into);
        } else {
            into.insert(path.strip_prefix(root).expect("below").display().to_string());
        }
    }
}

fn all(store: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    objects(store, store, &mut found);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_backups_and_orphans_go_and_nothing_else() {
    let sandbox = Sandbox::start(Options::default()).await;
    let store = sandbox.store();
    let admin = sandbox.set.client().await.database("admin");
    admin.collection("things").insert_one(doc! { "a": 1 }).await.expect("insert");
    let good = sandbox.backup(&[]);

    let backups = admin.collection::<Document>("pbmBackups");
    let record = |name: &str, status: &str| {
        let hb = Timestamp { time: 1_767_225_600, increment: 1 };
        doc! {
            "type": "logical", "opid": format!("op{name}"), "name": name, "status": status, "error": "why", "hb": hb,
            "start_ts": 1_i64, "last_write_ts": hb, "first_write_ts": hb, "replsets": [], "size": 5_i64, "conditions": [], "compression": "s2",
        }
    };
    let of = |name: &str, status: &str| record(name, status);
    backups
        .insert_many([of(FAILED, "error"), of(CANCELED, "canceled"), of(INCOMPLETE, "error")])
        .await
        .expect("insert");
    let finished = json!({ "name": INCOMPLETE, "status": "done", "pbm_version": "2.15.0" }).to_string();
    let gone = [
        format!("{FAILED}/rs0/a.s2"),
        format!("{CANCELED}/rs0/metadata.json"),
        format!("{ORPHAN}/rs0/b.s2"),
        format!("{ORPHAN}/rs0/c/d.s2"),
    ];
    let young = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let stay = [
        (format!("{INCOMPLETE}.pbm.json"), finished.as_str()),
        (format!("{INCOMPLETE}/rs0/a.s2"), "x"),
        (format!("{OF_ANOTHER}.pbm.json"), "not read"),
        (format!("{OF_ANOTHER}/rs0/a.s2"), "x"),
        (format!("{young}/rs0/a.s2"), "x"),
        (format!(".pbm.restore/{ORPHAN}/rs0/status"), "x"),
        (format!("pbmPitr/rs0/{ORPHAN}/x"), "x"),
        (format!("photos/{ORPHAN}/x"), "x"),
        (format!("{ORPHAN}.txt"), "x"),
    ];
    let good_ones = all(&store);
    gone.iter().for_each(|name| write(&store, name, "12345"));
    stay.iter().for_each(|(name, text)| write(&store, name, text));
    let before = all(&store);

    let shown = sandbox.pbm(&["cleanup", "--failed", "--dry-run", "-o", "json"]).ok().json();
    assert_eq!(shown["orphans"], json!([{ "name": ORPHAN, "objects": 2, "size": 10 }]), "{shown}");
    let goes = |name: &str| {
        shown["backups"].as_array().expect("a list").iter().find(|it| it["name"] == name).map(|it| it["goes"].clone())
    };
    assert_eq!(
        [FAILED, CANCELED, &good].map(goes),
        [Some(json!(true)), Some(json!(true)), Some(json!(false))],
        "{shown}"
    );
    let asked = sandbox.pbm(&["cleanup", "--failed"]).failed();
    assert!(asked.stderr.contains("no terminal") && asked.stderr.contains(ORPHAN), "{asked:?}");
    // A command of the original's kind with nothing in it, and one that agrees to more than there is.
    let control = Control::new(sandbox.set.client().await);
    let more = ["pbmPitr", ".pbm.restore", "photos", &young, OF_ANOTHER, &good]
        .map(|name| pbmbox::model::command::Orphan { name: name.to_owned(), objects: 1, size: 1 });
    for orphan in more {
        let name = orphan.name.clone();
        let wish =
            CleanupFailedCmd { backups: vec![good.clone()], orphans: vec![orphan], ..CleanupFailedCmd::default() };
        let opid = control.commands.send(Order::CleanupFailed(wish)).await.expect("send").to_hex();
        crate::support::wait::until("the agent to refuse", std::time::Duration::from_secs(30), async || {
            let said = sandbox.pbm(&["logs", "-t", "0", "-s", "E", "-i", &opid]).ok().stdout;
            said.contains(&format!("'{name}'")).then_some(())
        })
        .await;
    }
    assert_eq!(all(&store), before, "nothing was agreed to");

    let list = sandbox.pbm(&["cleanup", "--failed", "-y", "--wait", "-o", "json"]).ok().json();
    assert_eq!(list["snapshots"][0]["name"], json!(good), "{list}");
    let wanted = before.iter().filter(|name| !gone.contains(name)).cloned().collect();
    assert_eq!(all(&store), wanted);
    assert!(all(&store).is_superset(&good_ones));
    let mut known = control.backups.known_names().await.expect("read");
    known.sort();
    assert_eq!(known, [INCOMPLETE.to_owned(), good.clone()]);
    sandbox.pbm(&["restore", &good, "-y", "--wait"]).ok();

    // Another cluster makes backups here: what nobody knows may be its own.
    write(&store, &gone[2], "12345");
    write(&store, "pbmPitr/.clusters/65e1a5", r#"{"id":"65e1a5","name":"rs9","node":"there:1","last":1}"#);
    let shown = sandbox.pbm(&["cleanup", "--failed", "--dry-run", "-o", "json"]).ok().json();
    assert_eq!(shown["orphans"], json!([]), "{shown}");
    assert!(shown["remarks"][0].as_str().is_some_and(|said| said.contains("rs9")), "{shown}");
}
