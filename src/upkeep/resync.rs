//! The control collections learn again what is on the main storage (spec/format.md A.10).

use super::catalogue;
use crate::config::open;
use crate::control::Control;
use crate::model::{backup::BackupMeta, config::Config};
use crate::storage::Storage;
use anyhow::{Context, Result};

/// Replaces what is known of backups, PITR chunks and restores by what `store` holds, and starts a new generation of
/// the configuration.
///
/// A backup whose files are not complete is kept with status `error` and the reason, in the database only. Files that
/// can't be read as metadata are logged and left out.
///
/// # Errors
/// The storage can't be written or listed, or the control collections can't be written. What was read before stays.
pub async fn main_storage(
    control: &Control,
    store: &dyn Storage,
    config: &Config,
    include_restores: bool,
) -> Result<()> {
    // Writing the mark again shows that the storage can be written, which the operator wants to know now.
    open::write_init(store).await.context("write the storage's mark .pbm.init")?;

    let scan = catalogue::backups(store, &config.storage).await.context("read the backups on the storage")?;
    for (name, reason) in &scan.unreadable {
        tracing::warn!("{name} can't be read as a backup's metadata and is left out: {reason}");
    }
    let backups: Vec<BackupMeta> = scan
        .found
        .into_iter()
        .map(|found| {
            for problem in &found.problems {
                tracing::warn!("backup {}: {problem}", found.meta.name);
            }
            found.into_document()
        })
        .collect();
    control.backups.replace_main_storage(&backups).await?;

    let known = control.chunks.all().await?;
    let chunks = catalogue::chunks(store).await.context("read the PITR chunks on the storage")?;
    control.chunks.replace(&known, &chunks).await?;

    let restores = catalogue::restores(store, include_restores).await.context("read the restores on the storage")?;
    control.restores.replace_found(&restores).await?;

    let epoch = control.cluster_time().await?;
    control.config.set_epoch(epoch).await?;
    tracing::info!("found {} backups, {} PITR chunks, {} restores", backups.len(), chunks.len(), restores.len());
    Ok(())
}
