//! Nominates slicers, as long as an agent of the original is alive and this agent leads ([`beside`]).

use super::node::Node;
use crate::config::resolved::{PitrSettings, Resolved};
use crate::control::HEARTBEAT;
use crate::log::operation;
use crate::model::{command::name, config::Slicing, pitr::state};
use crate::mongo::admin::explain;
use crate::pitr::beside::{self, Leader, Look, Mix, Naming};
use anyhow::Result;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Time between two checks while a nomination round is in progress.
const ROUND_LOOK: Duration = Duration::from_secs(1);

/// Runs until `stop`. Only agents of the leader replica set do this.
pub(super) async fn keep(node: Arc<Node>, stop: CancellationToken) {
    if !node.in_leader_rs {
        return;
    }
    let mut naming = Naming::default();
    let mut leads = false;
    let mut config = node.config.subscribe();
    while !stop.is_cancelled() {
        let conf = config.borrow_and_update().as_ref().map(|config| Resolved::of(config).pitr);
        let mut pause = HEARTBEAT;
        if let Some(conf) = conf.filter(|conf| conf.slicing.is_on()) {
            let span = operation(name::PITR, "", "", None);
            match look(&node, &conf, &mut naming, &mut leads).instrument(span.clone()).await {
                Ok(true) => pause = ROUND_LOOK,
                Ok(false) => {}
                Err(error) => span.in_scope(|| tracing::warn!("name slicers: {}", explain(&error))),
            }
        } else {
            (naming, leads) = (Naming::default(), false);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = config.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Checks once, and writes the nominations that result. Returns `true` while replica sets wait for a slicer.
async fn look(node: &Node, conf: &PitrSettings, naming: &mut Naming, leads: &mut bool) -> Result<bool> {
    let control = &node.control;
    let slicers = control.locks.slicers().await?;
    let now = control.time_of_last_call().await?;
    let mut agents = control.agents.alive_for_slicing(&node.rs, &node.leader_rs, now).await?;
    let mix = Mix::of(&agents, &node.leader_rs, &node.rs);
    if mix.originals.is_empty() || mix.leader != Leader::Ours(node.me()) {
        if *leads {
            tracing::info!("this agent names no slicers any more");
        }
        (*naming, *leads) = (Naming::default(), false);
        return Ok(false);
    }
    if !std::mem::replace(leads, true) {
        tracing::info!(
            "agents of the original live on {}: this agent names slicers for them",
            mix.originals.join(", ")
        );
    }
    // Our agents in the original's replica sets are candidates, too.
    agents = control.agents.living(now).await?;
    let paused = control.locks.all().await?.iter().any(|lock| lock.pauses_slicing(now));
    let meta = control.pitr.get().await?;
    let sliced = beside::sliced(&slicers, now);
    let orders = naming.look(&Look {
        at: Instant::now(),
        agents: &agents,
        sliced: &sliced,
        meta: meta.as_ref(),
        priority: conf.priority.as_ref(),
        oplog_only: conf.slicing == Slicing::OplogOnly,
        paused,
    });
    let Some(orders) = orders else { return Ok(false) };
    // The status is written first, because writing it removes the earlier reports.
    control.pitr.lead(orders.status, now, &sliced.iter().copied().collect::<Vec<_>>()).await?;
    for (rs, nodes) in &orders.begin {
        tracing::debug!("naming {} to slice {rs}", nodes.join(", "));
        control.pitr.begin_round(rs, nodes).await?;
    }
    for (rs, nodes) in &orders.add {
        tracing::debug!("naming {} to slice {rs}, too", nodes.join(", "));
        control.pitr.name_too(rs, nodes).await?;
    }
    Ok(orders.status != state::RUNNING)
}
