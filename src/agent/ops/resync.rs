//! `resync`: reads the content of the main storage, or of the storages of profiles, into the control collections
//! (docs/format.md A.10).

use super::Task;
use crate::agent::{node::Node, sharing};
use crate::model::{
    command::{ResyncCmd, name},
    config::{Config, StorageConf},
    log::SUCCEED,
};
use crate::mongo::admin::explain;
use crate::storage::Storage;
use crate::upkeep::contents::resync;
use crate::{
    config::open::{self, Root},
    storages::{
        place,
        used_before::{self, Way},
    },
};
use anyhow::{Context, Result, bail};
use std::sync::Arc;

pub(in crate::agent) async fn handle(task: Task, command: ResyncCmd) -> Result<()> {
    let node = &task.node;
    if !node.in_leader_rs {
        return Ok(());
    }
    let Some(op) = task.receive("").check(node).await?.go() else { return Ok(()) };
    let Some(op) = op.anybody().lease(node, name::RESYNC).await?.go() else { return Ok(()) };
    op.run(async |op| {
        tracing::info!("started");
        tokio::select! {
            () = op.cancel.cancelled() => bail!("{}; repeat it", op.why_early(name::RESYNC)),
            done = op.cancel.while_held(read(node, &command)) => done?,
        }
        tracing::info!("{SUCCEED}");
        Ok(())
    })
    .await
}

async fn read(node: &Node, command: &ResyncCmd) -> Result<()> {
    if !command.all && place::is_main(&command.name) {
        return main_storage(node, command).await;
    }
    let known = node.control.config.profiles().await?;
    let profiles = if command.all { known.iter().collect() } else { vec![place::find(&known, &command.name)?] };
    let mut failed = Vec::new();
    for profile in profiles {
        let name = profile.name.as_deref().unwrap_or_default();
        let done = if command.clear {
            resync::clear(&node.control, name).await
        } else {
            one(node, profile, command.accept_empty).await
        };
        // If one storage can't be reached, the others are still read.
        if let Err(error) = done {
            failed.push(format!("profile {name}: {}", explain(&error)));
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

async fn main_storage(node: &Node, command: &ResyncCmd) -> Result<()> {
    if command.clear {
        bail!("the catalogue of the main storage can be read again, but not be cleared");
    }
    let config = node.control.config.main().await?.context("there is no configuration; run `pbm config --file`")?;
    let store = right_one(node, &config.storage, command.accept_empty).await?;
    sharing::take_over(node, store.as_ref(), &config.storage).await;
    resync::main_storage(&node.control, store.as_ref(), &config, command.include_restores).await?;
    used_before::remember(&node.control, &config.storage).await
}

/// Opens the storage and makes sure that it is the right one, because a resync removes the records of everything that
/// is not on it.
async fn right_one(node: &Node, settings: &StorageConf, accept_empty: bool) -> Result<Arc<dyn Storage>> {
    let me = node.me();
    let way = Way::new(settings, &me);
    match used_before::find(&node.control, &way).await {
        Err(error) if error.is::<used_before::Lost>() => {
            if accept_empty {
                tracing::warn!("the storage is taken for a new one, as was asked for: {error}");
                let store = way.open(Root::MakeIfMissing).await?;
                open::write_init(store.as_ref()).await.context("write the storage's mark .pbm.init")?;
                return Ok(store);
            }
            // Perhaps the storage is the right one and only its mark is missing.
            let Ok(store) = way.open(Root::MustExist).await else { return Err(error) };
            if !used_before::holds_known_backups(&node.control, settings, store.as_ref()).await? {
                return Err(error);
            }
            tracing::warn!("the storage's mark .pbm.init is missing and is written anew: known backups are there");
            open::write_init(store.as_ref()).await.context("write the storage's mark .pbm.init")?;
            Ok(store)
        }
        found => Ok(found?.0),
    }
}

async fn one(node: &Node, profile: &Config, accept_empty: bool) -> Result<()> {
    let settings = place::named(profile);
    let store = right_one(node, &settings, accept_empty).await?;
    sharing::take_over(node, store.as_ref(), &settings).await;
    resync::profile(&node.control, store.as_ref(), profile).await
}
