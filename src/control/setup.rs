//! Creates the same collections and indexes as the original, and no others.
//!
//! The locks depend on the unique indexes, so the indexes must exist before any lock is taken.

use crate::model::names;
use crate::mongo::{code, majority};
use anyhow::{Context, Result};
use bson::{Document, doc};
use mongodb::{
    Database, IndexModel,
    options::{CommitQuorum, IndexOptions},
};
use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

const MIB: i64 = 1024 * 1024;

/// The collection, the name and the keys of an index, and whether it is unique.
type Index = (&'static str, &'static str, Document, bool);

static INDEXES: LazyLock<[Index; 10]> = LazyLock::new(|| {
    [
        (names::LOG, "opid_ts", doc! { "opid": 1, "ts": -1 }, false),
        (names::LOG, "epoch_rs_event_severity_ts", doc! { "ep": 1, "rs": 1, "e": 1, "s": 1, "ts": -1 }, false),
        (names::LOG, "event_severity_rs_ts", doc! { "e": 1, "s": 1, "rs": 1, "ts": -1 }, false),
        (names::LOCK, "replset_1", doc! { "replset": 1 }, true),
        (names::LOCK_OP, "replset_1_type_1", doc! { "replset": 1, "type": 1 }, true),
        (names::OP_LOG, "opid_1_replset_1", doc! { "opid": 1, "replset": 1 }, true),
        (names::PITR_CHUNKS, "rs_1_start_ts_1_end_ts_1", doc! { "rs": 1, "start_ts": 1, "end_ts": 1 }, true),
        (names::PITR_CHUNKS, "start_ts_1_end_ts_1", doc! { "start_ts": 1, "end_ts": 1 }, false),
        (names::BACKUPS, "name_1", doc! { "name": 1 }, true),
        (names::BACKUPS, "start_ts_1_status_1", doc! { "start_ts": 1, "status": 1 }, false),
    ]
});

/// Returns the keys of each unique index of a collection.
pub(super) fn unique_keys(coll: &str) -> impl Iterator<Item = &'static Document> {
    let unique = INDEXES.iter().filter(move |(of, _, _, unique)| *of == coll && *unique);
    unique.map(|(_, _, keys, _)| keys)
}

/// Creates what is missing and does not touch the rest: even a creation that changes nothing waits for the majority,
/// and an agent that starts while there is no majority must not wait.
pub(super) async fn create_all(db: &Database) -> Result<()> {
    let there: HashSet<String> =
        db.list_collection_names().await.context("list the collections of admin")?.into_iter().collect();
    for (name, capped) in [
        (names::CMD, Some(MIB)),
        (names::LOG, Some(50 * MIB)),
        (names::LOCK, None),
        (names::LOCK_OP, None),
        (names::OP_LOG, Some(10 * MIB)),
        (names::BACKUPS, None),
        (names::RESTORES, None),
        (names::PITR, None),
        (names::PITR_CHUNKS, None),
        (names::AGENTS, None),
    ] {
        if there.contains(name) {
            continue;
        }
        let mut create = doc! { "create": name };
        if let Some(size) = capped {
            create.extend(doc! { "capped": true, "size": size });
        }
        create.insert("writeConcern", majority::write_concern(db));
        let failed = || format!("create admin.{name}");
        match db.run_command(create).await {
            Err(error) if code::code(&error) == Some(code::NAMESPACE_EXISTS) => {}
            Err(error) => return Err(error).with_context(failed),
            Ok(answer) => drop(majority::confirmed(db.client(), answer).await.with_context(failed)?),
        }
    }
    let mut indexes: HashMap<&str, Vec<String>> = HashMap::new();
    for (coll, name, keys, unique) in INDEXES.clone() {
        if !indexes.contains_key(coll) {
            let names = db.collection::<Document>(coll).list_index_names().await;
            indexes.insert(coll, names.with_context(|| format!("list the indexes of admin.{coll}"))?);
        }
        if indexes[coll].iter().any(|there| there == name) {
            continue;
        }
        let mut options = IndexOptions::builder().name(name.to_owned()).build();
        if unique {
            options.unique = Some(true);
            options.sparse = Some(true);
        }
        let index = IndexModel::builder().keys(keys).options(options).build();
        db.collection::<Document>(coll)
            .create_index(index)
            // By default every voting member has to build the index, and a member with `buildIndexes: false` never does.
            .commit_quorum(CommitQuorum::Nodes(1))
            .await
            .with_context(|| format!("create index {name} on admin.{coll}"))?;
    }
    Ok(())
}

/// Whether the bell collection of earlier releases exists.
pub(super) async fn has_old_bell(db: &Database) -> Result<bool> {
    let found = db.list_collection_names().filter(doc! { "name": names::OLD_BELL }).await;
    Ok(!found.context("list the collections of admin")?.is_empty())
}

pub(super) async fn drop_old_bell(db: &Database) -> Result<()> {
    db.collection::<Document>(names::OLD_BELL).drop().await.context("drop admin.pbmBell, which nobody uses any more")
}
