//! `pbmAgents`: the agents' lines about themselves (spec/format.md C.2).

use crate::model::{
    agent::AgentStat,
    lock::{STALE_SECS, is_stale},
    names,
};
use anyhow::{Context, Result};
use bson::{Timestamp, doc};
use futures::TryStreamExt;
use mongodb::{Collection, Database};

/// The registry of agents.
#[derive(Debug, Clone)]
pub struct Agents {
    coll: Collection<AgentStat>,
}

impl Agents {
    pub(super) fn new(db: &Database) -> Self {
        Self { coll: db.collection(names::AGENTS) }
    }

    /// Replaces this agent's line.
    pub async fn put(&self, stat: &AgentStat) -> Result<()> {
        self.coll
            .replace_one(doc! { "n": &stat.n, "rs": &stat.rs }, stat)
            .upsert(true)
            .await
            .context("write this agent's line in admin.pbmAgents")?;
        Ok(())
    }

    /// Removes an agent's line.
    pub async fn remove(&self, rs: &str, node: &str) -> Result<()> {
        self.coll
            .delete_one(doc! { "n": node, "rs": rs })
            .await
            .context("remove the agent's line from admin.pbmAgents")?;
        Ok(())
    }

    /// The stored heartbeat of an agent.
    pub async fn heartbeat(&self, rs: &str, node: &str) -> Result<Option<Timestamp>> {
        let found = self.coll.find_one(doc! { "n": node, "rs": rs }).await.context("read admin.pbmAgents")?;
        Ok(found.map(|a| a.hb))
    }

    /// Every line, stale ones included, sorted by replica set and node.
    pub async fn all(&self) -> Result<Vec<AgentStat>> {
        self.coll
            .find(doc! {})
            .sort(doc! { "rs": 1, "n": 1 })
            .await
            .context("read admin.pbmAgents")?
            .try_collect()
            .await
            .context("read admin.pbmAgents")
    }

    /// Lines of a replica set whose agents live, at cluster time `now`.
    pub async fn alive_of(&self, rs: &str, now: Timestamp) -> Result<Vec<AgentStat>> {
        let all: Vec<AgentStat> = self
            .coll
            .find(doc! { "rs": rs })
            .await
            .context("read admin.pbmAgents")?
            .try_collect()
            .await
            .context("read admin.pbmAgents")?;
        Ok(all.into_iter().filter(|a| !is_stale(a.hb, now)).collect())
    }

    /// Lines whose agents live, at cluster time `now`. Removes those that have been silent for long.
    pub async fn alive(&self, now: Timestamp) -> Result<Vec<AgentStat>> {
        let before = Timestamp { time: now.time.saturating_sub(STALE_SECS + 5), increment: 0 };
        self.coll
            .delete_many(doc! { "hb": { "$lt": before } })
            .await
            .context("remove lost agents from admin.pbmAgents")?;
        Ok(self.all().await?.into_iter().filter(|a| !is_stale(a.hb, now)).collect())
    }
}
