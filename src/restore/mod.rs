//! Putting a backup back: a pure plan first, then straight lines that carry it out.

mod conduct;
pub mod create;
mod logical;
pub mod namespaces;
pub mod options;
pub mod plan;
mod sampler;
pub mod slices;
pub mod steps;
pub mod target;
pub mod users;
pub mod version;

pub use conduct::{Cx, refuse, run};
