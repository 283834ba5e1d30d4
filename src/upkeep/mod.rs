//! Keeping order: what is on a storage, whether it is whole, removing it.

pub mod contents;
pub mod deletion;
