//! Pure: slicing while agents of the original live in the same cluster, as during a rolling migration.
//!
//! # Overview
//! Our agents need no leader: rank and lock decide who slices ([`super::election`]). The original's agents slice only after the
//! leader has named them in `pbmPITR`. The leader is the agent on the primary of the leader replica set. It sets the status
//! `ready`, and every candidate reports that it is ready. Then the leader names nodes for each replica set, and one of them
//! takes the lock and acknowledges. So while an agent of the original lives, the [`Rules`] for slicing a replica set depend on
//! who leads:
//!
//! - The original leads: on every replica set our agents report, wait to be named, and stop when the leader says so. The
//!   leader waits until all slicers of the cluster have stopped before it names new ones, so a slicer that does not stop
//!   would hold up all others.
//! - We lead: [`Naming`] names nodes for the replica sets that have agents of the original. Our agents on those replica sets
//!   wait to be named, too; our other agents work as they always do.
//! - Nobody leads: our agents go on by their own rules.
//!
//! # Stability
//! While agents of the original live, no slicer gives its work to a better candidate: whether the candidate can take over is
//! only known after it has done so.

use super::election::PER_TIER;
use crate::model::{
    agent::AgentStat,
    lock::{Lock, is_stale},
    member::MemberState,
    pitr::{PitrMeta, state},
};
use crate::topo::elect::{self, Preference};
use bson::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// Who names the slicers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leader {
    /// Our agent on this node.
    Ours(String),
    /// The original's agent on this node.
    Original(String),
    /// No living agent can name slicers.
    Nobody,
}

/// The rules by which a replica set is sliced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Our rules: no agent of the original lives in the cluster.
    Own,
    /// Our rules, while agents of the original live elsewhere in the cluster.
    OwnBeside,
    /// Our leader names the slicer, because the replica set has agents of the original.
    Named,
    /// The original's leader names the slicer.
    NamedByOriginal,
}

impl Rules {
    /// Does a leader, ours or the original's, say who slices?
    #[must_use]
    pub fn somebody_names(self) -> bool {
        matches!(self, Self::Named | Self::NamedByOriginal)
    }
}

/// The agents of the cluster, as far as slicing is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix {
    pub leader: Leader,
    pub rules: Rules,
    /// The nodes of the original's agents.
    pub originals: Vec<String>,
}

impl Mix {
    /// Judges the living agents, seen from the replica set `rs`.
    #[must_use]
    pub fn of(agents: &[AgentStat], leader_rs: &str, rs: &str) -> Self {
        let leader = leader(agents, leader_rs);
        let originals: Vec<&AgentStat> = agents.iter().filter(|agent| agent.is_original()).collect();
        let rules = match &leader {
            _ if originals.is_empty() => Rules::Own,
            Leader::Original(_) => Rules::NamedByOriginal,
            Leader::Ours(_) if originals.iter().any(|agent| agent.rs == rs) => Rules::Named,
            Leader::Ours(_) | Leader::Nobody => Rules::OwnBeside,
        };
        Self { leader, rules, originals: originals.into_iter().map(|agent| agent.n.clone()).collect() }
    }
}

/// The agent on the primary of the leader replica set leads. If there is none, the first of our agents on that replica set
/// leads in its place; the original's agents would not do that.
fn leader(agents: &[AgentStat], leader_rs: &str) -> Leader {
    let mut there: Vec<&AgentStat> = agents.iter().filter(|agent| agent.rs == leader_rs).collect();
    // After an election, the lines of two agents may show a primary for a moment.
    let primary = there.iter().filter(|agent| agent.s == MemberState::Primary).max_by_key(|agent| agent.hb);
    match primary {
        Some(agent) if agent.is_original() => Leader::Original(agent.n.clone()),
        Some(agent) if agent.names_slicers() => Leader::Ours(agent.n.clone()),
        _ => {
            there.retain(|agent| agent.names_slicers() && !agent.arb);
            there.iter().map(|agent| &agent.n).min().map_or(Leader::Nobody, |node| Leader::Ours(node.clone()))
        }
    }
}

/// Explains what a mix of agents means for slicing; `None` if there is no mix. It is a problem if nobody leads.
#[must_use]
pub fn meaning(mix: &Mix) -> Option<String> {
    if mix.originals.is_empty() {
        return None;
    }
    let there = format!("agents of the original work here, too (on {})", mix.originals.join(", "));
    Some(match &mix.leader {
        Leader::Ours(node) => {
            format!(
                "{there}: the agent on {node} names who slices the oplog of their replica sets, as the original does"
            )
        }
        Leader::Original(node) => format!(
            "{there}, and the one on {node} leads: it names all slicers, stops them for every backup, and waits until every \
             agent that could slice has answered; replace the agent on {node} first"
        ),
        Leader::Nobody => format!(
            "{there}, and nobody names slicers for them: there is no agent on the primary of the leader replica set; start one"
        ),
    })
}

/// What a node sees of the round of nominations.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub meta: Option<&'a PitrMeta>,
    /// The cluster time.
    pub now: Timestamp,
    pub rs: &'a str,
    pub me: &'a str,
    /// The original's leader is on another replica set, and somebody slices that replica set. So the leader does not wait for
    /// all slicers to stop.
    pub leader_is_content: bool,
    /// For how long nobody has sliced this replica set.
    pub vacant: Duration,
}

impl View<'_> {
    fn heartbeat_is_fresh(&self) -> bool {
        self.meta.is_some_and(|meta| !is_stale(meta.hb, self.now))
    }

    /// May this node take the lock of its replica set, which nobody holds?
    #[must_use]
    pub fn is_named(&self, rules: Rules) -> bool {
        let Some(meta) = self.meta.filter(|_| self.heartbeat_is_fresh()) else { return false };
        let round = meta.n.iter().find(|round| round.rs == self.rs);
        let named = round.filter(|round| round.n.iter().any(|node| node == self.me));
        match rules {
            Rules::Own | Rules::OwnBeside => false,
            // Our leader opens the round again when the slicer is lost.
            Rules::Named => named.is_some_and(|round| round.ack.is_empty()),
            // The original's leader does not open the round again, but a node that was named with the lost slicer can take over
            // from it. Nor does that leader name nodes for a replica set whose agents started after its round: then no other
            // slicer is coming.
            Rules::NamedByOriginal => {
                let left_alone = self.leader_is_content && (named.is_some() || self.vacant >= FOR_A_LOOK);
                meta.status == state::RUNNING && (named.is_some_and(|round| round.ack.is_empty()) || left_alone)
            }
        }
    }

    /// Does the original's leader wait for this node to report that it is ready?
    #[must_use]
    pub fn owes_ready(&self, rules: Rules) -> bool {
        rules == Rules::NamedByOriginal
            && self.meta.is_some_and(|meta| {
                let mine = |name: &str, node: &str| name == self.rs && node == self.me;
                meta.status == state::READY
                    && !meta.replsets.iter().any(|it| it.status == state::READY && mine(&it.name, &it.node))
            })
    }

    /// Why the slicer on this node has to stop now; `None` if it may go on.
    #[must_use]
    pub fn must_stop(&self, rules: Rules) -> Option<String> {
        let status = self.meta.map(|meta| meta.status.as_str()).unwrap_or_default();
        match rules {
            Rules::Own | Rules::OwnBeside => None,
            Rules::Named => (status == state::RECONFIG).then(|| "the leader names slicers anew".to_owned()),
            Rules::NamedByOriginal if matches!(status, state::RECONFIG | state::ERROR) => {
                Some(format!("the leader, an agent of the original, stops all slicers (status '{status}')"))
            }
            Rules::NamedByOriginal if !self.heartbeat_is_fresh() => Some(
                "the leader, an agent of the original, gives no sign of life for slicing; it names slicers anew"
                    .to_owned(),
            ),
            Rules::NamedByOriginal => None,
        }
    }

    /// Does the original's leader not count on this slicer? It then does not know of the slicer, or waits for all slicers to
    /// stop.
    #[must_use]
    pub fn is_unwanted(&self, rules: Rules, leads_here: bool) -> bool {
        let acknowledged =
            self.meta.is_some_and(|meta| meta.n.iter().any(|round| round.rs == self.rs && round.ack == self.me));
        rules == Rules::NamedByOriginal && (!acknowledged || !leads_here && !self.leader_is_content)
    }
}
/// How long an agent of the original may take to see its nomination: it looks every 15 s, then every 2 s.
pub const FOR_A_LOOK: Duration = Duration::from_secs(20);
/// When a replica set has had no slicer for this long, all candidates are named anew.
const FOR_A_ROUND: Duration = Duration::from_secs(60);

/// What our leader sees.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    pub at: Instant,
    /// The living agents of the cluster.
    pub agents: &'a [AgentStat],
    /// Replica sets that somebody slices.
    pub sliced: &'a BTreeSet<&'a str>,
    pub meta: Option<&'a PitrMeta>,
    pub priority: Option<&'a BTreeMap<String, f64>>,
    pub oplog_only: bool,
    /// An operation runs, and slicing waits for its end.
    pub paused: bool,
}

/// What our leader writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Orders {
    pub status: &'static str,
    /// Rounds that begin anew: each replica set with the nodes that are named.
    pub begin: Vec<(String, Vec<String>)>,
    /// More nodes for rounds that have begun: each replica set with the added nodes.
    pub add: Vec<(String, Vec<String>)>,
}

/// The nominations that our leader makes, for replica sets with agents of the original.
#[derive(Debug, Default)]
pub struct Naming {
    rounds: BTreeMap<String, Round>,
    /// The settings by which the slicers were named.
    followed: Option<(BTreeMap<String, f64>, bool)>,
    /// Since when the slicers have been asked to stop because those settings have changed.
    stopping: Option<Instant>,
}

#[derive(Debug)]
struct Round {
    begun: Instant,
    named: Vec<String>,
    left: Vec<Vec<String>>,
    last: Instant,
}

impl Naming {
    /// Looks at the cluster once. Returns `None` if no agent of the original lives, so that there is nobody to name.
    pub fn look(&mut self, look: &Look<'_>) -> Option<Orders> {
        let mixed: BTreeSet<&str> =
            look.agents.iter().filter(|agent| agent.is_original()).map(|agent| agent.rs.as_str()).collect();
        if mixed.is_empty() {
            *self = Self::default();
            return None;
        }
        let settings = (look.priority.cloned().unwrap_or_default(), look.oplog_only);
        if self.followed.as_ref().is_some_and(|followed| *followed != settings) {
            self.stopping = Some(look.at);
            self.rounds.clear();
        }
        self.followed = Some(settings);
        if let Some(since) = self.stopping {
            let anybody = mixed.iter().any(|rs| look.sliced.contains(rs));
            if anybody && look.at.duration_since(since) < FOR_A_ROUND {
                return Some(Orders { status: state::RECONFIG, ..Orders::default() });
            }
            self.stopping = None;
        }

        let mut orders = Orders { status: state::RUNNING, ..Orders::default() };
        self.rounds.retain(|rs, _| mixed.contains(rs.as_str()) && !look.sliced.contains(rs.as_str()));
        if look.paused {
            return Some(orders);
        }
        for rs in mixed.into_iter().filter(|rs| !look.sliced.contains(rs)) {
            self.name(rs, look, &mut orders);
        }
        if !self.rounds.is_empty() {
            orders.status = state::READY;
        }
        Some(orders)
    }

    /// Begins the round of a replica set that nobody slices, or continues it.
    fn name(&mut self, rs: &str, look: &Look<'_>, orders: &mut Orders) {
        let entry = look.meta.and_then(|meta| meta.n.iter().find(|round| round.rs == rs));
        let is_over = entry.is_none_or(|round| !round.ack.is_empty());
        let since = |instant: Instant| look.at.duration_since(instant);
        if let Some(round) = self.rounds.get_mut(rs) {
            // A node took the work and gave it up between two looks, or no node took it.
            if !(is_over && since(round.last) >= PER_TIER) && since(round.begun) < FOR_A_ROUND {
                if !round.left.is_empty() && since(round.last) >= round.patience(rs, look) {
                    let next = round.left.remove(0);
                    round.named.extend(next.iter().cloned());
                    round.last = look.at;
                    orders.add.push((rs.to_owned(), next));
                }
                return;
            }
            self.rounds.remove(rs);
        }
        let field = elect::field(look.agents, rs, Preference { priority: look.priority, ..Preference::default() });
        let mut tiers = field.tiers.into_iter();
        let Some(first) = tiers.next() else { return };
        let round = Round { begun: look.at, named: first.clone(), left: tiers.collect(), last: look.at };
        self.rounds.insert(rs.to_owned(), round);
        orders.begin.push((rs.to_owned(), first));
    }
}

impl Round {
    /// How long the named nodes have. The original's agents report when they begin to look for nominations.
    fn patience(&self, rs: &str, look: &Look<'_>) -> Duration {
        let told = |node: &String| {
            look.meta.is_some_and(|meta| meta.replsets.iter().any(|it| it.name == rs && it.node == *node))
        };
        let original = |node: &String| look.agents.iter().any(|it| it.rs == rs && it.n == *node && it.is_original());
        if self.named.iter().any(|node| original(node) && !told(node)) { FOR_A_LOOK } else { PER_TIER }
    }
}

/// The replica sets whose locks are held by living slicers.
#[must_use]
pub fn sliced(locks: &[Lock], now: Timestamp) -> BTreeSet<&str> {
    locks.iter().filter(|lock| !is_stale(lock.hb, now)).map(|lock| lock.header.replset.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{backup::Nomination, pitr::PitrReport};

    const NOW: Timestamp = Timestamp { time: 1000, increment: 1 };

    fn ours(rs: &str, n: &str, s: i32) -> AgentStat {
        AgentStat { own: "0.1.0".into(), rules: AgentStat::RULES, ..AgentStat::healthy(rs, n, s) }
    }

    fn original(rs: &str, n: &str, s: i32) -> AgentStat {
        AgentStat::healthy(rs, n, s)
    }

    fn meta(status: &str, n: Vec<Nomination>) -> PitrMeta {
        PitrMeta { start_ts: 1, hb: NOW, status: status.into(), n, replsets: Vec::new(), slicers: Vec::new() }
    }

    fn round(rs: &str, n: &[&str], ack: &str) -> Nomination {
        Nomination { rs: rs.into(), n: n.iter().map(|it| (*it).to_owned()).collect(), ack: ack.into() }
    }

    #[test]
    fn who_leads_decides_by_which_rules() {
        let earlier = |rs, n, s| AgentStat { rules: 0, ..ours(rs, n, s) };
        for (agents, leader, rules_here, rules_there) in [
            (vec![ours("cfg", "c", 1), ours("rs1", "a", 1)], Leader::Ours("c".into()), Rules::Own, Rules::Own),
            (
                vec![ours("cfg", "c", 1), original("rs1", "a", 1)],
                Leader::Ours("c".into()),
                Rules::OwnBeside,
                Rules::Named,
            ),
            (
                vec![original("cfg", "c", 1), ours("cfg", "d", 2), ours("rs1", "a", 1)],
                Leader::Original("c".into()),
                Rules::NamedByOriginal,
                Rules::NamedByOriginal,
            ),
            // The primary has no agent, or an agent of one of our earlier releases.
            (
                vec![ours("cfg", "e", 2), ours("cfg", "d", 2), original("rs1", "a", 1)],
                Leader::Ours("d".into()),
                Rules::OwnBeside,
                Rules::Named,
            ),
            (
                vec![earlier("cfg", "c", 1), ours("cfg", "d", 2), original("rs1", "a", 1)],
                Leader::Ours("d".into()),
                Rules::OwnBeside,
                Rules::Named,
            ),
            (vec![original("cfg", "c", 2), ours("rs1", "a", 1)], Leader::Nobody, Rules::OwnBeside, Rules::OwnBeside),
        ] {
            let here = Mix::of(&agents, "cfg", "cfg");
            assert_eq!((&here.leader, here.rules), (&leader, rules_here), "{agents:?}");
            assert_eq!(Mix::of(&agents, "cfg", "rs1").rules, rules_there, "{agents:?}");
        }
    }

    #[test]
    fn after_an_election_the_newer_line_counts() {
        let before = AgentStat { hb: Timestamp { time: 990, increment: 1 }, ..ours("cfg", "c", 1) };
        let after = AgentStat { hb: NOW, ..original("cfg", "d", 1) };
        assert_eq!(Mix::of(&[before, after], "cfg", "cfg").leader, Leader::Original("d".into()));
    }

    fn view(meta: &PitrMeta) -> View<'_> {
        View { meta: Some(meta), now: NOW, rs: "rs1", me: "a", leader_is_content: false, vacant: Duration::ZERO }
    }

    #[test]
    fn only_a_named_node_takes_the_lock() {
        let named = |status, round: Nomination, rules| view(&meta(status, vec![round])).is_named(rules);
        assert!(named("running", round("rs1", &["b", "a"], ""), Rules::NamedByOriginal));
        assert!(!named("running", round("rs1", &["b"], ""), Rules::NamedByOriginal));
        assert!(!named("running", round("rs2", &["a"], ""), Rules::NamedByOriginal));
        assert!(!named("running", round("rs1", &["a"], "b"), Rules::NamedByOriginal));
        assert!(!named("reconfig", round("rs1", &["a"], ""), Rules::NamedByOriginal));
        assert!(named("ready", round("rs1", &["a"], ""), Rules::Named));
        assert!(!named("ready", round("rs1", &["a"], "b"), Rules::Named));
        let silent =
            PitrMeta { hb: Timestamp { time: 900, increment: 1 }, ..meta("running", vec![round("rs1", &["a"], "")]) };
        assert!(!view(&silent).is_named(Rules::NamedByOriginal), "of a leader that is lost");
        // The leader's round was before this agent started.
        let late = meta("running", vec![round("rs1", &[], "")]);
        let waited = View { vacant: FOR_A_LOOK, ..view(&late) };
        assert!(!waited.is_named(Rules::NamedByOriginal), "the leader may be about to begin a round");
        assert!(View { leader_is_content: true, ..waited }.is_named(Rules::NamedByOriginal));
        assert!(!View { leader_is_content: true, ..view(&late) }.is_named(Rules::NamedByOriginal), "too early");
        // The slicer that was named together with this node is lost, and the leader does not wait for anything.
        let lost = meta("running", vec![round("rs1", &["a", "b"], "b")]);
        assert!(View { leader_is_content: true, ..view(&lost) }.is_named(Rules::NamedByOriginal));
    }

    #[test]
    fn the_originals_leader_hears_once_that_we_are_ready() {
        let mut asked = meta("ready", Vec::new());
        assert!(view(&asked).owes_ready(Rules::NamedByOriginal) && !view(&asked).owes_ready(Rules::Named));
        let other = PitrReport { name: "rs1".into(), node: "b".into(), status: "ready".into(), error: None };
        asked.replsets = vec![other.clone()];
        assert!(view(&asked).owes_ready(Rules::NamedByOriginal));
        asked.replsets.push(PitrReport { node: "a".into(), ..other });
        assert!(!view(&asked).owes_ready(Rules::NamedByOriginal));
        assert!(!view(&meta("running", Vec::new())).owes_ready(Rules::NamedByOriginal));
    }

    #[test]
    fn the_originals_leader_stops_slicers() {
        let mine = || vec![round("rs1", &["a"], "a")];
        for (status, rules, stops) in [
            ("running", Rules::NamedByOriginal, false),
            ("ready", Rules::NamedByOriginal, false),
            ("reconfig", Rules::NamedByOriginal, true),
            ("error", Rules::NamedByOriginal, true),
            ("reconfig", Rules::Named, true),
            ("error", Rules::Named, false),
            ("reconfig", Rules::OwnBeside, false),
        ] {
            assert_eq!(view(&meta(status, mine())).must_stop(rules).is_some(), stops, "{status}, {rules:?}");
        }
        let silent = PitrMeta { hb: Timestamp { time: 900, increment: 1 }, ..meta("running", mine()) };
        assert!(view(&silent).must_stop(Rules::NamedByOriginal).is_some());
        assert!(view(&silent).must_stop(Rules::Named).is_none(), "our slicers need no leader");
        let known = meta("running", mine());
        assert!(!view(&known).is_unwanted(Rules::NamedByOriginal, true));
        assert!(view(&known).is_unwanted(Rules::NamedByOriginal, false), "the leader's own set is not sliced");
        assert!(view(&meta("running", Vec::new())).is_unwanted(Rules::NamedByOriginal, true));
        assert!(!view(&meta("running", Vec::new())).is_unwanted(Rules::Named, true));
    }

    struct World {
        agents: Vec<AgentStat>,
        sliced: Vec<&'static str>,
        meta: PitrMeta,
        begun: Instant,
        naming: Naming,
        priority: BTreeMap<String, f64>,
    }

    impl World {
        fn new(agents: Vec<AgentStat>) -> Self {
            let (begun, naming) = (Instant::now(), Naming::default());
            Self {
                agents,
                sliced: Vec::new(),
                meta: meta("running", Vec::new()),
                begun,
                naming,
                priority: BTreeMap::new(),
            }
        }

        fn look(&mut self, secs: u64) -> Option<Orders> {
            let sliced = self.sliced.iter().copied().collect();
            self.naming.look(&Look {
                at: self.begun + Duration::from_secs(secs),
                agents: &self.agents,
                sliced: &sliced,
                meta: Some(&self.meta),
                priority: Some(&self.priority),
                oplog_only: false,
                paused: false,
            })
        }
    }

    fn names(of: &[(String, Vec<String>)]) -> Vec<(&str, Vec<&str>)> {
        of.iter().map(|(rs, nodes)| (rs.as_str(), nodes.iter().map(String::as_str).collect())).collect()
    }

    #[test]
    fn nodes_are_named_group_after_group() {
        let mut world = World::new(vec![
            ours("cfg", "c", 1),
            original("rs1", "p", 1),
            original("rs1", "a", 2),
            ours("rs1", "b", 1),
            ours("rs2", "x", 1),
        ]);
        let orders = world.look(0).expect("orders");
        assert_eq!((orders.status, names(&orders.begin)), (state::READY, vec![("rs1", vec!["a"])]));
        world.meta.n = vec![round("rs1", &["a"], "")];
        let orders = world.look(6).expect("orders");
        assert_eq!((orders.status, orders.add), (state::READY, Vec::new()), "it may not have looked yet");
        world.meta.replsets =
            vec![PitrReport { name: "rs1".into(), node: "a".into(), status: "ready".into(), error: None }];
        let mut orders = world.look(7).expect("orders");
        orders.add[0].1.sort();
        assert_eq!(names(&orders.add), [("rs1", vec!["b", "p"])]);
        world.sliced = vec!["rs1"];
        assert_eq!(world.look(8), Some(Orders { status: state::RUNNING, ..Orders::default() }));
        // The slicer is lost.
        world.sliced.clear();
        assert_eq!(names(&world.look(60).expect("orders").begin), [("rs1", vec!["a"])]);
        world.agents.retain(|agent| !agent.is_original());
        assert_eq!(world.look(61), None);
    }

    #[test]
    fn a_round_begins_anew_when_somebody_gives_up() {
        let mut world = World::new(vec![ours("cfg", "c", 1), original("rs1", "a", 2)]);
        assert_eq!(world.look(0).expect("orders").begin.len(), 1);
        world.meta.n = vec![round("rs1", &["a"], "")];
        assert_eq!(world.look(10).expect("orders").begin.len(), 0);
        world.meta.n = vec![round("rs1", &["a"], "a")];
        assert_eq!(names(&world.look(11).expect("orders").begin), [("rs1", vec!["a"])]);
        world.meta.n = vec![round("rs1", &["a"], "")];
        assert_eq!(world.look(30).expect("orders").begin.len(), 0);
        assert_eq!(world.look(72).expect("orders").begin.len(), 1, "nobody came");
    }

    #[test]
    fn other_priorities_stop_the_slicers_first() {
        let mut world = World::new(vec![ours("rs1", "c", 1), original("rs1", "a", 2)]);
        world.sliced = vec!["rs1"];
        assert_eq!(world.look(0).expect("orders").status, state::RUNNING);
        world.priority.insert("c".into(), 5.0);
        assert_eq!(world.look(1).expect("orders").status, state::RECONFIG);
        assert_eq!(world.look(2).expect("orders").status, state::RECONFIG);
        world.sliced.clear();
        let orders = world.look(3).expect("orders");
        assert_eq!((orders.status, names(&orders.begin)), (state::READY, vec![("rs1", vec!["c"])]));
    }
}
