//! The storages of a cluster, from its configuration: which one a backup lies on, and whether it is the one that was used before.

pub mod place;
pub mod used_before;
