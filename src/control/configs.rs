//! `pbmConfig`: the main configuration, and the storage profiles, each in a document of its own (docs/format.md C.3).

use super::{
    Bell,
    calls::Query,
    table::{Home, Table},
};
use crate::config::{edit::Update, reading};
use crate::model::{
    config::{Config, StorageConf},
    names,
};
use crate::mongo::code::is_duplicate_key;
use anyhow::{Context, Result};
use bson::{Bson, Document, Timestamp, doc};
use std::sync::Arc;

/// Reads and writes the configuration.
#[derive(Debug, Clone)]
pub struct Configs {
    coll: Table,
    bell: Arc<Bell>,
}

fn main() -> Document {
    doc! { "profile": Bson::Null }
}

/// A document *added by us* that lists the storages whose mark was seen. No reader takes it for the main configuration
/// or a profile.
const MARKED: &str = "markedStorages";

fn marked() -> Document {
    doc! { "_id": MARKED }
}

fn named(profile: &str) -> Document {
    doc! { "profile": true, "name": profile }
}

impl Configs {
    pub(super) fn new(home: &Home, bell: &Arc<Bell>) -> Self {
        Self { coll: home.table(names::CONFIG), bell: bell.clone() }
    }

    /// Returns the main configuration, or `None` before the first `pbm config --file`. Its `mistakes` list the values
    /// that can't be used.
    pub async fn main(&self) -> Result<Option<Config>> {
        Ok(self.main_document().await?.as_ref().map(reading::read))
    }

    /// Returns the stored document of the main configuration.
    pub async fn main_document(&self) -> Result<Option<Document>> {
        self.coll.find_one(main()).await.context("read admin.pbmConfig")
    }

    /// Returns the storages whose mark was seen or written, each as one text.
    pub async fn remembered_storages(&self) -> Result<Vec<String>> {
        let found = self.coll.find_one(marked()).await.context("read admin.pbmConfig")?;
        let places = found.and_then(|found| found.get_array("places").cloned().ok()).unwrap_or_default();
        Ok(places.iter().filter_map(|place| place.as_str().map(str::to_owned)).collect())
    }

    /// Records that a storage has its mark.
    pub async fn remember_storage(&self, place: &str) -> Result<()> {
        // The storage is usually recorded already, and a query is cheaper than a write.
        let mut known = marked();
        known.insert("places", place);
        if self.coll.find_one(known).await.context("read admin.pbmConfig")?.is_some() {
            return Ok(());
        }
        let update = doc! { "$addToSet": { "places": place }, "$setOnInsert": { "profile": MARKED } };
        let done = self.coll.upsert_one(marked(), update).await;
        match done {
            // Another agent has created the document meanwhile, so this agent adds the storage to it.
            Err(error) if is_duplicate_key(&error) => {
                let update = doc! { "$addToSet": { "places": place } };
                self.coll.update_one(marked(), update).await.map(drop)
            }
            done => done.map(drop),
        }
        .context("remember the storage in admin.pbmConfig")
    }

    /// Removes the record that a storage has its mark.
    pub async fn forget_storage(&self, place: &str) -> Result<()> {
        let update = doc! { "$pull": { "places": place } };
        self.coll.update_one(marked(), update).await.map(drop).context("forget the storage in admin.pbmConfig")
    }

    /// Returns the stored documents of the main configuration (first) and of all profiles, even those that can't be
    /// decoded.
    pub async fn documents(&self) -> Result<Vec<Document>> {
        let all = Query::from(doc! { "_id": { "$ne": MARKED } });
        self.coll.find(all.sorted(doc! { "profile": 1, "name": 1 })).await.context("read admin.pbmConfig")
    }

    /// Replaces the main configuration and sets its epoch to `epoch`.
    pub async fn replace_main(&self, config: &Config, epoch: Timestamp) -> Result<()> {
        let mut document = bson::serialize_to_document(config).context("encode the configuration")?;
        document.insert("epoch", epoch);
        self.coll.replace_or_insert(main(), document).await.context("write admin.pbmConfig")?;
        self.bell.ring().await;
        Ok(())
    }

    /// Returns all storage profiles, sorted by name. A profile that can't be decoded has an unusable storage.
    pub async fn profiles(&self) -> Result<Vec<Config>> {
        let found = self.coll.find(Query::from(doc! { "profile": true }).sorted(doc! { "name": 1 })).await;
        let found = found.context("read the profiles in admin.pbmConfig")?;
        Ok(found.iter().map(reading::read).collect())
    }

    /// Stores a profile and sets its epoch to `epoch`. A profile of the same name is replaced.
    pub async fn put_profile(&self, name: &str, storage: &StorageConf, epoch: Timestamp) -> Result<()> {
        let storage = bson::serialize_to_document(storage).context("encode the profile")?;
        let document = doc! { "name": name, "profile": true, "storage": storage, "epoch": epoch };
        self.coll.replace_or_insert(named(name), document).await.context("write admin.pbmConfig")?;
        self.bell.ring().await;
        Ok(())
    }

    /// Removes a profile. Returns `false` if no profile has this name.
    pub async fn remove_profile(&self, name: &str) -> Result<bool> {
        let done = self.coll.delete_many(named(name)).await.context("remove a profile from admin.pbmConfig")?;
        self.bell.ring().await;
        Ok(done > 0)
    }

    /// Sets dotted keys of the main configuration. Returns `false` if there is no configuration.
    async fn set(&self, keys: Document) -> Result<bool> {
        self.update(Update { set: keys, unset: Document::new() }).await
    }

    /// Sets some dotted keys of the main configuration and unsets others. Returns `false` if there is no configuration.
    pub async fn update(&self, keys: Update) -> Result<bool> {
        // Old servers refuse an update operator without keys.
        let parts = [("$set", keys.set), ("$unset", keys.unset)].into_iter().filter(|(_, keys)| !keys.is_empty());
        let update: Document = parts.map(|(name, keys)| (name.to_owned(), Bson::from(keys))).collect();
        let done = self.coll.update_one(main(), update).await.context("write admin.pbmConfig")?;
        self.bell.ring().await;
        Ok(done.matched > 0)
    }

    /// Starts a new generation of the configuration.
    pub async fn set_epoch(&self, epoch: Timestamp) -> Result<()> {
        self.set(doc! { "epoch": epoch }).await.map(drop)
    }

    /// If point-in-time recovery is on, switches it off and starts a new generation. Returns whether it was on.
    pub async fn switch_pitr_off(&self, epoch: Timestamp) -> Result<bool> {
        let mut on = main();
        on.insert("pitr.enabled", true);
        let done = self
            .coll
            .update_one(on, doc! { "$set": { "pitr.enabled": false, "epoch": epoch } })
            .await
            .context("switch PITR off in admin.pbmConfig")?;
        self.bell.ring().await;
        Ok(done.matched > 0)
    }

    /// Switches point-in-time recovery on again.
    pub async fn switch_pitr_on(&self) -> Result<()> {
        self.set(doc! { "pitr.enabled": true }).await.map(drop)
    }
}
