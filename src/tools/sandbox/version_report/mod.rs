//! `pbmbox sandbox --version-report`: does this server version come back exactly? Backups and restores of data of every kind, by
//! the real programs, in the sandbox; the result is a report that can be attached to an issue.
//!
//! The report has no values of documents, and no names of hosts and folders.

mod checks;
mod data;
mod sharded;
mod state;

use super::programs::Programs;
use crate::mongo::admin;
use anyhow::{Context as _, Result};
use mongodb::{
    Client,
    bson::{Document, doc},
};
use serde::Serialize;
use std::{fs, path::Path, time::Instant};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    Passed,
    /// The restored data is not what it was.
    Differed,
    /// A program ended with an error.
    Failed,
    /// This server does not allow what the check needs.
    NotPossible,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Differed => "DIFFERED",
            Self::Failed => "FAILED",
            Self::NotPossible => "not possible",
        }
    }
}

/// One check and its result.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    pub check: String,
    pub verdict: Verdict,
    pub seconds: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// What was tested, and how it went.
#[derive(Debug, Serialize)]
pub struct Report {
    program: String,
    server: Server,
    /// Kinds of collections and indexes that this server refuses to make.
    not_on_this_server: Vec<String>,
    pub checks: Vec<Checked>,
}

#[derive(Debug, Serialize)]
struct Server {
    version: String,
    git_version: String,
    modules: Vec<String>,
    feature_compatibility_version: String,
    storage_engine: String,
}

impl Report {
    /// Whether everything that is possible on this server passed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|it| matches!(it.verdict, Verdict::Passed | Verdict::NotPossible))
    }

    /// Runs a check, if it is wanted, and adds its result.
    async fn check(&mut self, subject: Subject<'_>, name: &str, check: impl Future<Output = Result<Found>>) {
        if !(subject.wanted)(name) {
            return;
        }
        let begun = Instant::now();
        let (verdict, details) = match Box::pin(check).await {
            Ok(Found::Same) => (Verdict::Passed, Vec::new()),
            Ok(Found::Different(details)) => (Verdict::Differed, details),
            Ok(Found::NotPossible(why)) => (Verdict::NotPossible, vec![why]),
            Err(error) => (Verdict::Failed, vec![admin::explain(&error)]),
        };
        let check = Checked { check: name.to_owned(), verdict, seconds: begun.elapsed().as_secs_f64(), details };
        println!("   {:<12} {} ({:.1} s)", check.verdict.word(), check.check, check.seconds);
        check.details.iter().for_each(|line| println!("                {line}"));
        self.checks.push(check);
    }
}

/// What a check found.
enum Found {
    Same,
    Different(Vec<String>),
    NotPossible(String),
}

impl Found {
    fn of(differences: Vec<String>) -> Self {
        if differences.is_empty() { Self::Same } else { Self::Different(differences) }
    }
}

/// The replica set that is examined, and the programs that do it.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub client: &'a Client,
    pub programs: &'a Programs,
    pub mongod: &'a Path,
    pub folder: &'a Path,
    /// Whether the check of this name is run.
    pub wanted: &'a (dyn Fn(&str) -> bool + Sync),
}

/// Runs all checks on a replica set that has an agent and a configured storage, and on shards that it starts.
///
/// # Errors
/// The server can't be asked what it is, or can't be filled. What a check finds is no error.
pub async fn examine(subject: Subject<'_>) -> Result<Report> {
    let refused = data::fill(subject.client).await.context("fill the server with data of every kind")?;
    let mut report = Report {
        program: format!("pbmbox {}", env!("CARGO_PKG_VERSION")),
        server: server(subject.client).await?,
        not_on_this_server: refused,
        checks: Vec::new(),
    };
    checks::run(subject, &mut report).await;
    report.check(subject, "two shards", sharded::comes_back(subject)).await;
    Ok(report)
}

async fn server(client: &Client) -> Result<Server> {
    let admin = client.database("admin");
    let ask = async |command: Document| admin.run_command(command).await;
    let build = ask(doc! { "buildInfo": 1 }).await.context("ask the server for its version")?;
    let fcv = ask(doc! { "getParameter": 1, "featureCompatibilityVersion": 1 }).await;
    let fcv = fcv
        .ok()
        .and_then(|it| it.get_document("featureCompatibilityVersion").ok()?.get_str("version").ok().map(str::to_owned));
    let status = ask(doc! { "serverStatus": 1 }).await.unwrap_or_default();
    let text = |key: &str| build.get_str(key).unwrap_or_default().to_owned();
    let modules =
        build.get_array("modules").map(|all| all.iter().filter_map(|it| it.as_str().map(str::to_owned)).collect());
    Ok(Server {
        version: text("version"),
        git_version: text("gitVersion"),
        modules: modules.unwrap_or_default(),
        feature_compatibility_version: fcv.unwrap_or_default(),
        storage_engine: status
            .get_document("storageEngine")
            .ok()
            .and_then(|it| it.get_str("name").ok())
            .unwrap_or_default()
            .to_owned(),
    })
}

/// Writes the report and prints where it is and what it says.
///
/// # Errors
/// The file can't be written.
pub fn publish(report: &Report, file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(report).context("write the report as JSON")?;
    fs::write(file, text + "\n").with_context(|| format!("write the report to {}", file.display()))?;
    let count = |verdict| report.checks.iter().filter(|it| it.verdict == verdict).count();
    println!(
        "\nmongod {}: {} checks passed, {} differed, {} failed, {} are not possible. The report: {}",
        report.server.version,
        count(Verdict::Passed),
        count(Verdict::Differed),
        count(Verdict::Failed),
        count(Verdict::NotPossible),
        file.display()
    );
    Ok(())
}
