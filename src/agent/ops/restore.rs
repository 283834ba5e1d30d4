//! `restore`: the primary of each replica set takes part.

use super::Task;
use crate::agent::{
    node::Node,
    op::{Gate, Leased, Op},
};
use crate::model::{
    command::{RestoreCmd, name},
    config::Config,
};
use crate::mongo::admin::explain;
use crate::operation::Cx;
use crate::rendezvous::Role;
use crate::restore::{self, Source, Sources};
use crate::storage::Storage;
use crate::{
    config::{downloads, resolved::Resolved},
    storages::place,
};
use anyhow::Result;
use std::sync::Arc;

pub(in crate::agent) async fn handle(task: Task, restore: RestoreCmd) -> Result<()> {
    let node = &task.node;
    let Some(op) = task.receive(&restore.name).on_primary(node).await?.go() else { return Ok(()) };
    let op = match op.lease(node, name::RESTORE).await? {
        Gate::Go(op) => op,
        withdrawn @ Gate::Withdrawn => {
            withdrawn.go();
            return Ok(());
        }
        Gate::StandDown(why) => {
            // Without this document, the operator would wait for one that no agent writes.
            if node.in_leader_rs {
                restore::refuse(&node.control, &task.opid, &restore, &why).await?;
            }
            anyhow::bail!("restore {} can't start: {why}", restore.name);
        }
    };
    op.run(async |op| {
        let config = node.control.config.main().await?;
        let cx = context(node, op, config.as_ref()).await?;
        let source = source(node, config.as_ref(), Some(&restore)).await;
        Box::pin(restore::run(&cx, &source, &restore)).await
    })
    .await
}

/// What is read, or why it can't be.
pub(super) async fn source(node: &Node, config: Option<&Config>, restore: Option<&RestoreCmd>) -> Source {
    match config {
        Some(config) => open(node, config, restore).await.map_err(|error| explain(&error)),
        None => Err("there is no configuration; give one with `pbm config --file`".into()),
    }
}

/// Opens the storage of the backup and, for a restore to a moment, the main storage with the oplog. A replay only needs
/// the main storage.
async fn open(node: &Node, config: &Config, restore: Option<&RestoreCmd>) -> Result<Arc<dyn Storage>> {
    let settings = Resolved::of(config).restore;
    let downloads = downloads::of(settings.downloads, restore::readers(&settings, restore));
    let main = node.open_to_read(&config.storage, downloads.clone());
    let Some(restore) = restore else { return main.await };
    // The recipe reports an unknown backup.
    let Some(backup) = node.control.backups.get(&restore.backup_name).await? else {
        return main.await;
    };
    if place::profile_of(&backup.store).is_none() {
        return main.await;
    }
    let place = place::of_backup(&node.control, &backup, &config.storage).await?;
    let store = node.open_to_read(&place, downloads).await?;
    if restore.oplog_ts.is_none() {
        return Ok(store);
    }
    Ok(Arc::new(Sources { backup: store, main: main.await? }))
}

/// What a recipe works with on this node, by this configuration.
pub(in crate::agent) async fn context(node: &Node, op: &Op<Leased>, config: Option<&Config>) -> Result<Cx> {
    Ok(Cx {
        control: node.control.clone(),
        client: node.client.clone(),
        settings: Resolved::of(config.unwrap_or(&Config::default())),
        opid: op.opid.clone(),
        rs: node.rs.clone(),
        me: node.me(),
        role: if node.in_leader_rs { Role::Leader } else { Role::Follower },
        cluster: node.cluster().await?,
        name: op.name.clone(),
        version: node.version_now().await?,
        cancel: op.cancel.clone(),
    })
}
