//! Whatever is killed, full, damaged or cancelled: the operation ends within 40 s in a clear state with a reason, leaves
//! nothing behind, is not offered as a backup unless it is whole, and the next one works.

mod clocks;
mod lost;
mod mount;
pub mod rig;
mod upgraded;

use crate::support::cluster::Options;
use crate::support::programs::{Agent, Sandbox};
use crate::support::state;
use crate::support::wait;
use mongodb::bson::{DateTime, Document, doc, oid::ObjectId};
use rig::{Hold, Rig, SETTLED, USUAL, files};
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_the_backup_with_its_reason() {
    let mut rig = Rig::start(1).await;
    rig.sandbox.agents[0].kill();
    rig.sandbox.agents[0] = Agent::start_without_room(&rig.sandbox.programs, &rig.sandbox.set.uri_of(0), 2048);
    rig.agent_is_up(0).await;
    let since = Instant::now();
    let child = rig.sandbox.pbm_spawn(&["backup", "--wait", "--compression", "none"]);
    let said = rig.ended(child, since, SETTLED).await.failed();
    let name = rig.newest_name("pbmBackups").await;
    let end = rig.settles("pbmBackups", &name, since).await;
    assert_eq!(end.status, "error");
    let lower = end.error.to_lowercase();
    assert!(
        lower.contains("shop") && (lower.contains("full") || lower.contains("space") || lower.contains("large")),
        "{end:?}"
    );
    assert!(said.stderr.contains(&end.error), "the reason is not shown: {}", said.stderr);
    rig.is_not_offered(&name);

    rig.restart_agent(0).await;
    rig.next_backup_works();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_fails_the_restore_and_the_mended_one_restores() {
    let rig = Rig::start(1).await;
    let name = rig.next_backup_works();
    let before = state::read(&rig.client).await;
    let root = rig.sandbox.store();
    let own: Vec<PathBuf> = files(&root.join(&name));
    let find = |part: &str| {
        let found = own.iter().find(|f| f.strip_prefix(&root).expect("below").display().to_string().contains(part));
        found.unwrap_or_else(|| panic!("no '{part}' in {own:?}")).clone()
    };
    type Damage = fn(&mut Vec<u8>);
    let cut: Damage = |bytes| bytes.truncate(bytes.len() / 2);
    let flip: Damage = |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
    };
    // One changed bit of a key: the value under the key would not be restored.
    let key: Damage = |bytes| {
        let at = bytes.windows(7).position(|it| it == b"indexes").expect("a key");
        bytes[at + 3] = b'p';
    };
    // The third value: is the damage found before anything is dropped? Only the documents are not read before that.
    let cases: [(&str, Option<Damage>, bool); 10] = [
        ("shop.orders", Some(cut), true),
        ("shop.orders", Some(flip), false),
        ("shop.orders", None, true),
        ("metadata.json", Some(cut), true),
        ("metadata.json", None, true),
        ("metadata.json", Some(key), true),
        ("meta.pbm", Some(cut), true),
        ("/oplog/", Some(cut), true),
        ("/oplog/", Some(flip), true),
        ("/oplog/", None, true),
    ];
    for (part, damage, early) in cases {
        let file = find(part);
        let whole = fs::read(&file).expect("read the object");
        match damage {
            Some(damage) => {
                let mut bytes = whole.clone();
                damage(&mut bytes);
                fs::write(&file, bytes).expect("damage the object");
            }
            None => fs::remove_file(&file).expect("remove the object"),
        }
        let what = format!("{part} {}", if damage.is_some() { "damaged" } else { "missing" });
        let untouched = state::read(&rig.client).await;
        let since = Instant::now();
        let child = rig.sandbox.pbm_spawn(&["restore", &name, "--wait", "-y"]);
        let said = rig.ended(child, since, SETTLED).await;
        assert!(!said.status.success(), "{what}: the restore succeeded: {}", said.stdout);
        let restore = rig.newest_name("pbmRestores").await;
        let end = rig.settles("pbmRestores", &restore, since).await;
        assert_eq!(end.status, "error", "{what}");
        assert!(end.error.contains(part.trim_matches('/')), "{what}: the reason names no object: {}", end.error);
        if early {
            let now = state::read(&rig.client).await;
            assert_eq!(state::differences(&untouched, &now), Vec::<String>::new(), "{what}: data was touched");
        }
        fs::write(&file, whole).expect("mend the object");
    }
    rig.pbm(&["restore", &name, "--wait", "-y"]).ok();
    assert_eq!(state::differences(&before, &state::read(&rig.client).await), Vec::<String>::new());

    // The file is cut after it was written, while the backup still runs.
    let dumping = Hold::reading(&rig, "shop.orders").await;
    let child = rig.sandbox.pbm_spawn(&["backup", "--wait"]);
    dumping.entered().await;
    dumping.release().await;
    let hold = Hold::reading(&rig, "local.oplog.rs").await;
    hold.entered().await;
    let name = rig.reaches("pbmBackups", "dumpDone").await;
    let object = files(&root.join(&name)).into_iter().find(|file| file.display().to_string().contains("shop.orders"));
    let object = object.expect("an object");
    let whole = fs::read(&object).expect("read the object");
    fs::write(&object, &whole[..100]).expect("cut the object");
    let since = Instant::now();
    hold.release().await;
    rig.ended(child, since, SETTLED).await.failed();
    let end = rig.settles("pbmBackups", &name, since).await;
    assert_eq!(end.status, "error");
    assert!(end.error.contains("shop.orders") && end.error.contains("100 bytes in place of"), "{}", end.error);
    rig.next_backup_works();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_nothing_begins() {
    let rig = Rig::bare(Sandbox::unconfigured(Options::default()).await).await;
    rig.fill(1).await;
    let said = rig.pbm(&["backup", "--wait"]).failed();
    assert!(said.stderr.contains("config"), "no word about the configuration: {}", said.stderr);

    // A command line that does not check: the agent has to refuse.
    let since = Instant::now();
    let name = rig.send_backup("2026-01-02T03:04:05Z").await;
    wait::until("the refusal", USUAL, async || rig.newest("pbmBackups").await).await;
    let end = rig.settles("pbmBackups", &name, since).await;
    assert_eq!(end.status, "error");
    assert!(end.error.contains("configuration"), "{end:?}");

    rig.sandbox.configure(&[]).await;
    rig.next_backup_works();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_backups_the_second_is_refused_and_the_first_finishes() {
    let rig = Rig::start(1).await;
    let hold = Hold::reading(&rig, "shop.orders").await;
    let first = rig.sandbox.pbm_spawn(&["backup", "--wait", "-o", "json"]);
    hold.entered().await;
    let one = rig.newest_name("pbmBackups").await;

    let said = rig.pbm(&["backup", "--wait"]).failed();
    assert!(said.stderr.contains("another operation is running"), "{}", said.stderr);
    // And if its command comes to the agent all the same:
    let other = rig.send_backup("2026-01-02T03:04:05Z").await;
    wait::until("the refusal", USUAL, async || {
        let found = rig.admin().collection::<Document>("pbmBackups").find_one(doc! { "name": &other }).await.ok()??;
        found.get_str("status").is_ok_and(|s| s == "error").then_some(())
    })
    .await;
    hold.release().await;
    let since = Instant::now();
    rig.ended(first, since, USUAL).await.ok();
    assert_eq!(rig.settles("pbmBackups", &one, since).await.status, "done");
    let end = rig.settles("pbmBackups", &other, since).await;
    assert!(end.error.contains("another operation is running"), "{end:?}");
    rig.is_not_offered(&other);
    rig.pbm(&["restore", &one, "--wait", "-y"]).ok();
    rig.next_backup_works();
}

/// Cancels a backup that was started and is held, and looks at what is left.
async fn cancelled_at(status: &str, rig: Rig, hold: Hold, child: Child) {
    hold.entered().await;
    let name = rig.reaches("pbmBackups", status).await;
    let since = Instant::now();
    rig.pbm(&["cancel-backup"]).ok();
    let said = rig.ended(child, since, SETTLED).await.failed();
    assert!(said.stderr.contains("cancel"), "{}", said.stderr);
    let end = rig.settles("pbmBackups", &name, since).await;
    assert_eq!(end.status, "canceled", "{end:?}");
    rig.is_not_offered(&name);
    hold.release().await;
    rig.next_backup_works();
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_when_starting() {
    let rig = Rig::start(1).await;
    // Where its oplog begins is the first thing that a backup asks.
    let hold = Hold::reading(&rig, "local.oplog.rs").await;
    let child = rig.sandbox.pbm_spawn(&["backup", "--wait"]);
    cancelled_at("starting", rig, hold, child).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_before_it_begins() {
    let rig = Rig::bare(Sandbox::start(Options::default()).await).await;
    rig.fill(1).await;
    let name = "2026-01-02T03:04:05Z";
    let since = Instant::now();
    // One insert: the agent reads both before it has looked at either.
    let cancel =
        doc! { "_id": ObjectId::new(), "cmd": "cancelBackup", "ts": DateTime::now().timestamp_millis() / 1000 };
    let commands = rig.admin().collection::<Document>("pbmCmd");
    commands.insert_many([Rig::backup_command(0, name), cancel]).await.expect("queue the commands");
    wait::until("the backup", USUAL, async || rig.newest("pbmBackups").await).await;
    assert_eq!(rig.settles("pbmBackups", name, since).await.status, "canceled");
    let meta = rig.newest("pbmBackups").await.expect("the backup");
    assert!(meta.get_array("replsets").expect("an array").is_empty(), "it began: {meta}");
    // Nobody cancels what is asked for afterwards.
    rig.next_backup_works();
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_when_running() {
    let rig = Rig::start(1).await;
    let hold = Hold::reading(&rig, "shop.orders").await;
    let child = rig.sandbox.pbm_spawn(&["backup", "--wait"]);
    cancelled_at("running", rig, hold, child).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_when_the_dump_is_done() {
    let rig = Rig::start(1).await;
    let dumping = Hold::reading(&rig, "shop.orders").await;
    let child = rig.sandbox.pbm_spawn(&["backup", "--wait"]);
    dumping.entered().await;
    // The rest of the dump takes longer than it takes to hold its next step.
    dumping.release().await;
    let hold = Hold::reading(&rig, "local.oplog.rs").await;
    cancelled_at("dumpDone", rig, hold, child).await;
}

impl Rig {
    pub async fn newest_name(&self, collection: &str) -> String {
        let found = self.newest(collection).await.unwrap_or_else(|| panic!("{collection} is empty"));
        found.get_str("name").expect("a name").to_owned()
    }

    /// Queues a backup as a command line without any checks would.
    pub async fn send_backup(&self, name: &str) -> String {
        self.send_backup_by(0, name).await
    }

    /// As [`Self::send_backup`], from a host whose clock is so many seconds ahead.
    pub async fn send_backup_by(&self, ahead: i64, name: &str) -> String {
        let command = Self::backup_command(ahead, name);
        self.admin().collection::<Document>("pbmCmd").insert_one(command).await.expect("queue the command");
        name.to_owned()
    }

    pub fn backup_command(ahead: i64, name: &str) -> Document {
        let now = DateTime::now().timestamp_millis() / 1000 + ahead;
        let id = ObjectId::from_parts(u32::try_from(now).expect("a time"), rand::random(), rand::random());
        doc! {
            "_id": id, "cmd": "backup",
            "backup": { "type": "logical", "base": false, "name": name, "compression": "s2" },
            "ts": now,
        }
    }

    /// A new process in place of the agent of member `n`, up and running.
    pub async fn restart_agent(&mut self, n: usize) {
        self.sandbox.agents[n].kill();
        self.sandbox.agents[n] = Agent::start(&self.sandbox.programs, &self.sandbox.set.uri_of(n));
        self.agent_is_up(n).await;
    }

    /// Waits for a sign of life after this moment.
    pub async fn agent_is_up(&self, n: usize) {
        self.agent_beats(&self.sandbox.set.address_of(n)).await;
    }
}
