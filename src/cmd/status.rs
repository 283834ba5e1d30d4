//! `pbm status`: cluster, point-in-time recovery, what runs, and what is stored. Reads only.

use super::{
    context::Context,
    error::{CliError, Kind, Result},
    list::{is_zero, range_text},
    nodes::{self, Replset},
    output::Report,
    profile::Filter,
    restore::{Remapping, parse_remapping},
    running::{self, Running},
    saved::{Saved, gap_text, gaps_text},
    slicing::{self, Pitr},
    snapshots::{Judge, Snapshot},
    storage, units,
};
use crate::model::{agent::Tenant, config::Config, lock::is_stale};
use crate::pitr::timeline::{Gap, Range};
use clap::{Args, ValueEnum};
use serde::Serialize;

/// Show the cluster, what runs, and the backups
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only these sections; repeatable
    #[arg(short, long = "sections", value_name = "SECTION")]
    sections: Vec<Section>,
    /// Also show which nodes come first for backups and slicing
    #[arg(short, long)]
    priority: bool,
    /// Only backups on the storage of this profile; `main` is the main storage, `*` all of them
    #[arg(long, value_name = "NAME", default_value = "*")]
    profile: String,
    /// Other names of the backups' replica sets in this cluster: CLUSTER=BACKUP,...
    #[arg(long, value_name = "MAP", env = "PBM_REPLSET_REMAPPING", value_parser = parse_remapping, hide_env_values = true)]
    replset_remapping: Option<Remapping>,
    /// Also exit with 2 when something needs a person: a node without a working agent, oplog that is not sliced or can't
    /// be saved, a gap after the newest backup, another cluster on the same storage
    #[arg(long)]
    check: bool,
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
    /// *Added by us*: what of the stored configuration can't be used. People read it as warnings.
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
    #[serde(skip_serializing_if = "is_zero")]
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
            let gaps = saved.gaps_after_the_newest_base(&all);
            problems.extend(gaps.iter().map(|gap| format!("later times can't be restored: {}", gap_text(gap))));
            let shared = shared(cx).await?;
            problems.extend(shared.iter().map(shared_text));
            view.backups = wanted(Section::Backups).then(|| {
                let shown = all.iter().rev().filter(|it| filter.shows(&it.store));
                let snapshots: Vec<Snapshot> = shown.map(|backup| Snapshot::of(backup, &judge)).collect();
                let ranges = || saved.ranges(&judge.fitting(&all));
                let chunks = || Chunks { ranges: ranges(), size: saved.size, gaps: saved.gaps() };
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

/// Other clusters on the main storage, as the living agents have seen them.
async fn shared(cx: &Context) -> Result<Vec<Tenant>> {
    let now = cx.control.cluster_time().await?;
    let alive = cx.control.agents.all().await?.into_iter().filter(|agent| !is_stale(agent.hb, now));
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
        let mut rows = vec![
            ["NAME", "SIZE", "TYPE", "PROFILE", "SELECTIVE", "RESTORE TIME", "STATUS"].map(str::to_owned).to_vec(),
        ];
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
            for line in ranges.chain(gaps_text(&chunks.gaps)) {
                out.push_str(&format!("\n    {line}"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_cluster_has_the_originals_shape() {
        let view = View {
            backups: Some(Backups {
                kind: "FS",
                path: "/srv/run/backups".into(),
                region: None,
                snapshot: None,
                chunks: Some(Chunks { ranges: Vec::new(), size: 0, gaps: Vec::new() }),
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
