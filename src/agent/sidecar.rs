//! `pbm-agent-entrypoint`: the first program in a container (docs/features.md 19.8). It runs the agent and forwards
//! signals to it. As a sidecar, it starts the agent again after a crash.

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches as _, Parser, builder::BoolishValueParser};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsString,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use crate::{
    cli::{pages, pflag},
    log::last_words,
    model::build,
};

const AGENT: &str = "pbm-agent";

/// Runs pbm-agent in a container.
///
/// Ends with the agent and its exit code. As a sidecar, an agent that crashed or failed is started again instead, until
/// this program gets SIGTERM or SIGINT, which it hands on.
#[derive(Debug, Parser)]
#[command(name = "pbm-agent-entrypoint", version = build::SHORT, disable_version_flag = true)]
struct Args {
    /// Start the agent again when it fails.
    #[arg(long, env = "PBM_AGENT_SIDECAR", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    sidecar: bool,
    /// Seconds before it is started again.
    #[arg(long, env = "PBM_AGENT_SIDECAR_SLEEP", value_name = "SECONDS", default_value_t = 1)]
    sleep: u32,
    /// pbm-agent and its arguments; the name may be left out.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    agent: Vec<OsString>,
}

/// Returns the description of the command line, for completion and help.
#[must_use]
pub fn command() -> clap::Command {
    pages::with_examples(Args::command(), &[("", &["pbm-agent-entrypoint --sidecar=true"])])
}

/// Runs the agent and returns its exit code.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let read = command().try_get_matches_from(args).and_then(|matches| Args::from_arg_matches(&matches));
    let mut args = match read {
        Ok(args) => args,
        Err(error) => {
            if error.use_stderr() {
                last_words(pflag::plain_words(&error.render().to_string()).trim_end());
                return ExitCode::from(2);
            }
            // A closed stdout can't be reported anywhere.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
    };
    if args.agent.first().is_some_and(|first| first == AGENT) {
        args.agent.remove(0);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the async runtime");
    match runtime.and_then(|runtime| runtime.block_on(supervise(&args))) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn supervise(args: &Args) -> Result<u8> {
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let pause = Duration::from_secs(args.sleep.into());
    let mut ending = false;
    let own = Own::find();
    loop {
        let mut agent = start(own.path(), &args.agent)?;
        let status = loop {
            let signal = tokio::select! {
                status = agent.wait() => break status.context("wait for pbm-agent")?,
                _ = term.recv() => Signal::TERM,
                _ = int.recv() => Signal::INT,
                _ = hangup.recv() => Signal::HUP,
            };
            ending |= signal != Signal::HUP;
            hand_on(&agent, signal);
        };
        if status.success() || ending || !args.sidecar {
            return Ok(code(status));
        }
        eprintln!("pbm-agent-entrypoint: pbm-agent ended with {status}; it is started again in {} s", args.sleep);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = term.recv() => return Ok(code(status)),
            _ = int.recv() => return Ok(code(status)),
        }
    }
}

/// The path of this program, read once at the start. After an upgrade the kernel marks the old file as deleted, but the
/// path then leads to the new program, which is the one to start.
struct Own {
    /// Unknown on systems without /proc.
    file: Option<PathBuf>,
    /// The name with which this program was called.
    name: PathBuf,
}

impl Own {
    fn find() -> Self {
        Self { file: std::env::current_exe().ok(), name: std::env::args_os().next().unwrap_or_default().into() }
    }

    fn path(&self) -> &Path {
        self.file.as_deref().filter(|file| file.exists()).unwrap_or(&self.name)
    }
}

fn start(own: &Path, arguments: &[OsString]) -> Result<Child> {
    let mut command = std::process::Command::new(own);
    command.arg0(AGENT).args(arguments);
    Command::from(command).kill_on_drop(true).spawn().with_context(|| format!("start pbm-agent from {}", own.display()))
}

fn hand_on(agent: &Child, signal: Signal) {
    let pid = agent.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    // An agent that has just ended needs no signal.
    let _ = pid.map(|pid| kill_process(pid, signal));
}

/// Returns the exit code in the form that shells use.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_started_by_the_name_we_were_called_by() {
        for (file, path) in [(Some("/"), "/"), (Some("/nonexistent/pbmbox (deleted)"), "name"), (None, "name")] {
            let own = Own { file: file.map(PathBuf::from), name: "name".into() };
            assert_eq!(own.path(), Path::new(path));
        }
    }
}
