//! Keeps the entries of control collections out of the stored oplog.
//!
//! A replay ignores these entries. If they were stored, storage credentials would be readable on the storage, because
//! `pbmConfig` and every document of `pbmBackups` contain them.

use crate::model::names::{self, TMP_ROLES, TMP_USERS};
use crate::raw::{self, New, Writer, fields, find, rewrite};
use anyhow::{Context, Result};
use bson::{RawDocument, RawDocumentBuf, Timestamp, rawdoc};

/// Decides what is stored for an entry.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Keep,
    /// The entry is a transaction or a vectored insert. It is stored without its operations on control collections.
    Replace(RawDocumentBuf),
    Drop,
}

/// Decides how an oplog entry is stored, by the namespaces of its operations.
///
/// # Errors
/// The entry is not well-formed.
pub fn judge(entry: &RawDocument) -> Result<Verdict> {
    let Some(ns) = text(entry, "ns") else { return Ok(Verdict::Keep) };
    if is_control(ns) {
        return Ok(Verdict::Drop);
    }
    if ns != "admin.$cmd" {
        return Ok(Verdict::Keep);
    }
    // An entry of a kind that this program does not know may have none.
    let Some(o) = find(entry, "o").and_then(|o| o.document()) else { return Ok(Verdict::Keep) };
    if let Some(ops) = find(o, "applyOps").and_then(|ops| ops.nested()) {
        for op in fields(ops) {
            let op = op.context("read an oplog entry")?.document().context("applyOps holds no documents")?;
            if is_about_control(op) {
                return remove_control(entry).map(Verdict::Replace);
            }
        }
        return Ok(Verdict::Keep);
    }
    Ok(if is_about_control(entry) { Verdict::Drop } else { Verdict::Keep })
}

/// Returns a no-op with the times of `entry`.
///
/// # Errors
/// The entry is not well-formed.
pub fn no_op(entry: &RawDocument, ts: Timestamp) -> Result<RawDocumentBuf> {
    let mut no_op = Writer::new();
    for field in fields(&rawdoc! { "op": "n", "ns": "", "o": { "msg": "left out" }, "ts": ts }) {
        no_op.copy(&field.context("write a no-op")?);
    }
    for field in ["t", "v", "wall"].iter().filter_map(|name| find(entry, name)) {
        no_op.copy(&field);
    }
    Ok(no_op.finish())
}

fn text<'a>(document: &'a RawDocument, name: &str) -> Option<&'a str> {
    find(document, name).and_then(|field| field.text())
}

fn is_control(ns: &str) -> bool {
    names::is_control_namespace(ns) || ns.strip_prefix("admin.").is_some_and(|c| [TMP_USERS, TMP_ROLES].contains(&c))
}

/// Whether an operation changes a control collection, directly or through a command with the collection in its first
/// field: create, drop, createIndexes, ...
fn is_about_control(op: &RawDocument) -> bool {
    let Some(ns) = text(op, "ns") else { return false };
    let named = || {
        let first = fields(find(op, "o")?.document()?).next()?.ok()?;
        first.text().map(|coll| is_control(&format!("admin.{coll}")))
    };
    is_control(ns) || (ns == "admin.$cmd" && named().unwrap_or(false))
}

/// Removes the operations on control collections from an entry. The entry stays even if no operation is left, because
/// it can be a link in the chain of a transaction.
fn remove_control(entry: &RawDocument) -> Result<RawDocumentBuf> {
    let unreadable = "read an oplog entry";
    rewrite(entry, |field| match field.document().filter(|_| field.name == b"o") {
        None => Ok(New::Same),
        Some(o) => rewrite(o, |field| match field.nested().filter(|_| field.name == b"applyOps") {
            None => anyhow::Ok(New::Same),
            Some(ops) => {
                let mut kept = Vec::new();
                for op in fields(ops) {
                    let op = op.context(unreadable)?.document().context("applyOps holds no documents")?;
                    if !is_about_control(op) {
                        kept.push(op);
                    }
                }
                Ok(New::Nested(raw::array(kept)))
            }
        })
        .map(New::Nested),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn control_collections_are_left_out() {
        for entry in [
            rawdoc! { "op": "i", "ns": "admin.pbmConfig", "o": { "_id": 1 } },
            rawdoc! { "op": "u", "ns": "admin.pbmBackups", "o": { "$v": 2 }, "o2": { "_id": 1 } },
            rawdoc! { "op": "i", "ns": "admin.pbmRUsers", "o": { "_id": 1 } },
            rawdoc! { "op": "c", "ns": "admin.$cmd", "o": { "create": "pbmConfig" } },
        ] {
            assert_eq!(judge(&entry).expect("judge"), Verdict::Drop, "{entry:?}");
        }
        for entry in [
            rawdoc! { "op": "i", "ns": "shop.pbmConfig", "o": { "_id": 1 } },
            rawdoc! { "op": "i", "ns": "admin.system.users", "o": { "_id": 1 } },
            rawdoc! { "op": "c", "ns": "admin.$cmd", "o": { "create": "mine" } },
            rawdoc! { "op": "c", "ns": "shop.$cmd", "o": { "create": "pbmConfig" } },
            rawdoc! { "op": "c", "ns": "admin.$cmd", "o": { "commitTransaction": 1 } },
            rawdoc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [{ "op": "i", "ns": "a.b", "o": {} }] } },
            rawdoc! { "op": "n", "ns": "", "o": { "msg": "periodic noop" } },
            // Entries of kinds that nobody knows yet.
            rawdoc! { "op": "xi", "ns": "shop.a", "o": { "_id": 1 }, "more": { "a": [1] } },
            rawdoc! { "op": "xi", "ns": "admin.$cmd" },
            rawdoc! { "op": "km", "o": { "key": 1 } },
            rawdoc! { "op": "c", "ns": "admin.$cmd", "o": { "somethingNew": 1 } },
            rawdoc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [{ "op": "xi", "ns": "a.b" }] } },
        ] {
            assert_eq!(judge(&entry).expect("judge"), Verdict::Keep, "{entry:?}");
        }
    }

    #[test]
    fn transactions_lose_only_the_operations_on_control_collections() {
        let mine = rawdoc! { "op": "i", "ns": "shop.orders", "o": { "_id": 1 } };
        let secret = rawdoc! { "op": "i", "ns": "admin.pbmBackups", "o": { "store": "secret" } };
        let create = rawdoc! { "op": "c", "ns": "admin.$cmd", "o": { "create": "pbmBackups" } };
        let entry = |ops: Vec<RawDocumentBuf>| {
            let mut applied = bson::RawArrayBuf::new();
            ops.iter().for_each(|op| applied.push(op.clone()));
            rawdoc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": applied, "partialTxn": true }, "v": 2_i64 }
        };
        let verdict = judge(&entry(vec![secret.clone(), mine.clone(), create])).expect("judge");
        assert_eq!(verdict, Verdict::Replace(entry(vec![mine])));
        assert_eq!(judge(&entry(vec![secret])).expect("judge"), Verdict::Replace(entry(vec![])));
    }

    /// A control collection is found although the library stops reading a document at a field name that is not UTF-8.
    #[test]
    fn a_control_collection_is_found_behind_a_field_that_is_not_utf_8() {
        let behind = |ns: &[u8]| {
            let mut entry = raw::Writer::new();
            entry.text(b"\xff", b"\xff");
            entry.text(b"op", b"i");
            entry.text(b"ns", ns);
            entry.document(b"o", &rawdoc! { "_id": 1 });
            entry.finish()
        };
        assert_eq!(judge(&behind(b"admin.pbmConfig")).expect("judge"), Verdict::Drop);
        assert_eq!(judge(&behind(b"shop.orders")).expect("judge"), Verdict::Keep);
        let (secret, mine) = (behind(b"admin.pbmConfig"), behind(b"shop.orders"));
        let entry = |ops: &[&RawDocument]| {
            let mut o = raw::Writer::new();
            o.value(raw::kind::ARRAY, b"applyOps", raw::array(ops.iter().copied()).as_bytes());
            rawdoc! { "op": "c", "ns": "admin.$cmd", "o": o.finish() }
        };
        let verdict = judge(&entry(&[&secret, &mine])).expect("judge");
        assert_eq!(verdict, Verdict::Replace(entry(&[&mine])));
    }

    #[test]
    fn a_no_op_keeps_the_times() {
        let ts = Timestamp { time: 5, increment: 7 };
        let entry =
            rawdoc! { "op": "i", "ns": "admin.pbmConfig", "o": { "key": "secret" }, "ts": ts, "t": 3_i64, "v": 2_i64 };
        let expected = rawdoc! { "op": "n", "ns": "", "o": { "msg": "left out" }, "ts": ts, "t": 3_i64, "v": 2_i64 };
        assert_eq!(no_op(&entry, ts).expect("no-op"), expected);
    }
}
