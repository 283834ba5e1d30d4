//! Restores of physical backups, by agents and the command line, on real mongods.

use crate::support::cluster::{Options, ReplicaSet, Version};
use crate::support::physical::{by_hand, top};
use crate::support::programs::Sandbox;
use crate::support::wait;
use bson::{Document, doc};
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "2026-11-21T00:00:00Z";

async fn insert(set: &ReplicaSet, from: i32, count: i32) {
    let orders = set.client().await.database("shop").collection::<Document>("orders");
    let all = (from..from + count).map(|n| doc! { "_id": n, "text": "x".repeat(200) });
    orders.insert_many(all).write_concern(mongodb::options::WriteConcern::majority()).await.expect("insert");
}

/// The hash of the database, as member `n` has it.
async fn hash(set: &ReplicaSet, n: usize) -> String {
    let answer = set.client_of(n).await.database("shop").run_command(doc! { "dbHash": 1 }).await.expect("dbHash");
    answer.get_str("md5").expect("a hash").to_owned()
}

async fn known(sandbox: &Sandbox) {
    sandbox.pbm(&["config", "--force-resync", "--wait"]).ok();
    assert!(sandbox.pbm(&["list"]).ok().stdout.contains(NAME));
}

/// Nothing of the restore lies in a dbPath any more.
fn is_tidy(set: &ReplicaSet, n: usize) -> bool {
    [".pbm.restore", ".fallbacksync"].iter().all(|name| !set.data_of(n).join(name).exists())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_goes_back_to_the_backup_and_to_later_moments() {
    let sandbox = Sandbox::start(Options::default()).await;
    let set = &sandbox.set;
    insert(set, 0, 1000).await;
    by_hand(set, 0, &sandbox.store(), NAME).await;
    known(&sandbox).await;
    let first = hash(set, 0).await;
    sandbox.pbm(&["config", "--set", "pitr.enabled=true"]).ok();
    let slicers = set.client().await.database("admin").collection::<Document>("pbmLockOp");
    wait::until("the slicer", LIMIT, async || slicers.find_one(doc! { "type": "pitr" }).await.ok().flatten().map(drop))
        .await;
    insert(set, 1000, 50).await;
    let orders = set.client().await.database("shop").collection::<Document>("orders");
    orders.delete_many(doc! { "_id": { "$lt": 10 } }).await.expect("delete");
    let (second, moment) = (hash(set, 0).await, top(set, 0).await);
    let index = mongodb::IndexModel::builder().keys(doc! { "text": 1 }).build();
    orders.create_index(index).await.expect("an index");
    orders.update_many(doc! {}, doc! { "$set": { "text": "y" } }).await.expect("update");
    let third = hash(set, 0).await;
    let agent = sandbox.agents[0].pid();

    sandbox.pbm(&["restore", "--time", "latest", "--yes", "--wait"]).ok();
    assert_eq!(hash(set, 0).await, third);
    let names = set.client().await.database("shop").collection::<Document>("orders").list_index_names().await;
    assert_eq!(names.expect("indexes"), ["_id_", "text_1"]);

    let at = format!("{},{}", moment.time, moment.increment);
    sandbox.pbm(&["restore", "--time", &at, "--yes", "--wait"]).ok();
    assert_eq!(hash(set, 0).await, second);

    let done = sandbox.pbm(&["restore", NAME, "--yes", "--wait", "-o", "json"]).ok();
    assert_eq!(hash(set, 0).await, first);
    assert!(is_tidy(set, 0) && sandbox.agents[0].pid() == agent);

    // The cluster works on at once, with its settings.
    let name = done.json()["name"].as_str().expect("a name").to_owned();
    assert!(sandbox.pbm(&["status"]).ok().stdout.contains(NAME));
    assert!(sandbox.pbm(&["config", "pitr.enabled"]).ok().stdout.contains("true"));
    assert!(sandbox.pbm(&["list", "--restore"]).ok().stdout.contains(&name));
    sandbox.backup(&[]);
    insert(set, 5000, 1).await;

    let file = sandbox.storage.path().join("file.yaml");
    fs::write(&file, format!("storage: {{type: filesystem, filesystem: {{path: {}}}}}", sandbox.store().display()))
        .expect("write");
    let shown = sandbox.pbm(&["describe-restore", &name, "-c", &file.display().to_string(), "-o", "json"]).ok();
    assert_eq!((&shown.json()["status"], &shown.json()["type"]), (&"done".into(), &"physical".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_with_users_go_back_together() {
    let options = Options { members: 3, auth: true, ..Options::default() };
    let sandbox = Sandbox::start(options).await;
    let set = &sandbox.set;
    insert(set, 0, 1000).await;
    let first = hash(set, 0).await;
    let secondary = (0..3).find(|n| *n != 0).expect("a secondary");
    wait::until("the secondary", LIMIT, async || (hash(set, secondary).await == first).then_some(())).await;
    by_hand(set, secondary, &sandbox.store(), NAME).await;
    known(&sandbox).await;
    insert(set, 1000, 50).await;
    sandbox.pbm(&["restore", NAME, "--yes", "--wait"]).ok();
    for n in 0..3 {
        assert_eq!(hash(set, n).await, first, "member {n}");
        assert!(is_tidy(set, n), "member {n}");
    }
    let all = mongodb::options::WriteConcern::builder().w(mongodb::options::Acknowledgment::Nodes(3)).build();
    let orders = set.client().await.database("shop").collection::<Document>("orders");
    orders.insert_one(doc! { "_id": -1 }).write_concern(all).await.expect("all members take writes");
    sandbox.pbm(&["status"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_changes_nothing() {
    let sandbox = Sandbox::start(Options::default()).await;
    let set = &sandbox.set;
    insert(set, 0, 100).await;
    by_hand(set, 0, &sandbox.store(), NAME).await;
    known(&sandbox).await;
    insert(set, 100, 1).await;
    let now = hash(set, 0).await;
    let pid = fs::read_to_string(set.data_of(0).join("mongod.lock")).expect("a process id");
    let object = sandbox.store().join(NAME).join("rs0").join("sizeStorer.wt");
    let good = fs::read(&object).expect("the object");

    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    fs::write(&object, &flipped).expect("write");
    let refused = sandbox.pbm(&["restore", NAME, "--yes", "--wait"]).failed();
    assert!(refused.stderr.contains("sizeStorer.wt") && refused.stderr.contains("damaged"), "{}", refused.stderr);

    fs::write(&object, &good[1..]).expect("write");
    let refused = sandbox.pbm(&["restore", NAME, "--dry-run"]).failed();
    assert!(refused.stderr.contains("sizeStorer.wt' has"), "{}", refused.stderr);
    fs::remove_file(&object).expect("remove");
    let refused = sandbox.pbm(&["restore", NAME, "--yes", "--wait"]).failed();
    assert!(refused.stderr.contains("sizeStorer.wt' is missing"), "{}", refused.stderr);

    fs::write(&object, &good).expect("write");
    let plan = sandbox.pbm(&["restore", NAME, "--dry-run"]).ok().stdout;
    assert!(plan.contains("physical") && plan.contains(&set.address_of(0)) && plan.contains("old data"), "{plan}");
    assert_eq!(hash(set, 0).await, now);
    assert_eq!(fs::read_to_string(set.data_of(0).join("mongod.lock")).expect("a process id"), pid, "it never stopped");
    assert!(is_tidy(set, 0));
    insert(set, 200, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_does_not_come_up_has_its_old_data_again() {
    let sandbox = Sandbox::start(Options::default()).await;
    let set = &sandbox.set;
    insert(set, 0, 100).await;
    by_hand(set, 0, &sandbox.store(), NAME).await;
    known(&sandbox).await;
    insert(set, 100, 50).await;
    let now = hash(set, 0).await;
    // The first start fails, the second does what the agent would do itself.
    let pid = fs::read_to_string(set.data_of(0).join("mongod.lock")).expect("a process id");
    let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).expect("a command line");
    let line: Vec<String> = line.split_terminator('\0').map(|word| format!("'{word}'")).collect();
    let (script, mark) = (sandbox.storage.path().join("start.sh"), sandbox.storage.path().join("mark"));
    let text = format!(
        "if [ -e {mark} ]; then {line} >/dev/null 2>&1 </dev/null & else touch {mark}; echo broken >&2; exit 3; fi",
        mark = mark.display(),
        line = line.join(" ")
    );
    fs::write(&script, text).expect("write");
    sandbox.pbm(&["config", "--set", &format!("restore.physical.startCommand=sh {}", script.display())]).ok();

    let failed = sandbox.pbm(&["restore", NAME, "--yes", "--wait"]).failed();
    assert!(failed.stderr.contains("broken"), "{}", failed.stderr);
    wait::until("the old data", LIMIT, async || {
        let answer = set.client_of(0).await.database("shop").run_command(doc! { "dbHash": 1 }).await.ok()?;
        answer.get_str("md5").is_ok_and(|it| it == now).then_some(())
    })
    .await;
    wait::until("the agent", LIMIT, async || sandbox.pbm(&["status"]).status.success().then_some(())).await;
    wait::until("a tidy folder", LIMIT, async || is_tidy(set, 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_servers_go_back_to_the_backup_without_keeping_the_old_data() {
    for version in [Version::Older, Version::Oldest] {
        let sandbox = Sandbox::start(Options { version, ..Options::default() }).await;
        let set = &sandbox.set;
        insert(set, 0, 100).await;
        let first = hash(set, 0).await;
        by_hand(set, 0, &sandbox.store(), NAME).await;
        known(&sandbox).await;
        insert(set, 100, 50).await;
        sandbox.pbm(&["restore", NAME, "--fallback-enabled=false", "--yes", "--wait"]).ok();
        assert_eq!(hash(set, 0).await, first, "{version:?}");
        assert!(is_tidy(set, 0), "{version:?}");
    }
}
