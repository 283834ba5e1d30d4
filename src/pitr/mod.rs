//! Point-in-time recovery: the oplog kept in chunks, continuously, and what can be restored from them.
//!
//! # Overview
//! On every replica set one agent reads the oplog of its node and stores it chunk by chunk ([`slicing`]). [`election`] says
//! which agent, [`begin`] where it begins, [`timeline`] what all of it amounts to. Beside agents of the original the rules
//! are other ones ([`beside`]).
//!
//! # Consistency
//! A chunk holds every entry between two entries that the majority has, both included, and begins with the entry at which
//! the one before it ended; so chunks of different agents, of different nodes, join. Backups do not interrupt slicing:
//! a backup keeps the oplog of its own time itself, and the timeline goes on beside it.
//!
//! A restore rewrites history. Slicing ends before it changes anything and begins anew after it, not where it ended, so the
//! old timeline and the new one never touch.

pub mod begin;
pub mod beside;
pub mod election;
pub mod slicing;
pub mod timeline;
