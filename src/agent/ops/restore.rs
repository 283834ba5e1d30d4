//! `restore`: the primary of each replica set takes part.

use super::Task;
use crate::agent::{
    node::Node,
    op::{Gate, Leased, Op},
};
use crate::model::command::{RestoreCmd, name};
use crate::rendezvous::Role;
use crate::restore::{self, Cx};
use anyhow::{Context, Result};

pub(in crate::agent) async fn handle(task: Task, command: Option<RestoreCmd>) -> Result<()> {
    let restore = command.context("the restore command has no details")?;
    let node = &task.node;
    let gate = task.receive(&restore.name).check(node).await?.and_then(Op::only_primary);
    let Some(op) = gate.go() else { return Ok(()) };
    let op = match op.lease(node, name::RESTORE).await? {
        Gate::Go(op) => op,
        Gate::StandDown(why) => {
            // Silence would leave the operator waiting for a document that nobody writes.
            if node.in_leader_rs {
                restore::refuse(&node.control, &task.opid, &restore, &why).await?;
            }
            anyhow::bail!("restore {} can't start: {why}", restore.name);
        }
    };
    op.run(async |op| restore::run(&context(node, op).await?, &restore).await).await
}

/// What recipes that write to this primary work with.
pub(super) async fn context(node: &Node, op: &Op<Leased>) -> Result<Cx> {
    let config = node.control.config.main().await?;
    Ok(Cx {
        control: node.control.clone(),
        client: node.client.clone(),
        storage: match &config {
            Some(config) => node.open_storage(config).await.map_err(|e| format!("{e:#}")),
            None => Err("there is no configuration; give one with `pbm config --file`".into()),
        },
        config: config.unwrap_or_default(),
        opid: op.opid.clone(),
        rs: node.rs.clone(),
        me: node.me.clone(),
        role: if node.in_leader_rs { Role::Leader } else { Role::Follower },
        cluster: node.cluster().await?,
        name: op.name.clone(),
        version: node.version.clone(),
        cancel: op.cancel.clone(),
    })
}
