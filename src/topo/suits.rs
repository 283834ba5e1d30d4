//! Pure: may this node do a backup's work? (spec/format.md D.2)

use crate::model::agent::AgentStat;

/// Seconds behind the primary from which on a node is left out.
pub const MAX_LAG_SECS: i64 = 21;

/// Why an agent's node can't take a backup, or `None` when it can.
#[must_use]
pub fn unfit(agent: &AgentStat) -> Option<String> {
    if agent.arb || agent.s == 7 {
        return Some("it is an arbiter".into());
    }
    if agent.s != 1 && agent.s != 2 {
        return Some(format!("its state is {}", if agent.state.is_empty() { "unknown" } else { &agent.state }));
    }
    if agent.delay > 0 {
        return Some(format!("it is delayed by {} s", agent.delay));
    }
    if i64::from(agent.repl_lag) >= MAX_LAG_SECS {
        return Some(format!("it is {} s behind the primary", agent.repl_lag));
    }
    if let Some((what, why)) = agent.faults().next() {
        return Some(format!("it can't use the {what}: {why}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::agent::SubsysStatus;

    fn agent() -> AgentStat {
        AgentStat::healthy("rs0", "h:1", 2)
    }

    #[test]
    fn a_good_node_is_fit_and_each_fault_tells() {
        assert_eq!(unfit(&agent()), None);
        let bad = SubsysStatus::broken("gone");
        for (agent, why) in [
            (AgentStat { arb: true, ..agent() }, "arbiter"),
            (AgentStat { s: 3, state: "RECOVERING".into(), ..agent() }, "RECOVERING"),
            (AgentStat { delay: 60, ..agent() }, "delayed"),
            (AgentStat { repl_lag: 21, ..agent() }, "behind"),
            (AgentStat { stors: bad.clone(), ..agent() }, "storage: gone"),
            (AgentStat { nodes: bad.clone(), ..agent() }, "mongod"),
            (AgentStat { pbms: bad, ..agent() }, "control"),
        ] {
            let got = unfit(&agent).expect("unfit");
            assert!(got.contains(why), "{got}");
        }
        assert_eq!(unfit(&AgentStat { repl_lag: 20, ..self::agent() }), None);
    }
}
