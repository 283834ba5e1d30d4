//! Collections of one node into compressed objects, several at once.
//!
//! # Memory
//! The bytes on their way, of all collections together, stay below [`DumpPlan::in_flight`], and every pipeline has an
//! encoder's buffers besides.
//!
//! # Cancellation
//! Dropping the future of [`dump`] stops everything; an object that is being written is not left behind.

use super::{
    budget::Budget,
    catalog::{self, Listing, Namespace},
    routing,
    source::{self, DumpProgress, lock},
};
use crate::archive::meta::{NamespaceKind, NamespaceMeta};
use crate::compress;
use crate::layout::ReplsetLayout;
use crate::model::{
    names::{TMP_ROLES, TMP_USERS},
    selection::Selection,
};
use crate::storage::{SizeHint, Storage, wrap::split::whole_of};
use anyhow::{Context, Result, bail};
use bson::doc;
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::Client;
use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// What to dump and how.
#[derive(Debug, Clone)]
pub struct DumpPlan {
    pub layout: ReplsetLayout,
    /// Compression level, as the codec knows them.
    pub level: Option<i32>,
    /// Collections at once.
    pub parallel: usize,
    /// Bytes of documents on their way, of all collections together.
    pub in_flight: usize,
    pub selection: Selection,
    /// Of a selective backup: the users and roles of the databases that are selected as a whole, too.
    pub users: bool,
    /// The node is one of a config server: of a selection its routing is dumped.
    pub routing: bool,
}

/// What was dumped.
#[derive(Debug, Clone, PartialEq)]
pub struct Dumped {
    /// Every namespace with what was stored of it, bucket collections included, sorted by database and name.
    pub namespaces: Vec<NamespaceMeta>,
    /// See [`Listing::remains`].
    pub remains: Vec<NamespaceMeta>,
    /// Stored bytes of all objects.
    pub stored: u64,
    /// Every object that was stored, with its stored bytes.
    pub objects: Vec<(String, u64)>,
    pub bytes: u64,
    pub docs: u64,
}

/// How often a collection is read from its start again because the server ended the scan.
const REPEATS: usize = 20;

/// Dumps every namespace that the backup is to hold. Users and roles are stored (once more) under the names from which a
/// restore reads them.
///
/// # Errors
/// The node can't be read or the storage can't be written; objects that were finished before stay. A collection's name
/// that an uncompressed object can't have.
pub async fn dump(
    client: &Client,
    storage: &Arc<dyn Storage>,
    plan: &DumpPlan,
    progress: &Arc<DumpProgress>,
) -> Result<Dumped> {
    let Listing { mut namespaces, remains } = catalog::list(client, &plan.selection).await?;
    if plan.routing && !plan.selection.is_everything() {
        namespaces.extend(routing::list(client, &plan.selection).await.context("list the routing of the selection")?);
    }
    progress.bytes_total.store(namespaces.iter().map(|n| n.bytes).sum(), Relaxed);
    progress.docs_total.store(namespaces.iter().map(|n| n.count).sum(), Relaxed);
    progress.collections_total.store((namespaces.len() + remains.len()) as u64, Relaxed);
    // The largest first: the last collection to end should not be one that began last and takes longest.
    namespaces.sort_by_key(|n| std::cmp::Reverse(n.bytes));

    let budget = Budget::new(plan.in_flight);
    let layout = &plan.layout;
    let usual = namespaces.into_iter().map(|it| (layout.collection(&it.db, &it.coll), it, false));
    let remains = remains.into_iter().map(|it| (layout.remains(&it.db, &it.coll), it, true));
    let objects: Vec<_> = usual.chain(remains).collect();
    check_names(layout, &objects)?;
    let all: Vec<(Part, bool)> = stream::iter(objects)
        .map(|(object, namespace, remains)| {
            let budget = budget.clone();
            async move {
                let dumped = collection(client, storage, plan, progress, &budget, &namespace, &object).await;
                progress.collections.fetch_add(1, Relaxed);
                dumped.map(|dumped| (dumped, remains)).with_context(|| format!("dump {}", namespace.ns()))
            }
        })
        .buffer_unordered(plan.parallel.max(1))
        .try_collect()
        .await?;
    let (remains, usual): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, remains)| *remains);
    let mut done: Vec<_> = usual.into_iter().map(|(dumped, _)| dumped).collect();
    for (from, to) in [("system.users", TMP_USERS), ("system.roles", TMP_ROLES)] {
        if plan.selection.is_everything() {
            done.push(again(storage.as_ref(), plan, &done, from, to).await?);
        } else if plan.users {
            let some = of_databases(from, &plan.selection.databases());
            let object = layout.collection("admin", to);
            let (meta, stored, docs) = collection(client, storage, plan, progress, &budget, &some, &object)
                .await
                .with_context(|| format!("dump {}", some.ns()))?;
            done.push((NamespaceMeta { coll: to.to_owned(), ..meta }, stored, docs));
        }
    }
    let by_name = |(a, ..): &Part, (b, ..): &Part| (&a.db, &a.coll).cmp(&(&b.db, &b.coll));
    let mut remains: Vec<Part> = remains.into_iter().map(|(dumped, _)| dumped).collect();
    done.sort_by(by_name);
    remains.sort_by(by_name);
    let usual = done.iter().map(|part| (layout.collection(&part.0.db, &part.0.coll), part));
    let apart = remains.iter().map(|part| (layout.remains(&part.0.db, &part.0.coll), part));
    let objects =
        usual.chain(apart).filter(|(_, (meta, ..))| meta.size != 0).map(|(name, (_, stored, _))| (name, *stored));
    Ok(Dumped {
        objects: objects.collect(),
        stored: done.iter().chain(&remains).map(|(_, stored, _)| stored).sum(),
        docs: done.iter().chain(&remains).map(|(.., docs)| docs).sum(),
        bytes: progress.bytes.load(Relaxed),
        namespaces: done.into_iter().map(|(meta, ..)| meta).collect(),
        remains: remains.into_iter().map(|(meta, ..)| meta).collect(),
    })
}

/// Without compression an object has the bare name of its collection, which something else of the backup can have too.
fn check_names(layout: &ReplsetLayout, objects: &[(String, Namespace, bool)]) -> Result<()> {
    let with_data = || objects.iter().filter(|(_, namespace, _)| namespace.has_data());
    let names: HashSet<&str> = with_data().map(|(object, ..)| object.as_str()).collect();
    let own = [layout.metadata(), layout.meta_pbm()];
    for (object, namespace, _) in with_data() {
        let whole = whole_of(object).filter(|whole| names.contains(whole));
        let clash = if own.contains(object) {
            "where the backup keeps the description of its collections".to_owned()
        } else if let Some(whole) = whole {
            format!("which is also the name of a part of '{whole}'")
        } else {
            continue;
        };
        bail!(
            "collection '{}' can't be backed up without compression: its documents would be stored as '{object}', {clash}; \
             use a compression, for example `pbm backup --compression s2`",
            namespace.ns()
        );
    }
    Ok(())
}

/// The users or roles that were made in some databases.
fn of_databases(coll: &str, databases: &[&str]) -> Namespace {
    Namespace {
        db: "admin".to_owned(),
        coll: coll.to_owned(),
        kind: NamespaceKind::Collection,
        options: bson::Document::new(),
        indexes: Some(vec![id_index()]),
        uuid: None,
        count: 0,
        bytes: 0,
        filter: Some(doc! { "db": { "$in": databases } }),
    }
}

fn id_index() -> bson::Document {
    doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }
}

/// The metadata of a namespace without documents.
fn empty(namespace: &Namespace) -> NamespaceMeta {
    NamespaceMeta {
        db: namespace.db.clone(),
        coll: namespace.coll.clone(),
        kind: namespace.kind,
        options: namespace.options.clone(),
        indexes: namespace.indexes.clone(),
        uuid: namespace.uuid,
        crc: 0,
        size: 0,
    }
}

/// One namespace: its metadata, stored bytes and number of documents.
type Part = (NamespaceMeta, u64, u64);

/// Dumps the documents of one namespace to `object`.
async fn collection(
    client: &Client,
    storage: &Arc<dyn Storage>,
    plan: &DumpPlan,
    progress: &Arc<DumpProgress>,
    budget: &Budget,
    namespace: &Namespace,
    object: &str,
) -> Result<Part> {
    let mut meta = empty(namespace);
    if !namespace.has_data() {
        return Ok((meta, 0, 0));
    }
    for _ in 0..REPEATS {
        let Some(scan) = source::open(client, namespace, budget, progress).await.context("open the collection")? else {
            return Ok((meta, 0, 0));
        };
        let state = scan.state();
        let body = compress::encode(scan.stream(), plan.layout.compression, plan.level)?;
        let stored = storage.put(object, body, SizeHint(Some(namespace.bytes))).await;
        let scanned = lock(&state).clone();
        if let Some(why) = &scanned.repeat {
            tracing::info!("reading {} again from its start: {why}", namespace.ns());
            progress.bytes.fetch_sub(scanned.bytes, Relaxed);
            progress.docs.fetch_sub(scanned.docs, Relaxed);
            continue;
        }
        let stored = stored?;
        meta.crc = scanned.crc();
        meta.size = i64::try_from(scanned.bytes).context("a collection of more than 8 EiB")?;
        return Ok((meta, stored, scanned.docs));
    }
    bail!(
        "the server ended the scan {REPEATS} times before its end; a capped collection that is overwritten faster than it can be read?"
    )
}

/// Stores users or roles under the second name: a restore takes them from there, because the first is never touched
/// directly. The original copies the collection in the database for this; the same bytes do.
async fn again(storage: &dyn Storage, plan: &DumpPlan, done: &[Part], from: &str, to: &str) -> Result<Part> {
    let source = done.iter().find(|(meta, ..)| meta.db == "admin" && meta.coll == from);
    let (crc, size, stored) = source.map_or((0, 0, 0), |(meta, stored, _)| (meta.crc, meta.size, *stored));
    if size > 0 {
        storage
            .copy(&plan.layout.collection("admin", from), &plan.layout.collection("admin", to))
            .await
            .with_context(|| format!("store admin.{from} again as admin.{to}"))?;
    }
    let meta = NamespaceMeta {
        db: "admin".into(),
        coll: to.into(),
        kind: NamespaceKind::Collection,
        options: bson::Document::new(),
        indexes: Some(vec![id_index()]),
        uuid: None,
        crc,
        size,
    };
    Ok((meta, stored, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::compression::Compression;

    fn check(compression: Compression, names: &[(&str, &str)]) -> Result<()> {
        let layout = ReplsetLayout::new("b", "rs0", compression);
        let namespace = |db: &str, coll: &str| Namespace { db: db.into(), ..of_databases(coll, &[]) };
        let objects: Vec<_> =
            names.iter().map(|(db, coll)| (layout.collection(db, coll), namespace(db, coll), false)).collect();
        check_names(&layout, &objects)
    }

    #[test]
    fn bare_names_that_mean_something_else_are_refused() {
        let own: [&[(&str, &str)]; 4] = [
            &[("metadata", "json")],
            &[("a", "b"), ("meta", "pbm")],
            &[("metadata", "system.buckets.json")],
            &[("a", "b.pbmpart.1"), ("a", "b")],
        ];
        for names in own {
            let refusal = check(Compression::None, names).expect_err("two objects of one name").to_string();
            assert!(refusal.contains("can't be backed up without compression"), "{refusal}");
            assert!(refusal.ends_with("for example `pbm backup --compression s2`"), "{refusal}");
            check(Compression::S2, names).expect("names with a suffix");
        }
        let unlucky = [("metadata", "json.x"), ("a", "b.pbmpart.1"), ("a", "c"), ("a", "c.pbmpart.x"), ("a", "d.tmp")];
        check(Compression::None, &unlucky).expect("every name once");
    }
}
