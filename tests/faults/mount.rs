//! A missing mount: the storage's folder is empty or does not exist.

use super::rig::{Hold, Rig, SETTLED, USUAL};
use crate::support::programs::Output;
use crate::support::wait;
use mongodb::bson::{Document, doc};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A folder whose mount can go and come back.
struct Mount {
    folder: PathBuf,
    away: PathBuf,
}

impl Mount {
    fn of(folder: PathBuf) -> Self {
        let away = folder.with_extension("away");
        Self { folder, away }
    }

    /// Removes the mount; the empty folder below it stays.
    fn goes(&self) {
        fs::rename(&self.folder, &self.away).expect("move the storage away");
        fs::create_dir(&self.folder).expect("make the mount point");
    }

    fn comes_back(&self) {
        assert_eq!(entries(&self.folder), [""; 0], "something was written below the mount");
        let _ = fs::remove_dir(&self.folder);
        fs::rename(&self.away, &self.folder).expect("move the storage back");
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let Ok(found) = fs::read_dir(folder) else { return Vec::new() };
    found.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

fn says_so(said: &Output) {
    let text = format!("{}{}", said.stdout, said.stderr);
    assert!(text.contains("is a mount missing"), "{text}");
}

impl Rig {
    async fn agent_says_of_the_storage(&self, is: impl Fn(bool, &str) -> bool) {
        let agents = self.admin().collection::<Document>("pbmAgents");
        wait::until("the agent's word on the storage", USUAL, async || {
            let line = agents.find_one(doc! {}).await.ok()??;
            let storage = line.get_document("stors").ok()?;
            is(storage.get_bool("ok").ok()?, storage.get_str("e").unwrap_or_default()).then_some(())
        })
        .await;
    }

    fn listed(&self) -> Vec<String> {
        let listed = self.pbm(&["list", "-o", "json"]).ok().json();
        let all = listed["snapshots"].as_array().cloned().unwrap_or_default();
        all.iter().map(|it| it["name"].as_str().expect("a name").to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_whose_mount_is_gone_is_a_failure_everywhere() {
    let mut rig = Rig::start(1).await;
    let first = rig.next_backup_works();
    rig.pbm(&["config", "--set", "pitr.enabled=true", "--set", "pitr.oplogSpanMin=0.03"]).ok();
    let chunks = rig.admin().collection::<Document>("pbmPITRChunks");
    let saved = async || chunks.count_documents(doc! {}).await.expect("count");
    wait::until("a chunk", USUAL, async || (saved().await > 0).then_some(())).await;
    let mount = Mount::of(rig.sandbox.store());

    // The mount goes in the middle of a backup and of slicing.
    let hold = Hold::reading(&rig, "shop.orders").await;
    let child = rig.sandbox.pbm_spawn(&["backup", "--wait"]);
    hold.entered().await;
    let name = rig.reaches("pbmBackups", "running").await;
    mount.goes();
    hold.release().await;
    let said = rig.ended(child, Instant::now(), SETTLED).await.failed();
    says_so(&said);
    let pitr = rig.admin().collection::<Document>("pbmPITR");
    wait::until("the slicer's word", USUAL, async || {
        let state = pitr.find_one(doc! {}).await.ok()??;
        state.to_string().contains("is a mount missing").then_some(())
    })
    .await;

    // An agent that starts now remembers nothing.
    rig.restart_agent(0).await;
    rig.agent_says_of_the_storage(|ok, error| !ok && error.contains("lacks its mark .pbm.init")).await;
    says_so(&rig.pbm(&["doctor"]).failed());
    says_so(&rig.pbm(&["status", "-s", "cluster"]));
    says_so(&rig.pbm(&["backup", "--wait"]).failed());
    rig.pbm(&["config", "--set", "pitr.enabled=false"]).ok();
    says_so(&rig.pbm(&["delete-backup", &first, "-y"]).failed());
    rig.pbm(&["config", "--set", "pitr.enabled=true"]).ok();
    let said = rig.pbm(&["config", "--force-resync", "--wait"]).failed();
    assert!(said.stderr.contains("--accept-empty"), "{}", said.stderr);
    // A command from a command line that does not check the storage.
    let unchecked = rig.send_backup("2026-01-02T03:04:05Z").await;
    wait::until("the refusal", USUAL, async || {
        let backups = rig.admin().collection::<Document>("pbmBackups");
        let found = backups.find_one(doc! { "name": &unchecked }).await.ok()??;
        found.get_str("status").is_ok_and(|status| status == "error").then_some(())
    })
    .await;
    assert!(rig.listed().contains(&first), "it is forgotten: {:?}", rig.listed());
    assert_eq!(entries(&mount.folder), [""; 0]);

    // The folder does not exist either.
    fs::remove_dir(&mount.folder).expect("remove the mount point");
    rig.restart_agent(0).await;
    rig.agent_says_of_the_storage(|ok, error| !ok && error.contains("lacks its folder")).await;
    rig.pbm(&["config", "--force-resync", "--wait"]).failed();
    assert!(!mount.folder.exists(), "the folder was made");

    // The mount comes back: all work goes on, and the mount hides no files.
    mount.comes_back();
    rig.agent_says_of_the_storage(|ok, _| ok).await;
    rig.settles("pbmBackups", &name, Instant::now()).await;
    let before = saved().await;
    wait::until("slicing to go on", USUAL, async || (saved().await > before).then_some(())).await;
    rig.pbm(&["config", "--set", "pitr.enabled=false"]).ok();
    rig.pbm(&["config", "--force-resync", "--wait"]).ok();
    assert_eq!(rig.listed(), std::slice::from_ref(&first));

    // Only the mark was deleted: reading the storage again finds the known backups and writes the mark again.
    fs::remove_file(mount.folder.join(".pbm.init")).expect("remove the mark");
    rig.pbm(&["config", "--force-resync", "--wait"]).ok();
    assert_eq!(rig.listed(), [first]);

    // The disk is replaced by a new one on purpose.
    mount.goes();
    rig.pbm(&["config", "--force-resync", "--wait"]).failed();
    rig.pbm(&["config", "--force-resync", "--accept-empty", "--wait"]).ok();
    assert_eq!(rig.listed(), [""; 0]);
    let only = rig.next_backup_works();
    assert_eq!(rig.listed(), [only]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_whose_mount_is_gone_is_a_failure_too() {
    let rig = Rig::start(1).await;
    let mount = Mount::of(rig.sandbox.storage.path().join("second"));
    let file = rig.sandbox.storage.path().join("second.yaml");
    let yaml = format!("storage: {{type: filesystem, filesystem: {{path: {}}}}}\n", mount.folder.display());
    fs::write(&file, yaml).expect("write");
    let file = file.display().to_string();
    rig.pbm(&["profile", "add", "second", &file, "--wait"]).ok();
    // The storage is known only by its mark.
    mount.goes();
    says_so(&rig.pbm(&["backup", "--profile", "second", "--wait"]).failed());
    mount.comes_back();
    let name = rig.pbm(&["backup", "--profile", "second", "--wait", "-o", "json"]).ok().json();
    let name = name["name"].as_str().expect("a name").to_owned();
    mount.goes();
    says_so(&rig.pbm(&["backup", "--profile", "second", "--wait"]).failed());
    says_so(&rig.pbm(&["delete-backup", &name, "-y"]).failed());
    let said = rig.pbm(&["profile", "sync", "second", "--wait"]).failed();
    assert!(said.stderr.contains("`pbm profile sync second --accept-empty`"), "{}", said.stderr);
    // The credentials may be changed while the mount is missing.
    rig.pbm(&["profile", "add", "second", &file, "--wait"]).ok();
    assert!(rig.listed().contains(&name));
    mount.comes_back();
    rig.pbm(&["profile", "sync", "second", "--wait"]).ok();
    assert!(rig.listed().contains(&name));
    mount.goes();
    rig.pbm(&["profile", "sync", "second", "--accept-empty", "--wait"]).ok();
    assert!(!rig.listed().contains(&name));
    rig.pbm(&["backup", "--profile", "second", "--wait"]).ok();

    // Removing the profile also removes the record of its storage, so another folder may take its place.
    rig.pbm(&["profile", "remove", "second", "--wait"]).ok();
    fs::remove_dir_all(&mount.folder).expect("remove");
    rig.pbm(&["profile", "add", "second", &file, "--wait"]).ok();
    rig.pbm(&["backup", "--profile", "second", "--wait"]).ok();
}
