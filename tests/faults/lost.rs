//! Agents and servers that are killed in the middle of an operation.

use super::rig::{Hold, Rig, SETTLED, USUAL};
use crate::support::programs::signal;
use crate::support::state;
use crate::support::wait;
use mongodb::bson::{Document, Timestamp, doc};
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn the_only_agent_is_killed_in_mid_backup() {
    let mut rig = Rig::start(1).await;
    let hold = Hold::reading(&rig, "shop.orders").await;
    let child = rig.sandbox.pbm_spawn(&["backup", "--wait"]);
    hold.entered().await;
    let name = rig.reaches("pbmBackups", "running").await;
    rig.sandbox.agents[0].kill();
    let since = Instant::now();
    let said = rig.ended(child, since, SETTLED).await.failed();
    assert!(said.stderr.contains("lost"), "{}", said.stderr);
    rig.is_not_offered(&name);
    hold.release().await;

    let since = Instant::now();
    rig.restart_agent(0).await;
    let end = rig.settles("pbmBackups", &name, since).await;
    assert_eq!(end.status, "error");
    assert!(end.error.contains("lost"), "{end:?}");
    rig.next_backup_works();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_that_comes_back_ends_its_own_backup() {
    let mut rig = Rig::start(1).await;
    let hold = Hold::reading(&rig, "shop.orders").await;
    rig.pbm(&["backup"]).ok();
    hold.entered().await;
    let name = rig.reaches("pbmBackups", "running").await;
    rig.sandbox.agents[0].kill();
    let since = Instant::now();
    hold.release().await;
    rig.restart_agent(0).await;
    assert_eq!(rig.settles("pbmBackups", &name, since).await.status, "error");
    rig.is_not_offered(&name);
    rig.next_backup_works();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_agents_end_the_backup_of_a_killed_one() {
    let mut rig = Rig::start(3).await;
    let hold = Hold::reading(&rig, "shop.orders").await;
    rig.pbm(&["backup"]).ok();
    hold.entered().await;
    let name = rig.reaches("pbmBackups", "running").await;
    let worker = rig.worker().await;
    rig.sandbox.agents[worker].kill();
    let since = Instant::now();
    hold.release().await;
    let end = rig.settles("pbmBackups", &name, since).await;
    assert_eq!(end.status, "error");
    assert!(end.error.contains(&rig.sandbox.set.address_of(worker)), "the reason names no agent: {end:?}");
    rig.is_not_offered(&name);
    rig.next_backup_works();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_ends_its_backup_before_it_goes() {
    let mut rig = Rig::start(1).await;
    let hold = Hold::reading(&rig, "shop.orders").await;
    rig.pbm(&["backup"]).ok();
    hold.entered().await;
    let name = rig.reaches("pbmBackups", "running").await;
    let since = Instant::now();
    // A second signal, as from an impatient user, changes nothing.
    rig.sandbox.agents[0].signal("TERM");
    let status = rig.sandbox.agents[0].terminate().await;
    assert!(status.success(), "{status}");
    // No other agent is left to take over. No user asked for the stop either, so it is a failure and not a cancellation.
    let stopped = format!("the agent on {} was stopped in the middle of the", rig.sandbox.set.address_of(0));
    let end = rig.settles("pbmBackups", &name, since).await;
    assert!(end.status == "error" && end.error.contains(&stopped), "{end:?}");
    hold.release().await;
    rig.restart_agent(0).await;
    let whole = rig.next_backup_works();

    let hold = Hold::delaying(&rig, "insert", "shop.orders", 5000).await;
    let child = rig.sandbox.pbm_spawn(&["restore", &whole, "--wait", "-y"]);
    hold.entered().await;
    let restore = rig.reaches("pbmRestores", "running").await;
    let since = Instant::now();
    rig.sandbox.agents[0].terminate().await;
    hold.release().await;
    let said = rig.ended(child, since, SETTLED).await.failed();
    assert!(said.stderr.contains(&stopped), "{}", said.stderr);
    let end = rig.settles("pbmRestores", &restore, since).await;
    assert!(end.status == "error" && end.error.contains(&stopped), "{end:?}");
    let listed = rig.pbm(&["list", "--restore"]).ok().stdout;
    assert!(listed.contains("was stopped in the middle"), "{listed}");
    rig.restart_agent(0).await;
    rig.pbm(&["restore", &whole, "--wait", "-y"]).ok();
}

/// After `pbm` has reported that nothing began, nothing begins, whatever the agent reads later.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_its_sender_gave_up_on_never_begins() {
    let rig = Rig::start(1).await;
    let whole = rig.next_backup_works();
    let commands = rig.admin().collection::<Document>("pbmCmd");
    let restores = rig.admin().collection::<Document>("pbmRestores");
    let backups = rig.admin().collection::<Document>("pbmBackups");
    for args in
        [&["restore", &whole, "--wait", "-y"][..], &["backup", "--wait"], &["config", "--force-resync", "--wait"]]
    {
        let kind = if args[0] == "config" { "resync" } else { args[0] };
        let count = async || commands.count_documents(doc! { "cmd": kind }).await.expect("count");
        let before = count().await;
        rig.sandbox.agents[0].signal("STOP");
        let child = rig.sandbox.pbm_spawn(args);
        wait::until("the command", USUAL, async || (count().await > before).then_some(())).await;
        let since = Instant::now();
        signal(child.id(), "INT");
        let said = rig.ended(child, since, SETTLED).await.failed();
        assert!(said.stderr.contains("was withdrawn before it began"), "{}", said.stderr);
        rig.sandbox.agents[0].signal("CONT");
    }
    // The sender of this command died an hour ago, before the withdrawal.
    let mut late = Rig::backup_command(0, "2026-01-02T03:04:05Z");
    late.insert("until", Timestamp { time: 1, increment: 0 });
    commands.insert_one(late).await.expect("queue the command");
    wait::until("the agent's words", USUAL, async || {
        let log = rig.sandbox.agents[0].log();
        let withdrawn = log.matches("was withdrawn by its sender before it began").count();
        (withdrawn == 3 && log.contains("too late")).then_some(())
    })
    .await;
    rig.next_backup_works();
    assert_eq!(restores.count_documents(doc! {}).await.expect("count"), 0, "the restore began");
    assert_eq!(backups.count_documents(doc! {}).await.expect("count"), 2, "a backup that nobody waits for began");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_killed_in_mid_restore() {
    let mut rig = Rig::start(1).await;
    let name = rig.next_backup_works();
    rig.pbm(&["config", "--set", "pitr.enabled=true"]).ok();
    let before = state::read(&rig.client).await;
    let hold = Hold::delaying(&rig, "insert", "shop.orders", 5000).await;
    let child = rig.sandbox.pbm_spawn(&["restore", &name, "--wait", "-y"]);
    hold.entered().await;
    let restore = rig.reaches("pbmRestores", "running").await;
    rig.sandbox.agents[0].kill();
    let since = Instant::now();
    hold.release().await;
    let said = rig.ended(child, since, SETTLED).await.failed();
    assert!(said.stderr.contains("lost"), "{}", said.stderr);
    assert_eq!(rig.settles("pbmRestores", &restore, since).await.status, "error");
    let sliced = |rig: &Rig| rig.pbm(&["config", "pitr.enabled"]).ok().stdout.trim() == "[pitr.enabled=true]";
    assert!(!sliced(&rig), "nobody was there to switch it on again");

    rig.restart_agent(0).await;
    wait::until("point-in-time recovery to be on again", SETTLED, async || {
        let restore = rig.newest("pbmRestores").await?;
        (sliced(&rig) && !restore.contains_key("pitr_due")).then_some(())
    })
    .await;
    rig.pbm(&["config", "--set", "pitr.enabled=false"]).ok();
    rig.pbm(&["restore", &name, "--wait", "-y"]).ok();
    assert_eq!(state::differences(&before, &state::read(&rig.client).await), Vec::<String>::new());
    rig.next_backup_works();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_that_is_read_is_killed() {
    let mut rig = Rig::start(3).await;
    let hold = Hold::reading(&rig, "shop.orders").await;
    let child = rig.sandbox.pbm_spawn(&["backup", "--wait"]);
    hold.entered().await;
    let name = rig.reaches("pbmBackups", "running").await;
    let worker = rig.worker().await;
    rig.sandbox.set.kill(worker);
    let since = Instant::now();
    hold.release().await;
    rig.ended(child, since, SETTLED).await.failed();
    let end = rig.settles("pbmBackups", &name, since).await;
    assert_eq!(end.status, "error");
    rig.is_not_offered(&name);
    rig.next_backup_works();
    rig.sandbox.set.restart(worker);
    rig.agent_is_up(worker).await;
    rig.next_backup_works();
}

/// The backup reads a secondary, so it may well go on; but then it must be whole.
#[tokio::test(flavor = "multi_thread")]
async fn the_primary_is_killed_in_mid_backup() {
    let mut rig = Rig::start(3).await;
    let before = state::read(&rig.client).await;
    let hold = Hold::reading(&rig, "shop.orders").await;
    let child = rig.sandbox.pbm_spawn(&["backup", "--wait"]);
    hold.entered().await;
    let name = rig.reaches("pbmBackups", "running").await;
    let primary = rig.sandbox.set.primary().await;
    rig.sandbox.set.kill(primary);
    let since = Instant::now();
    rig.sandbox.set.primary().await;
    hold.release().await;
    let said = rig.ended(child, since, SETTLED).await;
    let end = rig.settles("pbmBackups", &name, since).await;
    assert_eq!(said.status.success(), end.status == "done", "{end:?} {}{}", said.stdout, said.stderr);
    if end.status != "done" {
        rig.is_not_offered(&name);
    }
    rig.sandbox.set.restart(primary);
    rig.agent_is_up(primary).await;
    let whole = if end.status == "done" { name } else { rig.next_backup_works() };
    rig.client.database("shop").drop().await.expect("lose the data");
    rig.pbm(&["restore", &whole, "--wait", "-y"]).ok();
    assert_eq!(state::differences(&before, &state::read(&rig.client).await), Vec::<String>::new());
    rig.next_backup_works();
}

/// With a single server everything is gone at once: control collections, data, and locks.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_server_is_killed_and_comes_back() {
    let mut rig = Rig::start(1).await;
    let hold = Hold::reading(&rig, "shop.orders").await;
    let child = rig.sandbox.pbm_spawn(&["backup", "--wait"]);
    hold.entered().await;
    let name = rig.reaches("pbmBackups", "running").await;
    rig.sandbox.set.kill(0);
    rig.sandbox.set.restart(0);
    let since = Instant::now();
    let said = rig.ended(child, since, SETTLED).await;
    let end = rig.settles("pbmBackups", &name, since).await;
    assert_eq!(said.status.success(), end.status == "done", "{end:?} {}{}", said.stdout, said.stderr);
    wait::until("a primary again", USUAL, async || Some(rig.sandbox.set.primary().await)).await;
    rig.agent_is_up(0).await;
    rig.next_backup_works();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_is_killed_in_mid_restore() {
    let mut rig = Rig::start(3).await;
    let name = rig.next_backup_works();
    let before = state::read(&rig.client).await;
    let hold = Hold::delaying(&rig, "insert", "shop.orders", 5000).await;
    let child = rig.sandbox.pbm_spawn(&["restore", &name, "--wait", "-y"]);
    hold.entered().await;
    let restore = rig.reaches("pbmRestores", "running").await;
    let primary = rig.sandbox.set.primary().await;
    rig.sandbox.set.kill(primary);
    let since = Instant::now();
    hold.release().await;
    rig.ended(child, since, SETTLED).await.failed();
    assert_eq!(rig.settles("pbmRestores", &restore, since).await.status, "error");
    rig.sandbox.set.restart(primary);
    rig.agent_is_up(primary).await;
    rig.pbm(&["restore", &name, "--wait", "-y"]).ok();
    assert_eq!(state::differences(&before, &state::read(&rig.client).await), Vec::<String>::new());
}

/// What a restore of a selection has set aside under names of its own goes when it is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_killed_in_mid_restore_of_a_selection() {
    let mut rig = Rig::start(1).await;
    let shop = rig.client.database("shop");
    shop.collection::<Document>("next").insert_one(doc! { "_id": "next" }).await.expect("insert");
    let name = rig.next_backup_works();
    rig.pbm(&["config", "--set", "pitr.enabled=true", "--set", "pitr.oplogSpanMin=0.03"]).ok();
    let rename = doc! { "renameCollection": "shop.next", "to": "shop.orders", "dropTarget": true };
    rig.admin().run_command(rename).await.expect("rename");
    shop.collection::<Document>("orders").insert_one(doc! { "_id": "more" }).await.expect("insert");
    let hello = rig.admin().run_command(doc! { "hello": 1 }).await.expect("hello");
    let end = hello.get_document("lastWrite").and_then(|last| last.get_document("opTime"));
    let end = end.and_then(|last| last.get_timestamp("ts")).expect("the last write");
    let chunks = rig.admin().collection::<Document>("pbmPITRChunks");
    wait::until("slices", USUAL, async || {
        chunks.find_one(doc! { "end_ts": { "$gte": end } }).await.expect("read the chunks")
    })
    .await;
    rig.pbm(&["config", "--set", "pitr.enabled=false"]).ok();
    let time = format!("{},{}", end.time, end.increment);
    let before = state::read(&rig.client).await;
    let args = ["restore", "--time", &time, "--base-snapshot", &name, "--ns", "shop.orders", "--wait", "-y"];

    let hold = Hold::delaying(&rig, "insert", "shop.orders", 5000).await;
    let child = rig.sandbox.pbm_spawn(&args);
    hold.entered().await;
    let since = Instant::now();
    rig.sandbox.agents[0].kill();
    let parked = shop.list_collection_names().await.expect("list");
    assert!(parked.iter().any(|coll| coll.starts_with("tmp") && coll.ends_with(".pbm")), "{parked:?}");
    rig.ended(child, since, SETTLED).await.failed();
    hold.release().await;
    rig.restart_agent(0).await;
    rig.pbm(&args).ok();
    assert_eq!(state::differences(&before, &state::read(&rig.client).await), [""; 0]);
}
