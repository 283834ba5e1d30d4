//! Pure: the configuration, the slicing of the oplog, and operations that don't come to an end.

use super::{
    facts::Facts,
    finding::{CLUSTER, Check, Finding, member},
};
use crate::model::{
    agent::AgentStat,
    lock::{Lock, is_stale},
    pitr::{BEGINS_WITHIN, state},
};
use crate::pitr::beside::{self, Leader, Mix};
use bson::Timestamp;

/// Is there one?
pub(super) fn configuration(facts: &Facts) -> Vec<Finding> {
    if !facts.unanswered.is_empty() && facts.control.config.is_none() {
        return Vec::new();
    }
    let Some(config) = &facts.control.config else {
        let none = Finding::failure(Check::Configuration, CLUSTER, "there is none, so no storage is known");
        return vec![none.next("write the storage settings into a file and run `pbm config --file FILE`")];
    };
    if config.mistakes.is_empty() {
        let kind = format!("storage of type {}", config.storage.kind);
        return vec![Finding::ok(Check::Configuration, CLUSTER, kind)];
    }
    let wrong = config.mistakes.iter().map(|mistake| {
        let text = mistake.to_string();
        let finding = match config.storage.unusable.as_ref() == Some(&text) {
            true => Finding::failure(Check::Configuration, CLUSTER, format!("the storage can't be used: {text}")),
            false => Finding::warning(Check::Configuration, CLUSTER, text),
        };
        finding.next("correct it with `pbm config --set KEY=VALUE`, or take it back with `pbm config --unset KEY`")
    });
    wrong.collect()
}

/// Reports documents written by other programs that can't be read.
pub(super) fn documents(facts: &Facts) -> Vec<Finding> {
    let next = "look whether another release wrote it; `pbm config --force-resync` writes backups and chunks anew";
    let found = facts.control.unreadable.iter();
    found.map(|text| Finding::warning(Check::Operations, CLUSTER, text).next(next)).collect()
}

/// If point-in-time recovery is on: is the oplog of every replica set saved?
pub(super) fn slicing(facts: &Facts) -> Vec<Finding> {
    let control = &facts.control;
    let (Some(config), Some(now)) = (&control.config, control.now) else { return Vec::new() };
    if !config.pitr_is_on() {
        return vec![Finding::ok(Check::Slicing, CLUSTER, "point-in-time recovery is off")];
    }
    let switched_on = config.epoch.is_some_and(|epoch| now.time.saturating_sub(epoch.time) <= BEGINS_WITHIN);
    let sets = facts.replsets.iter();
    let mut out: Vec<Finding> = sets.map(|set| sliced(facts, &set.name, now, switched_on)).collect();
    out.extend(mixed(facts, now));
    out
}

/// Reports how the original's agents affect slicing.
fn mixed(facts: &Facts, now: Timestamp) -> Option<Finding> {
    let agents = &facts.control.agents;
    let agents: Vec<AgentStat> = agents.iter().filter(|agent| !is_stale(agent.hb, now)).cloned().collect();
    let mix = Mix::of(&agents, &facts.control.leader_rs, "");
    let detail = beside::meaning(&mix)?;
    Some(match mix.leader {
        Leader::Ours(_) => Finding::ok(Check::Slicing, CLUSTER, detail),
        Leader::Original(node) => Finding::warning(Check::Slicing, CLUSTER, detail)
            .next(format!("go on with the migration: the agent on {node} is the next one to replace")),
        Leader::Nobody => Finding::failure(Check::Slicing, CLUSTER, detail)
            .next("start pbm-agent beside the primary of the leader replica set"),
    })
}

/// `switched_on`: slicing was switched on so recently that it may not have begun yet.
fn sliced(facts: &Facts, rs: &str, now: Timestamp, switched_on: bool) -> Finding {
    let control = &facts.control;
    let pitr = control.pitr.as_ref();
    let reports = pitr.map(|pitr| pitr.replsets.as_slice()).unwrap_or_default();
    let reported = reports.iter().find(|it| it.name == rs && it.status == state::ERROR);
    let reported = reported.map(|it| it.error.clone().unwrap_or_else(|| "no reason is given".to_owned()));
    let logged = control.slicing_errors.iter().find(|(set, _)| set == rs).map(|(_, said)| said.clone());
    let Some(lock) = alive(&control.slicers, now).find(|lock| lock.header.replset == rs) else {
        if control.locks.iter().any(|lock| lock.header.replset == rs && lock.pauses_slicing(now)) {
            return Finding::ok(Check::Slicing, rs, "it pauses for another operation");
        }
        let failed = reported.or(logged);
        if switched_on && failed.is_none() {
            return Finding::warning(Check::Slicing, rs, "nobody saves its oplog yet: it was switched on a moment ago")
                .next("run `pbm doctor` again in half a minute");
        }
        let why = failed.map(|why| format!(": {why}")).unwrap_or_default();
        return Finding::failure(Check::Slicing, rs, format!("nobody saves its oplog{why}"))
            .next("see that an agent of it works and that there is a full backup (`pbm backup`); `pbm logs -e pitr` tells more");
    };
    let slicers = pitr.map(|pitr| pitr.slicers.as_slice()).unwrap_or_default();
    let slicer = slicers.iter().find(|it| it.rs == rs);
    let error = slicer.map(|it| it.error.clone()).filter(|error| !error.is_empty()).or(reported);
    let node = &lock.header.node;
    if let Some(error) = error {
        return Finding::failure(Check::Slicing, rs, format!("{node} can't save its oplog: {error}"))
            .next("remove the cause; it is tried again by itself, until the oplog has lost what was not saved");
    }
    if let Some(it) = slicer.filter(|it| it.is_nearly_overtaken()) {
        let detail = format!("writes that are not saved yet are lost in {} s", it.window_left_secs());
        return Finding::failure(Check::Slicing, rs, detail)
            .next("enlarge the oplog (replSetResizeOplog) or make the storage faster");
    }
    if let Some(logged) = logged {
        return Finding::warning(Check::Slicing, rs, format!("{node} saves its oplog; it failed before: {logged}"))
            .next("`pbm list` shows whether that left a gap");
    }
    let lag = slicer.map(|it| format!(", {} s are not saved yet", it.lag_secs())).unwrap_or_default();
    Finding::ok(Check::Slicing, rs, format!("{node} saves its oplog{lag}"))
}

/// Is anything stuck?
pub(super) fn operations(facts: &Facts) -> Vec<Finding> {
    let control = &facts.control;
    let Some(now) = control.now else { return Vec::new() };
    let mut out = Vec::new();
    for lock in control.locks.iter().chain(&control.slicers).filter(|lock| is_stale(lock.hb, now)) {
        let it = &lock.header;
        let silent = now.time.saturating_sub(lock.hb.time);
        let detail = format!("the lock of a {} has had no sign of life for {silent} s", it.kind);
        out.push(
            Finding::failure(Check::Operations, member(&it.replset, &it.node), detail)
                .next("a working agent of the leader replica set ends it; see that one runs"),
        );
    }
    for it in &control.unfinished {
        let held = alive(&control.locks, now).any(|lock| lock.header.opid == it.opid);
        let subject = format!("{} {}", it.kind, it.name);
        if held || !is_stale(it.hb, now) {
            out.push(Finding::ok(Check::Operations, subject, "it is running"));
        } else {
            let silent = now.time.saturating_sub(it.hb.time);
            let detail = format!("it has not ended, and nobody has worked on it for {silent} s");
            out.push(
                Finding::failure(Check::Operations, subject, detail)
                    .next("a working agent of the leader replica set gives it its end; see that one runs"),
            );
        }
    }
    if out.is_empty() {
        out.push(Finding::ok(Check::Operations, CLUSTER, "nothing runs, nothing is stuck"));
    }
    out
}

fn alive(locks: &[Lock], now: Timestamp) -> impl Iterator<Item = &Lock> {
    locks.iter().filter(move |lock| !is_stale(lock.hb, now))
}
