//! Every object of one of our backups against docs/format.md, A and B, read here by other means than the product's:
//! names, framing, checksums, JSON text, types and order of keys.

use crate::compat::fixtures;
use crate::support::cluster::Options;
use crate::support::programs::Sandbox;
use mongodb::Client;
use mongodb::bson::spec::ElementType;
use mongodb::bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, doc};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;

/// Suffix, and how each stream begins.
const CODECS: [(&str, &str, &[u8]); 7] = [
    ("none", "", b""),
    ("gzip", ".gz", b"\x1f\x8b\x08"),
    ("pgzip", ".gz", b"\x1f\x8b\x08"),
    ("snappy", ".snappy", b"\xff\x06\x00\x00sNaPpY"),
    ("lz4", ".lz4", b"\x04\x22\x4d\x18"),
    ("s2", ".s2", b"\xff\x06\x00\x00S2sTwO"),
    ("zstd", ".zst", b"\x28\xb5\x2f\xfd"),
];

async fn fill(client: &Client) {
    let shop = client.database("shop");
    let run = async |command: Document| {
        shop.run_command(command.clone()).await.unwrap_or_else(|e| panic!("{command}: {e}"));
    };
    for coll in ["orders", "a.b.c", "sl/ash", "Größe-日本語 <&>"] {
        let documents =
            (0..3000).map(|n| doc! { "_id": n, "coll": coll, "text": format!("{n} ").repeat(n as usize % 90) });
        shop.collection::<Document>(coll).insert_many(documents).await.expect("insert");
    }
    run(doc! { "create": "cap", "capped": true, "size": 8192, "collation": { "locale": "de" } }).await;
    run(doc! { "create": "view", "viewOn": "orders", "pipeline": [{ "$match": { "n": { "$lt": "<&>\u{2028}" } } }] })
        .await;
    run(doc! { "create": "series", "timeseries": { "timeField": "t", "metaField": "m" } }).await;
    run(doc! { "insert": "series", "documents": [{ "t": mongodb::bson::DateTime::now(), "m": 1 }] }).await;
    run(doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } }).await;
    run(doc! { "createIndexes": "orders", "indexes": [
        { "key": { "text": 1 }, "name": "hid", "hidden": true, "partialFilterExpression": { "n": { "$gt": 1.5 } } },
        { "key": { "$**": "text" }, "name": "words" },
    ] })
    .await;
}

/// All files below, relative, without folders.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("read a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(root).expect("below").to_str().expect("UTF-8").to_owned());
            }
        }
    }
    found
}

fn decode(codec: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match codec {
        "none" => out.extend_from_slice(bytes),
        "gzip" | "pgzip" => drop(flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).expect("gzip")),
        "snappy" => drop(snap::read::FrameDecoder::new(bytes).read_to_end(&mut out).expect("snappy")),
        "lz4" => drop(lz4_flex::frame::FrameDecoder::new(bytes).read_to_end(&mut out).expect("lz4")),
        "zstd" => drop(zstd::stream::read::Decoder::new(bytes).expect("zstd").read_to_end(&mut out).expect("zstd")),
        "s2" => {
            let mut rest = &bytes[10..];
            while !rest.is_empty() {
                let length = usize::from(rest[1]) | usize::from(rest[2]) << 8 | usize::from(rest[3]) << 16;
                let (body, kind) = (&rest[8..4 + length], rest[0]);
                let block = if kind == 0 { minlz::decode(body).expect("a block") } else { body.to_vec() };
                assert!(kind <= 1 && block.len() <= 1 << 20, "kind {kind}, {} bytes", block.len());
                let crc = crc32c::crc32c(&block).rotate_right(15).wrapping_add(0xa282_ead8);
                assert_eq!(rest[4..8], crc.to_le_bytes(), "the block's checksum");
                out.extend_from_slice(&block);
                rest = &rest[4 + length..];
            }
        }
        _ => unreachable!("the list of codecs"),
    }
    out
}

/// A.3.2, bit by bit.
fn crc64(bytes: &[u8]) -> i64 {
    let mut crc = u64::MAX;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xC96C_5795_D787_0F42 } else { crc >> 1 };
        }
    }
    (!crc).cast_signed()
}

fn documents(mut bytes: &[u8]) -> Vec<RawDocumentBuf> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = i32::from_le_bytes(bytes[..4].try_into().expect("a length")) as usize;
        found.push(RawDocumentBuf::from_bytes(bytes[..length].to_vec()).expect("a document"));
        bytes = &bytes[length..];
    }
    found
}

/// Every key must be one of the sample's, of its type and in its order; all of the sample's must be there but `optional`.
fn same_shape(path: &str, ours: &Value, sample: &Value, optional: &[&str]) {
    match (ours, sample) {
        (Value::Object(ours), Value::Object(sample)) => {
            let order: Vec<&String> = ours.keys().filter(|key| sample.contains_key(*key)).collect();
            let wanted: Vec<&String> = sample.keys().filter(|key| ours.contains_key(*key)).collect();
            assert_eq!(order, wanted, "{path}: the order of the keys");
            let all: Vec<&String> = ours.keys().collect();
            assert_eq!(all, order, "{path}: keys that the original does not write");
            for key in sample.keys().filter(|key| !optional.contains(&key.as_str())) {
                assert!(ours.contains_key(key), "{path}/{key} is missing");
            }
            for (key, value) in ours {
                same_shape(&format!("{path}/{key}"), value, &sample[key], optional);
            }
        }
        (Value::Array(ours), Value::Array(sample)) => {
            for each in ours {
                same_shape(path, each, &sample[0], optional);
            }
        }
        (Value::String(_), Value::String(_)) | (Value::Bool(_), Value::Bool(_)) => {}
        (Value::Number(a), Value::Number(b)) if a.is_i64() == b.is_i64() => {}
        _ => panic!("{path}: {ours} in place of {sample}"),
    }
}

/// Indentation by tabs or blanks as the standard writer makes it, with the escapes of A.2, and nothing behind it.
fn is_written_as_go_does(text: &str, indent: &[u8]) {
    let value: Value = serde_json::from_str(text).expect("JSON");
    let mut wanted = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent);
    serde::Serialize::serialize(&value, &mut serde_json::Serializer::with_formatter(&mut wanted, formatter))
        .expect("JSON");
    let mut wanted = String::from_utf8(wanted).expect("UTF-8");
    for (plain, escaped) in
        [("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u{2028}", "\\u2028"), ("\u{2029}", "\\u2029")]
    {
        wanted = wanted.replace(plain, escaped);
    }
    assert_eq!(text, wanted);
}

fn timestamp(value: &Value) -> Timestamp {
    let part = |key: &str| u32::try_from(value[key].as_u64().expect(key)).expect(key);
    Timestamp { time: part("T"), increment: part("I") }
}

/// `20261121022152-4.20261121022156-130`
fn slice_bounds(name: &str) -> (Timestamp, Timestamp) {
    let bound = |text: &str| {
        let (time, increment) = text.split_once('-').expect("time-increment");
        assert_eq!(time.len(), 14, "{name}");
        let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", time).expect("a time");
        let time = time.to_zoned(jiff::tz::TimeZone::UTC).expect("UTC").timestamp().as_second();
        Timestamp { time: u32::try_from(time).expect("a time"), increment: increment.parse().expect("a number") }
    };
    let (from, to) = name.split_once('.').expect("from.to");
    (bound(from), bound(to))
}

/// A.3.3; gives the specifications.
fn check_meta_pbm(bytes: &[u8]) -> Vec<Document> {
    let meta = RawDocument::from_bytes(bytes).expect("one document");
    let keys: Vec<(String, ElementType)> = meta
        .iter()
        .map(|each| each.map(|(key, value)| (key.to_string(), value.element_type())).expect("a field"))
        .collect();
    let wanted =
        [("version", ElementType::String), ("serverVersion", ElementType::String), ("fcv", ElementType::String)];
    let wanted = wanted.into_iter().chain([("specifications", ElementType::Array)]);
    assert_eq!(keys, wanted.map(|(key, kind)| (key.to_owned(), kind)).collect::<Vec<_>>());
    let meta = Document::try_from(meta).expect("a document");
    assert_eq!(meta.get_str("version").unwrap(), "2.15.0");
    let order = ["db", "name", "type", "uuid", "options", "indexes", "crc", "size"];
    let specifications: Vec<Document> =
        meta.get_array("specifications").unwrap().iter().map(|each| each.as_document().unwrap().clone()).collect();
    for each in &specifications {
        let keys: Vec<&str> = each.keys().map(String::as_str).collect();
        let wanted: Vec<&str> = order.into_iter().filter(|key| each.contains_key(key)).collect();
        assert_eq!(keys, wanted, "{each}");
        for key in ["db", "name", "type"] {
            assert!(each.get_str(key).is_ok(), "{key} of {each}");
        }
        assert!(each.get_i64("crc").is_ok() && each.get_i64("size").is_ok(), "{each}");
        assert!(each.get_str("uuid").is_ok_and(is_uuid) || !each.contains_key("uuid"), "{each}");
        assert!(each.get_document("options").is_ok_and(|o| !o.is_empty()) || !each.contains_key("options"), "{each}");
        assert!(each.get_array("indexes").is_ok() || each.get("indexes") == Some(&mongodb::bson::Bson::Null), "{each}");
    }
    let names: Vec<String> = specifications
        .iter()
        .map(|each| {
            let name = each.get_str("name").unwrap();
            format!("{}.{}", each.get_str("db").unwrap(), name.strip_prefix("system.buckets.").unwrap_or(name))
        })
        .collect();
    assert!(names.is_sorted(), "{names:?}");
    specifications
}

fn is_uuid(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A.3.4; gives database, collection, checksum and size of every entry.
fn check_metadata_json(text: &str, sample: &str) -> Vec<(String, String, i64, i64)> {
    is_written_as_go_does(text, b"  ");
    let (mut meta, sample): (Value, Value) =
        (serde_json::from_str(text).expect("JSON"), serde_json::from_str(sample).expect("JSON"));
    // We add this field after the fields that the original reads.
    assert_eq!(meta.as_object().and_then(|meta| meta.keys().next_back()).map(String::as_str), Some("written"));
    let written = meta.as_object_mut().and_then(|meta| meta.remove("written")).expect("the objects with their sizes");
    let names = written.as_array().expect("a list").iter().filter_map(|object| object["name"].as_str());
    assert!(names.clone().any(|name| name == "meta.pbm") && names.clone().any(|name| name.starts_with("oplog/")));
    same_shape("metadata.json", &meta, &sample, &[]);
    assert_eq!((&meta["version"], &meta["tool_version"]), (&"0.1".into(), &"2.15.0".into()));
    let mut found = Vec::new();
    for each in meta["namespaces"].as_array().expect("namespaces") {
        let inner: Value = serde_json::from_str(each["metadata"].as_str().expect("text")).expect("JSON in it");
        let inner = inner.as_object().expect("an object");
        let order = ["options", "indexes", "uuid", "collectionName", "type"];
        let wanted: Vec<&str> = order.into_iter().filter(|key| inner.contains_key(*key)).collect();
        assert_eq!(inner.keys().map(String::as_str).collect::<Vec<_>>(), wanted, "{each}");
        for key in ["indexes", "collectionName", "type"] {
            assert!(inner.contains_key(key), "{key} of {each}");
        }
        assert_eq!((&inner["collectionName"], &inner["type"]), (&each["collection"], &each["type"]));
        assert!(inner.get("uuid").is_none_or(|uuid| is_uuid(uuid.as_str().unwrap_or(""))), "{each}");
        let number = |key: &str| each[key]["$numberLong"].as_str().expect(key).parse::<i64>().expect(key);
        let text = |key: &str| each[key].as_str().expect(key).to_owned();
        found.push((text("db"), text("collection"), number("crc"), number("size")));
    }
    assert!(found.iter().map(|(db, coll, ..)| (db, coll)).is_sorted());
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_object_is_what_the_format_says() {
    let sandbox = Sandbox::start(Options { auth: true, ..Options::default() }).await;
    let client = sandbox.set.client().await;
    fill(&client).await;
    let samples = fixtures().join("rs/store");
    let sample = |name: &str| fs::read_to_string(samples.join(name)).expect("a sample made by the original");
    let mut names = BTreeSet::new();
    for (codec, suffix, magic) in CODECS {
        let name = sandbox.backup(&["--compression", codec]);
        names.insert(name.clone());
        let root = sandbox.store();
        let folder = root.join(&name).join("rs0");
        let read = |path: &Path| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));

        let text = String::from_utf8(read(&root.join(format!("{name}.pbm.json")))).expect("UTF-8");
        is_written_as_go_does(&text, b"\t");
        let meta: Value = serde_json::from_str(&text).expect("JSON");
        let original: Value = serde_json::from_str(&sample("2026-11-21T02:21:51Z.pbm.json")).expect("JSON");
        same_shape("", &meta, &original, &[]);
        assert_eq!((&meta["status"], &meta["compression"]), (&"done".into(), &codec.into()));
        let rs = &meta["replsets"][0];
        assert_eq!(rs["backup_name"], format!("{name}/rs0/metadata.json"));
        assert_eq!(rs["oplog_name"], format!("{name}/rs0/oplog"));

        let specifications = check_meta_pbm(&read(&folder.join("meta.pbm")));
        let text = String::from_utf8(read(&folder.join("metadata.json"))).expect("UTF-8");
        let listed = check_metadata_json(&text, &sample("2026-11-21T02:21:51Z/rs0/metadata.json"));
        let mut wanted: BTreeSet<String> = ["metadata.json", "meta.pbm"].map(str::to_owned).into();
        for (db, coll, crc, size) in &listed {
            let of = |name: &str| {
                specifications
                    .iter()
                    .find(|s| s.get_str("db").is_ok_and(|d| d == db) && s.get_str("name").is_ok_and(|n| n == name))
            };
            let buckets = format!("system.buckets.{coll}");
            let specification = of(&buckets).or_else(|| of(coll)).unwrap_or_else(|| panic!("{db}.{coll} is in both"));
            let number = |key: &str| specification.get_i64(key).expect(key);
            assert_eq!((number("crc"), number("size")), (*crc, *size), "{coll}");
            if *size == 0 {
                assert_eq!(*crc, 0, "{db}.{coll}");
                continue;
            }
            let object = format!("{db}.{coll}{suffix}");
            let stored = read(&folder.join(&object));
            assert!(stored.starts_with(magic), "{object}");
            let content = decode(codec, &stored);
            assert_eq!((content.len() as i64, crc64(&content)), (*size, *crc), "{object}");
            if db == "shop" {
                let coll = if coll == "series" { &buckets } else { coll };
                let mut cursor =
                    client.database(db).collection::<RawDocumentBuf>(coll).find(doc! {}).await.expect("read");
                for document in documents(&content) {
                    assert!(cursor.advance().await.expect("read"), "{object} holds too much");
                    assert_eq!(cursor.current(), document.as_ref() as &RawDocument, "{object}");
                }
                assert!(!cursor.advance().await.expect("read"), "{object} lacks documents");
            }
            wanted.insert(object);
        }
        for coll in ["orders", "a.b.c", "sl/ash", "Größe-日本語 <&>", "series"] {
            assert!(wanted.contains(&format!("shop.{coll}{suffix}")), "{coll}");
        }
        for coll in ["pbmRUsers", "system.users", "system.version"] {
            assert!(wanted.contains(&format!("admin.{coll}{suffix}")), "{coll}");
        }

        let mut slices: Vec<String> = files(&folder.join("oplog")).into_iter().collect();
        slices.sort();
        let mut at = timestamp(&rs["first_write_ts"]);
        assert!(!slices.is_empty());
        for slice in slices {
            let bounds = slice.strip_suffix(suffix).unwrap_or_else(|| panic!("the suffix of {slice}"));
            let (from, to) = slice_bounds(bounds);
            assert_eq!(from, at, "slices follow each other");
            let stored = read(&folder.join("oplog").join(&slice));
            assert!(stored.starts_with(magic), "{slice}");
            let entries = documents(&decode(codec, &stored));
            let times: Vec<Timestamp> = entries
                .iter()
                .map(|entry| match entry.get("ts") {
                    Ok(Some(RawBsonRef::Timestamp(ts))) => ts,
                    other => panic!("ts of an entry: {other:?}"),
                })
                .collect();
            assert!(times.is_sorted() && times.first() == Some(&from) && times.last() == Some(&to), "{slice}");
            assert!(entries.iter().all(|entry| entry.get_str("op").is_ok() && entry.get_str("ns").is_ok()));
            at = to;
            wanted.insert(format!("oplog/{slice}"));
        }
        assert_eq!(at, timestamp(&rs["last_write_ts"]));
        assert_eq!(files(&folder), wanted, "{codec}");
    }
    assert_eq!(fs::read(sandbox.store().join(".pbm.init")).expect("read"), b"2.15.0");
    let mut top: BTreeSet<String> = names.iter().map(|name| format!("{name}.pbm.json")).collect();
    // The last folder, in which the original ignores every name that is not a chunk's, holds the marks of the clusters that
    // make backups here.
    top.extend([".pbm.init".to_owned(), "pbmPitr".to_owned()]);
    top.extend(names);
    let found = fs::read_dir(sandbox.store()).expect("read").map(|e| e.expect("an entry").file_name());
    assert_eq!(found.map(|name| name.into_string().expect("UTF-8")).collect::<BTreeSet<_>>(), top);
}
