use super::*;
use crate::model::{lock::LockHeader, status::Condition};
use crate::storage::{memory::Memory, write_all};
use std::sync::Arc;

const OLD: &str = "2026-03-01T10:00:00Z";
/// 2026-03-03T10:00:00Z.
const NOW: i64 = 1_772_532_000;

fn now() -> Timestamp {
    Timestamp { time: 1000, increment: 1 }
}

fn backup(name: &str, status: Status, hb: u32) -> BackupMeta {
    let meta = serde_json::json!({ "name": name, "opid": format!("op-{name}") });
    BackupMeta { status, hb: Timestamp { time: hb, increment: 1 }, ..serde_json::from_value(meta).expect("a backup") }
}

fn done(at: i64) -> Condition {
    Condition { timestamp: at, status: Status::Done, error: None }
}

fn said(plan: &Plan) -> Vec<String> {
    let fate = |item: &Item| match &item.fate {
        Fate::Goes(why) => format!("{} goes: {why}", item.name),
        Fate::Stays(why) => format!("{} stays: {why}", item.name),
    };
    plan.backups.iter().map(fate).collect()
}

#[test]
fn only_what_failed_or_is_stuck_goes() {
    let lock = |opid: &str, hb: u32| Lock {
        header: LockHeader {
            kind: "backup".into(),
            replset: "rs0".into(),
            node: "h:1".into(),
            opid: opid.into(),
            epoch: None,
        },
        hb: Timestamp { time: hb, increment: 1 },
    };
    let incomplete = BackupMeta { conditions: vec![done(5)], ..backup("e", Status::Error, 1) };
    let half_deleted = BackupMeta { error: Some(DELETION_BEGUN.to_owned()), ..incomplete.clone() };
    let mut elsewhere = backup("g", Status::Error, 1);
    (elsewhere.store.profile, elsewhere.store.name) = (Some(true), Some("p".to_owned()));
    let backups = [
        backup("a", Status::Done, 1),
        backup("b", Status::Error, 1),
        backup("c", Status::Canceled, 999),
        backup("d", Status::Running, 900),
        incomplete,
        BackupMeta { name: "f".to_owned(), ..half_deleted },
        elsewhere,
        backup("h", Status::Running, 990),
        backup("i", Status::Starting, 900),
    ];
    let locks = [lock("op-i", 980), lock("op-d", 900)];
    let stays = |name: &str, why: &Stays| format!("{name} stays: {why}");
    assert_eq!(
        said(&plan(&backups, &locks, None, now())),
        [
            stays("a", &Stays::NotAsked),
            "b goes: it did not succeed: error".to_owned(),
            "c goes: it did not succeed: canceled".to_owned(),
            "d goes: stuck: no sign of life".to_owned(),
            stays("e", &Stays::Incomplete),
            "f goes: it did not succeed: error".to_owned(),
            stays("g", &Stays::OtherStorage(Some("p".to_owned()))),
            stays("h", &Stays::Runs(Status::Running)),
            stays("i", &Stays::Runs(Status::Starting)),
        ]
    );
    let there = plan(&backups, &locks, Some("p"), now());
    assert_eq!(there.going().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["g"]);
}

#[test]
fn what_a_kept_increment_is_built_on_stays() {
    let increment = BackupMeta { src_backup: Some("a".to_owned()), ..backup("b", Status::Done, 1) };
    let plan = plan(&[backup("a", Status::Error, 1), increment], &[], None, now());
    assert_eq!(said(&plan)[0], "a stays: the kept increment b is built on it");
}

async fn store(names: &[&str]) -> Arc<Memory> {
    let store = Arc::new(Memory::new());
    for name in names {
        write_all(&*store, name, "xy").await.expect("put");
    }
    store
}

#[tokio::test]
async fn orphans_are_old_folders_of_backups_that_nobody_knows() {
    let store = store(&[
        ".pbm.init",
        ".pbm.restore/2026-03-01T10:00:00.5Z/rs0/status",
        "pbmPitr/rs0/20260301/x",
        "2026-03-01T10:00:00Z/rs0/metadata.json",
        "2026-03-01T10:00:00Z/rs0/a/b.s2",
        "2026-03-01T10:00:01Z/rs0/known",
        "2026-03-01T10:00:02Z/rs0/with-metadata",
        "2026-03-01T10:00:02Z.pbm.json",
        "2026-03-03T09:00:00Z/rs0/young",
        "2026-03-01T10:00:03Z",
        "2026-03-01T10:00:04Z-mine/x",
        "photos/2026-03-01T10:00:05Z/x",
    ])
    .await;
    let known = HashSet::from(["2026-03-01T10:00:01Z".to_owned()]);
    let found = orphans(&*store, &known, NOW).await.expect("look");
    assert_eq!(found, [Orphan { name: OLD.to_owned(), objects: 2, size: 4 }]);

    let before = store.names();
    let refused = |orphan: Orphan, known: HashSet<String>| {
        let store = Arc::clone(&store);
        async move { remove(&*store, &orphan, &known, NOW).await.expect_err("refused").to_string() }
    };
    let named = |name: &str| Orphan { name: name.to_owned(), ..found[0].clone() };
    for name in ["pbmPitr", ".pbm.restore", "", "2026-03-03T09:00:00Z", "2026-03-01T10:00:04Z-mine", "photos"] {
        assert!(refused(named(name), known.clone()).await.contains("no folder of a backup"), "{name}");
    }
    assert!(refused(named(OLD), HashSet::from([OLD.to_owned()])).await.contains("belongs to a backup"));
    assert!(refused(named("2026-03-01T10:00:02Z"), known.clone()).await.contains("metadata file"));
    assert!(refused(Orphan { objects: 1, ..found[0].clone() }, known.clone()).await.contains("has changed"));
    assert_eq!(store.names(), before);

    for _ in 0..2 {
        remove(&*store, &found[0], &known, NOW).await.expect("delete");
        assert_eq!(store.names().len(), before.len() - 2);
        assert!(!store.names().iter().any(|name| name.starts_with(&format!("{OLD}/"))));
    }
}

#[tokio::test]
async fn a_metadata_file_that_says_done_protects() {
    let store = store(&["unreadable.pbm.json"]).await;
    let finished = serde_json::json!({ "name": "finished", "status": "done" }).to_string();
    write_all(&*store, "finished.pbm.json", finished).await.expect("put");
    let failed = serde_json::json!({ "name": "failed", "status": "error" }).to_string();
    write_all(&*store, "failed.pbm.json", failed).await.expect("put");
    for (name, protected) in [("unreadable", true), ("finished", true), ("failed", false), ("absent", false)] {
        let it = backup(name, Status::Error, 1);
        assert_eq!(is_finished_there(&*store, &it).await.expect("look"), protected, "{name}");
    }
    let begun = BackupMeta { error: Some(DELETION_BEGUN.to_owned()), ..backup("finished", Status::Error, 1) };
    assert!(!is_finished_there(&*store, &begun).await.expect("look"));
}

#[test]
fn the_log_is_read_as_it_was_written() {
    let orphan = Orphan { name: OLD.to_owned(), objects: 12, size: 34 };
    assert_eq!(parse(&line(&orphan)), Some(orphan));
    for other in ["done", "belongs to no backup: pbmPitr, 1 objects, 2 bytes", "belongs to no backup: x"] {
        assert_eq!(parse(other), None, "{other}");
    }
}
