//! What is checked before anything is changed. Each node checks its own side.

use super::host::{Commands, Host};
use super::swap::DbPath;
use crate::archive::filelist::{self, DataFile};
use crate::config::resolved::FileRestoreSettings;
use crate::datafiles::{download, program::Program};
use crate::layout::{self, ReplsetLayout};
use crate::model::backup::{BackupMeta, BackupReplset, BackupType};
use crate::model::chunk::Chunk;
use crate::model::command::RestoreCmd;
use crate::mongo::version::Version;
use crate::operation::Cx;
use crate::oplog::{entry::Entry, read};
use crate::restore::plan::{
    members::mapping,
    moment, restorable,
    slices::{OplogObject, chain},
};
use crate::storage::{Storage, read_all};
use anyhow::{Context, Result, bail, ensure};
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use std::sync::Arc;

/// The first version whose list of files is an object of its own.
const LISTED: Version = Version::new(2, 4, 1);
/// Room that the server needs beside the files.
const SPARE: u64 = 512 << 20;

/// What a node will do.
#[derive(Debug)]
pub struct Planned {
    pub layout: ReplsetLayout,
    pub files: Vec<DataFile>,
    /// `mongod_opts` of the backup.
    pub options: Document,
    pub program: Program,
    /// The restored data ends here.
    pub end: Timestamp,
    /// Saved oplog after the backup; empty for a restore to the backup's own end.
    pub oplog: Vec<OplogObject>,
    /// The new data is made ready beside the old data, which stays until the new set is up.
    pub beside: bool,
    pub db_path: DbPath,
    pub host: Host,
    /// The configuration of the replica set after the restore.
    pub config: Document,
    /// Files that are fetched at a time, if it is set.
    pub at_once: Option<usize>,
}

/// Plans this node's part.
///
/// # Errors
/// The first reason why it can't be restored; nothing was changed.
pub async fn plan(cx: &Cx, storage: &Arc<dyn Storage>, restore: &RestoreCmd, backup: &BackupMeta) -> Result<Planned> {
    let part = part_of(cx, restore, backup)?;
    let settings = &cx.settings.restore.physical;
    let layout = ReplsetLayout::new(&backup.name, &part.name, backup.compression);
    let files = files(storage.as_ref(), backup, &part.name, &layout).await?;
    let commands = Commands { start: settings.start.clone(), stop: settings.stop.clone() };
    let host = Host::find(&cx.client, commands).await?;
    let program = program(cx, settings, host.pid, backup).await?;
    let oplog = match restore.oplog_ts {
        Some(target) => {
            let chunks = cx.control.chunks.of(&part.name).await?;
            oplog(storage.as_ref(), backup, part, &chunks, target).await?
        }
        None => Vec::new(),
    };
    let db_path = DbPath::new(host.db_path.clone());
    let fallback = restore.fallback_enabled.or(settings.fallback);
    let beside = is_beside(&db_path, download::total(&files), fallback)?;
    Ok(Planned {
        layout,
        files,
        options: part.mongod_opts.clone().unwrap_or_default(),
        program,
        end: restore.oplog_ts.unwrap_or_else(|| last_write(backup, part)),
        oplog,
        beside,
        db_path,
        host,
        config: config(cx).await?,
        at_once: restore.num_parallel_files.and_then(|n| usize::try_from(n).ok()).or(settings.parallel_files),
    })
}

/// The part of the backup that this replica set gets.
fn part_of<'a>(cx: &Cx, restore: &RestoreCmd, backup: &'a BackupMeta) -> Result<&'a BackupReplset> {
    ensure!(
        !cx.cluster.sharded,
        "physical backups of sharded clusters are not supported yet by this release; nothing was changed"
    );
    ensure!(backup.kind == BackupType::Physical, "it is a {} backup, which this release can't restore", backup.kind);
    let map = mapping(&restore.rs_map)?;
    part_named(backup, map.iter().find(|(_, to)| **to == cx.rs).map_or(&cx.rs, |(from, _)| from))
}

/// A part of the backup whose files this program can read.
///
/// # Errors
/// The backup is not complete, or its files can't be read.
pub fn part_named<'a>(backup: &'a BackupMeta, name: &str) -> Result<&'a BackupReplset> {
    let part = restorable(backup, name).map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    let made = Version::parse(&backup.pbm_version);
    ensure!(
        made.is_some_and(|it| it >= LISTED),
        "version {} made it, and physical backups of versions before {LISTED} can't be restored by this program",
        backup.pbm_version
    );
    let security = part.mongod_opts.as_ref().and_then(|it| it.get_document("security").ok());
    let encrypted = security.is_some_and(|it| it.get_bool("enableEncryption").unwrap_or(false));
    ensure!(!encrypted, "its data files are encrypted at rest, which this release can't restore");
    Ok(part)
}

/// The end of a part of a backup.
#[must_use]
pub fn last_write(backup: &BackupMeta, part: &BackupReplset) -> Timestamp {
    if part.last_write_ts.time > 0 { part.last_write_ts } else { backup.last_write_ts }
}

/// The files of a part of a backup. All of them are on the storage, with the sizes that were written.
///
/// # Errors
/// The list can't be read, or a file is missing or has another size.
pub async fn files(
    storage: &dyn Storage,
    backup: &BackupMeta,
    rs: &str,
    layout: &ReplsetLayout,
) -> Result<Vec<DataFile>> {
    let object = layout::filelist(&backup.name, rs);
    let list = read_all(storage, &object, filelist::LARGEST).await.context("read the list of files")?;
    let files = filelist::read(&list).with_context(|| format!("read '{object}'"))?;
    ensure!(!files.is_empty(), "the list of files '{object}' is empty");
    download::check(storage, layout, &files).await.context("the backup is not complete")?;
    Ok(files)
}

/// The mongod that makes the files ready. Files are only understood by servers of the same release series.
async fn program(cx: &Cx, settings: &FileRestoreSettings, pid: u32, backup: &BackupMeta) -> Result<Program> {
    let given = settings.mongod_of.get(&cx.me).or(settings.mongod.as_ref());
    let program = Program::find(given.map(String::as_str), Some(pid)).await?;
    ensure!(
        series(&backup.mongodb_version)? == series(&cx.version.server)?,
        "the backup was made on MongoDB {}, and this node runs {}: data files can only be restored to the same release series",
        backup.mongodb_version,
        cx.version.server
    );
    check_series(&program, backup).context("set restore.mongodLocation to another mongod")?;
    Ok(program)
}

fn series(version: &str) -> Result<(u32, u32)> {
    Version::parse(version).map(Version::series).with_context(|| format!("'{version}' is no version"))
}

/// Checks that the program is of the release series whose files the backup has.
///
/// # Errors
/// It is of another one.
pub fn check_series(program: &Program, backup: &BackupMeta) -> Result<()> {
    ensure!(
        series(&backup.mongodb_version)? == series(program.version())?,
        "{} is MongoDB {}, and the backup was made on {}, whose data files only a mongod of the same release series can read",
        program.path().display(),
        program.version(),
        backup.mongodb_version
    );
    Ok(())
}

/// Whether there is room for old and new data. If it was not asked for, the old data is only kept where there is.
fn is_beside(db_path: &DbPath, new: u64, fallback: Option<bool>) -> Result<bool> {
    if fallback == Some(false) {
        return room_in_place(db_path, new).map(|()| false);
    }
    let free = db_path.free()?;
    let obstacle = if !db_path.is_on_one_disk()? {
        Some("parts of it lie on other disks".to_owned())
    } else if free < new.saturating_add(SPARE) {
        Some(format!("{} MiB are free, and {} MiB are needed", free >> 20, new.saturating_add(SPARE) >> 20))
    } else {
        None
    };
    match obstacle {
        None => Ok(true),
        Some(why) if fallback == Some(true) => {
            bail!("the old data can't be kept beside the new data in {}: {why}", db_path.path().display())
        }
        Some(why) => {
            tracing::warn!("the old data is not kept in {}: {why}", db_path.path().display());
            room_in_place(db_path, new).map(|()| false)
        }
    }
}

fn room_in_place(db_path: &DbPath, new: u64) -> Result<()> {
    let room = db_path.free()?.saturating_add(db_path.size()?);
    ensure!(
        room >= new.saturating_add(SPARE),
        "{} has not enough room: the backup needs {} MiB, and {} MiB are there with the old data removed",
        db_path.path().display(),
        new.saturating_add(SPARE) >> 20,
        room >> 20
    );
    Ok(())
}

/// The configuration of the replica set as it is now. The copy's oplog can be of another term.
async fn config(cx: &Cx) -> Result<Document> {
    let admin = cx.client.database("admin");
    let answer = admin.run_command(doc! { "replSetGetConfig": 1 }).await.context("run replSetGetConfig")?;
    let now = answer.get_document("config").context("replSetGetConfig gave no configuration")?.clone();
    let version = now.get("version").and_then(|it| it.as_i64().or_else(|| it.as_i32().map(i64::from))).unwrap_or(1);
    let mut config = doc! { "_id": &cx.rs, "version": version + 1 };
    for key in ["protocolVersion", "writeConcernMajorityJournalDefault", "members", "settings"] {
        config.extend(now.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    // With an id of their own, members with the restored data never take a member with other data for one of them. An arbiter
    // has no data to restore and keeps the old id, so then all have to.
    let members = config.get_array("members").ok().into_iter().flatten();
    let arbiter = members.filter_map(bson::Bson::as_document).any(|it| it.get_bool("arbiterOnly").unwrap_or(false));
    let id = bson::oid::ObjectId::parse_str(&cx.opid).context("the id of the command")?;
    if let Ok(settings) = config.get_document_mut("settings")
        && !arbiter
    {
        settings.insert("replicaSetId", id);
    }
    Ok(config)
}

/// The saved oplog that leads to `target`, read to its end. `chunks` are those of the replica set.
///
/// # Errors
/// The oplog does not lead there, or is damaged.
pub async fn oplog(
    storage: &dyn Storage,
    backup: &BackupMeta,
    part: &BackupReplset,
    chunks: &[Chunk],
    target: Timestamp,
) -> Result<Vec<OplogObject>> {
    if let Some(why) = moment::too_early(backup, target) {
        bail!(why);
    }
    let from = last_write(backup, part);
    let objects: Vec<OplogObject> = chunks.iter().map(OplogObject::from).collect();
    let objects = chain(objects, from, target).map_err(|gap| anyhow::anyhow!(gap.explain(&part.name)))?;
    read_through(storage, &objects, target).await.map(|()| objects)
}

/// Reads all of the saved oplog. Whether it is of the same history as the backup is seen when it is added to the copy: the last
/// entry of the backup may be one that is left out of the saved oplog, because it is about a control collection.
async fn read_through(storage: &dyn Storage, objects: &[OplogObject], target: Timestamp) -> Result<()> {
    let mut entries = entries(storage, objects);
    let mut last = None;
    while let Some(entry) = entries.try_next().await? {
        last = last.max(Some(Entry::time(&entry)?));
    }
    let reached = objects.last().map(|it| it.to).max(last);
    ensure!(
        objects.is_empty() || reached.is_some_and(|it| it >= target),
        "the saved oplog ends before {},{}",
        target.time,
        target.increment
    );
    Ok(())
}

/// The entries of saved oplog, one object after the other.
pub fn entries<'a>(storage: &'a dyn Storage, objects: &'a [OplogObject]) -> BoxStream<'a, Result<RawDocumentBuf>> {
    stream::iter(0..objects.len())
        .then(move |at| async move {
            let object = &objects[at];
            let named = move || format!("read the oplog object '{}'", object.name);
            let found = read::entries(storage, &object.name, object.compression).await.with_context(named)?;
            anyhow::Ok(found.map(move |entry| entry.with_context(named)))
        })
        .try_flatten()
        .boxed()
}
