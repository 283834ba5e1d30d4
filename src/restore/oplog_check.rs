//! Checks that the oplog to be replayed is complete, and collects the names that it creates, renames or drops. Every object is
//! read to its end before the restore changes anything on the target.
//!
//! # How a missing beginning or end of an object is detected
//!
//! The name of a backup slice contains the times of its first and last entry ([`Ends::Entries`]). So does the name of a chunk
//! of ours, if the index shows that this program made it. The name of any other chunk is only a range: after a backup, the
//! first chunk of the original begins on every replica set at the *cluster's* last write, and most replica sets have no entry
//! at that time. Three other sources show which entries such a chunk must hold:
//!
//! - the objects before and after the chunk: if they overlap its range, the chunk must hold their entries from the overlap,
//!   too;
//! - the backup, which records one entry of this replica set's oplog, namely its last write ([`OplogObject::holds`]);
//! - the name of the last object: every program ends its chunks with an entry, so an entry must exist at the end of the range.

use super::{
    plan::slices::{Ends, OplogObject, moment},
    stream::Rewrite,
};
use crate::{
    archive::crc::Crc64,
    model::compression::Compression,
    oplog::{entry::Entry, read, unreadable_names::leave_out},
    replay::followed_names::{Asked, Followed},
    storage::Storage,
};
use anyhow::{Context as _, Result, bail};
use bson::Timestamp;
use futures::{StreamExt as _, stream};
use std::sync::Arc;

/// The number of objects that are read at the same time.
pub const AT_ONCE: usize = 4;

/// An object that can't be replayed.
#[derive(Debug)]
pub struct Unsound {
    /// The position of the object.
    pub at: usize,
    /// The name of the object and what is wrong with it.
    pub why: String,
}

/// The names to look for in the oplog, and the changes that are made to entries before the replay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'a> {
    pub asked: Asked<'a>,
    pub rewrite: Rewrite<'a>,
    /// Entries newer than this are not replayed.
    pub end: Timestamp,
}

/// Reads all `objects` to their ends, a few at a time. Returns the names that their entries create, rename or drop.
///
/// # Errors
/// The first unsound object, in the order of `objects`.
pub(super) async fn check(
    storage: &Arc<dyn Storage>,
    objects: &[OplogObject],
    reading: Reading<'_>,
) -> Result<Followed, Unsound> {
    let mut followed = Followed::default();
    let unsound = |at: usize, why: String| {
        let name = &objects[at].name;
        Unsound { at, why: format!("oplog object '{name}' cannot be used: {why}") }
    };
    let mut read = stream::iter(0..objects.len())
        .map(|at| async move { whole(storage.as_ref(), objects, at, reading).await })
        .buffered(AT_ONCE);
    let (mut at, mut before): (usize, Option<Seen>) = (0, None);
    while let Some(result) = read.next().await {
        let mut seen = result.map_err(|error| unsound(at, format!("{error:#}")))?;
        if let Some(before) = &before {
            seen.begins_in_time(before, &objects[at - 1]).map_err(|why| unsound(at, why))?;
            before.ends_in_time(&seen, &objects[at]).map_err(|why| unsound(at - 1, why))?;
        }
        followed.add(std::mem::take(&mut seen.followed));
        (at, before) = (at + 1, Some(seen));
    }
    Ok(followed)
}

/// What one object contains.
#[derive(Debug)]
struct Seen {
    first: Timestamp,
    last: Timestamp,
    /// The last entry of this object within the range of the previous object.
    shared_with_before: Option<Timestamp>,
    /// The first entry of this object within the range of the next object.
    shared_with_after: Option<Timestamp>,
    followed: Followed,
}

impl Seen {
    /// Checks that this object begins no later than the first entry that the previous object (`before`) has in this object's
    /// range.
    fn begins_in_time(&self, before: &Self, of: &OplogObject) -> Result<(), String> {
        match before.shared_with_after {
            Some(shared) if self.first > shared => Err(format!(
                "it begins at {} and lacks the entry at {}, which '{}' has",
                moment(self.first),
                moment(shared),
                of.name
            )),
            _ => Ok(()),
        }
    }

    fn ends_in_time(&self, after: &Self, of: &OplogObject) -> Result<(), String> {
        match after.shared_with_before {
            Some(shared) if self.last < shared => Err(format!(
                "it ends at {} and lacks the entry at {}, which '{}' has",
                moment(self.last),
                moment(shared),
                of.name
            )),
            _ => Ok(()),
        }
    }
}

/// Reads one object. Checks that its entries are readable and in order, and that they match its name and the backup's
/// metadata.
async fn whole(storage: &dyn Storage, objects: &[OplogObject], at: usize, reading: Reading<'_>) -> Result<Seen> {
    let object = &objects[at];
    let before = at.checked_sub(1).map(|before| objects[before].to);
    let after = objects.get(at + 1).map(|after| after.from);
    let mut followed = Followed::default();
    let (mut first, mut last): (Option<Timestamp>, Option<Timestamp>) = (None, None);
    let (mut shared_with_before, mut shared_with_after) = (None, None);
    let (mut size, mut crc) = (0_u64, Crc64::new());
    if let Some(stored) = object.stored {
        let there = storage.stat(&object.name).await?.size;
        if there != stored {
            bail!("it has {there} bytes on the storage in place of the {stored} that were written");
        }
    }
    let mut entries = std::pin::pin!(read::entries(storage, &object.name, object.compression).await?);
    while let Some(raw) = entries.next().await {
        let raw = raw.with_context(|| match last {
            Some(last) => format!("read it after the entry at {}", moment(last)),
            None => "read its first entry".to_owned(),
        })?;
        size += raw.as_bytes().len() as u64;
        if object.content.is_some() {
            crc.update(raw.as_bytes());
        }
        // Entries after the end are not replayed, so this program need not understand them.
        let ts = Entry::time(&raw)?;
        if ts <= reading.end {
            let rewritten = reading.rewrite.entry(&raw)?;
            let raw = rewritten.as_deref().unwrap_or(&raw);
            let shortened = leave_out(raw, &|ns| reading.asked.selection.wants_namespace(ns))?;
            let entry = Entry::parse(shortened.as_ref().map_or(raw, |shortened| &shortened.entry), None)?;
            followed.see(&entry, reading.asked)?;
        }
        if object.compression == Compression::None {
            // An uncompressed object has no checksum, but this check at least finds an entry that is not valid BSON.
            crate::raw::check(&raw).with_context(|| format!("read the entry at {}", moment(ts)))?;
        }
        if let Some(last) = last.filter(|last| ts < *last) {
            bail!("the entry at {} comes after the one at {}", moment(ts), moment(last));
        }
        if object.ends != Ends::Unnamed && (ts < object.from || ts > object.to) {
            bail!(
                "it holds an entry at {}, and its name promises {} to {}: it is another object",
                moment(ts),
                moment(object.from),
                moment(object.to)
            );
        }
        if before.is_some_and(|before| ts <= before) {
            shared_with_before = Some(ts);
        }
        if shared_with_after.is_none() && after.is_some_and(|after| ts >= after) && ts <= object.to {
            shared_with_after = Some(ts);
        }
        first.get_or_insert(ts);
        last = Some(ts);
    }
    let (Some(first), Some(last)) = (first, last) else { bail!("it is empty") };
    // No later object shows whether the last one is complete, so the last one must reach the end of its range.
    let latest_begin = if object.ends == Ends::Entries { Some(object.from) } else { object.holds };
    let earliest_end = match object.ends {
        Ends::Entries => Some(object.to),
        Ends::Range if after.is_none() => Some(object.to),
        Ends::Range | Ends::Unnamed => object.holds,
    };
    if let Some(begin) = latest_begin.filter(|begin| first > *begin) {
        bail!("it begins at {} in place of {}", moment(first), moment(begin));
    }
    if let Some(end) = earliest_end.filter(|end| last < *end) {
        bail!("it ends at {} in place of {}", moment(last), moment(end));
    }
    if let Some((expected, checksum)) = object.content {
        if size != expected {
            bail!("it has {size} bytes of entries where the backup's metadata say {expected}");
        }
        if crc.value() != checksum {
            bail!("its checksum is not that of the backup's metadata");
        }
    }
    Ok(Seen { first, last, shared_with_before, shared_with_after, followed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compress,
        model::selection::Selection,
        mongo::capabilities::Capabilities,
        replay::{feasible::Onto, followed_names::Present},
        storage::{body, memory::Memory, write_all},
    };
    use bson::rawdoc;

    fn ts(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    fn entries(times: &[u32]) -> Vec<u8> {
        let entry =
            |time: &u32| rawdoc! { "ts": ts(*time), "op": "n", "ns": "", "o": { "msg": "some text" } }.into_bytes();
        times.iter().flat_map(entry).collect()
    }

    async fn verdict(content: Option<Vec<u8>>, compression: Compression) -> String {
        let store: Arc<dyn Storage> = Arc::new(Memory::new());
        let name = "pbmPitr/rs0/x".to_owned();
        if let Some(content) = content {
            write_all(store.as_ref(), &name, content).await.expect("memory takes everything");
        }
        let good = OplogObject::new("good".into(), Compression::None, (ts(1), ts(9)), Ends::Entries);
        write_all(store.as_ref(), "good", entries(&[1, 9])).await.expect("memory takes everything");
        let object = OplogObject::new(name, compression, (ts(10), ts(20)), Ends::Entries);
        verdict_of(&store, &[good, object], ts(20)).await
    }

    async fn verdict_of(store: &Arc<dyn Storage>, objects: &[OplogObject], end: Timestamp) -> String {
        let (selection, present) = (Selection::default(), Present::default());
        let onto = Onto { able: Capabilities::release(6, 0), sharded: false };
        let asked = Asked { selection: &selection, present: &present, onto };
        match check(store, objects, Reading { asked, rewrite: Rewrite::default(), end }).await {
            Ok(_) => "whole".to_owned(),
            Err(unsound) => format!("{} {}", unsound.at, unsound.why),
        }
    }

    #[tokio::test]
    async fn damage_of_every_kind_is_seen() {
        let good = entries(&[10, 15, 20]);
        let mut structure = good.clone();
        // This is the type byte of the last element in the inner document of the first entry.
        let at = structure.windows(4).position(|w| w == b"\x02msg").expect("the field");
        structure[at] = 0x7e;
        for (content, expected) in [
            (Some(good.clone()), "whole"),
            (None, "does not exist"),
            (Some(Vec::new()), "1 oplog object 'pbmPitr/rs0/x' cannot be used: it is empty"),
            (Some(good[..good.len() - 3].to_vec()), "ends within an entry"),
            (Some(entries(&[10, 15])), "ends at 1970-01-01T00:00:15Z (15,1) in place of"),
            (Some(entries(&[11, 20])), "begins at 1970-01-01T00:00:11Z (11,1) in place of"),
            (Some(entries(&[10, 16, 15, 20])), "(15,1) comes after the one at"),
            (Some(entries(&[9, 10, 20])), "it holds an entry at 1970-01-01T00:00:09Z (9,1), and its name promises"),
            (Some(entries(&[10, 20, 21])), "it holds an entry at 1970-01-01T00:00:21Z (21,1), and its name promises"),
            (Some(structure), "read its first entry: the object is damaged at its uncompressed byte 0"),
        ] {
            let said = verdict(content, Compression::None).await;
            assert!(said.contains(expected), "{expected}: {said}");
        }
        for codec in [Compression::Gzip, Compression::Zstd, Compression::S2, Compression::Snappy, Compression::Lz4] {
            let packed = compress::encode(body(good.clone()), codec, None).expect("an encoder");
            let mut packed: Vec<u8> =
                futures::TryStreamExt::try_concat(packed.map(|p| p.map(|p| p.to_vec()))).await.expect("packed");
            assert_eq!(verdict(Some(packed.clone()), codec).await, "whole", "{codec:?}");
            let half = packed[..packed.len() / 2].to_vec();
            assert!(verdict(Some(half), codec).await.starts_with("1 "), "{codec:?}");
            let middle = packed.len() / 2;
            packed[middle] ^= 0x10;
            assert!(verdict(Some(packed), codec).await.starts_with("1 "), "{codec:?}: a flipped bit");
        }
    }

    /// The range of an object, the meaning of its ends, the time of an entry that it must hold, and the times of its entries.
    type Piece<'a> = (u32, u32, Ends, Option<u32>, &'a [u32]);

    /// Returns which object is unsound, and why.
    async fn judged(objects: &[Piece<'_>]) -> String {
        let store: Arc<dyn Storage> = Arc::new(Memory::new());
        let mut all = Vec::new();
        for (from, to, ends, holds, times) in objects {
            let name = format!("{from}-{to}");
            write_all(store.as_ref(), &name, entries(times)).await.expect("memory takes everything");
            let object = OplogObject::new(name, Compression::None, (ts(*from), ts(*to)), *ends);
            all.push(OplogObject { holds: holds.map(ts), ..object });
        }
        verdict_of(&store, &all, ts(99)).await
    }

    /// A chunk of the original may begin with an entry inside its range: its range begins at the cluster's last write,
    /// where other replica sets have no entry.
    #[tokio::test]
    async fn a_chunk_begins_within_its_range() {
        use Ends::{Entries, Range, Unnamed};
        type Case<'a> = (&'a [Piece<'a>], &'a str);
        let cases: &[Case<'_>] = &[
            (&[(10, 20, Range, None, &[12, 20])], "whole"),
            (&[(10, 20, Range, None, &[12, 20]), (20, 30, Range, None, &[20, 25, 30])], "whole"),
            // The previous object is a backup's own slice that reaches further than the cluster's last write.
            (&[(5, 12, Entries, None, &[5, 7, 12]), (10, 20, Range, None, &[12, 20])], "whole"),
            (
                &[(5, 12, Entries, None, &[5, 11, 12]), (10, 20, Range, None, &[12, 20])],
                "1 oplog object '10-20' cannot be used: it begins at 1970-01-01T00:00:12Z (12,1) and lacks the entry at 1970-01-01T00:00:11Z (11,1), which '5-12' has",
            ),
            (&[(5, 12, Entries, None, &[5, 12]), (10, 20, Range, None, &[15, 20])], "1 oplog object '10-20'"),
            // If the replica set is idle, only the backup's metadata contains the time of an entry.
            (&[(10, 20, Range, Some(14), &[14, 20])], "whole"),
            (
                &[(10, 20, Range, Some(14), &[15, 20])],
                "begins at 1970-01-01T00:00:15Z (15,1) in place of 1970-01-01T00:00:14Z (14,1)",
            ),
            // Neighbouring objects share the entry at their border.
            (
                &[(10, 20, Range, None, &[12, 20]), (20, 30, Range, None, &[22, 30])],
                "1 oplog object '20-30' cannot be used: it begins",
            ),
            (
                &[(10, 20, Range, None, &[12, 18]), (20, 30, Range, None, &[20, 30])],
                "0 oplog object '10-20' cannot be used: it ends at 1970-01-01T00:00:18Z (18,1) and lacks the entry at 1970-01-01T00:00:20Z (20,1), which '20-30' has",
            ),
            (&[(10, 20, Range, None, &[12, 18]), (20, 30, Range, None, &[22, 30])], "whole"),
            // No object follows, so the range must end with an entry.
            (&[(10, 20, Range, None, &[12, 19])], "ends at 1970-01-01T00:00:19Z (19,1) in place of"),
            // The only oplog object of an old backup contains more than its range, and has no entry at the ends of the
            // range.
            (&[(10, 20, Unnamed, Some(15), &[5, 15, 25])], "whole"),
            (&[(10, 20, Unnamed, Some(15), &[12, 16])], "whole"),
            (
                &[(10, 20, Unnamed, Some(15), &[12, 14])],
                "ends at 1970-01-01T00:00:14Z (14,1) in place of 1970-01-01T00:00:15Z (15,1)",
            ),
        ];
        for (number, (objects, expected)) in cases.iter().enumerate() {
            let said = judged(objects).await;
            assert!(said.contains(expected) && (*expected != "whole" || said == "whole"), "case {number}: {said}");
        }
    }

    #[tokio::test]
    async fn what_was_noted_of_an_object_is_compared() {
        let store: Arc<dyn Storage> = Arc::new(Memory::new());
        let (good, other) = (entries(&[10, 15, 20]), entries(&[10, 16, 20]));
        let mut crc = Crc64::new();
        crc.update(&good);
        let noted = OplogObject {
            content: Some((good.len() as u64, crc.value())),
            stored: Some(good.len() as u64),
            ..OplogObject::new("x".into(), Compression::None, (ts(10), ts(20)), Ends::Entries)
        };
        for (content, expected) in [
            (good, None),
            (other, Some("its checksum is not")),
            (entries(&[10, 20]), Some("bytes on the storage in place of")),
        ] {
            write_all(store.as_ref(), "x", content).await.expect("memory takes everything");
            let said = verdict_of(&store, std::slice::from_ref(&noted), ts(20)).await;
            assert!(said.contains(expected.unwrap_or("whole")), "{said}");
        }
    }
}
