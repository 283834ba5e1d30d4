//! Shards of another cluster: the routing in a config server's oplog, with the ids that the shards have where it is replayed.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use bson::{Bson, Document, RawDocumentBuf};

/// Shard id where the oplog comes from → here, only where they differ.
pub type Ids = BTreeMap<String, String>;

/// An entry of the oplog with the shard ids of the target.
///
/// # Errors
/// It can't be read.
pub fn translated(raw: RawDocumentBuf, ids: &Ids) -> Result<RawDocumentBuf> {
    let ns = raw.get_str("ns").unwrap_or_default();
    // The config servers change their tables in transactions, too.
    if ids.is_empty() || !(ns.starts_with("config.") || ns == "admin.$cmd") {
        return Ok(raw);
    }
    let mut entry = Document::try_from(raw).context("read an oplog entry")?;
    translate_entry(&mut entry, ids);
    RawDocumentBuf::try_from(&entry).context("write an oplog entry")
}

fn translate_entry(entry: &mut Document, ids: &Ids) {
    let routing = matches!(entry.get_str("ns"), Ok("config.chunks" | "config.databases"));
    let Ok(o) = entry.get_document_mut("o") else { return };
    if routing {
        translate(o, ids);
    } else if let Ok(ops) = o.get_array_mut("applyOps") {
        ops.iter_mut().filter_map(Bson::as_document_mut).for_each(|op| translate_entry(op, ids));
    }
}

/// A document of `config.chunks` or `config.databases`, or a change of one in any form that the oplog has for it.
pub fn translate(document: &mut Document, ids: &Ids) {
    for (key, value) in document.iter_mut() {
        match value {
            // The bounds of a chunk have fields of the shard key, whose names are anybody's.
            _ if matches!(key.as_str(), "min" | "max" | "_id") => {}
            Bson::String(id) if matches!(key.as_str(), "shard" | "primary") => {
                if let Some(to) = ids.get(id) {
                    id.clone_from(to);
                }
            }
            Bson::Document(inner) => translate(inner, ids),
            Bson::Array(all) => {
                all.iter_mut().filter_map(Bson::as_document_mut).for_each(|inner| translate(inner, ids));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn ids_are_translated_once_and_nothing_else_is() {
        let ids: Ids = [("a", "b"), ("b", "a")].map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        for (entry, wanted) in [
            (
                doc! { "op": "i", "ns": "config.chunks", "o": {
                    "_id": "a", "shard": "a", "min": { "shard": "a" }, "history": [{ "shard": "b" }, { "shard": "c" }],
                } },
                doc! { "op": "i", "ns": "config.chunks", "o": {
                    "_id": "a", "shard": "b", "min": { "shard": "a" }, "history": [{ "shard": "a" }, { "shard": "c" }],
                } },
            ),
            (
                doc! { "op": "u", "ns": "config.chunks", "o2": { "_id": 1 },
                "o": { "$v": 2, "diff": { "u": { "shard": "b" }, "shistory": { "a": true, "u0": { "shard": "b" } } } } },
                doc! { "op": "u", "ns": "config.chunks", "o2": { "_id": 1 },
                "o": { "$v": 2, "diff": { "u": { "shard": "a" }, "shistory": { "a": true, "u0": { "shard": "a" } } } } },
            ),
            (
                doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [
                    { "op": "u", "ns": "config.databases", "o": { "$set": { "primary": "a" } } },
                    { "op": "u", "ns": "config.tags", "o": { "$set": { "shard": "a" } } },
                ] } },
                doc! { "op": "c", "ns": "admin.$cmd", "o": { "applyOps": [
                    { "op": "u", "ns": "config.databases", "o": { "$set": { "primary": "b" } } },
                    { "op": "u", "ns": "config.tags", "o": { "$set": { "shard": "a" } } },
                ] } },
            ),
            (
                doc! { "op": "i", "ns": "shop.a", "o": { "shard": "a" } },
                doc! { "op": "i", "ns": "shop.a", "o": { "shard": "a" } },
            ),
        ] {
            let raw = RawDocumentBuf::try_from(&entry).expect("a document");
            let made = translated(raw, &ids).expect("an entry");
            assert_eq!(Document::try_from(made).expect("a document"), wanted);
        }
    }
}
