//! Follows an operation to its end.

pub mod document;
pub mod lock;
pub mod resync;
