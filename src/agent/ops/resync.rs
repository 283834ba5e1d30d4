//! `resync`: the control collections learn again what is on the main storage, or on those of profiles (spec/format.md
//! A.10).

use super::Task;
use crate::agent::{node::Node, sharing};
use crate::config::places;
use crate::model::{
    command::{ResyncCmd, name},
    config::Config,
};
use crate::mongo::admin::explain;
use crate::upkeep::resync;
use anyhow::{Context, Result, bail};

pub(in crate::agent) async fn handle(task: Task, command: Option<ResyncCmd>) -> Result<()> {
    let node = &task.node;
    if !node.in_leader_rs {
        return Ok(());
    }
    let command = command.unwrap_or_default();
    let Some(op) = task.receive("").check(node).await?.go() else { return Ok(()) };
    let Some(op) = op.anybody().lease(node, name::RESYNC).await?.go() else { return Ok(()) };
    op.run(async |op| {
        tracing::info!("started");
        tokio::select! {
            () = op.cancel.cancelled() => bail!("{}; repeat it", op.why_early(name::RESYNC)),
            done = read(node, &command) => done?,
        }
        // The original's command line waits for exactly this word.
        tracing::info!("succeed");
        Ok(())
    })
    .await
}

async fn read(node: &Node, command: &ResyncCmd) -> Result<()> {
    if !command.all && places::is_main(&command.name) {
        return main_storage(node, command).await;
    }
    let known = node.control.config.profiles().await?;
    let profiles = if command.all { known.iter().collect() } else { vec![places::find(&known, &command.name)?] };
    let mut failed = Vec::new();
    for profile in profiles {
        let name = profile.name.as_deref().unwrap_or_default();
        let done = if command.clear { resync::clear(&node.control, name).await } else { one(node, profile).await };
        // One storage that can't be reached does not keep us from the others.
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
    let store = node.open_storage(&config).await?;
    sharing::take_over(node, store.as_ref(), &config.storage).await;
    resync::main_storage(&node.control, store.as_ref(), &config, command.include_restores).await
}

async fn one(node: &Node, profile: &Config) -> Result<()> {
    let settings = places::named(profile);
    let store = node.open_place(&settings).await?;
    sharing::take_over(node, store.as_ref(), &settings).await;
    resync::profile(&node.control, store.as_ref(), profile).await
}
