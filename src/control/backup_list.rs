//! `pbmBackups` as the catalogue of all storages: what a resync writes into it (docs/format.md A.10).
//!
//! A resync writes in batches, and at no moment are known backups missing: first each backup that was found replaces
//! its document, and then the documents of backups that were not found are removed.

use super::{OpDocs, calls::Query, ops::CLEANUP_DUE};
use crate::model::{backup::BackupMeta, config::StorageConf, names, status::Status};
use crate::mongo::code::DUPLICATE_KEY;
use anyhow::{Context, Result, bail};
use bson::{Bson, Document, doc};
use std::collections::HashSet;

/// A command is one document, and the server limits documents to 16 MiB.
const BATCH_BYTES: usize = 4 << 20;
const READ: &str = "read admin.pbmBackups";
const WRITE: &str = "write backups to admin.pbmBackups";

/// The storage of some backups, in the form in which their documents name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf<'a> {
    Main,
    Profile(&'a str),
}

impl Shelf<'_> {
    fn filter(self) -> Document {
        match self {
            Self::Main => doc! { "store.profile": Bson::Null },
            Self::Profile(name) => doc! { "store.profile": true, "store.name": name },
        }
    }
}

/// A backup that was found on a storage.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub backup: BackupMeta,
    /// Whether this backup replaces a backup of the same name on another storage.
    pub wins: bool,
}

impl OpDocs<BackupMeta> {
    /// Returns the names of the backups on a storage. Failed backups whose objects must still be removed are left out.
    async fn names_on(&self, shelf: Shelf<'_>) -> Result<Vec<String>> {
        let mut filter = shelf.filter();
        filter.insert(CLEANUP_DUE, doc! { "$ne": true });
        let found = self.coll.find(Query::from(filter).only(doc! { "_id": 0, "name": 1 })).await.context(READ)?;
        Ok(found.iter().filter_map(|found| found.get_str("name").ok().map(str::to_owned)).collect())
    }

    /// Returns the newest complete backup of all namespaces on the main storage.
    pub async fn newest_full(&self) -> Result<Option<BackupMeta>> {
        let mut filter = Shelf::Main.filter();
        filter
            .extend(doc! { "status": Status::Done.as_str(), "nss": { "$in": [Bson::Null, Bson::Array(Vec::new())] } });
        let newest = Query::from(filter).sorted(doc! { "start_ts": -1 });
        let found = self.coll.find_one(newest).await.context(READ)?;
        Ok(found.and_then(|found| self.unreadable.read(names::BACKUPS, found)))
    }

    /// Returns the names and storages of all complete backups. A backup whose storage can't be read is left out.
    pub async fn places_of_done(&self) -> Result<Vec<(String, StorageConf)>> {
        let done = Query::from(doc! { "status": Status::Done.as_str() });
        let done = done.sorted(doc! { "start_ts": 1 }).only(doc! { "name": 1, "store": 1 });
        let done = self.coll.find(done).await.context(READ)?;
        let place = |backup: &Document| {
            let store = bson::deserialize_from_document(backup.get_document("store").ok()?.clone()).ok()?;
            Some((backup.get_str("name").ok()?.to_owned(), store))
        };
        Ok(done.iter().filter_map(place).collect())
    }

    /// Returns the number of known backups on a storage.
    pub async fn count_on(&self, shelf: Shelf<'_>) -> Result<u64> {
        self.coll.count(shelf.filter()).await.context("count the backups in admin.pbmBackups")
    }

    /// Writes the backups that were found on a storage. Each replaces the document of the same name. Returns the names
    /// that stay with another storage.
    pub async fn put_found(&self, shelf: Shelf<'_>, found: &[Entry]) -> Result<Vec<String>> {
        let mut kept = Vec::new();
        let mut batch: Vec<(&str, Document)> = Vec::new();
        let mut bytes = 0;
        for entry in found {
            let name = entry.backup.name.as_str();
            let mut filter = if entry.wins { Document::new() } else { shelf.filter() };
            filter.insert("name", name);
            let document =
                bson::serialize_to_document(&entry.backup).with_context(|| format!("encode backup {name}"))?;
            let size = document.to_vec().with_context(|| format!("encode backup {name}"))?.len();
            if bytes + size > BATCH_BYTES && !batch.is_empty() {
                kept.extend(self.put_batch(std::mem::take(&mut batch)).await?);
                bytes = 0;
            }
            bytes += size;
            batch.push((name, doc! { "q": filter, "u": document, "upsert": true }));
        }
        if !batch.is_empty() {
            kept.extend(self.put_batch(batch).await?);
        }
        self.bell.ring().await;
        Ok(kept)
    }

    async fn put_batch(&self, batch: Vec<(&str, Document)>) -> Result<Vec<String>> {
        let (names, updates): (Vec<&str>, Vec<Document>) = batch.into_iter().unzip();
        let answer = self.coll.replace_many(updates).await.context(WRITE)?;
        if let Some(error) = answer.get("writeConcernError") {
            bail!("{WRITE}: {error}");
        }
        let mut kept = Vec::new();
        for error in answer.get_array("writeErrors").into_iter().flatten().filter_map(Bson::as_document) {
            let name = error.get_i32("index").ok().and_then(|at| names.get(usize::try_from(at).ok()?));
            let name = name.copied().unwrap_or("?");
            if error.get_i32("code").ok() != Some(DUPLICATE_KEY) {
                bail!("{WRITE}: {name}: {}", error.get_str("errmsg").unwrap_or("no reason given"));
            }
            kept.push(name.to_owned());
        }
        Ok(kept)
    }

    /// Removes the documents of a storage's backups whose names are not in `there`. The documents of failed backups
    /// whose objects must still be removed stay. Returns how many documents were removed.
    pub async fn drop_others(&self, shelf: Shelf<'_>, there: &HashSet<String>) -> Result<u64> {
        let mut gone = self.names_on(shelf).await?;
        gone.retain(|name| !there.contains(name));
        let mut dropped = 0;
        for names in gone.chunks(1000) {
            let mut filter = shelf.filter();
            filter.insert("name", doc! { "$in": names });
            filter.insert(CLEANUP_DUE, doc! { "$ne": true });
            dropped += self.coll.delete_many(filter).await.context("remove backups from admin.pbmBackups")?;
        }
        self.bell.ring().await;
        Ok(dropped)
    }

    /// Removes the documents of all backups of a profile, when the profile is removed.
    pub async fn drop_profile(&self, profile: &str) -> Result<u64> {
        let dropped = self.coll.delete_many(Shelf::Profile(profile).filter()).await;
        self.bell.ring().await;
        dropped.context("remove the profile's backups from admin.pbmBackups")
    }
}
