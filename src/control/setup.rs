//! Collections and indexes as the original creates them, and nothing else.
//!
//! The unique indexes are the locking mechanism: they must exist before any lock is taken.

use crate::model::names;
use crate::mongo::admin;
use anyhow::{Context, Result};
use bson::{Document, doc};
use mongodb::{Database, IndexModel, options::IndexOptions};

const MIB: i64 = 1024 * 1024;
const NAMESPACE_EXISTS: i32 = 48;

pub(super) async fn create_all(db: &Database) -> Result<()> {
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
        let create = match capped {
            Some(size) => doc! { "create": name, "capped": true, "size": size, "writeConcern": { "w": "majority" } },
            None => doc! { "create": name, "writeConcern": { "w": "majority" } },
        };
        match db.run_command(create).await {
            Err(error) if admin::code(&error) != Some(NAMESPACE_EXISTS) => {
                return Err(error).with_context(|| format!("create admin.{name}"));
            }
            _ => {}
        }
    }
    for (coll, name, keys, unique) in [
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
    ] {
        let mut options = IndexOptions::builder().name(name.to_owned()).build();
        if unique {
            options.unique = Some(true);
            options.sparse = Some(true);
        }
        let index = IndexModel::builder().keys(keys).options(options).build();
        db.collection::<Document>(coll)
            .create_index(index)
            .await
            .with_context(|| format!("create index {name} on admin.{coll}"))?;
    }
    Ok(())
}

/// Does the collection of earlier releases exist?
pub(super) async fn has_old_bell(db: &Database) -> Result<bool> {
    let found = db.list_collection_names().filter(doc! { "name": names::OLD_BELL }).await;
    Ok(!found.context("list the collections of admin")?.is_empty())
}

pub(super) async fn drop_old_bell(db: &Database) -> Result<()> {
    db.collection::<Document>(names::OLD_BELL).drop().await.context("drop admin.pbmBell, which nobody uses any more")
}
