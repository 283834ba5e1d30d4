//! `pbm`: what people and their scripts use. It asks and shows; the agents do the work.
//!
//! A subcommand's file holds its arguments (their comments are the help), and one function that checks, acts and
//! returns what is printed. Results go to stdout, everything else to stderr; with a JSON format stdout holds exactly
//! one JSON value, errors included. [`io::error::CODES`] says how an error exits.

pub(crate) mod act;
pub(crate) mod follow;
pub(crate) mod io;
pub(crate) mod show;

use crate::model::build;
use clap::{
    CommandFactory, Parser, Subcommand,
    builder::{EnumValueParser, TypedValueParser as _, ValueParser},
};
use io::context::Context;
use io::error::{CliError, Result};
use io::output::{Format, Outlet};
use std::{ffi::OsString, process::ExitCode};

pub(crate) fn format_parser() -> ValueParser {
    ValueParser::new(EnumValueParser::<Format>::new().map(Outlet::Format))
}

/// The group of options in the help that every subcommand has.
pub(crate) const GLOBAL: &str = "Global options";

/// Back up and restore MongoDB clusters
#[derive(Debug, Parser)]
#[command(name = "pbm", version = build::SHORT, subcommand_required = true, after_help = io::error::CODES)]
struct Cli {
    /// Connection string of a member of the config servers or of the replica set
    #[arg(long, global = true, help_heading = GLOBAL, env = "PBM_MONGODB_URI", value_name = "URI", hide_env_values = true)]
    mongodb_uri: Option<String>,
    /// Form of the result
    #[arg(short, long, global = true, help_heading = GLOBAL, value_name = "FORMAT", default_value = "text", value_parser = format_parser())]
    out: Outlet,
    /// No progress and no remarks: only the result, and errors
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Config(act::config::ConfigArgs),
    Profile(act::profile::Profile),
    Backup(act::backup::Backup),
    /// Cancel the running backup
    CancelBackup,
    List(show::list::List),
    #[command(alias = "s")]
    Status(show::status::StatusArgs),
    Doctor(show::doctor::Doctor),
    DescribeBackup(show::describe::DescribeBackup),
    Restore(act::restore::Restore),
    OplogReplay(act::oplog_replay::OplogReplay),
    Export(act::export::Export),
    Serve(act::serve::Serve),
    DescribeRestore(show::describe::DescribeRestore),
    DeleteBackup(act::delete::DeleteBackup),
    DeletePitr(act::delete::DeletePitr),
    Cleanup(act::delete::Cleanup),
    Logs(show::logs::Logs),
    Diagnostic(show::diagnostic::Diagnostic),
    Version(show::version::VersionArgs),
    /// Write a completion script for a shell
    Completion {
        #[arg(value_parser = crate::cli::pages::SHELLS)]
        shell: String,
    },
}

/// The command line as data, for completion and help.
#[must_use]
pub fn command() -> clap::Command {
    crate::cli::pages::with_examples(Cli::command(), io::examples::PBM)
}

/// Runs one subcommand; returns the exit code.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    if let Some(kind) = io::names::asked_for(&args) {
        return io::names::print(kind);
    }
    io::launch::parsed(io::physical::known(command()), args, |cli: Cli| (cli.format(), start(cli)))
}

impl Cli {
    fn format(&self) -> Format {
        let format = self.out.format();
        if self.quiet { format.hushed() } else { format }
    }
}

/// Runs the subcommand; the compiler lists those that are missing here.
fn start(cli: Cli) -> Result<()> {
    let to = Connection { format: cli.format(), uri: cli.mongodb_uri };
    match cli.command {
        Command::Config(it) => to.run(async |cx| it.run(cx).await),
        Command::Profile(it) => to.run(async |cx| it.run(cx).await),
        Command::Backup(it) => to.run(async |cx| it.run(cx).await),
        Command::CancelBackup => to.run(async |cx| act::cancel::run(cx).await),
        Command::List(it) => to.run(async |cx| it.run(cx).await),
        Command::Status(it) => to.run(async |cx| it.run(cx).await),
        Command::Doctor(it) => io::launch::on_runtime(async {
            let cx = Context::connect_anyhow(to.uri.as_deref(), to.format).await?;
            it.run(&cx).await
        }),
        Command::DescribeBackup(it) => to.run(async |cx| it.run(cx).await),
        Command::Restore(it) => to.run(async |cx| it.run(cx).await),
        Command::OplogReplay(it) => to.run(async |cx| it.run(cx).await),
        // It may read the backup from a folder, and then needs no server.
        Command::Serve(it) => io::launch::on_runtime(it.run(to.uri.as_deref(), to.format)),
        Command::Export(it) => io::launch::on_runtime(it.run(to.uri.as_deref(), to.format)),
        // It may read the storage, and then needs no server.
        Command::DescribeRestore(it) if it.is_offline() => io::launch::on_runtime(it.run_offline(to.format)),
        Command::DescribeRestore(it) => to.run(async |cx| it.run(cx).await),
        Command::DeleteBackup(it) => to.run(async |cx| it.run(cx).await),
        Command::DeletePitr(it) => to.run(async |cx| it.run(cx).await),
        Command::Cleanup(it) => to.run(async |cx| it.run(cx).await),
        Command::Logs(it) => to.run(async |cx| it.run(cx).await),
        Command::Diagnostic(it) => to.run(async |cx| it.run(cx).await),
        Command::Version(it) => {
            it.run(to.format);
            Ok(())
        }
        Command::Completion { shell } => io::launch::completion(&shell, command()),
    }
}

/// What is needed to connect.
struct Connection {
    uri: Option<String>,
    format: Format,
}

impl Connection {
    /// Connects and runs a subcommand; then warns of documents that could not be read.
    fn run(self, work: impl AsyncFnOnce(&Context) -> Result<()>) -> Result<()> {
        io::launch::on_runtime(async {
            let cx = Context::connect(self.uri.as_deref(), self.format).await?;
            let done = work(&cx).await;
            let unreadable = cx.control.unreadable.named();
            unreadable.iter().for_each(|text| self.format.note(&format!("Warning: {text}")));
            done
        })
    }
}

/// The format that was asked for, for errors in the arguments themselves.
fn format_of(args: &[OsString]) -> Format {
    let texts: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let mut value = texts.iter().enumerate().filter_map(|(at, text)| {
        // Short ones may stand together: -qo json.
        let short = text.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
        match short.and_then(|rest| rest.trim_start_matches('q').strip_prefix('o')) {
            Some("") => texts.get(at + 1).copied(),
            Some(value) => Some(value.strip_prefix('=').unwrap_or(value)),
            None if *text == "--out" => texts.get(at + 1).copied(),
            None => text.strip_prefix("--out="),
        }
    });
    match value.next_back() {
        Some("json") => Format::Json,
        Some("json-pretty") => Format::JsonPretty,
        _ => Format::Text,
    }
}

/// An error in the arguments of the subcommand `at`, such as `pbm backup`, without the usage text that would hide it.
pub(crate) fn misused(error: &clap::Error, at: &str) -> CliError {
    let text = crate::cli::pflag::plain_words(&error.render().to_string());
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = text.find("\n\nUsage:").or_else(|| text.find("\n\nFor more information")).unwrap_or(text.len());
    let (tips, said): (Vec<&str>, Vec<&str>) =
        text[..end].lines().map(str::trim).filter(|line| !line.is_empty()).partition(|line| line.starts_with("tip: "));
    let said: Vec<String> = said.join(" ").split(' ').map(shortened).collect();
    let mut out = CliError::usage(said.join(" "));
    out.hints.extend(tips.iter().map(|tip| tip.trim_start_matches("tip: ").to_owned()));
    out.hint(format!("`{at} --help` shows what can be given"))
}

/// What was given stands in the error, perhaps twice; nobody reads a very long word to its end.
fn shortened(word: &str) -> String {
    const LONGEST: usize = 200;
    const KEPT: usize = 80;
    match word.chars().count() {
        0..=LONGEST => word.to_owned(),
        count => word.chars().take(KEPT).chain(['…']).chain(word.chars().skip(count - KEPT)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_format_is_known_even_when_the_arguments_are_wrong() {
        for (text, format) in [
            ("pbm list -o json", Format::Json),
            ("pbm --out=json-pretty list", Format::JsonPretty),
            ("pbm -ojson nosuch", Format::Json),
            ("pbm -qo json nosuch", Format::Json),
            ("pbm -o=json-pretty nosuch", Format::JsonPretty),
            ("pbm list", Format::Text),
            ("pbm list -o", Format::Text),
            ("pbm -o json list -o text", Format::Text),
        ] {
            assert_eq!(format_of(&args(text)), format, "{text}");
        }
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for text in [
            "pbm backup -t external",
            "pbm backup --ns a",
            "pbm backup --ns admin.*",
            "pbm backup --ns a.b,*",
            "pbm backup --ns-exclude admin.x",
            "pbm backup --with-users-and-roles",
            "pbm restore b --ns a.system.js",
            "pbm restore b --with-users-and-roles",
            "pbm restore b --dry-run --yes",
            "pbm restore b --ns-from a.b",
            "pbm restore b --ns-to a.b",
            "pbm restore b --ns-from a.b --ns-to a.c --ns a.b",
            "pbm profile add main f.yaml",
            "pbm profile add p",
            "pbm profile show",
            "pbm profile remove main",
            "pbm profile sync",
            "pbm profile sync p --all",
            "pbm profile sync main",
            "pbm backup --compression rar",
            "pbm config --include-restores",
            "pbm config --file a --set b=c",
            "pbm config a.key --list",
            "pbm config a.key --effective",
            "pbm config --effective --set a=b",
            "pbm describe-backup ../x",
            "pbm describe-restore ",
            "pbm logs -i xyz",
            "pbm restore b --num-parallel-collections 1025",
            "pbm backup --ns a.$cmd",
            "pbm restore b --time 2026-01-01T00:00:00",
            "pbm restore b --index-commit-quorum 51",
            "pbm restore",
            "pbm list -o yaml",
            "pbm logs -s X",
            "pbm logs --timezone No/Where",
            "pbm status -s everything",
            "pbm doctor --fix",
            "pbm delete-backup",
            "pbm delete-backup b --older-than 1d",
            "pbm delete-backup b --type logical",
            "pbm delete-backup --older-than tomorrow",
            "pbm delete-pitr",
            "pbm delete-pitr --all --older-than 1d",
            "pbm cleanup",
            "pbm cleanup --older-than 1d --failed",
            "pbm export",
            "pbm export b --config a --dir b",
            "pbm export b --ns a.b --with-users-and-roles",
            "pbm serve",
            "pbm serve b --time tomorrow",
            "pbm serve b --port 0",
            "pbm diagnostic --name b",
            "pbm diagnostic --path d",
            "pbm nosuch",
        ] {
            let error = Cli::try_parse_from(args(text)).expect_err(text);
            assert!(!misused(&error, "pbm").source.to_string().is_empty(), "{text}");
        }
    }

    #[test]
    fn the_originals_spellings_are_taken() {
        for text in [
            "pbm backup --wait --wait-time 1h30m -t logical --compression=zstd --compression-level 3 -o json",
            "pbm backup --compression gzip --compression-level -2 --num-parallel-collections 4",
            "pbm config --file - --wait",
            "pbm config --set a=1 --set b=2",
            "pbm config --set a=1,b=2",
            "pbm backup --wait-time 5s --num-parallel-collections 0",
            "pbm list --restore --full --size 0",
            "pbm version -s -c",
            "pbm config --force-resync --include-restores -w",
            "pbm config storage.type",
            "pbm restore b -y -w --num-insertion-workers-per-collection 4 --index-commit-quorum majority",
            "pbm s -s cluster -s running -p",
            "pbm logs -e backup/x -x -f -n rs0 -i 65f000000000000000000000 -s D -t 0 --timezone Local",
            "pbm list --full --unbacked --size 3",
            "pbm describe-backup b --with-collections",
            "pbm delete-backup b -y",
            "pbm delete-backup --older-than 2026-03-01T10:20:30 -t selective --profile main -f",
            "pbm delete-pitr --older-than 30d --force --wait --wait-time 1m",
            "pbm delete-pitr -a --dry-run",
            "pbm cleanup --older-than=1772360430,3 --profile=main -y -w",
            "pbm cleanup --failed --profile p --dry-run",
            "pbm profile",
            "pbm profile list -o json",
            "pbm profile add p - --sync --wait --wait-time 1m",
            "pbm profile show p",
            "pbm profile remove p -w",
            "pbm profile sync p --clear -w",
            "pbm profile sync --all --clear",
            "pbm backup --profile p",
            "pbm list --profile p",
            "pbm status --profile=main",
            "pbm delete-backup b --profile p -y",
            "pbm version -s",
            "pbm doctor -o json",
            "pbm diagnostic --path d --name b --archive",
            "pbm diagnostic --path=d --opid 6b00e96ba335c6b2a98b25e5 -o json",
            "pbm -q backup --wait",
            "pbm config --effective -q -o json",
            "pbm export b --ns a.*,b.c --out - --dir /srv --replset rs0 --gzip --no-oplog",
            "pbm export b -o file -c pbm.yaml --with-users-and-roles",
            "pbm serve b --time 1772360430,3 --ns a.* --port 27018 --mongod /usr/bin/mongod --folder /srv -o json",
            "pbm serve b -c pbm.yaml --replset rs0 --exec mongosh",
        ] {
            assert!(Cli::try_parse_from(args(text)).is_ok(), "{text}");
        }
    }
}
