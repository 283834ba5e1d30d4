//! Decides whether this agent may slice its replica set's oplog now, and whether it has to stop. Pure functions.
//!
//! Every agent decides for itself, from the control collections, which are the same for all agents. The slicing lock
//! (`pbmLockOp`) admits only one agent. So no agent waits for an answer of another one. An agent that is silent or dead blocks
//! nobody: it does not count as alive, and its lock becomes stale.

use crate::model::agent::AgentStat;
use crate::topo::elect::{self, Preference};
use std::{collections::BTreeMap, time::Duration};

/// How long each group of better candidates has before the next group may take the work.
pub const PER_TIER: Duration = Duration::from_secs(5);

/// The facts about one replica set.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub rs: &'a str,
    /// This agent's node.
    pub me: &'a str,
    /// The living agents, at least those of this replica set.
    pub agents: &'a [AgentStat],
    /// `pitr.priority`.
    pub priority: Option<&'a BTreeMap<String, f64>>,
}

/// The position of this agent among the candidates for slicing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rank {
    /// No candidate is better.
    First,
    /// The number of groups of better candidates, and the nodes of the best group.
    Behind { groups: u32, best: Vec<String> },
    /// This agent can't slice, for this reason.
    Unfit(String),
}

/// Returns the position of this agent's node, and all candidates, the best ones first.
#[must_use]
pub fn rank(facts: &Facts<'_>) -> (Rank, Vec<String>) {
    let field = elect::field(facts.agents, facts.rs, Preference { priority: facts.priority, ..Preference::default() });
    let at = field.tiers.iter().position(|tier| tier.iter().any(|node| node == facts.me));
    let rank = match at {
        Some(0) => Rank::First,
        Some(groups) => {
            Rank::Behind { groups: u32::try_from(groups).unwrap_or(u32::MAX), best: field.tiers[0].clone() }
        }
        None => {
            let why = field.unfit.into_iter().find(|(node, _)| node == facts.me).map(|(_, why)| why);
            Rank::Unfit(why.unwrap_or_else(|| "its agent has not told its state yet".to_owned()))
        }
    };
    (rank, field.tiers.into_iter().flatten().collect())
}

impl Rank {
    /// Whether this agent may try to take the lock after no agent has held it for `vacant`.
    #[must_use]
    pub fn may_take(&self, vacant: Duration) -> bool {
        match self {
            Self::First => true,
            Self::Behind { groups, .. } => vacant >= PER_TIER * *groups,
            Self::Unfit(_) => false,
        }
    }

    /// Returns the reason why the holder of the lock should leave the work to another agent, if there is one.
    #[must_use]
    pub fn must_yield(&self) -> Option<String> {
        match self {
            Self::First => None,
            Self::Behind { best, .. } => Some(format!("{} comes first", best.join(" or "))),
            Self::Unfit(why) => Some(format!("this node can't go on: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::agent::SubsysStatus;

    fn ranked(agents: &[AgentStat], me: &str, priority: Option<&BTreeMap<String, f64>>) -> Rank {
        rank(&Facts { rs: "rs0", me, agents, priority }).0
    }

    #[test]
    fn secondaries_come_first_and_the_others_wait() {
        let agents = [
            AgentStat::healthy("rs0", "p", 1),
            AgentStat::healthy("rs0", "a", 2),
            AgentStat::healthy("rs1", "x", 2),
            AgentStat { stors: SubsysStatus::broken("denied"), ..AgentStat::healthy("rs0", "b", 2) },
        ];
        assert_eq!(ranked(&agents, "a", None), Rank::First);
        let primary = ranked(&agents, "p", None);
        assert_eq!(primary, Rank::Behind { groups: 1, best: vec!["a".to_owned()] });
        assert!(!primary.may_take(Duration::from_secs(4)) && primary.may_take(PER_TIER));
        assert_eq!(primary.must_yield().as_deref(), Some("a comes first"));
        let broken = ranked(&agents, "b", None);
        assert!(matches!(&broken, Rank::Unfit(why) if why.contains("denied")), "{broken:?}");
        assert!(!broken.may_take(Duration::MAX) && broken.must_yield().is_some());
        assert!(matches!(ranked(&agents, "unknown", None), Rank::Unfit(_)));
        let chosen = BTreeMap::from([("p".to_owned(), 2.0)]);
        assert_eq!(ranked(&agents, "p", Some(&chosen)), Rank::First);
        assert_eq!(ranked(&agents[..1], "p", None), Rank::First, "alone");
    }
}
