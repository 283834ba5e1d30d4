//! The oplog of a replica set, as a backup stores it and a replay reads it.
//!
//! - [`entry`] reads one entry.
//! - [`mod@slice`] stores a range of the oplog as an object, and `secrets` keeps storage credentials out of it.
//! - [`read`] reads the entries of such an object back.
//! - [`unreadable_names`] leaves out what happened to collections whose names are not valid UTF-8.

pub mod entry;
pub mod read;
pub(crate) mod secrets;
pub mod slice;
pub mod unreadable_names;
