//! A directory as a store (docs/format.md A.1.3), durable when `put` returns.
//!
//! # Consistency
//!
//! An object is written to `<name>.<random>.tmp` beside its place and renamed over it, so readers see the old object
//! or the new one. Names ending in `.tmp` are hidden from listings, as in the original.
//!
//! # Crash
//!
//! File, directory, and the parent of every directory made on the way are synced before `put` returns. A killed
//! process leaves its temporary files; [`Storage::delete_prefix`] of their folder removes them.
//!
//! # Cancellation
//!
//! Dropping a `put` removes its temporary file, soon after. Dropping a `copy` does not stop it.
//!
//! # Speed
//!
//! Bodies are gathered into batches of a MiB and written on blocking threads while the next batch is gathered; the
//! kernel is told early to write back, because the final sync of a large object is time a backup waits for.

mod read;
mod tree;
mod write;

use super::{
    ByteStream, Error, ObjectInfo, Promises, Result, SizeHint, Storage, check_name, check_prefix, failed_list,
};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use std::{
    fmt,
    io::{self, ErrorKind},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};
use tree::Root;

/// Buffer sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffers {
    /// What is gathered for one `write` call; bodies come in smaller pieces.
    pub write: usize,
    /// What one `read` call asks for; also the largest piece that `get` streams.
    pub read: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { write: 1 << 20, read: 1 << 20 }
    }
}

/// Permissions of new files and folders, if the settings give them: they then hold whatever the umask is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes {
    /// Permissions of files. The default is 0640 less the umask: backups hold data that only the database's users may read.
    pub file: Option<u32>,
    /// Permissions of folders. The default is 0750 less the umask.
    pub folder: Option<u32>,
}

/// Objects as files below a root directory.
#[derive(Debug, Clone)]
pub struct FsStorage {
    root: Arc<Root>,
    buffers: Buffers,
}

impl FsStorage {
    /// Opens the directory `path`, creating it if it is missing and following it if it is a symlink.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub async fn open(path: &Path, buffers: Buffers) -> Result<Self> {
        Self::open_with(path, buffers, Modes::default()).await
    }

    /// Does the same as [`Self::open`], with the given permissions for new files and folders.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is something else than a directory, [`Error::Denied`] and [`Error::Failed`] if it can
    /// neither be made nor entered.
    pub async fn open_with(path: &Path, buffers: Buffers, modes: Modes) -> Result<Self> {
        Self::open_or(path, buffers, modes, Root::make).await
    }

    /// Does the same as [`Self::open_with`], but creates nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such directory, and as [`Self::open`].
    pub async fn open_existing(path: &Path, buffers: Buffers, modes: Modes) -> Result<Self> {
        Self::open_or(path, buffers, modes, Root::find).await
    }

    async fn open_or(
        path: &Path,
        buffers: Buffers,
        modes: Modes,
        open: fn(&Path, Modes) -> io::Result<Root>,
    ) -> Result<Self> {
        let store = format!("filesystem {}", path.display());
        if path.as_os_str().is_empty() {
            return Err(Error::Invalid { store, reason: "the path of the storage is empty".to_owned() });
        }
        let wanted = path.to_owned();
        let root = blocking(move || open(&wanted, modes)).await.map_err(|error| match error.kind() {
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                Error::Invalid { store: store.clone(), reason: format!("the root is not a directory: {error}") }
            }
            _ => classify(store.clone(), "opening", "", error),
        })?;
        Ok(Self { root: Arc::new(root), buffers })
    }

    /// The directory, symlinks resolved.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The file of an object.
    fn file(&self, name: &str) -> Result<PathBuf> {
        check_name(name).map_err(|reason| Error::Invalid { store: self.to_string(), reason })?;
        Ok(self.root.path().join(name))
    }

    fn failed(&self, action: &'static str, name: &str, error: io::Error) -> Error {
        classify(self.to_string(), action, name, error)
    }
}

impl fmt::Display for FsStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filesystem {}", self.root.path().display())
    }
}

#[async_trait]
impl Storage for FsStorage {
    fn promises(&self) -> Promises {
        Promises { largest_object: u64::MAX, durable_on_return: true, keeps: true }
    }

    async fn put(&self, name: &str, body: ByteStream, _hint: SizeHint) -> Result<u64> {
        let file = self.file(name)?;
        write::put(&self.root, &file, body, self.buffers.write).await.map_err(|error| match error {
            write::Failure::Source(reason) => Error::Source { store: self.to_string(), name: name.to_owned(), reason },
            write::Failure::Store(error) => self.failed("writing", name, error),
        })
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream> {
        let file = self.file(name)?;
        read::get(file, range, self.buffers.read).await.map_err(|error| self.failed("reading", name, error))
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        let file = self.file(name)?;
        let size = blocking(move || read::size(&file)).await.map_err(|error| self.failed("looking at", name, error))?;
        Ok(ObjectInfo { name: name.to_owned(), size })
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        match check_prefix(prefix) {
            Err(reason) => failed_list(Error::Invalid { store: self.to_string(), reason }),
            Ok(folder) => {
                let name = folder.to_owned();
                tree::list(Arc::clone(&self.root), folder.to_owned())
                    .map_err(move |error| self.failed("listing", &name, error))
                    .boxed()
            }
        }
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let (file, root) = (self.file(name)?, Arc::clone(&self.root));
        blocking(move || root.remove(&file)).await.map_err(|error| self.failed("deleting", name, error))
    }

    async fn copy(&self, from: &str, to: &str) -> Result<()> {
        let (source, target, root) = (self.file(from)?, self.file(to)?, Arc::clone(&self.root));
        blocking(move || {
            let Some(source) = read::open(&source)? else { return Ok(false) };
            write::copy(&root, source, &target).map(|()| true)
        })
        .await
        .map_err(|error| self.failed("copying to", to, error))?
        .then_some(())
        .ok_or_else(|| Error::NotFound { store: self.to_string(), name: from.to_owned() })
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<()> {
        let folder = check_prefix(prefix).map_err(|reason| Error::Invalid { store: self.to_string(), reason })?;
        if folder.is_empty() {
            return Err(super::refuse_empty_prefix(self));
        }
        let (dir, root) = (self.file(folder)?, Arc::clone(&self.root));
        blocking(move || root.remove_tree(&dir)).await.map_err(|error| self.failed("deleting", folder, error))
    }
}

/// Runs `work` on a blocking thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    joined(tokio::task::spawn_blocking(work)).await
}

/// Waits for work on a blocking thread; a panic there goes on here.
async fn joined<T>(work: tokio::task::JoinHandle<io::Result<T>>) -> io::Result<T> {
    match work.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(io::Error::other("the program is ending")),
        },
    }
}

fn classify(store: String, action: &'static str, name: &str, error: io::Error) -> Error {
    let name = name.to_owned();
    let reason = error.to_string();
    match error.kind() {
        ErrorKind::NotFound if action != "writing" => Error::NotFound { store, name },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::Denied { store, action, name, reason },
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Error::Full { store, action, name, reason }
        }
        ErrorKind::InvalidFilename => Error::Invalid { store, reason: format!("{action} '{name}': {reason}") },
        _ => Error::Failed { store, action, name, reason, retryable: is_passing(&error) },
    }
}

/// Errors that may be gone at the next try: busy, out of descriptors, a network mount that hiccups, a folder that got
/// a new entry while it was removed.
fn is_passing(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(
        error.kind(),
        ErrorKind::Interrupted
            | ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::ResourceBusy
            | ErrorKind::StaleNetworkFileHandle
            | ErrorKind::DirectoryNotEmpty
    ) || matches!(error.raw_os_error(), Some(EIO | ENFILE | EMFILE))
}

#[cfg(test)]
mod tests;
