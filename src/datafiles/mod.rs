//! Data files of a mongod: copied, stored, and started again.
//!
//! | file | what it does |
//! |---|---|
//! | `dbpath` | what lies in a dbPath, and which of it is copied |
//! | `clone` | clones of files, and copies in two passes |
//! | `upload` | files to objects |
//! | `program` | which mongod reads the files |
//! | `server` | a temporary mongod on them, which only we can reach |

pub mod clone;
pub mod dbpath;
pub mod program;
pub mod server;
pub mod upload;
