//! What a storage holds: backups, PITR chunks, records of physical restores. The reading half of a resync
//! (docs/format.md A.10).

mod restores;

pub use restores::restores;

use super::verify::{self, Problem, What};
use crate::{
    archive::backup_json,
    control::ChunkTable,
    layout::{self, ChunkName, Generation},
    model::{backup::BackupMeta, config::StorageConf, status::Status},
    storage::{self, Storage},
};
use anyhow::{Context, Result};
use futures::{Stream, StreamExt, TryStreamExt};
use std::{collections::HashSet, sync::Arc};
use tokio::sync::Semaphore;

/// Size limit of a backup's metadata file. No valid file reaches it: the same document is in the database, where a document
/// has at most 16 MiB, and indented JSON takes about twice as much.
const META_LIMIT: u64 = 32 << 20;
/// KiB of metadata files that are read at the same time: a parsed file may take several times its size in memory.
const KIB_AT_ONCE: u32 = 32 << 10;
/// Metadata files read, with the files of their backups checked, at a time: object stores answer slowly, but many at
/// once, and what is kept of each is small.
const AT_ONCE: usize = 16;

/// A backup on the storage.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The metadata file.
    pub object: String,
    /// As the file says, but `store` is the current configuration.
    pub meta: BackupMeta,
    pub problems: Vec<Problem>,
}

impl Found {
    /// The file is where a backup of this name has it. Others are copies, or lie in the folder of another storage.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.object == layout::backup_meta(&self.meta.name)
    }

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

/// A metadata file.
#[derive(Debug, Clone, PartialEq)]
pub enum Read {
    Backup(Box<Found>),
    /// It cannot be used, and why.
    Unreadable {
        object: String,
        reason: String,
    },
}

/// Finds every `*.pbm.json`, at any depth as the original does, and checks the files of each backup. A stream, because
/// there may be thousands; files at the root come first, each kind in the order of names.
///
/// `current` is the configuration of `store`: it takes the place of what the files say about their storage, which
/// has masked secrets and may long have moved. If two files name the same backup, the one whose name is that of the
/// backup counts: it comes last, or the other one does not come at all.
///
/// # Errors
/// The storage cannot be listed, or (in the stream) does not answer for the time being. A file that cannot be used is
/// no error.
pub async fn backups<'a>(
    store: &'a dyn Storage,
    current: &'a StorageConf,
) -> Result<impl Stream<Item = Result<Read>> + 'a> {
    let mut files: Vec<_> = store
        .list("")
        .try_filter_map(|object| async move {
            Ok(object.name.ends_with(layout::BACKUP_META_SUFFIX).then_some((object.name, object.size)))
        })
        .try_collect()
        .await
        .context("list the storage for backups")?;
    files.sort_by(|(a, _): &(String, u64), (b, _)| (a.contains('/'), a).cmp(&(b.contains('/'), b)));
    let room = Arc::new(Semaphore::new(KIB_AT_ONCE as usize));
    let read = futures::stream::iter(files).map(move |(object, size)| (object, size, room.clone()));
    let read = read.map(async move |(object, size, room)| {
        if size > META_LIMIT {
            let reason = format!("it has {size} bytes, and metadata of a backup at most {META_LIMIT}");
            return Ok(Read::Unreadable { object, reason });
        }
        let kib = u32::try_from(size / 1024 + 1).unwrap_or(KIB_AT_ONCE).min(KIB_AT_ONCE);
        let _room = room.acquire_many(kib).await.context("wait for other metadata files to be read")?;
        let found = read_backup(store, &object, current).await.with_context(|| format!("read {object}"))?;
        Ok(match found {
            Ok(found) => Read::Backup(Box::new(found)),
            Err(reason) => Read::Unreadable { object, reason },
        })
    });
    let mut seen = HashSet::new();
    Ok(read.buffered(AT_ONCE).try_filter(move |read| {
        let counts = match read {
            Read::Unreadable { .. } => true,
            Read::Backup(found) => seen.insert(found.meta.name.clone()) || found.is_in_place(),
        };
        std::future::ready(counts)
    }))
}

/// One backup, or why its file is no use.
async fn read_backup(store: &dyn Storage, file: &str, current: &StorageConf) -> Result<Result<Found, String>> {
    let bytes = match storage::read_all(store, file, META_LIMIT as usize).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_retryable() => return Err(error.into()),
        Err(error) => return Ok(Err(error.to_string())),
    };
    match backup_json::read(&bytes) {
        Err(error) => Ok(Err(format!("{error:#}"))),
        Ok(meta) if meta.name.is_empty() => Ok(Err("it does not say the name of its backup".to_owned())),
        Ok(mut meta) => {
            meta.store = current.clone();
            if meta.size == 0 && Generation::of(&meta.pbm_version) == Generation::Archive {
                meta.size = size_of_archives(store, &meta).await?;
            }
            let problems = match verify::backup_files_briefly(store, &meta).await {
                Ok(problems) => problems,
                Err(error) if error.downcast_ref().is_some_and(storage::Error::is_retryable) => return Err(error),
                // One backup that cannot be looked at must not keep us from the others.
                Err(error) => vec![Problem { object: file.to_owned(), what: What::Damaged(format!("{error:#}")) }],
            };
            Ok(Ok(Found { object: file.to_owned(), meta, problems }))
        }
    }
}

/// Adds up the size of the archives: before 2.0 a backup did not record its size.
async fn size_of_archives(store: &dyn Storage, meta: &BackupMeta) -> Result<i64> {
    let mut size = 0_i64;
    for name in meta.replsets.iter().flat_map(|rs| [&rs.dump_name, &rs.oplog_name]) {
        match store.stat(name).await {
            Ok(info) => size = size.saturating_add(i64::try_from(info.size).unwrap_or(i64::MAX)),
            Err(error) if error.is_retryable() => return Err(error.into()),
            // The check of the files reports this error.
            Err(_) => {}
        }
    }
    Ok(size)
}

/// All PITR chunks, by replica set and time. What is empty or has another kind of name is left out, and so is what lies
/// within another chunk.
///
/// # Errors
/// The storage cannot be read.
pub async fn chunks(store: &dyn Storage) -> Result<ChunkTable> {
    let mut objects = store.list(layout::PITR);
    let mut chunks = ChunkTable::default();
    while let Some(object) = objects.try_next().await.context("list the storage for PITR chunks")? {
        let Some(name) = ChunkName::parse(&object.name).filter(|_| object.size > 0) else { continue };
        chunks.push(name.chunk(object.name, object.size));
    }
    chunks.keep_longest();
    Ok(chunks)
}

#[cfg(test)]
mod tests;
