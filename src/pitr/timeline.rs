//! Computes continuous timelines from oplog chunks, with their gaps and the spans of time that can be restored. Pure functions.

use crate::model::{
    backup::{BackupMeta, BackupType},
    chunk::Chunk,
    status::Status,
};
use bson::Timestamp;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// A range of the oplog that is on the storage without a gap. Both ends are entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    pub start: Timestamp,
    pub end: Timestamp,
}

/// A span in whole seconds, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

/// A span as the original prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Range {
    pub range: Span,
    /// No backup is before it.
    #[serde(rename = "noBaseSnapshot", skip_serializing_if = "std::ops::Not::not")]
    pub no_base: bool,
}

/// The lines of each replica set, in their order. No line touches the next one.
pub type Lines = BTreeMap<String, Vec<Line>>;

/// Adds a chunk. The chunks of a replica set must be added in the order of their start. A chunk continues a line if it begins
/// at or before the end of that line.
pub fn extend(lines: &mut Lines, rs: &str, chunk: Line) {
    if !lines.contains_key(rs) {
        lines.insert(rs.to_owned(), Vec::new());
    }
    let Some(lines) = lines.get_mut(rs) else { return };
    match lines.last_mut() {
        Some(last) if last.end >= chunk.start => last.end = last.end.max(chunk.end),
        _ => lines.push(chunk),
    }
}

/// Adds all chunks, which may have any order. See [`extend`].
#[must_use]
pub fn timelines(chunks: &[Chunk]) -> Lines {
    let mut sorted: Vec<&Chunk> = chunks.iter().collect();
    sorted.sort_by_key(|chunk| (&chunk.rs, chunk.start_ts));
    let mut lines = Lines::new();
    for chunk in sorted {
        extend(&mut lines, &chunk.rs, Line { start: chunk.start_ts, end: chunk.end_ts });
    }
    lines
}

/// Returns the line that contains `at`.
#[must_use]
pub fn line_at(lines: &[Line], at: Timestamp) -> Option<Line> {
    let after = lines.partition_point(|line| line.start <= at);
    lines[..after].last().filter(|line| line.end >= at).copied()
}

/// Returns the last moment to which a backup can be restored: up to there the oplog continues it on all of its replica sets.
/// Returns `None` if no oplog continues the backup on one of them.
#[must_use]
pub fn reach(lines: &Lines, backup: &BackupMeta) -> Option<Timestamp> {
    let ends = backup.replsets.iter().map(|rs| {
        let line = line_at(lines.get(&rs.name).map_or(&[], Vec::as_slice), backup.last_write_ts);
        line.map(|line| line.end)
    });
    ends.reduce(|a, b| Some(a?.min(b?))).flatten()
}

/// Returns the lines that all of `members` have. The result is empty if one of them has no chunks.
#[must_use]
pub fn common(timelines: &Lines, members: &[String]) -> Vec<Line> {
    let mut members = members.iter();
    let Some(first) = members.next() else { return Vec::new() };
    let of = |rs: &String| timelines.get(rs).map_or(&[][..], Vec::as_slice);
    members.fold(of(first).to_vec(), |common, rs| overlap(&common, of(rs)))
}

/// Both lists are sorted, and their lines do not touch, so one pass over each list is enough.
fn overlap(mut a: &[Line], mut b: &[Line]) -> Vec<Line> {
    let mut out = Vec::new();
    while let (Some(x), Some(y)) = (a.first(), b.first()) {
        let both = Line { start: x.start.max(y.start), end: x.end.min(y.end) };
        if both.start < both.end {
            out.push(both);
        }
        if x.end < y.end { a = &a[1..] } else { b = &b[1..] }
    }
    out
}

/// A range for which a replica set has no oplog, although it has some before and after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    pub rs: String,
    /// The last entry before the gap.
    #[serde(serialize_with = "whole_seconds")]
    pub from: Timestamp,
    /// The first entry after the gap.
    #[serde(serialize_with = "whole_seconds")]
    pub to: Timestamp,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn whole_seconds<S: Serializer>(ts: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u32(ts.time)
}

/// Returns the gaps of each of `members`, the oldest first. A replica set without chunks has a
/// single gap, which covers the chunks of all others.
#[must_use]
pub fn gaps(lines: &Lines, members: &[String]) -> Vec<Gap> {
    let mut out = Vec::new();
    for (rs, lines) in lines.iter().filter(|(rs, _)| members.contains(rs)) {
        let between = lines.windows(2).map(|two| Gap { rs: rs.clone(), from: two[0].end, to: two[1].start });
        out.extend(between);
    }
    let first = lines.values().filter_map(|lines| lines.first()).map(|line| line.start).min();
    let last = lines.values().filter_map(|lines| lines.last()).map(|line| line.end).max();
    if let Some((from, to)) = first.zip(last) {
        let without = members.iter().filter(|rs| lines.get(*rs).is_none_or(Vec::is_empty));
        out.extend(without.map(|rs| Gap { rs: rs.clone(), from, to }));
    }
    out.sort_by(|a, b| (a.from, a.to, &a.rs).cmp(&(b.from, b.to, &b.rs)));
    out
}

/// Returns the spans as the original prints them: in whole seconds, without spans that are shorter than a second.
#[must_use]
pub fn seconds(lines: &[Line]) -> Vec<Span> {
    let spans = lines.iter().map(|line| Span { start: line.start.time, end: line.end.time });
    spans.filter(|span| span.start < span.end).collect()
}

/// Whether oplog can be replayed on this backup: it is complete, contains the whole cluster, and is on the main storage.
#[must_use]
pub fn is_base(backup: &BackupMeta) -> bool {
    backup.status == Status::Done
        && backup.nss.is_empty()
        && backup.kind != BackupType::External
        && backup.store.profile != Some(true)
}

/// Splits spans at the first backup on which they can be replayed.
#[must_use]
pub fn with_bases(spans: &[Span], backups: &[BackupMeta]) -> Vec<Range> {
    let mut ends: Vec<u32> = backups.iter().filter(|b| is_base(b)).map(|b| b.last_write_ts.time).collect();
    ends.sort_unstable();
    let mut out = Vec::new();
    for span in spans {
        let mut push = |start, end, no_base| {
            if start < end {
                out.push(Range { range: Span { start, end }, no_base });
            }
        };
        match ends.get(ends.partition_point(|end| *end < span.start)).filter(|end| **end < span.end) {
            Some(base) => {
                push(span.start, *base, true);
                push(base + 1, span.end, false);
            }
            None => push(span.start, span.end, true),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    fn line(start: u32, end: u32) -> Line {
        Line { start: ts(start), end: ts(end) }
    }

    fn lines(chunks: &[(&str, u32, u32)]) -> Lines {
        let mut lines = Lines::new();
        for (rs, start, end) in chunks {
            extend(&mut lines, rs, line(*start, *end));
        }
        lines
    }

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|&rs| rs.to_owned()).collect()
    }

    #[test]
    fn gaps_split_and_replica_sets_intersect() {
        let lines = lines(&[("a", 10, 20), ("a", 20, 30), ("a", 40, 50), ("b", 15, 45), ("b", 16, 17), ("c", 1, 5)]);
        assert_eq!(lines["a"], [line(10, 30), line(40, 50)]);
        assert_eq!(lines["b"], [line(15, 45)]);
        assert_eq!(common(&lines, &names(&["a", "b"])), [line(15, 30), line(40, 45)]);
        assert_eq!(common(&lines, &names(&["a", "nobody"])), []);
        assert_eq!(common(&lines, &[]), []);
    }

    #[test]
    fn a_gap_of_one_increment_is_one() {
        let part = |start, end| Line {
            start: Timestamp { time: 5, increment: start },
            end: Timestamp { time: 5, increment: end },
        };
        let mut lines = Lines::new();
        extend(&mut lines, "a", part(1, 2));
        extend(&mut lines, "a", part(2, 3));
        extend(&mut lines, "a", part(4, 5));
        assert_eq!(lines["a"], [part(1, 3), part(4, 5)]);
    }

    #[test]
    fn gaps_name_their_replica_set() {
        let gap = |rs: &str, from, to| Gap { rs: rs.to_owned(), from: ts(from), to: ts(to) };
        let lines = lines(&[("a", 10, 30), ("a", 40, 50), ("b", 15, 45), ("b", 60, 70)]);
        assert_eq!(gaps(&lines, &names(&["a", "b"])), [gap("a", 30, 40), gap("b", 45, 60)]);
        assert_eq!(gaps(&lines, &names(&["a", "b", "c"]))[0], gap("c", 10, 70), "it has nothing");
        assert_eq!(gaps(&Lines::new(), &names(&["a"])), []);
        assert_eq!(serde_json::to_string(&gap("a", 1, 2)).expect("json"), r#"{"rs":"a","from":1,"to":2}"#);
    }

    /// A gap of one second every other second, on three replica sets, is done in no time.
    #[test]
    fn a_hundred_thousand_chunks_are_few() {
        let mut all = Lines::new();
        for rs in ["a", "b", "c"] {
            for n in 0..100_000 {
                extend(&mut all, rs, line(n * 2, n * 2 + 1));
            }
        }
        let since = std::time::Instant::now();
        assert_eq!(common(&all, &names(&["a", "b", "c"])).len(), 100_000);
        assert_eq!(gaps(&all, &names(&["a", "b", "c"])).len(), 3 * 99_999);
        assert!(since.elapsed().as_secs() < 2, "took {:?}", since.elapsed());
    }

    #[test]
    fn the_line_at_a_time() {
        let lines = [line(10, 20), line(30, 40)];
        for (at, want) in
            [(9, None), (10, Some(0)), (20, Some(0)), (21, None), (30, Some(1)), (40, Some(1)), (41, None)]
        {
            assert_eq!(line_at(&lines, ts(at)), want.map(|n: usize| lines[n]), "{at}");
        }
    }

    #[test]
    fn a_range_prints_as_the_originals() {
        let range = Range { range: Span { start: 1, end: 2 }, no_base: false };
        assert_eq!(serde_json::to_string(&range).expect("json"), r#"{"range":{"start":1,"end":2}}"#);
        let unbacked = with_bases(&[Span { start: 1, end: 2 }], &[]);
        assert_eq!(
            serde_json::to_string(&unbacked).expect("json"),
            r#"[{"range":{"start":1,"end":2},"noBaseSnapshot":true}]"#
        );
    }
}
