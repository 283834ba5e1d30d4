//! Data files of real mongods.

mod server;
