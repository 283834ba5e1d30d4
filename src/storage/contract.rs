//! The suite that every driver and every wrapper passes. It panics at the first broken promise.

use super::{ByteStream, Error, ObjectInfo, SizeHint, Storage, body, read_all, write_all};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use std::{io, ops::Range};

/// More than any piece, buffer or batch of a driver.
const LARGE: usize = 5 << 20;

/// Checks all promises of [`Storage`] on an empty store and leaves it empty.
///
/// # Panics
/// If the store breaks one.
pub async fn check(store: &dyn Storage) {
    check_with(store, Names::ANY).await;
}

/// What the names of a store under test can be.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// Bytes between two slashes: doubles of object stores make files of their own beside an object's.
    pub longest: usize,
    /// Azure takes a backslash for a slash, so it lists another name than the one that was given.
    pub backslashes: bool,
}

impl Names {
    pub const ANY: Self = Self { longest: 255, backslashes: true };
}

/// As [`check`], where not all names can be used.
///
/// # Panics
/// If the store breaks a promise.
pub async fn check_with(store: &dyn Storage, can: Names) {
    assert_eq!(names(store, "").await, [""; 0], "the store must be empty before");
    round_trips(store, can).await;
    overwriting(store).await;
    ranges(store).await;
    missing_objects(store).await;
    listing(store).await;
    refused_names(store).await;
    deleting(store).await;
    copying(store).await;
    failing_body(store).await;
    dropped_put(store).await;
    replaced_under_readers(store).await;
    assert_eq!(names(store, "").await, [""; 0], "something remains");
}

/// Content that shows misplaced pieces.
#[must_use]
pub fn pattern(size: usize, seed: u8) -> Bytes {
    (0..size).map(|at| (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0].wrapping_add(seed)).collect()
}

/// `content` in pieces of `piece` bytes.
#[must_use]
pub fn pieces(content: Bytes, piece: usize) -> ByteStream {
    let count = content.len().div_ceil(piece);
    stream::iter((0..count).map(move |i| Ok(content.slice(i * piece..content.len().min((i + 1) * piece))))).boxed()
}

async fn names(store: &dyn Storage, prefix: &str) -> Vec<String> {
    let mut names: Vec<_> = listed(store, prefix).await.into_iter().map(|object| object.name).collect();
    names.sort();
    names
}

async fn listed(store: &dyn Storage, prefix: &str) -> Vec<ObjectInfo> {
    store.list(prefix).try_collect().await.unwrap_or_else(|error| panic!("list '{prefix}': {error}"))
}

async fn content(store: &dyn Storage, name: &str) -> Bytes {
    read_all(store, name, usize::MAX).await.unwrap_or_else(|error| panic!("get '{name}': {error}"))
}

async fn part(store: &dyn Storage, name: &str, range: Range<u64>) -> Bytes {
    let shown = format!("{range:?}");
    let chunks = store.get(name, Some(range)).await.unwrap_or_else(|error| panic!("get {shown}: {error}"));
    chunks.try_collect::<Vec<_>>().await.unwrap_or_else(|error| panic!("read {shown}: {error}")).concat().into()
}

async fn put(store: &dyn Storage, name: &str, content: impl Into<Bytes> + Send) {
    write_all(store, name, content).await.unwrap_or_else(|error| panic!("put '{name}': {error}"));
}

async fn delete(store: &dyn Storage, name: &str) {
    store.delete(name).await.unwrap_or_else(|error| panic!("delete '{name}': {error}"));
}

async fn round_trips(store: &dyn Storage, can: Names) {
    let long = format!("long/{}", "n".repeat(can.longest));
    let odd = [
        "plain",
        "dots.in.name",
        ".hidden",
        "...",
        "a/b/c/deep",
        "100%/%2F%00",
        "space and <&>\"'`$",
        "Größe-日本語 😀",
        if can.backslashes { "back\\slash" } else { "no-backslash" },
        "2026-11-21T00:46:47Z/rs0/shop.sl/ash.s2",
        &long,
    ];
    for name in odd {
        put(store, name, name.to_owned()).await;
    }
    let mut expected = odd.map(str::to_owned);
    expected.sort();
    assert_eq!(names(store, "").await, expected);
    for name in odd {
        assert_eq!(content(store, name).await, name, "content of '{name}'");
        delete(store, name).await;
    }

    for (size, piece) in
        [(0, 1), (1, 1), (1 << 20, 1 << 20), ((1 << 20) + 1, 1 << 20), (LARGE + 7, 70_001), (LARGE, LARGE)]
    {
        let bytes = pattern(size, 1);
        for hint in [SizeHint(None), SizeHint(Some(size as u64)), SizeHint(Some(3))] {
            let stored = store.put("sized", pieces(bytes.clone(), piece), hint).await.expect("put");
            assert_eq!(stored, size as u64, "bytes reported by put");
            assert_eq!(store.stat("sized").await.expect("stat").size, size as u64);
            assert_eq!(store.stat("sized").await.expect("stat").name, "sized");
            assert!(content(store, "sized").await == bytes, "{size} bytes in pieces of {piece} came back changed");
        }
    }
    let tiny = stream::iter((0..20_000_u32).map(|i| Ok(Bytes::copy_from_slice(&i.to_le_bytes())))).boxed();
    assert_eq!(store.put("sized", tiny, SizeHint(None)).await.expect("put"), 80_000);
    assert_eq!(part(store, "sized", 79_996..80_000).await, 19_999_u32.to_le_bytes().as_slice());
    delete(store, "sized").await;
}

async fn overwriting(store: &dyn Storage) {
    for size in [10, LARGE, 3, 0, 4] {
        put(store, "again", pattern(size, 2)).await;
        assert!(content(store, "again").await == pattern(size, 2), "{size} bytes over another object");
        assert_eq!(listed(store, "").await, [ObjectInfo { name: "again".to_owned(), size: size as u64 }]);
    }
    delete(store, "again").await;
}

async fn ranges(store: &dyn Storage) {
    let whole = pattern(LARGE, 3);
    put(store, "ranged", whole.clone()).await;
    let size = LARGE as u64;
    let half = size / 2;
    for range in [0..1, 0..size, 5..5, 1..half, half..size, size - 1..size, (1 << 20) - 3..(1 << 20) + 3] {
        let want =
            whole.slice(usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small"));
        assert!(part(store, "ranged", range.clone()).await == want, "range {range:?}");
    }
    assert!(part(store, "ranged", half..size + 10).await == whole.slice(LARGE / 2..), "a range is cut at the end");
    assert!(part(store, "ranged", size..size + 1).await.is_empty(), "nothing from the end on");
    assert!(part(store, "ranged", size + 5..u64::MAX).await.is_empty(), "nothing after the end");
    delete(store, "ranged").await;
}

async fn missing_objects(store: &dyn Storage) {
    put(store, "folder/there", "x").await;
    for name in ["missing", "folder", "folder/missing", "folder/there/below", "none/at/all"] {
        assert!(store.stat(name).await.is_err_and(|error| error.is_not_found()), "stat '{name}'");
        assert!(store.get(name, None).await.is_err_and(|error| error.is_not_found()), "get '{name}'");
        assert!(store.get(name, Some(3..4)).await.is_err_and(|error| error.is_not_found()), "get a range of '{name}'");
        assert!(store.copy(name, "target").await.is_err_and(|error| error.is_not_found()), "copy '{name}'");
        delete(store, name).await;
    }
    assert_eq!(names(store, "").await, ["folder/there"]);
    delete(store, "folder/there").await;
}

async fn listing(store: &dyn Storage) {
    let all = ["a", "ab/x", "ac", "d/e/f", "d/e/g/h", "d/ef", "d.e"];
    for name in all {
        put(store, name, name.to_owned()).await;
    }
    let mut sorted = all.map(str::to_owned);
    sorted.sort();
    assert_eq!(names(store, "").await, sorted);
    for (prefix, want) in [
        ("a", &[][..]),
        ("ab", &["ab/x"]),
        ("ab/", &["ab/x"]),
        ("d", &["d/e/f", "d/e/g/h", "d/ef"]),
        ("d/e", &["d/e/f", "d/e/g/h"]),
        ("d/e/f", &[]),
        ("nothing", &[]),
        ("nothing/at/all", &[]),
    ] {
        assert_eq!(names(store, prefix).await, want, "below '{prefix}'");
    }
    assert!(listed(store, "").await.iter().all(|object| object.size == object.name.len() as u64), "sizes");
    for name in all {
        delete(store, name).await;
    }
}

async fn refused_names(store: &dyn Storage) {
    for name in ["", "/", "/abs", "a//b", "a/", ".", "..", "a/..", "../up", "a/./b", "nul\0"] {
        let invalid = |result: Result<(), Error>, call| {
            assert!(matches!(result, Err(Error::Invalid { .. })), "{call} of {name:?} is {result:?}, not refused");
        };
        invalid(store.put(name, body("x"), SizeHint(None)).await.map(drop), "put");
        invalid(store.get(name, None).await.map(drop), "get");
        invalid(store.stat(name).await.map(drop), "stat");
        invalid(store.delete(name).await, "delete");
        invalid(store.copy("a", name).await, "copy");
    }
    for prefix in ["..", "/", "a//b"] {
        let found: Result<Vec<_>, _> = store.list(prefix).try_collect().await;
        assert!(prefix == "/" || matches!(found, Err(Error::Invalid { .. })), "list of '{prefix}' is {found:?}");
    }
    assert_eq!(names(store, "").await, [""; 0]);
}

async fn deleting(store: &dyn Storage) {
    let all = ["b/1", "b/c/2", "b/c/d/3", "b.json", "bc/4"];
    for name in all {
        put(store, name, "x").await;
    }
    delete(store, "b/c/d/3").await;
    delete(store, "b/c/d/3").await;
    delete(store, "b").await;
    assert_eq!(names(store, "b").await, ["b/1", "b/c/2"], "deleting a folder's name deletes nothing");
    for prefix in ["", "/"] {
        let refused = store.delete_prefix(prefix).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "delete_prefix('{prefix}') is {refused:?}");
    }
    for _ in 0..2 {
        store.delete_prefix("b").await.expect("delete_prefix");
        assert_eq!(names(store, "").await, ["b.json", "bc/4"]);
    }
    store.delete_prefix("b.json").await.expect("nothing below an object");
    store.delete_prefix("bc/").await.expect("delete_prefix");
    assert_eq!(names(store, "").await, ["b.json"]);
    delete(store, "b.json").await;
}

async fn copying(store: &dyn Storage) {
    for (size, to) in [(LARGE, "to/deep"), (7, "to/deep"), (0, "to/deep"), (9, "from")] {
        put(store, "from", pattern(size, 4)).await;
        store.copy("from", to).await.expect("copy");
        assert!(content(store, to).await == pattern(size, 4), "copy of {size} bytes to {to}");
        assert!(content(store, "from").await == pattern(size, 4), "the source stays");
    }
    assert_eq!(names(store, "").await, ["from", "to/deep"]);
    delete(store, "from").await;
    delete(store, "to/deep").await;
}

fn torn(size: usize) -> ByteStream {
    pieces(pattern(size, 5), 300_000).chain(stream::once(async { Err(io::Error::other("torn on purpose")) })).boxed()
}

async fn failing_body(store: &dyn Storage) {
    put(store, "kept", "old").await;
    for size in [0, 10, LARGE] {
        for name in ["kept", "new/folder/name"] {
            let error = store.put(name, torn(size), SizeHint(Some(size as u64))).await.expect_err("a torn body");
            let Error::Source { reason, .. } = error else { panic!("not Error::Source: {error:?}") };
            assert!(reason.to_string().contains("torn on purpose"), "the reason is lost: {reason}");
        }
        assert_eq!(content(store, "kept").await, "old");
        assert_eq!(names(store, "").await, ["kept"], "a part of a torn body is visible");
    }
    delete(store, "kept").await;
}

async fn dropped_put(store: &dyn Storage) {
    put(store, "kept", "old").await;
    let endless = pieces(pattern(LARGE, 6), 100_000).chain(stream::pending()).boxed();
    let mut write = store.put("kept", endless, SizeHint(None));
    for _ in 0..200 {
        assert!((&mut write).now_or_never().is_none(), "the body has not ended");
        tokio::task::yield_now().await;
    }
    assert_eq!(content(store, "kept").await, "old");
    drop(write);
    assert_eq!(content(store, "kept").await, "old");
    assert_eq!(names(store, "").await, ["kept"]);
    delete(store, "kept").await;
}

/// Readers meet one of the two contents, whole, while the object is written over again and again.
async fn replaced_under_readers(store: &dyn Storage) {
    let both = [pattern(2 << 20, 7), pattern(3 << 20, 8)];
    put(store, "moving", both[0].clone()).await;
    let write = async {
        for round in 0..12 {
            let body = pieces(both[round % 2].clone(), 64 << 10);
            store.put("moving", body, SizeHint(None)).await.expect("put");
        }
    };
    let read = async {
        for _ in 0..12 {
            let seen = content(store, "moving").await;
            assert!(both.contains(&seen), "a reader saw a mixture of {} bytes", seen.len());
            let size = store.stat("moving").await.expect("it is always there").size;
            assert!(both.iter().any(|content| content.len() as u64 == size), "a reader saw {size} bytes");
            tokio::task::yield_now().await;
        }
    };
    futures::join!(write, read);
    delete(store, "moving").await;
}
