//! `pbmctl`: the front end of the time of the coordinator, for scripts that still call it. What it runs is what `pbm` runs:
//! old arguments are translated, and the new subcommands do the rest.
//!
//! There is no coordinator. What was said to it is said to the database now, and options that only made sense with it are
//! named in a warning, or refused where ignoring them would do something else than was asked for.

mod lists;

use crate::cmd::{
    GLOBAL,
    act::{backup::Backup, restore::Restore},
    format_parser,
    io::{
        context::Context,
        error::{CliError, Result},
        examples, launch,
        output::{Outlet, Report},
    },
    misused,
};
use crate::{
    cli::pages,
    model::{
        backup::BackupType,
        build::{self, Build},
    },
    storages::place,
};
use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Serialize;
use std::{ffi::OsString, path::PathBuf, process::ExitCode};

const NAME: &str = "pbmctl";

/// Commands of the releases before 1.0, for scripts: on today's cluster, without a coordinator
///
/// Give --mongodb-uri or PBM_MONGODB_URI where the address of the coordinator was given. `pbm` can do more.
#[derive(Debug, Parser)]
#[command(name = "pbmctl", version = build::SHORT, subcommand_required = true)]
struct Cli {
    /// Connection string of a member of the config servers or of the replica set
    #[arg(long, global = true, help_heading = GLOBAL, env = "PBM_MONGODB_URI", value_name = "URI", hide_env_values = true)]
    mongodb_uri: Option<String>,
    /// Form of the result
    #[arg(short, long, global = true, help_heading = GLOBAL, value_name = "FORMAT", default_value = "text", value_parser = format_parser())]
    out: Outlet,
    #[command(flatten)]
    retired: Retired,
    #[command(subcommand)]
    command: Command,
}

/// Options of the connection to the coordinator.
#[derive(Debug, Default, Args)]
struct Retired {
    /// Not used any more: settings of the connection to the coordinator
    #[arg(short, long, global = true, help_heading = GLOBAL, env = "PBMCTL_CONFIG_FILE", value_name = "FILE", hide_env_values = true)]
    config_file: Option<PathBuf>,
    /// Not used any more: the database's user decides what is allowed
    #[arg(long, global = true, help_heading = GLOBAL, env = "PBMCTL_API_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    api_token: Option<String>,
    /// Not used any more: there is no coordinator
    #[arg(short, long, global = true, help_heading = GLOBAL, env = "PBMCTL_SERVER_ADDRESS", value_name = "HOST:PORT", hide_env_values = true)]
    server_address: Option<String>,
    /// Not used any more: put compressors=... into the connection string
    #[arg(long, global = true, help_heading = GLOBAL, env = "PBMCTL_SERVER_COMPRESSOR", value_name = "NAME", hide_env_values = true)]
    server_compressor: Option<String>,
    /// Only with a connection string that has tls=true
    #[arg(long, global = true, help_heading = GLOBAL, env = "PBMCTL_TLS", hide_env_values = true)]
    tls: bool,
    /// Only with a connection string that has tlsCAFile=FILE
    #[arg(long, global = true, help_heading = GLOBAL, env = "PBMCTL_TLS_CA_FILE", value_name = "FILE", hide_env_values = true)]
    tls_ca_file: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List nodes, backups or storages
    #[command(subcommand)]
    List(List),
    /// Make a backup or restore one, and wait for the end
    #[command(subcommand)]
    Run(Run),
    /// Print the version
    Version,
    /// Write a completion script for a shell
    Completion {
        #[arg(value_parser = pages::SHELLS)]
        shell: String,
    },
}

#[derive(Debug, Subcommand)]
enum List {
    /// The nodes of the cluster, and what their agents do
    Nodes {
        /// Also the replica sets' IDs
        #[arg(long, env = "PBMCTL_VERBOSE", hide_env_values = true)]
        verbose: bool,
    },
    /// The finished backups, by the names of their metadata files
    Backups,
    /// The storages: the main one and the profiles
    #[command(alias = "storages")]
    Storage,
}

#[derive(Debug, Subcommand)]
enum Run {
    Backup(RunBackup),
    Restore(RunRestore),
}

/// Make a backup, as `pbm backup --wait`
#[derive(Debug, Args)]
struct RunBackup {
    /// A few words about it, which `list backups` shows
    #[arg(long, env = "PBMCTL_DESCRIPTION", value_name = "TEXT", hide_env_values = true)]
    description: String,
    /// Name of the storage: a profile's, or main
    #[arg(long, env = "PBMCTL_STORAGE", value_name = "NAME", hide_env_values = true)]
    storage: String,
    /// logical, or hot for what is called physical now
    #[arg(long, env = "PBMCTL_BACKUP_TYPE", value_name = "TYPE", default_value = "logical", value_parser = ["logical", "hot"], hide_env_values = true)]
    backup_type: String,
    /// none or gzip [default: the configuration's, or s2]
    #[arg(long, env = "PBMCTL_COMPRESSION_ALGORITHM", value_name = "CODEC", value_parser = ["none", "gzip", ""], hide_env_values = true)]
    compression_algorithm: Option<String>,
    /// Refused: backups are not encrypted by this program
    #[arg(long, env = "PBMCTL_ENCRYPTION_ALGORITHM", value_name = "NAME", hide_env_values = true)]
    encryption_algorithm: Option<String>,
}

/// Restore a backup, as `pbm restore --yes --wait`
#[derive(Debug, Args)]
struct RunRestore {
    /// Name of the backup, or of its metadata file as `list backups` shows it
    #[arg(value_name = "METADATA-FILE")]
    metadata_file: String,
    /// Name of the storage that the backup is on: a profile's, or main
    #[arg(long, env = "PBMCTL_STORAGE", value_name = "NAME", hide_env_values = true)]
    storage: String,
    /// Refused: a restore of everything restores users and roles too
    #[arg(long, env = "PBMCTL_SKIP_USERS_AND_ROLES", hide_env_values = true)]
    skip_users_and_roles: bool,
}

/// A command line of `pbm` that an old one is translated to.
#[derive(Debug, Parser)]
#[command(name = "pbm")]
enum Translated {
    Backup(Backup),
    Restore(Restore),
}

/// The command line as data, for completion and manual pages.
#[must_use]
pub fn command() -> clap::Command {
    pages::with_examples(Cli::command(), examples::CTL)
}

/// Runs one command; returns the exit code.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    launch::parsed(command(), args, |cli: Cli| (cli.out.format(), start(cli)))
}

fn start(cli: Cli) -> Result<()> {
    let out = cli.out.format();
    let uri = cli.mongodb_uri.as_deref().filter(|uri| !uri.trim().is_empty());
    let warn = || -> Result<()> {
        cli.retired.check(uri)?.iter().for_each(|warning| out.note(&format!("Warning: {warning}")));
        Ok(())
    };
    match &cli.command {
        Command::Version => {
            out.print(&Version { version: build::current() });
            Ok(())
        }
        Command::Completion { shell } => launch::completion(shell, command()),
        Command::List(list) => {
            warn()?;
            launch::on_runtime(async {
                let cx = Context::connect(uri, out).await?;
                match list {
                    List::Nodes { verbose } => out.print(&lists::nodes(&cx, *verbose).await?),
                    List::Backups => out.print(&lists::backups(&cx).await?),
                    List::Storage => out.print(&lists::storages(&cx).await?),
                }
                Ok(())
            })
        }
        Command::Run(run) => {
            warn()?;
            // Translated before connecting: mistakes need no server.
            let translated = Translated::try_parse_from(run.words()?).map_err(|error| misused(&error, NAME))?;
            launch::on_runtime(async {
                let cx = Context::connect(uri, out).await?;
                if let Run::Restore(it) = run {
                    it.check(&cx).await?;
                }
                match translated {
                    Translated::Backup(it) => it.run(&cx).await,
                    Translated::Restore(it) => it.run(&cx).await,
                }
            })
        }
    }
}

impl Retired {
    /// What is said about options that change nothing any more.
    ///
    /// # Errors
    /// One that would change something, so that it can't be left out in silence.
    fn check(&self, uri: Option<&str>) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        if let Some(address) = &self.server_address {
            if uri.is_none() {
                return Err(CliError::usage(format!(
                    "there is no coordinator any more, so nobody is asked at {address} (--server-address)"
                ))
                .hint("give --mongodb-uri or set PBM_MONGODB_URI to the address of a member of the replica set or of the config servers"));
            }
            warnings.push("--server-address is not used: there is no coordinator, the database is asked".to_owned());
        }
        let encrypted = uri.is_some_and(|uri| has_option(uri, &["tls=true", "ssl=true"]));
        if (self.tls || self.tls_ca_file.is_some()) && uri.is_some() && !encrypted {
            return Err(CliError::usage("--tls asks for encryption, which the connection string does not switch on")
                .hint("add tls=true&tlsCAFile=FILE to the connection string, or leave --tls and --tls-ca-file out"));
        }
        if self.tls_ca_file.is_some() && !uri.is_some_and(|uri| has_option(uri, &["tlscafile="])) {
            warnings.push("--tls-ca-file is not used: name it in the connection string, as tlsCAFile=FILE".to_owned());
        }
        let unused = [
            (self.config_file.is_some(), "--config-file is not read: it told how to reach the coordinator"),
            (self.api_token.is_some(), "--api-token is not used: the database's user decides what is allowed"),
            (
                self.server_compressor.is_some(),
                "--server-compressor is not used: put compressors=zstd or the like into the connection string",
            ),
        ];
        warnings.extend(unused.iter().filter(|(given, _)| *given).map(|(_, warning)| (*warning).to_owned()));
        Ok(warnings)
    }
}

/// Does a connection string have one of these options?
fn has_option(uri: &str, wanted: &[&str]) -> bool {
    let options = uri.split_once('?').map_or("", |(_, options)| options).to_ascii_lowercase();
    options.split('&').any(|option| wanted.iter().any(|wanted| option.starts_with(wanted)))
}

impl Run {
    /// The same as a command line of `pbm`.
    fn words(&self) -> Result<Vec<String>> {
        match self {
            Self::Backup(it) => it.words(),
            Self::Restore(it) => it.words(),
        }
    }
}

impl RunBackup {
    /// The same as a command line of `pbm`.
    fn words(&self) -> Result<Vec<String>> {
        if self.encryption_algorithm.as_ref().is_some_and(|name| !name.is_empty()) {
            return Err(CliError::usage("--encryption-algorithm: this program does not encrypt backups")
                .hint("leave it out, and let the storage encrypt: storage.s3.serverSideEncryption of `pbm config`"));
        }
        let kind = if self.backup_type == "hot" { "physical" } else { "logical" };
        let mut args = vec!["pbm", "backup", "--wait", "--type", kind];
        match self.compression_algorithm.as_deref() {
            None => {}
            Some("gzip") => args.extend(["--compression", "gzip"]),
            Some(_) => args.extend(["--compression", "none"]),
        }
        let mut args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        args.extend([format!("--profile={}", self.storage), format!("--description={}", self.description)]);
        Ok(args)
    }
}

impl RunRestore {
    fn name(&self) -> &str {
        self.metadata_file.strip_suffix(".json").unwrap_or(&self.metadata_file)
    }

    /// The same as a command line of `pbm`.
    fn words(&self) -> Result<Vec<String>> {
        let name = self.name();
        if self.skip_users_and_roles {
            return Err(CliError::usage(
                "--skip-users-and-roles: a restore of everything restores users and roles too",
            )
            .hint(format!("`pbm restore {name} --ns 'DB1.*,DB2.*'` restores databases without users and roles")));
        }
        Ok(["pbm", "restore", "--yes", "--wait", "--", name].map(str::to_owned).to_vec())
    }

    /// The backup is where the script believes it to be. One that is not known is left to `pbm restore`.
    async fn check(&self, cx: &Context) -> Result<()> {
        let Some(backup) = cx.control.backups.get(self.name()).await? else { return Ok(()) };
        let there = place::profile_of(&backup.store).unwrap_or(place::MAIN);
        if there == self.storage || (place::is_main(there) && place::is_main(&self.storage)) {
            return Ok(());
        }
        Err(CliError::usage(format!("backup {} is on the storage {there}, not on {}", backup.name, self.storage))
            .hint(format!("give --storage {there}, or another backup")))
    }
}

/// Kinds of backups that the old front end knew.
fn was_known(kind: BackupType) -> bool {
    kind == BackupType::Logical
}

/// The old five lines; in JSON as `pbm version`.
#[derive(Serialize)]
#[serde(transparent)]
struct Version {
    version: Build,
}

impl Report for Version {
    fn text(&self) -> String {
        let it = &self.version;
        format!(
            "Version   : {}\nCommit    : {}\nBuild     : {}\nBranch    : {}\nGo version: none, Rust {} or later",
            it.version,
            it.git_commit,
            it.build_time,
            it.git_branch,
            env!("CARGO_PKG_RUST_VERSION")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(text.split(' '))
    }

    /// What `pbm` is called with.
    fn translated(text: &str) -> Result<String, String> {
        let Command::Run(run) = parse(text).map_err(|error| error.to_string())?.command else {
            panic!("not a command to translate: {text}")
        };
        let words = run.words().map_err(|error| error.source.to_string())?;
        Translated::try_parse_from(&words).map_err(|error| misused(&error, NAME).source.to_string())?;
        Ok(words.join(" "))
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn old_calls_become_new_ones() {
        for (old, new) in [
            (
                "pbmctl run backup --description d --storage main",
                "pbm backup --wait --type logical --profile=main --description=d",
            ),
            (
                "pbmctl run backup --description=-d --storage s3 --backup-type logical --compression-algorithm gzip",
                "pbm backup --wait --type logical --compression gzip --profile=s3 --description=-d",
            ),
            (
                "pbmctl run backup --description d --storage s --compression-algorithm=none",
                "pbm backup --wait --type logical --compression none --profile=s --description=d",
            ),
            (
                "pbmctl run restore 2019-06-14T10:00:00Z.json --storage s",
                "pbm restore --yes --wait -- 2019-06-14T10:00:00Z",
            ),
            (
                "pbmctl run backup --description d --storage s --backup-type hot",
                "pbm backup --wait --type physical --profile=s --description=d",
            ),
            ("pbmctl -s h:1 run restore b --storage s --tls", "pbm restore --yes --wait -- b"),
        ] {
            assert_eq!(translated(old).as_deref(), Ok(new), "{old}");
        }
    }

    #[test]
    fn what_can_not_be_done_is_refused_by_name() {
        for (old, part) in [
            ("pbmctl run backup --storage s", "--description"),
            ("pbmctl run backup --description d", "--storage"),
            ("pbmctl run backup --description d --storage s --encryption-algorithm aes", "does not encrypt"),
            ("pbmctl run backup --description d --storage s --compression-algorithm lz4", "lz4"),
            ("pbmctl run restore b --storage s --skip-users-and-roles", "--skip-users-and-roles"),
            ("pbmctl run restore b", "--storage"),
        ] {
            assert!(translated(old).is_err_and(|why| why.contains(part)), "{old}");
        }
        for text in ["pbmctl", "pbmctl list", "pbmctl list everything", "pbmctl run"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("pbmctl list storages").is_ok() && parse("pbmctl list nodes --verbose -o json").is_ok());
    }

    #[test]
    fn options_of_the_coordinator_are_answered() {
        let check = |text: &str, uri| {
            let cli = parse(&format!("pbmctl {text} list backups")).expect(text);
            cli.retired.check(uri).map_err(|error| error.source.to_string())
        };
        let (plain, tls) = (Some("mongodb://h/?w=1"), Some("mongodb://h/?w=1&tls=true&tlsCAFile=/ca"));
        assert_eq!(check("--mongodb-uri mongodb://h", plain), Ok(Vec::new()));
        for (text, part) in [
            ("--server-address h:10001", "there is no coordinator"),
            ("-s h:10001", "there is no coordinator"),
            ("--api-token t", "--api-token"),
            ("-c f.yaml", "--config-file"),
            ("--server-compressor gzip", "--server-compressor"),
        ] {
            let said = check(text, plain).expect("a warning");
            assert!(said.len() == 1 && said[0].contains(part), "{text}: {said:?}");
        }
        assert!(check("-s h:10001", None).is_err_and(|why| why.contains("h:10001")));
        assert!(check("--tls", plain).is_err_and(|why| why.contains("encryption")));
        assert!(check("--tls-ca-file /ca", plain).is_err());
        assert_eq!(check("--tls --tls-ca-file /ca", tls), Ok(Vec::new()));
    }

    #[test]
    fn the_version_has_its_five_lines() {
        let text = Version { version: build::current() }.text();
        let labels: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(labels, ["Version   ", "Commit    ", "Build     ", "Branch    ", "Go version"]);
    }
}
