//! Which members of a replica set are read for a backup, and what happens while too few of them are up.

use crate::support::cluster::{Options, ReplicaSet};
use crate::support::programs::{Agent, Output, Sandbox};
use crate::support::wait::until;
use mongodb::bson::{Document, Timestamp, doc};
use std::fs;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
/// Time limit for a message that depends on no waiting.
const AT_ONCE: Duration = Duration::from_secs(20);

/// Inserts into `shop.orders` and returns the time of the write, which the majority has acknowledged.
async fn insert(set: &ReplicaSet, id: i32) -> Timestamp {
    let insert = doc! {
        "insert": "orders", "documents": [{ "_id": id, "qty": id }],
        "writeConcern": { "w": "majority", "wtimeout": 30_000 },
    };
    let done = set.client().await.database("shop").run_command(insert).await.expect("insert");
    assert!(done.get("writeConcernError").is_none(), "{done}");
    done.get_timestamp("operationTime").expect("a time")
}

/// The backup's part of the only replica set.
async fn part(set: &ReplicaSet, name: &str) -> Document {
    let backups = set.client().await.database("admin").collection::<Document>("pbmBackups");
    let backup = backups.find_one(doc! { "name": name }).await.expect("read").expect("the backup");
    backup.get_array("replsets").expect("parts")[0].as_document().expect("a part").clone()
}

async fn admin_of(set: &ReplicaSet, n: usize, command: Document) -> Document {
    let admin = set.client_of(n).await.database("admin");
    admin.run_command(command.clone()).await.unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// Waits for the next beat of the agent on member `n`.
async fn beats(set: &ReplicaSet, n: usize) -> Document {
    let agents = set.client().await.database("admin").collection::<Document>("pbmAgents");
    let line = async || agents.find_one(doc! { "n": set.address_of(n) }).await.ok().flatten();
    let before = line().await.and_then(|line| line.get("hb").cloned());
    until("a beat", SOON, async || line().await.filter(|line| line.get("hb").cloned() != before)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_reads_a_fit_member_once_it_has_what_was_acknowledged_before() {
    let hidden = doc! { "hidden": true, "priority": 0 };
    let without_indexes = doc! { "hidden": true, "priority": 0, "buildIndexes": false };
    let kinds = vec![doc! {}, without_indexes, hidden];
    let mut sandbox = Sandbox::start(Options { members: 3, kinds, ..Options::default() }).await;
    let pbm = |sandbox: &Sandbox, args: &[&str]| tokio::task::block_in_place(|| sandbox.pbm(args));
    let written_at = insert(&sandbox.set, 1).await;
    let index =
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "qty": 1 }, "name": "qty_1" }], "commitQuorum": 1 };
    sandbox.set.client().await.database("shop").run_command(index).await.expect("make an index");

    // An agent of the original runs beside the member without indexes: it does not report the missing indexes, and is healthy
    // otherwise.
    sandbox.agents[1].kill();
    let agents = sandbox.set.client().await.database("admin").collection::<Document>("pbmAgents");
    let forget = doc! { "$unset": { "own": "", "unfit": "" }, "$set": { "hb": Timestamp { time: written_at.time + 60, increment: 1 } } };
    agents.update_one(doc! { "n": sandbox.set.address_of(1) }, forget).await.expect("write its line");

    // The only readable hidden member is locked after its agent has reported that it is healthy. The two other members are
    // the majority.
    beats(&sandbox.set, 2).await;
    admin_of(&sandbox.set, 2, doc! { "fsync": 1, "lock": true }).await;
    let written = insert(&sandbox.set, 2).await;
    let name = tokio::task::block_in_place(|| sandbox.backup(&[]));
    let made = part(&sandbox.set, &name).await;
    assert_eq!(made.get_str("node").expect("a node"), sandbox.set.address_of(0));
    assert!(made.get_timestamp("last_write_ts").expect("an end") >= written, "{made}");
    let described = fs::read_to_string(sandbox.store().join(&name).join("rs0/metadata.json")).expect("read");
    assert!(described.contains("qty_1"), "{described}");
    let log = sandbox.agents[0].log();
    let named: Vec<&str> = log.lines().filter(|line| line.contains("nominating")).collect();
    let is_named = |n: usize| named.iter().any(|line| line.contains(&sandbox.set.address_of(n)));
    assert_eq!([0, 1, 2].map(is_named), [true, false, true], "{named:?}");
    let line = beats(&sandbox.set, 2).await;
    assert!(line.get_str("unfit").is_ok_and(|why| why.contains("locked by fsync")), "{line}");

    sandbox.agents[1] = Agent::start(&sandbox.programs, &sandbox.set.uri_of(1));
    beats(&sandbox.set, 1).await;

    // No member is left for a backup: the reason for each member is printed before anything is started, and by `pbm status`
    // and `pbm doctor`.
    sandbox.agents[0].terminate().await;
    let refused = pbm(&sandbox, &["backup"]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    for why in ["buildIndexes: false", "locked by fsync"] {
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
    let status = pbm(&sandbox, &["status", "--check", "-s", "cluster"]);
    assert!(status.stdout.contains("not read for backups: it builds no indexes"), "{status:?}");
    assert!(status.stdout.contains("not read for backups: it is locked by fsync"), "{status:?}");
    assert!(status.stderr.contains("no node can be read for a backup"), "{status:?}");
    let doctor = pbm(&sandbox, &["doctor"]);
    assert!(doctor.stdout.contains("not read for backups: it is locked by fsync"), "{doctor:?}");
    admin_of(&sandbox.set, 2, doc! { "fsyncUnlock": 1 }).await;
    sandbox.agents[0] = Agent::start(&sandbox.programs, &sandbox.set.uri_of(0));
    let freed = async || beats(&sandbox.set, 2).await.get_str("unfit").is_err().then_some(());
    until("the lock to be gone", SOON, freed).await;

    // The member is behind, but not far enough to be excluded: the backup waits for it.
    let stop = |mode: &str| doc! { "configureFailPoint": "rsSyncApplyStop", "mode": mode };
    admin_of(&sandbox.set, 2, stop("alwaysOn")).await;
    let written = insert(&sandbox.set, 3).await;
    let mut waiting = sandbox.pbm_spawn(&["backup", "--wait", "-o", "json"]);
    let locks = sandbox.set.client().await.database("admin").collection::<Document>("pbmLock");
    let lock = until("the backup to begin", SOON, async || locks.find_one(doc! {}).await.ok().flatten()).await;
    assert_eq!(lock.get_str("node").expect("a node"), sandbox.set.address_of(2));
    // The backup waits on the node for the primary's last write; without this wait it would end.
    let wait = doc! { "currentOp": 1, "command.find": "system.version", "command.readConcern.afterClusterTime": { "$gte": written } };
    until("the backup to wait for its node", SOON, async || {
        assert!(waiting.try_wait().expect("ask").is_none(), "it ended without what was written before");
        let found = admin_of(&sandbox.set, 2, wait.clone()).await;
        (!found.get_array("inprog").expect("operations").is_empty()).then_some(())
    })
    .await;
    admin_of(&sandbox.set, 2, stop("off")).await;
    let done = tokio::task::block_in_place(|| waiting.wait_with_output()).expect("read");
    assert!(done.status.success(), "{done:?}");
    let name = serde_json::from_slice::<serde_json::Value>(&done.stdout).expect("json")["name"].clone();
    let name = name.as_str().expect("a name");
    let made = part(&sandbox.set, name).await;
    assert!(made.get_timestamp("last_write_ts").expect("an end") >= written, "{made}");
    // The restore runs beside a voting member that builds no indexes. The restore must not wait for this member.
    let db = sandbox.set.client().await.database("shop");
    db.drop().await.expect("drop");
    pbm(&sandbox, &["restore", name, "-y", "--wait"]).ok();
    let orders = db.collection::<Document>("orders");
    assert_eq!(orders.count_documents(doc! {}).await.expect("count"), 3);
    assert_eq!(orders.list_index_names().await.expect("list"), ["_id_", "qty_1"]);
}

/// Calls the command line with another connection string; the call has to end at once.
#[track_caller]
fn quickly(sandbox: &Sandbox, uri: &str, args: &[&str]) -> Output {
    let begun = Instant::now();
    let all = [args, &["--mongodb-uri", uri]].concat();
    let output = tokio::task::block_in_place(|| sandbox.pbm(&all));
    assert!(begun.elapsed() < AT_ONCE, "{args:?} took {:?}: {output:?}", begun.elapsed());
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_it_is_said_at_once_and_few_members_are_enough_if_that_is_asked_for() {
    let kinds = vec![doc! { "priority": 2 }, doc! {}, doc! { "arbiterOnly": true }];
    let mut sandbox = Sandbox::start(Options { members: 3, kinds, ..Options::default() }).await;
    let uri = sandbox.set.uri();
    insert(&sandbox.set, 1).await;
    until("the primary", SOON, async || (sandbox.set.primary().await == 0).then_some(())).await;
    let name = tokio::task::block_in_place(|| sandbox.backup(&[]));
    sandbox.set.kill(1);
    until("the loss to be seen", SOON, async || {
        let status = admin_of(&sandbox.set, 0, doc! { "replSetGetStatus": 1 }).await;
        let members = status.get_array("members").expect("members");
        members[1].as_document().and_then(|it| it.get_i32("state").ok()).filter(|state| *state == 8)
    })
    .await;

    // Commands that wait for the majority report what is missing.
    let lack = "no majority: 1 of 2 voting members with data is up, 2 are needed";
    for args in [&["backup", "--wait"][..], &["restore", &name, "-y"], &["delete-backup", &name, "-y"]] {
        let refused = quickly(&sandbox, &uri, args);
        assert_eq!(refused.status.code(), Some(4), "{refused:?}");
        assert!(refused.stderr.contains(lack) && refused.stderr.contains("readConcernLevel=local&w=1"), "{refused:?}");
    }
    let doctor = quickly(&sandbox, &uri, &["doctor"]);
    assert!(doctor.stdout.contains(lack) && doctor.status.code() == Some(2), "{doctor:?}");
    until("the agent's line", SOON, async || {
        let status = quickly(&sandbox, &uri, &["status", "--check"]);
        (status.stdout.contains(lack) && status.status.code() == Some(2)).then_some(())
    })
    .await;
    assert!(quickly(&sandbox, &uri, &["list"]).ok().stdout.contains(&name));
    until("the agent's word", SOON, async || sandbox.agents[0].log().contains(lack).then_some(())).await;
    // An agent that starts without a majority works as soon as there is one again.
    sandbox.agents[0].kill();
    sandbox.agents[0] = Agent::start(&sandbox.programs, &sandbox.set.uri_of(0));
    until("the agent to serve", AT_ONCE, async || sandbox.agents[0].log().contains("serving ").then_some(())).await;

    // One member is enough for a backup where the connection strings say so; a restore needs the majority.
    let few = "&w=1&readConcernLevel=local";
    sandbox.agents[0].kill();
    sandbox.agents[0] = Agent::start(&sandbox.programs, &format!("{}{few}", sandbox.set.uri_of(0)));
    until("the agent to serve", AT_ONCE, async || sandbox.agents[0].log().contains("serving ").then_some(())).await;
    let uri = format!("{uri}{few}");
    let made = quickly(&sandbox, &uri, &["backup", "--wait"]).ok();
    assert!(made.stderr.contains("Warning: the leader replica set has no majority"), "{made:?}");
    let refused = quickly(&sandbox, &uri, &["restore", &name, "-y"]);
    assert!(refused.status.code() == Some(4) && refused.stderr.contains(lack), "{refused:?}");

    sandbox.set.restart(1);
    until("a majority", SOON, async || {
        let doctor = quickly(&sandbox, &uri, &["doctor"]);
        (!doctor.stdout.contains("no majority")).then_some(())
    })
    .await;
}
