//! Names of objects.

use super::wait;
use crate::{
    layout::{
        ChunkName, Generation, Origin, ReplsetLayout, SliceName, backup_start, escaped_name, format_ts,
        is_escaped_name, origin, parse_ts, pitr_chunk, unfit_name,
    },
    model::compression::Compression,
    storage::{memory::Memory, read_all, write_all},
};
use bson::Timestamp;

/// The input has a name in each line.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for name in text.split('\n') {
        name_holds(name);
    }
    if let Some(numbers) = input.first_chunk::<8>() {
        let number = u64::from_le_bytes(*numbers);
        #[expect(clippy::cast_possible_truncation, reason = "any two numbers will do")]
        let ts = Timestamp { time: (number >> 32) as u32, increment: number as u32 };
        assert_eq!(parse_ts(&format_ts(ts)), Some(ts));
    }
}

fn name_holds(name: &str) {
    if let Some(ts) = parse_ts(name) {
        is_our_form(name, ts);
    }
    if let Some(slice) = SliceName::parse(name) {
        slice_holds(name, &slice);
    }
    if let Some(chunk) = ChunkName::parse(name) {
        chunk_holds(name, &chunk);
    }
    if let Some(start) = backup_start(name) {
        assert!(name.len() >= 20 && name.ends_with('Z') && start.abs() < 1 << 38, "{name}");
    }
    if origin(name) == Origin::Newer {
        assert_eq!(Generation::of(name), Generation::Current, "{name}");
    }
    collection_holds(name);
}

/// A time has only one written form, except that the increment 0 may be missing.
fn is_our_form(text: &str, ts: Timestamp) {
    let ours = format_ts(ts);
    assert!(text == ours || ts.increment == 0 && ours.strip_suffix("-0") == Some(text), "'{text}' is taken for {ours}");
}

fn slice_holds(name: &str, slice: &SliceName) {
    let at = ReplsetLayout::new("b", "rs0", slice.compression());
    let object = at.oplog_slice(slice.from, slice.to);
    let ours = at.below(&object).strip_prefix("oplog/").expect("below the folder of slices");
    let again = SliceName::parse(ours).unwrap_or_else(|| panic!("'{ours}', of '{name}'"));
    assert_eq!((again.from, again.to, again.compression()), (slice.from, slice.to, slice.compression()));
    let mut parts = name.split('.');
    is_our_form(parts.next().unwrap_or_default(), slice.from);
    is_our_form(parts.next().unwrap_or_default(), slice.to);
}

fn chunk_holds(name: &str, chunk: &ChunkName) {
    assert!(chunk.from <= chunk.to && !chunk.rs.is_empty() && !chunk.rs.contains('/'), "{name}");
    let ours = pitr_chunk(&chunk.rs, chunk.from, chunk.to, chunk.compression);
    assert_eq!(ChunkName::parse(&ours).as_ref(), Some(chunk), "{name}");
    let mut parts = name.rsplit('/').next().unwrap_or_default().split('.');
    is_our_form(parts.next().unwrap_or_default(), chunk.from);
    is_our_form(parts.next().unwrap_or_default(), chunk.to);
}

/// Every collection has an object, under its own name or under an escaped one, and a storage accepts that name.
fn collection_holds(name: &str) {
    let (db, coll) = name.split_once('.').unwrap_or(("db", name));
    let at = ReplsetLayout::new("2026-11-21T00:44:27Z", "rs0", Compression::S2);
    let usual = at.collection(db, coll);
    let escaped = escaped_name(name.len(), db, coll);
    assert!(is_escaped_name(&escaped), "{escaped}");
    assert_eq!(unfit_name(&at.escaped(&escaped)), None, "{escaped}");
    let object = if unfit_name(&usual).is_none() { usual } else { at.escaped(&escaped) };
    assert_eq!(at.object(at.below(&object)), object);
    let store = Memory::new();
    wait(write_all(&store, &object, name.to_owned())).expect("a name that fits");
    let read = wait(read_all(&store, &object, usize::MAX)).expect("it was written");
    assert_eq!(read, name.as_bytes());
}
