//! Where a command finds the backup that it reads by itself, without agents: through the cluster, or without any server.

use crate::cmd::io::{
    context::Context,
    error::{CliError, Result},
    output::Format,
    storage as place,
};
use crate::{
    archive::backup_json,
    config, layout,
    model::{
        backup::BackupMeta,
        config::{FilesystemConf, StorageConf},
    },
    restore::Sources,
    storage::{self, Storage},
};
use anyhow::Context as _;
use clap::Args;
use futures::TryStreamExt as _;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// No backup's metadata file is as large.
const META_LIMIT: usize = 64 << 20;

/// The place of the storage, if no server is asked for it.
#[derive(Debug, Args)]
pub struct Source {
    /// Take the storage from this YAML file, such as `pbm config --file` takes, and ask no server
    #[arg(short, long, value_name = "FILE", conflicts_with = "dir")]
    config: Option<PathBuf>,
    /// Take this directory as the storage, and ask no server
    #[arg(short, long, value_name = "PATH")]
    dir: Option<PathBuf>,
}

/// A backup, and the storage with it and with the oplog chunks.
pub struct Found {
    pub store: Arc<dyn Storage>,
    pub backup: BackupMeta,
}

impl Source {
    /// Finds the backup. Connects only if the storage has to be asked for.
    ///
    /// # Errors
    /// There is no such backup, or the storage can't be read from this host.
    pub async fn find(&self, name: &str, uri: Option<&str>, format: Format) -> Result<Found> {
        let conf = match (&self.config, &self.dir) {
            (Some(file), _) => config::load(&super::config::read(file)?)?.storage,
            (None, Some(dir)) => directory(dir),
            (None, None) => return through_cluster(name, uri, format).await,
        };
        let store = place::open_here(&conf).await?;
        let backup = read_meta(store.as_ref(), name).await?;
        Ok(Found { store, backup })
    }
}

async fn through_cluster(name: &str, uri: Option<&str>, format: Format) -> Result<Found> {
    let cx = Context::connect(uri, format).await;
    let cx = cx.map_err(|error| error.hint("without a server: give the storage with --config FILE or --dir PATH"))?;
    let backup = cx.control.backups.get(name).await?.ok_or_else(|| {
        CliError::not_found(format!("there is no backup named {name}"))
            .hint("`pbm status -s backups` shows all of them")
    })?;
    // The backup need not be where new ones go. The oplog chunks always are.
    let main = cx.control.config.main().await?.map(|config| config.storage);
    let store = place::open_here(&backup.store).await?;
    match main.filter(|main| !config::same_place(&backup.store, main)) {
        Some(main) => match place::open_here(&main).await {
            Ok(main) => Ok(Found { store: Arc::new(Sources { backup: store, main }), backup }),
            // Only a moment after the backup needs it, and then the missing oplog is an error.
            Err(_) => Ok(Found { store, backup }),
        },
        None => Ok(Found { store, backup }),
    }
}

fn directory(dir: &Path) -> StorageConf {
    let filesystem = FilesystemConf { path: dir.display().to_string(), ..FilesystemConf::default() };
    StorageConf { kind: "filesystem".to_owned(), filesystem: Some(filesystem), ..StorageConf::default() }
}

async fn read_meta(store: &dyn Storage, name: &str) -> Result<BackupMeta> {
    let file = layout::backup_meta(name);
    match storage::read_all(store, &file, META_LIMIT).await {
        Ok(bytes) => Ok(backup_json::read(&bytes).with_context(|| format!("read '{file}'"))?),
        Err(error) if error.is_not_found() => {
            let refused = CliError::not_found(format!("there is no backup named {name} on this storage"));
            Err(match newest(store).await {
                Some(newest) => refused.hint(format!("its newest one is {newest}")),
                None => refused.hint("it has no backups at all; is it the right place?"),
            })
        }
        Err(error) => Err(anyhow::Error::from(error).into()),
    }
}

async fn newest(store: &dyn Storage) -> Option<String> {
    let objects: Vec<_> = store.list("").try_collect().await.ok()?;
    let names = objects.iter().filter_map(|object| object.name.strip_suffix(layout::BACKUP_META_SUFFIX));
    names.filter(|name| !name.contains('/')).max().map(str::to_owned)
}

/// Chooses the replica set: the wanted one, or the only one.
///
/// # Errors
/// The backup has no such replica set, or it has several and none is named.
pub fn replset(backup: &BackupMeta, wanted: Option<&str>) -> Result<String> {
    let names: Vec<&str> = backup.replsets.iter().map(|part| part.name.as_str()).collect();
    match (wanted, names.as_slice()) {
        (Some(name), _) if names.contains(&name) => Ok(name.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (wanted, _) => {
            let said = wanted
                .map_or_else(|| "has several replica sets".to_owned(), |name| format!("has no replica set {name}"));
            Err(CliError::usage(format!("backup {} {said}", backup.name))
                .hint(format!("give --replset with one of: {}", names.join(", "))))
        }
    }
}
