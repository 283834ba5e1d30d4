//! Dumps the collections of one node into compressed objects, several at once.
//!
//! # Memory
//! The documents that are in memory, of all collections together, stay below [`DumpPlan::in_flight`] bytes. In
//! addition, each collection has the buffers of an encoder.
//!
//! # Cancellation
//! If the caller drops the future of [`dump`], everything stops. The storage keeps no unfinished object.

use super::routing_tables;
use super::{
    budget::Budget,
    namespaces::{self, Listing, Namespace},
    source::{self, DumpProgress, lock},
};
use crate::archive::meta::{NamespaceKind, NamespaceMeta};
use crate::compress;
use crate::layout::{self, ReplsetLayout};
use crate::model::{
    names::{TMP_ROLES, TMP_USERS},
    selection::Selection,
};
use crate::storage::{self, SizeHint, Storage, wrap::split::whole_of};
use anyhow::{Context, Result, bail};
use bson::doc;
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::Client;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// The parameters of a dump.
#[derive(Debug, Clone)]
pub struct DumpPlan {
    pub layout: ReplsetLayout,
    /// Compression level of the codec.
    pub level: Option<i32>,
    /// How many collections are dumped at the same time.
    pub parallel: usize,
    /// The most bytes of documents in memory, of all collections together.
    pub in_flight: usize,
    pub selection: Selection,
    /// For a selection: whether the users and roles of databases that are selected as a whole are dumped, too.
    pub users: bool,
    /// Whether the node belongs to a config server, so that the routing of a selection is dumped.
    pub routing: bool,
}

/// The dumped namespaces and their objects.
#[derive(Debug, Clone, PartialEq)]
pub struct Dumped {
    /// Every namespace with the size and checksum of its object, bucket collections included, sorted by database and name.
    pub namespaces: Vec<NamespaceMeta>,
    /// See [`Listing::remains`].
    pub remains: Vec<NamespaceMeta>,
    /// See [`Listing::left_out`].
    pub left_out: Vec<String>,
    /// The sum of the stored bytes of all objects.
    pub stored: u64,
    /// Every object that was stored, with its stored bytes.
    pub objects: Vec<(String, u64)>,
    pub bytes: u64,
    pub docs: u64,
}

/// How many times a collection is read again from its start if the server ends the scan.
const REPEATS: usize = 20;

/// Dumps every namespace of the backup. Users and roles are stored a second time, under the names from which a restore reads
/// them.
///
/// # Errors
/// The node can't be read or the storage can't be written. Objects that were already finished stay.
pub async fn dump(
    client: &Client,
    storage: &Arc<dyn Storage>,
    plan: &DumpPlan,
    progress: &Arc<DumpProgress>,
) -> Result<Dumped> {
    let Listing { mut namespaces, remains, left_out } = namespaces::list(client, &plan.selection).await?;
    warn_of(&left_out);
    if plan.routing && !plan.selection.is_everything() {
        namespaces
            .extend(routing_tables::list(client, &plan.selection).await.context("list the routing of the selection")?);
    }
    progress.bytes_total.store(namespaces.iter().map(|n| n.bytes).sum(), Relaxed);
    progress.docs_total.store(namespaces.iter().map(|n| n.count).sum(), Relaxed);
    progress.collections_total.store((namespaces.len() + remains.len()) as u64, Relaxed);
    // The largest collections come first, so that the dump does not end with a single large one.
    namespaces.sort_by_key(|n| std::cmp::Reverse(n.bytes));

    let budget = Budget::new(plan.in_flight);
    let layout = &plan.layout;
    let usual = namespaces.into_iter().map(|it| (layout.collection(&it.db, &it.coll), it, false));
    let remains = remains.into_iter().map(|it| (layout.remains(&it.db, &it.coll), it, true));
    let (names, all): (Vec<_>, Vec<_>) =
        usual.chain(remains).map(|(name, namespace, remains)| (name, (namespace, remains))).unzip();
    let with_data = names.iter().zip(&all).filter(|(_, (namespace, _))| namespace.has_data()).map(|(name, _)| name);
    let with_data: Vec<&str> = with_data.map(String::as_str).collect();
    let same_letters = differ_by_letters(&with_data) && ignores_case(storage.as_ref()).await?;
    let unfit = unfit_names(layout, &with_data, same_letters);
    let objects: Vec<(Target, Namespace, bool)> = names
        .iter()
        .zip(all)
        .enumerate()
        .map(|(number, (name, (namespace, remains)))| {
            let escaped = layout::escaped_name(number, &namespace.db, &namespace.coll);
            (Target { own: name.clone(), escaped, why: unfit.get(name.as_str()).cloned() }, namespace, remains)
        })
        .collect();
    let all: Vec<(Part, bool)> = stream::iter(objects)
        .map(|(target, namespace, remains)| {
            let budget = budget.clone();
            async move {
                let dumped = dump_collection(client, storage, plan, progress, &budget, &namespace, target).await;
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
            done.push(copy_users(storage.as_ref(), plan, &done, from, to).await?);
        } else if plan.users {
            let some = users_of_databases(from, &plan.selection.databases());
            let object = Target::plain(layout.collection("admin", to));
            let (meta, stored, docs) = dump_collection(client, storage, plan, progress, &budget, &some, object)
                .await
                .with_context(|| format!("dump {}", some.ns()))?;
            done.push((NamespaceMeta { coll: to.to_owned(), ..meta }, stored, docs));
        }
    }
    let by_name = |(a, ..): &Part, (b, ..): &Part| (&a.db, &a.coll).cmp(&(&b.db, &b.coll));
    let mut remains: Vec<Part> = remains.into_iter().map(|(dumped, _)| dumped).collect();
    done.sort_by(by_name);
    remains.sort_by(by_name);
    let usual = done.iter().map(|part| (part.0.object_in(layout), part));
    let apart = remains.iter().map(|part| (part.0.remains_in(layout), part));
    let objects =
        usual.chain(apart).filter(|(_, (meta, ..))| meta.size != 0).map(|(name, (_, stored, _))| (name, *stored));
    Ok(Dumped {
        objects: objects.collect(),
        stored: done.iter().chain(&remains).map(|(_, stored, _)| stored).sum(),
        left_out: left_out.into_iter().collect(),
        docs: done.iter().chain(&remains).map(|(.., docs)| docs).sum(),
        bytes: progress.bytes.load(Relaxed),
        namespaces: done.into_iter().map(|(meta, ..)| meta).collect(),
        remains: remains.into_iter().map(|(meta, ..)| meta).collect(),
    })
}

fn warn_of(left_out: &BTreeSet<String>) {
    const NAMED: usize = 20;
    if left_out.is_empty() {
        return;
    }
    let names: Vec<&str> = left_out.iter().map(String::as_str).take(NAMED).collect();
    let more = if left_out.len() > NAMED { format!(" and {} more", left_out.len() - NAMED) } else { String::new() };
    tracing::warn!(
        "not in this backup, because the names are not valid UTF-8: {}{more}; copy what you need of them to collections with \
         other names",
        names.join(", ")
    );
}

/// The object into which the documents of a collection are written.
struct Target {
    /// The object name made from the collection's own name.
    own: String,
    /// The object name that is used if `own` can't be used; empty if there is none.
    escaped: String,
    /// The reason why `own` can't be used, if there is one.
    why: Option<String>,
}

impl Target {
    fn plain(own: String) -> Self {
        Self { own, escaped: String::new(), why: None }
    }

    /// Whether the storage may have refused the name and not the content. A second attempt with the escaped name
    /// decides it.
    fn is_refused(&self, error: &storage::Error) -> bool {
        let unusual = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/'));
        let name = self.own.rsplit_once('/').map_or("", |(_, name)| name);
        let refused = matches!(error, storage::Error::Invalid { .. } | storage::Error::Failed { retryable: false, .. });
        refused && !self.escaped.is_empty() && self.why.is_none() && (name.contains(unusual) || name.len() > 200)
    }
}

/// Returns the objects that can't have the names of their collections, each with the reason. One such name must not end
/// the backup of all other collections. `objects` are the objects with documents.
fn unfit_names<'a>(layout: &ReplsetLayout, objects: &[&'a str], same_letters: bool) -> HashMap<&'a str, String> {
    let own = [layout.metadata(), layout.meta_pbm()];
    let mut sorted = objects.to_vec();
    sorted.sort_unstable();
    let names: HashSet<&str> = sorted.iter().copied().collect();
    let (mut unfit, mut folded) = (HashMap::new(), HashSet::new());
    for object in sorted {
        let folder = object.match_indices('/').map(|(at, _)| &object[..at]).find(|folder| names.contains(folder));
        let why = if let Some(why) = layout::unfit_name(object) {
            why.to_owned()
        } else if own.iter().any(|own| own == object) {
            "the backup keeps the description of its collections under that name".to_owned()
        } else if let Some(whole) = whole_of(object).filter(|whole| names.contains(whole)) {
            format!("that is also the name of a part of '{whole}'")
        } else if let Some(folder) = folder {
            format!("'{folder}' can't be a file and a folder")
        } else if same_letters && !folded.insert(object.to_lowercase()) {
            "another collection's name has the same letters, and the storage does not tell small from large ones"
                .to_owned()
        } else {
            continue;
        };
        unfit.insert(object, why);
    }
    unfit
}

fn differ_by_letters(objects: &[&str]) -> bool {
    let mut folded = HashSet::new();
    !objects.iter().all(|object| folded.insert(object.to_lowercase()))
}

/// Whether the storage ignores upper and lower case. The name of the storage's init file has only lower-case letters.
async fn ignores_case(storage: &dyn Storage) -> Result<bool> {
    match storage.stat(&layout::INIT.to_uppercase()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error).context("see whether the storage tells small letters from large ones"),
    }
}

/// Returns a namespace with the users or roles that were created in some databases.
fn users_of_databases(coll: &str, databases: &[&str]) -> Namespace {
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

/// Returns the metadata of a namespace without documents.
fn describe_empty(namespace: &Namespace) -> NamespaceMeta {
    NamespaceMeta {
        db: namespace.db.clone(),
        coll: namespace.coll.clone(),
        kind: namespace.kind,
        options: namespace.options.clone(),
        indexes: namespace.indexes.clone(),
        uuid: namespace.uuid,
        crc: 0,
        size: 0,
        object: None,
    }
}

/// The metadata, the stored bytes and the number of documents of one namespace.
type Part = (NamespaceMeta, u64, u64);

/// Dumps the documents of one namespace.
async fn dump_collection(
    client: &Client,
    storage: &Arc<dyn Storage>,
    plan: &DumpPlan,
    progress: &Arc<DumpProgress>,
    budget: &Budget,
    namespace: &Namespace,
    mut target: Target,
) -> Result<Part> {
    let mut meta = describe_empty(namespace);
    if !namespace.has_data() {
        return Ok((meta, 0, 0));
    }
    for _ in 0..REPEATS {
        let Some(scan) = source::open(client, namespace, budget, progress).await.context("open the collection")? else {
            return Ok((meta, 0, 0));
        };
        let state = scan.state();
        let body = compress::encode(scan.stream(), plan.layout.compression, plan.level)?;
        let object = match &target.why {
            Some(_) => plan.layout.escaped(&target.escaped),
            None => target.own.clone(),
        };
        let stored = storage.put(&object, body, SizeHint(Some(namespace.bytes))).await;
        let scanned = lock(&state).clone();
        if let Some(why) = &scanned.repeat {
            tracing::info!("reading {} again from its start: {why}", namespace.ns());
            progress.bytes.fetch_sub(scanned.bytes, Relaxed);
            progress.docs.fetch_sub(scanned.docs, Relaxed);
            continue;
        }
        let stored = match stored {
            Err(error) if target.is_refused(&error) => {
                tracing::info!("{} is tried once more under another name: {error}", namespace.ns());
                target.why = Some(format!("the storage refused it: {error}"));
                progress.bytes.fetch_sub(scanned.bytes, Relaxed);
                progress.docs.fetch_sub(scanned.docs, Relaxed);
                continue;
            }
            stored => stored?,
        };
        if let Some(why) = &target.why {
            tracing::warn!(
                "the documents of {} can't be stored as '{}' ({why}); they are in '{object}', where only this program finds \
                 them: a restore by the original leaves the collection out",
                namespace.ns(),
                target.own
            );
            meta.object = Some(target.escaped);
        }
        meta.crc = scanned.crc();
        meta.size = i64::try_from(scanned.bytes).context("a collection of more than 8 EiB")?;
        return Ok((meta, stored, scanned.docs));
    }
    bail!(
        "the server ended the scan {REPEATS} times before its end; a capped collection that is overwritten faster than it can be read?"
    )
}

/// Stores users or roles under the second name, from which a restore reads them because it never loads the first one directly.
/// The original copies the collection in the database for this; a copy of the stored bytes is the same.
async fn copy_users(storage: &dyn Storage, plan: &DumpPlan, done: &[Part], from: &str, to: &str) -> Result<Part> {
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
        object: None,
    };
    Ok((meta, stored, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::compression::Compression;

    /// Returns the names of the collections in the database `a` that are stored under other names.
    fn unfit(compression: Compression, same_letters: bool, colls: &[&str]) -> Vec<String> {
        let layout = ReplsetLayout::new("b", "rs0", compression);
        let object = |coll: &str| match coll.split_once(':') {
            Some((db, coll)) => layout.collection(db, coll),
            None => layout.collection("a", coll),
        };
        let objects: Vec<String> = colls.iter().map(|coll| object(coll)).collect();
        let unfit = unfit_names(&layout, &objects.iter().map(String::as_str).collect::<Vec<_>>(), same_letters);
        colls.iter().filter(|coll| unfit.contains_key(object(coll).as_str())).map(|coll| (*coll).to_owned()).collect()
    }

    #[test]
    fn only_names_that_can_not_be_objects_are_replaced() {
        let long = "x".repeat(252);
        let never = ["a/../b", "a//b", "./a/./b", "a\nb"];
        for compression in [Compression::None, Compression::S2] {
            let names: Vec<&str> =
                never.into_iter().chain(["plain", "sl/ash", "d.tmp", "c.pbmpart.x", "Plain"]).collect();
            assert_eq!(unfit(compression, false, &names), never);
            assert_eq!(
                unfit(compression, true, &["plain", "Plain"]),
                ["plain"],
                "the first in the order of bytes keeps its name"
            );
        }
        for (bare, other) in [
            (vec!["metadata:json", "meta:pbm"], vec!["metadata:json", "meta:pbm"]),
            (vec!["b", "b.pbmpart.1"], vec!["b.pbmpart.1"]),
            (vec!["b.pbmpart.1"], vec![]),
            (vec!["a", "a/b", "a/b/c"], vec!["a/b", "a/b/c"]),
            (vec!["a.s2/b", "a"], vec![]),
            (vec!["x/"], vec!["x/"]),
        ] {
            assert_eq!(unfit(Compression::None, false, &bare), other, "{bare:?}");
        }
        assert_eq!(unfit(Compression::S2, false, &["a", "a/b", "metadata:json", "b", "b.pbmpart.1"]), [""; 0]);
        assert_eq!(unfit(Compression::S2, false, &["a", "a.s2/b"]), ["a.s2/b"]);
        assert_eq!(unfit(Compression::S2, false, &["a", &long]), [long.as_str()], "the suffix makes it too long");
        assert_eq!(unfit(Compression::None, false, &["a", &long]), [""; 0]);
    }
}
