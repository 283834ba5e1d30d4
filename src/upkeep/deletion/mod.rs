//! Deletes backups and PITR chunks: a plan that can be shown, then its execution.

pub mod objects;
pub mod plan;
pub mod prune;
pub mod retention;
