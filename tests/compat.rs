//! They write, we read: every backup of a replica set that the original left in the fixtures comes back exactly.
//!
//! The fixtures lie beside the repository (`../shared/fixtures`), or where `PBMBOX_FIXTURES` says.

use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use crate::support::sharded::{ShardedCluster, ShardedSandbox};
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

pub fn copy(from: &Path, to: &Path) {
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
pub fn is_lost_in_the_backup(line: &str) -> bool {
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

/// The backup of a sharded cluster into one whose config servers and shards (name, id) are these.
async fn restore_cluster(config: &str, shards: &[(&str, &str)], mapping: Option<&str>, expected: &str) {
    let read = |name: &str| -> Value {
        let bytes = fs::read(fixtures().join(name).join("expected.json")).expect("read expected.json");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let (source, expected) = (read("sharded"), read(expected));
    let truth = &source["source_at_last_write_ts"];
    let cluster = ShardedCluster::start_as(Options::default(), config, shards).await;
    let sandbox = ShardedSandbox::around(cluster).await;
    copy(&fixtures().join("sharded/store"), &sandbox.store());
    sandbox.configure(&[]).await;
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    let name = source["backup"]["name"].as_str().expect("a name");
    let mut restore = vec!["restore", name, "--wait", "-y"];
    restore.extend(mapping.iter().flat_map(|mapping| ["--replset-remapping", mapping]));
    let dry: Vec<&str> = restore.iter().filter(|word| !["--wait", "-y"].contains(word)).copied().collect();
    let told = sandbox.pbm(&[&dry[..], &["--dry-run", "-o", "json"]].concat()).ok().json();
    let parts = told["replsets"].as_array().expect("replica sets");
    let loads = |part: &Value| part["bytes"].as_u64().is_some_and(|bytes| bytes > 0);
    assert!(parts.len() == 1 + shards.len() && parts.iter().all(loads), "{told}");
    sandbox.pbm(&restore).ok();
    assert_eq!(sandbox.set.balancer_mode().await, "full", "as it was before");

    assert_cluster(&sandbox.set, config, shards, truth, &expected["restored"]).await;
}

/// The restored cluster, under its own names, is what `truth` says of `cfgrs`, `rs1` and `rs2`; its routing is that of
/// `restored`, which has the names of this cluster.
pub async fn assert_cluster(
    set: &ShardedCluster,
    config: &str,
    shards: &[(&str, &str)],
    truth: &Value,
    restored: &Value,
) {
    let mut lines = Vec::new();
    let sets = std::iter::once((config, &set.config));
    let sets = sets.chain(set.shards.iter().zip(shards).map(|(shard, (rs, _))| (*rs, &shard.set)));
    for ((rs, set), old) in sets.zip(["cfgrs", "rs1", "rs2"]) {
        // The original loses indexes of `{_id: "hashed"}` at random; what the source had is right.
        let mut wanted = truth[old].clone();
        wanted.as_object_mut().expect("a replica set").remove("config");
        let client = set.client().await;
        let found = state::read(&client).await;
        lines.extend(state::differences(&wanted, &found).into_iter().map(|line| format!("{rs}{line}")));
        // Translated into the names of this cluster.
        let mut routing = restored[rs]["config"].clone();
        if routing.is_null() {
            continue;
        }
        // Where the shards are is the cluster's own; the fixtures name a chunk's collection. The original leaves the
        // balancer off, so the settings are those of the source.
        routing.as_object_mut().expect("tables").remove("shards");
        routing["settings"] = truth["cfgrs"]["config"]["settings"].clone();
        for chunk in routing["chunks"].as_array_mut().expect("chunks") {
            chunk.as_object_mut().expect("a chunk").remove("ns");
        }
        let found = state::routing(&client).await;
        lines.extend(state::differences(&routing, &found).into_iter().map(|line| format!("{rs} config{line}")));
    }
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_cluster() {
    restore_cluster("cfgrs", &[("rs1", "rs1"), ("rs2", "shardB")], None, "sharded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_cluster_into_other_names() {
    let mapping = Some("ncfg=cfgrs,nrsX=rs1,nrsY=rs2");
    restore_cluster("ncfg", &[("nrsX", "nrsX"), ("nrsY", "shard-two")], mapping, "sharded-remap").await;
}
