//! Keeping order: what is on a storage, whether it is whole, removing it; and ending operations whose agents are lost.

pub mod balancer;
pub mod contents;
pub mod deletion;
pub mod pause;
pub mod reap;
