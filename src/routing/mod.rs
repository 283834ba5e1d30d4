//! The tables of a sharded cluster that say which shard has which documents.

pub mod shard_ids;
