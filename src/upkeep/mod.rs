//! Keeping order: what is on a storage, whether it is whole, removing it; and ending operations whose agents are lost.

pub mod balancer;
pub mod catalogue;
mod content;
pub mod coverage;
pub mod delete;
pub mod pause;
pub mod prune;
pub mod reap;
pub mod remains;
pub mod resync;
pub mod retention;
pub mod tenants;
pub mod verdict;
pub mod verify;

#[cfg(test)]
mod fixture;
