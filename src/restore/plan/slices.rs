//! Puts pieces of the oplog in the order of replay, and checks whether they cover the range to replay. The pieces are
//! a backup's slices (docs/format.md A.4) and the PITR chunks after them (A.5, E.7).

use crate::{
    layout::SliceName,
    model::{chunk::Chunk, compression::Compression},
    storage::ObjectInfo,
};
use bson::Timestamp;
use jiff::tz::TimeZone;

/// The meaning of the two times in an object's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// The times of the object's first and last entry. Slices of a backup and chunks that this program made have such names.
    Entries,
    /// A range that contains all entries of the object. The range may begin before the first entry.
    Range,
    /// The name contains no times. This is the single oplog object of a backup made before 2.4. It may hold entries before and
    /// after the backup's range.
    Unnamed,
}

/// An object with oplog entries. Its range includes both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OplogObject {
    pub name: String,
    pub size: u64,
    pub compression: Compression,
    pub from: Timestamp,
    pub to: Timestamp,
    pub ends: Ends,
    /// The time of an entry that this replica set has, if one is known. The object must contain it: its first entry
    /// must not be newer, and its last entry must not be older.
    pub holds: Option<Timestamp>,
    /// Size and CRC-64/XZ of the uncompressed entries, if the backup's metadata records them.
    pub content: Option<(u64, i64)>,
    /// Size of the object on the storage, if the program that stored it recorded the size.
    pub stored: Option<u64>,
}

impl OplogObject {
    /// Creates an object with this name and range. Nothing else is known about it yet.
    #[must_use]
    pub fn new(name: String, compression: Compression, (from, to): (Timestamp, Timestamp), ends: Ends) -> Self {
        Self { name, size: 0, compression, from, to, ends, holds: None, content: None, stored: None }
    }
}

impl From<&Chunk> for OplogObject {
    fn from(chunk: &Chunk) -> Self {
        // Only this program records the stored size, and its chunks begin and end with entries.
        let ends = if chunk.stored.is_some() { Ends::Entries } else { Ends::Range };
        Self {
            size: u64::try_from(chunk.size).unwrap_or_default(),
            stored: chunk.stored.and_then(|stored| u64::try_from(stored).ok()),
            ..Self::new(chunk.fname.clone(), chunk.compression, (chunk.start_ts, chunk.end_ts), ends)
        }
    }
}

/// A piece of the oplog. Its range includes both ends.
pub trait Piece {
    fn begins(&self) -> Timestamp;
    fn ends(&self) -> Timestamp;
}

impl Piece for OplogObject {
    fn begins(&self) -> Timestamp {
        self.from
    }

    fn ends(&self) -> Timestamp {
        self.to
    }
}

/// The place where a chain of pieces is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// All entries up to this time are in the chain.
    pub after: Timestamp,
    /// The time at which the next piece begins, or `None` if no piece follows.
    pub next: Option<Timestamp>,
}

impl Gap {
    /// Describes the gap in the oplog of a replica set.
    #[must_use]
    pub fn explain(&self, rs: &str) -> String {
        match self.next {
            Some(next) => {
                format!("the oplog of replica set '{rs}' has a gap from {} to {}", moment(self.after), moment(next))
            }
            None => format!("the oplog of replica set '{rs}' ends at {}", moment(self.after)),
        }
    }
}

/// Returns the pieces that contain all entries from `from` to `to`, in the order of replay. Each piece begins at or
/// before the end of the previous ones. Pieces that add nothing are left out. If several pieces continue from the same
/// place, the one that reaches furthest is used, so each start is later than the one before.
pub fn chain<T: Piece>(mut pieces: Vec<T>, from: Timestamp, to: Timestamp) -> Result<Vec<T>, Gap> {
    pieces.sort_by_key(|piece| (piece.begins(), piece.ends()));
    let mut chosen: Vec<T> = Vec::new();
    let (mut reached, mut best): (Timestamp, Option<T>) = (from, None);
    let mut rest = pieces.into_iter().peekable();
    while reached < to {
        while let Some(piece) = rest.next_if(|piece| piece.begins() <= reached) {
            if piece.ends() > best.as_ref().map_or(reached, Piece::ends) {
                best = Some(piece);
            }
        }
        let Some(next) = best.take() else {
            return Err(Gap { after: reached, next: rest.peek().map(Piece::begins) });
        };
        reached = next.ends();
        chosen.push(next);
    }
    Ok(chosen)
}

/// Reads the slices from a listing of the folder `dir` and checks that they cover `first` to `last` without a gap.
///
/// If nothing was written between the two times, that is, if they are equal or unknown (zero), there may be no slice at
/// all. The result is sorted by start, because listings have no order.
pub fn cover(
    dir: &str,
    objects: &[ObjectInfo],
    first: Timestamp,
    last: Timestamp,
) -> Result<Vec<OplogObject>, Vec<String>> {
    let mut problems = Vec::new();
    let mut slices = Vec::new();
    let prefix = format!("{dir}/");
    for object in objects {
        let Some(file) = object.name.strip_prefix(&prefix) else { continue };
        match SliceName::parse(file) {
            Some(slice) if object.size > 0 => slices.push(OplogObject {
                size: object.size,
                ..OplogObject::new(object.name.clone(), slice.compression(), (slice.from, slice.to), Ends::Entries)
            }),
            Some(_) => problems.push(format!("oplog slice '{}' is empty", object.name)),
            None => problems.push(format!("'{}' is not the name of an oplog slice", object.name)),
        }
    }
    slices.sort_by(|a, b| (a.from, a.to, &a.name).cmp(&(b.from, b.to, &b.name)));
    if problems.is_empty() {
        problems.extend(gaps(dir, &slices, first, last));
    }
    if problems.is_empty() { Ok(slices) } else { Err(problems) }
}

fn gaps(dir: &str, slices: &[OplogObject], first: Timestamp, last: Timestamp) -> Vec<String> {
    let Some(start) = slices.first() else {
        return if first < last && first.time > 0 {
            vec![format!("there are no oplog slices in '{dir}', but {} to {} must be covered", at(first), at(last))]
        } else {
            Vec::new()
        };
    };
    let mut problems = Vec::new();
    if first.time > 0 && start.from > first {
        problems.push(format!("the oplog in '{dir}' begins at {}, after {}", at(start.from), at(first)));
    }
    let mut reached = start.to;
    for slice in &slices[1..] {
        if slice.from > reached {
            problems.push(format!("the oplog in '{dir}' has a gap from {} to {}", at(reached), at(slice.from)));
        }
        reached = reached.max(slice.to);
    }
    if reached < last {
        problems.push(format!("the oplog in '{dir}' ends at {}, before {}", at(reached), at(last)));
    }
    problems
}

/// Returns a cluster time in the form of our command line: `T,I`.
pub fn at(ts: Timestamp) -> String {
    format!("{},{}", ts.time, ts.increment)
}

/// Returns a cluster time in a form for people and for our command line: `2026-03-01T10:20:30Z (T,I)`.
#[must_use]
pub fn moment(ts: Timestamp) -> String {
    match jiff::Timestamp::from_second(i64::from(ts.time)) {
        Ok(time) => format!("{} ({})", TimeZone::UTC.to_datetime(time).strftime("%Y-%m-%dT%H:%M:%SZ"), at(ts)),
        Err(_) => at(ts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::format_ts;

    const DIR: &str = "b/rs0/oplog";

    fn ts(time: u32, increment: u32) -> Timestamp {
        Timestamp { time, increment }
    }

    fn slice(from: (u32, u32), to: (u32, u32), size: u64) -> ObjectInfo {
        let name = format!("{DIR}/{}.{}.s2", format_ts(ts(from.0, from.1)), format_ts(ts(to.0, to.1)));
        ObjectInfo { name, size }
    }

    fn problems(objects: &[ObjectInfo], first: (u32, u32), last: (u32, u32)) -> Vec<String> {
        cover(DIR, objects, ts(first.0, first.1), ts(last.0, last.1)).err().unwrap_or_default()
    }

    #[test]
    fn the_name_of_a_chunk_means_what_its_program_means() {
        let chunk = |stored| Chunk {
            rs: "rs0".into(),
            fname: "pbmPitr/x".into(),
            compression: Compression::S2,
            start_ts: ts(10, 1),
            end_ts: ts(20, 1),
            size: 9,
            stored,
        };
        let [ours, theirs] = [Some(7), None].map(|stored| OplogObject::from(&chunk(stored)));
        assert_eq!((ours.ends, ours.stored), (Ends::Entries, Some(7)), "it begins and ends with entries");
        assert_eq!((theirs.ends, theirs.stored), (Ends::Range, None), "the range may begin before the first entry");
    }

    #[test]
    fn slices_are_replayed_by_start() {
        let listing = [
            slice((20, 349), (30, 1), 5),
            ObjectInfo { name: "b/rs0/shop.orders.s2".to_owned(), size: 9 },
            slice((10, 14), (20, 349), 5),
        ];
        let slices = cover(DIR, &listing, ts(10, 14), ts(30, 1)).expect("covered");
        assert_eq!(
            slices.iter().map(|s| (s.from, s.to)).collect::<Vec<_>>(),
            [(ts(10, 14), ts(20, 349)), (ts(20, 349), ts(30, 1))]
        );
        assert_eq!(slices[0].compression, Compression::S2);
    }

    #[test]
    fn what_is_missing_is_said() {
        let whole = slice((10, 1), (30, 1), 5);
        let cases = [
            (vec![whole.clone()], (10, 1), (30, 1), None),
            (vec![whole.clone()], (12, 1), (28, 1), None),
            (vec![], (10, 1), (10, 1), None),
            (vec![], (0, 0), (30, 1), None),
            (vec![], (10, 1), (30, 1), Some("no oplog slices")),
            (vec![whole.clone()], (9, 9), (30, 1), Some("begins at 10,1, after 9,9")),
            (vec![whole.clone()], (10, 1), (30, 2), Some("ends at 30,1, before 30,2")),
            (
                vec![slice((10, 1), (20, 1), 5), slice((20, 2), (30, 1), 5)],
                (10, 1),
                (30, 1),
                Some("gap from 20,1 to 20,2"),
            ),
            (vec![slice((10, 1), (30, 1), 0)], (10, 1), (30, 1), Some("is empty")),
            (
                vec![whole.clone(), ObjectInfo { name: format!("{DIR}/notes.txt"), size: 1 }],
                (10, 1),
                (30, 1),
                Some("not the name of an oplog slice"),
            ),
        ];
        for (number, (objects, first, last, expected)) in cases.into_iter().enumerate() {
            let found = problems(&objects, first, last);
            match expected {
                None => assert!(found.is_empty(), "case {number}: {found:?}"),
                Some(part) => {
                    assert!(found.len() == 1 && found[0].contains(part), "case {number}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn overlapping_slices_are_no_gap() {
        let listing = [slice((10, 1), (30, 1), 5), slice((15, 1), (20, 1), 5), slice((29, 1), (40, 1), 5)];
        assert!(problems(&listing, (10, 1), (40, 1)).is_empty());
    }

    fn piece(from: (u32, u32), to: (u32, u32)) -> OplogObject {
        let (from, to) = (ts(from.0, from.1), ts(to.0, to.1));
        OplogObject::new(String::new(), Compression::None, (from, to), Ends::Range)
    }

    #[test]
    fn chains_take_what_reaches_furthest() {
        let whole = |time| ((time, 1), (time + 10, 1));
        type Range = ((u32, u32), (u32, u32));
        type Chosen = Result<Vec<Range>, ((u32, u32), Option<(u32, u32)>)>;
        let cases: Vec<(Vec<Range>, Chosen)> = vec![
            (vec![whole(20), whole(10)], Ok(vec![whole(10), whole(20)])),
            // One range occurs twice, one lies inside another, and one overlaps.
            (
                vec![whole(10), whole(10), ((12, 1), (14, 1)), ((18, 1), (30, 1))],
                Ok(vec![whole(10), ((18, 1), (30, 1))]),
            ),
            // Of two pieces with the same start, the longer one is used, in any order and even if it is longer than
            // needed.
            (vec![((10, 1), (12, 1)), ((10, 1), (40, 1)), whole(10)], Ok(vec![((10, 1), (40, 1))])),
            // A chunk may begin long before the range.
            (vec![((1, 1), (20, 1)), whole(20)], Ok(vec![((1, 1), (20, 1)), whole(20)])),
            // Increments are compared, too.
            (vec![whole(10), ((20, 2), (30, 1))], Err(((20, 1), Some((20, 2))))),
            (vec![whole(10)], Err(((20, 1), None))),
            (vec![((10, 2), (30, 1))], Err(((10, 1), Some((10, 2))))),
            (vec![], Err(((10, 1), None))),
        ];
        for (ranges, expected) in cases {
            let pieces = ranges.iter().map(|(from, to)| piece(*from, *to)).collect();
            let pair = |ts: Timestamp| (ts.time, ts.increment);
            let got = chain(pieces, ts(10, 1), ts(30, 1))
                .map(|chosen| chosen.iter().map(|p| (pair(p.from), pair(p.to))).collect::<Vec<_>>())
                .map_err(|gap| (pair(gap.after), gap.next.map(pair)));
            assert_eq!(got, expected, "{ranges:?}");
        }
        assert_eq!(chain::<OplogObject>(vec![], ts(10, 1), ts(10, 1)), Ok(vec![]), "nothing to cover");
    }

    #[test]
    fn moments_can_be_read_and_given_back() {
        assert_eq!(moment(ts(1_795_227_764, 4)), "2026-11-21T02:22:44Z (1795227764,4)");
    }
}
