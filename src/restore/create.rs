//! Drops the namespaces that a restore replaces, and creates them again, empty and with their UUIDs (docs/format.md
//! E.5).

use super::{plan::Drop, target_state::list};
use crate::model::names::BUCKETS;
use crate::{
    archive::meta::{NamespaceKind, NamespaceMeta},
    mongo::code,
    raw::text,
};
use anyhow::{Context as _, Result, bail};
use bson::{Binary, Bson, Document, Timestamp, doc, spec::BinarySubtype};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mongodb::{Client, Database};
use tokio_util::sync::CancellationToken;

/// The number of commands that are sent at the same time. Each waits for the journal, so a few of them overlap well.
const AT_ONCE: usize = 4;

/// The only `system.` collection of a database that is restored. Some server versions refuse to drop it.
const SYSTEM_JS: &str = "system.js";

/// Drops all existing namespaces of the list. A time series is dropped together with its buckets; buckets without a
/// series are dropped afterwards.
///
/// A `system.js` that the server refuses to drop is emptied.
pub async fn drop_all(client: &Client, drops: &[Drop], cancel: &CancellationToken) -> Result<()> {
    let (buckets, others): (Vec<Drop>, Vec<Drop>) =
        drops.iter().cloned().partition(|drop| drop.coll.starts_with(BUCKETS));
    for group in [others, buckets] {
        stream::iter(group)
            .map(|drop| async move {
                stop_if(cancel)?;
                drop_one(&client.database(&drop.db), &drop.coll).await
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
    }
    Ok(())
}

/// Creates collections and time series, then views.
pub async fn create_all(
    client: &Client,
    collections: &[NamespaceMeta],
    views: &[NamespaceMeta],
    cancel: &CancellationToken,
) -> Result<()> {
    for (group, at_once) in [(collections, AT_ONCE), (views, 1)] {
        stream::iter(group.to_vec())
            .map(|meta| async move {
                stop_if(cancel)?;
                create(client, &meta).await
            })
            .buffer_unordered(at_once)
            .try_collect::<()>()
            .await?;
    }
    Ok(())
}

/// Creates one namespace. Its name must be free, except that an existing `system.js` is emptied.
pub async fn create(client: &Client, meta: &NamespaceMeta) -> Result<()> {
    let ns = format!("{}.{}", meta.db, meta.coll);
    if meta.coll == SYSTEM_JS {
        let database = client.database(&meta.db);
        if !list(&database, doc! { "name": SYSTEM_JS }).await?.is_empty() {
            return empty(&database, SYSTEM_JS).await.with_context(|| format!("empty '{ns}'"));
        }
    }
    let creation = creation(meta);
    let answer = client
        .database(&creation.db)
        .run_raw_command(text::encode(&creation.command)?)
        .await
        .with_context(|| format!("create {} '{ns}'", meta.kind.as_str()))?;
    // The command can succeed although an entry failed.
    if let Ok(results) = answer.get_array("results")
        && results.iter().any(|result| result == &Bson::Boolean(false))
    {
        bail!("create '{ns}': the server did not apply it: {answer}");
    }
    Ok(())
}

/// A command and the database on which it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Creation {
    pub db: String,
    pub command: Document,
}

/// Returns the command that creates a namespace. A namespace with a UUID is created through an oplog entry, because
/// nothing else can set the UUID.
#[must_use]
pub fn creation(meta: &NamespaceMeta) -> Creation {
    let mut create = doc! { "create": &meta.coll };
    create.extend(meta.options.clone());
    let Some(uuid) = meta.uuid.filter(|_| meta.kind == NamespaceKind::Collection) else {
        return Creation { db: meta.db.clone(), command: create };
    };
    if !meta.options.contains_key("clusteredIndex")
        && let Some(index) = id_index(meta)
    {
        create.insert("idIndex", index);
    }
    let entry = doc! {
        "ts": Timestamp { time: 0, increment: 0 },
        "t": Bson::Null,
        "v": 0,
        "op": "c",
        "ns": format!("{}.$cmd", meta.db),
        "o": create,
        "ui": Binary { subtype: BinarySubtype::Uuid, bytes: uuid.bytes().to_vec() },
    };
    Creation { db: "admin".to_owned(), command: doc! { "applyOps": [entry], "bypassDocumentValidation": true } }
}

/// Returns the backup's description of the `_id` index, with the namespace, which older servers require in it.
fn id_index(meta: &NamespaceMeta) -> Option<Document> {
    let found = meta
        .indexes
        .iter()
        .flatten()
        .find(|index| index.get_document("key").is_ok_and(|key| key.len() == 1 && is_ascending(key.get("_id"))));
    let mut index = found.cloned().unwrap_or_else(|| doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" });
    index.insert("ns", format!("{}.{}", meta.db, meta.coll));
    Some(index)
}

fn is_ascending(direction: Option<&Bson>) -> bool {
    match direction {
        Some(Bson::Int32(n)) => *n == 1,
        Some(Bson::Int64(n)) => *n == 1,
        Some(Bson::Double(n)) => (*n - 1.0).abs() < f64::EPSILON,
        _ => false,
    }
}

async fn drop_one(database: &Database, coll: &str) -> Result<()> {
    let Err(error) = database.run_command(doc! { "drop": coll, "writeConcern": { "w": 1 } }).await else {
        return Ok(());
    };
    match code::code(&error) {
        Some(code::NAMESPACE_NOT_FOUND) => Ok(()),
        // The oplog may create the collection again, and then it must be empty.
        Some(code::ILLEGAL_OPERATION) if coll == SYSTEM_JS => {
            empty(database, coll).await.with_context(|| format!("empty '{}.{coll}'", database.name()))
        }
        _ => Err(error).with_context(|| format!("drop '{}.{coll}'", database.name())),
    }
}

async fn empty(database: &Database, coll: &str) -> Result<()> {
    let all = doc! { "delete": coll, "deletes": [{ "q": {}, "limit": 0 }], "writeConcern": { "w": 1 } };
    let answer = database.run_command(all).await?;
    match answer.get("writeErrors") {
        None => Ok(()),
        Some(errors) => bail!("{errors}"),
    }
}

fn stop_if(cancel: &CancellationToken) -> Result<()> {
    if cancel.is_cancelled() { bail!("the restore was cancelled") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::Uuid;

    fn meta(options: Document, indexes: Option<Vec<Document>>) -> NamespaceMeta {
        NamespaceMeta {
            db: "shop".to_owned(),
            coll: "c".to_owned(),
            kind: NamespaceKind::Collection,
            options,
            indexes,
            uuid: Some(Uuid::from_bytes([0x42; 16])),
            crc: 0,
            size: 0,
            object: None,
        }
    }

    fn entry(meta: &NamespaceMeta) -> Document {
        let creation = creation(meta);
        assert_eq!(creation.db, "admin");
        assert_eq!(creation.command.keys().collect::<Vec<_>>(), ["applyOps", "bypassDocumentValidation"]);
        let entries = creation.command.get_array("applyOps").expect("entries");
        entries[0].as_document().expect("an entry").clone()
    }

    /// A UUID is set through an oplog entry (docs/format.md E.5).
    #[test]
    fn a_uuid_is_given_through_an_oplog_entry() {
        let options = doc! { "capped": true, "size": 65536, "max": 100 };
        let indexes = vec![doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }, doc! { "key": { "a": 1 } }];
        assert_eq!(
            entry(&meta(options, Some(indexes))),
            doc! {
                "ts": Timestamp { time: 0, increment: 0 }, "t": null, "v": 0, "op": "c", "ns": "shop.$cmd",
                "o": {
                    "create": "c", "capped": true, "size": 65536, "max": 100,
                    "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_", "ns": "shop.c" },
                },
                "ui": Binary { subtype: BinarySubtype::Uuid, bytes: vec![0x42; 16] },
            }
        );
    }

    #[test]
    fn the_id_index_keeps_its_collation_and_is_left_out_when_clustered() {
        let collation = doc! { "locale": "en", "strength": 2 };
        let index = doc! { "v": 2, "key": { "_id": 1.0 }, "name": "_id_", "collation": collation.clone() };
        let created = entry(&meta(doc! { "collation": collation.clone() }, Some(vec![index])));
        let index = created.get_document("o").and_then(|o| o.get_document("idIndex")).expect("an index");
        assert_eq!(index.get_document("collation").expect("a collation"), &collation);

        let clustered = meta(doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true } }, None);
        assert!(!entry(&clustered).get_document("o").expect("o").contains_key("idIndex"));
    }

    #[test]
    fn without_a_uuid_a_plain_command_is_enough() {
        let view = NamespaceMeta {
            kind: NamespaceKind::View,
            uuid: None,
            ..meta(doc! { "viewOn": "orders", "pipeline": [] }, None)
        };
        let expected =
            Creation { db: "shop".to_owned(), command: doc! { "create": "c", "viewOn": "orders", "pipeline": [] } };
        assert_eq!(creation(&view), expected);
        let collection = NamespaceMeta { uuid: None, ..meta(doc! {}, None) };
        assert_eq!(creation(&collection).command, doc! { "create": "c" });
    }
}
