//! `pbmConfig`: the main configuration (spec/format.md C.3). Profiles have documents of their own.

use super::Bell;
use crate::model::{config::Config, names};
use anyhow::{Context, Result};
use bson::{Bson, Document, Timestamp, doc};
use mongodb::{Collection, Database};
use std::sync::Arc;

/// Reads and writes the configuration.
#[derive(Debug, Clone)]
pub struct Configs {
    coll: Collection<Document>,
    bell: Arc<Bell>,
}

fn main() -> Document {
    doc! { "profile": Bson::Null }
}

impl Configs {
    pub(super) fn new(db: &Database, bell: &Arc<Bell>) -> Self {
        Self { coll: db.collection(names::CONFIG), bell: bell.clone() }
    }

    /// The main configuration; `None` before the first `pbm config --file`.
    pub async fn main(&self) -> Result<Option<Config>> {
        self.main_document()
            .await?
            .map(|d| bson::deserialize_from_document(d).context("the configuration in admin.pbmConfig can't be read"))
            .transpose()
    }

    /// The main configuration as stored.
    pub async fn main_document(&self) -> Result<Option<Document>> {
        self.coll.find_one(main()).await.context("read admin.pbmConfig")
    }

    /// Replaces the main configuration. Its epoch becomes `epoch`.
    pub async fn replace_main(&self, config: &Config, epoch: Timestamp) -> Result<()> {
        let mut document = bson::serialize_to_document(config).context("encode the configuration")?;
        document.insert("epoch", epoch);
        self.coll.replace_one(main(), document).upsert(true).await.context("write admin.pbmConfig")?;
        self.bell.ring().await;
        Ok(())
    }

    /// Sets dotted keys of the main configuration. `false` when there is none.
    pub async fn set(&self, keys: Document) -> Result<bool> {
        let done = self.coll.update_one(main(), doc! { "$set": keys }).await.context("write admin.pbmConfig")?;
        self.bell.ring().await;
        Ok(done.matched_count > 0)
    }

    /// Starts a new generation of the configuration.
    pub async fn set_epoch(&self, epoch: Timestamp) -> Result<()> {
        self.set(doc! { "epoch": epoch }).await.map(drop)
    }

    /// Switches point-in-time recovery off and starts a new generation, if it is on. `true` if it was.
    pub async fn switch_pitr_off(&self, epoch: Timestamp) -> Result<bool> {
        let mut on = main();
        on.insert("pitr.enabled", true);
        let done = self
            .coll
            .update_one(on, doc! { "$set": { "pitr.enabled": false, "epoch": epoch } })
            .await
            .context("switch PITR off in admin.pbmConfig")?;
        self.bell.ring().await;
        Ok(done.matched_count > 0)
    }

    /// Switches point-in-time recovery on again.
    pub async fn switch_pitr_on(&self) -> Result<()> {
        self.set(doc! { "pitr.enabled": true }).await.map(drop)
    }
}
