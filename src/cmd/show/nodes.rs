//! The cluster section of `pbm status`: every node with its agent.

use crate::cmd::io::{context::Context, error::Result};
use crate::config::resolved::Resolved;
use crate::model::{
    agent::AgentStat,
    config::Config,
    lock::{STALE_SECS, is_stale},
    member::MemberState,
};
use crate::mongo::{self, admin};
use crate::topo::suits::{MAX_LAG_SECS, unfit_node};
use bson::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// One replica set.
#[derive(Debug, Serialize)]
pub struct Replset {
    rs: String,
    nodes: Vec<Node>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
struct Node {
    host: String,
    /// `vX.Y.Z`; empty when there is none.
    agent: String,
    role: &'static str,
    prio_pitr: String,
    prio_backup: String,
    ok: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
    /// *Added by us*: seconds behind the primary, as the agent says.
    #[serde(skip_serializing_if = "is_none")]
    lag: i32,
    /// *Added by us*: why backups don't read this node, if the reason is no error of its agent.
    #[serde(skip_serializing_if = "String::is_empty")]
    unfit: String,
    /// *Added by us*: the release of our agent; agents of the original have none.
    #[serde(skip_serializing_if = "String::is_empty")]
    release: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_none(lag: &i32) -> bool {
    *lag <= 0
}

/// Reads the nodes of the cluster: whom the cluster names, and whoever has an agent (arbiters and hidden members of shards
/// are not in the shard map).
pub async fn read(cx: &Context, config: &Config, priorities: bool) -> Result<Vec<Replset>> {
    let now = cx.control.cluster_time().await?;
    let agents = cx.control.agents.all().await?;
    let leader = mongo::hello(cx.control.client()).await?.set_name;
    let mut hosts: BTreeMap<(String, String), MemberState> = BTreeMap::new();
    for (rs, member) in cx.cluster().await?.members {
        for host in member.hosts {
            // A node whose state nobody reports counts as a secondary.
            hosts.insert((rs.clone(), host), MemberState::Secondary);
        }
    }
    for agent in &agents {
        hosts.insert((agent.rs.clone(), agent.n.clone()), agent.s);
    }
    for member in admin::repl_status(cx.control.client()).await?.members {
        hosts.insert((leader.clone(), member.name), member.state);
    }
    let mut out: Vec<Replset> = Vec::new();
    let settings = Resolved::of(config);
    for ((rs, host), state) in hosts {
        let agent = agents.iter().find(|agent| agent.rs == rs && agent.n == host);
        let mut node = judge(&host, state, agent, now);
        if priorities && state != MemberState::Arbiter {
            let of = |map: Option<&BTreeMap<String, f64>>| format!("{:.1}", priority(&host, state, agent, map));
            node.prio_backup = of(settings.backup.priority.as_ref());
            node.prio_pitr = of(settings.pitr.priority.as_ref());
        }
        match out.last_mut() {
            Some(last) if last.rs == rs => last.nodes.push(node),
            _ => out.push(Replset { rs, nodes: vec![node] }),
        }
    }
    Ok(out)
}

fn role(state: MemberState, agent: Option<&AgentStat>) -> &'static str {
    match (state, agent) {
        (MemberState::Arbiter, _) => "A",
        (MemberState::Primary, _) => "P",
        (_, Some(agent)) if agent.delay > 0 => "D",
        (_, Some(agent)) if agent.hdn => "H",
        _ => "S",
    }
}

/// As the agents sort themselves (docs/format.md D.2.3).
fn priority(host: &str, state: MemberState, agent: Option<&AgentStat>, given: Option<&BTreeMap<String, f64>>) -> f64 {
    match given.filter(|given| !given.is_empty()) {
        Some(given) => given.get(host).copied().filter(|p| *p >= 0.0).unwrap_or(1.0),
        None if state == MemberState::Primary => 0.5,
        None if agent.is_some_and(|agent| agent.hdn) => 2.0,
        None => 1.0,
    }
}

fn judge(host: &str, state: MemberState, agent: Option<&AgentStat>, now: Timestamp) -> Node {
    let mut node = Node {
        host: host.to_owned(),
        agent: String::new(),
        role: role(state, agent),
        prio_pitr: String::new(),
        prio_backup: String::new(),
        ok: false,
        errors: Vec::new(),
        lag: 0,
        unfit: String::new(),
        release: String::new(),
    };
    let Some(agent) = agent.filter(|_| state != MemberState::Arbiter) else { return node };
    node.agent = if agent.v.is_empty() { "?".to_owned() } else { format!("v{}", agent.v.trim_start_matches('v')) };
    node.release.clone_from(&agent.own);
    if is_stale(agent.hb, now) {
        let silent = now.time.saturating_sub(agent.hb.time);
        node.errors.push(format!("the agent is lost: no heartbeat for {silent} s (limit {STALE_SECS} s)"));
        return node;
    }
    node.ok = agent.is_ok();
    node.lag = agent.repl_lag;
    node.errors.extend(agent.faults().map(|(what, why)| format!("{what}: {why}")));
    if !agent.e.is_empty() {
        node.ok = false;
        node.errors.push(agent.e.clone());
    }
    if i64::from(agent.repl_lag) >= MAX_LAG_SECS && agent.delay == 0 {
        node.errors.push(format!("{} s behind the primary", agent.repl_lag));
    } else {
        node.unfit = unfit_node(agent).unwrap_or_default();
    }
    if !agent.no_majority.is_empty() && state == MemberState::Primary {
        node.ok = false;
        node.errors.push(format!("{}; what waits for the majority waits", agent.no_majority));
    }
    node
}

/// Nodes that need a person: their agent is missing, lost, or can't work.
pub fn problems(replsets: &[Replset]) -> impl Iterator<Item = String> {
    let unread = replsets.iter().filter_map(|replset| {
        let mut working = replset.nodes.iter().filter(|node| node.ok && node.role != "A").peekable();
        let none = working.peek().is_some() && working.all(|node| !node.unfit.is_empty() || !node.errors.is_empty());
        none.then(|| format!("{}: no node can be read for a backup, see why below each of them", replset.rs))
    });
    let nodes = replsets.iter().flat_map(|replset| replset.nodes.iter().map(|node| (&replset.rs, node)));
    let broken = nodes.filter(|(_, node)| !node.ok && node.role != "A").map(|(rs, node)| {
        let why = if node.errors.is_empty() { "no agent".to_owned() } else { node.errors.join(", ") };
        format!("{rs}/{}: {why}", node.host)
    });
    broken.chain(unread)
}

/// The releases of our agents with their nodes, if the agents have different releases.
fn mix(replsets: &[Replset]) -> Option<String> {
    let mut by_release: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (replset, node) in replsets.iter().flat_map(|replset| replset.nodes.iter().map(move |node| (replset, node))) {
        if !node.release.is_empty() {
            by_release.entry(&node.release).or_default().push(format!("{}/{}", replset.rs, node.host));
        }
    }
    (by_release.len() > 1).then(|| {
        let all: Vec<String> =
            by_release.iter().map(|(release, nodes)| format!("{release} on {}", nodes.join(", "))).collect();
        format!("agents of several releases: {}; install one everywhere", all.join("; "))
    })
}

/// For people.
#[must_use]
pub fn text(replsets: &[Replset]) -> String {
    let mut lines = Vec::new();
    for replset in replsets {
        lines.push(format!("  {}:", replset.rs));
        for node in &replset.nodes {
            let mut line = format!("    {} [{}]", node.host, node.role);
            if !node.prio_backup.is_empty() {
                line.push_str(&format!(", priority for backups {}, for slicing {}", node.prio_backup, node.prio_pitr));
            }
            line.push_str(&match (node.role, node.agent.as_str()) {
                ("A", _) => ": an arbiter, needs no agent".to_owned(),
                (_, "") => ": no agent".to_owned(),
                (_, agent) => {
                    let whose = if node.release.is_empty() {
                        "the original".to_owned()
                    } else {
                        format!("pbmbox {}", node.release)
                    };
                    format!(": pbm-agent {agent} ({whose}){}", if node.ok { " ok" } else { "" })
                }
            });
            if node.lag > 0 && node.errors.is_empty() {
                line.push_str(&format!(", {} s behind the primary", node.lag));
            }
            if !node.unfit.is_empty() && node.role != "A" {
                line.push_str(&format!(", not read for backups: {}", node.unfit));
            }
            lines.push(line);
            lines.extend(node.errors.iter().map(|error| format!("      error: {error}")));
        }
    }
    lines.extend(mix(replsets).map(|mix| format!("  WARNING: {mix}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::agent::SubsysStatus;

    fn agent() -> AgentStat {
        AgentStat { v: "2.15.0".into(), hb: at(100), ..AgentStat::healthy("rs0", "h:1", 2) }
    }

    fn at(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    #[test]
    fn nodes_print_as_the_originals() {
        assert_eq!(
            serde_json::to_string(&judge("h:1", MemberState::Primary, Some(&agent()), at(110))).expect("json"),
            r#"{"host":"h:1","agent":"v2.15.0","role":"P","prio_pitr":"","prio_backup":"","ok":true}"#
        );
        let missing = judge("h:2", MemberState::Secondary, None, at(110));
        assert_eq!((missing.ok, missing.agent.as_str(), missing.role), (false, "", "S"));
    }

    #[test]
    fn faults_are_told() {
        let lost = judge("h:1", MemberState::Secondary, Some(&agent()), at(140));
        assert!(!lost.ok && lost.errors[0].contains("40 s"), "{lost:?}");
        let bad = AgentStat { stors: SubsysStatus::broken("denied"), ..agent() };
        let bad = judge("h:1", MemberState::Secondary, Some(&bad), at(110));
        assert_eq!((bad.ok, bad.errors), (false, vec!["storage: denied".to_owned()]));
    }

    #[test]
    fn a_node_that_is_not_read_is_told() {
        let locked = AgentStat { unfit: "it is locked".into(), ..agent() };
        let of = |nodes| [Replset { rs: "rs0".into(), nodes }];
        let node = judge("h:1", MemberState::Secondary, Some(&locked), at(110));
        assert!(node.ok && node.errors.is_empty(), "{node:?}");
        let only = of(vec![node, judge("h:2", MemberState::Arbiter, None, at(110))]);
        assert!(text(&only).contains(" ok, not read for backups: it is locked"), "{}", text(&only));
        assert!(problems(&only).any(|it| it.starts_with("rs0: no node can be read")), "nobody is left");
        let both = of(vec![
            judge("h:1", MemberState::Secondary, Some(&locked), at(110)),
            judge("h:2", MemberState::Primary, Some(&agent()), at(110)),
        ]);
        assert_eq!(problems(&both).count(), 0);
        let starved = AgentStat { no_majority: "no majority: 1 of 2".into(), ..agent() };
        let told: Vec<String> =
            problems(&of(vec![judge("h:1", MemberState::Primary, Some(&starved), at(110))])).collect();
        assert!(told[0].starts_with("rs0/h:1: no majority: 1 of 2"), "{told:?}");
    }

    #[test]
    fn releases_are_shown_and_a_mix_is_a_warning() {
        let node = |host: &str, own: &str| {
            judge(host, MemberState::Secondary, Some(&AgentStat { own: own.into(), ..agent() }), at(110))
        };
        let set = |nodes| vec![Replset { rs: "rs0".into(), nodes }];
        let same = set(vec![node("h:1", "0.2.0"), node("h:2", "0.2.0"), node("h:3", "")]);
        let text = super::text(&same);
        assert!(text.contains("h:1 [S]: pbm-agent v2.15.0 (pbmbox 0.2.0) ok"), "{text}");
        assert!(text.contains("h:3 [S]: pbm-agent v2.15.0 (the original) ok") && !text.contains("WARNING"), "{text}");
        assert!(serde_json::to_string(&same[0].nodes[0]).expect("json").ends_with(r#""release":"0.2.0"}"#));
        let text = super::text(&set(vec![node("h:1", "0.2.0"), node("h:2", "0.1.0")]));
        assert!(text.contains("WARNING: agents of several releases: 0.1.0 on rs0/h:2; 0.2.0 on rs0/h:1"), "{text}");
    }

    #[test]
    fn priorities_default_by_role() {
        let hidden = AgentStat { hdn: true, ..agent() };
        assert_eq!(priority("h:1", MemberState::Primary, Some(&agent()), None), 0.5);
        assert_eq!(priority("h:1", MemberState::Secondary, Some(&hidden), None), 2.0);
        let given = BTreeMap::from([("h:9".to_owned(), 3.0)]);
        assert_eq!(priority("h:9", MemberState::Secondary, None, Some(&given)), 3.0);
        assert_eq!(priority("h:1", MemberState::Secondary, None, Some(&given)), 1.0);
        assert_eq!((role(MemberState::Secondary, Some(&hidden)), role(MemberState::Arbiter, None)), ("H", "A"));
    }
}
