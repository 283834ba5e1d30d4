//! Which part of a cluster's routing a restore replaces and a replay may change: all of it, or that of a selection.
//! The routing of all other namespaces stays, because the cluster is using it.

use super::SESSIONS;
use super::tables::{Table, text_of};
use crate::model::selection::Selection;
use crate::raw::{Field, find, text};
use anyhow::{Context, Result};
use bson::{Document, RawDocument, RawDocumentBuf, Uuid, doc};
use mongodb::Client;
use std::collections::{BTreeSet, HashSet};

/// A part of a cluster's routing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    /// All of it, except that of `config.system.sessions`.
    Everything {
        /// The UUID of `config.system.sessions` where the documents come from.
        sessions: Option<Uuid>,
        /// Databases that only the target has.
        kept: BTreeSet<String>,
    },
    Selected {
        selection: Selection,
        /// Sharded collections that have a selected name, now or later.
        uuids: HashSet<[u8; 16]>,
        /// Databases that also have unselected collections on the target. Their primary shard does not change.
        kept: BTreeSet<String>,
    },
}

impl Default for Own {
    fn default() -> Self {
        Self::everything(None)
    }
}

impl Own {
    /// Returns all routing, except that of `config.system.sessions`, which has the UUID `sessions`.
    #[must_use]
    pub const fn everything(sessions: Option<Uuid>) -> Self {
        Self::Everything { sessions, kept: BTreeSet::new() }
    }

    /// Whether an operation on a routing table is applied. `id` is the `_id` of the document that it changes, and `o`
    /// the document or the change. `None` means that only the stored document can decide it.
    #[must_use]
    pub fn includes_operation(&self, table: Table, id: Option<Field<'_>>, o: &RawDocument) -> Option<bool> {
        let included = self.includes(table, id.and_then(|id| id.text()), o);
        // Without an `_id`, the stored document can't be looked up.
        included.or_else(|| id.is_none().then_some(false))
    }

    /// Whether a document of a routing table belongs to this part.
    #[must_use]
    pub fn includes_document(&self, table: Table, document: &RawDocument) -> bool {
        self.includes(table, text_of(document, "_id"), document) == Some(true)
    }

    fn includes(&self, table: Table, id: Option<&str>, document: &RawDocument) -> Option<bool> {
        let ns = || text_of(document, "ns");
        match (self, table) {
            (Self::Everything { .. }, Table::Databases) => Some(true),
            (Self::Everything { .. }, Table::Collections) => Some(id != Some(SESSIONS)),
            (Self::Everything { sessions, .. }, Table::Chunks) => {
                let uuid = collection_uuid(document).map(Uuid::from_bytes);
                // Before 5.0 chunks contain the name of their collection.
                Some(ns() != Some(SESSIONS) && (uuid.is_none() || uuid != *sessions))
            }
            (Self::Everything { kept, .. }, Table::Tags) => {
                let database = ns().and_then(|ns| ns.split_once('.')).map(|(db, _)| db);
                Some(database.is_none_or(|db| !kept.contains(db)))
            }
            (Self::Selected { selection, kept, .. }, Table::Databases) => {
                Some(id.is_some_and(|db| selection.touches(db) && !kept.contains(db)))
            }
            (Self::Selected { selection, .. }, Table::Collections) => {
                Some(id.is_some_and(|ns| selection.wants_namespace(ns)))
            }
            (Self::Selected { selection, uuids, .. }, Table::Chunks | Table::Tags) => {
                let uuid = collection_uuid(document).map(|uuid| uuids.contains(&uuid));
                uuid.or_else(|| ns().map(|ns| selection.wants_namespace(ns)))
            }
        }
    }

    /// Removes chunks of selected collections that are missing in `config.collections`, because the replay renamed them
    /// to an unselected name.
    pub async fn remove_orphaned_chunks(&self, client: &Client) -> Result<()> {
        let Self::Selected { uuids, .. } = self else { return Ok(()) };
        let config = client.database("config");
        for uuid in uuids.iter().map(|uuid| Uuid::from_bytes(*uuid)) {
            let collection = config.collection::<Document>("collections").find_one(doc! { "uuid": uuid }).await;
            if collection.context("read config.collections")?.is_none() {
                let chunks = config.collection::<Document>("chunks");
                chunks.delete_many(doc! { "uuid": uuid }).await.context("remove chunks of no collection")?;
            }
        }
        Ok(())
    }
}

/// The UUID in a document of `config.collections` or `config.chunks`, or in a change of one.
pub fn collection_uuid(document: &RawDocument) -> Option<[u8; 16]> {
    let of = |document: &RawDocument| find(document, "uuid").and_then(|uuid| uuid.uuid()).map(|uuid| uuid.bytes());
    let changed = || subdocument(document, "diff").and_then(|diff| subdocument(diff, "u")).and_then(of);
    of(document).or_else(changed).or_else(|| subdocument(document, "$set").and_then(of))
}

fn subdocument<'a>(document: &'a RawDocument, name: &str) -> Option<&'a RawDocument> {
    find(document, name)?.document()
}

/// Reads the document of a routing table that has this `_id`.
pub async fn stored_document(client: &Client, table: Table, id: Field<'_>) -> Result<Option<RawDocumentBuf>> {
    let filter = text::decode(&id.alone("_id")).context("read the id of a routing document")?;
    let name = table.name();
    let documents = client.database("config").collection::<RawDocumentBuf>(name);
    documents.find_one(filter).await.with_context(|| format!("look up a document of config.{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Binary, rawdoc};

    const SELECTED: [u8; 16] = [1; 16];
    const OTHER: [u8; 16] = [2; 16];

    fn uuid(bytes: [u8; 16]) -> Binary {
        Binary::from(Uuid::from_bytes(bytes))
    }

    /// The decision about an operation whose document has the `_id` of `key`.
    fn decide(own: &Own, table: Table, key: &RawDocument, o: &RawDocument) -> Option<bool> {
        own.includes_operation(table, find(key, "_id"), o)
    }

    #[test]
    fn operations_on_the_routing_of_a_selection_are_judged_by_what_they_show() {
        let own = Own::Selected {
            selection: Selection::parse(&["shop.orders", "crm.*"]).expect("a selection"),
            uuids: HashSet::from([SELECTED]),
            kept: BTreeSet::from(["shop".to_owned()]),
        };
        let changed = |id: [u8; 16]| rawdoc! { "$v": 2, "diff": { "u": { "uuid": uuid(id) } } };
        for (table, o, expected) in [
            (Table::Databases, rawdoc! { "_id": "crm" }, Some(true)),
            (Table::Databases, rawdoc! { "_id": "shop" }, Some(false)),
            (Table::Databases, rawdoc! { "_id": "else" }, Some(false)),
            (Table::Collections, rawdoc! { "_id": "shop.orders" }, Some(true)),
            (Table::Collections, rawdoc! { "_id": "shop.other" }, Some(false)),
            (Table::Chunks, rawdoc! { "_id": 1, "uuid": uuid(SELECTED) }, Some(true)),
            (Table::Chunks, rawdoc! { "_id": 1, "uuid": uuid(OTHER) }, Some(false)),
            (Table::Tags, rawdoc! { "_id": 1, "ns": "crm.a" }, Some(true)),
            (Table::Tags, rawdoc! { "_id": 1, "ns": "else.a" }, Some(false)),
            // Only the stored document can decide it, and only if the entry has an `_id` to find it.
            (Table::Chunks, rawdoc! { "_id": 1 }, None),
            (Table::Chunks, rawdoc! {}, Some(false)),
        ] {
            assert_eq!(decide(&own, table, &o, &o), expected, "{table:?} {o:?}");
        }
        let key = rawdoc! { "_id": "x" };
        assert_eq!(decide(&own, Table::Chunks, &key, &changed(SELECTED)), Some(true));
        assert_eq!(decide(&own, Table::Chunks, &key, &changed(OTHER)), Some(false));
        assert_eq!(decide(&own, Table::Chunks, &key, &rawdoc! { "diff": { "u": { "shard": "b" } } }), None);
        assert!(own.includes_document(Table::Chunks, &rawdoc! { "ns": "shop.orders" }));
        assert!(!own.includes_document(Table::Chunks, &rawdoc! { "_id": 1 }));
    }

    #[test]
    fn everything_is_without_the_sessions_and_the_zones_of_kept_databases() {
        let own =
            Own::Everything { sessions: Some(Uuid::from_bytes(OTHER)), kept: BTreeSet::from(["mine".to_owned()]) };
        for (table, o, expected) in [
            (Table::Databases, rawdoc! { "_id": "shop" }, true),
            (Table::Collections, rawdoc! { "_id": "shop.a" }, true),
            (Table::Collections, rawdoc! { "_id": SESSIONS }, false),
            (Table::Chunks, rawdoc! { "uuid": uuid(SELECTED) }, true),
            (Table::Chunks, rawdoc! { "uuid": uuid(OTHER) }, false),
            (Table::Chunks, rawdoc! { "ns": SESSIONS }, false),
            (Table::Chunks, rawdoc! { "_id": 1 }, true),
            (Table::Tags, rawdoc! { "ns": "shop.a" }, true),
            (Table::Tags, rawdoc! { "ns": "mine.a" }, false),
        ] {
            assert_eq!(own.includes_document(table, &o), expected, "{table:?} {o:?}");
            assert_eq!(decide(&own, table, &o, &o), Some(expected), "{table:?} {o:?}");
        }
        assert_eq!(decide(&Own::default(), Table::Chunks, &rawdoc! {}, &rawdoc! { "uuid": uuid(OTHER) }), Some(true));
    }
}
