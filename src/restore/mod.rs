//! Putting a backup back: a pure plan first, then straight lines that carry it out.

pub mod create;
pub mod legacy_archive;
mod logical;
pub mod oplog_check;
pub mod part;
pub mod plan;
mod record;
pub mod replay;
pub mod router;
mod settings;
mod shard_transactions;
mod slicing_end;
mod sources;
mod start;
pub mod steps;
pub mod target_state;
pub mod users;

pub use logical::readers;
pub use sources::{Source, Sources};
pub use start::{refuse, run};
