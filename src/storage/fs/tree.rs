//! The directories of a store: made durably, walked, removed when empty.

use super::{super::ObjectInfo, Modes, blocking};
use futures::{Stream, TryStreamExt, stream};
use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Suffix of files that are no objects (yet).
pub(super) const TEMP: &str = ".tmp";

/// Permissions of new files and folders before the umask is applied.
pub(super) const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;

/// How often folders are made again when other processes remove them.
const TRIES: u32 = 16;

/// The root directory. Paths given to its methods are below it.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    modes: Modes,
    /// Held while directories are made and removed: whoever finds one existing can rely on its being synced, and on
    /// its staying until a file is in it.
    changing: Mutex<()>,
}

impl Root {
    /// Finds or makes the root. Anything but a directory there is `NotADirectory` or `AlreadyExists`.
    pub(super) fn make(path: &Path, modes: Modes) -> io::Result<Self> {
        if let Err(error) = fs::metadata(path) {
            if error.kind() != ErrorKind::NotFound {
                return Err(error);
            }
            make_dirs(&std::path::absolute(path)?, modes)?;
        }
        Self::find(path, modes)
    }

    /// Opens the root, which must exist.
    pub(super) fn find(path: &Path, modes: Modes) -> io::Result<Self> {
        let path = path.canonicalize()?;
        if !path.is_dir() {
            return Err(io::Error::new(ErrorKind::NotADirectory, format!("{} is a file", path.display())));
        }
        Ok(Self { path, modes, changing: Mutex::new(()) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the permissions from the settings, if any, on a new file that was opened with [`FILE_MODE`].
    pub(super) fn set_mode(&self, file: &File) -> io::Result<()> {
        self.modes.file.map_or(Ok(()), |mode| file.set_permissions(Permissions::from_mode(mode)))
    }

    /// Makes the folder `dir` and those above it, durably, and a file in it by `create`. The root itself is not made
    /// again: if it is gone, a mount is missing, and what would be written would not be in the store.
    pub(super) fn create_in(&self, dir: &Path, mut create: impl FnMut() -> io::Result<File>) -> io::Result<File> {
        let _changing = self.lock();
        let mut tries = 0;
        loop {
            if !self.path.is_dir() {
                return Err(io::Error::new(ErrorKind::NotFound, "the root of the storage is gone"));
            }
            tries += 1;
            match make_dirs(dir, self.modes).and_then(|()| create()) {
                // Another process removed a folder, being empty, before our file was in it.
                Err(error) if error.kind() == ErrorKind::NotFound && tries < TRIES => {}
                result => return result,
            }
        }
    }

    /// Removes the folders from `dir` upwards as far as they are empty, the root excepted.
    pub(super) fn remove_empty(&self, dir: &Path) {
        let _changing = self.lock();
        let below = |dir: &&Path| *dir != self.path && dir.starts_with(&self.path);
        for dir in dir.ancestors().take_while(below) {
            if fs::remove_dir(dir).is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes one object and the folders that it leaves empty. No object there is success.
    pub(super) fn remove(&self, file: &Path) -> io::Result<()> {
        match fs::remove_file(file) {
            Ok(()) => {
                file.parent().into_iter().for_each(|dir| self.remove_empty(dir));
                Ok(())
            }
            Err(error) if is_absence(&error) || error.kind() == ErrorKind::IsADirectory => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a folder with everything in it, temporary files included. No folder there is success.
    pub(super) fn remove_tree(&self, dir: &Path) -> io::Result<()> {
        match fs::symlink_metadata(dir) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(dir)?,
            Ok(_) => return Ok(()),
            Err(error) if is_absence(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        dir.parent().into_iter().for_each(|dir| self.remove_empty(dir));
        Ok(())
    }
}

/// Nothing is there: neither the last element nor, maybe, the folders before it.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// `mkdir -p` that syncs the parent of every directory it makes.
fn make_dirs(dir: &Path, modes: Modes) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().ok_or(ErrorKind::NotFound)?;
    make_dirs(parent, modes)?;
    match DirBuilder::new().mode(FOLDER_MODE).create(dir) {
        Ok(()) => {
            if let Some(mode) = modes.folder {
                fs::set_permissions(dir, Permissions::from_mode(mode))?;
            }
            sync_dir(parent)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let reason = || io::Error::new(ErrorKind::NotADirectory, format!("{} is not a directory", dir.display()));
            dir.is_dir().then_some(()).ok_or_else(reason)
        }
        Err(error) => Err(error),
    }
}

/// Makes the entries of a directory durable, on file systems that can do that.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

/// Objects below `folder` (empty = all), one directory after another.
pub(super) fn list(root: Arc<Root>, folder: String) -> impl Stream<Item = io::Result<ObjectInfo>> + Send {
    stream::try_unfold((root, vec![folder]), async |(root, mut folders)| {
        let Some(folder) = folders.pop() else { return Ok::<_, io::Error>(None) };
        let path = if folder.is_empty() { root.path.clone() } else { root.path.join(&folder) };
        let (objects, more) = blocking(move || read_folder(&path, &folder)).await?;
        folders.extend(more);
        Ok(Some((stream::iter(objects.into_iter().map(Ok)), (root, folders))))
    })
    .try_flatten()
}

/// Objects and folders directly in `path`. What vanishes meanwhile is left out; symlinks to directories are not
/// followed.
fn read_folder(path: &Path, folder: &str) -> io::Result<(Vec<ObjectInfo>, Vec<String>)> {
    let (mut objects, mut folders) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(path) {
        Err(error) if is_absence(&error) => return Ok((objects, folders)),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(element) = entry.file_name().into_string() else { continue };
        let name = if folder.is_empty() { element } else { format!("{folder}/{element}") };
        if entry.file_type()?.is_dir() {
            folders.push(name);
        } else if !name.ends_with(TEMP) {
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() => objects.push(ObjectInfo { name, size: metadata.len() }),
                Ok(_) => {}
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok((objects, folders))
}
