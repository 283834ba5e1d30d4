//! Checks whether a storage is the one that was used before.
//!
//! A storage gets a mark when it is first used (`.pbm.init`). If the control collections know a storage as used and the mark
//! is missing, it is a different storage: a folder whose mount is missing, or an empty bucket of the same name. The program
//! then writes nothing to it, deletes nothing from it and forgets nothing because of it, until a user confirms that it is new
//! on purpose.
//!
//! # What is known as used
//! A storage counts as used if a document of a complete backup names it, or if its mark was seen or written before (this is
//! recorded beside the configuration). The main storage also counts as used if there are PITR chunks and nothing says that
//! they are elsewhere.

use super::place;
use crate::config::{
    open::{self, Probe, Root},
    same_place,
};
use crate::{
    control::Control,
    layout,
    model::{config::StorageConf, store::StoreKind},
    storage::{self, Storage, rate::Pace, wrap::guarded::Guarded},
};
use anyhow::{Context, Result};
use std::{sync::Arc, time::Duration};

/// How long the mark of a storage counts as seen, if the storage is no folder.
const MARK_COUNTS_FOR: Duration = Duration::from_secs(20);

/// The configured storage was used before, but the storage that was found was not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{store} lacks {what}, although {known}: is a mount missing? Bring the storage back; if it is new and empty on purpose, {remedy}"
)]
pub struct Lost {
    store: String,
    what: &'static str,
    known: String,
    remedy: String,
}

impl Lost {
    fn new(settings: &StorageConf, what: &'static str, known: String) -> Self {
        let remedy = match place::profile_of(settings) {
            None => {
                "run `pbm config --force-resync --accept-empty`, which forgets the backups of the old one, or configure \
                 another path"
                    .to_owned()
            }
            Some(name) => format!(
                "run `pbm profile sync {name} --accept-empty`, which forgets the backups of the old one, or add a profile \
                 with another path"
            ),
        };
        Self { store: named(settings), what, known, remedy }
    }
}

const MARK: &str = "its mark .pbm.init";
const FOLDER: &str = "its folder";

/// A storage, and the options for opening it.
#[derive(Debug, Clone)]
pub struct Way<'a> {
    settings: &'a StorageConf,
    node: &'a str,
    pace: Option<Pace>,
    brief: bool,
}

impl<'a> Way<'a> {
    /// The storage as the node `node` (`host:port`) reaches it.
    #[must_use]
    pub fn new(settings: &'a StorageConf, node: &'a str) -> Self {
        Self { settings, node, pace: None, brief: false }
    }

    /// Limits the rate of everything that is sent to the storage.
    #[must_use]
    pub fn paced(self, pace: Option<Pace>) -> Self {
        Self { pace, ..self }
    }

    /// Opens the storage for a caller who waits for the answer.
    #[must_use]
    pub fn briefly(self) -> Self {
        Self { brief: true, ..self }
    }

    /// Opens the storage without checking whether it is the right one.
    ///
    /// # Errors
    /// As [`open::open`].
    pub async fn open(&self, root: Root) -> Result<Arc<dyn Storage>> {
        match self.brief {
            true => open::open_briefly(self.settings, self.node, root).await,
            false => open::open_paced(self.settings, self.node, self.pace.clone(), root).await,
        }
    }
}

/// Opens a storage and checks that it is the one that was used before. The folder is only created if the storage is new.
///
/// If the storage has a mark, the returned storage writes and deletes only while the mark is there.
///
/// # Errors
/// [`Lost`]; those of opening, of the storage and of the control collections.
pub async fn find(control: &Control, way: &Way<'_>) -> Result<(Arc<dyn Storage>, Probe)> {
    let settings = way.settings;
    let store = match way.open(Root::MustExist).await {
        Err(error) if is_missing(&error) => match used(control, settings).await? {
            Some(known) => return Err(Lost::new(settings, FOLDER, known).into()),
            None => way.open(Root::MakeIfMissing).await?,
        },
        store => store?,
    };
    if settings.is_of(StoreKind::Blackhole) {
        return Ok((store, Probe::Initialised));
    }
    match open::probe(store.as_ref()).await? {
        Probe::Initialised => Ok((guarded(store, settings), Probe::Initialised)),
        Probe::Missing => match used(control, settings).await? {
            Some(known) => Err(Lost::new(settings, MARK, known).into()),
            None => Ok((store, Probe::Missing)),
        },
    }
}

/// Does the same as [`find`], and marks a new storage.
///
/// # Errors
/// As [`find`].
pub async fn prepare(control: &Control, way: &Way<'_>) -> Result<Arc<dyn Storage>> {
    let (store, probe) = find(control, way).await?;
    let settings = way.settings;
    if settings.is_of(StoreKind::Blackhole) {
        return Ok(store);
    }
    let store = match probe {
        Probe::Initialised => store,
        Probe::Missing => {
            open::write_init(store.as_ref()).await.context("write the storage's mark .pbm.init")?;
            guarded(store, settings)
        }
    };
    remember(control, settings).await?;
    Ok(store)
}

/// Records that this storage has a mark.
///
/// # Errors
/// The control collections can't be written.
pub async fn remember(control: &Control, settings: &StorageConf) -> Result<()> {
    control.config.remember_storage(&place(settings)).await
}

/// Removes the record that this storage has a mark.
///
/// # Errors
/// The control collections can't be written.
pub async fn forget(control: &Control, settings: &StorageConf) -> Result<()> {
    control.config.forget_storage(&place(settings)).await
}

/// Does the storage hold files of a complete backup that is known to be on it? Then it is the right one, even without its
/// mark.
///
/// # Errors
/// The storage, or the control collections, can't be read.
pub async fn holds_known_backups(control: &Control, settings: &StorageConf, store: &dyn Storage) -> Result<bool> {
    for (name, place) in control.backups.places_of_done().await? {
        if same_place(&place, settings) {
            match store.stat(&layout::backup_meta(&name)).await {
                Ok(_) => return Ok(true),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(false)
}

/// Returns the reason why a storage is known as used; `None` if it is new.
async fn used(control: &Control, settings: &StorageConf) -> Result<Option<String>> {
    let done = control.backups.places_of_done().await?;
    let here: Vec<&str> =
        done.iter().filter(|(_, place)| same_place(place, settings)).map(|(name, _)| name.as_str()).collect();
    if let [.., last] = here[..] {
        return Ok(Some(match here.len() {
            1 => format!("backup {last} is known to be on it"),
            n => format!("{n} backups are known to be on it, the last one {last}"),
        }));
    }
    let marked = control.config.remembered_storages().await?;
    if marked.contains(&place(settings)) {
        return Ok(Some("it had one before".to_owned()));
    }
    let is_main = place::profile_of(settings).is_none();
    let elsewhere = !marked.is_empty() || done.iter().any(|(_, place)| place::profile_of(place).is_none());
    if is_main && !elsewhere && control.chunks.newest_end().await?.is_some() {
        return Ok(Some("PITR chunks are known to be on it".to_owned()));
    }
    Ok(None)
}

fn guarded(store: Arc<dyn Storage>, settings: &StorageConf) -> Arc<dyn Storage> {
    let counts_for = if settings.is_of(StoreKind::Filesystem) { Duration::ZERO } else { MARK_COUNTS_FOR };
    Arc::new(Guarded::new(store, counts_for))
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<storage::Error>().is_some_and(storage::Error::is_not_found)
}

/// Names the place where the objects lie. Settings that do not change the place, such as keys, are left out.
fn place(settings: &StorageConf) -> String {
    format!("{} {}", settings.kind, crate::config::place(settings))
}

fn named(settings: &StorageConf) -> String {
    let path =
        settings.filesystem.as_ref().map(|it| it.path.as_str()).filter(|_| settings.is_of(StoreKind::Filesystem));
    let bucket = settings.object_store().and_then(|it| it.get_str("bucket").or_else(|_| it.get_str("container")).ok());
    match path.or(bucket) {
        Some(name) => format!("{} {name}", settings.kind),
        None => format!("the {} storage", settings.kind),
    }
}
