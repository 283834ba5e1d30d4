//! Stored ranges of the oplog, and their entries.

use super::{pieces, wait, words};
use crate::{
    oplog::{
        entry::{Entry, Kind, Part, operations},
        read::whole_entries,
        secrets::{self, Verdict},
    },
    raw::{check as well_formed, fields, find},
    replay::{
        mapping::{Mapping, Place},
        txn::Transactions,
    },
    routing::shard_ids::{Ids, translated},
};
use bson::{RawArray, RawDocument, RawDocumentBuf, Timestamp};
use futures::StreamExt as _;

pub fn check(input: &[u8]) {
    let (whole, why) = wait(read(input, input.len()));
    let step = 1 + input.len() / 7;
    assert!((whole.clone(), why.clone()) == wait(read(input, step)), "other entries in pieces of {step}");
    let read = whole.iter().map(|entry| entry.as_bytes()).collect::<Vec<_>>().concat();
    assert!(input.starts_with(&read));
    match why {
        None => assert_eq!(read.len(), input.len()),
        Some(why) => {
            assert!(why.contains(&format!("damaged at its uncompressed byte {}", read.len())), "{why}");
            // Even if a length is wrong, the fields after it are examined.
            let framed = super::framed(&input[read.len()..]).unwrap_or_default();
            if let Some(entry) = RawDocument::from_bytes(&framed).ok().filter(|entry| well_formed(entry).is_ok()) {
                entry_holds(entry);
            }
        }
    }
    whole.iter().for_each(|entry| entry_holds(entry));
}

async fn read(input: &[u8], step: usize) -> (Vec<RawDocumentBuf>, Option<String>) {
    let mut entries = std::pin::pin!(whole_entries(pieces(input, step)));
    let mut found = Vec::new();
    while let Some(entry) = entries.next().await {
        match entry {
            Ok(entry) => found.push(entry),
            Err(error) => return (found, Some(words(error))),
        }
    }
    (found, None)
}

fn entry_holds(entry: &RawDocument) {
    well_formed(entry).expect("only well-formed entries are read");
    secrets_are_left_out(entry);
    names_are_changed_and_changed_back(None, entry);
    names_are_changed_and_changed_back(Some(("orders", "orders2")), entry);
    shards_are_translated(entry);
    match Entry::parse(entry, None) {
        Ok(parsed) => parsed_entry(entry, &parsed),
        Err(error) => {
            words(error);
        }
    }
}

fn parsed_entry(raw: &RawDocument, entry: &Entry<'_>) {
    assert_eq!(Entry::time(raw).ok(), Some(entry.ts));
    let (db, coll) = entry.split_ns();
    assert!(entry.ns == db || entry.ns == format!("{db}.{coll}"), "{}", entry.ns);
    assert!(entry.kind != Kind::Update || entry.o2.is_some());
    assert!(crate::oplog::entry::excerpt(raw).len() < 1 << 12);
    if entry.kind == Kind::Command {
        match entry.command() {
            Ok(command) => {
                assert!(command.collection().is_none_or(|coll| contains(raw, coll.as_bytes())), "{command:?}");
            }
            Err(error) => {
                words(error);
            }
        }
    }
    match entry.transaction() {
        Ok(Some(txn)) => {
            assert!(txn.id.contains('-'), "{}", txn.id);
            match txn.part {
                Part::Partial(ops) | Part::Prepare(ops) | Part::Last(ops) => operations_are_kept(ops, entry.ts),
                Part::Commit { .. } | Part::Abort => {}
            }
        }
        Ok(None) => {}
        Err(error) => {
            words(error);
        }
    }
}

fn contains(raw: &RawDocument, bytes: &[u8]) -> bool {
    bytes.is_empty() || raw.as_bytes().windows(bytes.len()).any(|window| window == bytes)
}

/// The operations of a transaction are read unchanged.
fn operations_are_kept(ops: &RawArray, ts: Timestamp) {
    let all: Result<Vec<&RawDocument>, _> = operations(ops, ts).collect();
    let mut transactions = Transactions::new(usize::MAX);
    let none = Timestamp { time: 0, increment: 0 };
    match (wait(transactions.append("id", ops, ts, none, false)), all) {
        (Ok(()), Ok(all)) => {
            let mut kept = wait(transactions.take("id").expect("it was appended").read()).expect("it is in memory");
            for op in all {
                assert_eq!(wait(kept.next()).expect("it was kept").as_deref(), Some(op));
            }
            assert_eq!(wait(kept.next()).expect("it was kept"), None);
        }
        (Err(error), Err(_)) => {
            words(error);
        }
        (kept, all) => panic!("{kept:?} of {all:?}"),
    }
}

/// No operation on a control collection is stored, wherever it is in the entry.
fn secrets_are_left_out(entry: &RawDocument) {
    match secrets::judge(entry) {
        Ok(Verdict::Keep) => assert!(!is_about_control(entry), "{entry:?}"),
        Ok(Verdict::Replace(rest)) => {
            well_formed(&rest).expect("an entry");
            assert!(!is_about_control(&rest), "{rest:?}");
            assert!(rest.as_bytes().len() < entry.as_bytes().len());
            let ts = |entry: &RawDocument| find(entry, "ts").and_then(|ts| ts.timestamp());
            assert_eq!(ts(&rest), ts(entry));
        }
        Ok(Verdict::Drop) => {}
        Err(error) => {
            words(error);
        }
    }
    let ts = Timestamp { time: 1, increment: 2 };
    match secrets::no_op(entry, ts) {
        Ok(no_op) => {
            let parsed = Entry::parse(&no_op, None).expect("an entry");
            assert_eq!((parsed.kind, parsed.ts), (Kind::Noop, ts));
        }
        Err(error) => {
            words(error);
        }
    }
}

fn is_about_control(entry: &RawDocument) -> bool {
    let text = |name: &str| find(entry, name).and_then(|field| field.text());
    let control = |ns: &str| crate::model::names::is_control_namespace(ns);
    let Some(ns) = text("ns") else { return false };
    if control(ns) {
        return true;
    }
    let Some(o) = find(entry, "o").and_then(|o| o.document()).filter(|_| ns == "admin.$cmd") else { return false };
    match find(o, "applyOps").and_then(|ops| ops.nested()) {
        Some(ops) => fields(ops)
            .flatten()
            .filter_map(|op| op.document())
            .any(|op| find(op, "ns").and_then(|ns| ns.text()).is_some_and(control)),
        None => false,
    }
}

/// Renames the database `shop`, or one of its collections, to `clone` and back. The result is the original entry.
fn names_are_changed_and_changed_back(colls: Option<(&str, &str)>, entry: &RawDocument) {
    let place = |db: &str, coll: Option<&str>| -> Place { (db.to_owned(), coll.map(str::to_owned)) };
    let (from, to) = (place("shop", colls.map(|it| it.0)), place("clone", colls.map(|it| it.1)));
    let mapping = Mapping::new(&[(from.clone(), to.clone())]).expect("one pair");
    let back = Mapping::new(&[(to, from)]).expect("one pair");
    let once = match mapping.entry(entry.to_owned()) {
        Ok(once) => once,
        Err(error) => {
            words(error);
            return;
        }
    };
    well_formed(&once).expect("an entry");
    if let (Ok(before), Ok(after)) = (Entry::parse(entry, None), Entry::parse(&once, None)) {
        assert_eq!((before.ts, before.kind), (after.ts, after.kind));
        let (db, _) = before.split_ns();
        assert_eq!(mapping.database(db), after.split_ns().0);
    }
    let twice = back.entry(once).expect("it was renamed before");
    // UUIDs differ each time but have the same length.
    let has_uuid = contains(entry, b"ui\0") || contains(entry, b"dropTarget\0");
    assert_eq!(twice.as_bytes().len(), entry.as_bytes().len(), "the names are the old ones");
    assert!(has_uuid || twice.as_bytes() == entry.as_bytes(), "{twice:?}");
}

fn shards_are_translated(entry: &RawDocument) {
    let ids: Ids = [("rs1", "rs2"), ("rs2", "rs1")].map(|(from, to)| (from.to_owned(), to.to_owned())).into();
    match translated(entry.to_owned(), &ids) {
        Ok(once) => {
            well_formed(&once).expect("an entry");
            let twice = translated(once, &ids).expect("it was translated before");
            assert_eq!(twice.as_bytes(), entry.as_bytes());
        }
        Err(error) => {
            words(error);
        }
    }
}
