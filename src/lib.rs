//! Backup and restore for MongoDB: the `pbm` command line and the `pbm-agent` daemon, in one executable.
//!
//! # The map
//!
//! Layers, top to bottom. A module imports from the layers below its own, and of its own layer only what its row allows
//! after `→`. `tests/architecture.rs` reads this table and fails on every other arrow.
//!
//! | layer | module | what is in it |
//! |---|---|---|
//! | L6 properties | [`fuzz`] | what must hold for bytes from outside; only in tests and in programs of cargo-fuzz |
//! | L5 programs | [`cmd`] | `pbm`: asks, shows and follows; agents do the work |
//! | L5 programs | [`tools`] → cmd | programs beside `pbm`: `pbm-speed-test`, `pbmctl`, the sandbox |
//! | L5 programs | [`agent`] | `pbm-agent`: takes commands, is elected, holds the lock, works |
//! | L4 recipes | [`backup`] → operation, upkeep | a replica set's part of a backup |
//! | L4 recipes | [`restore`] → operation, pitr | a replica set's part of a restore, and the plan that is made before it |
//! | L4 recipes | [`export`] → restore | a backup as a mongodump archive |
//! | L4 recipes | [`serve`] → restore | a read-only server on the data of a backup |
//! | L4 recipes | [`pitr`] | slices of the oplog, and the timelines that they make |
//! | L4 recipes | [`operation`] | what backups and restores have in common: supervision, debts, progress, lost agents |
//! | L4 recipes | [`upkeep`] → pitr | what a storage contains, and deletion |
//! | L4 recipes | [`preflight`] → pitr | checks before an operation, and for `pbm doctor` |
//! | L3 engines | [`datafiles`] | data files of a mongod: copied, stored, and started again |
//! | L3 engines | [`snapshot`] | collections to compressed objects and back |
//! | L3 engines | [`oplog`] → snapshot | oplog entries, and ranges of the oplog as objects |
//! | L3 engines | [`replay`] → oplog, routing | oplog entries onto a target |
//! | L3 engines | [`routing`] → snapshot | which shard has which documents |
//! | L2 facts | [`storages`] → config, control | which storage a backup lies on, and whether it is the one of before |
//! | L2 facts | [`control`] → config, mongo | the control collections |
//! | L2 facts | [`config`] | settings, from YAML and documents to opened storages |
//! | L2 facts | [`topo`] → mongo | the members of the cluster, and which of them may do what |
//! | L2 facts | [`mongo`] | connections, commands and answers of MongoDB |
//! | L1 bytes and protocol | [`rendezvous`] | who waits for whom in an operation |
//! | L1 bytes and protocol | [`archive`] → layout, storage | metadata of a backup, and mongodump archives |
//! | L1 bytes and protocol | [`compress`] → storage | codecs as streams |
//! | L1 bytes and protocol | [`storage`] → layout | objects in stores |
//! | L1 bytes and protocol | [`layout`] | names of objects |
//! | L0 words | [`log`] → model, printable | log lines |
//! | L0 words | [`cli`] | command lines in general: manual pages, completion, spellings of the original |
//! | L0 words | [`model`] | documents, statuses, selections, field by field |
//! | L0 words | [`printable`] | text of others, made harmless for terminals |
//! | L0 words | [`raw`] | BSON that is carried and not decoded |
//!
//! # The two flows
//!
//! ```text
//! logical backup   cmd/act/backup ─control→ agent/dispatch → agent/ops/backup: check → election → lease
//!                  backup/logical: Running · oplog slices beside the dump · dump · DumpDone
//!                                  · last slice · Done (metadata file written and files checked first)
//! logical restore  cmd/act/restore ─control→ agent/dispatch → agent/ops/restore: check → lease
//!                  restore/logical: plan · check the oplog · drop · load · replay · indexes and users · Done
//! ```
//!
//! Commands reach agents through `control/commands`. The formats on the storage and the documents in the control
//! collections are those of Percona Backup for MongoDB 2.15; additions are marked as such where they are defined.
//! `docs/format.md` describes both.

pub mod agent;
pub mod archive;
pub mod backup;
pub mod cli;
pub mod cmd;
pub mod compress;
pub mod config;
pub mod control;
pub mod datafiles;
pub mod export;
#[cfg(any(test, fuzzing, doc))]
pub mod fuzz;
pub mod layout;
pub mod log;
pub mod model;
pub mod mongo;
pub mod operation;
pub mod oplog;
pub mod pitr;
pub mod preflight;
pub mod printable;
pub mod raw;
pub mod rendezvous;
pub mod replay;
pub mod restore;
pub mod routing;
pub mod serve;
pub mod snapshot;
pub mod storage;
pub mod storages;
pub mod tools;
pub mod topo;
pub mod upkeep;
