//! Translates shard ids in routing tables and in the oplog of config servers: the target's shards may have other ids than those
//! of the backup.

use super::tables::{RoutingSource, each};
use crate::raw::{Malformed, New, check, find, rewrite};
use crate::storage::Storage;
use anyhow::{Context, Result};
use bson::{RawDocument, RawDocumentBuf};
use std::collections::BTreeMap;

/// Maps shard ids of the backup or the oplog to those of the target, only where the two differ.
pub type Ids = BTreeMap<String, String>;

/// Returns the mapping from the shard ids of a backup's replica sets to those of the cluster.
pub fn ids(pairs: impl IntoIterator<Item = (String, String)>) -> Ids {
    pairs.into_iter().filter(|(from, to)| from != to).collect()
}

/// Returns `ids`, corrected by the backup's own table of shards: a backup made before 2.0 records its shard ids only there.
/// `places` maps each replica set of the backup to its shard id in the cluster.
pub async fn by_table(
    storage: &dyn Storage,
    source: &RoutingSource,
    mut ids: Ids,
    places: &BTreeMap<String, String>,
) -> Result<Ids> {
    for (id, rs) in listed(storage, source).await? {
        match places.get(&rs) {
            Some(place) if *place != id => drop(ids.insert(id, place.clone())),
            _ => drop(ids.remove(&id)),
        }
    }
    Ok(ids)
}

/// Returns the shard ids in the backup's table of shards, each with its replica set.
async fn listed(storage: &dyn Storage, source: &RoutingSource) -> Result<BTreeMap<String, String>> {
    let mut listed = BTreeMap::new();
    each(storage, source.shards.as_ref(), |shard| {
        let (id, host) = (shard.get_str("_id"), shard.get_str("host"));
        let id = id.context("read the id of a shard")?;
        if let Some((rs, _)) = host.context("read the hosts of a shard")?.split_once('/') {
            listed.insert(id.to_owned(), rs.to_owned());
        }
        Ok(())
    })
    .await?;
    Ok(listed)
}

/// Returns an oplog entry with the shard ids of the target. The entry was checked when it was read.
///
/// # Errors
/// It can't be read.
pub fn translated(raw: RawDocumentBuf, ids: &Ids) -> Result<RawDocumentBuf> {
    let ns = find(&raw, "ns").and_then(|ns| ns.text()).unwrap_or_default();
    // The config servers change their tables in transactions, too.
    if ids.is_empty() || !(ns.starts_with("config.") || ns == "admin.$cmd") {
        return Ok(raw);
    }
    translate_entry(&raw, ids).context("translate the shards in an oplog entry")
}

fn translate_entry(entry: &RawDocument, ids: &Ids) -> Result<RawDocumentBuf, Malformed> {
    let routing = matches!(find(entry, "ns").and_then(|ns| ns.text()), Some("config.chunks" | "config.databases"));
    rewrite(entry, |field| match field.document().filter(|_| field.name == b"o") {
        Some(o) if routing => translate_checked(o, ids).map(New::Nested),
        Some(o) => translate_operations(o, ids).map(New::Nested),
        None => Ok(New::Same),
    })
}

/// Translates the operations of an `applyOps`.
fn translate_operations(command: &RawDocument, ids: &Ids) -> Result<RawDocumentBuf, Malformed> {
    rewrite(command, |field| match field.nested().filter(|_| field.name == b"applyOps") {
        Some(ops) => {
            rewrite(ops, |op| op.document().map_or(Ok(New::Same), |op| translate_entry(op, ids).map(New::Nested)))
                .map(New::Nested)
        }
        None => Ok(New::Same),
    })
}

/// Translates a document of `config.chunks` or `config.databases`, or a change of one in any form that oplogs have.
///
/// # Errors
/// The document is not well-formed.
pub fn translate(document: &RawDocument, ids: &Ids) -> Result<RawDocumentBuf, Malformed> {
    // Without this check, very deep nesting could overflow the stack.
    check(document)?;
    translate_checked(document, ids)
}

fn translate_checked(document: &RawDocument, ids: &Ids) -> Result<RawDocumentBuf, Malformed> {
    rewrite(document, |field| {
        // The bounds of a chunk contain the fields of the shard key, and these can have any names.
        if matches!(field.name, b"min" | b"max" | b"_id") {
            return Ok(New::Same);
        }
        if let Some(nested) = field.nested() {
            return translate_checked(nested, ids).map(New::Nested);
        }
        let id = field.text().filter(|_| matches!(field.name, b"shard" | b"primary"));
        Ok(id.and_then(|id| ids.get(id)).map_or(New::Same, |to| New::Text(to.clone())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Document, doc};

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

    #[tokio::test]
    async fn the_table_of_shards_corrects_the_ids() {
        let store = crate::storage::memory::Memory::new();
        let shards = [
            doc! { "_id": "one", "host": "rs1/h:1,h:2" },
            doc! { "_id": "shardB", "host": "rs2/h:3" },
            doc! { "_id": "gone", "host": "rs3/h:4" },
        ];
        let shards = crate::routing::tables::tests::stored(&store, "shards", &shards).await;
        let source = RoutingSource { shards, ..RoutingSource::default() };
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
        };
        let assumed = ids(map(&[("rs1", "a"), ("shardB", "x"), ("gone", "y")]));
        let found = by_table(&store, &source, assumed, &map(&[("rs1", "a"), ("rs2", "shardB")])).await.expect("read");
        assert_eq!(found, map(&[("one", "a"), ("rs1", "a")]));
    }

    #[test]
    fn only_ids_that_differ_are_translated() {
        let ids = ids([("a", "b"), ("b", "a"), ("c", "c")].map(|(from, to)| (from.to_owned(), to.to_owned())));
        assert_eq!(ids.len(), 2);
    }
}
