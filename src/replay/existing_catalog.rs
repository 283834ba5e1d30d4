//! The catalogue of a replay onto collections that are in use: what the server has now.

use anyhow::{Context, Result};
use bson::{Document, Uuid, doc};
use mongodb::{Client, Database};

use crate::mongo::{code, listing};
use crate::replay::owed::Catalog;

/// Reads all collections with their UUIDs and indexes from the primary behind `client`. What is found by name anyway
/// (`config`) and what no replay touches (`local`) is left out.
pub async fn read(client: &Client, server_major: i32) -> Result<Catalog> {
    let mut catalog = Catalog::new(server_major);
    for db in listing::databases(client).await? {
        if matches!(db.as_str(), "config" | "local") {
            continue;
        }
        let database = client.database(&db);
        let failed = || format!("list the collections of {db}");
        let listed = listing::documents(&database, doc! {"listCollections": 1}).await.with_context(failed)?;
        for each in listed.iter().filter(|each| each.get_str("type").is_ok_and(|kind| kind == "collection")) {
            let name = each.get_str("name").with_context(failed)?;
            let uuid = each.get_document("info").ok().and_then(|info| info.get("uuid")).cloned();
            let Some(uuid) = uuid else { continue };
            let uuid: Uuid = bson::deserialize_from_bson(uuid).with_context(failed)?;
            let Some(indexes) = indexes(&database, name).await? else { continue };
            let options = each.get_document("options").cloned().unwrap_or_default();
            catalog.adopt(&db, name, uuid, &options, indexes);
        }
    }
    Ok(catalog)
}

/// `None` if the collection has been dropped meanwhile.
async fn indexes(database: &Database, coll: &str) -> Result<Option<Vec<Document>>> {
    let failed = || format!("list the indexes of {}.{coll}", database.name());
    match listing::documents(database, doc! {"listIndexes": coll}).await {
        Ok(indexes) => Ok(Some(indexes)),
        Err(error) if code::code(&error) == Some(code::NAMESPACE_NOT_FOUND) => Ok(None),
        Err(error) => Err(error).with_context(failed),
    }
}
