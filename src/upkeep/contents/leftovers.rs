//! What failed backups leave: their records with their objects, and objects that belong to no backup at all.
//!
//! # What is never taken
//!
//! A storage holds the only copy of somebody's data, so whatever is in doubt stays:
//! - a backup that was finished once and whose files were found incomplete later: a part of it may be saved by hand, and
//!   the missing part may come back;
//! - a folder whose name is not exactly a backup's, such as `pbmPitr` or `.pbm.restore`, and every object at the root;
//! - a folder with a metadata file beside it, readable or not, or with a record in the database;
//! - a folder younger than [`OLD_ENOUGH`]: an agent that knows nothing of this cluster may be writing it;
//! - a folder that has changed since somebody agreed to its deletion;
//! - every folder, while another cluster has left its mark on the storage.

use crate::archive::backup_json;
use crate::layout;
use crate::model::{
    backup::BackupMeta,
    command::Orphan,
    lock::{Lock, is_stale},
    status::Status,
};
use crate::storage::{self, Storage};
use crate::storages::place;
use crate::upkeep::deletion::{
    plan::{Fate, Goes, Item, Plan, Stays},
    prune::DELETION_BEGUN,
    retention::{chain, sources},
};
use anyhow::{Context, Result, ensure};
use bson::Timestamp;
use futures::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Seconds.
pub const OLD_ENOUGH: i64 = 24 * 60 * 60;
/// Folders, and backups, that one run deletes.
pub const MOST: usize = 500;
/// No metadata file is larger.
const META_LIMIT: usize = 64 << 20;
/// How a line of the log about a folder begins.
const FOUND: &str = "belongs to no backup: ";

/// Decides for every backup on the storage of a profile, or on the main one.
#[must_use]
pub fn plan(backups: &[BackupMeta], locks: &[Lock], profile: Option<&str>, now: Timestamp) -> Plan {
    let living: HashSet<&str> =
        locks.iter().filter(|lock| !is_stale(lock.hb, now)).map(|lock| lock.header.opid.as_str()).collect();
    let mut sorted: Vec<&BackupMeta> = backups.iter().collect();
    sorted.sort_by(|a, b| (a.start_ts, &a.name).cmp(&(b.start_ts, &b.name)));
    let fate = |backup: &BackupMeta| {
        let place = place::profile_of(&backup.store);
        match backup.status {
            _ if place != profile => Fate::Stays(Stays::OtherStorage(place.map(str::to_owned))),
            Status::Error | Status::Canceled if was_finished(backup) => Fate::Stays(Stays::Incomplete),
            Status::Error | Status::Canceled => Fate::Goes(Goes::Ended(backup.status)),
            status if status.is_final() => Fate::Stays(Stays::NotAsked),
            status if living.contains(backup.opid.as_str()) || !is_stale(backup.hb, now) => {
                Fate::Stays(Stays::Runs(status))
            }
            _ => Fate::Goes(Goes::Stuck),
        }
    };
    let mut fates: HashMap<&str, Fate> = sorted.iter().map(|it| (it.name.as_str(), fate(it))).collect();
    let sources = sources(&sorted);
    let stays = |fates: &HashMap<&str, Fate>, name: &str| matches!(fates.get(name), Some(Fate::Stays(_)));
    let kept: Vec<&str> = sorted.iter().map(|it| it.name.as_str()).filter(|name| stays(&fates, name)).collect();
    for increment in kept {
        for source in chain(&sources, increment) {
            if let Some(fate @ Fate::Goes(_)) = fates.get_mut(source) {
                *fate = Fate::Stays(Stays::SourceOf(increment.to_owned()));
            }
        }
    }
    let built_on: BTreeSet<&str> = sources.values().copied().collect();
    let item = |backup: &&BackupMeta| {
        let name = backup.name.as_str();
        Item {
            name: name.to_owned(),
            fate: fates.remove(name).unwrap_or(Fate::Stays(Stays::NotAsked)),
            chained: sources.contains_key(name) || built_on.contains(name),
        }
    };
    let mut plan = Plan { backups: Vec::new(), chunks: None, shortened: Vec::new() };
    plan.backups = sorted.iter().map(item).collect();
    plan
}

/// It has been whole, unless a deletion has begun since.
fn was_finished(backup: &BackupMeta) -> bool {
    backup.conditions.iter().any(|it| it.status == Status::Done) && backup.error.as_deref() != Some(DELETION_BEGUN)
}

/// The storage says that this backup has been whole, so its record is not all there is to know.
///
/// # Errors
/// The storage does not answer.
pub async fn is_finished_there(store: &dyn Storage, backup: &BackupMeta) -> Result<bool> {
    if backup.error.as_deref() == Some(DELETION_BEGUN) {
        return Ok(false);
    }
    let file = layout::backup_meta(&backup.name);
    let bytes = match storage::read_all(store, &file, META_LIMIT).await {
        Err(error) if error.is_not_found() => return Ok(false),
        bytes => bytes.with_context(|| format!("read {file}"))?,
    };
    // What can't be read may be of a newer release.
    Ok(backup_json::read(&bytes).map_or(true, |meta| meta.status == Status::Done))
}

/// Folders of a storage that belong to no backup, oldest first, at most [`MOST`]. `known` are all backups of the database,
/// `now` is in unix seconds.
///
/// # Errors
/// The storage can't be listed.
pub async fn orphans(store: &dyn Storage, known: &HashSet<String>, now: i64) -> Result<Vec<Orphan>> {
    let mut found: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let mut described: HashSet<String> = HashSet::new();
    let mut objects = store.list("");
    while let Some(object) = objects.try_next().await.context("list the storage for objects of no backup")? {
        let Some((folder, _)) = object.name.split_once('/') else {
            described.extend(object.name.strip_suffix(layout::BACKUP_META_SUFFIX).map(str::to_owned));
            continue;
        };
        if !is_old_folder(folder, now) || known.contains(folder) {
            continue;
        }
        // One more than are told, so that a metadata file that is listed late leaves enough.
        if found.len() > 2 * MOST && !found.contains_key(folder) {
            continue;
        }
        let sum = found.entry(folder.to_owned()).or_default();
        *sum = (sum.0 + 1, sum.1.saturating_add(i64::try_from(object.size).unwrap_or(i64::MAX)));
    }
    let orphans = found.into_iter().filter(|(name, _)| !described.contains(name)).take(MOST);
    Ok(orphans.map(|(name, (objects, size))| Orphan { name, objects, size }).collect())
}

fn is_old_folder(name: &str, now: i64) -> bool {
    layout::backup_start(name).is_some_and(|start| start < now - OLD_ENOUGH)
}

/// Deletes a folder that somebody agreed to, after everything was looked at once more.
///
/// # Errors
/// It is not what was agreed to, so nothing was deleted; or a call of the storage failed, and a part may be deleted.
pub async fn remove(store: &dyn Storage, orphan: &Orphan, known: &HashSet<String>, now: i64) -> Result<()> {
    let name = &orphan.name;
    ensure!(is_old_folder(name, now), "'{name}' is no folder of a backup that ended long ago, so it stays");
    ensure!(!known.contains(name), "'{name}' belongs to a backup by now, so it stays");
    let meta = layout::backup_meta(name);
    match store.stat(&meta).await {
        Err(error) if error.is_not_found() => {}
        there => {
            there.with_context(|| format!("look for {meta}"))?;
            anyhow::bail!("'{name}' has a metadata file by now, so it stays");
        }
    }
    let seen = measure(store, name).await?;
    if seen.objects == 0 {
        return Ok(());
    }
    ensure!(seen == *orphan, "'{name}' has changed since it was looked at, so it stays: somebody is writing it");
    store.delete_prefix(name).await.with_context(|| format!("delete the objects below '{name}'"))
}

async fn measure(store: &dyn Storage, name: &str) -> Result<Orphan> {
    let mut seen = Orphan { name: name.to_owned(), objects: 0, size: 0 };
    let mut objects = store.list(name);
    while let Some(object) = objects.try_next().await.with_context(|| format!("list the objects below '{name}'"))? {
        seen.objects += 1;
        seen.size = seen.size.saturating_add(i64::try_from(object.size).unwrap_or(i64::MAX));
    }
    Ok(seen)
}

/// The line of the log by which an agent tells of a folder.
#[must_use]
pub fn line(orphan: &Orphan) -> String {
    format!("{FOUND}{}, {} objects, {} bytes", orphan.name, orphan.objects, orphan.size)
}

/// The inverse of [`line()`].
#[must_use]
pub fn parse(line: &str) -> Option<Orphan> {
    let mut parts = line.strip_prefix(FOUND)?.split(", ");
    let name = parts.next().filter(|name| layout::backup_start(name).is_some())?;
    let objects = parts.next()?.strip_suffix(" objects")?.parse().ok()?;
    let size = parts.next()?.strip_suffix(" bytes")?.parse().ok()?;
    parts.next().is_none().then(|| Orphan { name: name.to_owned(), objects, size })
}

#[cfg(test)]
mod tests;
