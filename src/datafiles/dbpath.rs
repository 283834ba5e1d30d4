//! What lies in the folder of a mongod's data (its dbPath), and which of it belongs to a copy.
//!
//! A copy has the form of what the server lists for a backup: all files of tables, the journal, and `WiredTiger.backup`, but
//! not `WiredTiger.turtle` and `WiredTiger.wt`. A server that starts with such files makes those two again from
//! `WiredTiger.backup`, so it opens exactly the checkpoint that was held, and not one that came later.

use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

/// Present while the server holds its files for a backup. It lists the files and the checkpoint.
pub const HELD: &str = "WiredTiger.backup";
/// Replaced by every checkpoint.
pub const TURTLE: &str = "WiredTiger.turtle";
/// The folder inside a dbPath in which our copies lie for a while.
pub const SPOOL: &str = ".pbm.spool";
/// The database files that the server needs under this name to know that the folder is a database.
const MARK: &str = "WiredTiger";
/// Folders of keys of an encrypted dbPath. Each is a small database of its own, of which everything is copied.
const KEY_FOLDERS: [&str; 2] = ["key.db", "key.store"];
/// Folders below the dbPath: databases, and tables and indexes in them.
const DEEPEST: usize = 4;

/// A file of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// Relative to the dbPath, with `/` between folders.
    pub path: String,
    pub size: u64,
    /// The permission bits.
    pub mode: u32,
    pub modified: SystemTime,
    /// The device of its file system.
    pub device: u64,
}

/// Whether a file belongs to a copy.
#[must_use]
pub fn is_needed(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let top = path.split('/').next().unwrap_or_default();
    if is_left_out(top) {
        return false;
    }
    if KEY_FOLDERS.contains(&top) && !folder.is_empty() {
        return !name.ends_with(".lock");
    }
    match folder {
        "journal" if name.starts_with("WiredTigerLog.") => true,
        "" if [MARK, HELD, "storage.bson"].contains(&name) => true,
        "" if name == "WiredTiger.wt" => false,
        _ => has_extension(name, "wt"),
    }
}

/// Whether nothing in this folder of the dbPath belongs to a copy.
fn is_left_out(top: &str) -> bool {
    ["diagnostic.data", "_tmp", ".fallbacksync"].contains(&top) || top.starts_with(".pbm.") || top.starts_with("pbm.")
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|it| it == extension)
}

/// Lists the files of a copy, sorted by path. Links are followed, because a journal may lie on another disk.
///
/// # Errors
/// A folder or a file can't be looked at, which the error names, or the folder is no database.
pub fn list(db_path: &Path) -> Result<Vec<FoundFile>> {
    let mut found = Vec::new();
    walk(db_path, "", 0, &mut found)?;
    ensure!(
        found.iter().any(|it| it.path == MARK),
        "'{}' has no file '{MARK}': no database lies there",
        db_path.display()
    );
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(root: &Path, folder: &str, depth: usize, found: &mut Vec<FoundFile>) -> Result<()> {
    let here = root.join(folder);
    let entries = fs::read_dir(&here).with_context(|| format!("list the folder '{}'", here.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("list the folder '{}'", here.display()))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        // Files come and go while the server runs; what matters then is looked at again under the lock.
        let meta = match fs::metadata(entry.path()) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            meta => meta.with_context(|| format!("look at '{}'", entry.path().display()))?,
        };
        if meta.is_dir() {
            if depth < DEEPEST && !(depth == 0 && is_left_out(&path)) {
                walk(root, &path, depth + 1, found)?;
            }
        } else if meta.is_file() && is_needed(&path) {
            found.push(describe(path, &meta)?);
        }
    }
    Ok(())
}

fn describe(path: String, meta: &fs::Metadata) -> Result<FoundFile> {
    let modified = meta.modified().with_context(|| format!("the time of '{path}'"))?;
    Ok(FoundFile { size: meta.len(), mode: meta.mode() & 0o7777, device: meta.dev(), modified, path })
}

/// Checks that this process may read every file.
///
/// # Errors
/// The first file that it may not read, with both users.
pub fn check_readable(db_path: &Path, files: &[FoundFile]) -> Result<()> {
    for file in files {
        let path = db_path.join(&file.path);
        match File::open(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => bail!(no_rights(&path)),
            Err(error) => return Err(error).with_context(|| format!("open '{}'", path.display())),
        }
    }
    Ok(())
}

/// Explains that this process has no rights on `path`, and what can be done.
#[must_use]
pub fn no_rights(path: &Path) -> String {
    let me = user(rustix::process::geteuid().as_raw());
    let owner = fs::metadata(path).map_or_else(|_| "another user".to_owned(), |meta| user(meta.uid()));
    format!(
        "this agent runs as {me} and has no rights on '{}', which belongs to {owner}; run the agent as the user of its mongod",
        path.display()
    )
}

/// A user by number and, if the system knows it, by name.
fn user(id: u32) -> String {
    let known = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = id.to_string();
    let of = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(number.as_str())).then(|| name.to_owned())
    };
    match known.lines().find_map(of) {
        Some(name) => format!("user {name} ({id})"),
        None => format!("user {id}"),
    }
}

/// What shows that a checkpoint replaced a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    changed: (i64, i64),
}

/// Looks at a file of the dbPath; `None` if it is not there.
///
/// # Errors
/// It can't be looked at.
pub fn stamp(db_path: &Path, name: &str) -> Result<Option<Stamp>> {
    let path = db_path.join(name);
    match fs::metadata(&path) {
        Ok(meta) => Ok(Some(Stamp { inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => bail!(no_rights(db_path)),
        Err(error) => Err(error).with_context(|| format!("look at '{}'", path.display())),
    }
}

/// The process that the server's lock file in this folder names. `None` if the folder is not that of a running server.
#[must_use]
pub fn server_process(db_path: &Path) -> Option<i64> {
    fs::read_to_string(db_path.join("mongod.lock")).ok()?.trim().parse().ok()
}

/// Whether a file with this time may have been written again at the same time after it was looked at, because the clock of
/// the file system is coarse.
#[must_use]
pub fn is_fresh(modified: SystemTime, looked_at: SystemTime) -> bool {
    const COARSE: Duration = Duration::from_secs(2);
    looked_at.duration_since(modified).map_or(true, |age| age < COARSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_what_a_server_starts_from() {
        for path in [
            "WiredTiger",
            "WiredTiger.backup",
            "WiredTigerHS.wt",
            "_mdb_catalog.wt",
            "sizeStorer.wt",
            "storage.bson",
            "collection-0--7.wt",
            "shop/collection/4--7.wt",
            "index/5--7.wt",
            // Of a database called "journal", in a folder of its own.
            "journal/collection-1--7.wt",
            "journal/WiredTigerLog.0000000007",
            "key.db/WiredTiger.wt",
            "key.db/WiredTiger.turtle",
        ] {
            assert!(is_needed(path), "{path}");
        }
        for path in [
            "mongod.lock",
            "WiredTiger.lock",
            "WiredTiger.turtle",
            "WiredTiger.turtle.set",
            "WiredTiger.wt",
            "journal/WiredTigerPreplog.0000000001",
            "journal/WiredTigerTmplog.0000000001",
            "diagnostic.data/metrics.interim",
            "_tmp/extsort.1",
            ".fallbacksync/collection-0--7.wt",
            ".pbm.spool/b/collection-0--7.wt",
            "pbm.restore.log",
            "mongod.log",
            "mongodb-27017.sock",
            "key.db/WiredTiger.lock",
        ] {
            assert!(!is_needed(path), "{path}");
        }
    }

    #[test]
    fn files_are_listed_in_order_with_what_a_restore_needs() {
        let folder = tempdir("list");
        assert!(list(&folder).is_err(), "no database");
        for (path, size) in
            [("WiredTiger", 3), ("b.wt", 5), ("shop/a.wt", 0), ("mongod.lock", 4), ("x/y/z/w/v/u.wt", 1)]
        {
            fs::create_dir_all(folder.join(path).parent().expect("a folder")).expect("folders");
            fs::write(folder.join(path), vec![b'1'; size]).expect("a file");
        }
        std::os::unix::fs::symlink(folder.join("nowhere"), folder.join("gone.wt")).expect("a link");
        let files = list(&folder).expect("a list");
        let seen: Vec<(&str, u64)> = files.iter().map(|it| (it.path.as_str(), it.size)).collect();
        assert_eq!(seen, [("WiredTiger", 3), ("b.wt", 5), ("shop/a.wt", 0)]);
        check_readable(&folder, &files).expect("rights");
        assert_eq!(server_process(&folder), Some(1111));
        let before = stamp(&folder, "b.wt").expect("a look");
        fs::write(folder.join("new"), b"1").expect("a file");
        fs::rename(folder.join("new"), folder.join("b.wt")).expect("replace");
        assert_ne!(stamp(&folder, "b.wt").expect("a look"), before);
        assert_eq!(stamp(&folder, HELD).expect("a look"), None);
        fs::remove_dir_all(&folder).expect("clean up");
    }

    #[test]
    fn a_time_of_just_now_proves_nothing() {
        let now = SystemTime::now();
        assert!(is_fresh(now, now) && is_fresh(now + Duration::from_secs(9), now));
        assert!(!is_fresh(now, now + Duration::from_secs(3)));
    }

    fn tempdir(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("pbmbox-dbpath-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        path
    }
}
