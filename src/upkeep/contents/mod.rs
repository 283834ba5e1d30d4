//! What a storage contains, and whether it is whole.

pub mod coverage;
#[cfg(test)]
pub(super) mod fixture;
pub mod inventory;
pub mod leftovers;
pub(super) mod read_through;
pub mod resync;
pub mod tenants;
pub mod verify;
