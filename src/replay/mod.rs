//! The replay: applies oplog entries to a target.
//!
//! # The map, in reading order
//!
//! The replay itself:
//!
//! - [`apply`] is the entry point. A `Replayer` reads entries in their order, keeps transactions until their commit,
//!   and passes each operation to the modules below. Its documentation states what the replay promises: consistency,
//!   order, memory, retries.
//! - [`filter`] decides which operations are applied. [`routing::own`](crate::routing::own) decides it for a cluster's
//!   routing tables.
//! - [`txn`] keeps the operations of transactions until their commit is known.
//! - `batch` collects inserts, updates and deletes, and sends them in several lanes at the same time: `lanes` chooses the lane of
//!   an operation, `send` sends one lane, and `lane_report` judges the server's answers.
//! - `ddl` applies commands such as `create`, `drop` and `collMod`. For it, `names` frees names on the target, and
//!   [`temporary_names`] generates names for collections that have to wait for their own.
//!
//! The end of a replay:
//!
//! - [`catalog`] contains the collections of the restore, with the indexes and options that they get when their data is
//!   complete. [`existing_catalog`] reads it from a server whose collections are in use.
//! - [`build`] gives the collections these indexes and options, and `capped` their caps.
//!
//! Before a replay:
//!
//! - [`followed_names`] finds the names that an oplog creates, renames or drops. [`feasible`] finds the operations that
//!   can't be applied to the target, and [`options`] the options that the target can't have.
//! - [`mapping`] gives the collections of a clone other names and UUIDs, also in oplog entries.
//!
//! Shared by these files:
//!
//! - [`key`] decides how a collection is found (by UUID or by name), `op` builds operations for `applyOps`, [`stats`]
//!   counts, `state` holds the catalogue and the counts of a running replay, and [`target`] is the connection to the
//!   primary, with the peculiarities of `applyOps`.

pub mod apply;
mod batch;
pub mod build;
mod capped;
pub mod catalog;
mod ddl;
pub mod existing_catalog;
pub mod feasible;
pub mod filter;
pub mod followed_names;
pub mod key;
mod lane_report;
mod lanes;
pub mod mapping;
mod names;
mod op;
pub mod options;
mod send;
mod state;
pub mod stats;
pub mod target;
pub mod temporary_names;
pub mod txn;
