//! Restores onto a real server: the parts, the whole of a hand-made backup, and the backups of the original.

mod load;
mod recipe;
mod store;
mod users;

use mongodb::Client;
use mongodb::bson::Document;

use crate::support::cluster::{Options, ReplicaSet};

/// A replica set with a connection to its primary.
struct Server {
    client: Client,
    _set: ReplicaSet,
}

impl Server {
    async fn start(options: Options) -> Self {
        let set = ReplicaSet::start(options).await;
        Self { client: set.client().await, _set: set }
    }

    async fn run(&self, db: &str, command: Document) -> mongodb::error::Result<Document> {
        self.client.database(db).run_command(command).await
    }
}
