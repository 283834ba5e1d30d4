//! Whoever runs administration commands: a mongod behind a client or, in tests, a stand-in in memory.

use bson::Document;
use futures::{FutureExt, future::BoxFuture};
use mongodb::Client;
use std::fmt::Debug;

/// Runs commands on the database `admin`.
pub trait Server: Debug + Send + Sync {
    /// Runs one command.
    fn run(&self, command: Document) -> BoxFuture<'_, mongodb::error::Result<Document>>;
}

impl Server for Client {
    fn run(&self, command: Document) -> BoxFuture<'_, mongodb::error::Result<Document>> {
        let admin = self.database("admin");
        async move { admin.run_command(command).await }.boxed()
    }
}
