//! Limits how long a restore or replay continues while no majority of its replica set confirms writes.
//!
//! The writes of a restore have no time limit of their own, because members that are slow but up may need long to
//! confirm them. The heartbeats of a shard go to the config servers, so they don't show that the shard has no majority.

use super::Cx;
use crate::mongo::majority;
use anyhow::{Error, anyhow};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(60);
/// The time between two checks whether there is a majority.
const ASK: Duration = Duration::from_secs(5);

/// Returns when the replica set has had no majority for an uninterrupted [`LIMIT`].
pub(super) async fn exceeded(cx: &Cx) -> Error {
    let why = last_reason(|| majority::lack(&cx.client)).await;
    let (rs, limit) = (&cx.rs, LIMIT.as_secs());
    anyhow!(
        "the majority of replica set {rs} has confirmed no writes for {limit} s ({why}): the data may be incomplete; bring these \
         members back, then run it again"
    )
}

/// Returns the last reason when `lack` has returned reasons for an uninterrupted [`LIMIT`].
async fn last_reason<F: Future<Output = Option<String>>>(lack: impl Fn() -> F) -> String {
    let mut since = None;
    loop {
        match lack().await {
            None => since = None,
            Some(why) => {
                if since.get_or_insert_with(Instant::now).elapsed() >= LIMIT {
                    return why;
                }
            }
        }
        sleep(ASK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::time::timeout;

    /// Returns the seconds after which the majority counts as lost. `is_up` receives the seconds since the beginning.
    async fn lost(is_up: impl Fn(u64) -> bool) -> Option<(u64, String)> {
        let begun = Instant::now();
        let asked = Cell::new(0);
        let lack = || {
            asked.set(asked.get() + 1);
            let why = (!is_up(begun.elapsed().as_secs())).then(|| format!("answer {}", asked.get()));
            async { why }
        };
        let why = timeout(Duration::from_secs(3600), last_reason(lack)).await.ok()?;
        Some((begun.elapsed().as_secs(), why))
    }

    #[tokio::test(start_paused = true)]
    async fn a_restore_without_a_majority_ends() {
        assert_eq!(lost(|_| true).await, None);
        assert_eq!(lost(|_| false).await, Some((60, "answer 13".to_owned())));
        // An election or a restart of a member takes less time.
        assert_eq!(lost(|at| at % 60 == 0).await, None);
        assert_eq!(lost(|at| at < 100).await.map(|(after, _)| after), Some(160));
    }
}
