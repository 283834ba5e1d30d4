//! `pbm serve`: a read-only server on the data of a backup, until Ctrl-C or for one command.

use super::source::{Found, Source, replset};
use crate::cli::signals;
use crate::cmd::io::{
    error::{CliError, Kind, Result},
    output::{Format, Report},
    selection::{self, Namespaces},
    times,
};
use crate::{
    datafiles::{program::Program, server::Server},
    model::backup::BackupMeta,
    restore::plan::{PointInTime, moment, slices},
    serve::{self, Folder, Wish},
    storage::Storage,
    upkeep::contents::inventory,
};
use anyhow::Context as _;
use bson::Timestamp;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// The variable with the address, for the command of --exec.
const URI: &str = "PBM_SERVE_URI";

/// Look into a backup: a read-only server on a copy of it, at its end or at a later moment
///
/// Nothing in the cluster changes. The data is copied into a temporary folder, where a mongod is started on it; both are removed at
/// the end, which is Ctrl-C, or the end of the command of --exec.
///
/// The server has no access control, so by default it only listens on a socket that nobody but you can open.
/// No cluster is needed with --dir or --config.
#[derive(Debug, Args)]
pub struct Serve {
    /// Name of the backup
    #[arg(value_name = "BACKUP", value_parser = selection::name)]
    backup_name: String,
    /// Serve the data of this moment: the backup, and the saved oplog behind it
    #[arg(long, value_name = "TIME", value_parser = times::parse, allow_hyphen_values = true)]
    time: Option<Timestamp>,
    #[command(flatten)]
    ns: Namespaces,
    #[command(flatten)]
    source: Source,
    /// The replica set, of a backup that has several
    #[arg(long, value_name = "NAME")]
    replset: Option<String>,
    /// The server to start, of a version that can restore the backup
    #[arg(long, value_name = "PATH")]
    mongod: Option<String>,
    /// Where the temporary folder is made. It needs room for the data
    #[arg(long, value_name = "PATH", default_value_os_t = std::env::temp_dir(), hide_default_value = true)]
    folder: PathBuf,
    /// Also listen on this port of 127.0.0.1. Everybody on this host can read the data then
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Run this command, then end. It gets the address in PBM_SERVE_URI, and as its last argument if it does not name that
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
}

/// Where the data can be read.
#[derive(Debug, Serialize)]
struct Serving {
    backup: String,
    replset: String,
    uri: String,
}

impl Report for Serving {
    fn text(&self) -> String {
        format!("Backup {} can be read until Ctrl-C:\n  mongosh '{}'", self.backup, self.uri)
    }

    fn is_prose(&self) -> bool {
        false
    }
}

impl Serve {
    /// Runs the subcommand; connects only if the storage has to be asked for.
    pub async fn run(self, uri: Option<&str>, format: Format) -> Result<()> {
        let cancel = CancellationToken::new();
        // Both end with the folder: the server first.
        let folder = Folder::new(&self.folder)?;
        let (mut server, served) = tokio::select! {
            started = self.start(uri, format, &folder, &cancel) => started?,
            heard = signals::end() => {
                cancel.cancel();
                heard?;
                return Err(CliError::new(Kind::Interrupted, "interrupted: nothing was served"));
            }
        };
        if let Some(command) = &self.exec {
            return execute(command, &served.uri).await;
        }
        format.print(&served);
        tokio::select! {
            status = server.ended() => {
                let status = status.context("wait for the server")?;
                Err(server.explain(anyhow::anyhow!("the server ended with {status}")).into())
            }
            heard = signals::end() => Ok(heard?),
        }
    }

    async fn start(
        &self,
        uri: Option<&str>,
        format: Format,
        folder: &Folder,
        cancel: &CancellationToken,
    ) -> Result<(Server, Serving)> {
        let selection = self.ns.selection()?;
        let Found { store, backup } = self.source.find(&self.backup_name, uri, format).await?;
        let replset = replset(&backup, self.replset.as_deref())?;
        let point = match self.time {
            Some(target) => Some(point(store.as_ref(), &backup, &replset, target).await?),
            None => None,
        };
        let program = Program::find(self.mongod.as_deref(), None).await;
        let program = program.map_err(|error| CliError::from(error).hint("give the path of a mongod with --mongod"))?;
        let what = point.as_ref().map_or_else(String::new, |point| format!(", {}", slices::moment(point.target)));
        format.note(&format!("Copying backup {}{what} for mongod {}", backup.name, program.version()));
        let name = backup.name.clone();
        let wish = Wish { backup, rs: replset.clone(), selection, point };
        let server = serve::start(store, wish, &program, folder, self.port, cancel).await?;
        let local = |port| format!("mongodb://127.0.0.1:{port}/?directConnection=true");
        let uri = self.port.map_or_else(|| server.uri(), local);
        Ok((server, Serving { backup: name, replset, uri }))
    }
}

/// The oplog up to the moment.
async fn point(store: &dyn Storage, backup: &BackupMeta, rs: &str, target: Timestamp) -> Result<PointInTime> {
    let own = BackupMeta {
        replsets: backup.replsets.iter().filter(|part| part.name == rs).cloned().collect(),
        ..backup.clone()
    };
    let chunks: Vec<_> = inventory::chunks(store).await?.iter().filter(|chunk| chunk.rs == rs).collect();
    let obstacles = moment::obstacles(&own, &chunks, target);
    if !obstacles.is_empty() {
        return Err(CliError::refused(format!("this moment can't be served: {}", obstacles.join("; "))));
    }
    Ok(PointInTime { target, chunks })
}

/// Runs the command of the user in a shell. Ctrl-C reaches it, and it decides what that means.
async fn execute(command: &str, uri: &str) -> Result<()> {
    let text = if command.contains(URI) { command.to_owned() } else { format!("{command} \"${URI}\"") };
    let mut shell = Command::new("sh");
    shell.args(["-c", &text]).env(URI, uri).kill_on_drop(true);
    let mut shell = shell.spawn().context("start a shell for the command of --exec")?;
    let mut interrupts = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let status = loop {
        tokio::select! {
            status = shell.wait() => break status.context("wait for the command of --exec")?,
            _ = interrupts.recv() => {}
            _ = terminate.recv() => return Err(CliError::new(Kind::Interrupted, "interrupted: the command of --exec was ended")),
        }
    };
    if !status.success() {
        return Err(CliError::failed(format!("the command of --exec ended with {status}")));
    }
    Ok(())
}
