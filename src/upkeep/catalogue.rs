//! What a storage holds: backups, PITR chunks, records of physical restores. The reading half of a resync
//! (spec/format.md A.10).

mod restores;

pub use restores::restores;

use super::verify::{self, Problem, What};
use crate::{
    archive::backup_json,
    layout::{self, ChunkName},
    model::{backup::BackupMeta, chunk::Chunk, config::StorageConf, status::Status},
    storage::{self, Storage},
};
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};

/// No backup's metadata file is as large.
const META_LIMIT: usize = 64 << 20;
/// Backups read and checked at a time.
const AT_ONCE: usize = 4;

/// A backup on the storage.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// As the file says, but `store` is the current configuration.
    pub meta: BackupMeta,
    pub problems: Vec<Problem>,
}

impl Found {
    /// The document for the database: with status `error` and the first problem as its text if files are missing or
    /// damaged. The file on the storage stays as it is, so the next resync sees whether they came back.
    #[must_use]
    pub fn into_document(self) -> BackupMeta {
        let mut meta = self.meta;
        let mut serious = self.problems.iter().filter(|problem| !problem.is_warning());
        if let Some(first) = serious.next() {
            let more = match serious.count() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            meta.status = Status::Error;
            meta.error = Some(format!("the backup's files are not complete: {first}{more}"));
        }
        meta
    }
}

/// All backups of a storage.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scan {
    /// By backup name.
    pub found: Vec<Found>,
    /// Metadata files that cannot be used, and why, by object name.
    pub unreadable: Vec<(String, String)>,
}

/// Finds every `*.pbm.json`, at any depth as the original does, and checks the files of each backup.
///
/// `current` is the configuration of `store`: it takes the place of what the files say about their storage, which
/// has masked secrets and may long have moved. If two files name the same backup, the one whose name is that of the
/// backup counts.
///
/// # Errors
/// The storage cannot be listed, or does not answer for the time being. A file that cannot be used is no error.
pub async fn backups(store: &dyn Storage, current: &StorageConf) -> Result<Scan> {
    let mut files: Vec<_> = store
        .list("")
        .try_filter_map(
            |object| async move { Ok(object.name.ends_with(layout::BACKUP_META_SUFFIX).then_some(object.name)) },
        )
        .try_collect()
        .await
        .context("list the storage for backups")?;
    files.sort();
    let mut read = futures::stream::iter(files)
        .map(|file| async move {
            let backup = read_backup(store, &file, current).await;
            backup.with_context(|| format!("read {file}")).map(|backup| (file, backup))
        })
        .buffered(AT_ONCE);
    let mut scan = Scan::default();
    while let Some((object, backup)) = read.try_next().await? {
        match backup {
            Err(reason) => scan.unreadable.push((object, reason)),
            Ok(found) => match scan.found.iter().position(|other| other.meta.name == found.meta.name) {
                None => scan.found.push(found),
                Some(at) if object == layout::backup_meta(&found.meta.name) => scan.found[at] = found,
                Some(_) => {}
            },
        }
    }
    scan.found.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
    Ok(scan)
}

/// One backup, or why its file is no use.
async fn read_backup(store: &dyn Storage, file: &str, current: &StorageConf) -> Result<Result<Found, String>> {
    let bytes = match storage::read_all(store, file, META_LIMIT).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_retryable() => return Err(error.into()),
        Err(error) => return Ok(Err(error.to_string())),
    };
    match backup_json::read(&bytes) {
        Err(error) => Ok(Err(format!("{error:#}"))),
        Ok(meta) if meta.name.is_empty() => Ok(Err("it does not say the name of its backup".to_owned())),
        Ok(mut meta) => {
            meta.store = current.clone();
            let problems = match verify::backup_files(store, &meta).await {
                Ok(problems) => problems,
                Err(error) if error.downcast_ref().is_some_and(storage::Error::is_retryable) => return Err(error),
                // One backup that cannot be looked at must not keep us from the others.
                Err(error) => vec![Problem { object: file.to_owned(), what: What::Damaged(format!("{error:#}")) }],
            };
            Ok(Ok(Found { meta, problems }))
        }
    }
}

/// All PITR chunks, by replica set and time. What is empty or has another kind of name is left out, and so is what lies
/// within another chunk (left by a crash while small chunks were joined): the original reads such an index as a gap.
///
/// # Errors
/// The storage cannot be read.
pub async fn chunks(store: &dyn Storage) -> Result<Vec<Chunk>> {
    let mut chunks: Vec<Chunk> = store
        .list(layout::PITR)
        .try_filter_map(|object| async move {
            let name = ChunkName::parse(&object.name).filter(|_| object.size > 0);
            Ok(name.map(|name| Chunk {
                rs: name.rs,
                fname: object.name,
                compression: name.compression,
                start_ts: name.from,
                end_ts: name.to,
                size: i64::try_from(object.size).unwrap_or(i64::MAX),
            }))
        })
        .try_collect()
        .await
        .context("list the storage for PITR chunks")?;
    // The longest first, so that everything within it comes later.
    chunks.sort_by(|a, b| (&a.rs, a.start_ts, b.end_ts, &a.fname).cmp(&(&b.rs, b.start_ts, a.end_ts, &b.fname)));
    let mut kept: Vec<Chunk> = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        if !kept.last().is_some_and(|last| last.rs == chunk.rs && last.end_ts >= chunk.end_ts) {
            kept.push(chunk);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests;
