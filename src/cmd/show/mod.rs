//! Subcommands that only read.

pub mod describe;
pub mod diagnostic;
pub mod doctor;
pub mod list;
pub mod logs;
pub mod nodes;
pub mod oplog_coverage;
pub mod running;
pub mod slicing;
pub mod snapshots;
pub mod status;
pub mod version;
