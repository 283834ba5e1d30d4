//! What goes and what stays, case by case. Times are seconds; a backup is named by its own.

use super::*;
use crate::model::backup::BackupReplset;
use rand::{Rng, SeedableRng, rngs::StdRng};

fn ts(time: u32) -> Timestamp {
    Timestamp { time, increment: 1 }
}

fn at(time: u32) -> Timestamp {
    Timestamp { time, increment: 0 }
}

fn backup(name: &str, time: u32) -> BackupMeta {
    let part: BackupReplset = serde_json::from_value(serde_json::json!({ "name": "rs0" })).expect("a part");
    let meta = serde_json::json!({ "name": name, "start_ts": i64::from(time) - 2, "status": "done" });
    let meta: BackupMeta = serde_json::from_value(meta).expect("a backup");
    BackupMeta { replsets: vec![part], last_write_ts: ts(time), ..meta }
}

fn increment(name: &str, time: u32, source: &str) -> BackupMeta {
    BackupMeta { kind: BackupType::Incremental, src_backup: Some(source.to_owned()), ..backup(name, time) }
}

fn status(status: Status, backup: BackupMeta) -> BackupMeta {
    BackupMeta { status, ..backup }
}

fn facts(slicing: Slicing, backups: Vec<BackupMeta>, chunks: &[(u32, u32)]) -> Facts {
    let mut lines = Lines::new();
    for (start, end) in chunks {
        timeline::extend(&mut lines, "rs0", Line { start: ts(*start), end: ts(*end) });
    }
    Facts { backups, lines, slicing }
}

/// `goes… | last time of the chunks that go`.
fn said(facts: &Facts, ask: &Ask) -> String {
    let plan = match plan(facts, ask) {
        Ok(plan) => plan,
        Err(refusal) => return format!("refused: {refusal}"),
    };
    let mut going: Vec<&str> = plan.going().map(|item| item.name.as_str()).collect();
    going.reverse();
    let cut = plan.chunks.as_ref().map_or(String::new(), |cut| format!(" | {}", cut.until.time));
    format!("{}{cut}", going.join(" "))
}

fn why(facts: &Facts, ask: &Ask, name: &str) -> Fate {
    let plan = plan(facts, ask).expect("a plan");
    plan.backups.into_iter().find(|item| item.name == name).expect("an item").fate
}

fn everything(before: u32) -> Ask {
    Ask::Everything { before: at(before), profile: None }
}

#[test]
fn cleanup_keeps_the_base_of_later_times() {
    use Slicing::{Off, On, OplogOnly};
    let three = || vec![backup("a", 100), backup("b", 200), backup("c", 400)];
    let two = || vec![backup("a", 100), backup("b", 200)];
    for (case, slicing, backups, chunks, want) in [
        ("the oplog leads from b over the border", On, three(), &[(100, 500)][..], "a | 200"),
        ("the same, whether more is saved or not", Off, three(), &[(100, 500)], "a | 200"),
        ("it ends at the border", Off, three(), &[(100, 300)], "a | 200"),
        ("it ends before the border", Off, three(), &[(100, 299)], "a b | 300"),
        ("PITR is on, but c comes later", On, three(), &[(100, 250)], "a b | 300"),
        ("PITR is on and nothing comes later", On, two(), &[(100, 250)], "a | 200"),
        ("the same without any oplog", On, two(), &[], "a | 200"),
        ("oplogOnly needs no base", OplogOnly, two(), &[(100, 250)], "a b | 300"),
        ("a gap after b, but a later base", On, three(), &[(100, 220), (230, 500)], "a b | 300"),
        ("b is not covered, a is", Off, vec![backup("a", 100), other_set(backup("b", 200))], &[(100, 400)], "b | 100"),
        ("no base before the border", On, vec![backup("c", 400)], &[(100, 500)], " | 300"),
        ("nothing at all", On, Vec::new(), &[(100, 500)], " | 300"),
    ] {
        assert_eq!(said(&facts(slicing, backups, chunks), &everything(300)), want, "{case}");
    }
}

/// The backup of a replica set that has no chunks.
fn other_set(mut backup: BackupMeta) -> BackupMeta {
    backup.replsets[0].name = "rs9".to_owned();
    backup
}

#[test]
fn a_backup_at_the_very_second_stays_and_replaces_what_is_older() {
    let backups = vec![backup("a", 100), backup("b", 300), backup("c", 400)];
    let all = facts(Slicing::On, backups.clone(), &[(100, 500)]);
    assert_eq!(said(&all, &everything(300)), "a | 300");
    assert_eq!(why(&all, &everything(300), "b"), Fate::Stays(Stays::AtBorder));
    // The cut is the backup's own last entry, not only its second.
    let cut = plan(&all, &everything(300)).expect("a plan").chunks.expect("a cut");
    assert!(cut.takes(ts(290), ts(300)) && !cut.takes(ts(300), ts(310)));
    assert!(!cut.takes(ts(290), Timestamp { time: 300, increment: 2 }));
    // One that is no base stays, but holds nothing.
    let selective = BackupMeta { nss: vec!["a.b".to_owned()], ..backup("b", 300) };
    let all = facts(Slicing::On, vec![backup("a", 100), selective, backup("c", 400)], &[(100, 500)]);
    assert_eq!(said(&all, &everything(300)), " | 100");
}

#[test]
fn a_chunk_over_the_border_stays() {
    let all = facts(Slicing::Off, vec![backup("a", 100), backup("c", 305)], &[(290, 500)]);
    let plan = plan(&all, &everything(300)).expect("a plan");
    assert_eq!(plan.going().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert!(!plan.chunks.expect("a cut").takes(ts(290), ts(310)), "c is restored with it");
}

#[test]
fn what_runs_or_lies_elsewhere_stays() {
    let mut elsewhere = backup("p", 90);
    elsewhere.store.profile = Some(true);
    elsewhere.store.name = Some("archive".to_owned());
    let never = BackupMeta { last_write_ts: ts(1), ..status(Status::Running, backup("r", 500)) };
    let failed = BackupMeta { last_write_ts: ts(1), ..status(Status::Error, backup("f", 500)) };
    let all = facts(Slicing::Off, vec![elsewhere, never, failed, backup("a", 100)], &[]);
    assert_eq!(said(&all, &everything(300)), "a f | 300");
    assert_eq!(why(&all, &everything(300), "r"), Fate::Stays(Stays::Runs(Status::Running)));
    assert_eq!(why(&all, &everything(300), "p"), Fate::Stays(Stays::OtherStorage(Some("archive".to_owned()))));
    assert_eq!(why(&all, &everything(300), "f"), Fate::Goes(Goes::Failed));
    assert!(said(&all, &Ask::Backup("r".into())).starts_with("refused: backup r is not finished"));
    assert_eq!(said(&all, &Ask::Backup("p".into())), "p", "a name says where it is");
    assert!(said(&all, &Ask::Backup("x".into())).contains("no backup named x"));
}

#[test]
fn on_a_profile_age_and_chains_decide_and_no_oplog_goes() {
    let on = |name: &str, backup: BackupMeta| {
        let mut backup = backup;
        (backup.store.profile, backup.store.name) = (Some(true), Some(name.to_owned()));
        backup
    };
    let backups = vec![
        on("p", backup("a", 100)),
        on("p", backup("b", 200)),
        on("p", status(Status::Error, backup("failed", 210))),
        on("p", backup("border", 300)),
        on("p", backup("i0", 220)),
        on("p", increment("i1", 400, "i0")),
        on("q", backup("q", 100)),
        backup("main", 90),
    ];
    let all = facts(Slicing::On, backups, &[(80, 500)]);
    let of = |name: &str| Ask::Everything { before: at(300), profile: Some(name.to_owned()) };
    assert_eq!(said(&all, &of("p")), "a b failed", "the oplog needs none of them");
    assert_eq!(said(&all, &of("q")), "q");
    let older = Ask::Backups { before: at(300), kind: Some(Kind::Logical), profile: Some("p".to_owned()) };
    assert_eq!(said(&all, &older), "a b failed");
    assert_eq!(why(&all, &of("p"), "i0"), Fate::Stays(Stays::SourceOf("i1".to_owned())));
    assert_eq!(why(&all, &of("p"), "main"), Fate::Stays(Stays::OtherStorage(None)));
    assert_eq!(why(&all, &of("p"), "border"), Fate::Stays(Stays::AtBorder));
    assert_eq!(said(&all, &everything(300)), " | 90", "main is the base of later times");
}

#[test]
fn chains_go_or_stay_whole() {
    let chain = |last: u32| {
        vec![increment("i0", 100, ""), increment("i1", 150, "i0"), increment("i2", last, "i1"), backup("z", 500)]
    };
    let old = facts(Slicing::Off, chain(200), &[]);
    assert_eq!(said(&old, &everything(300)), "i0 i1 i2 | 300");
    let order: Vec<String> =
        plan(&old, &everything(300)).expect("a plan").going().map(|item| item.name.clone()).collect();
    assert_eq!(order, ["i2", "i1", "i0"], "an increment goes before what it is built on");

    let living = facts(Slicing::Off, chain(400), &[(150, 160), (200, 300)]);
    assert_eq!(said(&living, &everything(300)), " | 300");
    assert_eq!(why(&living, &everything(300), "i0"), Fate::Stays(Stays::SourceOf("i2".to_owned())));
    let cut = plan(&living, &everything(300)).expect("a plan").chunks.expect("a cut");
    assert!(!cut.takes(ts(150), ts(160)), "the kept increment of 150 can be restored to 160");
    assert!(cut.takes(ts(200), ts(210)), "nobody can use this");

    assert_eq!(said(&old, &Ask::Backup("i0".into())), "i0 i1 i2");
    assert!(said(&old, &Ask::Backup("i1".into())).contains("begins with i0"));
    let mut running = chain(400);
    running[2].status = Status::Running;
    let running = facts(Slicing::Off, running, &[]);
    assert!(said(&running, &Ask::Backup("i0".into())).starts_with("refused: backup i2"));
    assert_eq!(said(&running, &everything(300)), " | 300");
    let orphan = facts(Slicing::Off, vec![increment("i1", 150, "i0")], &[]);
    assert_eq!(said(&orphan, &Ask::Backup("i1".into())), "i1", "its first is gone, so nothing else can take it along");
    let knot = facts(Slicing::Off, vec![increment("x", 100, "y"), increment("y", 100, "x")], &[]);
    assert_eq!(said(&knot, &everything(300)), "x y | 300");
}

#[test]
fn the_last_base_is_not_deleted_by_name_while_pitr_needs_it() {
    let two = || vec![backup("a", 100), backup("b", 200)];
    let b = Ask::Backup("b".to_owned());
    for (case, slicing, backups, chunks, goes) in [
        ("the oplog leads from a to b", Slicing::On, two(), &[(90, 250)][..], true),
        ("it begins after a", Slicing::On, two(), &[(150, 250)], false),
        ("there is a gap", Slicing::On, two(), &[(90, 120), (150, 250)], false),
        ("there is none", Slicing::On, two(), &[], false),
        ("nobody needs it", Slicing::Off, two(), &[], true),
        ("oplogOnly", Slicing::OplogOnly, two(), &[], true),
        ("the only one", Slicing::On, vec![backup("b", 200)], &[(90, 250)], false),
        ("a later one", Slicing::On, vec![backup("b", 200), backup("c", 300)], &[], true),
        ("no base itself", Slicing::On, vec![status(Status::Error, backup("b", 200))], &[], true),
    ] {
        let said = said(&facts(slicing, backups, chunks), &b);
        assert_eq!(said == "b", goes, "{case}: {said}");
    }
}

#[test]
fn backups_by_age_and_kind_leave_chunks_alone() {
    let selective = BackupMeta { nss: vec!["a.b".to_owned()], ..backup("s", 150) };
    let all = facts(Slicing::On, vec![backup("a", 100), selective, backup("b", 200)], &[(100, 400)]);
    let older = |kind| Ask::Backups { before: at(300), kind, profile: None };
    assert_eq!(said(&all, &older(None)), "a s");
    assert_eq!(said(&all, &older(Some(Kind::Logical))), "a");
    assert_eq!(said(&all, &older(Some(Kind::Selective))), "s");
    assert_eq!(said(&all, &older(Some(Kind::Physical))), "");
    assert_eq!(why(&all, &older(Some(Kind::Logical)), "s"), Fate::Stays(Stays::OtherKind));
}

#[test]
fn chunks_alone_go_up_to_the_base() {
    let all = facts(Slicing::On, vec![backup("a", 100), backup("b", 200)], &[(90, 400)]);
    let older = plan(&all, &Ask::Chunks { before: at(300) }).expect("a plan");
    assert_eq!(older.chunks.as_ref().map(|cut| cut.until), Some(ts(200)));
    assert_eq!(older.shortened, [("a".to_owned(), ts(400))]);
    assert_eq!(older.going().count(), 0);
    let every = plan(&all, &Ask::AllChunks).expect("a plan");
    assert!(every.chunks.expect("a cut").takes(ts(390), ts(400)));
    assert_eq!(every.shortened.len(), 2);
}

/// Random clusters: whatever goes, no time from the asked one on is lost, and no kept backup loses any.
#[test]
fn no_time_that_is_kept_is_lost() {
    for seed in 0..3000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut backups = Vec::new();
        for n in 0..random.random_range(0..6) {
            let mut made = backup(&format!("b{n}"), random.random_range(1..60));
            match random.random_range(0..6) {
                0 => made.status = Status::Running,
                1 => made.status = Status::Error,
                2 => made.nss = vec!["a.b".to_owned()],
                3 if n > 0 => made = increment(&format!("b{n}"), made.last_write_ts.time, &format!("b{}", n - 1)),
                _ => {}
            }
            backups.push(made);
        }
        let mut chunks = Vec::new();
        let mut from = random.random_range(1..20);
        while from < 60 {
            let to = from + random.random_range(1..15);
            chunks.push((from, to));
            from = to + if random.random_bool(0.25) { 3 } else { 0 };
        }
        let slicing = [Slicing::Off, Slicing::On, Slicing::OplogOnly][random.random_range(0..3)];
        let before = random.random_range(1..60);
        let all = facts(slicing, backups, &chunks);
        for ask in [
            everything(before),
            Ask::Chunks { before: at(before) },
            Ask::Backups { before: at(before), kind: None, profile: None },
        ] {
            let plan = plan(&all, &ask).expect("a plan");
            let gone: Vec<&str> = plan.going().map(|item| item.name.as_str()).collect();
            let mut left = all.clone();
            left.backups.retain(|backup| !gone.contains(&backup.name.as_str()));
            if let Some(cut) = &plan.chunks {
                let stay: Vec<_> = chunks.iter().filter(|(a, b)| !cut.takes(ts(*a), ts(*b))).copied().collect();
                left.lines = facts(slicing, Vec::new(), &stay).lines;
            }
            for backup in &left.backups {
                let (was, is) = (timeline::reach(&all.lines, backup), timeline::reach(&left.lines, backup));
                let lost = was.filter(|was| *was > backup.last_write_ts && is.is_none_or(|is| is < *was));
                let told = plan.shortened.iter().any(|(name, _)| *name == backup.name);
                let base = timeline::is_base(backup);
                assert!(lost.is_none() || !base || told, "seed {seed}, {ask:?}: {} lost {lost:?}", backup.name);
                assert!(!told || matches!(ask, Ask::Chunks { .. }), "seed {seed}, {ask:?}");
                let source = backup.src_backup.as_deref().unwrap_or_default();
                let built = backup.status != Status::Error && !source.is_empty();
                assert!(!built || left.backups.iter().any(|b| b.name == source), "seed {seed}: {} hangs", backup.name);
            }
            let restorable = |facts: &Facts, time: u32| {
                facts.backups.iter().filter(|backup| timeline::is_base(backup)).any(|base| {
                    let own = base.last_write_ts.time;
                    own == time || (own < time && timeline::reach(&facts.lines, base).is_some_and(|r| r.time >= time))
                })
            };
            for time in before..80 {
                assert!(!restorable(&all, time) || restorable(&left, time), "seed {seed}, {ask:?}: {time} is lost");
            }
            let runs = |facts: &Facts| facts.backups.iter().filter(|b| !b.status.is_final()).count();
            assert_eq!(runs(&all), runs(&left), "seed {seed}: something that runs went");
        }
    }
}
