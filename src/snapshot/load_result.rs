//! What a load reports: its progress, its result, and the errors that end it early.

use super::{insert, stored};
use crate::archive::demux;
use std::sync::atomic::AtomicU64;

/// Counters that can be read while the load runs.
#[derive(Debug, Default)]
pub struct LoadProgress {
    /// Uncompressed bytes that the server has acknowledged.
    pub bytes: AtomicU64,
    pub documents: AtomicU64,
    /// Uncompressed bytes to load. They are known when a load begins.
    pub total: AtomicU64,
    /// The number of finished collections, and of all collections.
    pub collections: AtomicU64,
    pub collections_total: AtomicU64,
}

/// Counts of the loaded collections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loaded {
    pub collections: u64,
    pub documents: u64,
    pub bytes: u64,
}

impl std::ops::Add for Loaded {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            collections: self.collections + other.collections,
            documents: self.documents + other.documents,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Why a load ended early. Its collections are then incomplete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("load '{ns}'")]
    Stored { ns: String, source: Box<stored::Error> },
    #[error("load '{object}'")]
    Archive { object: String, source: Box<demux::Error> },
    #[error(transparent)]
    Insert(#[from] insert::Error),
    #[error("the load was cancelled")]
    Cancelled,
    #[error("the load of a collection stopped unexpectedly")]
    Task(#[from] tokio::task::JoinError),
}
