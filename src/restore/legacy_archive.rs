//! One replica set's part of a backup made before 2.0: a mongodump archive that is read once before anything is
//! changed.
//!
//! Only the archive itself shows what it contains: there is no list of sizes and checksums, and a truncated file is
//! noticed only at its end. So it is first read to its end. This proves that it is complete, gives the size and
//! checksum of every namespace, and sets aside the collections that are needed besides the one pass that loads the
//! others: users, roles and routing tables.

use super::plan::namespaces::{Fate, Wish, aside_name, fate};
use crate::model::names::BUCKETS;
use crate::{
    archive::{
        demux::{Archive, Frame},
        meta::{NamespaceKind, NamespaceMeta, read_prelude},
    },
    model::{backup::BackupReplset, compression::Compression},
    snapshot::unpack::Packed,
    storage::{ObjectInfo, Storage, memory::Memory, write_all},
};
use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use std::{collections::HashMap, sync::Arc};

/// The most bytes that are set aside. They have to fit into memory. The routing tables of a million chunks take some
/// hundred MiB.
const ASIDE: usize = 512 << 20;

/// The contents of an archive.
#[derive(Debug)]
pub struct Contents {
    pub packed: Packed,
    /// The namespaces with their sizes and checksums.
    pub namespaces: Vec<NamespaceMeta>,
    /// Contains users, roles, settings and routing tables, each under its [`aside_name`].
    pub aside: Arc<Memory>,
    /// The objects of the archive and the oplog, if they exist.
    pub objects: Vec<ObjectInfo>,
}

/// Reads the archive to its end.
///
/// # Errors
/// The archive is missing or damaged, or the collections to set aside are too large.
pub async fn inspect(
    storage: &dyn Storage,
    part: &BackupReplset,
    compression: Compression,
    wish: &Wish,
) -> Result<Contents> {
    if part.dump_name.is_empty() {
        bail!("the backup's metadata does not name the archive of replica set '{}'", part.name);
    }
    let packed = Packed { object: part.dump_name.clone(), compression };
    let mut objects = Vec::new();
    for name in [&part.dump_name, &part.oplog_name] {
        match storage.stat(name).await {
            Ok(info) => objects.push(info),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error).with_context(|| format!("look at '{name}'")),
        }
    }
    let mut archive = packed.open(storage).await?;
    let mut namespaces = read_prelude(archive.prelude()).with_context(|| format!("read '{}'", packed.object))?;
    let mut aside: Vec<Option<BytesMut>> =
        archive.names().iter().map(|(db, coll)| is_set_aside(db, coll, wish).then(BytesMut::new)).collect();
    let (sizes, kept) = read_on(&mut archive, &packed, &mut aside).await?;
    let names = archive.names().to_vec();
    let memory = Memory::new();
    for ((db, coll), bytes) in names.iter().zip(kept) {
        if let Some(bytes) = bytes {
            write_all(&memory, &aside_name(db, coll), bytes).await?;
        }
    }
    let found: HashMap<&(String, String), (i64, i64)> = names.iter().zip(sizes).collect();
    for meta in &mut namespaces {
        let coll = match meta.kind {
            NamespaceKind::Timeseries => format!("{BUCKETS}{}", meta.coll),
            NamespaceKind::Collection | NamespaceKind::View => meta.coll.clone(),
        };
        (meta.size, meta.crc) = found.get(&(meta.db.clone(), coll)).copied().unwrap_or_default();
    }
    Ok(Contents { packed, namespaces, aside: Arc::new(memory), objects })
}

fn is_set_aside(db: &str, coll: &str, wish: &Wish) -> bool {
    matches!(fate(db, coll, wish), Fate::Users | Fate::Roles | Fate::Routing | Fate::Settings)
}

/// Reads the rest, and returns the size and checksum of every namespace and the bytes of those that are set aside.
async fn read_on(
    archive: &mut Archive,
    packed: &Packed,
    aside: &mut [Option<BytesMut>],
) -> Result<(Vec<(i64, i64)>, Vec<Option<Bytes>>)> {
    let mut sizes = vec![(0, 0); archive.names().len()];
    let mut total = 0;
    while let Some(frame) = archive.next().await.map_err(|source| packed.failed(source))? {
        match frame {
            Frame::Part { ns, bytes } => {
                let Some(kept) = &mut aside[ns] else { continue };
                total += bytes.len();
                if total > ASIDE {
                    bail!(
                        "'{}': users, roles and routing tables take more than {ASIDE} bytes, which is more than is kept",
                        packed.object
                    );
                }
                kept.extend_from_slice(&bytes);
            }
            Frame::BlockEnd { .. } => {}
            Frame::End { ns, size, crc } => {
                sizes[ns] = (i64::try_from(size).context("count the bytes of a namespace")?, crc);
            }
        }
    }
    Ok((sizes, aside.iter_mut().map(|kept| kept.take().map(BytesMut::freeze)).collect()))
}

/// Returns the databases that an archive announces. Reads only its list of namespaces.
///
/// # Errors
/// The archive is missing, or does not begin like an archive.
pub async fn databases(storage: &dyn Storage, object: &str, compression: Compression) -> Result<Vec<String>> {
    let archive = Packed { object: object.to_owned(), compression }.open(storage).await?;
    Ok(archive.prelude().entries.iter().map(|entry| entry.db.clone()).filter(|db| !db.is_empty()).collect())
}
