//! The balancer of a sharded cluster, by the commands of the config servers' primary.

use crate::mongo::Server;
use anyhow::{Context, Result};
use bson::doc;
use std::time::Duration;
use tokio::time::Instant;

/// The state of the balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Whether it may move chunks.
    pub on: bool,
    /// Whether it is in the middle of a round.
    pub in_round: bool,
}

/// Returns the state of the balancer.
pub async fn state(config: &dyn Server) -> Result<State> {
    let answer = config.run(doc! { "_configsvrBalancerStatus": 1 }).await.context("ask for the balancer's state")?;
    Ok(State {
        on: answer.get_str("mode").is_ok_and(|mode| mode != "off"),
        in_round: answer.get_bool("inBalancerRound").unwrap_or_default(),
    })
}

/// Allows the balancer to move chunks again.
pub async fn start(config: &dyn Server) -> Result<()> {
    config.run(doc! { "_configsvrBalancerStart": 1 }).await.context("start the balancer").map(drop)
}

/// Stops the balancer and waits for the end of its round. Returns `false` if the round has not ended within `limit`. It then
/// ends later.
pub async fn stop(config: &dyn Server, limit: Duration) -> Result<bool> {
    let until = Instant::now() + limit;
    let millis = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
    let stop = doc! { "_configsvrBalancerStop": 1, "maxTimeMS": millis };
    if let Err(error) = config.run(stop).await {
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
        // The server does not report the end of a round.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
