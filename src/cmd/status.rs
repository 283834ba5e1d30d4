//! `pbm status`: cluster, point-in-time recovery, what runs, and what is stored. Reads only.

use super::{
    checks,
    context::Context,
    error::{CliError, Kind, Result},
    list::{Snapshot, range_text},
    nodes::{self, Replset},
    output::Report,
    profile::Filter,
    saved::{Saved, gap_text, gaps_text},
    slicing::{self, Pitr},
    storage, units,
};
use crate::model::{
    agent::Tenant, backup::BackupMeta, command::name, config::Config, lock::LockHeader, status::Status,
};
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

/// Empty when nothing runs.
#[derive(Debug, Default, Serialize)]
struct Running {
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(rename = "opID", skip_serializing_if = "String::is_empty")]
    opid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "startTS", skip_serializing_if = "Option::is_none")]
    start: Option<i64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    status: String,
}

impl StatusArgs {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let config = cx.config().await?;
        let filter = Filter::read(cx, &self.profile).await?;
        let wanted = |section| self.sections.is_empty() || self.sections.contains(&section);
        let mut view = View::default();
        let mut problems = Vec::new();
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
            view.running = Some(running(cx).await?);
        }
        if self.check || wanted(Section::Backups) {
            let all = cx.control.backups.all().await?;
            let saved = Saved::read(cx).await?;
            let gaps = saved.gaps_after_the_newest_base(&all);
            problems.extend(gaps.iter().map(|gap| format!("later times can't be restored: {}", gap_text(gap))));
            let shared = shared(cx).await?;
            problems.extend(shared.iter().map(shared_text));
            view.backups = wanted(Section::Backups).then(|| backups(&config, &all, &saved, &filter, shared));
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

async fn running(cx: &Context) -> Result<Running> {
    let mut locks = checks::living_locks(&cx.control).await?;
    locks.sort_by(|a, b| a.header.replset.cmp(&b.header.replset));
    let Some(lock) = locks.into_iter().next() else { return Ok(Running::default()) };
    let LockHeader { kind, opid, .. } = lock.header;
    let mut out = Running { kind, opid, ..Running::default() };
    match out.kind.as_str() {
        name::BACKUP => {
            if let Some(backup) = cx.control.backups.by_opid(&out.opid).await? {
                out.name = backup.name;
                out.start = Some(backup.start_ts);
                out.status = stage(backup.status, "snapshot backup", "oplog backup");
            }
        }
        name::RESTORE | name::REPLAY => {
            if let Some(restore) = cx.control.restores.by_opid(&out.opid).await? {
                out.name = restore.name;
                out.start = Some(restore.start_ts);
                out.status = stage(restore.status, "snapshot restore", "oplog restore");
            }
        }
        _ => {}
    }
    Ok(out)
}

/// The original's words for the two long steps.
fn stage(status: Status, data: &str, oplog: &str) -> String {
    match status {
        Status::Running => data.to_owned(),
        Status::DumpDone => oplog.to_owned(),
        other => other.to_string(),
    }
}

/// Other clusters on the main storage, as the living agents have seen them.
async fn shared(cx: &Context) -> Result<Vec<Tenant>> {
    let alive = cx.control.agents.alive(cx.control.cluster_time().await?).await?;
    let mut seen: Vec<Tenant> = alive.into_iter().flat_map(|agent| agent.shared).collect();
    seen.sort();
    seen.dedup_by(|a, b| a.id == b.id);
    Ok(seen)
}

fn shared_text(other: &Tenant) -> String {
    format!(
        "the main storage is shared: cluster {} (id {}, agent on {}) makes backups there too, last seen at {}; give each          cluster a folder or prefix of its own, or, if that one is gone, run `pbm config --force-resync`",
        other.name,
        other.id,
        other.node,
        units::rfc3339(other.last)
    )
}

fn backups(config: &Config, all: &[BackupMeta], saved: &Saved, filter: &Filter, shared: Vec<Tenant>) -> Backups {
    let snapshots: Vec<Snapshot> = all.iter().rev().filter(|it| filter.shows(&it.store)).map(Snapshot::of).collect();
    let chunks = || Chunks { ranges: saved.ranges(all), size: saved.size, gaps: saved.gaps() };
    Backups {
        kind: storage::type_name(&config.storage),
        path: storage::path(&config.storage),
        region: storage::region(&config.storage),
        snapshot: (!snapshots.is_empty()).then_some(snapshots),
        chunks: filter.shows_oplog().then(chunks),
        shared,
    }
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

impl Running {
    fn text(&self) -> String {
        if self.opid.is_empty() {
            return "  (nothing)".to_owned();
        }
        let mut out = format!("  {} {}", self.kind, self.name).trim_end().to_owned();
        if let Some(start) = self.start {
            out.push_str(&format!(", started at {}", units::rfc3339(start)));
        }
        if !self.status.is_empty() {
            out.push_str(&format!(", status: {}", self.status));
        }
        format!("{out} [opid {}]", self.opid)
    }
}

impl Backups {
    fn text(&self) -> String {
        let mut out = format!("  {} {}", self.kind, self.path);
        if let Some(region) = &self.region {
            out.push_str(&format!(" ({region})"));
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
                match &it.error {
                    Some(error) => format!("{}: {error}", it.status),
                    None => it.status.to_string(),
                },
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
                shared: Vec::new(),
            }),
            cluster: Some(Vec::new()),
            pitr: Some(Pitr::default()),
            running: Some(Running::default()),
            problems: None,
        };
        assert_eq!(
            serde_json::to_string(&view).expect("json"),
            r#"{"backups":{"type":"FS","path":"/srv/run/backups","snapshot":null,"pitrChunks":{"size":0}},"cluster":[],"pitr":{"conf":false,"run":false,"nodes":null},"running":{}}"#
        );
        let only = View { running: Some(Running::default()), ..View::default() };
        assert_eq!(serde_json::to_string(&only).expect("json"), r#"{"running":{}}"#);
    }

    #[test]
    fn stages_have_the_originals_words() {
        assert_eq!(stage(Status::Running, "a", "b"), "a");
        assert_eq!(stage(Status::DumpDone, "a", "b"), "b");
        assert_eq!(stage(Status::Starting, "a", "b"), "starting");
    }
}
