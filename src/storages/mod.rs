//! The storages in a cluster's configuration: the storage of a backup, and whether a storage is the one that was used before.

pub mod place;
pub mod used_before;
