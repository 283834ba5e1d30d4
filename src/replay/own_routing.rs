//! Decides which changes of a cluster's routing tables a selective restore applies. It applies a change only if the
//! changed document belongs to a selected namespace. The routing of all other namespaces stays, because the cluster is
//! using it.

use std::collections::{BTreeSet, HashSet};

use anyhow::{Context, Result};
use bson::{Document, RawDocument, RawDocumentBuf, Uuid, doc};

use crate::model::selection::Selection;
use crate::oplog::entry::Entry;
use crate::raw::{find, text};
use crate::replay::op::document_id;
use crate::replay::target::Target;

/// The part of the routing that a selective replay may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnRouting {
    /// Sharded collections that have a selected name, now or later.
    pub uuids: HashSet<[u8; 16]>,
    /// Databases that also have unselected collections on the target. Their primary shard does not change.
    pub kept: BTreeSet<String>,
}

impl OwnRouting {
    /// Whether an operation on a routing table changes a selected database, collection, chunk or zone. `None` means
    /// that only the stored document can decide it.
    pub(super) fn includes_operation(&self, entry: &Entry<'_>, selection: &Selection) -> Option<bool> {
        let id = document_id(entry);
        let name = id.and_then(|id| id.text());
        match entry.split_ns().1 {
            "databases" => Some(name.is_some_and(|db| selection.touches(db) && !self.kept.contains(db))),
            "collections" => Some(name.is_some_and(|ns| selection.wants_namespace(ns))),
            _ => self.includes_document(entry.o, selection).or_else(|| id.is_none().then_some(false)),
        }
    }

    /// Whether a chunk or a zone belongs to the selection. `None` means that the document has neither a UUID nor a
    /// namespace.
    pub(super) fn includes_document(&self, document: &RawDocument, selection: &Selection) -> Option<bool> {
        if let Some(uuid) = collection_uuid(document) {
            return Some(self.uuids.contains(&uuid));
        }
        find(document, "ns").and_then(|ns| ns.text()).map(|ns| selection.wants_namespace(ns))
    }
}

/// The UUID in a document of `config.collections` or `config.chunks`, or in a change of one.
pub(super) fn collection_uuid(document: &RawDocument) -> Option<[u8; 16]> {
    let of = |document: &RawDocument| find(document, "uuid").and_then(|uuid| uuid.uuid()).map(|uuid| uuid.bytes());
    let changed = || subdocument(document, "diff").and_then(|diff| subdocument(diff, "u")).and_then(of);
    of(document).or_else(changed).or_else(|| subdocument(document, "$set").and_then(of))
}

fn subdocument<'a>(document: &'a RawDocument, name: &str) -> Option<&'a RawDocument> {
    find(document, name)?.document()
}

/// Reads the document of a routing table that an operation changes.
pub(super) async fn stored_document(target: &Target, entry: &Entry<'_>) -> Result<Option<RawDocumentBuf>> {
    let Some(id) = document_id(entry) else { return Ok(None) };
    let filter = text::decode(&id.alone("_id")).context("read the id of a routing document")?;
    let coll = entry.split_ns().1;
    let table = target.client().database("config").collection::<RawDocumentBuf>(coll);
    table.find_one(filter).await.with_context(|| format!("look up a document of config.{coll}"))
}

/// Removes the chunks of those collections that are missing in `config.collections`, because they were renamed to an
/// unselected name.
pub(super) async fn remove_orphaned_chunks(target: &Target, uuids: &HashSet<[u8; 16]>) -> Result<()> {
    let config = target.client().database("config");
    for uuid in uuids.iter().map(|uuid| Uuid::from_bytes(*uuid)) {
        let collection = config.collection::<Document>("collections").find_one(doc! { "uuid": uuid }).await;
        if collection.context("read config.collections")?.is_none() {
            let chunks = config.collection::<Document>("chunks");
            chunks.delete_many(doc! { "uuid": uuid }).await.context("remove chunks of no collection")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::op::uuid_binary;
    use bson::{Timestamp, rawdoc};

    #[test]
    fn operations_on_routing_tables_are_judged_by_what_they_show() {
        let selection = Selection::parse(&["shop.orders", "crm.*"]).expect("a selection");
        let (own, other) = ([1; 16], [2; 16]);
        let routing = OwnRouting { uuids: HashSet::from([own]), kept: BTreeSet::from(["shop".to_owned()]) };
        let on = |op: &str, table: &str, o: RawDocumentBuf| rawdoc! {"op": op, "ns": format!("config.{table}"), "o": o};
        let update = |table: &str, o: RawDocumentBuf| {
            rawdoc! {"op": "u", "ns": format!("config.{table}"), "o": o, "o2": {"_id": "x"}}
        };
        for (raw, expected) in [
            (on("i", "databases", rawdoc! {"_id": "crm"}), Some(true)),
            (on("i", "databases", rawdoc! {"_id": "shop"}), Some(false)),
            (on("i", "databases", rawdoc! {"_id": "else"}), Some(false)),
            (on("d", "collections", rawdoc! {"_id": "shop.orders"}), Some(true)),
            (on("d", "collections", rawdoc! {"_id": "shop.other"}), Some(false)),
            (on("i", "chunks", rawdoc! {"_id": 1, "uuid": uuid_binary(own)}), Some(true)),
            (on("i", "chunks", rawdoc! {"_id": 1, "uuid": uuid_binary(other)}), Some(false)),
            (update("chunks", rawdoc! {"$v": 2, "diff": {"u": {"uuid": uuid_binary(own)}}}), Some(true)),
            (on("i", "tags", rawdoc! {"_id": 1, "ns": "crm.a"}), Some(true)),
            (on("i", "tags", rawdoc! {"_id": 1, "ns": "else.a"}), Some(false)),
            // Only the stored document can decide it, and only if the entry has an `_id` to find it.
            (on("d", "chunks", rawdoc! {"_id": 1}), None),
            (update("chunks", rawdoc! {"$v": 2, "diff": {"u": {"shard": "b"}}}), None),
            (on("d", "chunks", rawdoc! {}), Some(false)),
        ] {
            let entry = Entry::parse(&raw, Some(Timestamp { time: 1, increment: 1 })).expect("an entry");
            assert_eq!(routing.includes_operation(&entry, &selection), expected, "{raw:?}");
        }
    }
}
