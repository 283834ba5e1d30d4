//! The control collections, through which agents and the command line communicate (docs/format.md C).
//!
//! Each collection has a file, and each use of it has a method, so that every write that affects a cluster is easy to
//! find and read. All collections are on the leader replica set (config servers, or the only replica set) and are used
//! through its primary.
//!
//! # How waiting tasks wake up
//!
//! Every change of an operation's document is followed by [`Bell::ring`]: one insert into a capped collection that
//! every process follows with a tailable cursor. A waiting task reads the document again when the bell rings, and after
//! [`POLL`] at the latest. So a lost ring (or a change made by the original's command line) only costs a second.
//! Commands are followed in `pbmCmd` itself, which is also capped.

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
#[cfg_attr(not(test), expect(dead_code, reason = "only tests have their collections in memory"))]
pub(crate) mod memory;
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
use bson::{Timestamp, doc};
use mongodb::{
    Client, Database,
    options::{DatabaseOptions, ReadConcern},
};
use std::{sync::Arc, time::Duration};
use table::{Home, Table};

/// The longest time until a change is noticed if the ring of the bell is lost.
pub const POLL: Duration = Duration::from_secs(1);
/// How long the server waits for new documents before it answers a tailable cursor. This determines how many calls idle
/// agents make.
const AWAIT: Duration = Duration::from_secs(20);
/// The time between two heartbeats of locks, operations and agents.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// Handles of all control collections.
#[derive(Debug, Clone)]
pub struct Control {
    client: Client,
    db: Database,
    leader: Arc<dyn Server>,
    /// Any collection. It is read to learn the cluster time.
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
    /// The documents that were left out because they can't be decoded.
    pub unreadable: Unreadable,
}

impl Control {
    /// Creates the handles, for the leader replica set of `client`. Contacts no server.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let db = client.database(names::CONTROL_DB);
        Self::over(client, db)
    }

    /// Creates the handles for a cluster in memory. PITR's collections and the log are not in memory, so they use
    /// `client`.
    #[must_use]
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests have their collections in memory"))]
    pub(crate) fn in_memory(link: memory::Link, client: Client) -> Self {
        let db = client.database(names::CONTROL_DB);
        Self::at(&Home::Memory(link.clone()), Arc::new(link), client, db)
    }

    /// Does the same as [`Self::new`], but also reads data that only the primary has. For use while no majority can
    /// confirm writes.
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
            backups: OpDocs::new(home, &bell, &unreadable),
            restores: OpDocs::new(home, &bell, &unreadable),
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

    /// Whether the bell of earlier releases exists ([`names::OLD_BELL`]).
    pub async fn has_old_bell(&self) -> Result<bool> {
        setup::has_old_bell(&self.db).await
    }

    /// Drops the bell of earlier releases.
    pub async fn drop_old_bell(&self) -> Result<()> {
        setup::drop_old_bell(&self.db).await
    }

    /// Returns the present cluster time. It reads from the primary first, so the result is never older than any write
    /// that a member made before the call.
    pub async fn cluster_time(&self) -> Result<Timestamp> {
        self.any.find_one(doc! {}).await.context("read pbmLock for the cluster time")?;
        self.time_of_last_call().await
    }
}

impl Control {
    /// Returns the present cluster time right after a read or write of the control collections. This is
    /// [`Self::cluster_time`] with one call less.
    pub async fn time_of_last_call(&self) -> Result<Timestamp> {
        Ok(mongo::hello(self.leader()).await?.cluster_time())
    }

    /// Returns the present cluster time, after a write that advances it. Use this to decide which processes are lost:
    /// in a cluster without other writes, the cluster time advances only every ten seconds.
    pub async fn advanced_cluster_time(&self) -> Result<Timestamp> {
        self.bell.ring().await;
        self.cluster_time().await
    }
}

/// Returns the wall-clock time in unix seconds, as in `*_ts` fields.
#[must_use]
pub fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}
