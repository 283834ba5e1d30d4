//! Decides whether a node may do a backup's work or slice the oplog (docs/format.md D.2.2). Pure functions.

use crate::model::{agent::AgentStat, member::MemberState};

/// A node that is this many seconds behind the primary is left out.
pub const MAX_LAG_SECS: i64 = 21;

/// Returns why the data of a node can't be the source of a backup, regardless of its state and lag, or `None` if it can.
#[must_use]
pub const fn unreadable(without_indexes: bool, fsync_locked: bool) -> Option<&'static str> {
    if without_indexes {
        Some("it builds no indexes (buildIndexes: false), so a backup of it would lack them")
    } else if fsync_locked {
        Some("it is locked by fsync, so it takes no writes until db.fsyncUnlock()")
    } else {
        None
    }
}

/// Returns why an agent's node may not be read for a backup or for slicing, or `None` if it may.
#[must_use]
pub fn unfit_node(agent: &AgentStat) -> Option<String> {
    if agent.arb || agent.s == MemberState::Arbiter {
        return Some("it is an arbiter".into());
    }
    if !agent.s.is_readable() {
        return Some(format!("its state is {}", if agent.state.is_empty() { "unknown" } else { &agent.state }));
    }
    if agent.delay > 0 {
        return Some(format!("it is delayed by {} s", agent.delay));
    }
    if !agent.unfit.is_empty() {
        return Some(agent.unfit.clone());
    }
    if i64::from(agent.repl_lag) >= MAX_LAG_SECS {
        return Some(format!("it is {} s behind the primary", agent.repl_lag));
    }
    None
}

/// Whether the node is unfit because it is configured that way. Then nothing has to be repaired.
#[must_use]
pub fn is_unfit_by_design(agent: &AgentStat) -> bool {
    agent.arb
        || agent.s == MemberState::Arbiter
        || agent.delay > 0
        || unreadable(true, false).is_some_and(|why| agent.unfit == why)
}

/// Returns why an agent can't make a backup, or `None` if it can. The reason is its node, or something else that it needs.
#[must_use]
pub fn unfit(agent: &AgentStat) -> Option<String> {
    unfit_node(agent).or_else(|| agent.faults().next().map(|(what, why)| format!("it can't use the {what}: {why}")))
}

/// Returns the reason why an agent can't take a physical backup, or `None` if it can. If `allow_only` is set, a member may be
/// locked although it is the only one with data.
#[must_use]
pub fn unfit_for_files(agent: &AgentStat, allow_only: bool) -> Option<String> {
    if let Some(why) = unfit(agent) {
        return Some(why);
    }
    let (Some(lock), Some(files)) = (&agent.lock, &agent.files) else {
        let why = match agent.is_original() {
            true => "its agent is of the original, which makes no physical backups of this server",
            false => "its agent has not looked at its data files yet, or is of an earlier release",
        };
        return Some(why.to_owned());
    };
    let refusal = if !files.e.is_empty() {
        &files.e
    } else if lock.only && !allow_only {
        "it is the only member with data, and all writes wait while it is locked; --allow-lock-on-only-member accepts that"
    } else if agent.s == MemberState::Primary && !lock.only {
        "it is the primary, which is never locked"
    } else if !lock.e.is_empty() {
        &lock.e
    } else {
        return None;
    };
    Some(refusal.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::agent::SubsysStatus;

    fn agent() -> AgentStat {
        AgentStat::healthy("rs0", "h:1", 2)
    }

    #[test]
    fn who_may_be_locked_for_its_files() {
        use crate::model::agent::{Files, Locking};
        let locking = Locking { e: String::new(), only: false, votes: true };
        let able = AgentStat { own: "1".into(), lock: Some(locking.clone()), files: Some(Files::default()), ..agent() };
        assert_eq!(unfit_for_files(&able, false), None);
        let only = AgentStat { s: 1.into(), lock: Some(Locking { only: true, ..locking.clone() }), ..able.clone() };
        assert_eq!(unfit_for_files(&only, true), None);
        let refused = |agent: &AgentStat| unfit_for_files(agent, true).expect("a reason");
        assert!(unfit_for_files(&only, false).expect("a reason").contains("--allow-lock-on-only-member"));
        assert!(refused(&AgentStat { s: 1.into(), ..able.clone() }).contains("the primary"));
        let endangers = Locking { e: "votes are missing".into(), ..locking };
        assert_eq!(refused(&AgentStat { lock: Some(endangers), ..able.clone() }), "votes are missing");
        let blind = Files { e: "it lies elsewhere".into(), ..Files::default() };
        assert_eq!(refused(&AgentStat { files: Some(blind), ..able.clone() }), "it lies elsewhere");
        assert!(refused(&AgentStat { files: None, ..able.clone() }).contains("earlier release"));
        assert!(refused(&agent()).contains("original"));
        assert!(refused(&AgentStat { repl_lag: 40, ..able }).contains("behind"));
    }

    #[test]
    fn a_good_node_is_fit_and_each_fault_tells() {
        assert_eq!(unfit(&agent()), None);
        let bad = SubsysStatus::broken("gone");
        let unreadable = |without, locked| unreadable(without, locked).expect("a reason").to_owned();
        for (agent, why) in [
            (AgentStat { arb: true, ..agent() }, "arbiter"),
            (AgentStat { s: 3.into(), state: "RECOVERING".into(), ..agent() }, "RECOVERING"),
            (AgentStat { s: 5.into(), state: "STARTUP2".into(), ..agent() }, "STARTUP2"),
            (AgentStat { s: 9.into(), state: "ROLLBACK".into(), ..agent() }, "ROLLBACK"),
            (AgentStat { delay: 60, ..agent() }, "delayed"),
            (AgentStat { unfit: unreadable(true, true), ..agent() }, "buildIndexes"),
            (AgentStat { unfit: unreadable(false, true), ..agent() }, "fsync"),
            (AgentStat { repl_lag: 21, ..agent() }, "behind"),
            (AgentStat { stors: bad.clone(), ..agent() }, "storage: gone"),
            (AgentStat { nodes: bad.clone(), ..agent() }, "mongod"),
            (AgentStat { pbms: bad, ..agent() }, "control"),
        ] {
            let got = unfit(&agent).expect("unfit");
            assert!(got.contains(why), "{got}");
            let of_node = !["storage: gone", "mongod", "control"].contains(&why);
            assert_eq!(unfit_node(&agent).is_some(), of_node, "{why}");
            let by_design = ["arbiter", "delayed", "buildIndexes"].contains(&why);
            assert_eq!(is_unfit_by_design(&agent), by_design, "{why}");
        }
        assert_eq!(unfit(&AgentStat { repl_lag: 20, ..self::agent() }), None);
        assert_eq!(super::unreadable(false, false), None);
    }
}
