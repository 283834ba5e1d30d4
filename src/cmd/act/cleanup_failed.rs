//! `pbm cleanup --failed`: what failed backups left. An agent looks at the storage first, so that what is agreed to is what
//! was shown, by name and size.

use super::{
    checks::{self, Need},
    consent::Consent,
    prune_plan::{NOTHING, Shown},
};
use crate::cmd::{
    follow::{Waiting, follow, lock::Lock},
    io::{
        context::Context,
        error::Result,
        output::{Message, Report},
        units,
    },
    show::list::List,
};
use crate::control::{LogQuery, Order};
use crate::model::{
    command::{CleanupFailedCmd, Orphan, name},
    log::Severity,
};
use crate::upkeep::{
    contents::leftovers::{self, MOST},
    deletion::retention::Facts,
};
use serde::Serialize;

/// Records and their objects, and folders of no backup.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    records: Shown,
    orphans: Vec<Orphan>,
    /// What the agent remarked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remarks: Vec<String>,
}

impl Found {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.orphans.is_empty()
    }
}

impl Report for Found {
    fn text(&self) -> String {
        let mut parts = vec![self.records.plan()];
        if !self.orphans.is_empty() {
            let row = |it: &Orphan| vec![it.name.clone(), format!("{} objects", it.objects), units::size(it.size)];
            let rows: Vec<Vec<String>> = self.orphans.iter().map(row).collect();
            parts.push(format!("Folders that belong to no backup, to delete:\n{}", units::table(&rows)));
        }
        parts.extend(self.remarks.iter().map(|remark| format!("Note: {remark}")));
        parts.join("\n")
    }
}

/// Runs the subcommand for the storage of a profile, or the main one.
pub async fn run(cx: &Context, profile: Option<String>, consent: &Consent, waiting: &Waiting) -> Result<()> {
    cx.config().await?;
    cx.ready_to_write().await?;
    checks::nothing_runs(&cx.control).await?;
    checks::agents(cx, Need::Any).await?;
    let instead = "`pbm delete-backup NAME` deletes a failed backup; `pbm status -s backups` names them";
    checks::taken_by_ours(cx, "cleanup --failed", instead).await?;
    let command = CleanupFailedCmd { profile: profile.clone().unwrap_or_default(), ..CleanupFailedCmd::default() };
    let (orphans, remarks) = look(cx, &command).await?;
    let facts = Facts { backups: cx.control.backups.all().await?, ..Facts::default() };
    let now = cx.control.advanced_cluster_time().await?;
    let plan = leftovers::plan(&facts.backups, &cx.control.locks.all().await?, profile.as_deref(), now);
    let found = Found { records: Shown::read(cx, &facts, &plan, false).await?, orphans, remarks };
    if consent.dry_run {
        cx.out.print(&found);
        return Ok(());
    }
    if found.is_empty() {
        cx.out.note(&found.text());
        cx.out.print(&Message::new(NOTHING));
        return Ok(());
    }
    consent.given(cx, &found.text()).await?;
    let backups = plan.going().take(MOST).map(|item| item.name.clone()).collect();
    let command = CleanupFailedCmd { backups, orphans: found.orphans, ..command };
    let opid = cx.control.commands.send(Order::CleanupFailed(command)).await?.to_hex();
    if !waiting.wait {
        cx.out.print(&Message::new(format!(
            "The agents delete it; `pbm logs -e {} -i {opid}` shows when it is done",
            name::CLEANUP_FAILED
        )));
        return Ok(());
    }
    follow(cx, Lock::new(cx, name::CLEANUP_FAILED, &opid), waiting.limit()).await?;
    List::default().run(cx).await
}

/// Has an agent look at the storage; gives what it found and what it remarked.
async fn look(cx: &Context, command: &CleanupFailedCmd) -> Result<(Vec<Orphan>, Vec<String>)> {
    let event = name::CLEANUP_FAILED;
    let command = CleanupFailedCmd { look: true, ..command.clone() };
    let opid = cx.control.commands.send(Order::CleanupFailed(command)).await?.to_hex();
    follow(cx, Lock::new(cx, event, &opid), None).await?;
    let query = LogQuery {
        opid: Some(opid),
        event: Some(event.to_owned()),
        severity: Some(Severity::Info as i32),
        ..LogQuery::default()
    };
    let lines = cx.control.logs.newest(&query, 0).await?;
    let remarks = lines.iter().filter(|line| line.s == Severity::Warning as i32).map(|line| line.msg.clone()).collect();
    Ok((lines.iter().filter_map(|line| leftovers::parse(&line.msg)).collect(), remarks))
}
