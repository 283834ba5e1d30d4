//! A second copy of data files on a disk of this host, made so that the server has to hold its files only for a moment.
//!
//! # Reflinks
//! XFS and btrfs clone a file without copying its bytes (`FICLONE`): the clone and the file share their blocks until one of
//! them is written.
//!
//! # Two passes
//! Elsewhere the files are copied while the server writes on ([`Copier::ahead`]), and each block's checksum is kept. When the
//! server holds its files, [`Copier::finish`] looks again: files with the same size and time are as they were copied, and of
//! the others only the blocks with another checksum are copied again.
//!
//! Everything here blocks, so it runs on threads for blocking work, and stops soon after its token is cancelled.

use super::dbpath::{self, FoundFile, SPOOL};
use crate::archive::crc::Crc64;
use anyhow::{Context, Result, bail};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};
use tokio_util::sync::CancellationToken;

/// The unit in which changes are found.
const BLOCK: usize = 256 * 1024;

/// A folder of copies. It is removed with its last handle.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    device: u64,
}

impl Spool {
    /// Makes the folder `name` below `base`, which only this user can enter.
    ///
    /// # Errors
    /// It can't be made, or exists.
    pub fn create(base: &Path, name: &str) -> Result<Arc<Self>> {
        let path = base.join(name.replace(':', "."));
        let what = || format!("make the folder '{}' for a copy of the data files", path.display());
        // Whoever removes the last other copy removes the base, too.
        let make = || -> std::io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(base)?;
            fs::DirBuilder::new().mode(0o700).create(&path)
        };
        make()
            .or_else(|error| if error.kind() == ErrorKind::NotFound { make() } else { Err(error) })
            .with_context(what)?;
        let device = fs::metadata(&path).with_context(what)?.dev();
        Ok(Arc::new(Self { path, device }))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file system makes clones of a file of the dbPath.
    #[must_use]
    pub fn can_clone(&self, file: &Path) -> bool {
        let probe = self.path.join(".probe");
        let done = clone_file(file, &probe, 0o600);
        let _ = fs::remove_file(&probe);
        done.is_ok()
    }

    /// Free bytes of its file system.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        let there = rustix::fs::statvfs(&self.path).ok()?;
        there.f_bavail.checked_mul(there.f_frsize)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!("remove the copy of the data files in '{}': {error}", self.path.display());
        }
        remove_base(self.path.parent());
    }
}

/// Removes copies that a killed process left below `base`. Returns how many.
///
/// # Errors
/// One of them can't be removed.
pub fn clear(base: &Path) -> Result<usize> {
    let entries = match fs::read_dir(base) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries.with_context(|| format!("list '{}'", base.display()))?,
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.with_context(|| format!("list '{}'", base.display()))?.path();
        fs::remove_dir_all(&path).with_context(|| format!("remove the old copy of data files '{}'", path.display()))?;
        removed += 1;
    }
    remove_base(Some(base));
    Ok(removed)
}

/// Removes the folder in which copies lay, and the one of all nodes around it, unless other copies lie there.
fn remove_base(base: Option<&Path>) {
    let Some(base) = base else { return };
    let around = base.parent().filter(|it| it.file_name().is_some_and(|name| name == SPOOL));
    if fs::remove_dir(base).is_ok()
        && let Some(around) = around
    {
        let _ = fs::remove_dir(around);
    }
}

fn create(path: &Path, mode: u32) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(mode | 0o600).open(path)
}

fn clone_file(from: &Path, to: &Path, mode: u32) -> std::io::Result<()> {
    let source = File::open(from)?;
    let target = create(to, mode)?;
    Ok(rustix::fs::ioctl_ficlone(target, source)?)
}

/// What was copied ahead of a file.
#[derive(Debug)]
struct Ahead {
    size: u64,
    /// `None` if the time proves nothing.
    modified: Option<SystemTime>,
    blocks: Vec<i64>,
}

/// What [`Copier::finish`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Finished {
    /// Bytes that were copied while the server held its files.
    pub copied: u64,
    /// Bytes that were read to find the changes.
    pub read: u64,
}

/// Copies the files of a dbPath into a spool folder.
#[derive(Debug)]
pub struct Copier {
    from: PathBuf,
    spool: Arc<Spool>,
    reflink: bool,
    ahead: HashMap<String, Ahead>,
    stop: CancellationToken,
}

impl Copier {
    /// With `reflink`, files on the spool's device are cloned.
    #[must_use]
    pub fn new(from: &Path, spool: &Arc<Spool>, reflink: bool, stop: CancellationToken) -> Self {
        Self { from: from.to_owned(), spool: spool.clone(), reflink, ahead: HashMap::new(), stop }
    }

    fn is_cloned(&self, file: &FoundFile) -> bool {
        self.reflink && file.device == self.spool.device
    }

    /// The bytes that can't be cloned.
    #[must_use]
    pub fn bytes_to_copy(&self, files: &[FoundFile]) -> u64 {
        files.iter().filter(|file| !self.is_cloned(file)).map(|file| file.size).sum()
    }

    /// Bytes of files that changed since they were copied ahead, or were not.
    #[must_use]
    pub fn bytes_changed(&self, files: &[FoundFile]) -> u64 {
        files.iter().filter(|file| !self.is_cloned(file) && !self.is_unchanged(file)).map(|file| file.size).sum()
    }

    fn is_unchanged(&self, file: &FoundFile) -> bool {
        self.ahead.get(&file.path).is_some_and(|it| it.size == file.size && it.modified == Some(file.modified))
    }

    /// Copies what can't be cloned, while the server writes on. A file that vanishes meanwhile is left out.
    ///
    /// # Errors
    /// A file can't be read, or its copy can't be written.
    pub fn ahead(&mut self, files: &[FoundFile]) -> Result<u64> {
        let mut bytes = 0;
        for file in files.iter().filter(|file| !self.is_cloned(file)).cloned().collect::<Vec<_>>() {
            if let Some(copied) = self.copy_ahead(&file).with_context(|| format!("copy '{}'", file.path))? {
                bytes += copied.size;
                self.ahead.insert(file.path, copied);
            }
        }
        Ok(bytes)
    }

    fn copy_ahead(&self, file: &FoundFile) -> Result<Option<Ahead>> {
        let mut source = match File::open(self.from.join(&file.path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            source => source?,
        };
        // Looked at before the first byte is read: what is written later has a later time.
        let (modified, now) = (source.metadata()?.modified()?, SystemTime::now());
        let mut target = create(&self.spool.path.join(&file.path), file.mode)?;
        let (mut size, mut blocks, mut block) = (0, Vec::new(), vec![0; BLOCK]);
        loop {
            self.check_stop()?;
            let length = fill(&mut source, &mut block)?;
            if length == 0 {
                break;
            }
            target.write_all(&block[..length])?;
            blocks.push(checksum(&block[..length]));
            size += length as u64;
        }
        let modified = (!dbpath::is_fresh(modified, now)).then_some(modified);
        Ok(Some(Ahead { size, modified, blocks }))
    }

    /// Makes the copy equal to the files, which must not change any more.
    ///
    /// # Errors
    /// As [`Copier::ahead`]; a missing file is an error here.
    pub fn finish(&self, files: &[FoundFile]) -> Result<Finished> {
        let mut done = Finished::default();
        for file in files {
            self.check_stop()?;
            if self.is_cloned(file) {
                let (from, to) = (self.from.join(&file.path), self.spool.path.join(&file.path));
                clone_file(&from, &to, file.mode).with_context(|| format!("clone '{}'", file.path))?;
            } else if !self.is_unchanged(file) {
                let now = self.copy_changes(file).with_context(|| format!("copy '{}'", file.path))?;
                done.copied += now.copied;
                done.read += now.read;
            }
        }
        Ok(done)
    }

    fn copy_changes(&self, file: &FoundFile) -> Result<Finished> {
        let none = Vec::new();
        let known = self.ahead.get(&file.path).map_or(&none, |it| &it.blocks);
        let (from, to) = (self.from.join(&file.path), self.spool.path.join(&file.path));
        let mut source = File::open(from)?;
        let target =
            if known.is_empty() { create(&to, file.mode)? } else { OpenOptions::new().write(true).open(to)? };
        let (mut done, mut block) = (Finished::default(), vec![0; BLOCK]);
        for at in 0.. {
            self.check_stop()?;
            let length = fill(&mut source, &mut block)?;
            if length == 0 {
                break;
            }
            if known.get(at) != Some(&checksum(&block[..length])) {
                target.write_all_at(&block[..length], done.read)?;
                done.copied += length as u64;
            }
            done.read += length as u64;
        }
        target.set_len(done.read)?;
        Ok(done)
    }

    fn check_stop(&self) -> Result<()> {
        if self.stop.is_cancelled() {
            bail!("the copy of the data files was given up");
        }
        Ok(())
    }
}

/// Fills the buffer as far as the file reaches.
fn fill(source: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn checksum(block: &[u8]) -> i64 {
    let mut crc = Crc64::new();
    crc.update(block);
    crc.value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Scene {
        root: PathBuf,
        data: PathBuf,
    }

    impl Scene {
        fn new() -> Self {
            let root = std::env::temp_dir().join(format!("pbmbox-clone-{:08x}", rand::random::<u32>()));
            let scene = Self { data: root.join("data"), root };
            fs::create_dir_all(scene.data.join("shop")).expect("folders");
            scene.write("WiredTiger", b"mark", 60);
            scene
        }

        /// Writes a file whose time lies in the past.
        fn write(&self, path: &str, bytes: &[u8], age: u64) {
            fs::write(self.data.join(path), bytes).expect("a file");
            let file = OpenOptions::new().write(true).open(self.data.join(path)).expect("the file");
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("its time");
        }

        fn spool(&self) -> Arc<Spool> {
            Spool::create(&self.root.join("spool"), "2026-01-01T00:00:00Z").expect("a spool")
        }

        fn files(&self) -> Vec<FoundFile> {
            dbpath::list(&self.data).expect("a list")
        }

        fn assert_equal(&self, spool: &Spool) {
            for file in self.files() {
                let read = |root: &Path| fs::read(root.join(&file.path)).expect("a file");
                assert!(read(&self.data) == read(spool.path()), "{}", file.path);
            }
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn the_second_pass_copies_what_changed_and_no_more() {
        let scene = Scene::new();
        let large = vec![7_u8; BLOCK * 5 + 100];
        scene.write("large.wt", &large, 50);
        scene.write("shop/same.wt", &large, 50);
        scene.write("gone.wt", b"x", 50);
        let spool = scene.spool();
        let mut copier = Copier::new(&scene.data, &spool, false, CancellationToken::new());
        let files = scene.files();
        assert_eq!(copier.bytes_to_copy(&files), files.iter().map(|it| it.size).sum::<u64>());
        assert_eq!(copier.ahead(&files).expect("a first pass"), copier.bytes_to_copy(&files));
        assert_eq!(copier.finish(&files).expect("nothing to do"), Finished::default());

        let mut changed = large.clone();
        changed[BLOCK * 3] = 8;
        changed.truncate(BLOCK * 5 + 9);
        scene.write("large.wt", &changed, 10);
        scene.write("new.wt", b"new", 10);
        fs::remove_file(scene.data.join("gone.wt")).expect("remove");
        let files = scene.files();
        assert_eq!(copier.bytes_changed(&files), changed.len() as u64 + 3);
        let done = copier.finish(&files).expect("a second pass");
        assert_eq!(done.read, changed.len() as u64 + 3);
        assert_eq!(done.copied, BLOCK as u64 + 9 + 3, "a block, the new end, and the new file");
        scene.assert_equal(&spool);
    }

    #[test]
    fn a_file_that_was_written_just_before_counts_as_changed() {
        let scene = Scene::new();
        scene.write("a.wt", b"one", 0);
        let spool = scene.spool();
        let mut copier = Copier::new(&scene.data, &spool, false, CancellationToken::new());
        let files = scene.files();
        copier.ahead(&files).expect("a first pass");
        // The same size at the same time, as a coarse clock shows it.
        let time = files.iter().find(|it| it.path == "a.wt").expect("it").modified;
        scene.write("a.wt", b"two", 0);
        File::options().write(true).open(scene.data.join("a.wt")).expect("it").set_modified(time).expect("its time");
        assert_eq!(copier.finish(&scene.files()).expect("a second pass").copied, 3);
        scene.assert_equal(&spool);
    }

    #[test]
    fn a_copy_ends_with_its_token_and_leaves_nothing() {
        let scene = Scene::new();
        let spool = scene.spool();
        let stop = CancellationToken::new();
        let mut copier = Copier::new(&scene.data, &spool, false, stop.clone());
        stop.cancel();
        assert!(copier.ahead(&scene.files()).is_err() && copier.finish(&scene.files()).is_err());
        assert!(Spool::create(&scene.root.join("spool"), "2026-01-01T00:00:00Z").is_err(), "it exists");
        let place = spool.path().to_owned();
        drop((copier, spool));
        assert!(!place.exists() && !scene.root.join("spool").exists());
        let killed = scene.spool();
        std::mem::forget(killed);
        assert_eq!(clear(&scene.root.join("spool")).expect("cleared"), 1);
        assert_eq!(clear(&scene.root.join("spool")).expect("nothing"), 0);
    }
}
