//! Point-in-time recovery: the oplog kept in chunks, continuously, and what can be restored from them.

pub mod timeline;
