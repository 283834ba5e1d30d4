//! The balancer of a sharded cluster, by the commands of the config servers' primary.

use crate::mongo::Server;
use anyhow::{Context, Result};
use bson::{Document, doc};
use std::time::Duration;
use tokio::time::Instant;

/// What the balancer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// It may move chunks.
    pub on: bool,
    /// It is in the middle of a round.
    pub in_round: bool,
}

/// Asks.
pub async fn state(config: &dyn Server) -> Result<State> {
    let answer = run(config, doc! { "_configsvrBalancerStatus": 1 }).await.context("ask for the balancer's state")?;
    Ok(State {
        on: answer.get_str("mode").is_ok_and(|mode| mode != "off"),
        in_round: answer.get_bool("inBalancerRound").unwrap_or_default(),
    })
}

/// Allows it again.
pub async fn start(config: &dyn Server) -> Result<()> {
    run(config, doc! { "_configsvrBalancerStart": 1 }).await.context("start the balancer").map(drop)
}

/// Stops it and waits for the end of its round. `false` when the round has not ended within `limit`: the server goes on
/// ending it.
pub async fn stop(config: &dyn Server, limit: Duration) -> Result<bool> {
    let until = Instant::now() + limit;
    let millis = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
    let stop = doc! { "_configsvrBalancerStop": 1, "maxTimeMS": millis };
    if let Err(error) = run(config, stop).await {
        // The mode is written before the wait for the round begins.
        if state(config).await?.on {
            return Err(error).context("stop the balancer");
        }
    }
    loop {
        let now = state(config).await?;
        if !now.on && !now.in_round {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        // The server tells the end of a round to nobody.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn run(config: &dyn Server, command: Document) -> Result<Document, mongodb::error::Error> {
    config.run(command).await
}
