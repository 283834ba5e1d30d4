//! The control collections learn again what is on a storage (docs/format.md A.10).
//!
//! # Memory
//!
//! Metadata files are read a few at a time and written in batches, so that of thousands of backups only the names are
//! kept, and 80 bytes of each PITR chunk ([`crate::control::ChunkTable`], for the storage and for the index).
//!
//! # Damage
//!
//! A file that can't be read as metadata is logged with its name and the reason, and left out. A backup whose files are
//! not complete is kept with status `error` and the reason, in the database only.

use super::inventory::{self, Read};
use crate::control::{Control, Entry, Shelf};
use crate::model::config::{Config, StorageConf};
use crate::storage::Storage;
use crate::{
    config::open::{self, Probe},
    storages::place,
};
use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use std::collections::HashSet;

/// Backups that are written at a time.
const BATCH: usize = 250;

/// Replaces what is known of backups, PITR chunks and restores by what `store` holds, and starts a new generation of
/// the configuration.
///
/// # Errors
/// The storage can't be written or listed, or the control collections can't be written. Nothing that was known is
/// forgotten then.
pub async fn main_storage(
    control: &Control,
    store: &dyn Storage,
    config: &Config,
    include_restores: bool,
) -> Result<()> {
    // Writing the mark again shows that the storage can be written, which the operator wants to know now.
    open::write_init(store).await.context("write the storage's mark .pbm.init")?;

    let backups = backups(control, Shelf::Main, store, &config.storage).await?;

    let mut known = control.chunks.table().await?;
    let mut chunks = inventory::chunks(store).await.context("read the PITR chunks on the storage")?;
    control.chunks.replace(&mut known, &mut chunks).await?;

    let restores = inventory::restores(store, include_restores).await.context("read the restores on the storage")?;
    control.restores.replace_found(&restores).await?;

    let epoch = control.cluster_time().await?;
    control.config.set_epoch(epoch).await?;
    tracing::info!("found {backups} backups, {} PITR chunks, {} restores", chunks.len(), restores.len());
    Ok(())
}

/// Replaces what is known of a profile's backups by what `store` holds. Nothing is written there.
///
/// # Errors
/// As [`main_storage`].
pub async fn profile(control: &Control, store: &dyn Storage, profile: &Config) -> Result<()> {
    let name = profile.name.as_deref().unwrap_or_default();
    let backups = backups(control, Shelf::Profile(name), store, &place::named(profile)).await?;
    tracing::info!("found {backups} backups on the storage of profile {name}");
    Ok(())
}

/// Forgets the backups of a profile; their files stay.
///
/// # Errors
/// The control collections can't be written.
pub async fn clear(control: &Control, profile: &str) -> Result<()> {
    let forgotten = control.backups.drop_others(Shelf::Profile(profile), &HashSet::new()).await?;
    tracing::info!("forgot {forgotten} backups of profile {profile}; their files stay");
    Ok(())
}

/// The catalogue of one storage. Gives the number of backups.
async fn backups(control: &Control, shelf: Shelf<'_>, store: &dyn Storage, settings: &StorageConf) -> Result<usize> {
    let mut there = HashSet::new();
    let found = inventory::backups(store, settings).await.context("read the backups on the storage")?;
    let mut batches = std::pin::pin!(found.try_chunks(BATCH));
    while let Some(batch) = batches.try_next().await.map_err(|e| e.1).context("read the backups on the storage")? {
        let entries: Vec<Entry> = batch.into_iter().filter_map(|read| entry(shelf, read)).collect();
        there.extend(entries.iter().map(|entry| entry.backup.name.clone()));
        for name in control.backups.put_found(shelf, &entries).await? {
            tracing::warn!("a backup named {name} is known on another storage; the one found here is left out");
            there.remove(&name);
        }
    }
    if shelf == Shelf::Main && open::probe(store).await? == Probe::Missing {
        bail!("{store} has lost its mark .pbm.init while it was read, so nothing is forgotten: is a mount missing?");
    }
    control.backups.drop_others(shelf, &there).await?;
    Ok(there.len())
}

/// What becomes of a file; what is wrong with it is logged.
fn entry(shelf: Shelf<'_>, read: Read) -> Option<Entry> {
    match read {
        Read::Unreadable { object, reason } => {
            tracing::warn!("{object} can't be read as a backup's metadata and is left out: {reason}");
            None
        }
        Read::Backup(found) => {
            for problem in &found.problems {
                tracing::warn!("backup {}: {problem}", found.meta.name);
            }
            // The folder of a profile's storage may lie within the main storage.
            let wins = shelf == Shelf::Main && found.is_in_place();
            Some(Entry { backup: found.into_document(), wins })
        }
    }
}
