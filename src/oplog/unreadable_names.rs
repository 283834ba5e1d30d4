//! Leaves out the operations on collections whose names are not valid UTF-8.
//!
//! Servers accept such names, but the driver can neither send them in commands nor read the answers of cursors that contain
//! them. So a backup leaves these collections out, and a replay leaves out what happened to them. Saved oplog keeps their
//! entries as they are.

use super::{entry::Entry, secrets};
use crate::raw::{self, Field, New, fields, find, rewrite, text};
use anyhow::{Context, Result, bail};
use bson::{RawDocument, RawDocumentBuf};
use std::borrow::Cow;

/// An entry without its operations on such collections.
#[derive(Debug, PartialEq)]
pub struct Shortened {
    pub entry: RawDocumentBuf,
    /// The names of the collections, one for each operation that was left out.
    pub names: Vec<String>,
}

/// Returns the entry without its operations on such collections, or `None` if it has none. `wants` tells whether a namespace
/// whose name is valid is restored.
///
/// # Errors
/// The entry is malformed. Or a collection got or lost a valid name that is wanted: what it holds under its other name is in
/// no backup.
pub fn leave_out(entry: &RawDocument, wants: &dyn Fn(&str) -> bool) -> Result<Option<Shortened>> {
    let what = || format!("read the oplog entry at {}", Entry::time(entry).map(super::entry::show).unwrap_or_default());
    Ok(match judge(entry, wants).with_context(what)? {
        Verdict::Keep => None,
        Verdict::Shorten(shortened) => Some(shortened),
        Verdict::Out(name) => Some(Shortened { entry: secrets::no_op(entry, Entry::time(entry)?)?, names: vec![name] }),
    })
}

enum Verdict {
    Keep,
    Shorten(Shortened),
    /// The operation concerns only the collection with this name.
    Out(String),
}

fn judge(op: &RawDocument, wants: &dyn Fn(&str) -> bool) -> Result<Verdict> {
    let Some(ns) = text_bytes(op, "ns") else { return Ok(Verdict::Keep) };
    let kind = text_bytes(op, "op").unwrap_or_default();
    let Some(valid) = valid(ns) else { return Ok(Verdict::Out(shown(ns))) };
    match kind {
        b"c" => on_command(op, valid, wants),
        b"i" | b"u" | b"d" if valid.ends_with(".system.views") => Ok(on_view(op)),
        _ => Ok(Verdict::Keep),
    }
}

/// Views are documents there, and their `_id` is the name of the view.
fn on_view(op: &RawDocument) -> Verdict {
    let id = |holder| text_bytes(find(op, holder)?.document()?, "_id");
    match id("o2").or_else(|| id("o")) {
        Some(name) if valid(name).is_none() => Verdict::Out(shown(name)),
        _ => Verdict::Keep,
    }
}

fn on_command(op: &RawDocument, ns: &str, wants: &dyn Fn(&str) -> bool) -> Result<Verdict> {
    let o = find(op, "o").and_then(|o| o.document()).context("an oplog command without o")?;
    let Some(first) = fields(o).next() else { return Ok(Verdict::Keep) };
    let first = first?;
    match first.name {
        b"applyOps" => within(op, &first, wants),
        b"renameCollection" => {
            let (from, to) = (first.text_bytes().unwrap_or_default(), text_bytes(o, "to").unwrap_or_default());
            on_rename(from, to, wants)
        }
        _ => Ok(match first.text_bytes() {
            Some(coll) if valid(coll).is_none() => {
                let db = ns.split_once('.').map_or(ns, |(db, _)| db);
                Verdict::Out(format!("{db}.{}", shown(coll)))
            }
            _ => Verdict::Keep,
        }),
    }
}

fn on_rename(from: &[u8], to: &[u8], wants: &dyn Fn(&str) -> bool) -> Result<Verdict> {
    let loses = match (valid(from), valid(to)) {
        (Some(_), Some(_)) => return Ok(Verdict::Keep),
        (None, None) => false,
        (Some(valid), None) | (None, Some(valid)) => wants(valid),
    };
    if loses {
        bail!(
            "'{}' was renamed to '{}', and collections whose names are not valid UTF-8 are in no backup: restore a moment before \
             that, or a backup that was made later",
            shown(from),
            shown(to)
        );
    }
    Ok(Verdict::Out(shown(from)))
}

/// Judges the operations of an `applyOps` one by one. The entry stays even without any operation, because it can be a part of
/// a transaction.
fn within(op: &RawDocument, ops: &Field<'_>, wants: &dyn Fn(&str) -> bool) -> Result<Verdict> {
    let Some(ops) = ops.nested() else { return Ok(Verdict::Keep) };
    let (mut kept, mut names) = (Vec::new(), Vec::new());
    for inner in fields(ops) {
        let inner = inner?.document().context("applyOps holds no documents")?;
        match judge(inner, wants)? {
            Verdict::Keep => kept.push(inner.to_owned()),
            Verdict::Out(name) => names.push(name),
            Verdict::Shorten(shortened) => {
                kept.push(shortened.entry);
                names.extend(shortened.names);
            }
        }
    }
    if names.is_empty() {
        return Ok(Verdict::Keep);
    }
    let entry = rewrite(op, |field| match field.document().filter(|_| field.name == b"o") {
        None => Ok(New::Same),
        Some(o) => rewrite(o, |field| {
            anyhow::Ok(match field.name {
                b"applyOps" => New::Nested(raw::array(kept.iter().map(AsRef::as_ref))),
                _ => New::Same,
            })
        })
        .map(New::Nested),
    })?;
    Ok(Verdict::Shorten(Shortened { entry, names }))
}

fn text_bytes<'a>(document: &'a RawDocument, name: &str) -> Option<&'a [u8]> {
    find(document, name).and_then(|field| field.text_bytes())
}

/// The name, if lists of collections and this program have it in the same form.
fn valid(name: &[u8]) -> Option<&str> {
    match text::to_text(name) {
        Cow::Borrowed(name) => Some(name),
        Cow::Owned(_) => None,
    }
}

fn shown(name: &[u8]) -> String {
    text::shown(&text::to_text(name)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::{Writer, kind};
    use bson::{Timestamp, rawdoc};

    const TS: Timestamp = Timestamp { time: 7, increment: 3 };
    const BAD: &[u8] = b"bad\xff";

    fn on(op: &[u8], ns: &[u8], o: &RawDocument) -> RawDocumentBuf {
        let mut entry = Writer::new();
        entry.value(kind::TIMESTAMP, b"ts", &[3, 0, 0, 0, 7, 0, 0, 0]);
        entry.text(b"op", op);
        entry.text(b"ns", ns);
        entry.document(b"o", o);
        entry.finish()
    }

    fn command(name: &[u8], coll: &[u8]) -> RawDocumentBuf {
        let mut o = Writer::new();
        o.text(name, coll);
        on(b"c", b"shop.$cmd", &o.finish())
    }

    fn rename(from: &[u8], to: &[u8]) -> RawDocumentBuf {
        let mut o = Writer::new();
        o.text(b"renameCollection", from);
        o.text(b"to", to);
        on(b"c", b"shop.$cmd", &o.finish())
    }

    fn view(name: &[u8]) -> RawDocumentBuf {
        let mut o = Writer::new();
        o.text(b"_id", name);
        on(b"i", b"shop.system.views", &o.finish())
    }

    fn apply(ops: &[RawDocumentBuf]) -> RawDocumentBuf {
        let mut o = Writer::new();
        o.value(kind::ARRAY, b"applyOps", raw::array(ops.iter().map(AsRef::as_ref)).as_bytes());
        on(b"c", b"admin.$cmd", &o.finish())
    }

    fn all(_: &str) -> bool {
        true
    }

    #[test]
    fn what_happens_to_such_a_collection_is_left_out() {
        let none = rawdoc! {};
        for (entry, name) in [
            (on(b"i", b"shop.bad\xff", &none), "shop.bad\\xff"),
            (on(b"d", b"d\xfe.c", &none), "d\\xfe.c"),
            (on(b"n", b"shop.bad\xff", &none), "shop.bad\\xff"),
            (command(b"create", BAD), "shop.bad\\xff"),
            (command(b"drop", BAD), "shop.bad\\xff"),
            (command(b"commitIndexBuild", BAD), "shop.bad\\xff"),
            (view(b"shop.v\xff"), "shop.v\\xff"),
            (rename(b"shop.bad\xff", b"shop.\xfe"), "shop.bad\\xff"),
        ] {
            let shortened = leave_out(&entry, &all).expect("an entry").expect("shortened");
            assert_eq!(shortened.names, [name]);
            let left = Entry::parse(&shortened.entry, None).expect("an entry");
            assert_eq!((left.ts, left.kind), (TS, super::super::entry::Kind::Noop), "{name}");
        }
    }

    #[test]
    fn everything_else_stays() {
        for entry in [
            on(b"i", b"shop.good", &rawdoc! { "a": 1 }),
            command(b"create", "gr\u{fc}n".as_bytes()),
            rename(b"shop.a", b"shop.b"),
            view(b"shop.v"),
            on(b"c", b"shop.$cmd", &rawdoc! { "dropDatabase": 1 }),
            apply(&[on(b"i", b"shop.good", &rawdoc! {})]),
        ] {
            assert_eq!(leave_out(&entry, &all).expect("an entry"), None, "{entry:?}");
        }
    }

    #[test]
    fn a_transaction_keeps_its_other_operations() {
        let (good, bad) = (on(b"i", b"shop.good", &rawdoc! { "a": 1 }), on(b"i", b"shop.bad\xff", &rawdoc! {}));
        let names = |count: usize| vec!["shop.bad\\xff".to_owned(); count];
        for (ops, kept, left) in [
            (vec![bad.clone(), good.clone(), bad.clone()], vec![good.clone()], 2),
            (vec![bad.clone()], vec![], 1),
            (vec![apply(&[bad.clone(), good.clone()])], vec![apply(&[good])], 1),
        ] {
            let shortened = leave_out(&apply(&ops), &all).expect("an entry");
            assert_eq!(shortened, Some(Shortened { entry: apply(&kept), names: names(left) }));
        }
    }

    #[test]
    fn documents_that_come_or_go_with_a_rename_are_never_lost_in_silence() {
        for (from, to) in [(&b"shop.bad\xff"[..], &b"shop.good"[..]), (b"shop.good", b"shop.bad\xff")] {
            let (plain, inside) = (rename(from, to), apply(&[rename(from, to)]));
            for entry in [&plain, &inside] {
                let error = format!("{:#}", leave_out(entry, &all).expect_err("a loss"));
                assert!(error.contains("at 7:3") && error.contains("'shop.bad\\xff'"), "{error}");
            }
            let others = leave_out(&plain, &|ns| ns != "shop.good").expect("not selected").expect("shortened");
            assert_eq!(others.names, [shown(from)]);
        }
    }
}
