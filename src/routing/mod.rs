//! The tables of a sharded cluster that say which shard has which documents.
//!
//! A restore replaces all of the cluster's routing or that of a selection. This is decided here, and the steps of a
//! restore do not ask which of the two it is. In the order in which a restore needs them:
//!
//! - [`tables`] reads the tables of a backup, and [`shard_ids`] translates the ids of its shards into those of the cluster.
//! - [`check`] returns which part of the cluster's routing a restore replaces ([`own::Own`]), or why it can't.
//! - [`mod@drop`] drops databases and sharded collections on all shards, and removes what servers keep about them.
//! - [`put_back`] replaces this part of the tables by the backup's.
//! - [`own`] decides which changes of the tables a replay applies.
//! - [`on_shards`] finds routing that shards keep themselves, which is refused.

pub mod check;
pub mod drop;
pub mod on_shards;
pub mod own;
pub mod put_back;
pub mod shard_ids;
pub mod tables;

/// The sharded collection that every cluster creates for itself. A restore does not change its routing.
const SESSIONS: &str = "config.system.sessions";
/// The databases of the server itself.
pub const OWN: [&str; 3] = ["admin", "config", "local"];
