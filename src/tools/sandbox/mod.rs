//! `pbmbox sandbox`: a private MongoDB, an agent, a backup, an accident and a restore, explained while they happen.
//!
//! `dev/quickstart.sh` builds the program, fetches a mongod and calls this. Everything is in one temporary folder, which is
//! removed at the end, also after Ctrl-C.

mod processes;
pub mod programs;
mod shop;
pub mod version_report;

use crate::cli::signals;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use processes::{Agent, Folder, Mongod, Place, Role, until};
use programs::Programs;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};
use version_report::Subject;

/// A private MongoDB, an agent, a backup, an accident and a restore, explained while they happen
#[derive(Debug, Parser)]
#[command(name = "pbmbox sandbox", version)]
struct Cli {
    /// The server to start
    #[arg(long, value_name = "PATH", env = "PBMBOX_MONGOD", default_value = "mongod")]
    mongod: PathBuf,
    /// Keep the sandbox running, to play with, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Examine how data of every kind comes back on this server version, and write a report into FILE [default:
    /// pbm-version-report.json]
    ///
    /// It takes some minutes and changes nothing outside of its own folder. The report shows no values of documents, so it can be
    /// attached to an issue.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "pbm-version-report.json", conflicts_with = "keep")]
    version_report: Option<PathBuf>,
}

/// Runs the sandbox. The first of `args` is the name of the program.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let done = tokio::runtime::Runtime::new().context("start the runtime").and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                done = work(&cli) => done,
                stopped = stop_signal() => stopped.map(|()| ExitCode::from(130)),
            }
        })
    });
    done.unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Returns when the user or the system wants the sandbox to end.
async fn stop_signal() -> Result<()> {
    signals::end().await?;
    eprintln!("\nStopped. The sandbox is removed.");
    Ok(())
}

/// How long agents may take to start and to see the storage.
const AGENTS_WITHIN: Duration = Duration::from_secs(60);

/// Numbers the steps and prints how long each one took.
struct Steps {
    begun: Instant,
    number: u32,
    step_begun: Instant,
}

impl Steps {
    fn new() -> Self {
        Self { begun: Instant::now(), number: 0, step_begun: Instant::now() }
    }

    fn next(&mut self, text: &str) {
        self.end();
        self.number += 1;
        println!("{}. {text}", self.number);
        self.step_begun = Instant::now();
    }

    fn end(&self) {
        if self.number > 0 {
            println!("   ({:.1} s)\n", self.step_begun.elapsed().as_secs_f32());
        }
    }
}

async fn work(cli: &Cli) -> Result<ExitCode> {
    match &cli.version_report {
        Some(file) => Ok(if report(cli, file).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        None => conduct(cli).await.map(|()| ExitCode::SUCCESS),
    }
}

/// Examines the server. Returns whether all is well.
async fn report(cli: &Cli, file: &Path) -> Result<bool> {
    let folder = Folder::new()?;
    println!(
        "A MongoDB of its own and an agent, in a temporary folder; then backups and restores of data of every kind.\n"
    );
    let place = Place { folder: folder.path().join("rs0"), rs: "rs0".to_owned(), role: Role::Alone };
    let server = Mongod::start(&cli.mongod, &place).await?;
    let client = server.client().await?;
    let programs = Programs::new(folder.path().join("bin"), server.uri())?;
    let _agent = Agent::start(&programs.agent(), &programs.uri, folder.path().join("agent.log"))?;
    configure_quietly(&client, &programs, folder.path(), 1).await?;
    let subject =
        Subject { client: &client, programs: &programs, mongod: &cli.mongod, folder: folder.path(), wanted: &|_| true };
    let report = version_report::examine(subject).await?;
    version_report::publish(&report, file)?;
    Ok(report.is_good())
}

/// Configures a storage in `folder` and waits until the agents can use it.
async fn configure_quietly(client: &Client, programs: &Programs, folder: &Path, agents: u64) -> Result<()> {
    let lines = client.database("admin").collection::<Document>("pbmAgents");
    let count = async |filter| lines.count_documents(filter).await.ok().filter(|count| *count >= agents);
    until(AGENTS_WITHIN, async || count(doc! {}).await).await.context("wait for the agents")?;
    let file = settings(folder)?.0;
    programs.json(&["config", "--file", &file.display().to_string(), "--wait"]).await?;
    let ready = until(AGENTS_WITHIN, async || count(doc! { "stors.ok": true }).await).await;
    ready.context("wait until the agents see the storage").map(drop)
}

/// Writes a file of settings for a storage in `folder`. Returns the file and its text.
fn settings(folder: &Path) -> Result<(PathBuf, String)> {
    let file = folder.join("pbm.yaml");
    let text = format!("storage:\n  type: filesystem\n  filesystem:\n    path: {}/backups\n", folder.display());
    fs::write(&file, &text).with_context(|| format!("write {}", file.display()))?;
    Ok((file, text))
}

async fn conduct(cli: &Cli) -> Result<()> {
    let mut steps = Steps::new();
    let folder = Folder::new()?;

    steps.next("A MongoDB of its own: one mongod, as a replica set, in a temporary folder.");
    let place = Place { folder: folder.path().join("rs0"), rs: "rs0".to_owned(), role: Role::Alone };
    let server = Mongod::start(&cli.mongod, &place).await?;
    println!("   It listens on {}.", server.address());
    let client = server.client().await?;

    steps.next(
        "The agent, which does the work. One runs beside every mongod. The command line is a link to the same file.",
    );
    let programs = Programs::new(folder.path().join("bin"), server.uri())?;
    println!("  $ export PBM_MONGODB_URI='{}'\n  $ pbm-agent &", programs.uri);
    let mut agent = Agent::start(&programs.agent(), &programs.uri, folder.path().join("agent.log"))?;
    let agents = client.database("admin").collection::<Document>("pbmAgents");
    agent.wait_for(async || agents.find_one(doc! {}).await.ok().flatten()).await?;

    steps.next("Some data: a shop with orders, their indexes, a view and a time series.");
    shop::fill(&client).await?;
    let before = shop::Summary::read(&client).await?;
    println!("   {} documents in {} collections.", before.documents, before.collections);

    steps.next("Where backups go: one file of settings, once per cluster.");
    configure(&programs, folder.path()).await?;

    steps.next("A backup. It is consistent although writes may go on: it contains the oplog of its own duration.");
    programs.show(&["backup", "--wait"]).await?;
    programs.show(&["list"]).await?;

    steps.next("The accident: the whole database is dropped.");
    shop::drop_all(&client).await?;

    steps.next("The restore.");
    programs.show(&["restore", &programs.last_backup().await?, "--wait", "--yes"]).await?;

    steps.next("Is everything back?");
    let after = shop::Summary::read(&client).await?;
    ensure!(before == after, "the restored data differs:\n{before:?}\n{after:?}");
    println!(
        "   Yes: {} documents in {} collections, every byte and every index as before.",
        after.documents, after.collections
    );
    steps.end();
    println!("The sandbox took {:.1} s.", steps.begun.elapsed().as_secs_f32());

    if cli.keep {
        println!("\nIt stays until Ctrl-C. In another terminal:");
        println!("  export PBM_MONGODB_URI='{}' PATH='{}':$PATH", programs.uri, programs.folder.display());
        println!("  pbm status");
        println!("The agent's log: {}", agent.log().display());
        std::future::pending::<()>().await;
    }
    println!("Everything is removed again. Run it with --keep to play with the sandbox.");
    Ok(())
}

async fn configure(programs: &Programs, folder: &Path) -> Result<()> {
    let (file, text) = settings(folder)?;
    text.lines().for_each(|line| println!("    {line}"));
    programs.show(&["config", "--file", &file.display().to_string(), "--wait"]).await
}
