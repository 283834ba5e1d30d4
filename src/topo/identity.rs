//! The id of a cluster. No other cluster has the same id, and it stays when members are added or removed.

use super::cluster::Cluster;
use crate::mongo::admin;
use anyhow::Result;
use mongodb::Client;

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The id, in hex digits.
    pub id: String,
    /// The leader replica set's name.
    pub name: String,
}

/// Returns the id of the sharded cluster, or that of the only replica set. Returns `None` for a replica set that was initiated
/// by hand without an id.
///
/// # Errors
/// The server can't be asked.
pub async fn read(leader: &Client, cluster: &Cluster) -> Result<Option<Identity>> {
    let id = if cluster.sharded { admin::cluster_id(leader).await? } else { admin::replica_set_id(leader).await? };
    let name = cluster.members.iter().find(|(_, member)| member.config || !cluster.sharded);
    let name = name.map(|(rs, _)| rs.clone()).unwrap_or_default();
    Ok(id.map(|id| Identity { id: id.to_hex(), name }))
}
