//! `pbmAgents`: a document in which each agent reports its state (docs/format.md C.2).

use super::{
    Unreadable,
    calls::Query,
    table::{Home, Table},
};
use crate::model::{
    agent::AgentStat,
    lock::{STALE_SECS, is_stale},
    names,
};
use anyhow::{Context, Result};
use bson::{Bson, Document, Timestamp, doc};

/// The registry of agents.
#[derive(Debug, Clone)]
pub struct Agents {
    coll: Table,
    unreadable: Unreadable,
}

impl Agents {
    pub(super) fn new(home: &Home, unreadable: &Unreadable) -> Self {
        Self { coll: home.table(names::AGENTS), unreadable: unreadable.clone() }
    }

    /// Replaces this agent's document. Returns the [`AgentStat::instance`] of the previous document; it is empty if the
    /// agent does not report one.
    pub async fn put(&self, stat: &AgentStat) -> Result<Option<String>> {
        let line = bson::serialize_to_document(stat).context("encode this agent's line")?;
        let before = self
            .coll
            .swap(doc! { "n": &stat.n, "rs": &stat.rs }, line)
            .await
            .context("write this agent's line in admin.pbmAgents")?;
        Ok(before.map(|line| line.get_str("instance").unwrap_or_default().to_owned()))
    }

    /// Removes an agent's document.
    pub async fn remove(&self, rs: &str, node: &str) -> Result<()> {
        self.coll
            .delete_one(doc! { "n": node, "rs": rs })
            .await
            .context("remove the agent's line from admin.pbmAgents")?;
        Ok(())
    }

    /// Returns every document, including stale ones, sorted by replica set and node.
    pub async fn all(&self) -> Result<Vec<AgentStat>> {
        self.find(doc! {}).await
    }

    /// Returns the agents that are alive at cluster time `now` and matter for the slicing of `rs`: the agents of `rs`,
    /// those of the leader replica set, and all agents of the original.
    pub async fn alive_for_slicing(&self, rs: &str, leader_rs: &str, now: Timestamp) -> Result<Vec<AgentStat>> {
        let filter = doc! { "$or": [{ "rs": { "$in": [rs, leader_rs] } }, { "own": { "$in": [Bson::Null, ""] } }] };
        let found = self.find(filter).await?;
        Ok(found.into_iter().filter(|a| !is_stale(a.hb, now)).collect())
    }

    async fn find(&self, filter: Document) -> Result<Vec<AgentStat>> {
        let found = self.coll.find(Query::from(filter).sorted(doc! { "rs": 1, "n": 1 })).await;
        Ok(self.unreadable.sort_out(names::AGENTS, found.context("read admin.pbmAgents")?))
    }

    /// Returns the documents of agents that are alive at cluster time `now`. Removes those of agents that have been
    /// silent for long.
    pub async fn alive(&self, now: Timestamp) -> Result<Vec<AgentStat>> {
        let before = Timestamp { time: now.time.saturating_sub(STALE_SECS + 5), increment: 0 };
        self.coll
            .delete_many(doc! { "hb": { "$lt": before } })
            .await
            .context("remove lost agents from admin.pbmAgents")?;
        self.living(now).await
    }

    /// Returns the documents of agents that are alive at cluster time `now`. Removes none.
    pub async fn living(&self, now: Timestamp) -> Result<Vec<AgentStat>> {
        Ok(self.all().await?.into_iter().filter(|a| !is_stale(a.hb, now)).collect())
    }
}
