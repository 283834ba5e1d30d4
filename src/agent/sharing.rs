//! Warns operators that other clusters make backups on the same storage, in the log and in this agent's document, which
//! `pbm status` shows. [`tenants`] reads and writes the marks. An error here never ends an operation.

use super::node::Node;
use crate::control::{Shelf, unix_now};
use crate::model::{agent::Tenant, config::StorageConf};
use crate::mongo::admin::explain;
use crate::storage::Storage;
use crate::storages::place;
use crate::upkeep::contents::tenants;
use anyhow::Result;
use std::time::Duration;

/// How long to wait until the lines of a warning are in the database's log, before the operation continues.
const TOLD: Duration = Duration::from_secs(3);

/// Called before this cluster writes a backup or oplog to `store`: leaves its mark and warns if there are marks of
/// other clusters.
pub(super) async fn begin(node: &Node, store: &dyn Storage, settings: &StorageConf) {
    let work = async {
        let Some(me) = node.identity().await? else { return Ok(()) };
        let others = tenants::begin(store, &me, &node.me(), unix_now()).await?;
        for other in &others {
            tracing::warn!(
                "{}, {store}, is shared: {} makes backups there too. Two clusters must not share one: give each a folder \
                 or prefix of its own. If that cluster is gone and this one goes on with its storage, {} forgets it",
                title(settings),
                describe(other),
                remedy(settings)
            );
        }
        if !others.is_empty() {
            node.log.settle(TOLD).await;
        }
        note(node, settings, others);
        anyhow::Ok(())
    };
    if let Err(error) = work.await {
        tracing::warn!("look whether another cluster uses this storage: {}", explain(&error));
    }
}

/// Called at a resync of `store`. If this cluster makes backups there, the storage counts as its own from now on.
/// Otherwise the operator is warned of the other clusters.
pub(super) async fn take_over(node: &Node, store: &dyn Storage, settings: &StorageConf) {
    let work = async {
        let Some(me) = node.identity().await? else { return Ok(()) };
        let (others, gone) = tenants::take_over(store, &me).await?;
        for other in &others {
            tracing::warn!(
                "{} belongs to another cluster: {} makes backups there. Restoring from it is fine; for backups of this \
                 cluster configure a folder or prefix of its own, unless that cluster is gone",
                title(settings),
                describe(other)
            );
        }
        for other in &gone {
            tracing::info!("{} is this cluster's own from now on; {} is forgotten", title(settings), describe(other));
        }
        note(node, settings, Vec::new());
        anyhow::Ok(())
    };
    if let Err(error) = work.await {
        tracing::warn!("look whether another cluster uses this storage: {}", explain(&error));
    }
}

/// Called after a deletion on `store`: also removes this cluster's mark, if the storage contains nothing of this
/// cluster any more and is not about to get anything.
pub(super) async fn end(node: &Node, store: &dyn Storage, settings: &StorageConf) {
    let work = async {
        let profile = place::profile_of(settings);
        if node.control.backups.count_on(profile.map_or(Shelf::Main, Shelf::Profile)).await? > 0 {
            return Ok(());
        }
        if profile.is_none() {
            let sliced = node.read_config().await?.is_some_and(|config| config.pitr_is_on());
            if sliced || node.control.chunks.newest_end().await?.is_some() {
                return Ok(());
            }
        }
        let Some(me) = node.identity().await? else { return Ok(()) };
        tenants::leave(store, &me.id).await
    };
    if let Err(error) = work.await {
        tracing::warn!("remove this cluster's mark from the storage: {}", explain(&error));
    }
}

/// Finds out which other clusters make backups on the main storage.
pub(super) async fn look(node: &Node, store: &dyn Storage, settings: &StorageConf) -> Result<()> {
    let Some(me) = node.identity().await? else { return Ok(()) };
    note(node, settings, tenants::sharing(tenants::all(store).await?, &me));
    Ok(())
}

fn note(node: &Node, settings: &StorageConf, mut others: Vec<Tenant>) {
    if place::profile_of(settings).is_none() {
        others.sort();
        node.shared.send_replace(others);
    }
}

fn title(settings: &StorageConf) -> String {
    place::profile_of(settings)
        .map_or_else(|| "the main storage".to_owned(), |name| format!("the storage of profile {name}"))
}

fn remedy(settings: &StorageConf) -> String {
    match place::profile_of(settings) {
        None => "`pbm config --force-resync`".to_owned(),
        Some(name) => format!("`pbm profile sync {name}`"),
    }
}

fn describe(tenant: &Tenant) -> String {
    let last = jiff::Timestamp::from_second(tenant.last).map(|at| at.to_string()).unwrap_or_default();
    format!("cluster {} (id {}, agent on {}, last seen at {last})", tenant.name, tenant.id, tenant.node)
}
