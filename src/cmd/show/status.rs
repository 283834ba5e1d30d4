//! `pbm status`: cluster, point-in-time recovery, what runs, and what is stored. Reads only.

use super::{
    list::range_text,
    nodes::{self, Replset},
    oplog_coverage::{Saved, gap_text, gaps_text, newest_base},
    running::{self, Running},
    slicing::{self, Pitr},
    snapshots::{Judge, Snapshot},
};
use crate::cmd::io::{
    context::Context,
    error::{CliError, Kind, Result},
    output::Report,
    profiles::Filter,
    remapping::{Remapping, parse_remapping},
    storage, times, units,
};
use crate::model::{agent::Tenant, backup::BackupMeta, config::Config, serde_help::is_default, status::Status};
use crate::pitr::timeline::{Gap, Range};
use clap::{Args, ValueEnum};
use serde::Serialize;

/// Show the cluster, what runs, and the backups
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only these sections; repeatable, or several separated by commas
    #[arg(short, long = "sections", value_name = "SECTION", value_delimiter = ',')]
    sections: Vec<Section>,
    /// Also show which nodes come first for backups and slicing
    #[arg(short, long)]
    priority: bool,
    /// Only backups on the storage of this profile; `main` is the main storage, `*` all of them
    #[arg(long, value_name = "PROFILE", default_value = "*")]
    profile: String,
    /// Other names of the backups' replica sets in this cluster: CLUSTER=BACKUP,...
    #[arg(long, value_name = "MAP", env = "PBM_REPLSET_REMAPPING", value_parser = parse_remapping, hide_env_values = true)]
    replset_remapping: Option<Remapping>,
    /// Also exit with 2 when something needs a person: a node without a working agent, a newest backup that failed, oplog
    /// that is not sliced or can't be saved, a gap after the newest backup, another cluster on the same storage
    #[arg(long)]
    check: bool,
    /// With --check: also when the newest complete backup is older than this, such as 26h or 2d, or there is none
    ///
    /// Selective backups count only where there are no others.
    #[arg(long, value_name = "AGE", requires = "check", value_parser = parse_age)]
    max_age: Option<u32>,
}

fn parse_age(text: &str) -> Result<u32, String> {
    times::span(text.trim()).filter(|age| *age > 0).ok_or_else(|| "give a span of time, such as 26h or 2d".to_owned())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    Cluster,
    Pitr,
    Running,
    Backups,
}

#[derive(Debug, Default, Serialize)]
struct View {
    #[serde(skip_serializing_if = "Option::is_none")]
    backups: Option<Backups>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Vec<Replset>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pitr: Option<Pitr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<Running>,
    /// *Added by us*: the values of the stored configuration that can't be used. The text output shows them as warnings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    configuration: Vec<String>,
    /// *Added by us*, with `--check`: what needs a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct Backups {
    #[serde(rename = "type")]
    kind: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// `null` when there are none, as in the original.
    snapshot: Option<Vec<Snapshot>>,
    /// Not with a profile: the oplog is on the main storage.
    #[serde(rename = "pitrChunks", skip_serializing_if = "Option::is_none")]
    chunks: Option<Chunks>,
    /// *Added by us*: bytes of all that is shown.
    #[serde(skip_serializing_if = "is_default")]
    used: i64,
    /// *Added by us*: other clusters that make backups on the main storage.
    #[serde(rename = "sharedWith", skip_serializing_if = "Vec::is_empty")]
    shared: Vec<Tenant>,
}

#[derive(Debug, Serialize)]
struct Chunks {
    #[serde(rename = "pitrChunks", skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
    size: i64,
    /// *Added by us*.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gaps: Vec<Gap>,
    /// The lines that describe the gaps.
    #[serde(skip)]
    gap_lines: Vec<String>,
}

impl StatusArgs {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let config = cx.config().await?;
        let filter = Filter::read(cx, &self.profile).await?;
        let wanted = |section| self.sections.is_empty() || self.sections.contains(&section);
        let mut view = View::default();
        let mut problems: Vec<String> =
            config.mistakes.iter().map(|mistake| format!("in the stored configuration {mistake}")).collect();
        view.configuration.clone_from(&problems);
        if self.check || wanted(Section::Cluster) {
            let replsets = nodes::read(cx, &config, self.priority).await?;
            problems.extend(nodes::problems(&replsets));
            view.cluster = wanted(Section::Cluster).then_some(replsets);
        }
        if self.check || wanted(Section::Pitr) {
            let pitr = slicing::read(cx, &config, &cx.members().await?).await?;
            problems.extend(pitr.problems());
            view.pitr = wanted(Section::Pitr).then_some(pitr);
        }
        if wanted(Section::Running) {
            view.running = Some(running::read(cx).await?);
        }
        if self.check || wanted(Section::Backups) {
            let judge = Judge::read(cx, self.replset_remapping.clone()).await?;
            let backups = async { Ok::<_, CliError>(cx.control.backups.readable().await?) };
            let (all, saved) = futures::try_join!(backups, Saved::read(cx, &judge))?;
            let now = cx.control.cluster_time().await?;
            let counted: Vec<&BackupMeta> = all.iter().filter(|it| filter.shows(&it.store)).collect();
            problems.extend(backups_problems(&counted, &judge, now.time, self.max_age));
            let mut gaps = saved.gaps_after_the_newest_base(&all);
            if self.check && !gaps.is_empty() {
                // The restore has already printed that only a new backup makes later times restorable, and that backup may be
                // running.
                let restores = slicing::Restores::read(cx).await?;
                gaps.retain(|gap| !restores.just_made(gap, now));
            }
            problems.extend(gaps.iter().map(|gap| format!("later times can't be restored: {}", gap_text(gap))));
            let shared = shared(cx).await?;
            problems.extend(shared.iter().map(shared_text));
            view.backups = wanted(Section::Backups).then(|| {
                let shown = all.iter().rev().filter(|it| filter.shows(&it.store));
                let snapshots: Vec<Snapshot> = shown.map(|backup| Snapshot::of(backup, &judge)).collect();
                let ranges = || saved.ranges(&judge.fitting(&all));
                let chunks = || {
                    let gaps = saved.gaps();
                    let gap_lines = gaps_text(&gaps, newest_base(&all));
                    Chunks { ranges: ranges(), size: saved.size, gaps, gap_lines }
                };
                Backups::of(&config, snapshots, filter.shows_oplog().then(chunks), shared)
            });
        }
        if self.check {
            view.problems = Some(problems.clone());
        }
        cx.out.print(&view);
        if self.check && !problems.is_empty() {
            return Err(
                CliError::new(Kind::Attention, problems.join("; ")).hint("`pbm logs` tells what the agents met with")
            );
        }
        Ok(())
    }
}

/// Problems of the backups that need a person: the newest backup that has ended failed, or the newest complete one is too
/// old.
fn backups_problems(all: &[&BackupMeta], judge: &Judge, now: u32, max_age: Option<u32>) -> Vec<String> {
    let mut problems = Vec::new();
    let shown = |backup: &BackupMeta| Snapshot::of(backup, judge);
    let ended = all.iter().filter(|it| shown(it).print_status != "ongoing");
    // A cancelled backup is no problem: a person stopped it on purpose.
    let newest = ended.filter(|it| it.status != Status::Canceled).max_by_key(|it| (it.start_ts, &it.name));
    if let Some(newest) = newest {
        let it = shown(newest);
        if it.status == Status::Error && !it.incompatible {
            problems.push(format!(
                "the newest backup, {}, failed: {}",
                it.name,
                it.error.as_deref().unwrap_or("no reason is recorded")
            ));
        }
    }
    let Some(max_age) = max_age else { return problems };
    let done: Vec<&&BackupMeta> = all.iter().filter(|it| it.status == Status::Done && judge.fits(it)).collect();
    let whole = done.iter().any(|it| it.nss.is_empty());
    let newest = done.iter().filter(|it| !whole || it.nss.is_empty()).max_by_key(|it| it.last_write_ts);
    let wanted = units::span(max_age.into());
    match newest {
        None => problems.push(format!("there is no complete backup (wanted: one that is not older than {wanted})")),
        Some(newest) => {
            let age = now.saturating_sub(newest.last_write_ts.time);
            if age > max_age {
                let age = units::span(age.into());
                problems.push(format!(
                    "the newest complete backup, {}, is {age} old (wanted: {wanted} at most)",
                    newest.name
                ));
            }
        }
    }
    problems
}

/// Other clusters on the main storage, as the living agents have seen them.
async fn shared(cx: &Context) -> Result<Vec<Tenant>> {
    let now = cx.control.cluster_time().await?;
    let alive = cx.control.agents.living(now).await?.into_iter();
    let mut seen: Vec<Tenant> = alive.flat_map(|agent| agent.shared).collect();
    seen.sort();
    seen.dedup_by(|a, b| a.id == b.id);
    Ok(seen)
}

fn shared_text(other: &Tenant) -> String {
    format!(
        "the main storage is shared: cluster {} (id {}, agent on {}) makes backups there too, last seen at {}; give each cluster a folder or prefix of its own, or, if that one is gone, run `pbm config --force-resync`",
        other.name,
        other.id,
        other.node,
        units::rfc3339(other.last)
    )
}

impl Report for View {
    fn text(&self) -> String {
        let sections = [
            self.cluster.as_ref().map(|replsets| ("Cluster", nodes::text(replsets))),
            self.pitr.as_ref().map(|pitr| ("Point-in-time recovery", pitr.text())),
            self.running.as_ref().map(|running| ("Running", running.text())),
            self.backups.as_ref().map(|backups| ("Backups", backups.text())),
        ];
        let blocks: Vec<String> = sections
            .into_iter()
            .flatten()
            .map(|(title, body)| format!("{title}:\n{}\n{body}", "=".repeat(title.len() + 1)))
            .collect();
        blocks.join("\n\n")
    }
}

impl Backups {
    fn of(config: &Config, snapshots: Vec<Snapshot>, chunks: Option<Chunks>, shared: Vec<Tenant>) -> Self {
        let sizes = snapshots.iter().map(|it| it.size).chain(chunks.iter().map(|it| it.size));
        Self {
            kind: storage::type_name(&config.storage),
            path: storage::path(&config.storage),
            region: storage::region(&config.storage),
            used: sizes.fold(0, i64::saturating_add),
            snapshot: (!snapshots.is_empty()).then_some(snapshots),
            chunks,
            shared,
        }
    }

    fn text(&self) -> String {
        let mut out = format!("  {} {}", self.kind, self.path);
        if let Some(region) = &self.region {
            out.push_str(&format!(" ({region})"));
        }
        if self.used > 0 {
            out.push_str(&format!(", {} used", units::size(self.used)));
        }
        for other in &self.shared {
            out.push_str(&format!("\n  WARNING: {}", shared_text(other)));
        }
        let mut rows =
            vec![["NAME", "SIZE", "TYPE", "PROFILE", "SEL", "RESTORE TIME", "STATUS"].map(str::to_owned).to_vec()];
        for it in self.snapshot.iter().flatten() {
            rows.push(vec![
                it.name.clone(),
                units::size(it.size),
                it.kind.to_string(),
                it.profile.clone().unwrap_or_default(),
                if it.nss.is_empty() { "no" } else { "yes" }.to_owned(),
                units::table_time(it.restore_to),
                it.outcome(),
            ]);
        }
        out.push('\n');
        out.push_str(&if rows.len() == 1 { "  (no backups)".to_owned() } else { units::table(&rows) });
        if let Some(chunks) = self.chunks.as_ref().filter(|chunks| !chunks.ranges.is_empty() || chunks.size > 0) {
            out.push_str(&format!("\n  Oplog chunks, {}:", units::size(chunks.size)));
            let ranges = chunks.ranges.iter().map(range_text);
            for line in ranges.chain(chunks.gap_lines.iter().cloned()) {
                out.push_str(&format!("\n    {line}"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(name: &str, start: i64, status: Status, last_write: u32) -> BackupMeta {
        let meta = serde_json::json!({ "name": name, "start_ts": start, "replsets": [{ "name": "rs0" }], "fcv": "6.0", "pbm_version": "2.15.0" });
        let meta = serde_json::from_value(meta).expect("a backup");
        let at = |time| bson::Timestamp { time, increment: 1 };
        BackupMeta { status, hb: at(5000), last_write_ts: at(last_write), ..meta }
    }

    #[test]
    fn failed_and_old_backups_need_a_person() {
        let judge = Judge::of_one_set("rs0", 5000);
        let said = |all: &[BackupMeta], max_age| {
            backups_problems(&all.iter().collect::<Vec<_>>(), &judge, 5000, max_age).join("; ")
        };
        let good = backup("good", 10, Status::Done, 1400);
        assert_eq!(said(&[], None), "");
        assert_eq!(said(&[], Some(60)), "there is no complete backup (wanted: one that is not older than 1m0s)");
        assert_eq!(said(std::slice::from_ref(&good), None), "");
        assert_eq!(said(std::slice::from_ref(&good), Some(3600)), "");
        assert_eq!(
            said(std::slice::from_ref(&good), Some(3599)),
            "the newest complete backup, good, is 1h0m0s old (wanted: 59m59s at most)"
        );
        let failed = BackupMeta { error: Some("disk full".into()), ..backup("bad", 20, Status::Error, 0) };
        assert_eq!(said(&[good.clone(), failed.clone()], Some(3600)), "the newest backup, bad, failed: disk full");
        let running = backup("now", 30, Status::Running, 0);
        assert_eq!(
            said(&[good.clone(), failed.clone(), running.clone()], None),
            "the newest backup, bad, failed: disk full"
        );
        let stuck = BackupMeta { hb: bson::Timestamp { time: 100, increment: 1 }, ..running };
        assert!(said(&[good.clone(), stuck], None).contains("now, failed: stuck"));
        let later = backup("later", 40, Status::Done, 4900);
        assert_eq!(said(&[good.clone(), failed, later], Some(3600)), "");
        let cancelled = backup("stopped", 50, Status::Canceled, 0);
        assert_eq!(said(&[good.clone(), cancelled], None), "");
        let selective = BackupMeta { nss: vec!["a.*".into()], ..backup("part", 60, Status::Done, 4990) };
        assert!(said(&[good, selective.clone()], Some(60)).contains("good, is"));
        assert_eq!(said(&[selective], Some(60)), "");
    }

    #[test]
    fn an_idle_cluster_has_the_originals_shape() {
        let view = View {
            backups: Some(Backups {
                kind: "FS",
                path: "/srv/run/backups".into(),
                region: None,
                snapshot: None,
                chunks: Some(Chunks { ranges: Vec::new(), size: 0, gaps: Vec::new(), gap_lines: Vec::new() }),
                used: 0,
                shared: Vec::new(),
            }),
            cluster: Some(Vec::new()),
            pitr: Some(Pitr::default()),
            running: Some(Running::default()),
            configuration: Vec::new(),
            problems: None,
        };
        assert_eq!(
            serde_json::to_string(&view).expect("json"),
            r#"{"backups":{"type":"FS","path":"/srv/run/backups","snapshot":null,"pitrChunks":{"size":0}},"cluster":[],"pitr":{"conf":false,"run":false,"nodes":null},"running":{}}"#
        );
        let only = View { running: Some(Running::default()), ..View::default() };
        assert_eq!(serde_json::to_string(&only).expect("json"), r#"{"running":{}}"#);
    }
}
