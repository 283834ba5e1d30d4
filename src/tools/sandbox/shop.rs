//! The data of the sandbox, and how it is compared.

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use mongodb::{
    Client, Database, IndexModel,
    bson::{DateTime, Document, doc},
    options::IndexOptions,
};

const FIRST_MS: i64 = 1_700_000_000_000;

fn database(client: &Client) -> Database {
    client.database("shop")
}

pub async fn fill(client: &Client) -> Result<()> {
    let shop = database(client);
    add_orders(&shop).await?;
    shop.run_command(doc! { "create": "big_orders", "viewOn": "orders", "pipeline": [{ "$match": { "qty": 6 } }] })
        .await
        .context("create the view big_orders")?;
    shop.run_command(doc! { "create": "visits", "timeseries": { "timeField": "t", "metaField": "page" } })
        .await
        .context("create the time series visits")?;
    let visits = (0..1000).map(|n| doc! { "t": DateTime::from_millis(FIRST_MS + n * 1000), "page": n % 5, "ms": n });
    shop.collection::<Document>("visits").insert_many(visits).await.context("insert visits")?;
    Ok(())
}

async fn add_orders(shop: &Database) -> Result<()> {
    const ORDERS: i32 = 20_000;
    const BATCH: i32 = 2000;
    let orders = shop.collection::<Document>("orders");
    for first in (0..ORDERS).step_by(BATCH as usize) {
        let batch = (first..first + BATCH).map(|id| {
            doc! {
                "_id": id, "sku": format!("sku-{}", id % 97), "qty": id % 7,
                "at": DateTime::from_millis(FIRST_MS + i64::from(id) * 60_000), "note": "thank you ".repeat(5),
            }
        });
        orders.insert_many(batch).await.context("insert orders")?;
    }
    let hidden = IndexOptions::builder().name("by_qty".to_owned()).hidden(true).build();
    orders
        .create_indexes([
            IndexModel::builder().keys(doc! { "sku": 1, "at": -1 }).build(),
            IndexModel::builder().keys(doc! { "qty": 1 }).options(hidden).build(),
        ])
        .await
        .context("create the indexes of orders")?;
    Ok(())
}

/// Drops the database and checks that nothing is left.
pub async fn drop_all(client: &Client) -> Result<()> {
    database(client).drop().await.context("drop the database shop")?;
    ensure!(Summary::read(client).await?.documents == 0, "the database shop was dropped and still has documents");
    Ok(())
}

/// What is compared before and after.
#[derive(Debug, PartialEq)]
pub struct Summary {
    pub collections: usize,
    pub documents: u64,
    checksums: Vec<(String, u64)>,
    indexes: Vec<String>,
}

impl Summary {
    pub async fn read(client: &Client) -> Result<Self> {
        let shop = database(client);
        let filter = doc! { "name": { "$not": { "$regex": "^system\\." } } };
        let found = shop.run_cursor_command(doc! { "listCollections": 1, "filter": filter }).await;
        let mut found: Vec<Document> = found.context("list the collections")?.try_collect().await?;
        found.sort_by_key(|it| it.get_str("name").unwrap_or_default().to_owned());
        let mut summary = Self { collections: found.len(), documents: 0, checksums: Vec::new(), indexes: Vec::new() };
        for collection in &found {
            let name = collection.get_str("name").context("read the name of a collection")?;
            let (count, checksum) = checksum(&shop, name).await?;
            summary.checksums.push((name.to_owned(), checksum));
            if !collection.get_str("type").is_ok_and(|kind| kind == "view") {
                summary.documents += count;
                summary.indexes.extend(indexes(&shop, name).await?);
            }
        }
        Ok(summary)
    }
}

/// The number of documents and the checksum of their bytes, in the order of their ids.
async fn checksum(shop: &Database, name: &str) -> Result<(u64, u64)> {
    let (mut count, mut digest) = (0, crc64fast::Digest::new());
    let sorted = shop.collection::<Document>(name).find(doc! {}).sort(doc! { "_id": 1 }).await;
    let mut documents = sorted.with_context(|| format!("read {name}"))?;
    while let Some(document) = documents.try_next().await.with_context(|| format!("read {name}"))? {
        count += 1;
        digest.write(&document.to_vec()?);
    }
    Ok((count, digest.sum64()))
}

async fn indexes(shop: &Database, name: &str) -> Result<Vec<String>> {
    let found = shop.run_cursor_command(doc! { "listIndexes": name }).await;
    let found: Vec<Document> = found.with_context(|| format!("list the indexes of {name}"))?.try_collect().await?;
    let mut indexes: Vec<String> = found.iter().map(|index| format!("{name}: {index}")).collect();
    indexes.sort();
    Ok(indexes)
}
