//! The basic calls on one control collection. All other methods of this folder use them.
//!
//! The collection is on the server or, in tests, in memory ([`super::memory`]). So tests run the same filters and
//! updates as an agent, but without a server and without waiting in real time.

use super::{
    AWAIT,
    calls::{Query, Updated},
    memory,
};
use bson::{Document, doc};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use mongodb::{
    Collection, Database,
    error::Result,
    options::{CollectionOptions, CursorType, ReadConcern},
};
use serde::{Serialize, de::DeserializeOwned};

/// The place of the control collections: the server or memory.
#[derive(Debug, Clone)]
pub(super) enum Home {
    Server(Database),
    Memory(memory::Link),
}

impl Home {
    pub fn table<T: Send + Sync>(&self, name: &str) -> Table<T> {
        match self {
            Self::Server(db) => Table::Server(db.collection(name)),
            Self::Memory(link) => Table::Memory(link.collection(name)),
        }
    }

    /// Does the same as [`Self::table`]. `options` set the read and write concern of the calls.
    pub fn table_with<T: Send + Sync>(&self, name: &str, options: CollectionOptions) -> Table<T> {
        match self {
            Self::Server(db) => Table::Server(db.collection_with_options(name, options)),
            Self::Memory(link) => Table::Memory(link.collection(name)),
        }
    }
}

/// A collection whose documents are decoded as `T`.
#[derive(Debug)]
pub(super) enum Table<T: Send + Sync = Document> {
    Server(Collection<T>),
    Memory(memory::Collection),
}

impl<T: Send + Sync> Clone for Table<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Server(coll) => Self::Server(coll.clone()),
            Self::Memory(coll) => Self::Memory(coll.clone()),
        }
    }
}

impl<T: Send + Sync> Table<T> {
    /// Returns the same collection, with documents that are not decoded.
    pub fn as_stored(&self) -> Table {
        match self {
            Self::Server(coll) => Table::Server(coll.clone_with_type()),
            Self::Memory(coll) => Table::Memory(coll.clone()),
        }
    }

    pub async fn update_one(&self, filter: Document, update: Document) -> Result<Updated> {
        match self {
            Self::Server(coll) => coll.update_one(filter, update).await.map(Into::into),
            Self::Memory(coll) => coll.update(filter, update, memory::Reach::First).await,
        }
    }

    /// Does the same as [`Self::update_one`], but inserts a document if none matches.
    pub async fn upsert_one(&self, filter: Document, update: Document) -> Result<Updated> {
        match self {
            Self::Server(coll) => coll.update_one(filter, update).upsert(true).await.map(Into::into),
            Self::Memory(coll) => coll.update(filter, update, memory::Reach::FirstOrNew).await,
        }
    }

    pub async fn update_many(&self, filter: Document, update: Document) -> Result<Updated> {
        match self {
            Self::Server(coll) => coll.update_many(filter, update).await.map(Into::into),
            Self::Memory(coll) => coll.update(filter, update, memory::Reach::All).await,
        }
    }

    /// Returns how many documents were deleted (0 or 1).
    pub async fn delete_one(&self, filter: Document) -> Result<u64> {
        match self {
            Self::Server(coll) => coll.delete_one(filter).await.map(|done| done.deleted_count),
            Self::Memory(coll) => coll.delete(filter, memory::Reach::First).await,
        }
    }

    /// Returns how many documents were deleted.
    pub async fn delete_many(&self, filter: Document) -> Result<u64> {
        match self {
            Self::Server(coll) => coll.delete_many(filter).await.map(|done| done.deleted_count),
            Self::Memory(coll) => coll.delete(filter, memory::Reach::All).await,
        }
    }
}

impl<T: Serialize + Send + Sync> Table<T> {
    pub async fn insert_one(&self, document: &T) -> Result<()> {
        match self {
            Self::Server(coll) => coll.insert_one(document).await.map(drop),
            Self::Memory(coll) => coll.insert(bson::serialize_to_document(document)?).await,
        }
    }
}

impl<T: DeserializeOwned + Send + Sync + Unpin + 'static> Table<T> {
    pub async fn find_one(&self, query: impl Into<Query>) -> Result<Option<T>> {
        let query = query.into();
        match self {
            Self::Server(coll) => {
                let found = coll.find_one(query.filter);
                let found = if let Some(sort) = query.sort { found.sort(sort) } else { found };
                if let Some(fields) = query.fields { found.projection(fields) } else { found }.await
            }
            Self::Memory(coll) => {
                let found = coll.find(query).await?.into_iter().next();
                Ok(found.map(bson::deserialize_from_document).transpose()?)
            }
        }
    }

    pub async fn find(&self, query: impl Into<Query>) -> Result<Vec<T>> {
        let query = query.into();
        match self {
            Self::Server(coll) => {
                let found = coll.find(query.filter);
                let found = if let Some(sort) = query.sort { found.sort(sort) } else { found };
                if let Some(fields) = query.fields { found.projection(fields) } else { found }
                    .await?
                    .try_collect()
                    .await
            }
            Self::Memory(coll) => {
                let found = coll.find(query).await?;
                Ok(found.into_iter().map(bson::deserialize_from_document).collect::<bson::error::Result<_>>()?)
            }
        }
    }
}

impl Table {
    /// Replaces the document that matches, or inserts the document if none matches.
    pub async fn replace_or_insert(&self, filter: Document, document: Document) -> Result<()> {
        match self {
            Self::Server(coll) => coll.replace_one(filter, document).upsert(true).await.map(drop),
            Self::Memory(coll) => coll.replace(filter, document).await.map(drop),
        }
    }

    /// Does the same as [`Self::replace_or_insert`], and returns the previous document.
    pub async fn swap(&self, filter: Document, document: Document) -> Result<Option<Document>> {
        match self {
            Self::Server(coll) => coll.find_one_and_replace(filter, document).upsert(true).await,
            Self::Memory(coll) => coll.replace(filter, document).await,
        }
    }

    /// Makes many replacements, each as `{q, u, upsert: true}`, in any order. Returns the answer of the command `update`, with
    /// the failed replacements in `writeErrors`.
    ///
    /// The driver has a method for this, but that method needs a newer server.
    pub async fn replace_many(&self, updates: Vec<Document>) -> Result<Document> {
        match self {
            Self::Server(coll) => {
                let mut command = doc! { "update": coll.name(), "updates": updates, "ordered": false };
                if let Some(concern) = coll.write_concern() {
                    command.insert("writeConcern", bson::serialize_to_document(concern)?);
                }
                coll.client().database(&coll.namespace().db).run_command(command).await
            }
            Self::Memory(coll) => coll.replace_many(updates).await,
        }
    }

    /// Returns the number of documents that match.
    pub async fn count(&self, filter: Document) -> Result<u64> {
        match self {
            Self::Server(coll) => coll.count_documents(filter).await,
            Self::Memory(coll) => Ok(coll.find(Query::from(filter)).await?.len() as u64),
        }
    }

    /// Whether [`Self::tail`] will return new documents.
    pub async fn can_be_tailed(&self) -> Result<bool> {
        match self {
            Self::Server(coll) => can_be_tailed(coll).await,
            Self::Memory(coll) => Ok(!coll.find(Query::default()).await?.is_empty()),
        }
    }

    /// Returns the documents after the first `skip`, and then every new one. Only for capped collections.
    pub async fn tail(&self, fields: Option<Document>, skip: u64) -> Result<BoxStream<'static, Result<Document>>> {
        match self {
            Self::Server(coll) => {
                let tail = coll.find(Document::new()).skip(skip).cursor_type(CursorType::TailableAwait);
                let tail = tail.max_await_time(AWAIT);
                Ok(if let Some(fields) = fields { tail.projection(fields) } else { tail }.await?.boxed())
            }
            Self::Memory(coll) => Ok(coll.tail(skip)),
        }
    }
}

/// Whether a tailable cursor on `coll` will return new documents.
///
/// The server keeps a tailable cursor only if the collection has a document when the cursor is checked, *after* its
/// first read. If the first document arrives between the read and the check, the cursor is kept but stays at its end
/// for ever. So no cursor is opened before the collection has a document.
pub(super) async fn can_be_tailed<T: Send + Sync>(coll: &Collection<T>) -> Result<bool> {
    let coll = coll.clone_with_type::<Document>();
    let any = coll.find_one(doc! {}).projection(doc! { "_id": 1 });
    Ok(any.read_concern(ReadConcern::local()).await?.is_some())
}
