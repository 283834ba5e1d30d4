//! Reads the facts about the restored replica set that a plan needs.

use super::plan::{Target, TargetNamespace};
use crate::mongo::{listing, version::Version};
use anyhow::{Context as _, Result};
use bson::{Binary, Document, Uuid, doc};
use mongodb::{Client, Database};

/// Reads the version of the connected node and all of its namespaces.
pub async fn read(client: &Client) -> Result<Target> {
    let admin = client.database("admin");
    let build = admin.run_command(doc! { "buildInfo": 1 }).await.context("ask the server for its version")?;
    let text = build.get_str("version").context("read the server's version")?;
    let server = Version::parse(text).with_context(|| format!("understand the server version '{text}'"))?;
    let question = doc! { "getParameter": 1, "featureCompatibilityVersion": 1 };
    let answer = admin.run_command(question).await.context("ask for the feature compatibility version")?;
    let fcv = answer
        .get_document("featureCompatibilityVersion")
        .and_then(|fcv| fcv.get_str("version"))
        .unwrap_or_default()
        .to_owned();
    let mut namespaces = Vec::new();
    for db in listing::databases(client).await?.names {
        let database = client.database(&db);
        for (coll, uuid) in list(&database, doc! {}).await? {
            namespaces.push(TargetNamespace { db: db.clone(), coll, uuid });
        }
    }
    Ok(Target { server, fcv, namespaces })
}

/// Returns the names and UUIDs of a database's namespaces. Views and time series have no UUID.
pub async fn list(database: &Database, filter: Document) -> Result<Vec<(String, Option<Uuid>)>> {
    let question = doc! { "listCollections": 1, "filter": filter };
    let context = || format!("list the collections of '{}'", database.name());
    let listed = listing::documents(database, question).await.with_context(context)?;
    listed
        .into_iter()
        .map(|entry| {
            let name = entry.get_str("name").with_context(context)?.to_owned();
            Ok((name, entry.get_document("info").ok().and_then(uuid)))
        })
        .collect()
}

fn uuid(info: &Document) -> Option<Uuid> {
    let bson::Bson::Binary(Binary { bytes, .. }) = info.get("uuid")? else { return None };
    Some(Uuid::from_bytes(bytes.as_slice().try_into().ok()?))
}
