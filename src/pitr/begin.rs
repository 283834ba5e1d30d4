//! Decides where slicing begins. The timeline gets no gap that can be avoided, and it never mixes with a timeline from
//! before a restore. Pure functions.

use super::timeline::Line;
use crate::model::{restore::RestoreMeta, status::Status};
use bson::Timestamp;

/// The facts when slicing of a replica set begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The end of the newest chunk.
    pub saved: Option<Timestamp>,
    /// The last write of the newest backup on which chunks can be replayed. Also `None` with `pitr.oplogOnly`.
    pub base: Option<Timestamp>,
    /// The first write of a backup that is being made and will be such a base. Its last write is not known yet.
    pub coming: Option<Timestamp>,
    /// When the newest restore began to change data. Chunks up to here belong to a timeline that has ended.
    pub restored: Option<Timestamp>,
    /// The oldest entry of the oplog.
    pub oldest: Timestamp,
    /// The newest entry of the oplog that a majority has.
    pub newest: Timestamp,
}

/// The place where slicing begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// A new timeline begins. Its first entry is the one at this time, or the last one before it.
    pub at: Timestamp,
    /// The timeline has a gap, because the oplog does not reach back to the end of the last chunk.
    pub gap: Option<Line>,
    /// The newest base backup is older than the timeline, so a new backup is needed.
    pub needs_base: bool,
}

/// Decides where to begin.
#[must_use]
pub fn begin(facts: &Facts) -> Begin {
    let after = facts.restored.unwrap_or(Timestamp { time: 0, increment: 0 });
    let saved = facts.saved.filter(|saved| *saved > after);
    let base = facts.base.filter(|base| *base > after);
    // The newest base backup, if it is newer than the last chunk and this oplog continues it.
    let fresh = base.filter(|base| *base >= facts.oldest && saved.is_none_or(|saved| *base > saved));
    let coming = facts.coming.filter(|coming| *coming > after && *coming >= facts.oldest);
    if let Some(saved) = saved
        && saved >= facts.oldest
    {
        return Begin { at: saved, gap: None, needs_base: base.or(coming).is_none() };
    }
    let at = fresh.or(coming).unwrap_or(facts.newest).max(facts.oldest);
    let gap = saved.map(|saved| Line { start: saved, end: at });
    // A base before the gap can only be replayed up to the gap.
    Begin { at, gap, needs_base: fresh.or(coming).is_none() }
}

/// Returns when a restore began to change data. Returns `None` if it changed nothing. Also `None` for a replay of chunks: its
/// writes are part of the timeline, like all other writes.
///
/// The original records only the start of a restore, in seconds of the wall clock.
#[must_use]
pub fn changed_from(restore: &RestoreMeta) -> Option<Timestamp> {
    if restore.backup.is_empty() {
        return None;
    }
    let touched = |status| matches!(status, Status::Running | Status::DumpDone | Status::Done);
    let told = restore
        .conditions
        .iter()
        .any(|condition| touched(condition.status))
        .then(|| Timestamp { time: u32::try_from(restore.start_ts).unwrap_or(u32::MAX), increment: 0 });
    restore.changed_from.or(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ts(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    #[test]
    fn a_restore_counts_from_its_first_change() {
        let restore = |json: serde_json::Value| serde_json::from_value::<RestoreMeta>(json).expect("a restore");
        let done = json!({ "name": "r", "backup": "b", "start_ts": 50, "conditions": [{ "timestamp": 51, "status": "running" }] });
        assert_eq!(changed_from(&restore(done)), Some(Timestamp { time: 50, increment: 0 }));
        let ours = json!({ "name": "r", "backup": "b", "start_ts": 50, "changed_from": ts(52) });
        assert_eq!(changed_from(&restore(ours)), Some(ts(52)));
        for unchanged in [
            json!({ "name": "r", "backup": "b", "start_ts": 50, "conditions": [{ "timestamp": 51, "status": "error" }] }),
            json!({ "name": "replay", "start_ts": 50, "conditions": [{ "timestamp": 51, "status": "running" }] }),
        ] {
            assert_eq!(changed_from(&restore(unchanged)), None);
        }
    }

    #[test]
    fn every_case() {
        // saved, base, restored, oldest, newest → at, gap, needs_base
        for (number, (saved, base, restored, oldest, newest, at, gap, needs_base)) in [
            // The first time: from the base, if the oplog still has it, else from now.
            (None, None, None, 10, 90, 90, None, true),
            (None, Some(50), None, 10, 90, 50, None, false),
            (None, Some(50), None, 60, 90, 90, None, true),
            // Goes on where it ended.
            (Some(70), Some(50), None, 10, 90, 70, None, false),
            (Some(70), Some(80), None, 10, 90, 70, None, false),
            (Some(10), Some(5), None, 10, 90, 10, None, false),
            (Some(70), None, None, 10, 90, 70, None, true),
            // The oplog was rolled over.
            (Some(30), Some(20), None, 40, 90, 90, Some((30, 90)), true),
            (Some(30), Some(60), None, 40, 90, 60, Some((30, 60)), false),
            // Old chunks are never continued over a restore.
            (Some(30), Some(20), Some(50), 10, 90, 90, None, true),
            (Some(30), Some(60), Some(50), 10, 90, 60, None, false),
            (Some(45), None, Some(50), 10, 90, 90, None, true),
            (Some(70), Some(60), Some(50), 10, 90, 70, None, false),
            (Some(70), Some(20), Some(50), 10, 90, 70, None, true),
        ]
        .into_iter()
        .enumerate()
        {
            let facts = Facts {
                saved: saved.map(ts),
                base: base.map(ts),
                coming: None,
                restored: restored.map(ts),
                oldest: ts(oldest),
                newest: ts(newest),
            };
            let expected =
                Begin { at: ts(at), gap: gap.map(|(start, end)| Line { start: ts(start), end: ts(end) }), needs_base };
            assert_eq!(begin(&facts), expected, "case {number}");
        }
    }

    #[test]
    fn a_backup_that_is_being_made_is_joined() {
        let nothing = Facts { saved: None, base: None, coming: None, restored: None, oldest: ts(10), newest: ts(90) };
        for (facts, at, needs_base) in [
            (Facts { coming: Some(ts(60)), ..nothing }, 60, false),
            // It began before what the oplog still has, or before a restore.
            (Facts { coming: Some(ts(5)), ..nothing }, 90, true),
            (Facts { coming: Some(ts(60)), restored: Some(ts(70)), ..nothing }, 90, true),
            // An older base is joined too, and a timeline goes on where it ended.
            (Facts { coming: Some(ts(60)), base: Some(ts(50)), ..nothing }, 50, false),
            (Facts { coming: Some(ts(60)), base: Some(ts(40)), saved: Some(ts(55)), ..nothing }, 55, false),
        ] {
            assert_eq!(begin(&facts), Begin { at: ts(at), gap: None, needs_base }, "{facts:?}");
        }
    }
}
