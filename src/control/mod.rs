//! The control collections: what agents and command line tell each other, and nothing else (docs/format.md C).
//!
//! One file per collection with a method per use, so that every write that moves a cluster can be found and read.
//! All of it is on the leader replica set (config servers, or the only replica set), through its primary.
//!
//! # What wakes whom
//!
//! Every change of an operation's document is followed by [`Bell::ring`]: one insert into a capped collection
//! that everybody follows with a tailable cursor. Waiters read the document again when the bell rings, and at the
//! latest after [`POLL`], so a lost ring (or a change made by the original's command line) costs a second, nothing
//! else. Commands are followed in `pbmCmd` itself, which is capped too.

mod agents;
mod backup_list;
mod bell;
mod board;
mod calls;
mod chunk_table;
mod chunks;
mod commands;
mod configs;
pub mod contract;
mod locks;
mod logs;
pub mod memory;
mod ops;
mod order;
mod pitr;
mod setup;
mod table;
mod unreadable;

pub use agents::Agents;
pub use backup_list::{Entry, Shelf};
pub use bell::{Bell, Look, Waited, Waiter};
pub use board::{ControlBoard, Plane};
pub use chunk_table::ChunkTable;
pub use chunks::{ChunkSpan, ChunkTimes, Chunks, Indexed};
pub use commands::{Commands, Place, Queued};
pub use configs::Configs;
pub use locks::{Locks, TakeLock, Withdrawal};
pub use logs::{LogQuery, Logs};
pub use ops::{Debt, Declined, OpDocs, OpDocument, Round};
pub use order::{Order, Refused};
pub use pitr::Pitr;
pub use unreadable::Unreadable;

use crate::model::{backup::BackupMeta, names, restore::RestoreMeta};
use crate::mongo::{self, Server};
use anyhow::{Context, Result};
use bson::{Document, Timestamp, doc};
use mongodb::{
    Client, Database,
    options::{DatabaseOptions, ReadConcern},
};
use std::{sync::Arc, time::Duration};
use table::{Home, Table};

/// The longest that a change goes unseen when the bell is lost.
pub const POLL: Duration = Duration::from_secs(1);
/// How long the server holds a tailable cursor's question when there is nothing new: what agents cost while idle.
const AWAIT: Duration = Duration::from_secs(20);
/// How often locks, operations and agents show that they live.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// Handles of all control collections.
#[derive(Debug, Clone)]
pub struct Control {
    client: Client,
    db: Database,
    leader: Arc<dyn Server>,
    /// Read for the cluster time.
    any: Table,
    pub commands: Commands,
    pub backups: OpDocs<BackupMeta>,
    pub restores: OpDocs<RestoreMeta>,
    pub locks: Locks,
    pub agents: Agents,
    pub config: Configs,
    pub logs: Logs,
    pub chunks: Chunks,
    pub pitr: Pitr,
    pub bell: Arc<Bell>,
    /// The documents that were left out because they can't be read.
    pub unreadable: Unreadable,
}

impl Control {
    /// Handles on the leader replica set that `client` leads to. Contacts no server.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let db = client.database(names::CONTROL_DB);
        Self::over(client, db)
    }

    /// Over a cluster in memory. What is not in memory (PITR's collections and the log) is asked of `client`.
    #[must_use]
    pub fn in_memory(link: memory::Link, client: Client) -> Self {
        let db = client.database(names::CONTROL_DB);
        Self::at(&Home::Memory(link.clone()), Arc::new(link), client, db)
    }

    /// As [`Self::new`], but reads what only the primary has, for use while no majority can confirm it.
    #[must_use]
    pub fn unconfirmed(client: Client) -> Self {
        let options = DatabaseOptions::builder().read_concern(ReadConcern::local()).build();
        let db = client.database_with_options(names::CONTROL_DB, options);
        Self::over(client, db)
    }

    fn over(client: Client, db: Database) -> Self {
        Self::at(&Home::Server(db.clone()), Arc::new(client.clone()), client, db)
    }

    fn at(home: &Home, leader: Arc<dyn Server>, client: Client, db: Database) -> Self {
        let bell = Arc::new(Bell::new(home));
        let unreadable = Unreadable::default();
        Self {
            commands: Commands::new(home, &leader, &bell),
            backups: OpDocs::new(home, &db, &bell, &unreadable),
            restores: OpDocs::new(home, &db, &bell, &unreadable),
            locks: Locks::new(home, &bell),
            agents: Agents::new(home, &unreadable),
            config: Configs::new(home, &bell),
            logs: Logs::new(&db),
            chunks: Chunks::new(&db, &unreadable),
            pitr: Pitr::new(&db, &unreadable),
            bell,
            unreadable,
            any: home.table(names::LOCK),
            leader,
            client,
            db,
        }
    }

    /// The primary of the leader replica set, for commands.
    #[must_use]
    pub fn leader(&self) -> &dyn Server {
        self.leader.as_ref()
    }

    /// The client that leads to the primary of the leader replica set.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Creates collections and indexes that are missing. Existing ones are left as they are.
    pub async fn set_up(&self) -> Result<()> {
        setup::create_all(&self.db).await?;
        self.bell.ring().await;
        Ok(())
    }

    /// Does the bell of earlier releases exist ([`names::OLD_BELL`])?
    pub async fn has_old_bell(&self) -> Result<bool> {
        setup::has_old_bell(&self.db).await
    }

    /// Drops the bell of earlier releases.
    pub async fn drop_old_bell(&self) -> Result<()> {
        setup::drop_old_bell(&self.db).await
    }

    /// Now, in cluster time: advances the primary's view with a read first, so that it is never older than what any
    /// member wrote before.
    pub async fn cluster_time(&self) -> Result<Timestamp> {
        self.any.find_one(doc! {}).await.context("read pbmLock for the cluster time")?;
        self.time_of_last_call().await
    }
}

impl Control {
    /// Now, in cluster time, right after a read or write of the control collections: as [`Self::cluster_time`], with one
    /// question less.
    pub async fn time_of_last_call(&self) -> Result<Timestamp> {
        Ok(mongo::hello(self.leader()).await?.cluster_time())
    }

    /// Now, in cluster time, at a moment when perhaps nobody else writes: advances it with a write of our own first,
    /// because a silent cluster's time moves only every ten seconds. For judging who is lost.
    pub async fn advanced_cluster_time(&self) -> Result<Timestamp> {
        self.bell.ring().await;
        self.cluster_time().await
    }
}

/// A tailable cursor on `coll` will see what comes.
///
/// The server keeps a tailable cursor if the collection has a document *after* its first look. If the first document
/// comes between the two, the cursor lives on but stays at its end for ever. So nobody opens one before a document can be
/// seen.
async fn can_be_tailed<T: Send + Sync>(coll: &mongodb::Collection<T>) -> mongodb::error::Result<bool> {
    let coll = coll.clone_with_type::<Document>();
    let any = coll.find_one(doc! {}).projection(doc! { "_id": 1 });
    Ok(any.read_concern(ReadConcern::local()).await?.is_some())
}

/// Wall-clock unix seconds, as in `*_ts` fields.
#[must_use]
pub fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
