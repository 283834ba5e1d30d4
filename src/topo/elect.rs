//! Decides which agents may do a replica set's work, and in which order (docs/format.md D.2.3). Pure functions.

use super::suits::{unfit, unfit_for_files};
use crate::model::{agent::AgentStat, member::MemberState};
use rand::seq::SliceRandom;
use std::collections::BTreeMap;

const PRIMARY: f64 = 0.5;
const ORDINARY: f64 = 1.0;
const HIDDEN: f64 = 2.0;
/// The score of a node that is locked and without a vote that the replica set would miss.
const VOTELESS: f64 = 1.5;
/// The score of a node that slices the oplog, for work that should run on another node.
const SLICING: f64 = 0.9;

/// The candidates of one replica set.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Groups of equal score, the best group first. The order within a group is random.
    pub tiers: Vec<Vec<String>>,
    /// The nodes that can't do the work, with the reasons.
    pub unfit: Vec<(String, String)>,
}

/// The rules for the order of fit nodes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Preference<'a> {
    /// The priorities in the configuration, if there are any.
    pub priority: Option<&'a BTreeMap<String, f64>>,
    /// The nodes that slice the oplog, if the work should run on another node.
    pub slicing: &'a [String],
    /// The data files of the node are copied, for which it is locked.
    pub files: Option<Locked>,
}

/// The work locks the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locked {
    /// The only member with data may be locked, too.
    pub only_member: bool,
}

/// Sorts the living agents of `rs`. If there are priorities, they are the scores, and a node without a priority has 1.
/// Otherwise hidden nodes come first, then other secondaries, then nodes that slice, and at last the primary.
///
/// For work that locks the node, a node without a vote comes after the hidden nodes, and the primary is left out unless it is
/// the only member with data.
#[must_use]
pub fn field(agents: &[AgentStat], rs: &str, preference: Preference<'_>) -> Field {
    let mut scored: Vec<(f64, String)> = Vec::new();
    let mut rejected = Vec::new();
    for agent in agents.iter().filter(|a| a.rs == rs) {
        let why = match preference.files {
            Some(locked) => unfit_for_files(agent, locked.only_member),
            None => unfit(agent),
        };
        match why {
            Some(why) => rejected.push((agent.n.clone(), why)),
            None => scored.push((score(agent, preference), agent.n.clone())),
        }
    }
    scored.shuffle(&mut rand::rng());
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let tiers = scored
        .chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq())
        .map(|tier| tier.iter().map(|(_, node)| node.clone()).collect())
        .collect();
    Field { tiers, unfit: rejected }
}

fn score(agent: &AgentStat, preference: Preference<'_>) -> f64 {
    match preference.priority.filter(|p| !p.is_empty()) {
        Some(priority) => priority.get(&agent.n).copied().filter(|p| *p >= 0.0).unwrap_or(ORDINARY),
        None if preference.slicing.contains(&agent.n) => SLICING,
        None if agent.s == MemberState::Primary => PRIMARY,
        None if agent.hdn => HIDDEN,
        None if preference.files.is_some() && agent.lock.as_ref().is_some_and(|lock| !lock.votes) => VOTELESS,
        None => ORDINARY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::agent::SubsysStatus;

    fn agent(n: &str, s: i32) -> AgentStat {
        AgentStat::healthy("rs0", n, s)
    }

    #[test]
    fn hidden_then_secondaries_then_the_primary() {
        let agents = [agent("p", 1), agent("a", 2), agent("b", 2), AgentStat { hdn: true, ..agent("h", 2) }];
        let mut got = field(&agents, "rs0", Preference::default());
        got.tiers[1].sort();
        assert_eq!(got.tiers, [vec!["h"], vec!["a", "b"], vec!["p"]]);
        assert!(field(&agents, "rs1", Preference::default()).tiers.is_empty());
    }

    #[test]
    fn what_is_no_source_is_not_chosen_whatever_its_priority() {
        let without = |n: &str| AgentStat { hdn: true, unfit: "it builds no indexes".into(), ..agent(n, 2) };
        let delayed = AgentStat { hdn: true, delay: 3600, ..agent("d", 2) };
        let agents = [agent("p", 1), without("h"), delayed];
        let priority = BTreeMap::from([("h".to_owned(), 9.0), ("d".to_owned(), 9.0)]);
        for preference in [Preference::default(), Preference { priority: Some(&priority), ..Preference::default() }] {
            let got = field(&agents, "rs0", preference);
            assert_eq!(got.tiers, [vec!["p"]]);
            assert_eq!(got.unfit.len(), 2, "{:?}", got.unfit);
        }
    }

    #[test]
    fn priorities_replace_the_scores() {
        let agents = [agent("p", 1), agent("a", 2), agent("b", 2)];
        let priority = BTreeMap::from([("p".to_owned(), 5.0), ("b".to_owned(), -1.0)]);
        let mut got = field(&agents, "rs0", Preference { priority: Some(&priority), ..Preference::default() });
        got.tiers[1].sort();
        assert_eq!(got.tiers, [vec!["p"], vec!["a", "b"]]);
        assert_eq!(
            field(&agents, "rs0", Preference { priority: Some(&BTreeMap::new()), ..Preference::default() })
                .tiers
                .last()
                .expect("a tier"),
            &["p"]
        );
    }

    #[test]
    fn who_slices_comes_late_if_that_counts() {
        let agents = [agent("p", 1), agent("a", 2), AgentStat { hdn: true, ..agent("h", 2) }];
        let slicing = ["h".to_owned()];
        let got = field(&agents, "rs0", Preference { slicing: &slicing, ..Preference::default() });
        assert_eq!(got.tiers, [["a"], ["h"], ["p"]]);
        let priority = BTreeMap::from([("h".to_owned(), 3.0)]);
        let got = field(&agents, "rs0", Preference { priority: Some(&priority), slicing: &slicing, files: None });
        assert_eq!(got.tiers[0], ["h"]);
    }

    #[test]
    fn the_node_to_lock_is_hidden_or_without_votes_and_no_primary() {
        use crate::model::agent::{Files, Locking};
        let able = |n: &str, s, votes| AgentStat {
            own: "1".into(),
            lock: Some(Locking { votes, ..Locking::default() }),
            files: Some(Files::default()),
            ..agent(n, s)
        };
        let agents = [
            able("p", 1, true),
            able("a", 2, true),
            able("n", 2, false),
            AgentStat { hdn: true, ..able("h", 2, true) },
        ];
        let files = Some(Locked { only_member: false });
        let got = field(&agents, "rs0", Preference { files, ..Preference::default() });
        assert_eq!(got.tiers, [["h"], ["n"], ["a"]]);
        assert!(got.unfit[0].1.contains("primary"), "{got:?}");
        let priority = BTreeMap::from([("p".to_owned(), 9.0), ("a".to_owned(), 3.0)]);
        let got = field(&agents, "rs0", Preference { files, priority: Some(&priority), ..Preference::default() });
        assert_eq!(got.tiers[0], ["a"]);
    }

    #[test]
    fn the_unfit_are_named() {
        let bad = AgentStat { stors: SubsysStatus::broken("no such folder"), ..agent("x", 2) };
        let got = field(&[bad], "rs0", Preference::default());
        assert!(got.tiers.is_empty());
        assert!(got.unfit[0].1.contains("no such folder"), "{got:?}");
    }

    #[test]
    fn equals_come_in_any_order() {
        let agents = [agent("a", 2), agent("b", 2)];
        let firsts: std::collections::BTreeSet<String> =
            (0..200).map(|_| field(&agents, "rs0", Preference::default()).tiers[0][0].clone()).collect();
        assert_eq!(firsts.len(), 2);
    }
}
