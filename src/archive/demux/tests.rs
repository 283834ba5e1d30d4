use super::*;
use crate::archive::frame;
use bson::{RawDocumentBuf, doc};
use futures::{StreamExt as _, stream};

fn entry(db: &str, coll: &str, kind: &str) -> PreludeEntry {
    PreludeEntry { db: db.into(), coll: coll.into(), metadata: "{}".into(), kind: kind.into() }
}

fn documents(from: i32, to: i32) -> Vec<u8> {
    (from..to).flat_map(|i| doc! { "_id": i, "s": "x".repeat(10) }.to_vec().expect("bytes")).collect()
}

fn crc(bytes: &[u8]) -> i64 {
    let mut crc = Crc64::new();
    crc.update(bytes);
    crc.value()
}

/// Two collections whose blocks are interleaved, an empty one, a time series and a view.
fn sample() -> Vec<u8> {
    let prelude = Prelude {
        concurrent_collections: 2,
        server_version: "6.0.5".into(),
        tool_version: "1.6.0".into(),
        entries: vec![
            entry("a", "x", "collection"),
            entry("a", "y", ""),
            entry("a", "empty", "collection"),
            entry("b", "ts", "timeseries"),
            entry("b", "view", "view"),
        ],
    };
    let mut out = frame::head(&prelude);
    let mut add = |db: &str, coll: &str, from, to| {
        out.extend(frame::block(db, coll, documents(from, to).into()).concat());
    };
    add("a", "x", 0, 5);
    add("a", "y", 0, 3);
    add("a", "x", 5, 9);
    add("b", "system.buckets.ts", 0, 2);
    for (db, coll, to) in [("a", "x", 9), ("a", "empty", 0), ("b", "system.buckets.ts", 2), ("a", "y", 3)] {
        out.extend(frame::end(db, coll, crc(&documents(0, to))));
    }
    out
}

/// Returns the content that was read of each namespace, with `true` if its end was reached, and the error that ended
/// the reading.
async fn read(bytes: &[u8], step: usize) -> (Vec<(String, Vec<u8>, bool)>, Option<String>) {
    let chunks: Vec<_> = bytes.chunks(step).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let mut archive = match Archive::open(stream::iter(chunks).boxed()).await {
        Ok(archive) => archive,
        Err(error) => return (Vec::new(), Some(error.to_string())),
    };
    let mut found: Vec<_> = (0..archive.names().len()).map(|ns| (archive.ns(ns), Vec::new(), false)).collect();
    loop {
        match archive.next().await {
            Ok(Some(Frame::Part { ns, bytes })) => found[ns].1.extend_from_slice(&bytes),
            Ok(Some(Frame::BlockEnd { .. })) => {}
            Ok(Some(Frame::End { ns, size, crc: sum })) => {
                assert_eq!((size, sum), (found[ns].1.len() as u64, crc(&found[ns].1)));
                found[ns].2 = true;
            }
            Ok(None) => return (found, None),
            Err(error) => return (found, Some(error.to_string())),
        }
    }
}

#[tokio::test]
async fn interleaved_namespaces_come_apart_in_any_chunks() {
    let sample = sample();
    for step in [1, 2, 5, 64, 1 << 20] {
        let (found, error) = read(&sample, step).await;
        assert_eq!(error, None);
        let expected = [
            ("a.x", documents(0, 9), true),
            ("a.y", documents(0, 3), true),
            ("a.empty", vec![], true),
            ("b.system.buckets.ts", documents(0, 2), true),
            ("b.view", vec![], false),
        ];
        assert_eq!(found, expected.map(|(ns, bytes, ended)| (ns.to_owned(), bytes, ended)), "{step}");
    }
}

#[tokio::test]
async fn a_cut_anywhere_is_an_error_with_its_place() {
    let sample = sample();
    for cut in 0..sample.len() {
        let (_, error) = read(&sample[..cut], 1 << 20).await;
        let error = error.unwrap_or_else(|| panic!("cut at {cut}: nothing was noticed"));
        assert!(error.contains("damaged at its byte"), "{cut}: {error}");
    }
    // At the border between two blocks, only the list of namespaces shows that data is missing.
    let last = frame::end("a", "y", crc(&documents(0, 3))).len();
    let (_, error) = read(&sample[..sample.len() - last], 1 << 20).await;
    assert!(error.is_some_and(|e| e.contains("it ends before the end of 'a.y'")));
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_the_data_is_an_error() {
    let sample = sample();
    let head = sample.len() - blocks(&sample);
    for at in head..sample.len() {
        for bit in [0x01, 0x80] {
            let mut bytes = sample.clone();
            bytes[at] ^= bit;
            let (found, error) = read(&bytes, 1 << 20).await;
            // If a flag in a header is changed to a value with the same meaning, nothing changes.
            let same = error.is_none() && found == read(&sample, 1 << 20).await.0;
            assert!(error.is_some() || same, "byte {at}, bit {bit:#x}: {found:?}");
        }
    }
    // The head has no checksum. Changed names and lengths are detected, but changed texts of options can't be.
    for at in 0..frame::MAGIC.len() {
        let mut bytes = sample.clone();
        bytes[at] ^= 1;
        let (_, error) = read(&bytes, 1 << 20).await;
        assert!(error.is_some_and(|e| e.contains("does not begin as a mongodump archive")), "byte {at}");
    }
}

#[tokio::test]
async fn a_header_that_is_nested_too_deeply_is_an_error() {
    let mut header = RawDocumentBuf::new();
    for _ in 0..20_000 {
        let mut outer = crate::raw::Writer::new();
        outer.document(b"", &header);
        header = outer.finish();
    }
    let (_, error) = read(&[&frame::MAGIC[..], header.as_bytes()].concat(), 1 << 20).await;
    assert!(error.is_some_and(|e| e.contains("nested more deeply")));
}

#[test]
fn short_names_count_more_than_their_bytes() {
    assert!(!is_too_long(200 << 20, 500_000), "half a million with long descriptions");
    assert!(is_too_long(32 << 20, 1_000_000), "a million without any");
    assert!(is_too_long(513 << 20, 1));
}

/// Returns the bytes of all blocks.
fn blocks(sample: &[u8]) -> usize {
    let at = sample.windows(4).position(|w| w == frame::TERM).expect("the end of the list");
    sample.len() - at - 4
}

#[tokio::test]
async fn wrong_checksums_and_strangers_are_named() {
    let head = frame::head(&Prelude {
        server_version: "6.0.5".into(),
        entries: vec![entry("a", "x", "collection")],
        ..Prelude::default()
    });
    let block = |db: &str, coll: &str| frame::block(db, coll, documents(0, 2).into()).concat();
    let end = |crc: i64| frame::end("a", "x", crc).to_vec();
    let right = crc(&documents(0, 2));
    for (tail, reason) in [
        ([block("a", "x"), end(right + 1)].concat(), format!("in 'a.x': its checksum is {right} in place of")),
        ([block("a", "z"), end(right)].concat(), "in 'a.z': its list of namespaces does not have".to_owned()),
        ([block("a", "x"), end(right), block("a", "x")].concat(), "goes on after its end".to_owned()),
        (
            end(0)[..end(0).len() - 4].iter().copied().chain(block("a", "x")).collect(),
            "documents in the block".to_owned(),
        ),
        (frame::TERM.to_vec(), "a block has no header".to_owned()),
        (doc! { "db": "a", "collection": "x" }.to_vec().expect("bytes"), "no 'EOF'".to_owned()),
    ] {
        let (_, error) = read(&[head.clone(), tail].concat(), 1 << 20).await;
        let error = error.expect("an error");
        assert!(error.contains(&reason), "{error}");
    }
}
