//! Are the files of a backup there? And, if wanted, do they hold what they should?
//!
//! [`backup_files`] is the check of the original at the end of a backup and at a resync (docs/format.md A.10): cheap,
//! one listing per replica set. [`backup`] with [`Depth::Content`] reads everything.

use super::{
    coverage::{self, Gap},
    read_through,
};
use crate::{
    archive::{described, filelist, meta::Written},
    layout::{self, Generation, ReplsetLayout, SliceName},
    model::{
        backup::{BackupMeta, BackupReplset, BackupType},
        compression::Compression,
        store::StoreKind,
    },
    storage::{self, Storage, check_name},
};
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use std::{collections::HashMap, fmt};
use tokio::sync::Semaphore;

/// Objects looked at, or read, at a time.
const AT_ONCE: usize = 8;

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every object exists and is not empty.
    Files,
    /// The same, and every collection and oplog slice of a logical backup is read: it decompresses, and collections
    /// have the size and checksum that `metadata.json` says.
    Content,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The object, or the folder that should hold it.
    pub object: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Missing,
    Empty,
    /// It is there, but not what it should be.
    Damaged(String),
    /// No oplog slice covers these times of the dump. Only a warning: the original takes a backup without any slices.
    OplogGap(Gap),
}

impl Problem {
    fn new(object: impl Into<String>, what: What) -> Self {
        Self { object: object.into(), what }
    }

    /// The original would not mind, so the backup keeps its status.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        matches!(self.what, What::OplogGap(_))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = &self.object;
        match &self.what {
            What::Missing => write!(f, "'{object}' is missing"),
            What::Empty => write!(f, "'{object}' is empty"),
            What::Damaged(reason) => write!(f, "'{object}' is damaged: {reason}"),
            What::OplogGap(gap) => write!(f, "'{object}' lacks the oplog {gap}"),
        }
    }
}

/// Checks with [`Depth::Files`] that everything is there.
///
/// # Errors
/// As [`backup`].
pub async fn backup_files(store: &dyn Storage, meta: &BackupMeta) -> Result<Vec<Problem>> {
    backup(store, meta, Depth::Files).await
}

/// Does the same as [`backup_files`], for callers that check all backups of a storage. A collection description that takes
/// much memory is not read; the restore reads it before it changes anything.
///
/// # Errors
/// As [`backup`].
pub async fn backup_files_briefly(store: &dyn Storage, meta: &BackupMeta) -> Result<Vec<Problem>> {
    check(store, meta, Depth::Files, LONGEST_LOOK).await
}

/// Checks the files of a finished backup and returns what is wrong, in the order of its replica sets.
///
/// By type: logical as described above, of any version; physical and incremental every object that the list of files names;
/// external nothing, since somebody else keeps the data. Nor is a backup on a blackhole checked.
///
/// # Errors
/// The storage cannot be read; what is missing or damaged is no error.
pub async fn backup(store: &dyn Storage, meta: &BackupMeta, depth: Depth) -> Result<Vec<Problem>> {
    check(store, meta, depth, u64::MAX).await
}

async fn check(store: &dyn Storage, meta: &BackupMeta, depth: Depth, longest: u64) -> Result<Vec<Problem>> {
    let check = Check { store, depth, longest };
    let mut problems = Vec::new();
    if meta.kind == BackupType::External || meta.store.is_of(StoreKind::Blackhole) {
        return Ok(problems);
    }
    for rs in &meta.replsets {
        let found = match (meta.kind, Generation::of(&meta.pbm_version)) {
            (BackupType::Logical, Generation::Archive) => check.archive(rs, meta.compression).await,
            (BackupType::Logical, generation) => check.logical(meta, rs, generation).await,
            _ => check.data_files(meta, rs).await,
        };
        problems.extend(found.with_context(|| format!("check the files of {} in backup {}", rs.name, meta.name))?);
    }
    Ok(problems)
}

/// Size limit, in bytes, of a collection description that is read together with others: some ten thousand collections.
const LONGEST_LOOK: u64 = 64 << 20;
/// KiB of collection descriptions that this process reads at the same time; a longer description is read alone.
const KIB_AT_ONCE: u32 = 64 << 10;
static ROOM: Semaphore = Semaphore::const_new(KIB_AT_ONCE as usize);

struct Check<'a> {
    store: &'a dyn Storage,
    depth: Depth,
    /// Size limit in bytes: a longer collection description is not read.
    longest: u64,
}

impl Check<'_> {
    /// Before 2.0: two objects.
    async fn archive(&self, rs: &BackupReplset, compression: Compression) -> Result<Vec<Problem>> {
        let names = [rs.dump_name.clone(), rs.oplog_name.clone()];
        let mut problems = self.objects(&names, &HashMap::new()).await?;
        if self.depth == Depth::Content && problems.is_empty() {
            let fault = read_through::archive_fault(self.store, &rs.dump_name, compression).await?;
            problems.extend(fault.map(|reason| Problem::new(&rs.dump_name, What::Damaged(reason))));
            problems.extend(self.contents(vec![(rs.oplog_name.clone(), None)], compression).await?);
        }
        Ok(problems)
    }

    /// The objects that `filelist.pbm` names. Before 2.4.1 there was no such list.
    async fn data_files(&self, backup: &BackupMeta, rs: &BackupReplset) -> Result<Vec<Problem>> {
        let at = ReplsetLayout::new(&backup.name, &rs.name, backup.compression);
        let list = layout::filelist(&backup.name, &rs.name);
        let problems = self.objects(std::slice::from_ref(&list), &HashMap::new()).await?;
        if !problems.is_empty() {
            return Ok(problems);
        }
        let files = match storage::read_all(self.store, &list, filelist::LARGEST).await {
            Ok(bytes) => filelist::read(&bytes),
            Err(error) => return Err(error.into()),
        };
        let files = match files {
            Ok(files) => files,
            Err(error) => return Ok(vec![Problem::new(list, What::Damaged(format!("{error:#}")))]),
        };
        let stored: Vec<_> =
            files.iter().filter(|file| !file.is_unchanged()).map(|file| (file.object(&at), file)).collect();
        let folder = format!("{}/{}", backup.name, rs.name);
        let there = storage::list_with(self.store, &folder, stored.iter().map(|(name, _)| name.clone())).await?;
        let sizes: HashMap<&str, u64> = there.iter().map(|info| (info.name.as_str(), info.size)).collect();
        let mut problems = Vec::new();
        let mut present = Vec::new();
        for (name, file) in stored {
            match sizes.get(name.as_str()) {
                None => problems.push(Problem::new(name, What::Missing)),
                Some(0) if file.stored > 0 => problems.push(Problem::new(name, What::Empty)),
                Some(size) if u64::try_from(file.stored) != Ok(*size) => {
                    let reason = format!("it has {size} bytes in place of the {} that were written", file.stored);
                    problems.push(Problem::new(name, What::Damaged(reason)));
                }
                Some(_) => present.push((name, file.crc.map(|crc| (file.content, crc)))),
            }
        }
        if self.depth == Depth::Content {
            problems.extend(self.contents(present, at.compression).await?);
        }
        Ok(problems)
    }

    async fn logical(&self, backup: &BackupMeta, rs: &BackupReplset, generation: Generation) -> Result<Vec<Problem>> {
        let at = ReplsetLayout::new(&backup.name, &rs.name, backup.compression);
        let sizes: HashMap<_, _> = self
            .store
            .list(&format!("{}/{}", backup.name, rs.name))
            .map_ok(|object| (object.name, object.size))
            .try_collect()
            .await?;

        let metadata = at.metadata_of(rs);
        let mut problems = self.objects(std::slice::from_ref(&metadata), &sizes).await?;
        if problems.is_empty() {
            problems.extend(self.namespaces(&at, &metadata, &sizes).await?);
        }
        match generation {
            Generation::Current => problems.extend(self.oplog(&at, rs, &sizes).await?),
            _ => problems.extend(self.objects(std::slice::from_ref(&rs.oplog_name), &sizes).await?),
        }
        Ok(problems)
    }

    /// The objects that `metadata.json` names.
    async fn namespaces(
        &self,
        at: &ReplsetLayout,
        metadata: &str,
        sizes: &HashMap<String, u64>,
    ) -> Result<Vec<Problem>> {
        let size = [metadata, &at.meta_pbm()].iter().filter_map(|name| sizes.get(*name)).sum::<u64>();
        if size > self.longest {
            tracing::info!(
                "'{metadata}' has {size} bytes; with its twin; what they describe is looked at by restores only"
            );
            return Ok(Vec::new());
        }
        let kib = u32::try_from(size / 1024 + 1).unwrap_or(KIB_AT_ONCE).min(KIB_AT_ONCE);
        let _room = ROOM.acquire_many(kib).await.context("wait for other descriptions to be read")?;
        let read = match described::read(self.store, metadata).await {
            Ok(read) => read,
            Err(error) if error.downcast_ref::<storage::Error>().is_some() => return Err(error),
            Err(error) => return Ok(vec![Problem::new(metadata, What::Damaged(format!("{error:#}")))]),
        };
        let stored: Vec<_> = read.stored(at).map(|(name, ns)| (name, ns.size, ns.crc)).collect();
        let names: Vec<_> = stored.iter().map(|(name, ..)| name.clone()).collect();
        let mut problems = self.objects(&names, sizes).await?;
        problems.extend(self.written(at, &read.written, sizes).await?);
        if self.depth == Depth::Content {
            let present =
                stored.into_iter().filter(|(name, ..)| problems.iter().all(|problem| problem.object != *name));
            let present: Vec<_> = present.map(|(name, size, crc)| (name, Some((size, crc)))).collect();
            problems.extend(self.contents(present, at.compression).await?);
        }
        Ok(problems)
    }

    /// Checks the objects whose size was recorded when they were stored. Other checks report missing objects.
    async fn written(
        &self,
        at: &ReplsetLayout,
        written: &[Written],
        sizes: &HashMap<String, u64>,
    ) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        for it in written {
            let name = at.object(&it.name);
            let size = match sizes.get(&name) {
                Some(size) => Some(*size),
                None => self.size(&name).await?,
            };
            // Other checks report empty objects, too.
            if let Some(size) = size.filter(|size| *size > 0 && u64::try_from(it.stored) != Ok(*size)) {
                let reason = format!("it has {size} bytes in place of the {} that were written", it.stored);
                problems.push(Problem::new(name, What::Damaged(reason)));
            }
        }
        Ok(problems)
    }

    /// The slices: none empty, and together without a gap.
    async fn oplog(
        &self,
        at: &ReplsetLayout,
        rs: &BackupReplset,
        sizes: &HashMap<String, u64>,
    ) -> Result<Vec<Problem>> {
        let folder = format!("{}/", at.oplog_dir());
        let mut slices = Vec::new();
        let mut problems = Vec::new();
        for (name, size) in sizes {
            let Some(slice) = name.strip_prefix(&folder) else { continue };
            match SliceName::parse(slice) {
                _ if *size == 0 => problems.push(Problem::new(name, What::Empty)),
                Some(slice) => slices.push((name.clone(), slice)),
                None => {}
            }
        }
        problems.sort_by(|a, b| a.object.cmp(&b.object));
        slices.sort();
        let parsed: Vec<_> = slices.iter().map(|(_, slice)| slice.clone()).collect();
        if let Some(gap) = coverage::first_gap(&parsed, rs.first_write_ts, rs.last_write_ts) {
            problems.push(Problem::new(at.oplog_dir(), What::OplogGap(gap)));
        }
        if self.depth == Depth::Content {
            for (name, slice) in slices {
                problems.extend(self.contents(vec![(name, None)], slice.compression()).await?);
            }
        }
        Ok(problems)
    }

    /// Objects that must exist and not be empty. What a listing showed is not asked for again; what it did not show is,
    /// because listings hide names that end like temporary files.
    async fn objects(&self, names: &[String], sizes: &HashMap<String, u64>) -> Result<Vec<Problem>> {
        let known: Vec<_> = names.iter().map(|name| (name.clone(), sizes.get(name).copied())).collect();
        let problems = stream::iter(known)
            .map(|(name, known)| async move {
                let size = match known {
                    Some(size) => Some(size),
                    None => self.size(&name).await?,
                };
                let what = match size {
                    None => What::Missing,
                    Some(0) => What::Empty,
                    Some(_) => return anyhow::Ok(None),
                };
                Ok(Some(Problem::new(name, what)))
            })
            .buffered(AT_ONCE);
        problems.try_filter_map(|problem| async move { Ok(problem) }).try_collect().await
    }

    async fn size(&self, name: &str) -> Result<Option<u64>> {
        if check_name(name).is_err() {
            return Ok(None);
        }
        match self.store.stat(name).await {
            Ok(info) => Ok(Some(info.size)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads objects, each with the size and checksum that it should have, if they are known.
    async fn contents(
        &self,
        objects: Vec<(String, Option<(i64, i64)>)>,
        compression: Compression,
    ) -> Result<Vec<Problem>> {
        let problems = stream::iter(objects)
            .map(|(name, expected)| async move {
                let fault = read_through::fault(self.store, &name, compression, expected).await?;
                anyhow::Ok(fault.map(|reason| Problem::new(name, What::Damaged(reason))))
            })
            .buffered(AT_ONCE);
        problems.try_filter_map(|problem| async move { Ok(problem) }).try_collect().await
    }
}

#[cfg(test)]
mod tests;
