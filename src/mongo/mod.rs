//! Talking to one mongod: connections, who a node is, typed commands.

pub mod admin;
pub mod connect;
pub mod hello;
pub mod listing;
pub mod login;
pub mod majority;
mod seedlist;
mod trust;

pub use connect::{Purpose, connect};
pub use hello::{Hello, hello};
