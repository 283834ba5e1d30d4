//! The command line of the daemon, its start and its end.

use super::{
    dispatch::Dispatcher, heartbeat, logbook, naming, node::Node, reap, reload::Reload, service, settings::Given,
    slicer,
};
use crate::backup::physical::place;
use crate::cli::pages;
use crate::cli::pflag;
use crate::config::resolved::Resolved;
use crate::control::{Control, Place};
use crate::log::{DbSink, Log, last_words};
use crate::model::{build, names::PBM_VERSION};
use crate::mongo::{self, Purpose, admin::explain, capabilities::Capabilities, code, login};
use crate::operation::node_lock;
use crate::preflight::grants;
use crate::topo::cluster::connect_leader;
use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches as _, Parser, Subcommand};
use futures::future::BoxFuture;
use std::{ffi::OsString, io::Write as _, process::ExitCode, sync::Arc, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The backup agent: runs beside one mongod, follows the commands of `pbm`, and does the work.
///
/// Start one for every mongod of the cluster (not for mongos or arbiters), each with the connection string of its own
/// mongod.
#[derive(Debug, Parser)]
#[command(name = "pbm-agent", version = build::SHORT)]
struct Args {
    #[command(flatten)]
    given: Given,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Print the version.
    Version {
        /// Only the number.
        #[arg(short, long)]
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

/// Exit code for wrong arguments.
const USAGE: u8 = 2;
/// Exit code for settings or a cluster that an agent can't work with (EX_CONFIG of sysexits.h): starting the agent
/// again does not help. The agent never ends by itself for any other reason.
const SETTINGS: u8 = 78;

/// Returns the description of the command line, for completion and help.
#[must_use]
pub fn command() -> clap::Command {
    pages::with_examples(
        Args::command(),
        &[
            ("", &["pbm-agent --mongodb-uri 'mongodb://pbm:secret@localhost:27017'"]),
            ("version", &["pbm-agent version --short"]),
            ("completion", &["source <(pbm-agent completion bash)"]),
        ],
    )
}

/// Runs the agent until a signal; returns its exit code.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let read = pflag::read(command(), args).and_then(|matches| Args::from_arg_matches(&matches));
    let args = match read {
        Ok(args) => args,
        Err(error) => {
            if error.use_stderr() {
                last_words(pflag::plain_words(&error.render().to_string()).trim_end());
                return ExitCode::from(USAGE);
            }
            // A closed stdout can't be reported anywhere.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
    };
    let done = match &args.command {
        Some(Sub::Version { short, commit, format }) => {
            let build = build::current();
            let text = match (short, commit) {
                (_, true) => Ok(build.git_commit.to_owned()),
                (true, _) => Ok(build.version.to_owned()),
                _ if format == "json" => serde_json::to_string_pretty(&build).context("write the version"),
                _ => Ok(build::text(&build)),
            };
            // If the reader of stdout has ended, nobody needs the version.
            text.map(|text| drop(writeln!(std::io::stdout(), "{text}")))
        }
        Some(Sub::Completion { shell }) => {
            // If the reader of stdout has ended, nobody needs the script.
            let script = pages::completion(shell, command()).map_err(anyhow::Error::msg);
            script.map(|script| drop(std::io::stdout().write_all(&script)))
        }
        None => start(args.given),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            last_words(&format!("Error: {}", explain(&error)));
            ExitCode::from(SETTINGS)
        }
    }
}

fn start(given: Given) -> Result<()> {
    let settings = given.settle()?;
    let uri = settings.uri.clone().context(
        "no connection string: give --mongodb-uri, set PBM_MONGODB_URI, or write mongodb-uri into the file of --config; it is \
         the address of this agent's mongod, such as mongodb://user:password@localhost:27017",
    )?;
    let log = Log::install(&settings.log)?;
    for remark in &settings.remarks {
        tracing::warn!("{remark}");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")?;
    runtime.block_on(async {
        let stop = stop_on_signal()?;
        let background = CancellationToken::new();
        let parallel = settings.parallel.map(usize::from);
        tokio::spawn(Reload::new(given, settings, log.clone())?.follow(background.clone()));
        tokio::spawn(service::watchdog(background.clone()));
        let served = serve(uri, parallel, log.lines, stop).await;
        background.cancel();
        served
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
                service::stopping();
                token.cancel();
            }
        }
    });
    Ok(stop)
}

/// Runs the agent until it is stopped. After work without a database it connects anew.
async fn serve(uri: String, parallel: Option<usize>, lines: DbSink, stop: CancellationToken) -> Result<()> {
    loop {
        let Some(work) = serve_once(&uri, parallel, lines.clone(), &stop).await? else { return Ok(()) };
        service::ready("replacing the data files; mongod is down meanwhile");
        work.await;
    }
}

/// Connects, sets up, starts all tasks, and at the end waits for running operations. Returns work that has to be done
/// without a database.
async fn serve_once(
    uri: &str,
    parallel: Option<usize>,
    lines: DbSink,
    stop: &CancellationToken,
) -> Result<Option<BoxFuture<'static, ()>>> {
    tracing::info!("pbm-agent {} (formats of {PBM_VERSION}), pid {}", env!("CARGO_PKG_VERSION"), std::process::id());
    let Some((node, place)) = connect(uri, parallel, &lines, stop).await? else { return Ok(None) };
    let stop = node.handover.leave();
    let node = Arc::new(node);
    let serving = format!("serving {} of replica set {}, MongoDB {}", node.me(), node.rs, node.version.server);
    tracing::info!("{serving}");
    let able = Capabilities::read(&node.version.server, &node.version.fcv);
    if let Some(remark) = able.and_then(|able| able.remark()) {
        tracing::warn!("MongoDB {} is {remark}", node.version.server);
    }
    service::ready(&serving);

    clear_copies(&node).await;
    // There are two groups of tasks. The operations end first, and then the tasks that operations need to end well.
    let background = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn({
        let (bell, stop) = (node.control.bell.clone(), background.clone());
        async move { bell.follow(stop).await }
    });
    let book = tasks.spawn(logbook::write(node.clone(), lines, background.clone()));
    tasks.spawn(heartbeat::keep(node.clone(), background.clone()));
    tasks.spawn(reap::keep(node.clone(), background.clone()));
    tasks.spawn(naming::keep(node.clone(), stop.clone()));

    tokio::join!(Dispatcher::new(node.clone()).run(place, stop.clone()), slicer::keep(node.clone(), stop));

    background.cancel();
    tasks.close();
    let me = node.me();
    let leave = node.control.agents.remove(&node.rs, &me);
    match tokio::time::timeout(Duration::from_secs(5), leave).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("{}", explain(&error)),
        Err(_) => tracing::warn!("the control collections did not answer; this agent's line stays until it is stale"),
    }
    // The time is limited, because an unreachable database must not keep the process alive.
    let _ = tokio::time::timeout(Duration::from_secs(5), book).await;
    let _ = tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await;
    Ok(node.handover.take())
}

/// After this time without an answer from the server, the agent counts as started.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tries to connect until it succeeds, because mongod may start after the agent. Returns `None` if the agent is stopped
/// before.
///
/// # Errors
/// An error that does not go away by waiting: an unusable connection string, a router, or a standalone server.
async fn connect(
    uri: &str,
    parallel: Option<usize>,
    lines: &DbSink,
    stop: &CancellationToken,
) -> Result<Option<(Node, Place)>> {
    let mut pause = Duration::from_millis(500);
    let mut denied: Option<Instant> = None;
    let mut looked = false;
    loop {
        // First of all: a locked member may be the reason why there is no primary to connect to.
        looked = looked || unlock_own(uri).await;
        let attempt = async {
            let (leader, _) = connect_leader(uri, "pbm-agent").await?;
            let control = Control::new(leader.clone());
            let node = Node::connect(uri, leader, parallel, lines.clone(), stop).await?;
            if let Some(why) = node.lacks_majority().await {
                tracing::warn!("{why}");
            }
            control.set_up().await?;
            // This comes before the agent's document exists: a process that sees the document can rely on the agent to
            // take commands.
            let place = control.commands.end().await?;
            anyhow::Ok((node, place))
        };
        let patient = async {
            tokio::pin!(attempt);
            if let Ok(done) = tokio::time::timeout(PATIENCE, &mut attempt).await {
                return done;
            }
            // The agent runs and keeps trying. The service manager should not have to wait for mongod.
            service::ready("waiting for mongod to answer");
            attempt.await
        };
        let result = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            result = patient => result,
        };
        match result {
            Ok(ready) => return Ok(Some(ready)),
            // Only errors from a server or the network can go away. The agent's own errors concern the set-up itself.
            Err(error) if error.chain().any(|cause| cause.is::<mongodb::error::Error>()) && !is_refusal(&error) => {
                let waiting = format!("can't work yet: {}; trying again", explain(&error));
                tracing::warn!("{waiting}");
                service::ready(&waiting);
                if is_denial(&error) && denied.is_none_or(|at| at.elapsed() >= REPEAT) {
                    denied = Some(Instant::now());
                    if let Some(lacks) = lacks(uri).await {
                        tracing::warn!("{lacks}");
                    }
                }
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
        }
    }
}

/// Unlocks the node if a physical backup of an earlier run left it locked. Returns whether the node could be asked.
async fn unlock_own(uri: &str) -> bool {
    let asked = async {
        let client = mongo::connect(uri, Purpose::Node { app: "pbm-agent" }).await?;
        node_lock::unlock_own(&client).await
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(unlocked)) => {
            if unlocked {
                tracing::warn!("this node was still locked by a physical backup of an earlier run; it is unlocked now");
            }
            true
        }
        Ok(Err(error)) => {
            tracing::debug!("look whether this node is locked: {}", explain(&error));
            false
        }
        Err(_) => false,
    }
}

/// Removes copies of data files that an earlier run left. No operation has begun yet.
async fn clear_copies(node: &Node) {
    let cleared = async {
        let config = node.control.config.main().await?.unwrap_or_default();
        place::clear_spool(&node.client, &Resolved::of(&config).backup.physical, &node.me()).await
    };
    match cleared.await {
        Ok(0) => {}
        Ok(removed) => tracing::info!("removed {removed} copies of data files that an earlier run left"),
        // Most agents can't see the files of their node, or need not.
        Err(error) => tracing::debug!("look for old copies of data files: {}", explain(&error)),
    }
}

/// How often the missing privileges are reported again while the agent can't work without them.
const REPEAT: Duration = Duration::from_secs(60);

/// Whether the server refused the call because the user lacks a privilege.
fn is_denial(error: &anyhow::Error) -> bool {
    error.chain().find_map(|cause| cause.downcast_ref()).and_then(code::code) == Some(code::UNAUTHORIZED)
}

/// Returns the privileges that this agent's user lacks, with the command that grants them. Returns `None` if they can't
/// be read.
async fn lacks(uri: &str) -> Option<String> {
    let asked = async {
        let client = mongo::connect(uri, Purpose::Node { app: "pbm-agent" }).await?;
        login::login(&client).await
    };
    let login = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
    // The shards are not known yet.
    grants::complaint(&login, grants::Asked::default())
}

/// Whether the error is a wrong password or an unusable connection string, which does not go away by waiting.
fn is_refusal(error: &anyhow::Error) -> bool {
    use mongodb::error::ErrorKind;
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<mongodb::error::Error>())
        .any(|e| matches!(e.kind.as_ref(), ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. }))
}
