//! Holds many PITR chunks in little memory, to compare the chunks on a storage with the index.
//!
//! # Memory
//!
//! Each chunk takes 40 bytes. The name of its object follows from its replica set, times and compression. Only a
//! different name, which no program writes, is kept as text.

use crate::layout;
use crate::model::{chunk::Chunk, compression::Compression};
use bson::Timestamp;
use std::cmp::{Ordering, Reverse};

/// A list of chunks.
#[derive(Debug, Clone, Default)]
pub struct ChunkTable {
    rows: Vec<Row>,
    /// Names of the replica sets. There are few of them.
    sets: Vec<String>,
    names: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    start: Timestamp,
    end: Timestamp,
    size: i64,
    /// Positions in the lists of names. The position of an object name is set only if the name is unusual.
    set: u32,
    name: u32,
    compression: Compression,
}

/// Stands for "the object name is not unusual".
const USUAL: u32 = u32::MAX;

impl ChunkTable {
    /// Adds a chunk at the end.
    pub fn push(&mut self, chunk: Chunk) {
        let usual = layout::pitr_chunk(&chunk.rs, chunk.start_ts, chunk.end_ts, chunk.compression);
        let name = if usual == chunk.fname { USUAL } else { position(&mut self.names, chunk.fname) };
        let set = match self.sets.iter().position(|set| *set == chunk.rs) {
            Some(at) => u32::try_from(at).unwrap_or(USUAL),
            None => position(&mut self.sets, chunk.rs),
        };
        let (start, end) = (chunk.start_ts, chunk.end_ts);
        self.rows.push(Row { start, end, size: chunk.size, set, name, compression: chunk.compression });
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns all chunks in their order.
    pub fn iter(&self) -> impl Iterator<Item = Chunk> {
        self.rows.iter().map(|row| self.chunk(row))
    }

    /// Sorts by replica set and time, and removes chunks that lie within another chunk. A crash leaves such chunks if
    /// it happens while small chunks are joined, and the original would see a gap in an index that contains them.
    pub fn keep_longest(&mut self) {
        let mut rows = std::mem::take(&mut self.rows);
        // The longest chunk comes first, so that all chunks within it come later.
        rows.sort_by(|a, b| {
            let times = (a.start, Reverse(a.end)).cmp(&(b.start, Reverse(b.end)));
            self.set(a).cmp(self.set(b)).then(times).then_with(|| self.name(a).cmp(&self.name(b)))
        });
        let mut last: Option<(u32, Timestamp)> = None;
        rows.retain(|row| {
            let within = last.is_some_and(|(set, end)| set == row.set && end >= row.end);
            if !within {
                last = Some((row.set, row.end));
            }
            !within
        });
        self.rows = rows;
    }

    /// Returns the chunks that only one of the two tables has. Two chunks are equal if their replica sets, times and
    /// objects are equal.
    pub(super) fn compare<'a>(&'a mut self, other: &'a mut Self) -> Differences<'a> {
        for table in [&mut *self, &mut *other] {
            let mut rows = std::mem::take(&mut table.rows);
            rows.sort_by(|a, b| order(table, a, table, b));
            table.rows = rows;
        }
        Differences { mine: (self, 0), theirs: (other, 0) }
    }

    fn set(&self, row: &Row) -> &str {
        &self.sets[row.set as usize]
    }

    fn name(&self, row: &Row) -> String {
        match row.name {
            USUAL => layout::pitr_chunk(self.set(row), row.start, row.end, row.compression),
            at => self.names[at as usize].clone(),
        }
    }

    fn chunk(&self, row: &Row) -> Chunk {
        Chunk {
            rs: self.set(row).to_owned(),
            fname: self.name(row),
            compression: row.compression,
            start_ts: row.start,
            end_ts: row.end,
            size: row.size,
            stored: None,
        }
    }
}

impl FromIterator<Chunk> for ChunkTable {
    fn from_iter<T: IntoIterator<Item = Chunk>>(chunks: T) -> Self {
        let mut table = Self::default();
        chunks.into_iter().for_each(|chunk| table.push(chunk));
        table
    }
}

/// Appends the text and returns its position.
fn position(to: &mut Vec<String>, text: String) -> u32 {
    to.push(text);
    u32::try_from(to.len() - 1).unwrap_or(USUAL)
}

/// Compares two chunks by replica set, start, end and name.
fn order(a_in: &ChunkTable, a: &Row, b_in: &ChunkTable, b: &Row) -> Ordering {
    let sets = a_in.set(a).cmp(b_in.set(b));
    let times = sets.then((a.start, a.end).cmp(&(b.start, b.end)));
    times.then_with(|| match (a.name, b.name) {
        (USUAL, USUAL) if a.compression == b.compression => Ordering::Equal,
        _ => a_in.name(a).cmp(&b_in.name(b)),
    })
}

/// One chunk that only one table has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Only {
    Mine(Chunk),
    Theirs(Chunk),
}

/// The iterator of [`ChunkTable::compare`].
pub(super) struct Differences<'a> {
    mine: (&'a ChunkTable, usize),
    theirs: (&'a ChunkTable, usize),
}

impl Iterator for Differences<'_> {
    type Item = Only;

    fn next(&mut self) -> Option<Only> {
        loop {
            let (mine, theirs) = (self.mine.0, self.theirs.0);
            let order = match (mine.rows.get(self.mine.1), theirs.rows.get(self.theirs.1)) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => order(mine, a, theirs, b),
            };
            let (my, their) = (self.mine.1, self.theirs.1);
            self.mine.1 += usize::from(order.is_le());
            self.theirs.1 += usize::from(order.is_ge());
            match order {
                Ordering::Less => return Some(Only::Mine(mine.chunk(&mine.rows[my]))),
                Ordering::Greater => return Some(Only::Theirs(theirs.chunk(&theirs.rows[their]))),
                Ordering::Equal => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(rs: &str, from: u32, to: u32) -> Chunk {
        let ts = |time| Timestamp { time, increment: 1 };
        let compression = Compression::S2;
        let fname = layout::pitr_chunk(rs, ts(from), ts(to), compression);
        Chunk {
            rs: rs.into(),
            fname,
            compression,
            start_ts: ts(from),
            end_ts: ts(to),
            size: i64::from(to),
            stored: None,
        }
    }

    fn odd(rs: &str, from: u32, to: u32) -> Chunk {
        Chunk { fname: format!("pbmPitr/{rs}/elsewhere/{from}"), ..chunk(rs, from, to) }
    }

    fn table(chunks: &[Chunk]) -> ChunkTable {
        chunks.iter().cloned().collect()
    }

    #[test]
    fn chunks_come_out_as_they_went_in() {
        let chunks = [chunk("b", 5, 9), chunk("a", 1, 2), odd("a", 2, 3), odd("b", 9, 9)];
        assert_eq!(table(&chunks).iter().collect::<Vec<_>>(), chunks);
        assert!(size_of::<Row>() <= 40);
    }

    #[test]
    fn what_lies_within_another_is_left_out() {
        let mut all = table(&[
            chunk("rs0", 4, 6),
            chunk("rs0", 2, 4),
            chunk("rs0", 0, 4),
            chunk("rs1", 2, 4),
            odd("rs0", 0, 4),
            chunk("rs0", 3, 5),
        ]);
        all.keep_longest();
        let kept: Vec<_> = all.iter().map(|chunk| (chunk.rs, chunk.start_ts.time, chunk.end_ts.time)).collect();
        assert_eq!(kept, [("rs0".into(), 0, 4), ("rs0".into(), 3, 5), ("rs0".into(), 4, 6), ("rs1".into(), 2, 4)]);
    }

    #[test]
    fn tables_with_other_places_are_compared_by_what_they_mean() {
        let other_compression = Chunk {
            compression: Compression::Zstd,
            fname: layout::pitr_chunk("a", chunk("a", 1, 2).start_ts, chunk("a", 1, 2).end_ts, Compression::Zstd),
            ..chunk("a", 1, 2)
        };
        // Different sizes are no difference, because the size comes from the storage.
        let mut mine = table(&[chunk("b", 1, 2), chunk("a", 1, 2), odd("a", 4, 5), chunk("c", 1, 9)]);
        let grown = Chunk { size: 77, ..chunk("b", 1, 2) };
        let mut theirs = table(&[other_compression.clone(), odd("a", 4, 5), grown, chunk("b", 2, 3)]);
        let found: Vec<Only> = mine.compare(&mut theirs).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        for only in [
            Only::Mine(chunk("a", 1, 2)),
            Only::Theirs(other_compression),
            Only::Theirs(chunk("b", 2, 3)),
            Only::Mine(chunk("c", 1, 9)),
        ] {
            assert!(found.contains(&only), "{only:?}: {found:?}");
        }
        assert_eq!(mine.clone().compare(&mut mine).count(), 0);
    }
}
