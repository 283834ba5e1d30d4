//! `pbmbox sandbox`: a private MongoDB, an agent, a backup, an accident and a restore, explained while they happen.
//!
//! `dev/quickstart.sh` builds the program, fetches a mongod and calls this. Everything is in one temporary folder, which is
//! removed at the end, also after Ctrl-C.

mod processes;
mod shop;

use crate::cli::signals;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use mongodb::bson::{Document, doc};
use processes::{Agent, Folder, Mongod};
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

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
                done = conduct(&cli) => done.map(|()| ExitCode::SUCCESS),
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

/// The program under its names, and the address that the command line is given.
struct Programs {
    folder: PathBuf,
    uri: String,
}

impl Programs {
    /// Links to this executable in `folder`.
    fn new(folder: PathBuf, uri: String) -> Result<Self> {
        let own = std::env::current_exe().context("find the path of this executable")?;
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        for name in ["pbm", "pbm-agent"] {
            symlink(&own, folder.join(name)).with_context(|| format!("link {name} in {}", folder.display()))?;
        }
        Ok(Self { folder, uri })
    }

    fn pbm(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.folder.join("pbm"));
        command.env("PBM_MONGODB_URI", &self.uri).args(args).kill_on_drop(true);
        command
    }

    /// Shows a command as a user types it, runs it, and shows its output.
    async fn show(&self, args: &[&str]) -> Result<()> {
        println!("\n  $ pbm {}", args.join(" "));
        let done = self.pbm(args).output().await.context("run pbm")?;
        for line in String::from_utf8_lossy(&done.stderr).lines().chain(String::from_utf8_lossy(&done.stdout).lines()) {
            println!("    {line}");
        }
        ensure!(done.status.success(), "pbm {} failed with {}", args.join(" "), done.status);
        Ok(())
    }

    async fn last_backup(&self) -> Result<String> {
        let list = self.pbm(&["list", "-o", "json"]).output().await.context("run pbm list")?;
        let list: serde_json::Value = serde_json::from_slice(&list.stdout).context("read the output of pbm list")?;
        Ok(list["snapshots"][0]["name"].as_str().context("pbm list shows no backup")?.to_owned())
    }
}

async fn conduct(cli: &Cli) -> Result<()> {
    let mut steps = Steps::new();
    let folder = Folder::new()?;

    steps.next("A MongoDB of its own: one mongod, as a replica set, in a temporary folder.");
    let server = Mongod::start(&cli.mongod, folder.path()).await?;
    println!("   It listens on {}.", server.address());
    let client = server.client().await?;

    steps.next(
        "The agent, which does the work. One runs beside every mongod. The command line is a link to the same file.",
    );
    let programs = Programs::new(folder.path().join("bin"), server.uri())?;
    println!("  $ export PBM_MONGODB_URI='{}'\n  $ pbm-agent &", programs.uri);
    let mut agent = Agent::start(&programs.folder.join("pbm-agent"), &programs.uri, folder.path().join("agent.log"))?;
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
    let file = folder.join("pbm.yaml");
    let settings = format!("storage:\n  type: filesystem\n  filesystem:\n    path: {}/backups\n", folder.display());
    fs::write(&file, &settings).with_context(|| format!("write {}", file.display()))?;
    settings.lines().for_each(|line| println!("    {line}"));
    programs.show(&["config", "--file", &file.display().to_string(), "--wait"]).await
}
