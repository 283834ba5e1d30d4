//! Every document, status and name of the control collections and of the storage's metadata, byte for byte.
//!
//! No behaviour lives here beyond conversion and small predicates. Field names are those of Percona Backup for
//! MongoDB 2.15; a field that we add carries the remark *added by us* and is ignored by the original.

pub mod agent;
pub mod backup;
pub mod build;
pub mod chunk;
pub mod command;
pub mod compression;
pub mod config;
pub mod lock;
pub mod log;
pub mod member;
pub mod names;
pub mod pitr;
pub mod rate;
pub mod restore;
pub mod selection;
pub mod serde_help;
pub mod status;
pub mod store;

pub use bson::Timestamp;
