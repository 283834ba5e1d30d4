//! The cluster: its replica sets, and which node may do what.

pub mod cluster;
pub mod suits;
