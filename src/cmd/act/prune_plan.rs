//! A plan of deletion as people read it: what goes, what stays, and why.

use crate::cmd::io::{context::Context, error::Result, output::Report, units};
use crate::pitr::timeline::{self, Line, Lines};
use crate::upkeep::deletion::{
    plan::{CutWhy, Fate, Plan},
    retention::Facts,
};
use futures::TryStreamExt;
use serde::Serialize;
use std::collections::BTreeMap;

/// The original's wording, which scripts look for.
pub const NOTHING: &str = "nothing to delete";
/// Kept backups named one by one.
const NAMED: usize = 10;

/// The plan with sizes and times. `msg` is the original's only key.
#[derive(Debug, Serialize)]
pub struct Shown {
    msg: String,
    backups: Vec<Backup>,
    chunks: Vec<Chunks>,
    #[serde(skip)]
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Backup {
    name: String,
    goes: bool,
    why: String,
    size: i64,
    #[serde(rename = "restoreTo")]
    restore_to: i64,
}

/// Chunks of a replica set that follow each other and go.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Chunks {
    rs: String,
    start: u32,
    end: u32,
    count: u64,
    size: i64,
}

impl Shown {
    /// Adds what the plan itself does not hold: the index of chunks is read once more, as a stream.
    pub async fn read(cx: &Context, facts: &Facts, plan: &Plan, slicing: bool) -> Result<Self> {
        let mut lines = Lines::new();
        let mut sums: BTreeMap<String, (u64, i64)> = BTreeMap::new();
        if let Some(cut) = &plan.chunks {
            let mut spans = std::pin::pin!(cx.control.chunks.spans().await?);
            while let Some(chunk) = spans.try_next().await? {
                if cut.takes(chunk.start_ts, chunk.end_ts) {
                    timeline::extend(&mut lines, &chunk.rs, Line { start: chunk.start_ts, end: chunk.end_ts });
                    let sum = sums.entry(chunk.rs).or_default();
                    *sum = (sum.0 + 1, sum.1.saturating_add(chunk.size));
                }
            }
        }
        let chunks = lines.into_iter().filter_map(|(rs, lines)| {
            let (count, size) = sums.get(&rs).copied()?;
            Some(Chunks { start: lines.first()?.start.time, end: lines.last()?.end.time, rs, count, size })
        });
        let backups = plan.backups.iter().filter_map(|item| {
            let meta = facts.backups.iter().find(|backup| backup.name == item.name)?;
            let (goes, why) = match &item.fate {
                Fate::Goes(why) => (true, why.to_string()),
                Fate::Stays(why) => (false, why.to_string()),
            };
            // A backup without a recorded end of its data is dated by the time at which the backup ended.
            let restore_to = match i64::from(meta.last_write_ts.time) {
                ..=1 => meta.last_transition_ts,
                at => at,
            };
            Some(Backup { name: item.name.clone(), goes, why, size: meta.size, restore_to })
        });
        let mut out =
            Self { msg: String::new(), backups: backups.collect(), chunks: chunks.collect(), notes: Vec::new() };
        out.notes = notes(plan, slicing && !out.chunks.is_empty());
        if out.is_empty() {
            NOTHING.clone_into(&mut out.msg);
        }
        Ok(out)
    }

    /// Nothing goes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && !self.backups.iter().any(|backup| backup.goes)
    }

    /// What goes and what stays.
    #[must_use]
    pub fn plan(&self) -> String {
        let mut parts = Vec::new();
        let going: Vec<Vec<String>> = self.backups.iter().filter(|backup| backup.goes).map(Backup::row).collect();
        if !going.is_empty() {
            parts.push(format!("Backups to delete:\n{}", units::table(&going)));
        }
        if !self.chunks.is_empty() {
            let rows: Vec<Vec<String>> = self.chunks.iter().map(Chunks::row).collect();
            parts.push(format!("Oplog chunks to delete:\n{}", units::table(&rows)));
        }
        if parts.is_empty() {
            parts.push(NOTHING.to_owned());
        }
        parts.push(self.reasons());
        parts.extend(self.notes.iter().cloned());
        parts.retain(|part| !part.is_empty());
        parts.join("\n")
    }

    /// What stays and why; those that nobody asked for are only counted.
    #[must_use]
    pub fn reasons(&self) -> String {
        const SELF_EVIDENT: [&str; 2] = ["not asked for", "not older"];
        let (plain, special): (Vec<&Backup>, Vec<&Backup>) = self
            .backups
            .iter()
            .filter(|backup| !backup.goes)
            .partition(|backup| SELF_EVIDENT.contains(&backup.why.as_str()));
        let mut lines: Vec<String> = Vec::new();
        if !special.is_empty() {
            let shown = &special[special.len().saturating_sub(NAMED)..];
            let rows: Vec<Vec<String>> = shown.iter().map(|backup| backup.row()).collect();
            let more = special.len() - shown.len();
            let more = if more > 0 { format!(" ({more} older ones not shown)") } else { String::new() };
            lines.push(format!("Backups that stay{more}:\n{}", units::table(&rows)));
        }
        if !plain.is_empty() {
            lines.push(format!("{} more of the backups stay", plain.len()));
        }
        lines.join("\n")
    }
}

/// What else a person should know before saying yes.
fn notes(plan: &Plan, slicing: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let why = plan.chunks.as_ref().map(|cut| &cut.why);
    if let Some(CutWhy::Base(base)) = why {
        notes.push(format!("The oplog after backup {base} stays, so that later times can be restored"));
    }
    for (name, reach) in plan.shortened.iter().rev().take(NAMED) {
        let reach = units::rfc3339(reach.time.into());
        notes.push(format!(
            "Backup {name} can now be restored to any time up to {reach}; afterwards perhaps only to its own"
        ));
    }
    if why == Some(&CutWhy::All) && slicing {
        notes.push(
            "Point-in-time recovery is on: until the next backup, no time after the last one can be restored"
                .to_owned(),
        );
    }
    notes
}

impl Backup {
    fn row(&self) -> Vec<String> {
        vec![self.name.clone(), units::size(self.size), units::table_time(self.restore_to), self.why.clone()]
    }
}

impl Chunks {
    fn row(&self) -> Vec<String> {
        let times = format!("{} - {}", units::table_time(self.start.into()), units::table_time(self.end.into()));
        let chunks = if self.count == 1 { "1 chunk".to_owned() } else { format!("{} chunks", self.count) };
        vec![self.rs.clone(), times, chunks, units::size(self.size)]
    }
}

impl Report for Shown {
    fn text(&self) -> String {
        self.plan()
    }
}
