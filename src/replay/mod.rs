//! The replay of oplog entries onto a target: what each one changes, in which order, and what is done when all have been applied.

pub mod apply;
mod batch;
pub mod build;
mod capped;
mod ddl;
pub mod existing_catalog;
pub mod filter;
pub mod followed_names;
mod lanes;
pub mod mapping;
pub mod owed;
pub mod own_routing;
mod send;
pub mod target;
pub mod temporary_names;
pub mod txn;
