//! The dbPath: old data aside, new data in its place, and back.
//!
//! The new data lies in a folder of the dbPath while it is made ready, and the old data in `.fallbacksync`, as the original
//! has it. Entries are only renamed, so each of these steps takes milliseconds. Only entries that are data move: a key file,
//! a log or a socket in the dbPath stays.

use anyhow::{Context, Result, bail};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

/// The folder in which new data is made ready.
const NEW: &str = ".pbm.restore";
/// The folder with the old data.
const OLD: &str = ".fallbacksync";
/// The file that makes a folder a database.
const MARK: &str = "WiredTiger";
/// Folders that a mongod makes in its dbPath, whatever is in them.
const FOLDERS: [&str; 5] = ["journal", "diagnostic.data", "_tmp", "key.db", "key.store"];
const EXTENSIONS: [&str; 5] = ["wt", "bson", "lock", "turtle", "backup"];
/// Folders below the dbPath in which tables can lie.
const DEEPEST: usize = 3;

/// The dbPath of a member.
#[derive(Debug, Clone)]
pub struct DbPath(PathBuf);

/// New data that is not in use yet: the folder is removed with this value.
#[derive(Debug)]
pub struct NewData(DbPath);

impl NewData {
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.0.0.join(NEW)
    }
}

impl Drop for NewData {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove_new() {
            tracing::warn!("{error:#}");
        }
    }
}

impl DbPath {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the empty folder for the new data. What an earlier restore left there is removed.
    ///
    /// # Errors
    /// The folder can't be made, or old data lies aside: only its owner can say whether it is still needed.
    pub fn make_new(&self) -> Result<NewData> {
        let (new, old) = (self.0.join(NEW), self.0.join(OLD));
        if old.exists() {
            bail!(
                "{} has the data from before an earlier restore; move it away, or remove it if it is not needed any more",
                old.display()
            );
        }
        remove(&new)?;
        self.make(&new)?;
        Ok(NewData(self.clone()))
    }

    fn make(&self, folder: &Path) -> Result<()> {
        let made = DirBuilder::new().mode(0o700).create(folder);
        made.with_context(|| format!("make the folder {}", folder.display()))?;
        let about = std::fs::metadata(&self.0).with_context(|| format!("look at {}", self.0.display()))?;
        if rustix::process::geteuid().is_root() {
            chown(folder, Some(about.uid()), Some(about.gid()))
                .with_context(|| format!("give {} away", folder.display()))?;
        }
        Ok(())
    }

    /// Removes the new data.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn remove_new(&self) -> Result<()> {
        remove(&self.0.join(NEW))
    }

    /// Removes the old data that lies aside.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn remove_old(&self) -> Result<()> {
        remove(&self.0.join(OLD))
    }

    /// The old data is replaced by the new data, and lies aside. Nothing has changed after an error.
    ///
    /// # Errors
    /// An entry can't be renamed.
    pub fn replace(&self) -> Result<()> {
        let (new, old) = (self.0.join(NEW), self.0.join(OLD));
        self.make(&old)?;
        let replaced = || -> Result<()> {
            rename_all(&data_entries(&self.0)?, &self.0, &old)?;
            sync(&old)?;
            rename_all(&data_entries(&new)?, &new, &self.0)?;
            sync(&self.0)
        };
        if let Err(error) = replaced() {
            self.bring_back().context("bring the old data back")?;
            return Err(error);
        }
        remove(&new)
    }

    /// The old data is put back in its place, and the new data is removed.
    ///
    /// While the old data is not complete aside, the mark of a database, which moves last, is still in the dbPath: then what
    /// is there is old data, too.
    ///
    /// # Errors
    /// An entry can't be renamed or removed; the old data is in the dbPath or aside then.
    pub fn bring_back(&self) -> Result<()> {
        let old = self.0.join(OLD);
        if !old.exists() {
            return Ok(());
        }
        if old.join(MARK).exists() {
            self.wipe()?;
        }
        // The mark comes last here, too.
        rename_all(&data_entries(&old)?, &old, &self.0)?;
        sync(&self.0)?;
        remove(&old)
    }

    /// Removes all data, for a restore without room for old and new data.
    ///
    /// # Errors
    /// An entry can't be removed.
    pub fn wipe(&self) -> Result<()> {
        data_entries(&self.0)?.iter().try_for_each(|entry| remove(entry))
    }

    /// Moves the new data into the dbPath, which has none.
    ///
    /// # Errors
    /// An entry can't be renamed.
    pub fn take_new(&self) -> Result<()> {
        let new = self.0.join(NEW);
        rename_all(&data_entries(&new)?, &new, &self.0)?;
        sync(&self.0)?;
        remove(&new)
    }

    /// Bytes of the data.
    ///
    /// # Errors
    /// An entry can't be looked at.
    pub fn size(&self) -> Result<u64> {
        data_entries(&self.0)?.iter().map(|entry| size(entry)).sum()
    }

    /// Bytes that are free in its file system.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn free(&self) -> Result<u64> {
        let about =
            rustix::fs::statvfs(&self.0).with_context(|| format!("ask for the free space of {}", self.0.display()))?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }

    /// Whether all of it lies on one file system, so that its entries can be renamed.
    ///
    /// # Errors
    /// An entry can't be looked at.
    pub fn is_on_one_disk(&self) -> Result<bool> {
        let device = |path: &Path| std::fs::symlink_metadata(path).map(|it| (it.dev(), it.is_symlink()));
        let own = device(&self.0).with_context(|| format!("look at {}", self.0.display()))?.0;
        for entry in data_entries(&self.0)? {
            match device(&entry) {
                Ok((other, link)) if other != own || link => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("look at {}", entry.display())),
            }
        }
        Ok(true)
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read =
        || std::fs::read_dir(folder)?.map(|entry| entry.map(|it| it.path())).collect::<std::io::Result<Vec<_>>>();
    read().with_context(|| format!("list the folder {}", folder.display()))
}

/// The entries of a dbPath that are data, in an order in which a half of them is no database: the mark comes last.
fn data_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = entries(folder)?;
    found.retain(|entry| is_data(entry, 0));
    found.sort_by_key(|entry| (entry.ends_with(MARK), entry.clone()));
    Ok(found)
}

fn is_data(entry: &Path, depth: usize) -> bool {
    let name = entry.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with(".pbm.") || name == OLD {
        return false;
    }
    if entry.is_dir() {
        let inside = || entries(entry).unwrap_or_default();
        return FOLDERS.contains(&&*name) || (depth < DEEPEST && inside().iter().any(|it| is_data(it, depth + 1)));
    }
    name.starts_with("WiredTiger") || EXTENSIONS.iter().any(|it| entry.extension().is_some_and(|own| own == *it))
}

fn rename_all(entries: &[PathBuf], from: &Path, to: &Path) -> Result<()> {
    for entry in entries {
        let name = entry.strip_prefix(from).unwrap_or(entry);
        std::fs::rename(entry, to.join(name))
            .with_context(|| format!("move {} to {}", entry.display(), to.display()))?;
    }
    Ok(())
}

fn remove(entry: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(entry) {
        Ok(about) if about.is_dir() => std::fs::remove_dir_all(entry),
        Ok(_) => std::fs::remove_file(entry),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", entry.display()))
        }
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|it| it.sync_all());
    synced.with_context(|| format!("write the folder {} to the disk", folder.display()))
}

fn size(entry: &Path) -> Result<u64> {
    match std::fs::metadata(entry) {
        Ok(about) if about.is_dir() => entries(entry)?.iter().map(|it| size(it)).sum(),
        Ok(about) => Ok(about.len()),
        // Files of a running server come and go.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("look at {}", entry.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Temp(PathBuf);

    impl Temp {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("pbm-swap-{:016x}", rand::random::<u64>()));
            std::fs::create_dir(&path).expect("a folder");
            Self(path)
        }

        fn write(&self, path: &str, content: &str) {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, content).expect("a file");
        }

        fn all(&self) -> Vec<String> {
            let mut found = Vec::new();
            let mut open = vec![self.0.clone()];
            while let Some(folder) = open.pop() {
                for entry in entries(&folder).expect("a folder") {
                    match entry.is_dir() {
                        true => open.push(entry),
                        false => {
                            let content = std::fs::read_to_string(&entry).expect("a file");
                            found.push(format!("{}={content}", entry.strip_prefix(&self.0).expect("inside").display()));
                        }
                    }
                }
            }
            found.sort();
            found
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn member() -> (Temp, DbPath, NewData) {
        let temp = Temp::new();
        for file in ["WiredTiger", "a.wt", "shop/b.wt", "journal/log", "mongod.lock"] {
            temp.write(file, "old");
        }
        temp.write("keyfile", "key");
        temp.write("mongod.log", "log");
        let db_path = DbPath::new(temp.0.clone());
        let made = db_path.make_new().expect("a folder");
        let new = made.folder();
        for file in ["WiredTiger", "a.wt", "crm/c.wt"] {
            let path = new.join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, "new").expect("a file");
        }
        (temp, db_path, made)
    }

    const OLD_DATA: [&str; 7] = [
        "WiredTiger=old",
        "a.wt=old",
        "journal/log=old",
        "keyfile=key",
        "mongod.lock=old",
        "mongod.log=log",
        "shop/b.wt=old",
    ];

    #[test]
    fn the_new_data_replaces_the_old_data_and_nothing_else() {
        let (temp, db_path, new) = member();
        db_path.replace().expect("replaced");
        drop(new);
        db_path.remove_old().expect("removed");
        assert_eq!(temp.all(), ["WiredTiger=new", "a.wt=new", "crm/c.wt=new", "keyfile=key", "mongod.log=log"]);
    }

    #[test]
    fn the_old_data_comes_back() {
        let (temp, db_path, new) = member();
        db_path.replace().expect("replaced");
        drop(new);
        temp.write("d.wt", "a table that the new server made");
        db_path.bring_back().expect("back");
        assert_eq!(temp.all(), OLD_DATA);
    }

    #[test]
    fn the_old_data_comes_back_from_halfway() {
        let (temp, db_path, new) = member();
        // As after a kill in the middle: some old data is aside, the mark is not.
        let old = temp.0.join(OLD);
        db_path.make(&old).expect("a folder");
        std::fs::rename(temp.0.join("a.wt"), old.join("a.wt")).expect("moved");
        db_path.bring_back().expect("back");
        drop(new);
        assert_eq!(temp.all(), OLD_DATA);
    }

    #[test]
    fn old_data_of_an_earlier_restore_is_not_touched() {
        let (temp, db_path, new) = member();
        db_path.replace().expect("replaced");
        drop(new);
        let error = db_path.make_new().expect_err("old data is aside");
        assert!(error.to_string().contains(".fallbacksync has the data from before an earlier restore"), "{error}");
        db_path.bring_back().expect("back");
        assert_eq!(temp.all(), OLD_DATA);
    }
}
