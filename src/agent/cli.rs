//! Arguments, start and end of the daemon.

use super::{beat, dispatch::Dispatcher, logbook, node::Node, reap, slicer};
use crate::control::Place;
use crate::log::{self, DbSink, Level, LogOptions};
use crate::model::{build, names::PBM_VERSION};
use crate::pages;
use crate::topo::cluster::connect_leader;
use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use std::{ffi::OsString, io::Write as _, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The backup agent: runs beside one mongod, follows the commands of `pbm`, and does the work.
///
/// Start one for every mongod of the cluster (not for mongos or arbiters), each with the connection string of its own
/// mongod.
#[derive(Debug, Parser)]
#[command(name = "pbm-agent", version = PBM_VERSION, disable_version_flag = true)]
struct Args {
    /// Connection string of this agent's mongod.
    #[arg(long, env = "PBM_MONGODB_URI", value_name = "URI", hide_env_values = true)]
    mongodb_uri: Option<String>,
    /// Collections dumped at once, unless a backup says otherwise; half the cores by default.
    #[arg(long, env = "PBM_DUMP_PARALLEL_COLLECTIONS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    dump_parallel_collections: Option<u16>,
    /// File to append the log to; stderr by default.
    #[arg(long, env = "LOG_PATH", value_name = "FILE")]
    log_path: Option<PathBuf>,
    /// Write the log as one JSON object a line.
    #[arg(long, env = "LOG_JSON")]
    log_json: bool,
    /// Least severe level that is written: D, I, W, E or F.
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL", default_value = "D")]
    log_level: Level,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Print the version.
    Version {
        /// Only the number.
        #[arg(short, long, conflicts_with = "commit")]
        short: bool,
        /// Only the commit.
        #[arg(short, long)]
        commit: bool,
        /// json, or text.
        #[arg(long, value_parser = ["json", "text", ""], default_value = "text", hide_possible_values = true)]
        format: String,
    },
    /// Write a completion script for a shell.
    Completion {
        #[arg(value_parser = pages::SHELLS)]
        shell: String,
    },
}

/// The command line as data, for completion and help.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs the agent until a signal; returns its exit code.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Nothing can be done about a closed stderr.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let done = match &args.command {
        Some(Sub::Version { short, commit, format }) => {
            let build = build::current();
            let text = match (short, commit) {
                (true, _) => Ok(build.version.to_owned()),
                (_, true) => Ok(build.git_commit.to_owned()),
                _ if format == "json" => serde_json::to_string_pretty(&build).context("write the version"),
                _ => Ok(build::text(&build)),
            };
            // A reader that has gone away needs no version.
            text.map(|text| drop(writeln!(std::io::stdout(), "{text}")))
        }
        Some(Sub::Completion { shell }) => {
            // A reader that has gone away needs no script.
            let script = pages::completion(shell, command()).map_err(anyhow::Error::msg);
            script.map(|script| drop(std::io::stdout().write_all(&script)))
        }
        None => start(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> Result<()> {
    let uri = args.mongodb_uri.clone().context(
        "no connection string: give --mongodb-uri or set PBM_MONGODB_URI to the address of this agent's mongod, such as \
         mongodb://user:password@localhost:27017",
    )?;
    let lines = log::install(&LogOptions { path: args.log_path, json: args.log_json, level: args.log_level })?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")?;
    let parallel = args.dump_parallel_collections.map(usize::from);
    runtime.block_on(async {
        let stop = stop_on_signal()?;
        serve(uri, parallel, lines, stop).await
    })
}

fn stop_on_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let token = stop.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
            if token.is_cancelled() {
                tracing::warn!("{name} again: still ending the running operations");
            } else {
                tracing::info!("{name}: ending");
                token.cancel();
            }
        }
    });
    Ok(stop)
}

/// The agent's life: connect, set up, supervise, drain.
async fn serve(uri: String, parallel: Option<usize>, lines: DbSink, stop: CancellationToken) -> Result<()> {
    tracing::info!("pbm-agent {} (formats of {PBM_VERSION}), pid {}", env!("CARGO_PKG_VERSION"), std::process::id());
    let Some((node, place)) = connect(&uri, parallel, &lines, &stop).await? else { return Ok(()) };
    let node = Arc::new(node);
    tracing::info!("serving {} of replica set {}, MongoDB {}", node.me, node.rs, node.version.server);

    // Two circles: operations end first, then what they need to end well.
    let background = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn({
        let (bell, stop) = (node.control.bell.clone(), background.clone());
        async move { bell.follow(stop).await }
    });
    let book = tasks.spawn(logbook::write(node.clone(), lines, background.clone()));
    tasks.spawn(beat::keep(node.clone(), background.clone()));
    tasks.spawn(reap::keep(node.clone(), background.clone()));

    tokio::join!(Dispatcher::new(node.clone()).run(place, stop.clone()), slicer::keep(node.clone(), stop));

    background.cancel();
    tasks.close();
    let leave = node.control.agents.remove(&node.rs, &node.me);
    match tokio::time::timeout(Duration::from_secs(5), leave).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("{error:#}"),
        Err(_) => tracing::warn!("the control collections did not answer; this agent's line stays until it is stale"),
    }
    // Bounded: a database that is away must not keep the process.
    let _ = tokio::time::timeout(Duration::from_secs(5), book).await;
    let _ = tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await;
    Ok(())
}

/// Connects, for as long as it takes: mongod may start after us. `None` when stopped before that.
///
/// # Errors
/// What no waiting can heal: a connection string that can't be used, a router, a standalone server.
async fn connect(
    uri: &str,
    parallel: Option<usize>,
    lines: &DbSink,
    stop: &CancellationToken,
) -> Result<Option<(Node, Place)>> {
    let mut pause = Duration::from_millis(500);
    loop {
        let attempt = async {
            let (leader, _) = connect_leader(uri, "pbm-agent").await?;
            let node = Node::connect(uri, leader, parallel, lines.clone()).await?;
            node.control.set_up().await?;
            // Before this agent's line is there: whoever sees the line can rely on it that commands are taken.
            let place = node.control.commands.end().await?;
            anyhow::Ok((node, place))
        };
        let result = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            result = attempt => result,
        };
        match result {
            Ok(ready) => return Ok(Some(ready)),
            // Only errors that come from a server or the network may pass; ours are about the set-up itself.
            Err(error) if error.chain().any(|cause| cause.is::<mongodb::error::Error>()) && !is_refusal(&error) => {
                tracing::warn!("can't work yet: {error:#}; trying again");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
        }
    }
}

/// Wrong credentials or an unusable string do not heal by waiting.
fn is_refusal(error: &anyhow::Error) -> bool {
    use mongodb::error::ErrorKind;
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<mongodb::error::Error>())
        .any(|e| matches!(e.kind.as_ref(), ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. }))
}
