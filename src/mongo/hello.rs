//! Who is this node, and how far is it? (`hello`)

use super::Server;
use anyhow::{Context, Result, bail};
use bson::{Timestamp, doc};
use serde::Deserialize;

/// The answer to `hello` that we use.
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// `isdbgrid` on a router.
    #[serde(default)]
    pub msg: String,
    #[serde(default)]
    pub me: String,
    #[serde(default)]
    pub set_name: String,
    #[serde(default)]
    pub primary: String,
    #[serde(default)]
    pub is_writable_primary: bool,
    #[serde(default)]
    pub secondary: bool,
    #[serde(default)]
    pub arbiter_only: bool,
    #[serde(default)]
    pub hidden: bool,
    #[serde(default)]
    pub passive: bool,
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub passives: Vec<String>,
    /// 2 on a config server.
    #[serde(default)]
    pub configsvr: i32,
    /// Present only if `false`: this member then has no indexes except those on `_id`.
    #[serde(default)]
    pub build_indexes: Option<bool>,
    #[serde(default)]
    secondary_delay_secs: i64,
    /// The name of `secondaryDelaySecs` before 5.0.
    #[serde(default)]
    slave_delay: i64,
    /// Its wall clock.
    #[serde(default)]
    pub local_time: Option<bson::DateTime>,
    #[serde(default)]
    last_write: LastWrite,
    #[serde(rename = "$clusterTime", default)]
    cluster_time: Option<ClusterTime>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct LastWrite {
    #[serde(default)]
    op_time: Option<OpTime>,
    #[serde(default)]
    majority_op_time: Option<OpTime>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct OpTime {
    ts: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterTime {
    cluster_time: Timestamp,
}

impl Hello {
    /// The cluster time this node knows; `Timestamp(0, 0)` on a standalone.
    #[must_use]
    pub fn cluster_time(&self) -> Timestamp {
        self.cluster_time.as_ref().map_or(Timestamp { time: 0, increment: 0 }, |c| c.cluster_time)
    }

    /// The newest write that a majority has.
    #[must_use]
    pub fn majority_write(&self) -> Option<Timestamp> {
        self.last_write.majority_op_time.as_ref().map(|t| t.ts)
    }

    /// The newest write of this node.
    #[must_use]
    pub fn own_write(&self) -> Option<Timestamp> {
        self.last_write.op_time.as_ref().map(|t| t.ts)
    }

    /// The configured delay of this member, in seconds.
    #[must_use]
    pub fn delay_secs(&self) -> i64 {
        self.secondary_delay_secs.max(self.slave_delay)
    }

    /// This node is the primary and says so itself.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.is_writable_primary && self.me == self.primary
    }

    /// This is a mongos.
    #[must_use]
    pub fn is_router(&self) -> bool {
        self.msg == "isdbgrid"
    }

    /// Refuses what backups can't be coordinated on.
    ///
    /// # Errors
    /// A router, or a mongod that is no member of a replica set.
    pub fn must_be_replica_set(&self) -> Result<()> {
        if self.is_router() {
            bail!("this is a mongos router; connect to a mongod of the config-server replica set or of a shard");
        }
        if self.set_name.is_empty() {
            bail!(
                "this mongod is not a member of a replica set, so it has no oplog to make a backup consistent; start it \
                 with --replSet and run rs.initiate()"
            );
        }
        Ok(())
    }
}

/// Asks the server.
pub async fn hello(server: &dyn Server) -> Result<Hello> {
    let answer = server.run(doc! { "hello": 1 }).await.context("run hello")?;
    bson::deserialize_from_document(answer).context("read the answer to hello")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_has_two_names() {
        for name in ["secondaryDelaySecs", "slaveDelay"] {
            let hello: Hello = bson::deserialize_from_document(doc! { name: 3600_i64 }).expect("an answer");
            assert_eq!(hello.delay_secs(), 3600, "{name}");
        }
    }
}
