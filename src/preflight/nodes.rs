//! Pure: the members themselves, as they answered from here.

use super::{
    facts::{Answer, ControlFacts, Facts, NodeFacts},
    finding::{CLUSTER, Check, Finding, member},
    grants,
};
use crate::model::{agent::AgentStat, lock::is_stale, member::MemberState};
use crate::mongo::{admin::Version, capabilities::Capabilities};
use std::collections::{BTreeMap, BTreeSet};

/// Seconds by which clocks may differ before somebody should know, and before it must be mended: a lock or an agent without
/// a sign of life for as long counts as lost.
const CLOCK_WARNING: i64 = 5;
const CLOCK_FAILURE: i64 = 30;

/// Does a living agent tell that it works with this member?
fn is_vouched_for(control: &ControlFacts, rs: &str, host: &str) -> bool {
    let works = |agent: &&AgentStat| {
        agent.rs == rs && agent.n == host && agent.nodes.ok && control.now.is_some_and(|now| !is_stale(agent.hb, now))
    };
    control.agents.iter().any(|agent| works(&agent))
}

/// Can everybody be reached, and has every replica set a primary?
pub(super) fn connections(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    if !facts.unanswered.is_empty() {
        let detail = format!("questions without an answer: {}", facts.unanswered.join("; "));
        let finding = Finding::failure(Check::Connection, CLUSTER, detail);
        out.push(finding.next("see below what the user may not do; else look at the log of the primary"));
    }
    for set in &facts.replsets {
        out.extend(set.nodes.iter().map(|node| connection(facts, &set.name, node)));
        let told = set.nodes.iter().any(|node| node.state.is_some());
        if told && !set.nodes.iter().any(|node| node.state == Some(MemberState::Primary)) {
            let finding =
                Finding::failure(Check::Connection, &set.name, "it has no primary, so nothing can be written");
            out.push(finding.next("start its members, or look into their logs why they elect none (rs.status())"));
        } else if let Some(why) = &set.no_majority {
            out.push(without_majority(&set.name, why, facts.with_few));
        }
    }
    out
}

/// The replica set has no majority: writes that the majority has to confirm wait until there is one.
pub(super) fn without_majority(rs: &str, why: &str, with_few: bool) -> Finding {
    let next = "start the members that are down; a secondary that is gone for good has to be replaced or removed";
    let finding = if with_few {
        let detail =
            format!("{why}; by w=1 backups go on, and what they read and write can be rolled back; restores wait");
        Finding::warning(Check::Connection, rs, detail)
    } else {
        Finding::failure(Check::Connection, rs, format!("{why}; backups, slicing and restores wait for the majority"))
    };
    finding.next(next)
}

fn connection(facts: &Facts, rs: &str, node: &NodeFacts) -> Finding {
    let subject = member(rs, &node.host);
    let state = if node.state_str.is_empty() { "its state is not known" } else { &node.state_str };
    if !node.has_data() {
        return Finding::ok(Check::Connection, subject, "an arbiter, needs no agent");
    }
    match &node.answer {
        Ok(_) if node.state.is_some_and(|state| !state.is_readable()) => {
            Finding::warning(Check::Connection, subject, format!("it answers, but its state is {state}"))
                .next("an agent there can't work until the member is PRIMARY or SECONDARY")
        }
        Ok(answer) if answer.locked => locked(&facts.control, subject),
        Ok(answer) => Finding::ok(Check::Connection, subject, format!("{state}, answers in {} ms", answer.round_ms)),
        Err(why) if is_vouched_for(&facts.control, rs, &node.host) => {
            Finding::warning(Check::Connection, subject, format!("{why}; its agent reaches it"))
                .next("backups work; to have it checked from here, open its port to this host")
        }
        Err(why) => Finding::failure(Check::Connection, subject, why)
            .next("start this mongod, or correct user, TLS settings and firewall so that it can be reached"),
    }
}

/// A physical backup locks its node for a moment. A lock that stays is dangerous: the member confirms and elects nothing.
fn locked(control: &ControlFacts, subject: String) -> Finding {
    let detail = "it is locked by fsync, so it takes no writes, confirms none, and can't vote";
    if control.unfinished.iter().any(|it| it.kind == "backup") {
        let next = "a running physical backup ends its lock by itself; run `pbm doctor` again";
        return Finding::warning(Check::Connection, subject, detail).next(next);
    }
    Finding::failure(Check::Connection, subject, detail)
        .next("run db.fsyncUnlock() there, unless somebody needs the lock")
}

/// What may the user do? On every replica set, because each has its own users.
pub(super) fn privileges(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    for set in &facts.replsets {
        let mut nodes: Vec<&NodeFacts> = set.nodes.iter().filter(|node| node.has_data()).collect();
        nodes.sort_by_key(|node| node.state != Some(MemberState::Primary));
        let asked = nodes.iter().find_map(|node| node.answer.as_ref().ok());
        let Some((answer, Ok(login))) = asked.map(|answer| (answer, &answer.login)) else { continue };
        if let (true, Err(why)) = (login.users.is_empty(), &answer.oplog) {
            let detail = format!("nobody is logged in, and that is not enough: {why}");
            let next = "give a user in the connection string: mongodb://USER:PASSWORD@HOST:PORT/?authSource=admin";
            out.push(Finding::failure(Check::Privileges, &set.name, detail).next(next));
            continue;
        }
        if login.users.is_empty() {
            let open = "nobody has to log in, so whoever reaches it may read and change everything";
            out.push(
                Finding::warning(Check::Authorization, &set.name, open)
                    .next("create users, then start mongod with --auth or --keyFile"),
            );
            continue;
        }
        let names: Vec<String> = login.users.iter().map(|user| format!("{}@{}", user.user, user.db)).collect();
        let names = names.join(", ");
        let missing = grants::missing(login, asked_of(answer, facts.shards));
        if missing.is_empty() {
            out.push(Finding::ok(Check::Privileges, &set.name, format!("user {names} has all that is needed")));
            continue;
        }
        let titles: Vec<&str> = missing.iter().map(|grant| grant.title()).collect();
        let next = format!("run {}", grants::command(&missing, login.users.first()));
        let detail = format!("user {names} lacks {}", titles.join(", "));
        out.push(if grants::may_do_anything(login) {
            let detail = format!("{detail}; anyAction on anyResource makes up for it");
            Finding::warning(Check::Privileges, &set.name, detail).next(next)
        } else {
            Finding::failure(Check::Privileges, &set.name, detail).next(next)
        });
    }
    out
}

/// What the cluster asks of the user besides.
fn asked_of(answer: &Answer, shards: usize) -> grants::Asked {
    let able = answer.version.as_ref().ok().and_then(|it| Capabilities::read(&it.server, &it.fcv));
    grants::Asked::of(able, shards)
}

/// Config servers that are a shard, too.
pub(super) fn config_shard(facts: &Facts) -> Option<Finding> {
    let detail =
        "the config servers are a shard, too (config.shards): backups, restores and the saving of oplog are refused";
    let finding = Finding::failure(Check::Configuration, CLUSTER, detail);
    let next = "the server's command transitionToDedicatedConfigServer makes them config servers only";
    facts.config_shard.then(|| finding.next(next))
}

/// One version of the server everywhere, and one that we know.
pub(super) fn versions(facts: &Facts) -> Vec<Finding> {
    let mut servers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut levels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut out = Vec::new();
    for (rs, node) in facts.nodes() {
        match node.answer.as_ref().ok().map(|answer| &answer.version) {
            Some(Ok(Version { server, fcv, .. })) => {
                servers.entry(server).or_default().push(member(rs, &node.host));
                levels.entry(fcv).or_default().insert(rs);
            }
            Some(Err(why)) => {
                let detail = format!("it does not tell its version: {why}");
                out.push(
                    Finding::warning(Check::ServerVersion, member(rs, &node.host), detail)
                        .next("grant the role clusterMonitor"),
                );
            }
            None => {}
        }
    }
    for (version, hosts) in &servers {
        let able = Capabilities::read(version, "");
        if let Some(remark) = able.map_or(Some("none that this build was made for".to_owned()), |it| it.remark()) {
            let detail = format!("MongoDB {version} ({}) is {remark}", hosts.join(", "));
            out.push(
                Finding::warning(Check::ServerVersion, CLUSTER, detail)
                    .next("try a restore elsewhere before you rely on it"),
            );
        }
    }
    let listed = |what: Vec<String>| what.join("; ");
    if servers.len() > 1 {
        let detail =
            listed(servers.iter().map(|(version, hosts)| format!("{version} on {}", hosts.join(", "))).collect());
        let finding = Finding::warning(Check::ServerVersion, CLUSTER, format!("different servers: {detail}"));
        out.push(finding.next("finish the upgrade"));
    }
    if levels.len() > 1 {
        let text = |(level, sets): (&&str, &BTreeSet<&str>)| {
            format!("{level} on {}", sets.iter().copied().collect::<Vec<_>>().join(", "))
        };
        let finding = Finding::warning(
            Check::ServerVersion,
            CLUSTER,
            format!("different feature compatibility versions: {}", listed(levels.iter().map(text).collect())),
        );
        out.push(finding.next("finish the upgrade: setFeatureCompatibilityVersion on every replica set"));
    }
    if let (true, Some(version), Some(level)) = (out.is_empty(), servers.keys().next(), levels.keys().next()) {
        let detail = format!("MongoDB {version}, feature compatibility {level}, on every member that answers");
        out.push(Finding::ok(Check::ServerVersion, CLUSTER, detail));
    }
    out
}

/// Do the clocks agree: the members' with each other, this host's with theirs, and the cluster time with all of them?
pub(super) fn clocks(facts: &Facts) -> Vec<Finding> {
    let mut told: Vec<(String, i64)> = facts
        .nodes()
        .filter_map(|(rs, node)| Some((member(rs, &node.host), node.answer.as_ref().ok()?.clock_ms)))
        .collect();
    told.sort_by_key(|(_, clock)| *clock);
    let Some(median) = told.get(told.len() / 2).map(|(_, clock)| *clock) else { return Vec::new() };
    told.push(("the host of this pbm".to_owned(), 0));
    // An agent reports the difference between its host's clock and its mongod's clock. The mongod's clock was read from here,
    // if the mongod could be reached.
    for agent in super::agents::alive(facts) {
        let subject = member(&agent.rs, &agent.n);
        let base = told.iter().find(|(who, _)| *who == subject).map_or(median, |(_, clock)| *clock);
        told.extend(agent.clock.map(|ahead| (format!("the host of the agent of {subject}"), base + ahead)));
    }
    let mut out: Vec<Finding> = told.into_iter().filter_map(|(who, clock)| clock_of(&who, clock - median)).collect();
    // Cluster time may lag where nobody writes, and is ahead only if some clock once was.
    if let (Some(_), ahead @ CLOCK_WARNING..) = (facts.control.now, facts.control.ahead_secs - median / 1000) {
        let detail = format!("the cluster time is {ahead} s ahead of the members' clocks: one of them was wrong once");
        let finding = if ahead >= CLOCK_FAILURE { Finding::failure } else { Finding::warning };
        out.push(finding(Check::Clock, CLUSTER.to_owned(), detail).next(
            "it stands still until the clocks have caught up; until then heartbeats and moments to restore to can't be told apart",
        ));
    }
    if out.is_empty() {
        out.push(Finding::ok(Check::Clock, CLUSTER, format!("all within {CLOCK_WARNING} s")));
    }
    out
}

fn clock_of(who: &str, off_ms: i64) -> Option<Finding> {
    let off = off_ms.abs() / 1000;
    let finding = match off {
        ..CLOCK_WARNING => return None,
        CLOCK_WARNING..CLOCK_FAILURE => Finding::warning,
        _ => Finding::failure,
    };
    let side = if off_ms > 0 { "ahead of" } else { "behind" };
    let detail = format!("its clock is {off} s {side} the members' clocks");
    Some(finding(Check::Clock, who.to_owned(), detail).next("set the clock and keep it right, by NTP for instance"))
}
