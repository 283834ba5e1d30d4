//! Putting a backup back: a pure plan first, then straight lines that carry it out.

mod conduct;
pub mod create;
mod logical;
pub mod members;
pub mod moment;
pub mod namespaces;
pub mod options;
pub mod packed;
pub mod part;
pub mod plan;
pub mod replay;
pub mod router;
mod sampler;
mod settings;
mod settle;
mod slicers;
pub mod slices;
pub mod sound;
mod sources;
pub mod steps;
pub mod target;
pub mod users;
pub mod version;

pub use conduct::{Cx, refuse, run};
pub use logical::readers;
pub use sources::Sources;
