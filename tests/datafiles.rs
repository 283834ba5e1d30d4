//! Data files of real mongods.

mod restore;
mod server;
