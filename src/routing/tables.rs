//! The routing tables of a backup.

use crate::raw::find;
use crate::snapshot::stored::StoredDocuments;
use crate::storage::Storage;
use anyhow::{Context as _, Result};
use bson::{RawDocument, Uuid};
use std::collections::BTreeSet;

/// The routing tables that a restore replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Databases,
    Collections,
    Chunks,
    /// Zones.
    Tags,
}

impl Table {
    /// Returns the name of its collection in the database `config`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Databases => "databases",
            Self::Collections => "collections",
            Self::Chunks => "chunks",
            Self::Tags => "tags",
        }
    }

    /// Returns the table of a namespace (`config.chunks`).
    #[must_use]
    pub fn of(ns: &str) -> Option<Self> {
        let name = ns.strip_prefix("config.")?;
        [Self::Databases, Self::Collections, Self::Chunks, Self::Tags].into_iter().find(|table| table.name() == name)
    }
}

/// The backup's routing tables. If one is missing, the target keeps its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutingSource {
    pub databases: Option<StoredDocuments>,
    pub collections: Option<StoredDocuments>,
    pub chunks: Option<StoredDocuments>,
    /// Zones.
    pub tags: Option<StoredDocuments>,
    /// The replica set of each shard id. This table is only read and not restored.
    pub shards: Option<StoredDocuments>,
}

impl RoutingSource {
    /// Returns the table with this name.
    pub fn table(&mut self, coll: &str) -> Option<&mut Option<StoredDocuments>> {
        match coll {
            "databases" => Some(&mut self.databases),
            "collections" => Some(&mut self.collections),
            "chunks" => Some(&mut self.chunks),
            "tags" => Some(&mut self.tags),
            "shards" => Some(&mut self.shards),
            _ => None,
        }
    }

    /// Returns the tables that are restored, in the order in which they are written.
    pub fn restored(&self) -> impl Iterator<Item = (Table, &StoredDocuments)> {
        let tables = [
            (Table::Databases, &self.databases),
            (Table::Collections, &self.collections),
            (Table::Chunks, &self.chunks),
            (Table::Tags, &self.tags),
        ];
        tables.into_iter().filter_map(|(table, data)| Some((table, data.as_ref()?)))
    }

    /// Returns the databases in the backup's table, including those without a collection in the backup.
    pub async fn named(&self, storage: &dyn Storage) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        each(storage, self.databases.as_ref(), |database| {
            names.insert(text_of(database, "_id").context("read the name of a database")?.to_owned());
            Ok(())
        })
        .await?;
        Ok(names)
    }
}

/// Calls `see` with every document of a table.
pub(super) async fn each(
    storage: &dyn Storage,
    data: Option<&StoredDocuments>,
    mut see: impl FnMut(&RawDocument) -> Result<()>,
) -> Result<()> {
    let Some(data) = data else { return Ok(()) };
    let mut reading = data.open(storage).await?;
    while let Some(document) = reading.next_document().await? {
        see(&document)?;
    }
    Ok(())
}

/// Returns a text field of a routing document.
pub(super) fn text_of<'a>(document: &'a RawDocument, name: &str) -> Option<&'a str> {
    find(document, name)?.text()
}

/// Returns the collection UUID in a routing document.
pub(super) fn uuid_of(document: &RawDocument) -> Option<Uuid> {
    find(document, "uuid")?.uuid()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::storage::memory::Memory;
    use bson::Document;

    /// Stores the documents in the form of a collection that was set aside from an archive.
    pub async fn stored(store: &Memory, name: &str, documents: &[Document]) -> Option<StoredDocuments> {
        let bytes: Vec<u8> = documents.iter().flat_map(|it| it.to_vec().expect("a document")).collect();
        let mut crc = crate::archive::crc::Crc64::new();
        crc.update(&bytes);
        let (size, crc) = (bytes.len() as u64, crc.value());
        crate::storage::write_all(store, name, bytes).await.expect("memory takes everything");
        let compression = crate::model::compression::Compression::None;
        Some(StoredDocuments { object: name.to_owned(), compression, size, crc })
    }

    #[test]
    fn tables_are_found_by_their_namespaces() {
        for table in [Table::Databases, Table::Collections, Table::Chunks, Table::Tags] {
            assert_eq!(Table::of(&format!("config.{}", table.name())), Some(table));
        }
        for other in ["config.shards", "config.chunks.x", "shop.chunks", "chunks"] {
            assert_eq!(Table::of(other), None, "{other}");
        }
    }
}
