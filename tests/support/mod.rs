//! What the tests stand on: real servers, the real binary, and the state of a cluster as data.

pub mod archive;
pub mod azurite;
pub mod cluster;
pub mod cut;
#[allow(dead_code, reason = "a kit: not every program that includes it uses all of it")]
pub mod doctored;
pub mod garage;
pub mod normalize;
pub mod objects;
pub mod original;
pub mod physical;
pub mod programs;
pub mod sharded;
pub mod snapshot;
pub mod state;
pub mod wait;
pub mod wire;
