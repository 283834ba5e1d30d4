//! The cluster: its replica sets, its balancer, and which node may do what.

pub mod balancer;
pub mod cluster;
pub mod condition;
pub mod elect;
pub mod identity;
pub mod lockable;
pub mod suits;
