//! `pbm list`: finished backups and restorable times, or the history of restores.

use super::{
    oplog_coverage::{Saved, gap_text, gaps_text, newest_base},
    snapshots::{Judge, Snapshot},
};
use crate::cmd::io::{
    agents,
    context::Context,
    error::Result,
    output::{Message, Report},
    profiles::Filter,
    remapping::{Remapping, parse_remapping},
    units,
};
use crate::model::{
    backup::BackupMeta, command::name, config::Config, restore::RestoreMeta, serde_help::is_default, status::Status,
};
use crate::pitr::timeline::{self, Gap, Line, Range, Span};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;

/// List the backups, or the restores made
#[derive(Debug, Default, Args)]
pub struct List {
    /// Also show the times covered on each replica set
    #[arg(short, long)]
    full: bool,
    /// Show the restores in place of the backups
    #[arg(long)]
    restore: bool,
    /// Only the newest N; 0 for all
    #[arg(long, value_name = "N")]
    size: Option<u32>,
    /// Also show times that no backup precedes
    #[arg(long)]
    unbacked: bool,
    /// Also show every gap of the saved oplog, also those before the newest backup, which are counted otherwise
    #[arg(long, conflicts_with = "restore")]
    gaps: bool,
    /// Only backups on the storage of this profile; `main` is the main storage, `*` all of them
    #[arg(long, value_name = "PROFILE", default_value = "*")]
    profile: Option<String>,
    /// Other names of the backups' replica sets in this cluster: CLUSTER=BACKUP,...
    #[arg(long, value_name = "MAP", env = "PBM_REPLSET_REMAPPING", value_parser = parse_remapping, hide_env_values = true)]
    replset_remapping: Option<Remapping>,
}

#[derive(Debug, Serialize)]
struct Listing {
    /// `null` when there are none, as in the original.
    snapshots: Option<Vec<Snapshot>>,
    /// Not with a profile: the oplog is on the main storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pitr: Option<Pitr>,
}

#[derive(Debug, Serialize)]
struct Pitr {
    on: bool,
    ranges: Vec<Range>,
    #[serde(rename = "rsRanges", skip_serializing_if = "BTreeMap::is_empty")]
    rs_ranges: BTreeMap<String, Vec<Range>>,
    /// *Added by us*: bytes of the chunks, and where replica sets have none.
    #[serde(skip_serializing_if = "is_default")]
    size: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gaps: Vec<Gap>,
    /// The lines that describe the gaps.
    #[serde(skip)]
    gap_lines: Vec<String>,
}

impl Report for Listing {
    fn text(&self) -> String {
        let mut rows = vec![["NAME", "TYPE", "PROFILE", "SEL", "SIZE", "RESTORE TIME"].map(str::to_owned).to_vec()];
        for it in self.snapshots.iter().flatten() {
            rows.push(vec![
                it.name.clone(),
                it.kind.to_string(),
                it.profile.clone().unwrap_or_default(),
                if it.nss.is_empty() { "no" } else { "yes" }.to_owned(),
                units::size(it.size),
                units::table_time(it.restore_to),
                it.remark().unwrap_or_default(),
            ]);
        }
        let mut out = String::from("Backups:\n");
        out.push_str(&if rows.len() == 1 { "  (none)".to_owned() } else { units::table(&rows) });
        let Some(pitr) = &self.pitr else { return out };
        out.push_str(&format!("\n\nPoint-in-time recovery <{}>:", if pitr.on { "on" } else { "off" }));
        let ranges = pitr.ranges.iter().map(range_text);
        for line in ranges.chain(pitr.gap_lines.iter().cloned()) {
            out.push_str(&format!("\n  {line}"));
        }
        for (rs, ranges) in &pitr.rs_ranges {
            let spans: Vec<String> = ranges.iter().map(range_text).collect();
            out.push_str(&format!("\n  {rs}: {}", spans.join(", ")));
        }
        if pitr.size > 0 {
            out.push_str(&format!("\n  size of the oplog chunks: {}", units::size(pitr.size)));
        }
        out
    }
}

/// `from - to`, with a remark when nothing precedes it.
#[must_use]
pub fn range_text(range: &Range) -> String {
    let Span { start, end } = range.range;
    let base = if range.no_base { " (no base snapshot)" } else { "" };
    format!("{} - {}{base}", units::table_time(start.into()), units::table_time(end.into()))
}

#[derive(Debug, Serialize)]
struct RestoreItem {
    start: i64,
    status: Status,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    snapshot: String,
    #[serde(rename = "start-point-in-time", skip_serializing_if = "is_default")]
    start_point: i64,
    #[serde(rename = "point-in-time", skip_serializing_if = "is_default")]
    point: i64,
    name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    namespaces: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl RestoreItem {
    fn of(restore: RestoreMeta) -> Self {
        let kind = match (restore.pitr, restore.start_pitr) {
            (0, _) => "snapshot",
            (_, 0) => "pitr",
            _ => "replay",
        };
        Self {
            start: restore.start_ts,
            status: restore.status,
            kind,
            snapshot: restore.backup,
            start_point: restore.start_pitr,
            point: restore.pitr,
            name: restore.name,
            namespaces: restore.nss,
            error: restore.error.filter(|error| !error.is_empty()),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Restores(Vec<RestoreItem>);

impl Report for Restores {
    fn text(&self) -> String {
        let mut rows = vec![["NAME", "WHAT", "STATUS"].map(str::to_owned).to_vec()];
        for it in &self.0 {
            let mut what = match it.kind {
                "snapshot" => format!("backup {}", it.snapshot),
                "pitr" => format!("backup {} up to {}", it.snapshot, units::rfc3339(it.point)),
                _ => format!("oplog from {} to {}", units::rfc3339(it.start_point), units::rfc3339(it.point)),
            };
            if !it.namespaces.is_empty() {
                what.push_str(", selective");
            }
            let status = match &it.error {
                Some(error) => format!("{}: {error}", it.status),
                None if it.status.is_final() => it.status.to_string(),
                None => format!("{} (started at {})", it.status, units::rfc3339(it.start)),
            };
            rows.push(vec![it.name.clone(), what, status]);
        }
        let body = if rows.len() == 1 { "  (none)".to_owned() } else { units::table(&rows) };
        format!("Restores:\n{body}")
    }
}

/// The last `size` of them.
fn newest<T>(mut all: Vec<T>, size: Option<u32>) -> Vec<T> {
    if let Some(size) = size.filter(|size| *size > 0) {
        all.drain(..all.len().saturating_sub(size as usize));
    }
    all
}

impl List {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        if self.restore {
            let all = cx.control.restores.readable().await?;
            cx.out.print(&Restores(newest(all, self.size).into_iter().map(RestoreItem::of).collect()));
            return Ok(());
        }
        let config = cx.config().await?;
        if agents::living_locks(&cx.control).await?.iter().any(|lock| lock.header.kind == name::RESYNC) {
            cx.out.print(&Message::new(
                "The storage is being read again; the list is not complete, repeat when it is done",
            ));
            return Ok(());
        }
        let filter = Filter::read(cx, self.profile.as_deref().unwrap_or("*")).await?;
        let backups = cx.control.backups.readable().await?;
        let judge = Judge::read(cx, self.replset_remapping.clone()).await?;
        let shown = backups.iter().filter(|b| b.status == Status::Done && filter.shows(&b.store));
        let (fitting, others): (Vec<&BackupMeta>, Vec<&BackupMeta>) = shown.partition(|backup| judge.fits(backup));
        if !others.is_empty() {
            cx.out.note(&format!(
                "Not listed, as their replica sets are not those of this cluster: {} of the backups; `pbm status -s backups` \
                 shows them, --replset-remapping names their places",
                others.len()
            ));
        }
        let done = fitting.into_iter().map(|backup| Snapshot::of(backup, &judge)).collect();
        let mut snapshots: Vec<Snapshot> = newest(done, self.size);
        // The sizes are in `status`; the original's list has none.
        if !cx.out.is_text() {
            snapshots.iter_mut().for_each(|it| {
                it.size = 0;
                it.storage = None;
            });
        }
        cx.out.print(&Listing {
            snapshots: (!snapshots.is_empty()).then_some(snapshots),
            pitr: match filter.shows_oplog() {
                true => Some(self.pitr(cx, config, &backups, &judge).await?),
                false => None,
            },
        });
        Ok(())
    }

    async fn pitr(&self, cx: &Context, config: Config, backups: &[BackupMeta], judge: &Judge) -> Result<Pitr> {
        let saved = Saved::read(cx, judge).await?;
        let gaps = saved.gaps();
        let gap_lines = match self.gaps {
            true => gaps.iter().map(gap_text).collect(),
            false => gaps_text(&gaps, newest_base(backups)),
        };
        let mut ranges = saved.ranges(&judge.fitting(backups));
        ranges.retain(|range| self.unbacked || !range.no_base);
        let rs_ranges = if self.full { saved.lines } else { BTreeMap::new() };
        let whole = |lines: &[Line]| {
            timeline::seconds(lines).into_iter().map(|range| Range { range, no_base: false }).collect()
        };
        Ok(Pitr {
            on: config.pitr_is_on(),
            ranges,
            rs_ranges: rs_ranges.into_iter().map(|(rs, lines)| (rs, whole(&lines))).collect(),
            size: saved.size,
            gaps,
            gap_lines,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backup::BackupType;

    #[test]
    fn shapes_are_the_originals() {
        let pitr = Pitr {
            on: false,
            ranges: Vec::new(),
            rs_ranges: BTreeMap::new(),
            size: 0,
            gaps: Vec::new(),
            gap_lines: Vec::new(),
        };
        let empty = Listing { snapshots: None, pitr: Some(pitr) };
        assert_eq!(
            serde_json::to_string(&empty).expect("json"),
            r#"{"snapshots":null,"pitr":{"on":false,"ranges":[]}}"#
        );
        let of_a_profile = Listing { snapshots: None, pitr: None };
        assert_eq!(serde_json::to_string(&of_a_profile).expect("json"), r#"{"snapshots":null}"#);
        let one = Snapshot {
            name: "n".into(),
            profile: None,
            storage: None,
            nss: Vec::new(),
            size: 0,
            status: Status::Done,
            print_status: "success",
            error: None,
            incompatible: false,
            restore_to: 5,
            pbm_version: "2.15.0".into(),
            kind: BackupType::Logical,
            src: String::new(),
            left_out: Vec::new(),
        };
        assert_eq!(
            serde_json::to_string(&one).expect("json"),
            r#"{"name":"n","status":"done","printStatus":"success","restoreTo":5,"pbmVersion":"2.15.0","type":"logical","src":""}"#
        );
    }

    #[test]
    fn the_newest_are_last() {
        assert_eq!(newest(vec![1, 2, 3], Some(2)), [2, 3]);
        assert_eq!(newest(vec![1], Some(2)), [1]);
        assert_eq!(newest(vec![1, 2], Some(0)), [1, 2]);
    }
}
