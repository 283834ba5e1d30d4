//! Backup and restore for MongoDB: the `pbm` command line and the `pbm-agent` daemon, in one executable.
//!
//! # The map
//!
//! Layers, top to bottom. A module imports from its own layer's siblings only where the list says so, and from
//! below; never upward. `tests/architecture.rs` reads the `use crate::` lines and checks it.
//!
//! | layer | modules | what lives there |
//! |---|---|---|
//! | L5 programs | [`cmd`], [`agent`] | `pbm`, `pbm-speed-test` and `pbmctl` talk to people, `pbm-agent` to the command stream; never to each other |
//! | L4 recipes | [`backup`], [`restore`], [`export`], [`pitr`], [`upkeep`], [`preflight`], [`speed`] | straight lines that call engines and return values |
//! | L3 engines | [`snapshot`], [`oplog`] | move data; know nothing of commands or statuses |
//! | L2 facts | [`mongo`], [`topo`], [`control`], [`config`] | the cluster and what it remembers |
//! | L1 bytes and protocol | [`rendezvous`], [`layout`], [`archive`], [`compress`], [`storage`] | formats, objects, who waits for whom |
//! | L0 words | [`model`], [`raw`], [`log`], [`pages`], [`printable`], [`spelling`] | documents, statuses, names, byte for byte; no behaviour. BSON that is carried and not read. Manual pages, completion scripts, reading of command lines, text for terminals |
//!
//! # The two flows
//!
//! ```text
//! logical backup   cmd/backup ─control→ agent/listen → dispatch → ops/backup: check → election → lease
//!                  backup/logical: Running · oplog tail beside the dump · users aside · dump · DumpDone
//!                                  · last slice · Done (metadata file written and files checked first)
//! logical restore  cmd/restore ─control→ agent/listen → dispatch → ops/restore: check → lease
//!                  restore/logical: plan and verify every object · load · users · oplog · indexes · Done
//! ```
//!
//! The formats on the storage and the documents in the control collections are those of Percona Backup for
//! MongoDB 2.15; what is added beside them is marked as such where it is defined.
//! `docs/format.md` describes both.

pub mod agent;
pub mod archive;
pub mod backup;
pub mod cmd;
pub mod compress;
pub mod config;
pub mod control;
pub mod export;
pub mod layout;
pub mod log;
pub mod model;
pub mod mongo;
pub mod oplog;
pub mod pages;
pub mod pitr;
pub mod preflight;
pub mod printable;
pub mod raw;
pub mod rendezvous;
pub mod restore;
pub mod snapshot;
pub mod speed;
pub mod spelling;
pub mod storage;
pub mod topo;
pub mod upkeep;
