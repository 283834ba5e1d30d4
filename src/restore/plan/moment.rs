//! Decides which backup and which oplog lead to a moment, or returns all reasons why it can't be reached
//! (docs/format.md E.1, E.7).
//!
//! The command line calls this before it sends a command. Every agent calls it again, because other programs can send
//! the command, too.

use super::{
    restorable,
    slices::{Gap, OplogObject, Piece, chain, moment},
};
use crate::layout::Generation;
use crate::model::{
    backup::{BackupMeta, BackupReplset, BackupType},
    chunk::Chunk,
    restore::RestoreMeta,
    serde_help::zero_ts,
    status::Status,
};
use crate::pitr::{
    begin::changed_from,
    timeline::{Line, timelines},
};
use bson::Timestamp;
use std::collections::BTreeMap;

/// The moment to which an operator wants to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// This time. An entry at this time is still applied.
    At(Timestamp),
    /// The latest moment up to which all replica sets have a saved oplog after the newest backup, or else the end of that
    /// backup.
    Latest,
}

/// A backup and the oplog with which a restore reaches a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way<'a> {
    pub base: &'a BackupMeta,
    /// The time up to which the oplog is replayed. `None` means the end of the backup, because no saved oplog continues
    /// it.
    pub target: Option<Timestamp>,
}

impl Way<'_> {
    /// Returns the moment whose state the restore produces.
    #[must_use]
    pub fn moment(&self) -> Timestamp {
        self.target.unwrap_or(self.base.last_write_ts)
    }

    /// Describes everything newer than the moment that is reached, for an operator who asked for the latest moment and
    /// expects the present state.
    #[must_use]
    pub fn leaves_behind(&self, backups: &[BackupMeta], chunks: &[Chunk], restores: &[RestoreMeta]) -> Vec<String> {
        let reached = self.moment();
        let mut all = Vec::new();
        let newer = |it: &&BackupMeta| it.status == Status::Done && it.nss.is_empty() && it.last_write_ts > reached;
        if let Some(newest) = backups.iter().filter(newer).max_by_key(|it| it.last_write_ts) {
            all.push(format!(
                "backup '{}' is newer: it ends at {}, and is restored by its name",
                newest.name,
                moment(newest.last_write_ts)
            ));
        }
        let changed = restores.iter().filter_map(|it| Some((it, changed_from(it).filter(|at| *at >= reached)?)));
        if let Some((restore, at)) = changed.max_by_key(|(_, at)| *at) {
            all.push(format!(
                "restore '{}' replaced the data at {}: the moment is of the time before it, and what was written after it is \
                 not there",
                restore.name,
                moment(at)
            ));
        }
        let far = Timestamp { time: u32::MAX, increment: u32::MAX };
        for part in &self.base.replsets {
            let (pieces, first) = pieces(self.base, part, chunks);
            if let Err(gap @ Gap { next: Some(_), .. }) = chain(pieces, first, far) {
                all.push(format!("{}; nothing after it can be reached from this backup", gap.explain(&part.name)));
            }
        }
        all
    }
}

/// Why a moment can't be reached, and which moments can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unreachable {
    pub reason: String,
    pub hints: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Span(Timestamp, Timestamp);

impl Piece for Span {
    fn begins(&self) -> Timestamp {
        self.0
    }

    fn ends(&self) -> Timestamp {
        self.1
    }
}

/// Returns why a backup can't be the base of a replay, or `None` if it can.
#[must_use]
pub fn not_a_base(backup: &BackupMeta) -> Option<String> {
    let reason = if backup.status != Status::Done {
        format!("its status is '{}'", backup.status)
    } else if !backup.nss.is_empty() {
        format!("it holds selected namespaces only ({})", backup.nss.join(", "))
    } else if backup.kind == BackupType::External {
        "it is an external backup".to_owned()
    } else {
        let refused = backup.replsets.iter().find_map(|part| restorable(backup, &part.name).err());
        return refused.map(|refusal| refusal.reasons.join("; "));
    };
    Some(reason)
}

/// Returns the earliest moment to which a replay of this backup can lead. No part of the backup contains anything
/// newer.
#[must_use]
pub fn end(backup: &BackupMeta) -> Timestamp {
    backup.replsets.iter().map(|part| part.last_write_ts).fold(backup.last_write_ts, Ord::max)
}

/// Returns the reason if `target` is too early for this backup.
#[must_use]
pub fn too_early(backup: &BackupMeta, target: Timestamp) -> Option<String> {
    let end = end(backup);
    (target < end)
        .then(|| format!("{} is before the end of the backup '{}' at {}", moment(target), backup.name, moment(end)))
}

/// Returns the end of a part's own oplog. The restore needs saved chunks from there on.
pub(in crate::restore) fn begin(backup: &BackupMeta, part: &BackupReplset) -> Timestamp {
    // Before 2.4 the oplog of every replica set reached to the last write of the cluster.
    if Generation::of(&backup.pbm_version) < Generation::Current {
        return backup.last_write_ts.max(part.last_write_ts);
    }
    if part.last_write_ts.time > 0 { part.last_write_ts } else { backup.last_write_ts }
}

/// Returns the backup's own oplog and the chunks, for one of its replica sets.
fn pieces(backup: &BackupMeta, part: &BackupReplset, chunks: &[Chunk]) -> (Vec<Span>, Timestamp) {
    let begin = begin(backup, part);
    let first = Some(part.first_write_ts).filter(|first| first.time > 0).unwrap_or(begin);
    let own = chunks.iter().filter(|chunk| chunk.rs == part.name);
    let mut pieces: Vec<Span> = own.map(|chunk| Span(chunk.start_ts, chunk.end_ts)).collect();
    pieces.push(Span(first, begin));
    (pieces, first)
}

/// Returns all reasons against a replay of `base` up to `target`.
#[must_use]
pub fn obstacles(base: &BackupMeta, chunks: &[Chunk], target: Timestamp) -> Vec<String> {
    let mut all: Vec<String> =
        not_a_base(base).map(|why| format!("backup '{}' is no base: {why}", base.name)).into_iter().collect();
    all.extend(too_early(base, target));
    for part in &base.replsets {
        let (pieces, first) = pieces(base, part, chunks);
        if let Err(gap) = chain(pieces, first, target) {
            all.push(gap.explain(&part.name));
        }
    }
    // If a shard is newer than the backup, its data would be lost without a message.
    let end = end(base);
    let mut strangers: Vec<&str> = chunks
        .iter()
        .filter(|chunk| chunk.end_ts > end && chunk.start_ts < target)
        .map(|chunk| chunk.rs.as_str())
        .filter(|rs| !base.replsets.iter().any(|part| part.name == *rs))
        .collect();
    strangers.sort_unstable();
    strangers.dedup();
    for rs in strangers {
        all.push(format!(
            "replica set '{rs}' has oplog of that time but is not in backup '{}': it joined the cluster later",
            base.name
        ));
    }
    all
}

/// Returns the last moment that can be reached from `base`.
#[must_use]
pub fn reach(base: &BackupMeta, chunks: &[Chunk]) -> Timestamp {
    let last = Timestamp { time: u32::MAX, increment: u32::MAX };
    let of = |part: &BackupReplset| {
        let (pieces, first) = pieces(base, part, chunks);
        chain(pieces, first, last).err().map_or(last, |Gap { after, .. }| after)
    };
    base.replsets.iter().map(of).min().unwrap_or(base.last_write_ts)
}

/// Chooses the base (or checks the requested one), and checks that the oplog leads to the moment.
pub fn find<'a>(
    backups: &'a [BackupMeta],
    chunks: &[Chunk],
    wish: Moment,
    name: Option<&str>,
) -> Result<Way<'a>, Unreachable> {
    let mut bases: Vec<&BackupMeta> = match name {
        Some(name) => vec![named(backups, name)?],
        // A backup on the storage of a profile must be requested by name, because that storage may be slow or far away.
        None => {
            let here = |backup: &&BackupMeta| backup.store.profile != Some(true) && not_a_base(backup).is_none();
            backups.iter().filter(here).collect()
        }
    };
    bases.sort_by_key(|base| (end(base), base.start_ts));
    let way = match wish {
        // The newest backup is always used. Even if the oplog after an older backup reaches further, a gap or a restore
        // lies between the two backups.
        Moment::Latest => match bases.last() {
            Some(base) => {
                let reached = reach(base, chunks);
                Way { base, target: Some(reached).filter(|reached| *reached > end(base)) }
            }
            None => return Err(Unreachable { reason: NO_BASE.to_owned(), hints: near(&bases, chunks, zero_ts()) }),
        },
        Moment::At(target) => {
            let base = bases.iter().rev().find(|base| end(base) <= target).or(bases.first().filter(|_| name.is_some()));
            let Some(base) = base else {
                let reason = match bases.first() {
                    Some(first) => format!(
                        "no backup ends at or before {}; the first one that can be a base, '{}', ends at {}",
                        moment(target),
                        first.name,
                        moment(end(first))
                    ),
                    None => NO_BASE.to_owned(),
                };
                return Err(Unreachable { reason, hints: near(&bases, chunks, target) });
            };
            Way { base, target: Some(target) }
        }
    };
    let Some(target) = way.target else { return Ok(way) };
    let obstacles = obstacles(way.base, chunks, target);
    if obstacles.is_empty() {
        return Ok(way);
    }
    Err(Unreachable {
        reason: format!(
            "{} cannot be restored from backup '{}': {}",
            moment(target),
            way.base.name,
            obstacles.join("; ")
        ),
        hints: near(&bases, chunks, target),
    })
}

const NO_BASE: &str = "there is no backup to begin with: a finished logical one, not selective, on the main storage";

/// Returns the chunks that contain all entries from `start` to `end`, in the order of replay, or a description of what
/// is missing. `sources` are the names of the replica sets whose oplog is replayed.
pub fn window(
    sources: &[String],
    chunks: &[Chunk],
    start: Timestamp,
    end: Timestamp,
) -> Result<BTreeMap<String, Vec<OplogObject>>, Vec<String>> {
    if start > end {
        return Err(vec![format!("the start, {}, is after the end, {}", moment(start), moment(end))]);
    }
    // No oplog entry has the increment 0.
    let from = Timestamp { increment: start.increment.max(1), ..start };
    let lines = timelines(chunks);
    let (mut found, mut problems) = (BTreeMap::new(), Vec::new());
    for rs in sources {
        let own: Vec<_> = chunks.iter().filter(|chunk| chunk.rs == *rs).map(OplogObject::from).collect();
        let chained = match own.iter().find(|own| own.begins() <= from && own.ends() >= end.max(from)) {
            // One chunk is enough. This also handles a window of a single entry, for which a chain would be empty.
            Some(whole) => Ok(vec![whole.clone()]),
            None if from >= end => Err(Gap { after: start, next: None }),
            None => chain(own, from, end),
        };
        match chained {
            Ok(objects) => drop(found.insert(rs.clone(), objects)),
            Err(gap) => problems.push(format!(
                "no oplog of replica set '{rs}' is saved from {} to {} (saved is {})",
                moment(gap.after.max(start)),
                moment(gap.next.unwrap_or(end).min(end)),
                saved(lines.get(rs).map_or(&[], Vec::as_slice), start, end)
            )),
        }
    }
    for rs in lines.keys().filter(|rs| !sources.contains(rs)) {
        if lines[rs].iter().any(|line| line.start <= end && line.end >= start) {
            problems.push(format!(
                "oplog of that time is saved for replica set '{rs}', which the cluster does not have; name its place with \
                 --replset-remapping CLUSTER={rs}"
            ));
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// Describes the timelines at and near a window.
fn saved(lines: &[Line], start: Timestamp, end: Timestamp) -> String {
    let before = lines.iter().rev().find(|line| line.end < start);
    let after = lines.iter().find(|line| line.start > end);
    let within = lines.iter().filter(|line| line.end >= start && line.start <= end);
    let words: Vec<String> = before
        .into_iter()
        .chain(within)
        .chain(after)
        .map(|line| format!("{} to {}", moment(line.start), moment(line.end)))
        .collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

fn named<'a>(backups: &'a [BackupMeta], name: &str) -> Result<&'a BackupMeta, Unreachable> {
    let hints =
        vec!["`pbm list` shows the backups; without --base-snapshot the newest fitting one is taken".to_owned()];
    let Some(found) = backups.iter().find(|backup| backup.name == name) else {
        return Err(Unreachable { reason: format!("there is no backup named {name}"), hints });
    };
    match not_a_base(found) {
        None => Ok(found),
        Some(why) => Err(Unreachable { reason: format!("backup '{name}' can be no base: {why}"), hints }),
    }
}

/// Describes the moments near `target` that can be restored.
fn near(bases: &[&BackupMeta], chunks: &[Chunk], target: Timestamp) -> Vec<String> {
    let mut spans: Vec<Span> = Vec::new();
    for base in bases {
        let (from, to) = (end(base), reach(base, chunks).max(end(base)));
        match spans.last_mut() {
            Some(last) if last.1 >= from => last.1 = last.1.max(to),
            _ => spans.push(Span(from, to)),
        }
    }
    let words = |span: &Span| match span.0 == span.1 {
        true => format!("{} (the end of a backup, without oplog behind it)", moment(span.0)),
        false => format!("{} to {}", moment(span.0), moment(span.1)),
    };
    let before =
        spans.iter().rev().find(|span| span.0 <= target).map(|span| format!("restorable before it: {}", words(span)));
    let after = spans.iter().find(|span| span.0 > target).map(|span| format!("restorable after it: {}", words(span)));
    let mut hints: Vec<String> = before.into_iter().chain(after).collect();
    hints.push(
        "`pbm list` shows all ranges; give --time one of these moments, T,I for exactly that operation".to_owned(),
    );
    hints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::compression::Compression;
    use serde_json::json;

    fn ts(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    /// Creates a backup. Each replica set has its name and the times at which its oplog begins and ends.
    fn backup(name: &str, parts: &[(&str, u32, u32)]) -> BackupMeta {
        let replsets: Vec<_> = parts.iter().map(|(rs, ..)| json!({ "name": rs, "status": "done" })).collect();
        let mut backup: BackupMeta = serde_json::from_value(json!({
            "type": "logical", "name": name, "status": "done", "pbm_version": "2.15.0", "replsets": replsets,
        }))
        .expect("a backup");
        for (part, (_, first, last)) in backup.replsets.iter_mut().zip(parts) {
            (part.first_write_ts, part.last_write_ts) = (ts(*first), ts(*last));
        }
        backup.last_write_ts = backup.replsets.iter().map(|part| part.last_write_ts).min().expect("a part");
        backup
    }

    fn chunk(rs: &str, from: u32, to: u32) -> Chunk {
        let (start_ts, end_ts) = (ts(from), ts(to));
        Chunk {
            rs: rs.into(),
            fname: String::new(),
            compression: Compression::S2,
            start_ts,
            end_ts,
            size: 1,
            stored: None,
        }
    }

    fn found(
        backups: &[BackupMeta],
        chunks: &[Chunk],
        wish: Moment,
        name: Option<&str>,
    ) -> Result<(String, u32), String> {
        match find(backups, chunks, wish, name) {
            Ok(way) => Ok((way.base.name.clone(), way.moment().time)),
            Err(error) => Err(format!("{error} | {}", error.hints.join(" | "))),
        }
    }

    #[test]
    fn the_newest_fitting_base_is_taken() {
        let backups = [backup("b", &[("a", 50, 60)]), backup("a", &[("a", 10, 20)]), backup("c", &[("a", 90, 95)])];
        let chunks = [chunk("a", 20, 62), chunk("a", 62, 80)];
        let at = |time, name| found(&backups, &chunks, Moment::At(ts(time)), name);
        assert_eq!(at(70, None), Ok(("b".into(), 70)));
        assert_eq!(at(60, None), Ok(("b".into(), 60)), "the end of the backup itself");
        assert_eq!(at(59, None), Ok(("a".into(), 59)));
        assert_eq!(at(70, Some("a")), Ok(("a".into(), 70)));
        assert_eq!(found(&backups, &chunks, Moment::Latest, None), Ok(("c".into(), 95)), "nothing continues c");
        assert_eq!(found(&backups[..2], &chunks, Moment::Latest, None), Ok(("b".into(), 80)));
        assert_eq!(found(&backups, &chunks, Moment::Latest, Some("a")), Ok(("a".into(), 80)));
    }

    #[test]
    fn refusals_name_what_is_near() {
        let backups = [backup("a", &[("a", 10, 20)]), backup("b", &[("a", 90, 95)])];
        let chunks = [chunk("a", 20, 40), chunk("a", 50, 80)];
        let refused = |time, name, parts: &[&str]| {
            let said = found(&backups, &chunks, Moment::At(ts(time)), name).expect_err("refused");
            for part in parts {
                assert!(said.contains(part), "{part}: {said}");
            }
        };
        refused(
            5,
            None,
            &[
                "no backup ends at or before 1970-01-01T00:00:05Z (5,1)",
                "'a', ends at",
                "after it: 1970-01-01T00:00:20Z (20,1) to",
            ],
        );
        refused(
            60,
            None,
            &[
                "gap from 1970-01-01T00:00:40Z (40,1) to 1970-01-01T00:00:50Z (50,1)",
                "'a'",
                "before it:",
                "after it: 1970-01-01T00:01:35Z (95,1) (the end",
            ],
        );
        refused(99, None, &["ends at 1970-01-01T00:01:35Z (95,1)"]);
        refused(15, Some("a"), &["before the end of the backup 'a'"]);
        refused(60, Some("x"), &["no backup named x"]);
        assert!(found(&[], &chunks, Moment::At(ts(60)), None).expect_err("none").contains("no backup to begin with"));
        assert_eq!(find(&backups[1..], &chunks, Moment::Latest, None).expect("itself").target, None);
        assert!(found(&[], &chunks, Moment::Latest, None).expect_err("none").contains("no backup to begin with"));
    }

    #[test]
    fn what_the_latest_moment_leaves_behind_is_said() {
        let backups = [backup("a", &[("a", 10, 20)]), backup("b", &[("a", 90, 95)])];
        let restore = |json: serde_json::Value| serde_json::from_value::<RestoreMeta>(json).expect("a restore");
        let restores = [restore(json!({ "name": "r", "backup": "a", "changed_from": ts(60) }))];
        let whole = [chunk("a", 20, 40)];
        let broken = [chunk("a", 20, 40), chunk("a", 50, 80)];
        let said = |base: Option<&str>, chunks: &[Chunk], restores: &[RestoreMeta]| {
            let way = find(&backups, chunks, Moment::Latest, base).expect("a way");
            way.leaves_behind(&backups, chunks, restores)
        };
        assert_eq!(said(None, &whole, &restores), [""; 0], "the newest backup is after the restore");
        let older = said(Some("a"), &broken, &restores);
        assert_eq!(older.len(), 3, "{older:?}");
        assert!(older[0].contains("backup 'b' is newer: it ends at 1970-01-01T00:01:35Z (95,1)"), "{older:?}");
        assert!(older[1].contains("restore 'r' replaced the data at 1970-01-01T00:01:00Z (60,1)"), "{older:?}");
        assert!(older[2].contains("has a gap from 1970-01-01T00:00:40Z (40,1)"), "{older:?}");
        assert_eq!(said(Some("a"), &whole, &[]).len(), 1);
    }

    #[test]
    fn what_is_no_base() {
        for (change, part) in [
            ((|b| b.status = Status::Error) as fn(&mut BackupMeta), "status"),
            (|b| b.nss = vec!["a.*".into()], "selected namespaces"),
            (|b| b.kind = BackupType::External, "external"),
            (|b| b.kind = BackupType::Incremental, "incremental"),
        ] {
            let mut backup = backup("a", &[("a", 10, 20)]);
            assert_eq!(not_a_base(&backup), None);
            change(&mut backup);
            let why = not_a_base(&backup).expect(part);
            assert!(why.contains(part), "{part}: {why}");
            let said = found(&[backup.clone()], &[], Moment::At(ts(30)), Some("a")).expect_err(part);
            assert!(said.contains(part) && found(&[backup], &[], Moment::At(ts(30)), None).is_err(), "{said}");
        }
    }

    #[test]
    fn a_base_on_a_profile_has_to_be_named() {
        let mut base = backup("a", &[("a", 10, 20)]);
        base.store.profile = Some(true);
        let chunks = [chunk("a", 15, 80)];
        let said = found(&[base.clone()], &chunks, Moment::At(ts(30)), None).expect_err("nobody named it");
        assert!(said.contains("main storage"), "{said}");
        assert_eq!(found(&[base], &chunks, Moment::At(ts(30)), Some("a")), Ok(("a".into(), 30)));
    }

    #[test]
    fn every_replica_set_has_to_get_there() {
        let backups = [backup("b", &[("a", 10, 20), ("c", 10, 24)])];
        // The chunks of c begin inside c's own slices.
        let mut chunks = vec![chunk("a", 20, 80), chunk("c", 22, 50)];
        assert_eq!(found(&backups, &chunks, Moment::At(ts(50)), None), Ok(("b".into(), 50)));
        assert_eq!(found(&backups, &chunks, Moment::Latest, None), Ok(("b".into(), 50)));
        let said = found(&backups, &chunks, Moment::At(ts(51)), None).expect_err("too far");
        assert!(said.contains("replica set 'c' ends at"), "{said}");
        // The dump of c may contain writes that are newer than 20.
        assert!(found(&backups, &chunks, Moment::At(ts(22)), None).is_err());
        chunks.push(chunk("new", 40, 60));
        let said = found(&backups, &chunks, Moment::At(ts(45)), None).expect_err("a shard that joined later");
        assert!(said.contains("'new'"), "{said}");
        assert_eq!(found(&backups, &chunks, Moment::At(ts(40)), None), Ok(("b".into(), 40)));
        chunks.remove(0);
        let said = found(&backups, &chunks, Moment::At(ts(30)), None).expect_err("no chunks of a");
        assert!(said.contains("'a' ends at"), "{said}");
    }

    /// The oplog of every replica set in a backup made before 2.0 reached to the last write of the cluster, so chunks
    /// continue it from that moment.
    #[test]
    fn old_backups_of_shards_go_on_from_one_moment() {
        let mut old = backup("b", &[("a", 10, 20), ("c", 10, 14)]);
        (old.pbm_version, old.last_write_ts) = ("1.6.0".to_owned(), ts(20));
        let chunks = [chunk("a", 20, 80), chunk("c", 20, 50)];
        assert_eq!(found(&[old.clone()], &chunks, Moment::At(ts(50)), None), Ok(("b".into(), 50)));
        assert_eq!(found(&[old], &chunks, Moment::Latest, None), Ok(("b".into(), 50)));
    }

    #[test]
    fn a_window_needs_the_oplog_of_everybody() {
        let chunks = [chunk("a", 10, 20), chunk("a", 20, 30), chunk("a", 40, 50), chunk("b", 5, 60)];
        let both = ["a".to_owned(), "b".to_owned()];
        let second = |time| Timestamp { time, increment: 0 };
        let found = window(&both, &chunks, ts(12), ts(30)).expect("covered");
        assert_eq!((found["a"].len(), found["b"].len()), (2, 1));
        assert_eq!(window(&both, &chunks, ts(15), ts(15)).expect("covered")["a"].len(), 1);
        // The second in question begins with its first operation.
        assert_eq!(window(&both, &chunks, second(10), ts(20)).expect("covered")["a"].len(), 1);
        for (start, end, part) in [
            (second(9), ts(20), "'a' is saved from 1970-01-01T00:00:09Z (9,1) to 1970-01-01T00:00:10Z (10,1)"),
            (
                ts(25),
                ts(45),
                "'a' is saved from 1970-01-01T00:00:30Z (30,1) to 1970-01-01T00:00:40Z (40,1) (saved is 1970-01-01T00:00:10Z (10,1) to",
            ),
            (ts(45), ts(60), "to 1970-01-01T00:01:00Z (60,1)"),
            (ts(70), ts(80), "'b'"),
            (ts(20), ts(12), "is after the end"),
            (ts(35), ts(35), "'a' is saved from 1970-01-01T00:00:35Z (35,1) to"),
            (second(35), second(35), "'a' is saved from"),
        ] {
            let said = window(&both, &chunks, start, end).expect_err(part).join("; ");
            assert!(said.contains(part), "{part}: {said}");
        }
        let said = window(&["c".into()], &[], ts(1), ts(2)).expect_err("nothing").join("; ");
        assert!(said.contains("'c'") && said.contains("saved is nothing"), "{said}");
        let said = window(&both[..1], &chunks, ts(10), ts(20)).expect_err("a stranger").join("; ");
        assert!(said.contains("'b', which the cluster does not have"), "{said}");
    }
}
