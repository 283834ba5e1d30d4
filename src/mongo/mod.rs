//! Talking to one mongod: connections, who a node is, typed commands.

pub mod admin;
mod ca_store;
pub mod capabilities;
pub mod code;
pub mod connect;
pub mod hello;
pub mod listing;
pub mod login;
pub mod majority;
#[cfg(test)]
pub(crate) mod nowhere;
mod seedlist;
pub mod server;
pub mod version;

pub use connect::{Purpose, Uri, connect};
pub use hello::{Hello, hello};
pub use server::Server;
