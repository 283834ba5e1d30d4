//! Data files of a mongod: copied, stored, and started again.
//!
//! | file | what it does |
//! |---|---|
//! | `program` | which mongod reads the files |
//! | `server` | a temporary mongod on them, which only we can reach |

pub mod program;
pub mod server;
