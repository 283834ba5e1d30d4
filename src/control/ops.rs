//! `pbmBackups` and `pbmRestores`: one document per operation, with a common structure (docs/format.md C.0.2, C.7,
//! C.9).
//!
//! A final status is never changed: the filters of the writes below exclude documents with a final status, so that a
//! late write can't revive a cancelled operation.

use super::{
    Bell, Unreadable,
    calls::Query,
    table::{Home, Table},
    unix_now,
};
use crate::model::{
    backup::{BackupMeta, BackupReplset, BackupType, Nomination, Progress},
    names,
    restore::{RestoreMeta, RestoreReplset},
    status::Status,
};
use crate::mongo::code::is_duplicate_key;
use anyhow::{Context, Result};
use bson::{Bson, Document, Timestamp, doc};
use serde::{Serialize, de::DeserializeOwned};
use std::{marker::PhantomData, sync::Arc};

/// A document with `name`, `opid`, `status`, `hb` and `replsets`.
pub trait OpDocument: Serialize + DeserializeOwned + Send + Sync + Unpin + 'static {
    /// The type of the part that belongs to one replica set.
    type Member: Serialize + Send + Sync;
    /// The name of the collection.
    const COLLECTION: &'static str;
    /// Whether a failed operation leaves objects on the storage that are removed later.
    const LEAVES_REMAINS: bool;
}

impl OpDocument for BackupMeta {
    type Member = BackupReplset;
    const COLLECTION: &'static str = names::BACKUPS;
    const LEAVES_REMAINS: bool = true;
}

impl OpDocument for RestoreMeta {
    type Member = RestoreReplset;
    const COLLECTION: &'static str = names::RESTORES;
    const LEAVES_REMAINS: bool = false;
}

/// Reads and writes operations of one kind.
#[derive(Debug)]
pub struct OpDocs<T> {
    pub(super) coll: Table,
    pub(super) bell: Arc<Bell>,
    pub(super) unreadable: Unreadable,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for OpDocs<T> {
    fn clone(&self) -> Self {
        let (coll, bell) = (self.coll.clone(), self.bell.clone());
        Self { coll, bell, unreadable: self.unreadable.clone(), kind: PhantomData }
    }
}

/// A field *added by us*: the operation failed, and its objects on the storage must still be removed.
pub(super) const CLEANUP_DUE: &str = "cleanup_due";

/// A field *added by us*: the nodes that were nominated for the work and can't do it.
const DECLINED: &str = "declined";

/// A node that was nominated for the work of a replica set and can't do it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Declined {
    rs: String,
    pub node: String,
    pub why: String,
}

/// The state of a nomination round: the choice of an agent for one replica set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// The status of the backup.
    pub status: Status,
    pub nomination: Option<Nomination>,
    pub declined: Vec<Declined>,
}

/// A feature that an operation switched off and has to switch on again, even if its agents have died. It is recorded in
/// a field of the operation's document, *added by us*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debt {
    Balancer,
    /// Point-in-time recovery.
    Slicing,
    /// Writes to the node that a physical backup locks.
    Lock,
}

impl Debt {
    const ALL: [Self; 3] = [Self::Balancer, Self::Slicing, Self::Lock];

    const fn key(self) -> &'static str {
        match self {
            Self::Balancer => "balancer_due",
            Self::Slicing => "pitr_due",
            Self::Lock => "lock_due",
        }
    }
}

fn not_final() -> Document {
    doc! { "$nin": [Status::Done.as_str(), Status::Canceled.as_str(), Status::Error.as_str(), Status::PartlyDone.as_str()] }
}

fn condition(status: Status, error: &str) -> Document {
    let mut condition = doc! { "timestamp": unix_now(), "status": status.as_str() };
    if !error.is_empty() {
        condition.insert("error", error);
    }
    condition
}

impl<T: OpDocument> OpDocs<T> {
    pub(super) fn new(home: &Home, bell: &Arc<Bell>, unreadable: &Unreadable) -> Self {
        let coll = home.table(T::COLLECTION);
        Self { coll, bell: bell.clone(), unreadable: unreadable.clone(), kind: PhantomData }
    }

    pub(super) fn decode(document: Document) -> Result<T> {
        let name = document.get_str("name").unwrap_or("?").to_owned();
        bson::deserialize_from_document(document).with_context(|| format!("{} {name} can't be read", T::COLLECTION))
    }

    async fn one(&self, filter: Document) -> Result<Option<T>> {
        let found = self.coll.find_one(filter).await.with_context(|| format!("read admin.{}", T::COLLECTION))?;
        found.map(Self::decode).transpose()
    }

    /// Stores a new operation. Returns `false` if an operation of this name exists.
    pub async fn insert(&self, new: &T) -> Result<bool> {
        let document = bson::serialize_to_document(new).context("encode the operation")?;
        let name = document.get_str("name").context("an operation needs a name")?.to_owned();
        // `pbmRestores` has no unique index. The upsert prevents that our agents insert a name twice.
        let done = self.coll.upsert_one(doc! { "name": &name }, doc! { "$setOnInsert": document }).await;
        let inserted = match done {
            Ok(done) => done.inserted,
            Err(error) if is_duplicate_key(&error) => false,
            Err(error) => return Err(error).with_context(|| format!("insert into admin.{}", T::COLLECTION)),
        };
        self.bell.ring().await;
        Ok(inserted)
    }

    /// Returns the operation with this name.
    pub async fn get(&self, name: &str) -> Result<Option<T>> {
        self.one(doc! { "name": name }).await
    }

    /// Returns the operation whose command has this OPID.
    pub async fn by_opid(&self, opid: &str) -> Result<Option<T>> {
        self.one(doc! { "opid": opid }).await
    }

    /// Returns the stored document, for callers that read single fields.
    pub async fn raw(&self, name: &str) -> Result<Option<Document>> {
        self.coll.find_one(doc! { "name": name }).await.with_context(|| format!("read admin.{}", T::COLLECTION))
    }

    /// Returns the stored document of the operation whose command has this OPID.
    pub async fn raw_by_opid(&self, opid: &str) -> Result<Option<Document>> {
        self.coll.find_one(doc! { "opid": opid }).await.with_context(|| format!("read admin.{}", T::COLLECTION))
    }

    /// Returns only the status, the error and the heartbeat.
    pub async fn state(&self, name: &str) -> Result<Option<Document>> {
        let state = doc! { "status": 1, "error": 1, "hb": 1 };
        self.coll
            .find_one(Query::from(doc! { "name": name }).only(state))
            .await
            .with_context(|| format!("read admin.{}", T::COLLECTION))
    }

    /// Returns all documents, with the oldest first. A document that can't be decoded is an error, because callers use
    /// the list to decide what to delete.
    pub async fn all(&self) -> Result<Vec<T>> {
        self.documents().await?.into_iter().map(Self::decode).collect()
    }

    /// Returns all documents that can be decoded, with the oldest first.
    pub async fn readable(&self) -> Result<Vec<T>> {
        Ok(self.unreadable.sort_out(T::COLLECTION, self.documents().await?))
    }

    /// Returns all stored documents, with the oldest first.
    async fn documents(&self) -> Result<Vec<Document>> {
        self.coll
            .find(Query::default().sorted(doc! { "start_ts": 1, "name": 1 }))
            .await
            .with_context(|| format!("read admin.{}", T::COLLECTION))
    }

    /// Returns the stored documents of operations that have not ended.
    pub async fn unfinished(&self) -> Result<Vec<Document>> {
        self.coll.find(doc! { "status": not_final() }).await.with_context(|| format!("read admin.{}", T::COLLECTION))
    }

    /// Returns the name of the operation with this OPID.
    pub async fn name_by_opid(&self, opid: &str) -> Result<Option<String>> {
        let found =
            self.coll.find_one(doc! { "opid": opid }).await.with_context(|| format!("read admin.{}", T::COLLECTION))?;
        Ok(found.and_then(|d| d.get_str("name").ok().map(str::to_owned)))
    }

    async fn update(&self, filter: Document, update: Document, what: &str) -> Result<bool> {
        let done =
            self.coll.update_one(filter, update).await.with_context(|| format!("{what} in admin.{}", T::COLLECTION))?;
        self.bell.ring().await;
        Ok(done.matched > 0)
    }

    /// Sets the status of the whole operation. Returns `false` if the operation has ended or does not exist.
    ///
    /// If the status is an unsuccessful end, a backup's document also gets a request to remove the backup's objects
    /// (see `due_for_cleanup`).
    pub async fn set_status(&self, name: &str, status: Status, error: &str) -> Result<bool> {
        let mut set = doc! { "status": status.as_str(), "last_transition_ts": unix_now(), "error": error };
        if T::LEAVES_REMAINS && matches!(status, Status::Error | Status::Canceled) {
            set.insert(CLEANUP_DUE, true);
        }
        self.update(
            doc! { "name": name, "status": not_final() },
            doc! { "$set": set, "$push": { "conditions": condition(status, error) } },
            "set the status",
        )
        .await
    }

    /// Adds the part of a replica set. Does nothing if the part exists.
    pub async fn add_member(&self, name: &str, rs: &str, member: &T::Member) -> Result<bool> {
        let member = bson::serialize_to_document(member).context("encode the replica set's part")?;
        self.update(
            doc! { "name": name, "replsets.name": { "$ne": rs } },
            doc! { "$push": { "replsets": member } },
            "add a replica set",
        )
        .await
    }

    /// Sets the status of one replica set's part. Returns `false` if that part has ended or does not exist.
    pub async fn set_member_status(&self, name: &str, rs: &str, status: Status, error: &str) -> Result<bool> {
        self.update(
            doc! { "name": name, "replsets": { "$elemMatch": { "name": rs, "status": not_final() } } },
            doc! {
                "$set": {
                    "replsets.$.status": status.as_str(),
                    "replsets.$.last_transition_ts": unix_now(),
                    "replsets.$.error": error,
                },
                "$push": { "replsets.$.conditions": condition(status, error) },
            },
            "set a replica set's status",
        )
        .await
    }

    /// Sets fields of one replica set's part; the keys are relative to the part. Returns `false` if that part has ended
    /// or does not exist.
    pub async fn set_member(&self, name: &str, rs: &str, fields: Document) -> Result<bool> {
        let fields: Document = fields.into_iter().map(|(key, value)| (format!("replsets.$.{key}"), value)).collect();
        self.update(
            doc! { "name": name, "replsets": { "$elemMatch": { "name": rs, "status": not_final() } } },
            doc! { "$set": fields },
            "update a replica set",
        )
        .await
    }

    /// Publishes the progress of a replica set.
    pub async fn set_progress(&self, name: &str, rs: &str, progress: &Progress) -> Result<()> {
        let progress = bson::serialize_to_bson(progress).context("encode the progress")?;
        self.set_member(name, rs, doc! { "progress": progress }).await.map(drop)
    }

    /// Records that this operation will switch a feature off. Must be called before the feature is switched off.
    pub async fn owe(&self, name: &str, debt: Debt) -> Result<()> {
        self.set(name, doc! { debt.key(): true }).await.map(drop)
    }

    /// Returns the operations that have switched `debt` off and have not switched it on again.
    pub async fn owing(&self, debt: Debt) -> Result<Vec<String>> {
        self.names(doc! { debt.key(): true }).await
    }

    /// Records that `debt` is on again, or that another operation is now responsible for it.
    pub async fn paid(&self, name: &str, debt: Debt) -> Result<()> {
        let unset = doc! { "$unset": { debt.key(): "" } };
        self.update(doc! { "name": name }, unset, "note what is on again").await.map(drop)
    }

    /// Whether any operation is running, or has ended but left something to be done.
    pub async fn any_open(&self) -> Result<bool> {
        let mut open = vec![doc! { "status": not_final() }];
        open.extend(Debt::ALL.map(|debt| doc! { debt.key(): true }));
        if T::LEAVES_REMAINS {
            open.push(doc! { CLEANUP_DUE: true });
        }
        let found = self.coll.find_one(Query::from(doc! { "$or": open }).only(doc! { "_id": 1 })).await;
        Ok(found.with_context(|| format!("read admin.{}", T::COLLECTION))?.is_some())
    }

    /// Whether the operation is in a final state or does not exist any more.
    pub async fn has_ended(&self, name: &str) -> Result<bool> {
        Ok(self.names(doc! { "name": name, "status": not_final() }).await?.is_empty())
    }

    /// Whether an operation with this OPID has a document with a final status.
    pub async fn has_ended_by_opid(&self, opid: &str) -> Result<bool> {
        Ok(!self.names(doc! { "opid": opid }).await?.is_empty()
            && self.names(doc! { "opid": opid, "status": not_final() }).await?.is_empty())
    }

    /// Returns the names of all operations.
    pub async fn known_names(&self) -> Result<Vec<String>> {
        self.names(doc! {}).await
    }

    async fn names(&self, filter: Document) -> Result<Vec<String>> {
        let found = self.coll.find(Query::from(filter).only(doc! { "name": 1 })).await;
        let found = found.with_context(|| format!("read admin.{}", T::COLLECTION))?;
        Ok(found.iter().filter_map(|d| d.get_str("name").ok().map(str::to_owned)).collect())
    }

    /// Sets fields of the operation's document.
    pub async fn set(&self, name: &str, fields: Document) -> Result<bool> {
        self.update(doc! { "name": name }, doc! { "$set": fields }, "update the operation").await
    }

    /// Writes a heartbeat of the operation's leader. Does not ring the bell.
    pub async fn beat(&self, name: &str, now: Timestamp) -> Result<()> {
        self.coll
            .update_one(doc! { "name": name }, doc! { "$max": { "hb": now } })
            .await
            .with_context(|| format!("write the heartbeat in admin.{}", T::COLLECTION))?;
        Ok(())
    }

    /// Does the same as [`Self::beat`], but finds the operation by its OPID. Does nothing if the operation has ended or
    /// has no document yet.
    pub async fn beat_of(&self, opid: &str, now: Timestamp) -> Result<()> {
        self.coll
            .update_one(doc! { "opid": opid, "status": not_final() }, doc! { "$max": { "hb": now } })
            .await
            .with_context(|| format!("write the heartbeat in admin.{}", T::COLLECTION))?;
        Ok(())
    }

    /// Removes the document of an operation.
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.coll
            .delete_one(doc! { "name": name })
            .await
            .with_context(|| format!("delete from admin.{}", T::COLLECTION))?;
        self.bell.ring().await;
        Ok(())
    }
}

impl OpDocs<BackupMeta> {
    /// Returns the names of backups that failed while they ran in this cluster and whose objects have not been removed
    /// yet.
    ///
    /// A backup that a resync found damaged is never included.
    pub async fn due_for_cleanup(&self) -> Result<Vec<String>> {
        self.names(doc! { CLEANUP_DUE: true }).await
    }

    /// Requests once more that the objects of a failed backup are removed, because its agent is back after it was
    /// declared lost.
    pub async fn ask_for_cleanup(&self, name: &str) -> Result<()> {
        let failed = doc! { "$in": [Status::Error.as_str(), Status::Canceled.as_str()] };
        self.update(
            doc! { "name": name, "status": failed },
            doc! { "$set": { CLEANUP_DUE: true } },
            "ask for a clean-up",
        )
        .await
        .map(drop)
    }

    /// Records that all objects of a failed backup are removed.
    pub async fn cleaned_up(&self, name: &str) -> Result<()> {
        self.update(doc! { "name": name }, doc! { "$unset": { CLEANUP_DUE: "" } }, "note the clean-up").await.map(drop)
    }

    /// Nominates the first candidates of several replica sets at once. In a large cluster this is one write instead of
    /// hundreds to the same document. The replica sets must not have a round yet.
    pub async fn nominate_first(&self, name: &str, rounds: &[(String, Vec<String>)]) -> Result<()> {
        let rounds: Vec<Document> = rounds.iter().map(|(rs, n)| doc! { "rs": rs, "n": n, "ack": "" }).collect();
        if rounds.is_empty() {
            return Ok(());
        }
        self.update(doc! { "name": name }, doc! { "$push": { "n": { "$each": rounds } } }, "nominate agents")
            .await
            .map(drop)
    }

    /// Nominates the candidates of a replica set, in place of earlier ones.
    pub async fn nominate(&self, name: &str, rs: &str, nodes: &[String]) -> Result<()> {
        let nodes: Vec<Bson> = nodes.iter().map(|n| Bson::from(n.as_str())).collect();
        let replaced = self
            .update(doc! { "name": name, "n.rs": rs }, doc! { "$set": { "n.$.n": nodes.clone() } }, "nominate agents")
            .await?;
        if !replaced {
            self.update(
                doc! { "name": name, "n.rs": { "$ne": rs } },
                doc! { "$push": { "n": { "rs": rs, "n": nodes, "ack": "" } } },
                "nominate agents",
            )
            .await?;
        }
        Ok(())
    }

    /// Returns the status of a backup and the nomination round of one replica set, if the round has begun. It reads
    /// little data, because every agent of the cluster makes this call.
    pub async fn nomination(&self, name: &str, rs: &str) -> Result<Option<(Status, Option<Nomination>)>> {
        Ok(self.round(name, rs).await?.map(|round| (round.status, round.nomination)))
    }

    /// Does the same as [`Self::nomination`], and also returns the nodes that declined.
    pub async fn round(&self, name: &str, rs: &str) -> Result<Option<Round>> {
        #[derive(serde::Deserialize)]
        struct Seen {
            status: Status,
            #[serde(default)]
            n: Vec<Nomination>,
            #[serde(default)]
            declined: Vec<Declined>,
        }
        let round = doc! { "status": 1, "n": { "$elemMatch": { "rs": rs } }, DECLINED: 1 };
        let found = self
            .coll
            .find_one(Query::from(doc! { "name": name }).only(round))
            .await
            .context("read the nomination in admin.pbmBackups")?;
        let Some(found) = found else { return Ok(None) };
        let mut seen: Seen =
            bson::deserialize_from_document(found).with_context(|| format!("read the nominations of backup {name}"))?;
        seen.declined.retain(|declined| declined.rs == rs);
        Ok(Some(Round { status: seen.status, nomination: seen.n.pop(), declined: seen.declined }))
    }

    /// Records why `node`, which was nominated for `rs`, does not do the work.
    pub async fn decline(&self, name: &str, rs: &str, node: &str, why: &str) -> Result<()> {
        let declined = doc! { "rs": rs, "node": node, "why": why };
        self.update(doc! { "name": name }, doc! { "$push": { DECLINED: declined } }, "decline the nomination")
            .await
            .map(drop)
    }

    /// Records that `node` does the work of `rs`.
    pub async fn acknowledge(&self, name: &str, rs: &str, node: &str) -> Result<()> {
        self.update(doc! { "name": name, "n.rs": rs }, doc! { "$set": { "n.$.ack": node } }, "take the nomination")
            .await
            .map(drop)
    }

    /// Adds stored and uncompressed bytes to the backup's sizes.
    pub async fn add_sizes(&self, name: &str, stored: i64, uncompressed: i64) -> Result<()> {
        let sizes = doc! { "size": stored, "size_uncompressed": uncompressed };
        self.update(doc! { "name": name }, doc! { "$inc": sizes }, "add the sizes").await.map(drop)
    }

    /// Adds stored bytes to the backup's size.
    pub async fn add_size(&self, name: &str, bytes: i64) -> Result<()> {
        self.update(doc! { "name": name }, doc! { "$inc": { "size": bytes } }, "add the size").await.map(drop)
    }
}

impl OpDocs<RestoreMeta> {
    /// Replaces the documents of physical restores by the restores that were found on the storage. Logical restores
    /// store nothing there, so their documents stay.
    pub async fn replace_found(&self, found: &[RestoreMeta]) -> Result<()> {
        self.coll
            .delete_many(doc! { "type": { "$ne": BackupType::Logical.as_str() } })
            .await
            .context("remove physical restores from admin.pbmRestores")?;
        for restore in found {
            self.insert(restore).await?;
        }
        Ok(())
    }
}
