//! Mistakes that are found before anything is queued.

use crate::cmd::io::{
    agents::living_locks,
    context::Context,
    error::{CliError, Result},
};
use crate::control::{Control, Look};
use crate::model::{agent::AgentStat, command::name, lock::Lock, member::MemberState};
use crate::mongo::{self, admin};
use crate::operation::reap;
use crate::preflight::{self, Operation, gather::Depth};
use crate::topo::{
    cluster,
    elect::Locked,
    suits::{unfit, unfit_for_files},
};
use std::time::Duration;

/// Agents write their lines every five seconds; a change of the configuration needs that long to show.
const AGENTS_CATCH_UP: Duration = Duration::from_secs(10);

/// How long a member has to answer us before an operation begins. The agents do the work, not we.
const MEMBER_ANSWERS: Duration = Duration::from_secs(1);

/// How long an agent may keep the lock of an operation that has ended.
const CLEARS_UP: Duration = Duration::from_secs(10);

/// Which agents an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// On every replica set one whose node may do a backup.
    Fit,
    /// On every replica set one whose node may be locked, and whose files the agent can copy.
    Files(Locked),
    /// On every replica set the one on the primary.
    Primary,
    /// Any one of the leader replica set.
    Any,
}

/// Refuses when another operation holds a living lock. Operations whose agents are lost are ended first.
pub async fn nothing_runs(control: &Control) -> Result<()> {
    if living_locks(control).await?.is_empty() {
        return Ok(());
    }
    reap::end_all_lost(control).await?;
    // An operation that has ended keeps its lock for a moment, while its agent clears up.
    let look = || async {
        let running = living_locks(control).await?;
        let Some(first) = running.first().cloned() else { return Ok(Look::Found(None)) };
        let clearing_up = all_have_ended(control, &running).await?;
        Ok(if clearing_up { Look::Missing(first) } else { Look::Found(Some(first)) })
    };
    match control.bell.within(CLEARS_UP, look).await? {
        Ok(None) => Ok(()),
        Ok(Some(lock)) | Err(lock) => Err(busy(&lock)),
    }
}

/// Do all these locks belong to backups and restores whose documents have a final status?
async fn all_have_ended(control: &Control, locks: &[Lock]) -> anyhow::Result<bool> {
    for lock in locks {
        let opid = &lock.header.opid;
        let ended = match lock.header.kind.as_str() {
            name::BACKUP => control.backups.has_ended_by_opid(opid).await?,
            name::RESTORE | name::REPLAY => control.restores.has_ended_by_opid(opid).await?,
            _ => false,
        };
        if !ended {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The message begins with the original's words: scripts look for them to know that they have to try again later.
fn busy(lock: &Lock) -> CliError {
    let it = &lock.header;
    let text = format!("another operation in progress, {}/{} [{}/{}]", it.kind, it.opid, it.replset, it.node);
    let wait = match it.kind.as_str() {
        name::BACKUP => "wait for its end (`pbm status -s running`) or run `pbm cancel-backup`",
        _ => "wait for its end; `pbm status -s running` shows it",
    };
    CliError::refused(text).hint(format!("another operation is running: {} with OPID {}; {wait}", it.kind, it.opid))
}

/// Refuses `command`, which only our agents know, if no agent of ours is alive on the leader replica set: the agents there
/// take this command.
pub async fn taken_by_ours(cx: &Context, command: &str, instead: &str) -> Result<()> {
    let leader = mongo::hello(cx.control.client()).await?.set_name;
    let mut alive = cx.control.agents.alive(cx.control.cluster_time().await?).await?;
    alive.retain(|agent| agent.rs == leader);
    match alive.iter().any(|agent| !agent.is_original()) {
        true => Ok(()),
        false => {
            let theirs: Vec<String> = alive.iter().map(|agent| format!("{}/{}", agent.rs, agent.n)).collect();
            let what = format!(
                "{command} is not known to the agents of replica set {leader}, which are of the original: {}",
                theirs.join(", ")
            );
            Err(CliError::refused(what).hint(instead))
        }
    }
}

/// Refuses when the agents that are needed don't run or can't work, with each one's reason. Waits a little for agents
/// that have not looked at the newest configuration yet.
pub async fn agents(cx: &Context, need: Need) -> Result<()> {
    let members = cx.members().await?;
    let look = || async {
        let alive = cx.control.agents.alive(cx.control.cluster_time().await?).await?;
        Ok(match judge(&alive, &members, need) {
            Ok(()) => Look::Found(Ok(())),
            // Agents that aren't there won't come by waiting.
            Err((error, false)) => Look::Found(Err(error)),
            Err((error, true)) => Look::Missing(error),
        })
    };
    cx.control.bell.within(AGENTS_CATCH_UP, look).await?.unwrap_or_else(Err)
}

/// Before an operation is queued: the agents that it needs, and what else would make it fail. Such a thing is refused; what
/// only deserves attention is told.
pub async fn before(cx: &Context, operation: Operation) -> Result<()> {
    before_backup(cx, operation, None).await
}

/// As [`before`]; `files`: a physical backup, which locks a node.
pub async fn before_backup(cx: &Context, operation: Operation, files: Option<Locked>) -> Result<()> {
    let need = match operation {
        Operation::Backup | Operation::ProfileBackup => files.map_or(Need::Fit, Need::Files),
        Operation::Restore | Operation::Replay => Need::Primary,
    };
    if cx.cluster().await?.sharded {
        let refused = |error: anyhow::Error| CliError::refused(admin::explain(&error)).hint("nothing was started");
        cluster::refuse_config_shard(cx.control.client()).await.map_err(refused)?;
    }
    // Agents may have to catch up with the configuration: what they tell is read afterwards.
    agents(cx, need).await?;
    let facts = cx.asker(MEMBER_ANSWERS, Depth::Operation).everything().await;
    let mut findings = preflight::judge_before(&facts, operation);
    let obstacles = preflight::obstacles(&facts, &findings, operation);
    findings.retain(|finding| !obstacles.contains(finding));
    for finding in &findings {
        cx.out.note(&format!("Warning: {}", finding.sentence()));
    }
    if !findings.is_empty() {
        cx.out.note("`pbm doctor` tells what to do about it");
    }
    if obstacles.is_empty() {
        return Ok(());
    }
    let reasons: Vec<String> = obstacles.iter().map(preflight::Finding::sentence).collect();
    let what = match operation {
        Operation::Backup | Operation::ProfileBackup => "backup",
        Operation::Restore => "restore",
        Operation::Replay => "replay",
    };
    let mut error = CliError::refused(format!("this {what} would fail: {}", reasons.join("; ")));
    error.hints = obstacles.into_iter().filter_map(|finding| finding.next).collect();
    error.hints.dedup();
    Err(error.hint("nothing was started; `pbm doctor` checks everything"))
}

/// The reason why not, and whether waiting may help.
fn judge(alive: &[AgentStat], members: &[String], need: Need) -> Result<(), (CliError, bool)> {
    for rs in members {
        let here: Vec<&AgentStat> = alive.iter().filter(|agent| agent.rs == *rs).collect();
        if here.is_empty() {
            let error = CliError::refused(format!("no pbm-agent of replica set {rs} is running"))
                .hint("start pbm-agent beside each mongod; `pbm status -s cluster` shows who is there");
            return Err((error, false));
        }
        match need {
            Need::Any => {}
            Need::Primary if here.iter().any(|agent| agent.s == MemberState::Primary) => {}
            Need::Primary => {
                let error = CliError::refused(format!("no pbm-agent runs on the primary of replica set {rs}"))
                    .hint("start pbm-agent there; a restore writes through the primary");
                return Err((error, true));
            }
            Need::Files(locked) => {
                let why: Vec<String> = here
                    .iter()
                    .filter_map(|a| unfit_for_files(a, locked.only_member).map(|why| format!("{}: {why}", a.n)))
                    .collect();
                if why.len() == here.len() {
                    let what = format!("no agent of replica set {rs} can take a physical backup: {}", why.join("; "));
                    let error = CliError::refused(what)
                        .hint("nothing was started; the guide's page on physical backups says who may be locked, and what agents need");
                    return Err((error, true));
                }
            }
            Need::Fit => {
                let why: Vec<String> =
                    here.iter().filter_map(|a| unfit(a).map(|why| format!("{}: {why}", a.n))).collect();
                if why.len() == here.len() {
                    let error = CliError::refused(format!(
                        "no agent of replica set {rs} can take the backup: {}",
                        why.join("; ")
                    ))
                    .hint("remove the cause on one of these nodes; `pbm status -s cluster` shows their state");
                    return Err((error, true));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::agent::SubsysStatus;

    fn agent(rs: &str, s: i32, storage: &str) -> AgentStat {
        let stors = if storage.is_empty() { SubsysStatus::usable() } else { SubsysStatus::broken(storage) };
        AgentStat { stors, ..AgentStat::healthy(rs, &format!("{rs}-{s}:27017"), s) }
    }

    fn said(alive: &[AgentStat], need: Need) -> String {
        match judge(alive, &["a".to_owned(), "b".to_owned()], need) {
            Ok(()) => "ok".to_owned(),
            Err((error, waits)) => format!("{} {waits}", error.source),
        }
    }

    #[test]
    fn every_replica_set_needs_its_agents() {
        let both = [agent("a", 1, ""), agent("b", 2, "")];
        assert_eq!(said(&both, Need::Fit), "ok");
        assert_eq!(said(&both, Need::Primary), "no pbm-agent runs on the primary of replica set b true");
        assert_eq!(said(&both[..1], Need::Any), "no pbm-agent of replica set b is running false");
        let full = [agent("a", 1, "disk full"), agent("a", 2, "denied"), agent("b", 1, "")];
        let text = said(&full, Need::Fit);
        assert!(text.contains("a-1:27017") && text.contains("disk full") && text.contains("denied"), "{text}");
    }
}
