//! `pbmAgents`: the agents' lines about themselves (spec/format.md C.2).

use crate::model::{
    agent::AgentStat,
    lock::{STALE_SECS, is_stale},
    names,
};
use anyhow::{Context, Result};
use bson::{Document, Timestamp, doc};
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

    /// Replaces this agent's line. Gives the [`AgentStat::instance`] of the line that was there; an agent that tells none
    /// has an empty one.
    pub async fn put(&self, stat: &AgentStat) -> Result<Option<String>> {
        let line = bson::serialize_to_document(stat).context("encode this agent's line")?;
        let before = self
            .coll
            .clone_with_type::<Document>()
            .find_one_and_replace(doc! { "n": &stat.n, "rs": &stat.rs }, line)
            .upsert(true)
            .await
            .context("write this agent's line in admin.pbmAgents")?;
        Ok(before.map(|line| line.get_str("instance").unwrap_or_default().to_owned()))
    }

    /// Removes an agent's line.
    pub async fn remove(&self, rs: &str, node: &str) -> Result<()> {
        self.coll
            .delete_one(doc! { "n": node, "rs": rs })
            .await
            .context("remove the agent's line from admin.pbmAgents")?;
        Ok(())
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
