//! `pbmBackups` and `pbmRestores`: one document per operation, with the same skeleton (docs/format.md C.0.2, C.7, C.9).
//!
//! A status once final is never changed: the writes below carry that in their filters, so that a straggler can't
//! revive a cancelled operation.

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
use mongodb::{Collection, Database};
use serde::{Serialize, de::DeserializeOwned};
use std::{marker::PhantomData, sync::Arc};

/// A document with `name`, `opid`, `status`, `hb` and `replsets`.
pub trait OpDocument: Serialize + DeserializeOwned + Send + Sync + Unpin + 'static {
    /// The part of one replica set.
    type Member: Serialize + Send + Sync;
    /// The collection.
    const COLLECTION: &'static str;
    /// One that fails leaves objects on the storage, which are removed later.
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
    coll: Table,
    /// The same collection, for what only a resync does.
    pub(super) stored: Collection<Document>,
    pub(super) bell: Arc<Bell>,
    pub(super) unreadable: Unreadable,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for OpDocs<T> {
    fn clone(&self) -> Self {
        let (coll, stored, bell) = (self.coll.clone(), self.stored.clone(), self.bell.clone());
        Self { coll, stored, bell, unreadable: self.unreadable.clone(), kind: PhantomData }
    }
}

/// A field *added by us*: the operation failed and its remains are still to be removed.
pub(super) const CLEANUP_DUE: &str = "cleanup_due";

/// A field *added by us*: the nodes that were named for the work and can't do it.
const DECLINED: &str = "declined";

/// A node that was named for the work of a replica set and can't do it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Declined {
    rs: String,
    pub node: String,
    pub why: String,
}

/// The state of the choice of an agent for one replica set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// The status of the backup.
    pub status: Status,
    pub nomination: Option<Nomination>,
    pub declined: Vec<Declined>,
}

/// Something that an operation switched off and has to switch on again, even if its agents have died. It is recorded in a field
/// of the operation's document, *added by us*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debt {
    Balancer,
    /// Point-in-time recovery.
    Slicing,
}

impl Debt {
    const ALL: [Self; 2] = [Self::Balancer, Self::Slicing];

    /// Backups can owe it, too, not only restores.
    pub const fn is_of_backups(self) -> bool {
        matches!(self, Self::Balancer)
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Balancer => "balancer_due",
            Self::Slicing => "pitr_due",
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
    pub(super) fn new(home: &Home, db: &Database, bell: &Arc<Bell>, unreadable: &Unreadable) -> Self {
        let (coll, stored) = (home.table(T::COLLECTION), db.collection(T::COLLECTION));
        Self { coll, stored, bell: bell.clone(), unreadable: unreadable.clone(), kind: PhantomData }
    }

    pub(super) fn decode(document: Document) -> Result<T> {
        let name = document.get_str("name").unwrap_or("?").to_owned();
        bson::deserialize_from_document(document).with_context(|| format!("{} {name} can't be read", T::COLLECTION))
    }

    async fn one(&self, filter: Document) -> Result<Option<T>> {
        let found = self.coll.find_one(filter).await.with_context(|| format!("read admin.{}", T::COLLECTION))?;
        found.map(Self::decode).transpose()
    }

    /// Stores a new operation. `false` when one of this name exists.
    pub async fn insert(&self, new: &T) -> Result<bool> {
        let document = bson::serialize_to_document(new).context("encode the operation")?;
        let name = document.get_str("name").context("an operation needs a name")?.to_owned();
        // pbmRestores has no unique index: the upsert keeps the name single among our agents.
        let done = self.coll.upsert_one(doc! { "name": &name }, doc! { "$setOnInsert": document }).await;
        let inserted = match done {
            Ok(done) => done.inserted,
            Err(error) if is_duplicate_key(&error) => false,
            Err(error) => return Err(error).with_context(|| format!("insert into admin.{}", T::COLLECTION)),
        };
        self.bell.ring().await;
        Ok(inserted)
    }

    /// By name.
    pub async fn get(&self, name: &str) -> Result<Option<T>> {
        self.one(doc! { "name": name }).await
    }

    /// By the OPID of its command.
    pub async fn by_opid(&self, opid: &str) -> Result<Option<T>> {
        self.one(doc! { "opid": opid }).await
    }

    /// As stored, for readers of single fields.
    pub async fn raw(&self, name: &str) -> Result<Option<Document>> {
        self.coll.find_one(doc! { "name": name }).await.with_context(|| format!("read admin.{}", T::COLLECTION))
    }

    /// By the OPID of its command, as stored.
    pub async fn raw_by_opid(&self, opid: &str) -> Result<Option<Document>> {
        self.coll.find_one(doc! { "opid": opid }).await.with_context(|| format!("read admin.{}", T::COLLECTION))
    }

    /// Status, error and heartbeat only.
    pub async fn state(&self, name: &str) -> Result<Option<Document>> {
        let state = doc! { "status": 1, "error": 1, "hb": 1 };
        self.coll
            .find_one(Query::from(doc! { "name": name }).only(state))
            .await
            .with_context(|| format!("read admin.{}", T::COLLECTION))
    }

    /// All documents, oldest first. A document that can't be read is an error: callers decide from the list what to delete.
    pub async fn all(&self) -> Result<Vec<T>> {
        self.documents().await?.into_iter().map(Self::decode).collect()
    }

    /// All documents that can be read, oldest first.
    pub async fn readable(&self) -> Result<Vec<T>> {
        Ok(self.unreadable.sort_out(T::COLLECTION, self.documents().await?))
    }

    /// All documents as stored, oldest first.
    async fn documents(&self) -> Result<Vec<Document>> {
        self.coll
            .find(Query::default().sorted(doc! { "start_ts": 1, "name": 1 }))
            .await
            .with_context(|| format!("read admin.{}", T::COLLECTION))
    }

    /// Operations that have not come to an end, as stored.
    pub async fn unfinished(&self) -> Result<Vec<Document>> {
        self.coll.find(doc! { "status": not_final() }).await.with_context(|| format!("read admin.{}", T::COLLECTION))
    }

    /// The name of the operation with this OPID.
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

    /// Moves the whole operation to `status`. `false` when it has ended already or does not exist.
    ///
    /// With an unsuccessful end a backup's document also asks for a clean-up of what it left behind (see
    /// `due_for_cleanup`).
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

    /// Adds a replica set's part; nothing if it is there.
    pub async fn add_member(&self, name: &str, rs: &str, member: &T::Member) -> Result<bool> {
        let member = bson::serialize_to_document(member).context("encode the replica set's part")?;
        self.update(
            doc! { "name": name, "replsets.name": { "$ne": rs } },
            doc! { "$push": { "replsets": member } },
            "add a replica set",
        )
        .await
    }

    /// Moves one replica set's part to `status`. `false` when that part has ended already or does not exist.
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

    /// Sets fields of one replica set's part; keys are relative to it. `false` when that part has ended already or does
    /// not exist.
    pub async fn set_member(&self, name: &str, rs: &str, fields: Document) -> Result<bool> {
        let fields: Document = fields.into_iter().map(|(key, value)| (format!("replsets.$.{key}"), value)).collect();
        self.update(
            doc! { "name": name, "replsets": { "$elemMatch": { "name": rs, "status": not_final() } } },
            doc! { "$set": fields },
            "update a replica set",
        )
        .await
    }

    /// Publishes how far a replica set is.
    pub async fn set_progress(&self, name: &str, rs: &str, progress: &Progress) -> Result<()> {
        let progress = bson::serialize_to_bson(progress).context("encode the progress")?;
        self.set_member(name, rs, doc! { "progress": progress }).await.map(drop)
    }

    /// Records that this operation will switch something off. This is called before the switch.
    pub async fn owe(&self, name: &str, debt: Debt) -> Result<()> {
        self.set(name, doc! { debt.key(): true }).await.map(drop)
    }

    /// The operations that have switched `debt` off and not yet on again.
    pub async fn owing(&self, debt: Debt) -> Result<Vec<String>> {
        self.names(doc! { debt.key(): true }).await
    }

    /// Records that `debt` is on again, or that another operation now answers for it.
    pub async fn paid(&self, name: &str, debt: Debt) -> Result<()> {
        let unset = doc! { "$unset": { debt.key(): "" } };
        self.update(doc! { "name": name }, unset, "note what is on again").await.map(drop)
    }

    /// There is an operation that is under way, or one that left something to be done.
    pub async fn any_open(&self) -> Result<bool> {
        let mut open = vec![doc! { "status": not_final() }];
        open.extend(Debt::ALL.map(|debt| doc! { debt.key(): true }));
        if T::LEAVES_REMAINS {
            open.push(doc! { CLEANUP_DUE: true });
        }
        let found = self.coll.find_one(Query::from(doc! { "$or": open }).only(doc! { "_id": 1 })).await;
        Ok(found.with_context(|| format!("read admin.{}", T::COLLECTION))?.is_some())
    }

    /// The operation is in a final state, or is not known any more.
    pub async fn has_ended(&self, name: &str) -> Result<bool> {
        Ok(self.names(doc! { "name": name, "status": not_final() }).await?.is_empty())
    }

    /// Is there an operation with this OPID whose document has a final status?
    pub async fn has_ended_by_opid(&self, opid: &str) -> Result<bool> {
        Ok(!self.names(doc! { "opid": opid }).await?.is_empty()
            && self.names(doc! { "opid": opid, "status": not_final() }).await?.is_empty())
    }

    /// The names of all.
    pub async fn known_names(&self) -> Result<Vec<String>> {
        self.names(doc! {}).await
    }

    async fn names(&self, filter: Document) -> Result<Vec<String>> {
        let found = self.coll.find(Query::from(filter).only(doc! { "name": 1 })).await;
        let found = found.with_context(|| format!("read admin.{}", T::COLLECTION))?;
        Ok(found.iter().filter_map(|d| d.get_str("name").ok().map(str::to_owned)).collect())
    }

    /// Sets fields of the operation.
    pub async fn set(&self, name: &str, fields: Document) -> Result<bool> {
        self.update(doc! { "name": name }, doc! { "$set": fields }, "update the operation").await
    }

    /// Shows that the operation's leader lives. Rings no bell.
    pub async fn beat(&self, name: &str, now: Timestamp) -> Result<()> {
        self.coll
            .update_one(doc! { "name": name }, doc! { "$max": { "hb": now } })
            .await
            .with_context(|| format!("write the heartbeat in admin.{}", T::COLLECTION))?;
        Ok(())
    }

    /// As [`Self::beat`], but finds the operation by its OPID. Does nothing if the operation has ended or has no document yet.
    pub async fn beat_of(&self, opid: &str, now: Timestamp) -> Result<()> {
        self.coll
            .update_one(doc! { "opid": opid, "status": not_final() }, doc! { "$max": { "hb": now } })
            .await
            .with_context(|| format!("write the heartbeat in admin.{}", T::COLLECTION))?;
        Ok(())
    }

    /// Removes one.
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
    /// Names of backups that failed while running here and whose remains have not been removed yet.
    ///
    /// Only a backup that ended badly under our eyes is in it, never one that a resync found damaged.
    pub async fn due_for_cleanup(&self) -> Result<Vec<String>> {
        self.names(doc! { CLEANUP_DUE: true }).await
    }

    /// Asks once more for the clean-up of a backup that has failed: its agent came back after it was declared lost.
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

    /// Says that nothing is left of a failed backup.
    pub async fn cleaned_up(&self, name: &str) -> Result<()> {
        self.update(doc! { "name": name }, doc! { "$unset": { CLEANUP_DUE: "" } }, "note the clean-up").await.map(drop)
    }

    /// Names the first candidates of several replica sets at once: in a large cluster one write in place of hundreds to the
    /// same document. Replica sets that have a round already are not to be among them.
    pub async fn nominate_first(&self, name: &str, rounds: &[(String, Vec<String>)]) -> Result<()> {
        let rounds: Vec<Document> = rounds.iter().map(|(rs, n)| doc! { "rs": rs, "n": n, "ack": "" }).collect();
        if rounds.is_empty() {
            return Ok(());
        }
        self.update(doc! { "name": name }, doc! { "$push": { "n": { "$each": rounds } } }, "nominate agents")
            .await
            .map(drop)
    }

    /// Names the candidates of a replica set, in place of earlier ones.
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

    /// The state of a backup and the nomination round of one replica set, if it has begun: little to read, because every
    /// agent of the cluster asks.
    pub async fn nomination(&self, name: &str, rs: &str) -> Result<Option<(Status, Option<Nomination>)>> {
        Ok(self.round(name, rs).await?.map(|round| (round.status, round.nomination)))
    }

    /// As [`Self::nomination`], and also returns the nodes that declined.
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

    /// Records why `node`, which was named for `rs`, does not do the work.
    pub async fn decline(&self, name: &str, rs: &str, node: &str, why: &str) -> Result<()> {
        let declined = doc! { "rs": rs, "node": node, "why": why };
        self.update(doc! { "name": name }, doc! { "$push": { DECLINED: declined } }, "decline the nomination")
            .await
            .map(drop)
    }

    /// Says that `node` does the work of `rs`.
    pub async fn acknowledge(&self, name: &str, rs: &str, node: &str) -> Result<()> {
        self.update(doc! { "name": name, "n.rs": rs }, doc! { "$set": { "n.$.ack": node } }, "take the nomination")
            .await
            .map(drop)
    }

    /// Adds stored bytes to the backup's size.
    pub async fn add_size(&self, name: &str, bytes: i64) -> Result<()> {
        self.update(doc! { "name": name }, doc! { "$inc": { "size": bytes } }, "add the size").await.map(drop)
    }
}

impl OpDocs<RestoreMeta> {
    /// Replaces what is known of physical restores by what was found on the storage. Logical ones leave nothing there,
    /// so what is known of them stays.
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
