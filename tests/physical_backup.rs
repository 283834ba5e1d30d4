//! Physical backups: what they contain, whom they lock, and that the lock ends.

mod copies;

use crate::support::cluster::{Folder, Options, ReplicaSet};
use crate::support::programs::{Output, Sandbox};
use crate::support::wait;
use copies::{Writer, restored, state_at};
use mongodb::bson::{Document, Timestamp, doc};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// Three members, of which the last one is hidden.
fn three() -> Options {
    Options { members: 3, kinds: vec![doc! {}, doc! {}, doc! { "hidden": true, "priority": 0 }], ..Options::default() }
}

async fn backup(sandbox: &Sandbox, name: &str) -> Document {
    let client = sandbox.set.client().await;
    let backups = client.database("admin").collection::<Document>("pbmBackups");
    backups.find_one(doc! { "name": name }).await.expect("read").expect("a backup")
}

async fn newest(sandbox: &Sandbox) -> Document {
    let client = sandbox.set.client().await;
    let backups = client.database("admin").collection::<Document>("pbmBackups");
    backups.find_one(doc! {}).sort(doc! { "start_ts": -1, "name": -1 }).await.expect("read").expect("a backup")
}

fn part(backup: &Document) -> &Document {
    backup.get_array("replsets").expect("parts")[0].as_document().expect("a part")
}

fn taking(backup: &Document) -> &Document {
    part(backup).get_document("physical").expect("how it was taken")
}

async fn is_locked(set: &ReplicaSet, n: usize) -> bool {
    let admin = set.client_of(n).await.database("admin");
    let answer = admin.run_command(doc! { "currentOp": 1, "ns": "none" }).await.expect("currentOp");
    answer.get_bool("fsyncLock").unwrap_or(false)
}

/// The member that is locked.
async fn becomes_locked(set: &ReplicaSet) -> usize {
    let primary = set.primary().await;
    wait::until("the lock", SOON, async || {
        for n in (0..set.size()).filter(|n| *n != primary) {
            if is_locked(set, n).await {
                return Some(n);
            }
        }
        None
    })
    .await
}

async fn becomes_free(set: &ReplicaSet, n: usize) {
    wait::until("the end of the lock", SOON, async || (!is_locked(set, n).await).then_some(())).await;
}

fn nothing_is_left(data: &Path) {
    assert!(!data.join(".pbm.spool").exists(), "a copy is left in {}", data.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_hidden_member_under_load_is_the_state_of_its_last_write() {
    let sandbox = Sandbox::start(three()).await;
    let writer = Writer::start(&sandbox.set).await;
    let said = sandbox.pbm(&["backup", "--type", "physical", "--wait"]).ok();
    assert!(said.stderr.contains("may be locked for its data files"), "{}", said.stderr);
    let name = newest(&sandbox).await.get_str("name").expect("a name").to_owned();
    let written = writer.stop().await;
    let found = backup(&sandbox, &name).await;
    assert_eq!(part(&found).get_str("node").ok(), Some(&*sandbox.set.address_of(2)), "the hidden member");
    let last: Timestamp = part(&found).get_timestamp("last_write_ts").expect("its end");
    assert_eq!(found.get_timestamp("last_write_ts").ok(), Some(last));
    assert_eq!(part(&found).get_timestamp("first_write_ts").ok(), Some(last));
    assert!(found.get_i64("size").expect("a size") > 0 && found.get_i64("size_uncompressed").expect("a size") > 0);
    let way = taking(&found).get_str("way").expect("a way").to_owned();
    println!(
        "{way}: locked for {} ms, copied {} bytes meanwhile",
        taking(&found).get_i64("lockMs").expect("ms"),
        taking(&found).get_i64("copied").expect("bytes")
    );
    assert!(["twoPasses", "reflink"].contains(&&*way), "{way}");
    nothing_is_left(&sandbox.set.data_of(2));

    let expected = state_at(&sandbox.set, last).await;
    assert!(expected.len() > 100 && written > 0, "{} documents", expected.len());
    let copy = restored(&sandbox.store(), &name, "rs0").await;
    assert!(copy == expected, "the copy has {} documents in place of {}", copy.len(), expected.len());

    // Everything that lists backups knows it.
    let described = sandbox.pbm(&["describe-backup", &name, "-o", "json"]).ok().json();
    assert_eq!(described["type"], "physical");
    assert_eq!(described["replsets"][0]["physical"]["way"], way);
    assert!(sandbox.pbm(&["list"]).ok().stdout.contains("physical"));

    // A missing and a shortened object are found.
    let object = |path: &str| sandbox.store().join(&name).join("rs0").join(path);
    let (log, catalog) = (object("sizeStorer.wt.s2"), object("_mdb_catalog.wt.s2"));
    fs::remove_file(&log).expect("remove");
    let bytes = fs::read(&catalog).expect("it");
    fs::write(&catalog, &bytes[1..]).expect("shorten");
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    let error = backup(&sandbox, &name).await.get_str("error").unwrap_or_default().to_owned();
    assert!(error.contains("_mdb_catalog.wt.s2' is damaged") && error.contains("1 more"), "{error}");
    sandbox.pbm(&["delete-backup", &name, "--yes"]).ok();
    assert!(!sandbox.store().join(&name).exists());
}

/// A command that makes no snapshot, so that the node stays locked for as long as the test needs.
const SLOW: &str = "backup.physical.snapshotCommand=sleep 300";

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_ends_with_the_backup_the_primary_the_agent_and_the_limit() {
    let mut sandbox = Sandbox::start(three()).await;
    sandbox.pbm(&["config", "--set", SLOW]).ok();
    let begin = async |sandbox: &Sandbox| {
        // An agent's line says for some seconds that its node is locked.
        let client = sandbox.set.client().await;
        let lines = client.database("admin").collection::<Document>("pbmAgents");
        wait::until("lines without a lock", SOON, async || {
            let locked = lines.find_one(doc! { "unfit": { "$regex": "fsync" } }).await;
            locked.is_ok_and(|line| line.is_none()).then_some(())
        })
        .await;
        sandbox.pbm(&["backup", "--type", "physical"]).ok();
    };
    let ended = async |sandbox: &Sandbox| {
        wait::until("the end of the backup", SOON, async || {
            let backup = newest(sandbox).await;
            let status = backup.get_str("status").unwrap_or_default().to_owned();
            let owes = backup.get_bool("lock_due").unwrap_or(false);
            (["error", "canceled", "done"].contains(&&*status) && !owes)
                .then(|| (status, backup.get_str("error").unwrap_or_default().to_owned()))
        })
        .await
    };

    // Cancelled.
    begin(&sandbox).await;
    let node = becomes_locked(&sandbox.set).await;
    assert_eq!(node, 2, "the hidden member");
    let since = Instant::now();
    sandbox.pbm(&["cancel-backup"]).ok();
    becomes_free(&sandbox.set, node).await;
    // Not only when others clear up.
    assert!(since.elapsed() < Duration::from_millis(2500) * slowness(), "{:?}", since.elapsed());
    assert_eq!(ended(&sandbox).await.0, "canceled");

    // Held for too long.
    sandbox.pbm(&["config", "--set", "backup.physical.maxLockSec=2"]).ok();
    begin(&sandbox).await;
    let (status, error) = ended(&sandbox).await;
    assert!(status == "error" && error.contains("maxLockSec"), "{status}: {error}");
    sandbox.pbm(&["config", "--set", "backup.physical.maxLockSec=60"]).ok();

    // The primary is lost.
    begin(&sandbox).await;
    let node = becomes_locked(&sandbox.set).await;
    let primary = sandbox.set.primary().await;
    let since = Instant::now();
    sandbox.set.kill(primary);
    let next = sandbox.set.primary().await;
    println!("a new primary after {:?}", since.elapsed());
    assert!(next != primary && since.elapsed() < Duration::from_secs(5) * slowness(), "{:?}", since.elapsed());
    assert!(!is_locked(&sandbox.set, node).await);
    let (status, error) = ended(&sandbox).await;
    assert!(status == "error" && error.contains("no primary"), "{status}: {error}");
    sandbox.set.restart(primary);
    wait::until("the member to be back", SOON * 2, async || {
        let client = sandbox.set.client_of(primary).await;
        let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.ok()?;
        hello.get_bool("secondary").unwrap_or(false).then_some(())
    })
    .await;

    // The agent is killed.
    begin(&sandbox).await;
    let node = becomes_locked(&sandbox.set).await;
    sandbox.agents[node].kill();
    becomes_free(&sandbox.set, node).await;
}

/// Under load, elections take longer.
fn slowness() -> u32 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    if load > cores * 2.0 { 3 } else { 1 }
}

fn refused(output: Output, parts: &[&str]) {
    let output = output.failed();
    for part in parts {
        assert!(output.stderr.contains(part), "'{part}' is not in {}", output.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_member_is_locked_if_that_is_allowed_and_its_files_are_checked() {
    let sandbox = Sandbox::start(Options::default()).await;
    let data = sandbox.set.data_of(0);
    let physical = ["backup", "--type", "physical", "--wait"];
    refused(sandbox.pbm(&physical), &["--allow-lock-on-only-member", "nothing was started"]);
    refused(sandbox.pbm(&["backup", "--type", "physical", "--ns", "a.b"]), &["--ns"]);
    refused(sandbox.pbm(&["backup", "--allow-lock-on-only-member"]), &["--type physical"]);
    let allowed = [&physical[..], &["--allow-lock-on-only-member"]].concat();

    // A folder for the copies elsewhere, too small files for ranges, another codec.
    let spool = Folder::new("spool");
    let set = format!("backup.physical.spoolPath={}", spool.path().display());
    sandbox.pbm(&["config", "--set", &set]).ok();
    let client = sandbox.set.client().await;
    let docs: Vec<Document> = (0..500).map(|n| doc! { "_id": n, "text": "x".repeat(200) }).collect();
    client.database("shop").collection("load").insert_many(docs).await.expect("insert");
    sandbox.pbm(&[&allowed[..], &["--compression", "gzip", "--num-parallel-files", "2"]].concat()).ok();
    let found = newest(&sandbox).await;
    let name = found.get_str("name").expect("a name");
    let last = part(&found).get_timestamp("last_write_ts").expect("its end");
    assert!(restored(&sandbox.store(), name, "rs0").await == state_at(&sandbox.set, last).await);
    assert_eq!(fs::read_dir(spool.path()).expect("the folder").count(), 0, "a copy is left");

    // A snapshot of the operator's own making: a copy of the locked files.
    let snapshots = Folder::new("snapshots");
    let at = snapshots.path().display();
    for setting in [
        format!("backup.physical.snapshotCommand=cp -r \"$PBM_DBPATH\" {at}/one && echo {at}/one"),
        format!("backup.physical.removeSnapshotCommand=rm -r \"$PBM_SNAPSHOT\" && touch {at}/removed"),
    ] {
        sandbox.pbm(&["config", "--set", &setting]).ok();
    }
    sandbox.pbm(&allowed).ok();
    let found = newest(&sandbox).await;
    let name = found.get_str("name").expect("a name");
    assert_eq!(taking(&found).get_str("way").ok(), Some("snapshot"));
    let last = part(&found).get_timestamp("last_write_ts").expect("its end");
    assert!(restored(&sandbox.store(), name, "rs0").await == state_at(&sandbox.set, last).await);
    assert!(snapshots.path().join("removed").exists() && !snapshots.path().join("one").exists());
    // An empty folder is no snapshot.
    let empty = format!("mkdir -p {at}/empty && echo {at}/empty");
    for (command, why) in [("echo no disk >&2; exit 1", "no disk"), (&empty, "has no file 'WiredTiger'")] {
        sandbox.pbm(&["config", "--set", &format!("backup.physical.snapshotCommand={command}")]).ok();
        refused(sandbox.pbm(&allowed), &[why]);
        assert!(!is_locked(&sandbox.set, 0).await);
    }
    nothing_is_left(&data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_not_locked_where_the_others_need_its_vote() {
    let kinds = vec![doc! {}, doc! {}, doc! { "arbiterOnly": true }];
    let sandbox = Sandbox::start(Options { members: 3, kinds, ..Options::default() }).await;
    refused(
        sandbox.pbm(&["backup", "--type", "physical"]),
        &["it is the primary", "writes with w: majority need 2", "votes: 0", "nothing was started"],
    );
}

/// A file system that clones files.
struct Xfs {
    folder: Folder,
    mounted: bool,
}

impl Xfs {
    fn make() -> Result<Self, String> {
        let mut xfs = Self { folder: Folder::new("xfs"), mounted: false };
        let (image, at) = (xfs.folder.path().join("image"), xfs.at());
        fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        let script = format!(
            "truncate -s 2G {image} && mkfs.xfs -q -m reflink=1 {image} && mount -o loop {image} {at}",
            image = image.display(),
            at = at.display()
        );
        let made = Command::new("sh").args(["-c", &script]).output().map_err(|error| error.to_string())?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).trim().to_owned());
        }
        xfs.mounted = true;
        Ok(xfs)
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("fs")
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(self.at()).status();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_clones_files_shortens_the_lock() {
    let xfs = match Xfs::make() {
        Ok(xfs) => xfs,
        Err(why) => {
            println!("left out, because no XFS could be mounted here: {why}");
            return;
        }
    };
    let data = xfs.at();
    let sandbox = Sandbox::start(Options { data_in: Some(data), ..three() }).await;
    let writer = Writer::start(&sandbox.set).await;
    let name = sandbox.backup(&["--type", "physical"]);
    writer.stop().await;
    let found = backup(&sandbox, &name).await;
    assert_eq!(taking(&found).get_str("way").ok(), Some("reflink"));
    assert_eq!(taking(&found).get_i64("copied").ok(), Some(0));
    let ms = taking(&found).get_i64("lockMs").expect("ms");
    println!("reflink: locked for {ms} ms");
    let last = part(&found).get_timestamp("last_write_ts").expect("its end");
    assert!(restored(&sandbox.store(), &name, "rs0").await == state_at(&sandbox.set, last).await);
    nothing_is_left(&sandbox.set.data_of(2));
    drop(sandbox);
}
