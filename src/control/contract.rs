//! A suite of checks that the control collections must pass, both on a server and in memory. It panics at the first
//! failed check.
//!
//! It proves that [`super::memory`] behaves like the server in tests: conditional updates, unique keys, staleness by
//! cluster time, the order of commands and rings, and that every reader sees a write after it was confirmed.

use super::{Commands, Control, Debt, Entry, OpDocs, OpDocument, Order, Shelf, TakeLock, Withdrawal};
use crate::model::{
    agent::AgentStat,
    backup::{BackupMeta, Nomination},
    command::{ResyncCmd, name},
    config::{Config, PitrConf, StorageConf},
    lock::{Lock, LockHeader, STALE_SECS},
    restore::RestoreMeta,
    status::Status,
};
use anyhow::Result;
use bson::{Bson, Document, Timestamp, doc};
use std::{collections::HashSet, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

/// Runs all checks on empty collections. `here` and `there` are two connections to the same cluster.
///
/// # Panics
/// A check failed.
pub async fn check(here: &Control, there: &Control) {
    check_all(here, there).await.expect("the cluster answers");
}

async fn check_all(here: &Control, there: &Control) -> Result<()> {
    time_only_grows(here, there).await?;
    one_lock_for_each_replica_set(here, there).await?;
    stale_locks_go_unless_their_holder_lives(here, there).await?;
    an_operation_begins_once_or_is_withdrawn(here, there).await?;
    slicing_locks(here, there).await?;
    operations_end_once(&here.backups, &there.backups).await?;
    operations_end_once(&here.restores, &there.restores).await?;
    parts_of_replica_sets(here, there).await?;
    debts(here, there).await?;
    backups_found_by_a_resync(here, there).await?;
    only_failed_backups_ask_for_a_clean_up(here).await?;
    nominations(here, there).await?;
    lines_of_agents(here, there).await?;
    configuration(here, there).await?;
    commands_come_once_and_in_order(here, there).await?;
    rings_wake_waiters_elsewhere(here, there).await
}

fn later(time: Timestamp, seconds: u32) -> Timestamp {
    Timestamp { time: time.time + seconds, ..time }
}

fn header(replset: &str, node: &str, opid: &str) -> LockHeader {
    LockHeader {
        kind: name::BACKUP.into(),
        replset: replset.into(),
        node: node.into(),
        opid: opid.into(),
        epoch: Some(Timestamp { time: 7, increment: 0 }),
    }
}

fn operation<T: OpDocument>(fields: Document) -> T {
    bson::deserialize_from_document(fields).expect("an operation")
}

async fn time_only_grows(here: &Control, there: &Control) -> Result<()> {
    let first = here.cluster_time().await?;
    assert!(first.time > 0);
    let second = there.advanced_cluster_time().await?;
    assert!(second > first, "a write advances the time for everybody: {first} {second}");
    assert!(here.time_of_last_call().await? >= first);
    Ok(())
}

async fn one_lock_for_each_replica_set(here: &Control, there: &Control) -> Result<()> {
    let now = here.cluster_time().await?;
    let [mine, theirs] = [header("rs0", "a:1", "op1"), header("rs0", "b:1", "op1")];
    let (a, b) = tokio::join!(here.locks.try_take(&mine, now), there.locks.try_take(&theirs, now));
    let (a, b) = (a?, b?);
    let winner = match (&a, &b) {
        (TakeLock::Taken, TakeLock::Busy { by }) if by.header == mine => mine,
        (TakeLock::Busy { by }, TakeLock::Taken) if by.header == theirs => theirs,
        _ => panic!("not exactly one has it: {a:?}, {b:?}"),
    };
    assert_eq!(there.locks.try_take(&header("rs1", "c:1", "op1"), now).await?, TakeLock::Taken, "another replica set");
    assert_eq!(here.locks.all().await?.len(), 2);
    assert_eq!(here.locks.of("rs0").await?, Some(Lock { header: winner.clone(), hb: now }));
    assert!(matches!(here.locks.try_take(&header("rs0", "a:1", "op2"), now).await?, TakeLock::Busy { .. }));
    assert_eq!(there.locks.begun_in("op1", "rs0").await?, Some(winner.clone()));
    assert_eq!(there.locks.begun_in("op2", "rs0").await?, None, "nobody began it");
    there.locks.release(&header("rs0", "x:1", "op1")).await?;
    assert!(here.locks.of("rs0").await?.is_some(), "only its holder gives it back");
    here.locks.release(&winner).await?;
    here.locks.release(&winner).await?;
    here.locks.release(&header("rs1", "c:1", "op1")).await?;
    assert_eq!(there.locks.all().await?, []);
    assert_eq!(here.locks.try_take(&winner, now).await?, TakeLock::AlreadyRun, "each operation once");
    assert_eq!(here.locks.all().await?, [], "and no lock for that");
    Ok(())
}

async fn stale_locks_go_unless_their_holder_lives(here: &Control, there: &Control) -> Result<()> {
    let now = here.cluster_time().await?;
    let (mine, next) = (header("rs0", "a:1", "op3"), header("rs0", "b:1", "op4"));
    assert_eq!(here.locks.try_take(&mine, now).await?, TakeLock::Taken);
    let seen = Lock { header: mine.clone(), hb: now };
    assert!(matches!(there.locks.try_take(&next, later(now, STALE_SECS)).await?, TakeLock::Busy { .. }));
    let stale = there.locks.try_take(&next, later(now, STALE_SECS + 1)).await?;
    assert_eq!(stale, TakeLock::Stale { by: seen.clone() });

    assert!(here.locks.beat(&mine, later(now, 5)).await?);
    assert!(here.locks.beat(&mine, later(now, 3)).await?, "a late attempt");
    assert_eq!(there.locks.of("rs0").await?.map(|lock| lock.hb), Some(later(now, 5)), "takes nothing back");
    assert!(!there.locks.remove_stale(&seen).await?, "it was refreshed since");
    assert!(here.locks.of("rs0").await?.is_some());
    let seen = Lock { hb: later(now, 5), ..seen };
    let (a, b) = tokio::join!(there.locks.remove_stale(&seen), here.locks.remove_stale(&seen));
    assert!(a? != b?, "one of two removes it");
    assert!(!here.locks.beat(&mine, later(now, 6)).await?, "it is not ours any more");
    assert_eq!(there.locks.try_take(&next, later(now, 6)).await?, TakeLock::Taken);
    assert!(!here.locks.beat(&mine, later(now, 7)).await?, "nor is the next one's");
    there.locks.release(&next).await
}

async fn an_operation_begins_once_or_is_withdrawn(here: &Control, there: &Control) -> Result<()> {
    let now = here.cluster_time().await?;
    let others = ["rs1".to_owned()];
    assert_eq!(there.locks.withdraw(name::BACKUP, "op5", "rs0", &others).await?, Withdrawal::Done);
    assert_eq!(there.locks.withdraw(name::BACKUP, "op5", "rs0", &others).await?, Withdrawal::Done, "again");
    for rs in ["rs0", "rs1", "rs2"] {
        assert_eq!(here.locks.try_take(&header(rs, "a:1", "op5"), now).await?, TakeLock::Withdrawn);
    }
    assert!(here.locks.is_withdrawn("op5").await? && !here.locks.was_taken("op5").await?);
    let taken = header("rs0", "a:1", "op6");
    assert_eq!(here.locks.try_take(&taken, now).await?, TakeLock::Taken);
    let late = there.locks.withdraw(name::BACKUP, "op6", "rs0", &others).await?;
    assert_eq!(late, Withdrawal::TooLate { taken: taken.clone() });
    assert!(!here.locks.is_withdrawn("op6").await? && here.locks.was_taken("op6").await?);
    here.locks.release(&taken).await
}

async fn slicing_locks(here: &Control, there: &Control) -> Result<()> {
    let now = here.cluster_time().await?;
    let slicer = |node: &str| LockHeader { kind: name::PITR.into(), opid: String::new(), ..header("rs0", node, "") };
    let (a, b) = (slicer("a:1"), slicer("b:1"));
    assert!(here.locks.try_take_slicing(&a, now).await?);
    assert!(!there.locks.try_take_slicing(&b, later(now, STALE_SECS)).await?);
    assert_eq!(here.locks.try_take(&header("rs0", "c:1", "op7"), now).await?, TakeLock::Taken, "a lock beside it");
    here.locks.release(&header("rs0", "c:1", "op7")).await?;
    assert!(here.locks.beat_slicing(&a, later(now, 1)).await?);

    there.locks.ask_to_flush(later(now, 2)).await?;
    there.locks.ask_to_flush(now).await?;
    assert_eq!(here.locks.asked_to_flush(&a).await?, Some(later(now, 2)), "an earlier time changes nothing");
    assert!(there.locks.flushed_since(later(now, 2)).await?.is_empty());
    here.locks.flushed(&a, later(now, 2)).await?;
    assert!(there.locks.flushed_since(later(now, 2)).await?.contains("rs0"));
    assert!(there.locks.flushed_since(later(now, 3)).await?.is_empty());

    let seen = there.locks.slicer_of("rs0").await?.expect("a slicer");
    assert!(here.locks.beat_slicing(&a, later(now, 4)).await?);
    assert!(!there.locks.remove_silent_slicer(&seen).await?, "it was refreshed since");
    assert!(there.locks.try_take_slicing(&b, later(now, STALE_SECS + 5)).await?, "a stale holder is put out");
    assert!(!here.locks.beat_slicing(&a, later(now, 5)).await?);
    assert_eq!(here.locks.slicers().await?.len(), 1);
    there.locks.release_slicing(&b).await?;
    assert_eq!(here.locks.slicer_of("rs0").await?, None);
    Ok(())
}

async fn operations_end_once<T: OpDocument>(here: &OpDocs<T>, there: &OpDocs<T>) -> Result<()> {
    let running = |name: &str, opid: &str| operation::<T>(doc! { "name": name, "opid": opid, "status": "running" });
    let (twin, other) = (running("one", "o1"), running("one", "o2"));
    let (a, b) = tokio::join!(here.insert(&twin), there.insert(&other));
    assert!(a? != b?, "one of a name");
    let opid = here.raw("one").await?.expect("it").get_str("opid")?.to_owned();
    assert_eq!(there.name_by_opid(&opid).await?.as_deref(), Some("one"));
    assert!(!there.has_ended("one").await? && !there.has_ended_by_opid(&opid).await? && there.any_open().await?);
    assert!(!there.has_ended_by_opid("unknown").await? && there.has_ended("unknown").await?);
    assert_eq!(there.unfinished().await?.len(), 1);

    let at = Timestamp { time: 100, increment: 1 };
    there.beat_of(&opid, later(at, 5)).await?;
    here.beat("one", at).await?;
    let state = here.state("one").await?.expect("it");
    assert_eq!(state.get_timestamp("hb")?, later(at, 5), "a heartbeat never goes back");
    let mut fields: Vec<&str> = state.keys().map(String::as_str).filter(|key| *key != "error").collect();
    fields.sort_unstable();
    assert_eq!(fields, ["_id", "hb", "status"]);

    assert!(here.set_status("one", Status::DumpDone, "").await?);
    let (a, b) =
        tokio::join!(here.set_status("one", Status::Done, ""), there.set_status("one", Status::Canceled, "stop"));
    assert!(a? != b?, "one end");
    let ended = here.raw("one").await?.expect("it");
    for status in [Status::Running, Status::Error, Status::Done] {
        assert!(!there.set_status("one", status, "again").await?, "an end is final");
    }
    here.beat_of(&opid, later(at, 9)).await?;
    assert_eq!(there.raw("one").await?, Some(ended.clone()), "nothing changes it");
    assert_eq!(ended.get_array("conditions")?.len(), 2, "each transition is recorded");
    assert!(there.has_ended("one").await? && there.has_ended_by_opid(&opid).await?);
    assert!(!there.set_status("unknown", Status::Error, "").await?);
    assert!(there.unfinished().await?.is_empty());

    assert!(here.insert(&operation::<T>(doc! { "name": "zero", "status": "done", "start_ts": -1_i64 })).await?);
    let names: Vec<String> = there.known_names().await?;
    assert_eq!(names.len(), 2, "{names:?}");
    let all = there.all().await?;
    let first = bson::serialize_to_document(&all[0])?;
    assert_eq!(first.get_str("name")?, "zero", "oldest first");
    for name in ["zero", "one"] {
        here.remove(name).await?;
    }
    assert!(there.all().await?.is_empty() && !there.any_open().await?);
    Ok(())
}

async fn parts_of_replica_sets(here: &Control, there: &Control) -> Result<()> {
    here.restores.insert(&operation(doc! { "name": "r", "opid": "o", "status": "starting" })).await?;
    let part = |rs: &str| bson::deserialize_from_document(doc! { "name": rs, "status": "starting" });
    assert!(!here.restores.set_member_status("r", "rs0", Status::Running, "").await?, "there is no part yet");
    for rs in ["rs0", "rs1"] {
        assert!(here.restores.add_member("r", rs, &part(rs)?).await?);
        assert!(!there.restores.add_member("r", rs, &part(rs)?).await?, "each once");
    }
    assert!(here.restores.set_member_status("r", "rs1", Status::Running, "").await?);
    assert!(here.restores.set_member("r", "rs1", doc! { "stat.txn.partial": 3, "txn_set": true }).await?);
    assert!(there.restores.set_member_status("r", "rs1", Status::Error, "why").await?);
    assert!(!here.restores.set_member_status("r", "rs1", Status::Done, "").await?, "the part has ended");
    assert!(!here.restores.set_member("r", "rs1", doc! { "txn_set": false }).await?);
    let restore: RestoreMeta = there.restores.get("r").await?.expect("it");
    let [first, second] = &restore.replsets[..] else { panic!("two parts: {restore:?}") };
    assert!(first.status == Status::Starting && !first.txn_set && first.conditions.is_empty());
    assert!(second.status == Status::Error && second.error.as_deref() == Some("why"));
    assert!(second.txn_set && second.stat.txn.partial == 3 && second.conditions.len() == 2);
    here.restores.remove("r").await
}

async fn backups_found_by_a_resync(here: &Control, there: &Control) -> Result<()> {
    let on = |name: &str, store: Document, size: i64| -> BackupMeta {
        operation(doc! { "name": name, "status": "done", "start_ts": size, "store": store, "size": size })
    };
    let second = || doc! { "type": "filesystem", "profile": true, "name": "second" };
    let found = |backup: BackupMeta, wins: bool| Entry { backup, wins };
    let main = doc! { "type": "filesystem" };
    let kept = here.backups.put_found(Shelf::Main, &[found(on("a", main.clone(), 1), true)]).await?;
    assert!(kept.is_empty());
    let both = [found(on("a", second(), 2), false), found(on("b", second(), 3), false)];
    assert_eq!(there.backups.put_found(Shelf::Profile("second"), &both).await?, ["a"], "it stays with its storage");
    let sizes = async || -> Result<Vec<(String, i64)>> {
        Ok(there.backups.all().await?.into_iter().map(|it| (it.name, it.size)).collect())
    };
    assert_eq!(sizes().await?, [("a".to_owned(), 1), ("b".to_owned(), 3)]);
    here.backups.put_found(Shelf::Profile("second"), &[found(on("b", second(), 4), false)]).await?;
    here.backups.put_found(Shelf::Main, &[found(on("c", main, 5), true)]).await?;
    assert_eq!((there.backups.count_on(Shelf::Main).await?, there.backups.places_of_done().await?.len()), (2, 3));
    assert_eq!(there.backups.newest_full().await?.map(|it| it.name).as_deref(), Some("c"));
    assert_eq!(here.backups.drop_others(Shelf::Main, &HashSet::from(["a".to_owned()])).await?, 1);
    assert_eq!(sizes().await?, [("a".to_owned(), 1), ("b".to_owned(), 4)]);
    assert_eq!(here.backups.drop_profile("second").await?, 1);
    here.backups.remove("a").await
}

async fn debts(here: &Control, there: &Control) -> Result<()> {
    for name in ["one", "two"] {
        here.restores.insert(&operation(doc! { "name": name, "status": "done" })).await?;
    }
    assert!(!there.restores.any_open().await?);
    here.restores.owe("one", Debt::Balancer).await?;
    here.restores.owe("two", Debt::Slicing).await?;
    assert_eq!(there.restores.owing(Debt::Balancer).await?, ["one"]);
    assert_eq!(there.restores.owing(Debt::Slicing).await?, ["two"]);
    assert!(there.restores.any_open().await?, "somebody has to pay");
    here.restores.paid("one", Debt::Balancer).await?;
    here.restores.paid("one", Debt::Balancer).await?;
    here.restores.paid("two", Debt::Slicing).await?;
    assert!(there.restores.owing(Debt::Balancer).await?.is_empty() && !there.restores.any_open().await?);
    for name in ["one", "two"] {
        here.restores.remove(name).await?;
    }
    Ok(())
}

async fn only_failed_backups_ask_for_a_clean_up(here: &Control) -> Result<()> {
    let running = doc! { "name": "one", "opid": "abc", "status": "running" };
    here.restores.insert(&operation(running.clone())).await?;
    assert!(here.restores.any_open().await?);
    assert!(here.restores.set_status("one", Status::Error, "why").await?);
    assert!(!here.restores.any_open().await?);
    // A document in the form that earlier versions wrote.
    here.restores.set("one", doc! { "cleanup_due": true }).await?;
    assert!(!here.restores.any_open().await?);
    here.restores.remove("one").await?;

    here.backups.insert(&operation(running)).await?;
    here.backups.ask_for_cleanup("one").await?;
    assert!(here.backups.due_for_cleanup().await?.is_empty(), "it has not failed");
    assert!(here.backups.set_status("one", Status::Error, "why").await?);
    assert_eq!(here.backups.due_for_cleanup().await?, ["one"]);
    assert!(here.backups.any_open().await?);
    here.backups.cleaned_up("one").await?;
    assert!(!here.backups.any_open().await?);
    here.backups.ask_for_cleanup("one").await?;
    assert_eq!(here.backups.due_for_cleanup().await?, ["one"], "its agent came back");
    here.backups.remove("one").await
}

async fn nominations(here: &Control, there: &Control) -> Result<()> {
    let nodes = |nodes: &[&str]| -> Vec<String> { nodes.iter().map(|node| (*node).to_owned()).collect() };
    here.backups.insert(&operation(doc! { "name": "b", "status": "starting" })).await?;
    assert_eq!(there.backups.nomination("b", "rs0").await?, Some((Status::Starting, None)));
    assert_eq!(there.backups.round("unknown", "rs0").await?, None);
    here.backups.nominate_first("b", &[("rs0".into(), nodes(&["a:1"])), ("rs1".into(), nodes(&["c:1"]))]).await?;
    here.backups.nominate("b", "rs0", &nodes(&["a:1", "b:1"])).await?;
    here.backups.nominate("b", "rs2", &nodes(&["d:1"])).await?;
    here.backups.nominate_first("b", &[]).await?;
    there.backups.acknowledge("b", "rs0", "b:1").await?;
    there.backups.acknowledge("b", "unknown", "b:1").await?;
    there.backups.decline("b", "rs1", "c:1", "locked").await?;
    let of = async |rs: &str| Ok::<_, anyhow::Error>(here.backups.round("b", rs).await?.expect("a backup"));
    let expected = |rs: &str, n: &[&str], ack: &str| Some(Nomination { rs: rs.into(), n: nodes(n), ack: ack.into() });
    let round = of("rs0").await?;
    assert!(round.nomination == expected("rs0", &["a:1", "b:1"], "b:1") && round.declined.is_empty(), "{round:?}");
    let round = of("rs1").await?;
    assert!(round.nomination == expected("rs1", &["c:1"], "") && round.declined[0].node == "c:1", "{round:?}");
    assert_eq!(of("rs2").await?.nomination, expected("rs2", &["d:1"], ""));
    here.backups.add_size("b", 5).await?;
    there.backups.add_size("b", 7).await?;
    let backup: BackupMeta = here.backups.get("b").await?.expect("it");
    assert!(backup.size == 12 && backup.n.len() == 3, "{backup:?}");
    here.backups.remove("b").await
}

async fn lines_of_agents(here: &Control, there: &Control) -> Result<()> {
    let now = here.cluster_time().await?;
    let line = |rs: &str, n: &str, own: &str, hb: Timestamp| AgentStat {
        own: own.into(),
        instance: format!("run of {n}"),
        hb,
        ..AgentStat::healthy(rs, n, 2)
    };
    let old = Timestamp { time: now.time - STALE_SECS - 1, ..now };
    let lost = Timestamp { time: now.time - STALE_SECS - 6, ..now };
    assert_eq!(here.agents.put(&line("rs1", "b:1", "1", now)).await?, None);
    assert_eq!(here.agents.put(&line("rs1", "b:1", "1", now)).await?.as_deref(), Some("run of b:1"));
    for agent in [line("rs0", "z:1", "1", old), line("rs0", "a:1", "1", now), line("rs2", "c:1", "1", now)] {
        here.agents.put(&agent).await?;
    }
    here.agents.put(&line("rs2", "d:1", "", now)).await?;
    here.agents.put(&line("rs2", "e:1", "1", lost)).await?;
    let names = |agents: Vec<AgentStat>| agents.into_iter().map(|agent| agent.n).collect::<Vec<_>>();
    assert_eq!(names(there.agents.all().await?), ["a:1", "z:1", "b:1", "c:1", "d:1", "e:1"]);
    assert_eq!(names(there.agents.living(now).await?), ["a:1", "b:1", "c:1", "d:1"]);
    let for_slicing = there.agents.alive_for_slicing("rs1", "rs0", now).await?;
    assert_eq!(names(for_slicing), ["a:1", "b:1", "d:1"], "and every agent of the original");
    assert_eq!(names(there.agents.alive(now).await?), ["a:1", "b:1", "c:1", "d:1"]);
    assert_eq!(names(there.agents.all().await?), ["a:1", "z:1", "b:1", "c:1", "d:1"], "only who is lost is removed");
    for (rs, node) in [("rs0", "a:1"), ("rs0", "z:1"), ("rs1", "b:1"), ("rs2", "c:1"), ("rs2", "d:1")] {
        here.agents.remove(rs, node).await?;
    }
    assert!(there.agents.all().await?.is_empty());
    Ok(())
}

async fn configuration(here: &Control, there: &Control) -> Result<()> {
    let epoch = here.cluster_time().await?;
    assert_eq!(there.config.main().await?, None);
    assert!(!here.config.switch_pitr_off(epoch).await?, "there is nothing to switch off");
    here.config.switch_pitr_on().await?;
    assert_eq!(there.config.main().await?, None, "nothing is made by the way");
    let storage = StorageConf { kind: "blackhole".into(), ..StorageConf::default() };
    let pitr = Some(PitrConf { enabled: true, ..PitrConf::default() });
    let config = Config { storage: storage.clone(), pitr, ..Config::default() };
    for _ in 0..2 {
        here.config.replace_main(&config, epoch).await?;
    }
    here.config.put_profile("p", &storage, epoch).await?;
    here.config.put_profile("p", &storage, epoch).await?;
    for _ in 0..2 {
        here.config.remember_storage("one").await?;
        there.config.remember_storage("two").await?;
    }
    here.config.forget_storage("one").await?;
    assert_eq!(there.config.remembered_storages().await?, ["two"]);
    assert_eq!(there.config.documents().await?.len(), 2, "the main one and a profile");
    assert_eq!(there.config.profiles().await?.len(), 1);
    let (a, b) =
        tokio::join!(here.config.switch_pitr_off(later(epoch, 1)), there.config.switch_pitr_off(later(epoch, 2)));
    assert!(a? != b?, "one of two switched it off");
    assert!(there.config.main().await?.is_some_and(|config| !config.pitr_is_on() && config.epoch > Some(epoch)));
    here.config.set_epoch(epoch).await?;
    here.config.switch_pitr_on().await?;
    assert!(there.config.main().await?.is_some_and(|config| config.pitr_is_on() && config.epoch == Some(epoch)));
    assert!(here.config.remove_profile("p").await? && !there.config.remove_profile("p").await?);
    Ok(())
}

/// The time limit for a command or a ring. It is much longer than either takes.
const SOON: Duration = Duration::from_secs(20);

async fn commands_come_once_and_in_order(here: &Control, there: &Control) -> Result<()> {
    here.commands.send(Order::CancelBackup).await?;
    let place = there.commands.end().await?;
    let mut sent = Vec::new();
    sent.push(here.commands.send(Order::CancelBackup).await?);
    let (out, mut seen) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let commands: Commands = there.commands.clone();
    let following = commands.follow(place, out, stop.clone());
    let sending = async {
        for at in 0..5 {
            if at > 0 {
                sent.push(here.commands.send(Order::Resync(ResyncCmd::default())).await?);
            }
            let got = timeout(SOON, seen.recv()).await.expect("in time").expect("a command");
            assert_eq!(Some(&got.id), sent.last(), "each once, and in order");
        }
        stop.cancel();
        anyhow::Ok(())
    };
    let ((), sending) = tokio::join!(following, sending);
    sending?;
    let opid = sent[0].to_hex();
    let stored = there.commands.raw(&opid).await?.expect("it");
    assert!(
        stored.get_str("cmd")? == name::CANCEL_BACKUP && stored.get("until").and_then(Bson::as_timestamp).is_some()
    );
    assert!(there.commands.raw("no id").await?.is_none());
    Ok(())
}

async fn rings_wake_waiters_elsewhere(here: &Control, there: &Control) -> Result<()> {
    let stop = CancellationToken::new();
    let following = there.bell.follow(stop.clone());
    let ringing = async {
        // Waits until the other side follows the bell. There is no other way to find that out.
        let mut waiter = there.bell.waiter();
        while timeout(super::POLL, waiter.next_within(SOON)).await.is_ok() {}
        for _ in 0..3 {
            let mut waiter = there.bell.waiter();
            here.bell.ring().await;
            timeout(SOON, waiter.next_within(SOON * 2)).await.expect("it is heard before its limit");
        }
        let mut waiter = there.bell.waiter();
        assert!(timeout(super::POLL / 2, waiter.next_within(SOON)).await.is_err(), "silence");
        stop.cancel();
    };
    tokio::join!(following, ringing);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::memory::{Cluster, Link, Reliable};
    use crate::mongo::nowhere;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn the_control_collections_in_memory_keep_the_contract() {
        let cluster = Cluster::new();
        let control = || Control::in_memory(Link::new(&cluster, Arc::new(Reliable)), nowhere::client());
        check(&control(), &control()).await;
    }
}
