//! Putting a backup back: a pure plan first, then straight lines that carry it out.

mod conduct;
pub mod create;
pub mod legacy_archive;
mod logical;
pub mod oplog_check;
pub mod part;
pub mod plan;
pub mod replay;
pub mod router;
mod sampler;
mod settings;
mod shard_transactions;
mod slicing_end;
mod sources;
pub mod steps;
pub mod target_state;
pub mod users;

pub use conduct::{Cx, refuse, run};
pub use logical::readers;
pub use sources::Sources;
