//! A read-only server on the data of a backup, or on the data of a later moment. It is a mongod of ours on a folder of its own;
//! no cluster and no agent takes part.
//!
//! A logical backup is restored into a temporary replica set of one member, by the steps of a restore. It then starts again
//! without the replica set, read-only. The files of a physical backup are fetched, and the server applies the oplog in them itself.

mod logical;
mod physical;

use crate::datafiles::{
    program::Program,
    server::{Launch, Server},
};
use crate::model::{
    backup::{BackupMeta, BackupType},
    selection::Selection,
};
use crate::restore::plan::PointInTime;
use crate::storage::Storage;
use anyhow::{Context as _, Result, bail};
use bson::Document;
use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// The cache of a temporary server in GB. It works beside everything else on this host.
const CACHE_GB: f64 = 0.25;

/// What is served.
#[derive(Debug)]
pub struct Wish {
    pub backup: BackupMeta,
    /// The replica set of the backup.
    pub rs: String,
    pub selection: Selection,
    /// The moment, if it is not the end of the backup.
    pub point: Option<PointInTime>,
}

/// Brings the data of the backup to `folder` and starts a read-only server on it. With a `port` it also listens on 127.0.0.1.
///
/// # Errors
/// The backup can't be restored, which no part of the cluster notices, or the server does not start.
pub async fn start(
    storage: Arc<dyn Storage>,
    wish: Wish,
    program: &Program,
    folder: &Folder,
    port: Option<u16>,
    cancel: &CancellationToken,
) -> Result<Server> {
    let options = match wish.backup.kind {
        BackupType::Logical => {
            logical::bring(storage, wish, program, folder.data(), cancel).await?;
            Document::new()
        }
        BackupType::Physical => physical::bring(&storage, &wish, program, folder.data()).await?,
        kind => bail!("backup '{}' is {kind}: only logical and physical backups can be served", wish.backup.name),
    };
    let launch = Launch::new(program, folder.data()).stored_with(&options);
    let launch = launch.argument("--queryableBackupMode").cache_gb(CACHE_GB);
    let launch = match port {
        Some(port) => launch.also_on(port),
        None => launch,
    };
    launch.start().await.context("start the read-only server")
}

/// A folder for the data files, which is removed when dropped.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    data: PathBuf,
}

impl Folder {
    /// Makes a folder that only its owner can enter.
    ///
    /// # Errors
    /// It can't be made in `parent`.
    pub fn new(parent: &Path) -> Result<Self> {
        let root = parent.join(format!("pbm-serve-{:016x}", rand::random::<u64>()));
        let data = root.join("data");
        let make = |path: &Path| {
            let made = DirBuilder::new().mode(0o700).create(path);
            made.with_context(|| format!("make the folder {} for the data files", path.display()))
        };
        make(&root)?;
        let folder = Self { root, data };
        make(&folder.data)?;
        Ok(folder)
    }

    /// The dbPath.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.root) {
            tracing::warn!("{} remains: {error}; remove it", self.root.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_folder_is_private_and_ends_with_its_handle() {
        let folder = Folder::new(&std::env::temp_dir()).expect("a folder");
        let (root, data) = (folder.root.clone(), folder.data().to_owned());
        for path in [&root, &data] {
            assert_eq!(std::fs::metadata(path).expect("the folder").permissions().mode() & 0o777, 0o700);
        }
        drop(folder);
        assert!(!root.exists());
        let error = Folder::new(Path::new("/no/such/folder")).expect_err("there is no such folder");
        assert!(error.to_string().starts_with("make the folder /no/such/folder/pbm-serve-"), "{error}");
    }
}
