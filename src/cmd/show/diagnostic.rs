//! `pbm diagnostic`: everything that is known about one operation, for somebody who has no access to the cluster.
//!
//! Works where much does not: what can't be read is named in the report and left out. Only the operation itself has to be
//! known. Secrets are hidden in all files, also where log lines quote them.

mod facts;
mod folder;

use super::logs::{Line, Style};
use crate::cmd::io::{
    context::Context,
    error::{CliError, Kind, Result},
    output::Report,
};
use crate::{archive::extjson, config::redact::Secrets, control::LogQuery};
use anyhow::Context as _;
use bson::{Document, oid::ObjectId};
use clap::Args;
use folder::Folder;
use futures::TryStreamExt;
use serde::Serialize;
use std::{io::Write, path::PathBuf, pin::pin};

/// Write all that is known about a backup or restore into files, for support
#[derive(Debug, Args)]
pub struct Diagnostic {
    /// Directory for the files; made if it is missing
    #[arg(long, value_name = "DIR")]
    path: PathBuf,
    /// Name of the backup or restore
    #[arg(long, value_name = "BACKUP", required_unless_present = "opid", conflicts_with = "opid")]
    name: Option<String>,
    /// ID of the operation, as `pbm logs --extra` shows it: of any command, also of a deletion
    #[arg(long, value_name = "OPID")]
    opid: Option<String>,
    /// Also put the files into a zip archive beside them
    #[arg(long)]
    archive: bool,
    /// Replace files of an earlier report on the same operation
    #[arg(long)]
    force: bool,
}

/// An operation and its documents in the control collections, as stored.
#[derive(Debug, Default)]
struct Operation {
    opid: String,
    command: Option<Document>,
    backup: Option<Document>,
    restore: Option<Document>,
}

/// What is printed at the end.
#[derive(Debug, Serialize)]
struct Written {
    msg: String,
    /// *Added by us*.
    files: Vec<String>,
    /// *Added by us*: what could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

impl Report for Written {
    fn text(&self) -> String {
        let files: Vec<String> = self.files.iter().map(|file| format!("  {file}")).collect();
        format!("{}:\n{}", self.msg, files.join("\n"))
    }
}

impl Diagnostic {
    /// Runs the subcommand.
    pub async fn run(self, cx: &Context) -> Result<()> {
        let called = self.name.clone().or_else(|| self.opid.clone()).unwrap_or_default();
        let operation = match (&self.name, &self.opid) {
            (Some(name), _) => by_name(cx, name).await?,
            (None, opid) => by_opid(cx, opid.as_deref().unwrap_or_default()).await?,
        };
        let mut folder = Folder::open(&self.path, &called, self.force)?;
        // Dropped unfinished, the folder removes what is in it by then.
        tokio::select! {
            missing = self.write(cx, &operation, &mut folder) => {
                let missing = missing?;
                missing.iter().for_each(|part| cx.out.note(&format!("Warning: not in the report: {part}")));
                let files = folder.keep();
                let msg = format!("The report on {called} is in {}", self.path.display());
                cx.out.print(&Written { msg, files, missing });
                Ok(())
            }
            _ = tokio::signal::ctrl_c() => Err(CliError::new(Kind::Interrupted, "interrupted: no report was written")),
        }
    }

    /// Writes all files; returns what could not be read.
    async fn write(&self, cx: &Context, operation: &Operation, folder: &mut Folder) -> Result<Vec<String>> {
        let secrets = facts::secrets(cx, operation).await?;
        let mut missing = Vec::new();
        let nodes = facts::nodes(cx, &mut missing).await;
        let report = facts::report(cx, operation, &mut missing).await;
        let documents = [
            ("report.json", Some(&report)),
            ("backup.json", operation.backup.as_ref()),
            ("restore.json", operation.restore.as_ref()),
            ("nodes.json", Some(&nodes)),
        ];
        for (kind, document) in documents {
            let Some(document) = document else { continue };
            let mut document = secrets.document(document);
            document.remove("_id");
            let mut file = folder.create(kind)?;
            writeln!(file, "{}", extjson::indented(&document))
                .and_then(|()| file.flush())
                .with_context(|| format!("write {kind} of the report"))?;
        }
        let mut text = folder.create("log")?;
        let mut json = folder.create("log.jsonl")?;
        let read = log(cx, &operation.opid, &secrets, &mut text, &mut json).await?;
        missing
            .extend(read.err().map(|error| format!("the rest of the log: {}", crate::mongo::admin::explain(&error))));
        text.flush().and_then(|()| json.flush()).context("write the log of the report")?;
        if self.archive {
            folder.archive()?;
        }
        Ok(missing)
    }
}

/// Copies the operation's lines from all agents, as text and as JSON, one by one. The inner error is one of reading.
async fn log(
    cx: &Context,
    opid: &str,
    secrets: &Secrets,
    text: &mut impl Write,
    json: &mut impl Write,
) -> Result<anyhow::Result<()>> {
    let style = Style::full();
    let query = LogQuery { opid: Some(opid.to_owned()), ..LogQuery::default() };
    let lines = match cx.control.logs.all(&query).await {
        Ok(lines) => lines,
        Err(error) => return Ok(Err(error)),
    };
    let mut lines = pin!(lines);
    loop {
        let mut entry = match lines.try_next().await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        entry.msg = secrets.text(&entry.msg);
        writeln!(text, "{}", style.line(&entry)).context("write the log of the report")?;
        serde_json::to_writer(&mut *json, &Line::from(&entry)).context("write the log of the report")?;
        writeln!(json).context("write the log of the report")?;
    }
}

fn unknown(what: &str) -> CliError {
    CliError::refused(format!("no operation is known by the {what}"))
        .hint("`pbm list` shows the backups, `pbm list --restore` the restores, `pbm logs --extra --tail 0` all operations by OPID")
}

async fn by_name(cx: &Context, name: &str) -> Result<Operation> {
    let mut found = Operation {
        opid: String::new(),
        command: cx.control.commands.raw_by_name(name).await?,
        backup: cx.control.backups.raw(name).await?,
        restore: cx.control.restores.raw(name).await?,
    };
    let of_document = [&found.backup, &found.restore].into_iter().flatten().find_map(|it| it.get_str("opid").ok());
    let of_command = || found.command.as_ref().and_then(|it| it.get_object_id("_id").ok()).map(ObjectId::to_hex);
    found.opid = match of_document.map(str::to_owned).or_else(of_command) {
        Some(opid) => opid,
        // A backup that is deleted since: its log may still be there.
        None => opid_in_log(cx, name).await?.ok_or_else(|| unknown(&format!("name {name}")))?,
    };
    Ok(with_restored(cx, found).await)
}

async fn opid_in_log(cx: &Context, name: &str) -> Result<Option<String>> {
    for event in ["backup", "restore", "replay"] {
        let query = LogQuery { event: Some(event.to_owned()), object: Some(name.to_owned()), ..LogQuery::default() };
        let newest = cx.control.logs.newest(&query, 1).await?;
        if let Some(line) = newest.into_iter().find(|line| !line.opid.is_empty()) {
            return Ok(Some(line.opid));
        }
    }
    Ok(None)
}

async fn by_opid(cx: &Context, opid: &str) -> Result<Operation> {
    let found = Operation {
        opid: opid.to_owned(),
        command: cx.control.commands.raw(opid).await?,
        backup: cx.control.backups.raw_by_opid(opid).await?,
        restore: cx.control.restores.raw_by_opid(opid).await?,
    };
    let has_document = found.command.is_some() || found.backup.is_some() || found.restore.is_some();
    if !has_document && !cx.control.locks.was_taken(opid).await? {
        let query = LogQuery { opid: Some(opid.to_owned()), ..LogQuery::default() };
        if opid.is_empty() || cx.control.logs.newest(&query, 1).await?.is_empty() {
            return Err(unknown(&format!("OPID {opid}")));
        }
    }
    Ok(with_restored(cx, found).await)
}

/// A restore comes with the document of the backup that it restored, if there still is one.
async fn with_restored(cx: &Context, mut found: Operation) -> Operation {
    let restored = found.restore.as_ref().and_then(|it| it.get_str("backup").ok()).filter(|name| !name.is_empty());
    if let (None, Some(name)) = (&found.backup, restored) {
        found.backup = cx.control.backups.raw(name).await.unwrap_or_default();
    }
    found
}
