//! `pbmCmd`: the queue from command line to agents (docs/format.md C.1).

use super::{
    Bell, Order,
    calls::Query,
    table::{Home, Table},
    unix_now,
};
use crate::log::operation;
use crate::model::{command::Command, names};
use crate::mongo::{self, Server, admin::explain};
use anyhow::{Context, Result, anyhow};
use bson::{Document, Timestamp, doc, oid::ObjectId};
use futures::{StreamExt, stream::BoxStream};
use mongodb::options::{CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

/// Sends and follows commands.
#[derive(Debug, Clone)]
pub struct Commands {
    coll: Table,
    /// The same collection, but read from the primary without waiting for the majority.
    newest: Table,
    leader: Arc<dyn Server>,
    bell: Arc<Bell>,
}

/// An order in the queue of commands.
#[derive(Debug, Clone, PartialEq)]
pub struct Queued {
    /// The OPID of the operation, which is shown in hex.
    pub id: ObjectId,
    /// The cluster time after which no agent may begin the operation.
    pub until: Option<Timestamp>,
    pub order: Order,
}

/// A position in the queue, stored as the ids of all commands before it. An id has twelve bytes and an agent sees few
/// commands, so all ids are kept, even after the capped collection has dropped the command.
#[derive(Debug, Default)]
pub struct Place {
    known: HashSet<ObjectId>,
    /// The newest command that is known.
    newest: Option<ObjectId>,
}

impl Place {
    /// Returns the order in a document, if it is complete and was not known yet.
    fn take(&mut self, document: Document) -> Option<Queued> {
        let Ok(id) = document.get_object_id("_id") else {
            tracing::warn!("a document in admin.pbmCmd without an ObjectId as _id is ignored");
            return None;
        };
        if !self.known.insert(id) {
            return None;
        }
        self.newest = Some(id);
        let command: Command = match bson::deserialize_from_document(document) {
            Ok(command) => command,
            Err(error) => {
                tracing::error!("the command {id} can't be read and is ignored: {error}");
                return None;
            }
        };
        let (until, span) = (command.until, operation(&command.cmd, "", &id.to_hex(), None));
        match Order::try_from(command) {
            Ok(order) => Some(Queued { id, until, order }),
            Err(why) => {
                span.in_scope(|| tracing::error!("{why}"));
                None
            }
        }
    }
}

/// The longest time that a new command can stay unnoticed while the primary answers.
const LOOK: Duration = Duration::from_millis(1500);
/// The time limit of one read. Without it, a frozen server would keep the agent from asking the next primary.
const LOOK_LIMIT: Duration = Duration::from_secs(4);
/// How many seconds of cluster time after it was sent a command may begin. This is longer than any sender waits for the
/// command to begin. The limit is needed if the sender could not withdraw the command, because it was killed or lost
/// its connection.
const BEGINS_WITHIN: u32 = 90;

impl Commands {
    pub(super) fn new(home: &Home, leader: &Arc<dyn Server>, bell: &Arc<Bell>) -> Self {
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        let options =
            CollectionOptions::builder().read_concern(ReadConcern::local()).selection_criteria(primary).build();
        Self {
            coll: home.table(names::CMD),
            newest: home.table_with(names::CMD, options),
            leader: leader.clone(),
            bell: bell.clone(),
        }
    }

    /// Sends an order to the agents; returns the OPID.
    pub async fn send(&self, order: Order) -> Result<ObjectId> {
        let what = order.event();
        let command = order.into_command(unix_now());
        let id = command.id;
        let now = mongo::hello(self.leader.as_ref()).await?.cluster_time();
        let until = Timestamp { time: now.time.saturating_add(BEGINS_WITHIN), increment: 0 };
        let command = Command { until: Some(until), ..command };
        let document = bson::serialize_to_document(&command).context("encode the command")?;
        self.coll.insert_one(&document).await.with_context(|| format!("queue the command {what} in admin.pbmCmd"))?;
        self.bell.ring().await;
        Ok(id)
    }

    /// Returns the stored command with this OPID, as long as the capped collection keeps it.
    pub async fn raw(&self, opid: &str) -> Result<Option<Document>> {
        let Ok(id) = ObjectId::parse_str(opid) else { return Ok(None) };
        self.coll.find_one(doc! { "_id": id }).await.context("read admin.pbmCmd")
    }

    /// Returns the newest stored command that makes a backup or a restore of this name.
    pub async fn raw_by_name(&self, name: &str) -> Result<Option<Document>> {
        let filter = doc! { "$or": [{ "backup.name": name }, { "restore.name": name }, { "replay.name": name }] };
        self.coll.find_one(Query::from(filter).sorted(doc! { "ts": -1 })).await.context("read admin.pbmCmd")
    }

    /// Returns the present end of the queue. Commands that are sent later can be followed from there.
    ///
    /// The result is a position and not a time: `ts` and `_id` come from the sender's clock, which may differ from ours
    /// by minutes. With a time, new commands would be missed and old ones would run again.
    pub async fn end(&self) -> Result<Place> {
        let known = self.newest.find(Query::default().only(doc! { "_id": 1 })).await.context("read admin.pbmCmd")?;
        let known = known.iter().filter_map(|command| command.get_object_id("_id").ok());
        Ok(Place { known: known.collect(), newest: None })
    }

    /// Passes on every command sent after `place`, each once and in the order of the queue, until `stop`. Unknown and
    /// incomplete commands are only logged. Run this as a separate task.
    ///
    /// A tailable cursor returns a command within milliseconds, but it can fail. A cursor stays with its server when
    /// that server freezes, and also when it becomes a secondary after an election. In both cases the cursor returns
    /// new commands only after its time-out. So every [`LOOK`] the end of the queue is also read from the current
    /// primary. If it has a command that the cursor missed, the command is recognized by its id, and a new cursor is
    /// opened.
    ///
    /// The queue is read at local concern. A capped collection wakes its cursors at the insert, before the majority has
    /// the document, so a majority read would return it only after the cursor's time-out.
    pub async fn follow(&self, mut place: Place, out: mpsc::Sender<Queued>, stop: CancellationToken) {
        let mut tail: Option<Tail> = None;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            let found = tokio::select! {
                () = stop.cancelled() => return,
                next = next_of(&mut tail) => match next {
                    Some(Ok(document)) => vec![document],
                    // The cursor has failed, most often because its server has.
                    Some(Err(_)) | None => {
                        tail = None;
                        looks.reset_immediately();
                        continue;
                    }
                },
                _ = looks.tick() => {
                    let looked = timeout(LOOK_LIMIT, self.look(&mut place, &mut tail)).await;
                    let looked = looked.unwrap_or_else(|_| {
                        Err(anyhow!("the primary gave no answer within {} s", LOOK_LIMIT.as_secs()))
                    });
                    match looked {
                        Ok(found) => {
                            failing = false;
                            found
                        }
                        Err(error) => {
                            tail = None;
                            // After a failure the order of the queue may have changed, so all commands are compared.
                            place.newest = None;
                            if !failing {
                                tracing::warn!("look for commands: {}; trying again", explain(&error));
                            }
                            failing = true;
                            continue;
                        }
                    }
                }
            };
            for document in found {
                let Some(queued) = place.take(document) else { continue };
                if out.send(queued).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Returns the commands that are not known yet. If the newest command has not changed, this costs one small query.
    async fn look(&self, place: &mut Place, tail: &mut Option<Tail>) -> Result<Vec<Document>> {
        const READ: &str = "read admin.pbmCmd";
        let ids = || Query::default().only(doc! { "_id": 1 });
        let newest = self.newest.find_one(ids().sorted(doc! { "$natural": -1 })).await.context(READ)?;
        // A cursor on an empty collection would stay at its end for ever, so none is opened.
        let Some(newest) = newest.and_then(|found| found.get_object_id("_id").ok()) else { return Ok(Vec::new()) };
        let missed = if place.newest == Some(newest) {
            Vec::new()
        } else {
            let ids = self.newest.find(ids()).await.context(READ)?;
            let new: Vec<ObjectId> = ids
                .iter()
                .filter_map(|found| found.get_object_id("_id").ok())
                .filter(|id| !place.known.contains(id))
                .collect();
            if !new.is_empty() {
                *tail = None;
            }
            new
        };
        let found = if missed.is_empty() {
            Vec::new()
        } else {
            let new = Query::from(doc! { "_id": { "$in": missed } }).sorted(doc! { "$natural": 1 });
            self.newest.find(new).await.context(READ)?
        };
        place.newest = Some(newest);
        if tail.is_none() {
            // Without a cursor, commands only arrive later. A collection that is not capped can't have a tailable
            // cursor.
            match self.newest.tail(None, 0).await {
                Ok(cursor) => *tail = Some(cursor),
                Err(error) => tracing::debug!(%error, "open the cursor on admin.pbmCmd"),
            }
        }
        Ok(found)
    }
}

/// Returns the commands that are in the queue, and then each new one.
type Tail = BoxStream<'static, mongodb::error::Result<Document>>;

/// Waits for the next document of the cursor. Without a cursor it waits for ever.
async fn next_of(tail: &mut Option<Tail>) -> Option<mongodb::error::Result<Document>> {
    match tail {
        Some(cursor) => cursor.next().await,
        None => std::future::pending().await,
    }
}
