//! The routing of a selection in a config server's oplog. The routing of everything else in the cluster is in use and stays
//! as it is, so each operation on these tables is applied only if its document belongs to the selection.

use std::collections::{BTreeSet, HashSet};

use anyhow::{Context, Result};
use bson::{Document, RawDocument, RawDocumentBuf, doc};

use crate::model::selection::Selection;
use crate::oplog::entry::{Entry, Kind};
use crate::raw::{Field, find, text};
use crate::replay::apply::Replayer;

/// What of the routing a selective replay may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnRouting {
    /// Sharded collections that have a selected name, now or later.
    pub uuids: HashSet<[u8; 16]>,
    /// Databases of which the target has more than what is selected: their primary shard stays.
    pub kept: BTreeSet<String>,
}

impl OwnRouting {
    /// Whether a chunk or a zone is of the selection; `None` if the document does not tell whose it is.
    fn has(&self, document: &RawDocument, selection: &Selection) -> Option<bool> {
        if let Some(uuid) = uuid(document) {
            return Some(self.uuids.contains(&uuid));
        }
        find(document, "ns").and_then(|ns| ns.text()).map(|ns| selection.wants_namespace(ns))
    }
}

/// The UUID in a document of `config.collections` or `config.chunks`, or in a change of one.
pub(super) fn uuid(document: &RawDocument) -> Option<[u8; 16]> {
    let of = |document: &RawDocument| find(document, "uuid").and_then(|uuid| uuid.uuid()).map(|uuid| uuid.bytes());
    let changed = || inner(document, "diff").and_then(|diff| inner(diff, "u")).and_then(of);
    of(document).or_else(changed).or_else(|| inner(document, "$set").and_then(of))
}

fn inner<'a>(document: &'a RawDocument, name: &str) -> Option<&'a RawDocument> {
    find(document, name)?.document()
}

/// The `_id` of the document that an operation is about.
pub(super) fn id<'a>(entry: &Entry<'a>) -> Option<Field<'a>> {
    let holder = if entry.kind == Kind::Update { entry.o2? } else { entry.o };
    find(holder, "_id")
}

impl Replayer {
    /// Does the operation on a routing table belong to what is restored?
    pub(super) async fn owns_routing(&mut self, entry: &Entry<'_>) -> Result<bool> {
        let (scope, id) = (&self.options.scope, id(entry));
        let name = id.and_then(|id| id.text());
        let coll = match entry.split_ns() {
            _ if scope.selection.is_everything() || !scope.config_server => return Ok(true),
            (_, "databases") => {
                return Ok(name.is_some_and(|db| scope.selection.touches(db) && !scope.routing.kept.contains(db)));
            }
            (_, "collections") => return Ok(name.is_some_and(|ns| scope.selection.wants_namespace(ns))),
            (_, coll) => coll,
        };
        if let Some(own) = scope.routing.has(entry.o, &scope.selection) {
            return Ok(own);
        }
        let Some(id) = id else { return Ok(false) };
        let filter = text::decode(&id.alone("_id")).context("read the id of a routing document")?;
        // It may have been inserted by what is still being collected.
        self.flush().await?;
        let table = self.target.client().database("config").collection::<RawDocumentBuf>(coll);
        let found = table.find_one(filter).await.with_context(|| format!("look up a document of config.{coll}"))?;
        let scope = &self.options.scope;
        Ok(found.is_some_and(|found| scope.routing.has(&found, &scope.selection) == Some(true)))
    }

    /// Removes chunks of collections that were renamed out of the selection: their own names are none of the restore.
    pub(super) async fn forget_lost_chunks(&self) -> Result<()> {
        let scope = &self.options.scope;
        if scope.selection.is_everything() || !scope.config_server {
            return Ok(());
        }
        let config = self.target.client().database("config");
        for uuid in scope.routing.uuids.iter().map(|uuid| bson::Uuid::from_bytes(*uuid)) {
            let named = config.collection::<Document>("collections").find_one(doc! { "uuid": uuid }).await;
            if named.context("read config.collections")?.is_none() {
                let chunks = config.collection::<Document>("chunks");
                chunks.delete_many(doc! { "uuid": uuid }).await.context("remove chunks of no collection")?;
            }
        }
        Ok(())
    }
}
