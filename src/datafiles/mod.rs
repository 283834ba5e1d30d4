//! Data files of a mongod: copied, stored, and started again.
//!
//! | file | what it does |
//! |---|---|
//! | `dbpath` | what lies in a dbPath, and which of it is copied |
//! | `clone` | clones of files, and copies in two passes |
//! | `upload` | files to objects |
//! | `download` | stored objects back to files |
//! | `program` | which mongod reads the files |
//! | `recovery` | copied files become a member of a replica set, by the server's own recovery |
//! | `server` | a temporary mongod on them, which only we can reach |

pub mod clone;
pub mod dbpath;
pub mod download;
pub mod program;
pub mod recovery;
pub mod server;
pub mod upload;
