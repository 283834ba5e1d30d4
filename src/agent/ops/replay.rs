//! `replay`: the primary of each replica set takes part.

use super::{
    Task,
    restore::{context, source},
};
use crate::agent::op::Gate;
use crate::model::command::{ReplayCmd, name};
use crate::restore::replay;
use anyhow::Result;

pub(in crate::agent) async fn handle(task: Task, window: ReplayCmd) -> Result<()> {
    let node = &task.node;
    let Some(op) = task.receive(&window.name).on_primary(node).await?.go() else { return Ok(()) };
    let op = match op.lease(node, name::REPLAY).await? {
        Gate::Go(op) => op,
        withdrawn @ Gate::Withdrawn => {
            withdrawn.go();
            return Ok(());
        }
        Gate::StandDown(why) => {
            if node.in_leader_rs {
                replay::refuse(&node.control, &task.opid, &window, &why).await?;
            }
            anyhow::bail!("replay {} can't start: {why}", window.name);
        }
    };
    op.run(async |op| {
        let config = node.control.config.main().await?;
        let cx = context(node, op, config.as_ref()).await?;
        let source = source(node, config.as_ref(), None).await;
        Box::pin(replay::run(&cx, &source, &window)).await
    })
    .await
}
