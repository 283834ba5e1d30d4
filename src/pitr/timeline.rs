//! Pure: from oplog chunks to continuous timelines, their gaps, and the spans of time that can be restored.

use crate::model::{
    backup::{BackupMeta, BackupType},
    chunk::Chunk,
    status::Status,
};
use bson::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// A piece of the oplog that is on the storage without a gap; both ends are entries of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    pub start: Timestamp,
    pub end: Timestamp,
}

/// Whole seconds, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

/// A span as the original prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Range {
    pub range: Span,
    /// No backup precedes it.
    #[serde(rename = "noBaseSnapshot", skip_serializing_if = "std::ops::Not::not")]
    pub no_base: bool,
}

/// What each replica set has, sorted. Chunks touch when one begins at or before the end of those before it.
#[must_use]
pub fn timelines(chunks: &[Chunk]) -> BTreeMap<String, Vec<Line>> {
    let mut sorted: Vec<&Chunk> = chunks.iter().collect();
    sorted.sort_by_key(|chunk| (&chunk.rs, chunk.start_ts, chunk.end_ts));
    let mut out: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for chunk in sorted {
        let lines = out.entry(chunk.rs.clone()).or_default();
        match lines.last_mut() {
            Some(last) if last.end >= chunk.start_ts => last.end = last.end.max(chunk.end_ts),
            _ => lines.push(Line { start: chunk.start_ts, end: chunk.end_ts }),
        }
    }
    out
}

/// What every one of `members` has. A replica set without chunks voids everything.
#[must_use]
pub fn common(timelines: &BTreeMap<String, Vec<Line>>, members: &[String]) -> Vec<Line> {
    let mut members = members.iter();
    let Some(first) = members.next() else { return Vec::new() };
    let of = |rs: &String| timelines.get(rs).cloned().unwrap_or_default();
    members.fold(of(first), |common, rs| overlap(&common, &of(rs)))
}

fn overlap(a: &[Line], b: &[Line]) -> Vec<Line> {
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
    pairs
        .map(|(a, b)| Line { start: a.start.max(b.start), end: a.end.min(b.end) })
        .filter(|line| line.start < line.end)
        .collect()
}

/// As the original prints them: in whole seconds, without those that are shorter.
#[must_use]
pub fn seconds(lines: &[Line]) -> Vec<Span> {
    let spans = lines.iter().map(|line| Span { start: line.start.time, end: line.end.time });
    spans.filter(|span| span.start < span.end).collect()
}

/// Splits spans at the first backup that they can be replayed on.
#[must_use]
pub fn with_bases(spans: &[Span], backups: &[BackupMeta]) -> Vec<Range> {
    let bases = backups.iter().filter(|b| {
        b.status == Status::Done && b.nss.is_empty() && b.kind != BackupType::External && b.store.profile != Some(true)
    });
    let mut ends: Vec<u32> = bases.map(|b| b.last_write_ts.time).collect();
    ends.sort_unstable();
    let mut out = Vec::new();
    for span in spans {
        let mut push = |start, end, no_base| {
            if start < end {
                out.push(Range { range: Span { start, end }, no_base });
            }
        };
        match ends.iter().find(|end| (span.start..span.end).contains(*end)) {
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
    use crate::model::compression::Compression;

    fn ts(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    fn line(start: u32, end: u32) -> Line {
        Line { start: ts(start), end: ts(end) }
    }

    fn chunk(rs: &str, start: u32, end: u32) -> Chunk {
        Chunk {
            rs: rs.into(),
            fname: String::new(),
            compression: Compression::S2,
            start_ts: ts(start),
            end_ts: ts(end),
            size: 1,
        }
    }

    #[test]
    fn gaps_split_and_replica_sets_intersect() {
        let chunks = [chunk("a", 20, 30), chunk("a", 10, 20), chunk("a", 40, 50), chunk("b", 15, 45), chunk("c", 1, 5)];
        let lines = timelines(&chunks);
        assert_eq!(lines["a"], [line(10, 30), line(40, 50)]);
        let names = |all: &[&str]| all.iter().map(|&rs| rs.to_owned()).collect::<Vec<_>>();
        assert_eq!(common(&lines, &names(&["a", "b"])), [line(15, 30), line(40, 45)]);
        assert_eq!(common(&lines, &names(&["a", "nobody"])), []);
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
