//! Restores: first a plan, which only depends on its input, then a sequence of steps that carries it out.
//!
//! | in this order | files |
//! |---|---|
//! | how a restore begins: refused, or with its document | `start`, `record` |
//! | the recipe, and the one of `pbm oplog-replay` | `logical`, [`replay`] |
//! | pure: what will be done, or every reason why not | [`plan`] |
//! | what the plan is made from | [`target_state`], [`legacy_archive`], [`oplog_check`], `sources` |
//! | the steps, each of which consumes the state before it | [`steps`], with [`create`], [`users`], `settings`, `stream` |
//! | a sharded cluster: what is replaced on all shards | [`steps::all_shards`], with [`crate::routing`] for the routing |
//! | a sharded cluster: what its replica sets exchange | `shard_transactions`, `slicing_end` |
//!
//! [`physical`] is the recipe for backups of data files; `plan`, `record` and `start` serve both.

pub mod create;
pub mod legacy_archive;
mod logical;
pub mod oplog_check;
pub mod physical;
pub mod plan;
mod record;
pub mod replay;
mod settings;
mod shard_transactions;
mod slicing_end;
mod sources;
mod start;
pub mod steps;
mod stream;
pub mod target_state;
pub mod users;

pub use logical::readers;
pub use sources::{Source, Sources};
pub use start::{refuse, run};
