//! `resync`: the control collections learn again what is on the storage (spec/format.md A.10).

use super::Task;
use crate::model::command::{ResyncCmd, name};
use crate::upkeep::resync;
use anyhow::{Context, Result, bail};

pub(in crate::agent) async fn handle(task: Task, command: Option<ResyncCmd>) -> Result<()> {
    let node = &task.node;
    if !node.in_leader_rs {
        return Ok(());
    }
    let command = command.unwrap_or_default();
    if command.all || command.clear || !command.name.is_empty() {
        bail!("storage profiles are not supported by this agent");
    }
    let Some(op) = task.receive("").check(node).await?.go() else { return Ok(()) };
    let Some(op) = op.anybody().lease(node, name::RESYNC).await?.go() else { return Ok(()) };
    op.run(async |op| {
        tracing::info!("started");
        let config = node.control.config.main().await?.context("there is no configuration; run `pbm config --file`")?;
        let store = node.open_storage(&config).await?;
        tokio::select! {
            () = op.cancel.cancelled() => bail!("the resync was cancelled"),
            done = resync::main_storage(&node.control, store.as_ref(), &config, command.include_restores) => done?,
        }
        // The original's command line waits for exactly this word.
        tracing::info!("succeed");
        Ok(())
    })
    .await
}
