//! Do a backup's oplog slices cover the time of its dump? Pure.

use crate::layout::{SliceName, format_ts};
use bson::Timestamp;
use std::fmt;

/// Times without oplog: after `from`, up to and with `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub from: Timestamp,
    pub to: Timestamp,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} to {}", format_ts(self.from), format_ts(self.to))
    }
}

/// The first gap that `slices`, in any order, leave between the first and the last write of a replica set.
///
/// Slices share their border: one must begin at or before the end of those before it. A replica set without a write
/// in between (`first` = `last`) needs none.
#[must_use]
pub fn first_gap(slices: &[SliceName], first: Timestamp, last: Timestamp) -> Option<Gap> {
    let mut slices: Vec<_> = slices.iter().collect();
    slices.sort_by_key(|slice| slice.from);
    let mut covered = first;
    for slice in slices {
        if slice.from > covered {
            return Some(Gap { from: covered, to: slice.from.min(last) }).filter(|gap| gap.from < gap.to);
        }
        covered = covered.max(slice.to);
    }
    (covered < last).then_some(Gap { from: covered, to: last })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(time: u32, increment: u32) -> Timestamp {
        Timestamp { time, increment }
    }

    fn slices(ranges: &[(u32, u32)]) -> Vec<SliceName> {
        let slice =
            |(from, to): &(u32, u32)| SliceName { from: ts(*from, 1), to: ts(*to, 1), compression_ext: String::new() };
        ranges.iter().map(slice).collect()
    }

    #[test]
    fn gaps() {
        for (ranges, gap) in [
            (&[(10, 20)][..], None),
            (&[(5, 30)], None),
            (&[(10, 15), (15, 20)], None),
            (&[(15, 20), (10, 15)], None),
            (&[(10, 18), (12, 14), (17, 20)], None),
            (&[(10, 20), (25, 30)], None),
            (&[(1, 5), (10, 20)], None),
            (&[], Some((10, 20))),
            (&[(11, 20)], Some((10, 11))),
            (&[(10, 19)], Some((19, 20))),
            (&[(10, 14), (15, 20)], Some((14, 15))),
            (&[(10, 18), (12, 14), (19, 20)], Some((18, 19))),
            (&[(1, 5)], Some((10, 20))),
            (&[(10, 15), (25, 30)], Some((15, 20))),
        ] {
            let found = first_gap(&slices(ranges), ts(10, 1), ts(20, 1));
            assert_eq!(found, gap.map(|(from, to)| Gap { from: ts(from, 1), to: ts(to, 1) }), "{ranges:?}");
        }
    }

    #[test]
    fn increments_count() {
        let slice = |from, to| SliceName { from, to, compression_ext: String::new() };
        assert_eq!(first_gap(&[slice(ts(10, 1), ts(10, 7))], ts(10, 1), ts(10, 7)), None);
        let gap = Gap { from: ts(10, 6), to: ts(10, 7) };
        assert_eq!(first_gap(&[slice(ts(10, 1), ts(10, 6))], ts(10, 1), ts(10, 7)), Some(gap));
        assert_eq!(first_gap(&[], ts(10, 1), ts(10, 1)), None, "no write, no slice");
    }
}
