//! A replica set of one member.

use mongodb::Client;
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::mongo::capabilities::Capabilities;

pub use crate::support::cluster::Version;
use crate::support::cluster::{Options, ReplicaSet};

pub struct Server {
    _set: ReplicaSet,
    pub client: Client,
}

impl Server {
    pub async fn start(version: Version) -> Self {
        Self::with(Options { version, ..Options::default() }).await
    }

    pub async fn with(options: Options) -> Self {
        let set = ReplicaSet::start(options).await;
        let client = set.client_of(0).await;
        Self { _set: set, client }
    }

    pub async fn run(&self, db: &str, command: Document) -> mongodb::error::Result<Document> {
        self.client.database(db).run_command(command).await
    }

    pub async fn major(&self) -> i32 {
        i32::try_from(self.able().await.server.major).unwrap()
    }

    pub async fn able(&self) -> Capabilities {
        let version = pbmbox::mongo::admin::version(&self.client).await.unwrap();
        Capabilities::read(&version.server, &version.fcv).unwrap()
    }

    /// The newest majority-committed operation.
    pub async fn last_write(&self) -> Timestamp {
        let hello = self.run("admin", doc! {"hello": 1}).await.unwrap();
        let write = hello.get_document("lastWrite").unwrap().get_document("majorityOpTime").unwrap();
        write.get_timestamp("ts").unwrap()
    }
}
