//! Point-in-time recovery: the oplog kept in chunks, continuously, and what can be restored from them.
//!
//! # Overview
//! On every replica set one agent reads the oplog of its node and stores it chunk by chunk ([`slicing`]). [`election`] decides
//! which agent does this, [`begin`] decides where it begins, and [`timeline`] computes which moments the chunks cover. While
//! agents of the original are alive, other rules apply ([`beside`]).
//!
//! # Consistency
//! A chunk contains all entries from one entry to another, both included. A majority has both of them. The first entry of a
//! chunk is the last entry of the chunk before it, so chunks of different agents and nodes join. Backups do not interrupt
//! slicing: a backup stores the oplog of its own time itself, and the timeline continues beside it.
//!
//! A restore replaces the data, so the old timeline ends. Slicing stops before a restore changes anything. After the restore
//! it begins at a later entry and not where it stopped, so the old and the new timeline never touch.

pub mod begin;
pub mod beside;
pub mod election;
pub mod slicing;
pub mod timeline;
