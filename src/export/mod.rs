//! A replica set's part of a logical backup as a mongodump archive, for `mongorestore --archive`.
//!
//! # Overview
//!
//! Everything comes from the storage; no server is asked. [`prepare`] reads the metadata of the backup and checks that
//! all objects are there. [`Export::write`] sends the stream: the list of namespaces, then one namespace after the other in
//! blocks, then the oplog of the time of the backup under mongodump's name for it. A backup made before 2.0 is such an
//! archive already; its blocks are passed on.
//!
//! # Damage
//!
//! The block that ends a namespace is sent only when its bytes had the recorded size and checksum. So whoever reads a stream
//! that ended early finds out, whatever became of our error.
//!
//! # Memory
//!
//! An export needs the memory of one block, of the codecs and of the channel. The size of the backup does not matter.

pub mod oplog;
pub mod select;

use crate::{
    archive::{
        crc::Crc64,
        demux::Frame,
        described,
        frame::{self, Cutter, OPLOG},
        meta::{ArchiveMeta, NamespaceKind, NamespaceMeta, collection_metadata, read_prelude},
        prelude::{Prelude, PreludeEntry},
    },
    layout::{Generation, ReplsetLayout},
    model::{
        self,
        backup::{BackupMeta, BackupReplset},
        names::{TMP_ROLES, TMP_USERS},
    },
    oplog::{read, unreadable_names::leave_out},
    restore::plan::{
        loadable,
        slices::{Ends, OplogObject, cover},
    },
    snapshot::{stored::StoredDocuments, unpack::Packed},
    storage::{self, ObjectInfo, Storage},
};
use anyhow::{Context as _, Result, bail};
use bson::Timestamp;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use oplog::Collections;
use select::Selection;
use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::mpsc;

/// A block is sent when it has this much, which is far below what mongodump fills.
const BLOCK: usize = 1 << 20;

/// An export that is possible as far as the listing of the storage tells.
#[derive(Debug)]
pub struct Export {
    storage: Arc<dyn Storage>,
    prelude: Prelude,
    source: Source,
    oplog: Option<Oplog>,
    selection: Selection,
    collections: Collections,
    /// Uncompressed bytes of the collections; 0 where that is unknown.
    pub bytes: u64,
}

/// Where the documents come from.
#[derive(Debug)]
enum Source {
    /// In the order of the list.
    Objects(Vec<Item>),
    /// Before 2.0. Name of the blocks there → here.
    Archive { packed: Packed, names: HashMap<Name, Name> },
}

/// Database and collection of the blocks.
type Name = (String, String);

#[derive(Debug)]
struct Item {
    name: Name,
    data: Option<StoredDocuments>,
}

#[derive(Debug)]
struct Oplog {
    objects: Vec<OplogObject>,
    /// Entries after this time are left out.
    end: Timestamp,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exported {
    pub namespaces: u64,
    pub oplog_entries: u64,
    /// Operations that were left out because the names of their collections are not valid UTF-8.
    pub left_out: u64,
}

/// Bytes of collections that were read so far.
pub type Progress = Arc<AtomicU64>;

/// Reads what the backup says of itself; `rs` is one of its replica sets.
///
/// # Errors
/// The backup is of another kind or not complete, or nothing of it is selected.
pub async fn prepare(
    storage: Arc<dyn Storage>,
    backup: &BackupMeta,
    rs: &str,
    selection: Selection,
    oplog: bool,
) -> Result<Export> {
    let held = model::selection::Selection::of(&backup.nss, backup.nss_narrowed.as_ref());
    let held = held.with_context(|| format!("read what backup '{}' holds", backup.name))?;
    let selection = selection.of_backup(held);
    let part = loadable(backup, rs).map_err(|refusal| {
        anyhow::anyhow!("backup '{}' can't be exported: {}", backup.name, refusal.reasons.join("; "))
    })?;
    let generation = Generation::of(&backup.pbm_version);
    let mut found = match generation {
        Generation::Archive => of_archive(storage.as_ref(), backup, part).await?,
        Generation::OneOplog | Generation::Current => of_objects(storage.as_ref(), backup, part).await?,
    };
    let (entries, picked) = pick(&found.meta.namespaces, &selection);
    if entries.is_empty() {
        bail!("backup '{}' has nothing of what was selected on replica set '{rs}'", backup.name);
    }
    let mut prelude = Prelude {
        concurrent_collections: 1,
        server_version: version(&found.meta.server_version, backup),
        tool_version: backup.pbm_version.clone(),
        entries,
    };
    let oplog = match oplog {
        true => Some(find_oplog(backup, part, generation, &found.objects)?),
        false => None,
    };
    if oplog.is_some() {
        prelude.entries.push(PreludeEntry::oplog());
    }
    let mut collections = Collections::default();
    for (meta, _, (db, coll)) in &picked {
        // A bucket collection has its own UUID, but is tracked by its name.
        collections.add(db, coll, meta.uuid.filter(|_| meta.kind == NamespaceKind::Collection));
    }
    let mut bytes = 0;
    let source = match found.packed.take() {
        Some(packed) => Source::Archive {
            packed,
            names: picked.into_iter().map(|(meta, from, to)| (name_of(meta, &from), to)).collect(),
        },
        None => {
            let layout = ReplsetLayout::new(&backup.name, rs, backup.compression);
            let items = picked.into_iter().map(|(meta, from, name)| {
                let data = find_data(meta, &layout, &found.objects, &from)?;
                bytes += data.as_ref().map_or(0, |data| data.size);
                Ok(Item { name, data })
            });
            Source::Objects(items.collect::<Result<_>>()?)
        }
    };
    Ok(Export { storage, prelude, source, oplog, selection, collections, bytes })
}

/// What a backup says of itself.
struct Found {
    meta: ArchiveMeta,
    objects: Vec<ObjectInfo>,
    packed: Option<Packed>,
}

async fn of_objects(storage: &dyn Storage, backup: &BackupMeta, part: &BackupReplset) -> Result<Found> {
    let layout = ReplsetLayout::new(&backup.name, &part.name, backup.compression);
    let name = layout.metadata_of(part);
    let meta = described::read(storage, &name).await?;
    let folder = format!("{}/{}", backup.name, part.name);
    let wanted = meta.stored(&layout).map(|(name, _)| name);
    let objects = storage::list_with(storage, &folder, wanted).await.with_context(|| format!("list '{folder}'"))?;
    Ok(Found { meta, objects, packed: None })
}

async fn of_archive(storage: &dyn Storage, backup: &BackupMeta, part: &BackupReplset) -> Result<Found> {
    let packed = Packed { object: part.dump_name.clone(), compression: backup.compression };
    let archive = packed.open(storage).await?;
    let prelude = archive.prelude();
    let meta = ArchiveMeta {
        concurrent_collections: prelude.concurrent_collections,
        server_version: prelude.server_version.clone(),
        tool_version: prelude.tool_version.clone(),
        namespaces: read_prelude(prelude).with_context(|| format!("read '{}'", packed.object))?,
        remains: Vec::new(),
        written: Vec::new(),
    };
    let objects = match storage.stat(&part.oplog_name).await {
        Ok(info) => vec![info],
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("look at '{}'", part.oplog_name)),
    };
    Ok(Found { meta, objects, packed: Some(packed) })
}

/// mongorestore wants a version number there.
fn version(known: &str, backup: &BackupMeta) -> String {
    [known, &backup.mongodb_version, "0.0.0"].into_iter().find(|text| !text.is_empty()).unwrap_or_default().to_owned()
}

/// A namespace of the backup, the collection that holds its documents there, and the name of its blocks in the export.
type Picked<'a> = (&'a NamespaceMeta, String, Name);

fn pick<'a>(namespaces: &'a [NamespaceMeta], selection: &Selection) -> (Vec<PreludeEntry>, Vec<Picked<'a>>) {
    let (mut entries, mut picked) = (Vec::new(), Vec::new());
    for meta in namespaces {
        let (db, coll) = (meta.db.as_str(), meta.coll.as_str());
        let buckets = coll.starts_with(crate::model::names::BUCKETS);
        let to = match (db, coll) {
            // The consistent copies take the places of what they were copied from.
            ("admin", TMP_USERS) if selection.users => "system.users",
            ("admin", TMP_ROLES) if selection.users => "system.roles",
            // Without it mongorestore takes no users.
            ("admin", "system.version") if selection.users => coll,
            _ if !buckets && selection.wants(db, coll) => coll,
            _ => continue,
        };
        let described = namespaces.iter().find(|other| other.db == db && other.coll == to);
        let named = NamespaceMeta { coll: to.to_owned(), uuid: described.and_then(|d| d.uuid), ..meta.clone() };
        let entry = PreludeEntry { metadata: collection_metadata(&named), ..PreludeEntry::of(&named) };
        picked.push((meta, meta.coll.clone(), (db.to_owned(), entry.data_collection())));
        entries.push(entry);
    }
    (entries, picked)
}

/// The name of a namespace's blocks in the archive that it comes from.
fn name_of(meta: &NamespaceMeta, coll: &str) -> Name {
    (meta.db.clone(), PreludeEntry { coll: coll.to_owned(), ..PreludeEntry::of(meta) }.data_collection())
}

fn find_data(
    meta: &NamespaceMeta,
    layout: &ReplsetLayout,
    objects: &[ObjectInfo],
    coll: &str,
) -> Result<Option<StoredDocuments>> {
    let ns = || format!("{}.{coll}", meta.db);
    let size = u64::try_from(meta.size).with_context(|| format!("read the size of '{}'", ns()))?;
    if size == 0 {
        return Ok(None);
    }
    let object = meta.object_in(layout);
    match objects.iter().find(|info| info.name == object) {
        None => bail!("object '{object}' does not exist; the backup is not complete"),
        Some(info) if info.size == 0 => bail!("object '{object}' is empty; the backup is not complete"),
        Some(_) => Ok(Some(StoredDocuments { object, compression: layout.compression, size, crc: meta.crc })),
    }
}

fn find_oplog(
    backup: &BackupMeta,
    part: &BackupReplset,
    generation: Generation,
    objects: &[ObjectInfo],
) -> Result<Oplog> {
    let (first, last) = (part.first_write_ts, backup.last_write_ts);
    if generation == Generation::Current {
        let layout = ReplsetLayout::new(&backup.name, &part.name, backup.compression);
        let dir = if part.oplog_name.is_empty() { layout.oplog_dir() } else { part.oplog_name.clone() };
        let slices = cover(&dir, objects, first, last).map_err(|problems| anyhow::anyhow!(problems.join("; ")))?;
        return Ok(Oplog { objects: slices, end: last });
    }
    let info = objects.iter().find(|info| info.name == part.oplog_name && info.size > 0);
    let info = info.with_context(|| format!("oplog '{}' does not exist or is empty", part.oplog_name))?;
    // The object's range ends at the last write of the cluster, but its last entry is the last write of this replica set.
    let ends = if part.last_write_ts.time > 0 { last.min(part.last_write_ts) } else { last };
    let range = (first, ends);
    let object = OplogObject {
        size: info.size,
        ..OplogObject::new(info.name.clone(), backup.compression, range, Ends::Unnamed)
    };
    Ok(Oplog { objects: vec![object], end: last })
}

/// Where the stream goes. An error of ours is its last item.
pub type Sink = mpsc::Sender<std::io::Result<Bytes>>;

impl Export {
    /// Sends the whole archive.
    ///
    /// # Errors
    /// Something of the backup is missing or damaged, or nobody reads any more. What was sent is then not whole, and shows it.
    pub async fn write(mut self, sink: &Sink, progress: &Progress) -> Result<Exported> {
        let mut done = Exported::default();
        send(sink, [frame::head(&self.prelude).into()]).await?;
        match &self.source {
            Source::Objects(items) => {
                for item in items {
                    self.object(item, sink, progress)
                        .await
                        .with_context(|| format!("export '{}.{}'", item.name.0, item.name.1))?;
                    done.namespaces += 1;
                }
            }
            Source::Archive { packed, names } => done.namespaces = self.archive(packed, names, sink, progress).await?,
        }
        if let Some(oplog) = self.oplog.take() {
            (done.oplog_entries, done.left_out) = self.oplog(&oplog, sink).await.context("export the oplog")?;
        }
        Ok(done)
    }

    async fn object(&self, item: &Item, sink: &Sink, progress: &Progress) -> Result<()> {
        let (db, coll) = (item.name.0.as_str(), item.name.1.as_str());
        let Some(data) = &item.data else { return send(sink, [frame::end(db, coll, 0)]).await };
        let mut reading = data.open(self.storage.as_ref()).await?;
        let mut cutter = Cutter::default();
        while let Some(chunk) = reading.next().await? {
            progress.fetch_add(chunk.len() as u64, Relaxed);
            cutter.push(&chunk).map_err(|reason| data.damaged(reason))?;
            if let Some(documents) = cutter.take(BLOCK) {
                send(sink, frame::block(db, coll, documents)).await?;
            }
        }
        if cutter.is_within_document() {
            return Err(data.damaged("it ends within a document".to_owned()).into());
        }
        if let Some(documents) = cutter.take(0) {
            send(sink, frame::block(db, coll, documents)).await?;
        }
        send(sink, [frame::end(db, coll, data.crc)]).await
    }

    async fn archive(
        &self,
        packed: &Packed,
        names: &HashMap<Name, Name>,
        sink: &Sink,
        progress: &Progress,
    ) -> Result<u64> {
        let mut archive = packed.open(self.storage.as_ref()).await?;
        let goals: Vec<Option<&Name>> = archive.names().iter().map(|name| names.get(name)).collect();
        let (mut cutter, mut ended, mut seen) = (Cutter::default(), 0, vec![false; goals.len()]);
        while let Some(piece) = archive.next().await.map_err(|source| packed.failed(source))? {
            let (Frame::Part { ns, .. } | Frame::BlockEnd { ns } | Frame::End { ns, .. }) = piece;
            let Some((db, coll)) = goals[ns] else { continue };
            match piece {
                Frame::Part { bytes, .. } => {
                    progress.fetch_add(bytes.len() as u64, Relaxed);
                    cutter
                        .push(&bytes)
                        .map_err(|reason| anyhow::anyhow!("'{}' is damaged: {reason}", packed.object))?;
                    if let Some(documents) = cutter.take(BLOCK) {
                        send(sink, frame::block(db, coll, documents)).await?;
                    }
                }
                // Blocks end behind whole documents, so nothing of this namespace is left in the cutter.
                Frame::BlockEnd { .. } => {
                    if let Some(documents) = cutter.take(0) {
                        send(sink, frame::block(db, coll, documents)).await?;
                    }
                }
                Frame::End { crc, .. } => {
                    send(sink, [frame::end(db, coll, crc)]).await?;
                    (ended, seen[ns]) = (ended + 1, true);
                }
            }
        }
        // Views, which old archives may have without blocks.
        for (goal, _) in goals.iter().zip(seen).filter(|(_, seen)| !seen) {
            if let Some((db, coll)) = goal {
                send(sink, [frame::end(db, coll, 0)]).await?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// Returns how many entries were written, and how many operations were left out because of the names of their collections.
    async fn oplog(&mut self, oplog: &Oplog, sink: &Sink) -> Result<(u64, u64)> {
        // mongorestore recognizes the oplog by a block that is not its end block, so an oplog without entries needs one, too.
        send(sink, frame::block(OPLOG.0, OPLOG.1, Bytes::new())).await?;
        let (mut crc, mut block, mut count, mut left_out) = (Crc64::new(), BytesMut::new(), 0, 0);
        let mut last: Option<Timestamp> = None;
        for object in &oplog.objects {
            let mut entries = pin!(read::entries(self.storage.as_ref(), &object.name, object.compression).await?);
            let mut reached = last;
            while let Some(raw) = entries.next().await {
                let raw = raw.with_context(|| format!("read '{}'", object.name))?;
                let ts = raw.get_timestamp("ts").with_context(|| format!("read an entry of '{}'", object.name))?;
                reached = reached.max(Some(ts));
                // Neighbouring slices share the entry at their border.
                if last.is_some_and(|last| ts <= last) || ts > oplog.end {
                    continue;
                }
                last = Some(ts);
                let wants = |ns: &str| ns.split_once('.').is_some_and(|(db, coll)| self.selection.wants(db, coll));
                let shortened = leave_out(&raw, &wants)?;
                left_out += shortened.as_ref().map_or(0, |shortened| shortened.names.len() as u64);
                let raw = shortened.as_ref().map_or(&raw, |shortened| &shortened.entry);
                let Some(entry) = oplog::selected(raw, None, &self.selection, &mut self.collections)? else {
                    continue;
                };
                crc.update(entry.as_bytes());
                block.extend_from_slice(entry.as_bytes());
                count += 1;
                if block.len() >= BLOCK {
                    send(sink, frame::block(OPLOG.0, OPLOG.1, block.split().freeze())).await?;
                }
            }
            if reached.is_none_or(|reached| reached < object.to) {
                bail!(
                    "'{}' is damaged: its entries end before {},{}",
                    object.name,
                    object.to.time,
                    object.to.increment
                );
            }
        }
        if !block.is_empty() {
            send(sink, frame::block(OPLOG.0, OPLOG.1, block.freeze())).await?;
        }
        send(sink, [frame::end(OPLOG.0, OPLOG.1, crc.value())]).await?;
        Ok((count, left_out))
    }
}

async fn send(sink: &Sink, pieces: impl IntoIterator<Item = Bytes>) -> Result<()> {
    for piece in pieces {
        sink.send(Ok(piece)).await.ok().context("nobody reads the archive any more")?;
    }
    Ok(())
}
