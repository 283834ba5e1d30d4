//! The oplog of a backup as an export has it: only what is selected, each entry once, nothing after the backup's end.

use super::select::Selection;
use crate::oplog::entry::{Command, Entry, Kind, Part, operations};
use anyhow::{Context as _, Result};
use bson::{RawArray, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, raw::cstr};
use std::borrow::Cow;

/// What of an entry is exported, if anything. Operations inside of an `applyOps` are judged one by one; a part of a
/// transaction stays, even without any, because its commit may come later.
///
/// # Errors
/// The entry can't be read, or can't be left out (see [`Selection::wants_entry`]).
pub fn selected<'a>(
    raw: &'a RawDocument,
    outer: Option<Timestamp>,
    selection: &Selection,
) -> Result<Option<Cow<'a, RawDocument>>> {
    let entry = Entry::parse(raw, outer)?;
    if entry.kind != Kind::Command {
        return Ok(selection.wants_entry(&entry, None)?.then_some(Cow::Borrowed(raw)));
    }
    match entry.transaction()?.map(|txn| txn.part) {
        Some(Part::Commit { .. } | Part::Abort) => return Ok(Some(Cow::Borrowed(raw))),
        Some(Part::Partial(ops) | Part::Prepare(ops) | Part::Last(ops)) => {
            return Ok(Some(match keep(ops, entry.ts, selection)? {
                Kept::All => Cow::Borrowed(raw),
                Kept::Some(ops) => Cow::Owned(with_operations(raw, &ops)?),
            }));
        }
        None => {}
    }
    let command = entry.command()?;
    if let Command::ApplyOps(ops) = command {
        return Ok(match keep(ops, entry.ts, selection)? {
            Kept::All => Some(Cow::Borrowed(raw)),
            Kept::Some(ops) if ops.is_empty() => None,
            Kept::Some(ops) => Some(Cow::Owned(with_operations(raw, &ops)?)),
        });
    }
    Ok(selection.wants_entry(&entry, Some(&command))?.then_some(Cow::Borrowed(raw)))
}

enum Kept {
    All,
    Some(Vec<RawDocumentBuf>),
}

fn keep(ops: &RawArray, ts: Timestamp, selection: &Selection) -> Result<Kept> {
    let (mut kept, mut changed) = (Vec::new(), false);
    for op in operations(ops, ts) {
        match selected(op?, Some(ts), selection)? {
            Some(op) => {
                changed |= matches!(op, Cow::Owned(_));
                kept.push(op.into_owned());
            }
            None => changed = true,
        }
    }
    Ok(if changed { Kept::Some(kept) } else { Kept::All })
}

/// The entry with other operations in its `applyOps`.
fn with_operations(raw: &RawDocument, ops: &[RawDocumentBuf]) -> Result<RawDocumentBuf> {
    let mut list = RawArrayBuf::new();
    for op in ops {
        list.push(op.clone());
    }
    let mut entry = RawDocumentBuf::new();
    for field in raw {
        match field.context("read oplog entry")? {
            (name, RawBsonRef::Document(o)) if name == cstr!("o") => {
                let mut command = RawDocumentBuf::new();
                for field in o {
                    match field.context("read oplog entry")? {
                        (name, _) if name == cstr!("applyOps") => command.append(name, list.clone()),
                        (name, value) => command.append(name, value),
                    }
                }
                entry.append(name, command);
            }
            (name, value) => entry.append(name, value),
        }
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Document, doc};

    fn of(raw: &Document, selection: &Selection) -> Option<Document> {
        let raw = RawDocumentBuf::try_from(raw).expect("raw");
        let found = selected(&raw, None, selection).expect("an answer");
        found.map(|found| Document::try_from(found.as_ref()).expect("a document"))
    }

    #[test]
    fn operations_inside_of_others_are_judged_one_by_one() {
        let some = Selection::parse(&["shop.*".to_owned()], false).expect("a selection");
        let ts = Timestamp { time: 7, increment: 1 };
        let op = |ns: &str| doc! { "op": "i", "ns": ns, "o": { "_id": 1 } };
        let entry =
            |ops: Vec<Document>| doc! { "ts": ts, "op": "c", "ns": "admin.$cmd", "o": { "applyOps": ops }, "t": 1 };
        let txn = |ops: Vec<Document>| {
            let mut txn = entry(ops);
            txn.extend(doc! { "lsid": { "id": 1 }, "txnNumber": 1_i64 });
            txn
        };
        let both = || vec![op("shop.a"), op("crm.a")];
        assert_eq!(of(&entry(both()), &Selection::default()), Some(entry(both())));
        assert_eq!(of(&entry(both()), &some), Some(entry(vec![op("shop.a")])));
        assert_eq!(of(&entry(vec![op("crm.a")]), &some), None);
        assert_eq!(of(&txn(both()), &some), Some(txn(vec![op("shop.a")])));
        assert_eq!(of(&txn(vec![op("crm.a")]), &some), Some(txn(vec![])), "its commit may follow");
        let mut commit = txn(vec![]);
        commit.insert("o", doc! { "commitTransaction": 1, "commitTimestamp": ts });
        assert_eq!(of(&commit, &some), Some(commit.clone()));
        let nested = entry(vec![doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": both() } }]);
        let expected = entry(vec![doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [op("shop.a")] } }]);
        assert_eq!(of(&nested, &some), Some(expected));
    }
}
