//! Pure: the agents, and what they tell of their surroundings.

use super::{
    facts::Facts,
    finding::{CLUSTER, Check, Finding, member},
};
use crate::model::{
    agent::AgentStat,
    lock::{STALE_SECS, is_stale},
    member::MemberState,
    names::PBM_VERSION,
};
use crate::topo::suits::{is_unfit_by_design, unfit_node};
use bson::Timestamp;
use std::collections::BTreeMap;

/// Bytes that any backup needs.
const LEAST: i64 = 16 << 20;

/// The living agents.
pub(super) fn alive(facts: &Facts) -> impl Iterator<Item = &AgentStat> {
    let now = facts.control.now.unwrap_or(Timestamp { time: 0, increment: 0 });
    facts
        .control
        .agents
        .iter()
        .filter(move |agent| !is_stale(agent.hb, now) && !agent.arb && agent.s != MemberState::Arbiter)
}

/// Has every member with data one agent that lives and can work?
pub(super) fn presence(facts: &Facts) -> Vec<Finding> {
    // Their lines can't be read, so nothing is known of them.
    if facts.control.now.is_none() {
        return Vec::new();
    }
    let mut out = Vec::new();
    for (rs, node) in facts.nodes().filter(|(_, node)| node.has_data()) {
        let subject = member(rs, &node.host);
        match facts.control.agents.iter().find(|agent| agent.rs == rs && agent.n == node.host) {
            None => out.push(
                Finding::failure(Check::Agent, subject, "no pbm-agent runs here")
                    .next("start pbm-agent beside this mongod, with its address as --mongodb-uri"),
            ),
            Some(agent) => out.extend(of_agent(agent, subject, facts.control.now)),
        }
    }
    for agent in alive(facts) {
        let known = facts.replsets.iter().any(|set| set.name == agent.rs);
        if known && !facts.nodes().any(|(rs, node)| rs == agent.rs && node.host == agent.n) {
            let detail = "an agent writes here, but its replica set has no such member";
            out.push(
                Finding::warning(Check::Agent, member(&agent.rs, &agent.n), detail)
                    .next("stop this agent, or restart it if its mongod has another name now"),
            );
        }
    }
    out
}

fn of_agent(agent: &AgentStat, subject: String, now: Option<Timestamp>) -> Vec<Finding> {
    if let Some(now) = now.filter(|now| is_stale(agent.hb, *now)) {
        let silent = now.time.saturating_sub(agent.hb.time);
        let detail = format!("its agent is lost: no heartbeat for {silent} s (limit {STALE_SECS} s)");
        return vec![Finding::failure(Check::Agent, subject, detail).next("look at its log, and start it again")];
    }
    let mut out = Vec::new();
    for (what, why) in agent.faults().filter(|(what, _)| *what != "storage") {
        let detail = format!("its agent can't use the {what}: {why}");
        out.push(
            Finding::failure(Check::Agent, &subject, detail).next("remove the cause; the agent tries again by itself"),
        );
    }
    if !agent.e.is_empty() {
        out.push(Finding::failure(Check::Agent, &subject, &agent.e).next("`pbm logs` tells more"));
    }
    if agent.doubled {
        let finding = Finding::failure(Check::Agent, &subject, "two agents run for this mongod");
        out.push(finding.next("stop one of them; both take the same commands and overwrite each other's state"));
    }
    let unfit = unfit_node(agent).map(|why| format!("not read for backups: {why}"));
    if let Some(why) = unfit.as_ref().filter(|_| agent.s.is_readable() && !is_unfit_by_design(agent)) {
        let next = "find out why this member does not keep up, or who locked it (db.currentOp().fsyncLock)";
        out.push(Finding::warning(Check::Agent, &subject, why).next(next));
    }
    if !agent.lacks.is_empty() {
        let detail = format!("the user of its agent lacks {}", agent.lacks.join(", "));
        let next = "grant it to the user in that agent's connection string, as shown under privileges";
        out.push(Finding::failure(Check::Privileges, &subject, detail).next(next));
    }
    if out.is_empty() {
        let version = agent.v.trim_start_matches('v');
        let besides = unfit.map(|why| format!("; {why}")).unwrap_or_default();
        let whose = if agent.is_original() { "the original".to_owned() } else { format!("pbmbox {}", agent.own) };
        let text = format!("pbm-agent {version} ({whose}) lives{besides}");
        out.push(Finding::ok(Check::Agent, subject, text));
    }
    out
}

/// One version everywhere, and that of this command line.
pub(super) fn versions(facts: &Facts) -> Vec<Finding> {
    let mut by_version: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for agent in alive(facts) {
        by_version.entry(agent.v.trim_start_matches('v')).or_default().push(member(&agent.rs, &agent.n));
    }
    let others: Vec<String> = by_version
        .iter()
        .filter(|(version, _)| **version != PBM_VERSION)
        .map(|(version, nodes)| format!("{version} on {}", nodes.join(", ")))
        .collect();
    let mut out = Vec::new();
    if !others.is_empty() {
        let detail =
            format!("this pbm is {PBM_VERSION}, and there are agents of other versions: {}", others.join("; "));
        out.push(Finding::warning(Check::AgentVersion, CLUSTER, detail).next("install one version everywhere"));
    }
    out.extend(releases(facts));
    if out.is_empty() && !by_version.is_empty() {
        out.push(Finding::ok(Check::AgentVersion, CLUSTER, format!("{PBM_VERSION} everywhere")));
    }
    out
}

/// Reports agents whose release of this program differs from that of this command line. The original's agents have no such
/// release.
fn releases(facts: &Facts) -> Option<Finding> {
    const OURS: &str = env!("CARGO_PKG_VERSION");
    let mut by_release: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for agent in alive(facts).filter(|agent| !agent.is_original() && agent.own != OURS) {
        by_release.entry(&agent.own).or_default().push(member(&agent.rs, &agent.n));
    }
    let others: Vec<String> =
        by_release.iter().map(|(release, nodes)| format!("{release} on {}", nodes.join(", "))).collect();
    (!others.is_empty()).then(|| {
        let detail = format!("this pbm is of release {OURS}, and there are agents of others: {}", others.join("; "));
        Finding::warning(Check::AgentVersion, CLUSTER, detail)
            .next("install one release everywhere, agents and pbm alike")
    })
}

/// Can every agent write to the storage, read from it, list it and delete there?
pub(super) fn storage(facts: &Facts) -> Vec<Finding> {
    let Some(now) = facts.control.now.filter(|_| facts.control.config.is_some()) else { return Vec::new() };
    alive(facts)
        .map(|agent| {
            let subject = member(&agent.rs, &agent.n);
            if !agent.stors.ok {
                let why = if agent.stors.e.is_empty() { "no reason given" } else { &agent.stors.e };
                return Finding::failure(Check::Storage, subject, why)
                    .next("correct the storage settings (`pbm config`), or the rights of this agent there; it tries again by itself");
            }
            match &agent.probe {
                Some(probe) if !probe.ok => Finding::failure(Check::Storage, subject, &probe.e)
                    .next("grant the right to delete; without it backups can be made but never removed"),
                Some(probe) => {
                    let ago = probe.age + i64::from(now.time.saturating_sub(agent.hb.time));
                    Finding::ok(Check::Storage, subject, format!("write, read, list and delete worked {ago} s ago"))
                }
                None => Finding::ok(Check::Storage, subject, "its agent can use it"),
            }
        })
        .collect()
}

/// Is there room for another backup, where that can be told?
pub(super) fn space(facts: &Facts) -> Vec<Finding> {
    let newest = facts.control.newest_backup.map_or(0, |(size, _)| size);
    let spaces = alive(facts).filter_map(|agent| Some((member(&agent.rs, &agent.n), agent.space?)));
    spaces
        .map(|(subject, space)| {
            let (free, total) = (bytes(space.free), bytes(space.total));
            let next = "make room there, or remove old backups with `pbm cleanup`";
            if space.free < LEAST {
                let detail = format!("{free} of {total} are free on the storage: no backup fits");
                Finding::failure(Check::FreeSpace, subject, detail).next(next)
            } else if space.free < newest.saturating_add(newest / 5) {
                let detail = format!(
                    "{free} of {total} are free on the storage, and the newest backup has {}: another one may not fit",
                    bytes(newest)
                );
                Finding::warning(Check::FreeSpace, subject, detail).next(next)
            } else {
                Finding::ok(Check::FreeSpace, subject, format!("{free} of {total} are free on the storage"))
            }
        })
        .collect()
}

/// For people.
fn bytes(count: i64) -> String {
    const MIB: i64 = 1 << 20;
    if count >= 10 << 30 { format!("{} GiB", count >> 30) } else { format!("{} MiB", count / MIB) }
}
