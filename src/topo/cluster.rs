//! Finds the leader replica set and the members of the cluster (docs/format.md D.1).

use crate::mongo::{self, Hello, Purpose, Server, admin, connect};
use anyhow::{Context, Result, bail};
use bson::{Document, doc};
use mongodb::Client;
use std::collections::BTreeMap;

/// The shard id of the config servers.
pub const CONFIG: &str = "config";

/// The replica sets of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// Whether there are config servers.
    pub sharded: bool,
    /// The members by the names of their replica sets. Config servers that are also a shard are listed once, as config servers.
    pub members: BTreeMap<String, Member>,
}

/// One replica set of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The shard id. It is [`CONFIG`] for config servers, and the replica set's own name if the cluster is not sharded.
    pub id: String,
    /// `host:port` of its members, as far as the cluster lists them.
    pub hosts: Vec<String>,
    /// Whether these are the config servers.
    pub config: bool,
}

impl Cluster {
    /// Returns the names of all replica sets, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.members.keys().cloned().collect()
    }

    /// Maps replica sets to their shard ids, only where the two differ. Backups record this map.
    #[must_use]
    pub fn remap(&self) -> BTreeMap<String, String> {
        let renamed = self.members.iter().filter(|(rs, member)| **rs != member.id);
        renamed.map(|(rs, member)| (rs.clone(), member.id.clone())).collect()
    }
}

/// Returns a connection to the primary of the leader replica set, and the answer to `hello` of the node that was asked first.
///
/// The leader replica set is that of the config servers in a sharded cluster, and otherwise the only one. A member of a shard
/// finds the config servers in its `shardIdentity`.
///
/// # Errors
/// The node is a router or a standalone server, or a connection fails.
pub async fn connect_leader(uri: &str, app: &'static str) -> Result<(Client, Hello)> {
    let purpose = Purpose::Leader { app };
    let client = mongo::connect(uri, purpose).await?;
    let hello = mongo::hello(&client).await.context("connect to MongoDB")?;
    if hello.is_router() {
        bail!(router(&client).await);
    }
    hello.must_be_replica_set()?;
    if hello.configsvr != 2
        && let Some(config) = admin::config_server_of_shard(&client).await?
    {
        let hosts = config.split_once('/').map_or(config.as_str(), |(_, hosts)| hosts);
        let leader = connect::connect_elsewhere(uri, hosts, purpose).await?;
        mongo::hello(&leader).await.with_context(|| format!("connect to the config servers at {hosts}"))?;
        return Ok((leader, hello));
    }
    Ok((client, hello))
}

/// Returns the error for a mongos, with the address to use instead if the mongos reports it.
async fn router(mongos: &Client) -> String {
    let answer = mongos.database("admin").run_command(doc! { "getShardMap": 1 }).await.ok();
    let map = answer.as_ref().and_then(|answer| answer.get_document("map").ok());
    let instead = map.and_then(|map| map.get_str(CONFIG).ok()).and_then(|place| place.split_once('/'));
    let place = match instead {
        Some((rs, hosts)) => format!("the config servers: mongodb://{hosts}/?replicaSet={rs}"),
        None => "a member of the config servers' replica set".to_owned(),
    };
    format!("this is a mongos router, which has no oplog and no control collections; connect to {place}")
}

/// Asks the leader replica set which replica sets take part in operations.
pub async fn read(leader: &dyn Server) -> Result<Cluster> {
    let hello = mongo::hello(leader).await?;
    if hello.configsvr != 2 {
        let hosts = [hello.hosts, hello.passives].concat();
        let only = Member { id: hello.set_name.clone(), hosts, config: false };
        return Ok(Cluster { sharded: false, members: [(hello.set_name, only)].into() });
    }
    let answer = leader.run(doc! { "getShardMap": 1 }).await.context("run getShardMap")?;
    let map = answer.get_document("map").context("getShardMap gave no map")?;
    shard_map(map)
}

/// Whether the config servers are also a shard, which is possible with servers of 8.0 and later.
///
/// # Errors
/// `config.shards` can't be read.
pub async fn has_config_shard(leader: &Client) -> Result<bool> {
    let shards = leader.database(CONFIG).collection::<Document>("shards");
    let found = shards.find_one(doc! { "_id": CONFIG }).await.context("read config.shards")?;
    Ok(found.is_some())
}

/// Refuses a cluster whose config servers are also a shard. Restores of such clusters were not tested.
///
/// # Errors
/// The cluster is such a one, or `config.shards` can't be read.
pub async fn refuse_config_shard(leader: &Client) -> Result<()> {
    if has_config_shard(leader).await? {
        bail!(
            "the config servers are a shard, too (config.shards), which this program has not been tested with; with the \
             server's command transitionToDedicatedConfigServer they become config servers only"
        );
    }
    Ok(())
}

fn shard_map(map: &Document) -> Result<Cluster> {
    let mut members = BTreeMap::new();
    for (id, place) in map {
        let Some((rs, hosts)) = place.as_str().and_then(|place| place.split_once('/')) else {
            bail!("getShardMap places shard '{id}' at {place}, which is not the address of a replica set");
        };
        let hosts = hosts.split(',').map(str::to_owned).collect();
        let member = Member { id: id.clone(), hosts, config: id == CONFIG };
        if let Some(other) = members.insert(rs.to_owned(), member) {
            bail!("the shards '{}' and '{id}' have replica sets of the same name, '{rs}'", other.id);
        }
    }
    if !members.values().any(|member| member.config) {
        bail!("getShardMap does not name the config servers");
    }
    Ok(Cluster { sharded: true, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_by_replica_set() {
        let map = doc! { "config": "cfgrs/h:1", "rs1": "rs1/h:2,h:3", "shardB": "rs2/h:4" };
        let cluster = shard_map(&map).expect("a map");
        assert_eq!(cluster.names(), ["cfgrs", "rs1", "rs2"]);
        assert!(cluster.members["cfgrs"].config && !cluster.members["rs2"].config);
        assert_eq!(cluster.members["rs1"].hosts, ["h:2", "h:3"]);
        let renamed = [("cfgrs", "config"), ("rs2", "shardB")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(cluster.remap(), renamed.into());
        assert!(shard_map(&doc! { "a": "rs1/h:1", "config": "cfg/h:2", "b": "rs1/h:3" }).is_err());
        assert!(shard_map(&doc! { "a": "rs1/h:1" }).is_err());
    }
}
