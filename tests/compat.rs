//! They write, we read: every backup of a replica set that the original left in the fixtures comes back exactly.
//!
//! The fixtures lie beside the repository (`../shared/fixtures`), or where `PBMBOX_FIXTURES` says.

use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use crate::support::state;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

pub fn fixtures() -> PathBuf {
    let root = std::env::var_os("PBMBOX_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"), PathBuf::from);
    assert!(
        root.join("rs/expected.json").exists(),
        "the fixtures made by the original are not in {}; set PBMBOX_FIXTURES to their folder",
        root.display()
    );
    root
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a folder");
    for entry in fs::read_dir(from).expect("read a folder") {
        let entry = entry.expect("read a folder");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).expect("read a file")).expect("write a file");
        }
    }
}

/// What the truth has and no restore can bring back, because the original did not store it: `hidden` of an index.
fn is_lost_in_the_backup(line: &str) -> bool {
    line.contains("/hidden: missing")
}

async fn restore_all(folder: &str) {
    let fixture = fixtures().join(folder);
    let expected: Value =
        serde_json::from_slice(&fs::read(fixture.join("expected.json")).expect("read expected.json")).expect("JSON");
    for (label, backup) in expected["backups"].as_object().expect("backups") {
        let sandbox = Sandbox::unconfigured(Options::default()).await;
        copy(&fixture.join("store"), &sandbox.store());
        sandbox.configure(&[]).await;
        sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
        let name = backup["name"].as_str().expect("a name");
        let list = sandbox.pbm(&["list", "-o", "json"]).ok().json();
        assert!(list["snapshots"].as_array().expect("snapshots").iter().any(|s| s["name"] == name), "{label}: {list}");
        sandbox.pbm(&["restore", name, "--wait", "-y"]).ok();

        let truth = &backup["source_at_last_write_ts"]["rs0"];
        let truth = if truth.is_null() { &backup["restored"]["rs0"] } else { truth };
        let got = state::read(&sandbox.set.client().await).await;
        let mut lines = state::differences(truth, &got);
        lines.retain(|line| !is_lost_in_the_backup(line));
        assert!(lines.is_empty(), "{folder}/{label}:\n{}", lines.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_and_slice_of_the_original() {
    restore_all("rs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renames_and_conversions_in_the_window() {
    restore_all("rs-rename").await;
}
