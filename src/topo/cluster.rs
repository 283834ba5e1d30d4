//! Finding the leader replica set and the members of the cluster (spec/format.md D.1).

use crate::mongo::{self, Hello, Purpose, admin, connect};
use anyhow::{Context, Result};
use mongodb::Client;

/// A connection to the primary of the leader replica set, with the answer to `hello` of the node it was found by.
///
/// The leader replica set is the config servers' in a sharded cluster, else the only one. A shard's member knows the
/// config servers by its `shardIdentity`.
///
/// # Errors
/// Routers and standalone servers are refused; everything that the connections fail with.
pub async fn connect_leader(uri: &str, app: &'static str) -> Result<(Client, Hello)> {
    let purpose = Purpose::Leader { app };
    let client = mongo::connect(uri, purpose).await?;
    let hello = mongo::hello(&client).await.context("connect to MongoDB")?;
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

/// The replica sets that take part in an operation, by name.
///
/// Sharded clusters come with a later issue of the project; until then it is the leader's own.
pub async fn members(leader: &Client) -> Result<Vec<String>> {
    Ok(vec![mongo::hello(leader).await?.set_name])
}
