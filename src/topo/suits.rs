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
    for (part, what) in
        [(&agent.nodes, "its mongod"), (&agent.pbms, "the control collections"), (&agent.stors, "the storage")]
    {
        if !part.ok {
            return Some(format!("it can't use {what}: {}", part.e));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::agent::SubsysStatus;

    fn agent() -> AgentStat {
        let ok = || SubsysStatus { ok: true, e: String::new() };
        AgentStat {
            n: "h:1".into(),
            rs: "rs0".into(),
            s: 2,
            state: "SECONDARY".into(),
            hdn: false,
            psv: false,
            arb: false,
            delay: 0,
            repl_lag: 0,
            v: String::new(),
            mv: String::new(),
            pbms: ok(),
            nodes: ok(),
            stors: ok(),
            hb: bson::Timestamp { time: 1, increment: 1 },
            e: String::new(),
        }
    }

    #[test]
    fn a_good_node_is_fit_and_each_fault_tells() {
        assert_eq!(unfit(&agent()), None);
        let bad = SubsysStatus { ok: false, e: "gone".into() };
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
