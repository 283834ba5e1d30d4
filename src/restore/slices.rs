//! The oplog slices of a backup in the order of replay, and whether they cover it (spec/format.md A.4).

use crate::{layout::SliceName, model::compression::Compression, storage::ObjectInfo};
use bson::Timestamp;

/// One object of oplog entries; both ends inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OplogObject {
    pub name: String,
    pub size: u64,
    pub compression: Compression,
    pub from: Timestamp,
    pub to: Timestamp,
}

/// Reads the slices from a listing of the folder `dir` and checks that they cover `first` to `last` without a gap.
///
/// No slice at all is right when nothing was written between the two, that is when they are equal or unknown (zero).
/// The result is sorted by start: listings have no order.
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
                name: object.name.clone(),
                size: object.size,
                compression: slice.compression(),
                from: slice.from,
                to: slice.to,
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

/// A cluster time as people write it on our command line: `T,I`.
pub fn at(ts: Timestamp) -> String {
    format!("{},{}", ts.time, ts.increment)
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
}
