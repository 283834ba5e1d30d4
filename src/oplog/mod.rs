//! The oplog of a replica set: kept while a backup runs, replayed when it is restored.

pub mod apply;
pub mod aside;
mod batch;
pub mod build;
mod capped;
pub mod catalog;
mod ddl;
pub mod entry;
pub mod filter;
pub mod follow;
mod lanes;
pub mod live;
pub mod mapping;
pub mod read;
pub mod routing;
mod secrets;
mod send;
pub mod shard_ids;
pub mod slice;
pub mod target;
pub mod txn;
