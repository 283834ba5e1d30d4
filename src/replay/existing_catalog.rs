//! Reads the catalogue from the server, for a replay that changes collections in use.

use anyhow::{Context, Result, bail};
use bson::{Document, Uuid, doc};
use mongodb::{Client, Database};

use crate::mongo::{capabilities::Capabilities, code, listing};
use crate::raw::text;
use crate::replay::catalog::Catalog;

/// Reads all collections with their UUIDs and indexes from the primary behind `client`. The database `config` is left out,
/// because its collections are found by name, and `local`, because no replay changes it.
pub async fn read(client: &Client, able: Capabilities) -> Result<Catalog> {
    let mut catalog = Catalog::new(able);
    for db in listing::databases(client).await?.names {
        if matches!(db.as_str(), "config" | "local") {
            continue;
        }
        let database = client.database(&db);
        let failed = || format!("list the collections of {db}");
        let listed = listing::documents(&database, doc! {"listCollections": 1}).await.with_context(failed)?;
        for listed in &listed {
            let name = listed.get_str("name").with_context(failed)?;
            // The replay leaves out what happened to it.
            if text::is_made_of_bytes(name) {
                continue;
            }
            let uuid = listed.get_document("info").ok().and_then(|info| info.get("uuid")).cloned();
            // Views and time series have none.
            let Some(uuid) = uuid else { continue };
            if let Some(other) = listed.get_str("type").ok().filter(|kind| *kind != "collection") {
                bail!(
                    "{db}.{name} is a '{other}' that has documents of its own, which this version does not know, so it can't \
                     replay changes of it; nothing was changed"
                );
            }
            let uuid: Uuid = bson::deserialize_from_bson(uuid).with_context(failed)?;
            let Some(indexes) = read_indexes(&database, name).await? else { continue };
            let options = listed.get_document("options").cloned().unwrap_or_default();
            catalog.adopt(&db, name, uuid, &options, indexes);
        }
    }
    Ok(catalog)
}

/// The indexes of a collection, or `None` if it was dropped while the catalogue was read.
async fn read_indexes(database: &Database, coll: &str) -> Result<Option<Vec<Document>>> {
    let failed = || format!("list the indexes of {}.{coll}", database.name());
    match listing::documents(database, doc! {"listIndexes": coll}).await {
        Ok(indexes) => Ok(Some(indexes)),
        Err(error) if code::code(&error) == Some(code::NAMESPACE_NOT_FOUND) => Ok(None),
        Err(error) => Err(error).with_context(failed),
    }
}
