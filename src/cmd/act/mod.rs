//! Subcommands that change something, and their checks.

pub mod backup;
pub mod cancel;
pub mod checks;
pub mod cleanup_failed;
pub mod config;
pub mod consent;
pub mod delete;
pub mod dry_run;
pub mod export;
pub mod flush;
pub mod oplog_replay;
pub mod profile;
pub mod prune_plan;
pub mod restore;
pub mod restore_files;
pub mod serve;
pub mod source;
