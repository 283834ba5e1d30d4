//! `pbm export`: a backup as a mongodump archive. It reads the storage by itself; agents have no part in it.

use super::source::{Found, Source, replset};
use crate::cmd::io::{
    error::{CliError, Result},
    output::{Format, Outlet, Report},
    selection as names, units,
};
use crate::{
    compress,
    export::{self, Exported, Progress, select::Selection},
    model::compression::Compression,
    storage::ByteStream,
};
use anyhow::Context as _;
use clap::{Args, builder::TypedValueParser as _, builder::ValueParser};
use futures::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};

/// Pieces on their way to the file; most are a block.
const WAITING: usize = 4;

/// Write a logical backup as a mongodump archive
///
/// The archive is restored by the stock tool: mongorestore --archive=FILE --oplogReplay. Without --oplogReplay the
/// collections come as they were read, each at its own moment of the backup; with it all of them are as they were at
/// the backup's end.
///
/// Time series, views, indexes and options are part of it. Control collections and the tables of a sharded cluster are
/// not; users and roles only with --with-users-and-roles. Everything that is read is checked; if something is missing or
/// damaged the exit code is not 0 and no FILE appears.
///
/// No server is needed with --dir or --config.
#[derive(Debug, Args)]
pub struct Export {
    /// Name of the backup
    #[arg(value_name = "BACKUP", value_parser = names::name)]
    backup_name: String,
    /// Only these namespaces: db.collection or db.*, separated by commas
    #[arg(long, value_name = "NAMESPACES", value_delimiter = ',')]
    ns: Vec<String>,
    /// The file to write; `-` is stdout, which is also the default
    #[arg(id = "out", short, long, value_name = "FILE", value_parser = file_parser())]
    out: Option<Outlet>,
    #[command(flatten)]
    source: Source,
    /// The replica set, of a backup that has several
    #[arg(long, value_name = "NAME")]
    replset: Option<String>,
    /// Compress the archive: for mongorestore --archive=FILE --gzip
    #[arg(long)]
    gzip: bool,
    /// Leave out the oplog of the time of the backup: the archive is then of no single moment
    #[arg(long)]
    no_oplog: bool,
    /// Also users and roles, as mongodump has them
    #[arg(long, conflicts_with = "ns")]
    with_users_and_roles: bool,
}

fn file_parser() -> ValueParser {
    ValueParser::new(clap::builder::PathBufValueParser::new().map(Outlet::File))
}

/// What was written, for stdout when the archive is in a file.
#[derive(Debug, Serialize)]
struct Written {
    backup: String,
    replset: String,
    file: String,
    size: u64,
    namespaces: u64,
    oplog_entries: u64,
}

impl Report for Written {
    fn text(&self) -> String {
        let size = units::size(i64::try_from(self.size).unwrap_or(i64::MAX));
        format!(
            "{}: {size}, {} namespaces and {} oplog entries of replica set {}",
            self.file, self.namespaces, self.oplog_entries, self.replset
        )
    }
}

impl Export {
    /// Runs the subcommand; connects only if the storage has to be asked for.
    pub async fn run(self, uri: Option<&str>, format: Format) -> Result<()> {
        let selection =
            Selection::parse(&self.ns, self.with_users_and_roles).map_err(|e| CliError::usage(e.to_string()))?;
        let file = match &self.out {
            Some(Outlet::File(file)) if file.as_os_str() != "-" => Some(file.clone()),
            _ if std::io::stdout().is_terminal() => {
                return Err(CliError::usage("an archive is not for a terminal")
                    .hint("give --out FILE, or send stdout somewhere"));
            }
            _ => None,
        };
        let Found { store, backup } = self.source.find(&self.backup_name, uri, format).await?;
        let rs = replset(&backup, self.replset.as_deref())?;
        let export = export::prepare(store, &backup, &rs, selection, !self.no_oplog).await?;
        let bar = bar(export.bytes, format);
        let left_out = backup.replsets.iter().find(|part| part.name == rs).map(|part| part.left_out.join(", "));
        let (done, size) = carry(export, file.as_deref(), self.gzip, &bar).await?;
        bar.finish_and_clear();
        let written = Written {
            backup: backup.name,
            replset: rs,
            file: file.as_ref().map_or_else(|| "stdout".to_owned(), |file| file.display().to_string()),
            size,
            namespaces: done.namespaces,
            oplog_entries: done.oplog_entries,
        };
        if let Some(names) = left_out.filter(|names| !names.is_empty()) {
            format.note(&format!("Warning: not in the backup, because the names are not valid UTF-8: {names}"));
        }
        if done.left_out > 0 {
            format.note(&format!(
                "Warning: {} operations of the oplog were left out, because the names of their collections are not valid UTF-8",
                done.left_out
            ));
        }
        match file {
            Some(_) => format.print(&written),
            None => format.note(&written.text()),
        }
        Ok(())
    }
}

/// Permissions of the file before the umask is applied. The file may hold users with their credentials.
const EXPORT_MODE: u32 = 0o640;

/// On a terminal only.
fn bar(bytes: u64, format: Format) -> ProgressBar {
    if !format.is_chatty() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target((bytes > 0).then_some(bytes), ProgressDrawTarget::stderr());
    let template = match bytes {
        0 => "{spinner} {elapsed} {binary_bytes} {binary_bytes_per_sec}",
        _ => "[{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Writes the archive; returns what it holds and its size. A file appears under its name only when it is whole.
async fn carry(export: export::Export, file: Option<&Path>, gzip: bool, bar: &ProgressBar) -> Result<(Exported, u64)> {
    let Some(file) = file else {
        return flow(export, tokio::io::stdout(), gzip, bar).await.map(|(done, _, size)| (done, size));
    };
    let mut name = file.as_os_str().to_owned();
    name.push(".tmp");
    let tmp = PathBuf::from(name);
    let mut open = tokio::fs::File::options();
    open.write(true).create(true).truncate(true).mode(EXPORT_MODE);
    let out = open.open(&tmp).await.with_context(|| format!("create {}", tmp.display()))?;
    let result = async {
        let (done, out, size) = flow(export, out, gzip, bar).await?;
        out.sync_all().await.with_context(|| format!("write {} to the disk", tmp.display()))?;
        tokio::fs::rename(&tmp, file)
            .await
            .with_context(|| format!("rename {} to {}", tmp.display(), file.display()))?;
        Ok((done, size))
    }
    .await;
    if result.is_err() {
        // The reason why it is removed says more than why it can't be.
        let _ = tokio::fs::remove_file(&tmp).await;
    }
    result
}

async fn flow<W: AsyncWrite + Unpin>(
    export: export::Export,
    mut out: W,
    gzip: bool,
    bar: &ProgressBar,
) -> Result<(Exported, W, u64)> {
    let (sink, pieces) = mpsc::channel(WAITING);
    let progress = Progress::default();
    let counted = progress.clone();
    let producer = tokio::spawn(async move {
        let result = export.write(&sink, &counted).await;
        if result.is_err() {
            // So that no codec takes the stream for whole. Who has gone needs no word.
            let _ = sink.send(Err(std::io::Error::other("the export has failed"))).await;
        }
        result
    });
    let pieces: ByteStream =
        stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) }).boxed();
    let codec = if gzip { Compression::Gzip } else { Compression::None };
    let mut pieces = compress::encode(pieces, codec, None).context("compress the archive")?;
    let mut size = 0;
    let written: anyhow::Result<()> = async {
        let mut tick = tokio::time::Instant::now();
        // The end of the stream by an error is explained by whoever sent it.
        while let Some(Ok(piece)) = pieces.next().await {
            out.write_all(&piece).await.context("write the archive")?;
            size += piece.len() as u64;
            if tick.elapsed() > Duration::from_millis(200) {
                tick = tokio::time::Instant::now();
                bar.set_position(progress.load(Relaxed));
            }
        }
        out.flush().await.context("write the archive")
    }
    .await;
    drop(pieces);
    let produced = producer.await.context("export the backup")?;
    // If the writing failed the other side only noticed that nobody reads.
    written?;
    Ok((produced?, out, size))
}
