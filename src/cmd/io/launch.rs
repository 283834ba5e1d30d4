//! The beginning and end that all command lines have in common.

use super::{
    error::{CliError, Result},
    output::{self, Format},
    physical,
};
use crate::cli::{pages, pflag};
use crate::cmd::{format_of, misused};
use anyhow::Context as _;
use clap::Parser;
use std::{ffi::OsString, io::Write, process::ExitCode};

/// Parses the arguments of a command line, which may know more than `P` does, and starts; help and mistakes end here.
pub fn parsed<P: Parser>(
    command: clap::Command,
    args: Vec<OsString>,
    start: impl FnOnce(P) -> (Format, Result<()>),
) -> ExitCode {
    let wished = format_of(&args);
    if args.len() == 1 {
        output::line(command.clone().render_help().to_string().trim_end());
        return ExitCode::SUCCESS;
    }
    let args = pflag::asks_for_help(&command, &args).unwrap_or(args);
    let at = pflag::subcommand_at(&command, &args);
    let read = pflag::read(command, args).and_then(|matches| match physical::refuse(&matches) {
        Ok(()) => P::from_arg_matches(&matches).map(Ok),
        Err(refused) => Ok(Err(refused)),
    });
    let cli = match read {
        Ok(Ok(cli)) => cli,
        Ok(Err(refused)) => return refused.report(wished),
        Err(error) if !error.use_stderr() => {
            // Help. Nothing can be done about a closed stdout.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return misused(&error, &at).report(wished),
    };
    match start(cli) {
        (_, Ok(())) => ExitCode::SUCCESS,
        (format, Err(error)) => error.report(format),
    }
}

/// Runs the rest of a command line.
pub fn on_runtime(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")?;
    let result = runtime.block_on(work);
    // Neither waited for nor dropped: a question that nobody answers must not keep the process, and the driver's tasks
    // panic when their runtime goes away below them. The process ends now anyway.
    std::mem::forget(runtime);
    result
}

/// Prints a completion script.
pub fn completion(shell: &str, command: clap::Command) -> Result<()> {
    let script = pages::completion(shell, command).map_err(CliError::usage)?;
    // A reader that has gone away needs no script.
    let _ = std::io::stdout().write_all(&script);
    Ok(())
}
