//! `pbmCmd`: the queue from command line to agents (spec/format.md C.1).

use super::{Bell, unix_now};
use crate::model::{
    command::{
        BackupCmd, CleanupCmd, CleanupFailedCmd, Command, DeleteCmd, DeletePitrCmd, ProfileCmd, ReplayCmd, RestoreCmd,
        ResyncCmd, name,
    },
    config::StorageConf,
    names,
};
use crate::mongo::admin::explain;
use anyhow::{Context, Result};
use bson::{Document, doc, oid::ObjectId};
use futures::{StreamExt, TryStreamExt};
use mongodb::{
    Collection, Database,
    options::{CursorType, ReadConcern},
};
use std::{collections::HashSet, sync::Arc};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Sends and follows commands.
#[derive(Debug, Clone)]
pub struct Commands {
    coll: Collection<Document>,
    bell: Arc<Bell>,
}

/// A place in the queue: the commands before it. They are twelve bytes each and few in the life of an agent, so all are
/// kept, also those that the capped collection has dropped since.
#[derive(Debug, Default)]
pub struct Place {
    known: HashSet<ObjectId>,
}

impl Commands {
    pub(super) fn new(db: &Database, bell: &Arc<Bell>) -> Self {
        Self { coll: db.collection(names::CMD), bell: bell.clone() }
    }

    async fn send(&self, command: Command) -> Result<ObjectId> {
        let id = command.id;
        let what = command.cmd.clone();
        let document = bson::serialize_to_document(&command).context("encode the command")?;
        self.coll.insert_one(document).await.with_context(|| format!("queue the command {what} in admin.pbmCmd"))?;
        self.bell.ring().await;
        Ok(id)
    }

    fn empty(cmd: &str) -> Command {
        Command {
            id: ObjectId::new(),
            cmd: cmd.to_owned(),
            backup: None,
            restore: None,
            replay: None,
            resync: None,
            delete: None,
            delete_pitr: None,
            cleanup: None,
            cleanup_failed: None,
            profile: None,
            ts: unix_now(),
        }
    }

    /// Asks for a backup; returns the OPID.
    pub async fn send_backup(&self, backup: BackupCmd) -> Result<ObjectId> {
        self.send(Command { backup: Some(backup), ..Self::empty(name::BACKUP) }).await
    }

    /// Asks for a restore; returns the OPID.
    pub async fn send_restore(&self, restore: RestoreCmd) -> Result<ObjectId> {
        self.send(Command { restore: Some(restore), ..Self::empty(name::RESTORE) }).await
    }

    /// Asks to replay a range of PITR chunks; returns the OPID.
    pub async fn send_replay(&self, replay: ReplayCmd) -> Result<ObjectId> {
        self.send(Command { replay: Some(replay), ..Self::empty(name::REPLAY) }).await
    }

    /// Asks to delete backups; returns the OPID.
    pub async fn send_delete(&self, delete: DeleteCmd) -> Result<ObjectId> {
        self.send(Command { delete: Some(delete), ..Self::empty(name::DELETE) }).await
    }

    /// Asks to delete PITR chunks; returns the OPID.
    pub async fn send_delete_pitr(&self, delete_pitr: DeletePitrCmd) -> Result<ObjectId> {
        self.send(Command { delete_pitr: Some(delete_pitr), ..Self::empty(name::DELETE_PITR) }).await
    }

    /// Asks to delete old backups and chunks; returns the OPID.
    pub async fn send_cleanup(&self, cleanup: CleanupCmd) -> Result<ObjectId> {
        self.send(Command { cleanup: Some(cleanup), ..Self::empty(name::CLEANUP) }).await
    }

    /// Asks to look for what failed backups left, or to delete it; returns the OPID.
    pub async fn send_cleanup_failed(&self, cleanup: CleanupFailedCmd) -> Result<ObjectId> {
        self.send(Command { cleanup_failed: Some(cleanup), ..Self::empty(name::CLEANUP_FAILED) }).await
    }

    /// Asks to cancel the running backup; returns the OPID.
    pub async fn send_cancel_backup(&self) -> Result<ObjectId> {
        self.send(Self::empty(name::CANCEL_BACKUP)).await
    }

    /// Asks to read the storage again; `None` for the main storage. Returns the OPID.
    pub async fn send_resync(&self, resync: Option<ResyncCmd>) -> Result<ObjectId> {
        self.send(Command { resync, ..Self::empty(name::RESYNC) }).await
    }

    /// Asks to store a profile, in place of one of the same name; returns the OPID.
    pub async fn send_add_profile(&self, name: &str, storage: StorageConf) -> Result<ObjectId> {
        let profile = ProfileCmd { name: name.to_owned(), profile: true, storage };
        self.send(Command { profile: Some(profile), ..Self::empty(name::ADD_PROFILE) }).await
    }

    /// Asks to forget a profile and its backups; returns the OPID.
    pub async fn send_remove_profile(&self, name: &str) -> Result<ObjectId> {
        let profile = ProfileCmd { name: name.to_owned(), ..ProfileCmd::default() };
        self.send(Command { profile: Some(profile), ..Self::empty(name::REMOVE_PROFILE) }).await
    }

    /// The command with this OPID as stored, as long as the capped collection keeps it.
    pub async fn raw(&self, opid: &str) -> Result<Option<Document>> {
        let Ok(id) = ObjectId::parse_str(opid) else { return Ok(None) };
        self.coll.find_one(doc! { "_id": id }).await.context("read admin.pbmCmd")
    }

    /// The newest command that makes a backup or a restore of this name, as stored.
    pub async fn raw_by_name(&self, name: &str) -> Result<Option<Document>> {
        let filter = doc! { "$or": [{ "backup.name": name }, { "restore.name": name }, { "replay.name": name }] };
        self.coll.find_one(filter).sort(doc! { "ts": -1 }).await.context("read admin.pbmCmd")
    }

    /// The end of the queue: what is in it now. Commands sent later can be followed from here.
    ///
    /// A place in the queue and not a moment: `ts` and `_id` are by the sender's clock, which may be minutes away from
    /// ours, so that by them new commands would be missed and old ones run again.
    pub async fn end(&self) -> Result<Place> {
        let queue = self.coll.find(doc! {}).projection(doc! { "_id": 1 }).read_concern(ReadConcern::local());
        let failed = "read admin.pbmCmd";
        let known: Vec<Document> = queue.await.context(failed)?.try_collect().await.context(failed)?;
        Ok(Place { known: known.iter().filter_map(|command| command.get_object_id("_id").ok()).collect() })
    }

    /// Hands over every command sent after `place`, each once and in the order of the queue, until `stop`. Run as a task
    /// of its own.
    ///
    /// Read at local concern: a majority read would wake only with the cursor's time-out, because the wake-up of a capped
    /// collection comes with the insert, before the majority has it. Commands appear within milliseconds through a
    /// tailable cursor. The cursor can't live on an empty collection and dies with its primary; then the queue is read
    /// again, woken by the bell or once a second.
    pub async fn follow(&self, mut place: Place, out: mpsc::Sender<Command>, stop: CancellationToken) {
        let mut waiter = self.bell.waiter();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                result = self.read_on(&mut place, &out) => match result {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => tracing::warn!("follow admin.pbmCmd: {}; trying again", explain(&error)),
                },
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = waiter.next() => {}
            }
        }
    }

    /// Reads until the cursor ends; `false` when nobody takes commands any more.
    async fn read_on(&self, place: &mut Place, out: &mpsc::Sender<Command>) -> Result<bool> {
        if !super::can_be_tailed(&self.coll).await.context("look for commands")? {
            return Ok(true);
        }
        let mut queue = self
            .coll
            .find(doc! {})
            .cursor_type(CursorType::TailableAwait)
            .read_concern(ReadConcern::local())
            .max_await_time(super::AWAIT)
            .await
            .context("open the cursor")?;
        while let Some(document) = queue.next().await {
            let document = document.context("read the next command")?;
            let Ok(id) = document.get_object_id("_id") else {
                tracing::warn!("a document in admin.pbmCmd without an ObjectId as _id is ignored");
                continue;
            };
            if !place.known.insert(id) {
                continue;
            }
            match bson::deserialize_from_document::<Command>(document) {
                Ok(command) => {
                    if out.send(command).await.is_err() {
                        return Ok(false);
                    }
                }
                Err(error) => tracing::error!("the command {id} can't be read and is ignored: {error}"),
            }
        }
        Ok(true)
    }
}
