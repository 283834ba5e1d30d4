//! Is everything there that backups and restores need? For `pbm doctor`, and before an operation begins.
//!
//! [`gather`] asks every member and reads the control collections, and changes nothing; [`judge`] is pure and turns what was
//! found out into [`Finding`]s. What only the agents can see (their storage, their user) they try by themselves, every few
//! minutes, and tell in their lines in `pbmAgents`.
//!
//! A failure that `pbm doctor` shows is not always one of the next operation: [`obstacles`] chooses those that are.

mod agents;
pub mod facts;
mod finding;
pub mod gather;
pub mod grants;
mod nodes;
mod oplog;
mod work;

pub use finding::{CLUSTER, Check, Finding, Verdict, member};

use crate::model::{agent::AgentStat, lock::is_stale, member::MemberState};
use crate::topo::suits::unfit;
use facts::Facts;

/// What is about to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// To the main storage.
    Backup,
    /// To the storage of a profile, which no agent looks at before.
    ProfileBackup,
    Restore,
    /// Of saved oplog, onto what is there.
    Replay,
}

impl Operation {
    const fn is_backup(self) -> bool {
        matches!(self, Self::Backup | Self::ProfileBackup)
    }
}

/// Everything that can be said of the facts, check by check.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = work::configuration(facts);
    findings.extend(nodes::config_shard(facts));
    findings.extend(nodes::connections(facts));
    findings.extend(nodes::privileges(facts));
    findings.extend(nodes::versions(facts));
    findings.extend(agents::presence(facts));
    findings.extend(agents::versions(facts));
    findings.extend(agents::storage(facts));
    findings.extend(agents::space(facts));
    findings.extend(nodes::clocks(facts));
    findings.extend(oplog::windows(facts));
    findings.extend(work::slicing(facts));
    findings.extend(work::operations(facts));
    findings.extend(work::documents(facts));
    findings
}

/// What concerns an operation that is about to begin.
#[must_use]
pub fn judge_before(facts: &Facts, operation: Operation) -> Vec<Finding> {
    let mut findings = nodes::connections(facts);
    findings.extend(agents::presence(facts));
    findings.extend(agents::storage(facts));
    findings.extend(nodes::clocks(facts));
    if operation == Operation::Backup {
        findings.extend(agents::space(facts));
    }
    if operation.is_backup() {
        findings.extend(oplog::windows(facts));
    }
    findings.retain(|finding| finding.verdict > Verdict::Ok);
    findings
}

/// Those findings that make the operation fail for certain, because every agent that could do it has one. What agents are
/// there and can use the storage is asked before, with some patience.
#[must_use]
pub fn obstacles(facts: &Facts, findings: &[Finding], operation: Operation) -> Vec<Finding> {
    let Some(now) = facts.control.now else { return Vec::new() };
    let needed = grants::needed(operation);
    let able = |agent: &AgentStat| match operation {
        Operation::Restore | Operation::Replay => agent.s == MemberState::Primary,
        Operation::Backup | Operation::ProfileBackup => unfit(agent).is_none(),
    };
    let mut obstacles = Vec::new();
    for set in &facts.replsets {
        // Restored data only counts once the majority has it, whatever the connection string says.
        if let Some(why) = &set.no_majority
            && !(facts.with_few && operation.is_backup())
        {
            obstacles.push(nodes::without_majority(&set.name, why, false));
            continue;
        }
        let doers = facts.control.agents.iter().filter(|it| it.rs == set.name && able(it) && !is_stale(it.hb, now));
        let stops = |agent: &AgentStat| {
            let lacks = agent.lacks.iter().any(|lack| needed.iter().any(|grant| grant.title() == lack));
            let fatal = |it: &&Finding| match it.check {
                Check::Privileges => lacks,
                Check::FreeSpace => it.verdict == Verdict::Failure,
                _ => false,
            };
            let subject = member(&agent.rs, &agent.n);
            findings.iter().filter(|it| it.subject == subject).find(fatal)
        };
        let stopped: Vec<_> = doers.map(stops).collect();
        if stopped.iter().all(Option::is_some) {
            obstacles.extend(stopped.into_iter().flatten().cloned());
        }
    }
    obstacles
}

#[cfg(test)]
mod tests;
