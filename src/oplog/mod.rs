//! The oplog of a replica set: kept while a backup runs, replayed when it is restored.

pub mod entry;
pub mod read;
pub(crate) mod secrets;
pub mod slice;
