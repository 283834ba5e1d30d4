//! The files of a report: private, new, and gone again if the report is not finished.

use crate::cmd::io::error::{CliError, Result};
use anyhow::Context as _;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// Every kind of file that a report can have.
const KINDS: [&str; 7] = ["report.json", "backup.json", "restore.json", "nodes.json", "log", "log.jsonl", "zip"];

/// The files of one report. Dropping it removes them, unless [`Folder::keep`] was called.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// What all file names begin with.
    prefix: String,
    files: Vec<PathBuf>,
    /// The directory was not there before.
    new: bool,
}

impl Folder {
    /// Makes the directory, for its owner only, if it is missing.
    ///
    /// # Errors
    /// It can't be made; a file of the report is there already and is not to be replaced.
    pub fn open(path: &Path, prefix: &str, replace: bool) -> Result<Self> {
        if prefix.contains('/') || prefix.starts_with('.') {
            return Err(CliError::usage(format!("'{prefix}' can't be the beginning of a file's name"))
                .hint("give the operation by --opid"));
        }
        let new = !path.exists();
        if new {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .with_context(|| format!("make the directory {}", path.display()))?;
        }
        let this = Self { path: path.to_owned(), prefix: prefix.to_owned(), files: Vec::new(), new };
        for file in KINDS.map(|kind| this.file(kind)) {
            match fs::symlink_metadata(&file) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let error = anyhow::Error::new(error).context(format!("look at {}", file.display()));
                    return Err(CliError::from(error).hint("give another directory with --path"));
                }
                Ok(_) if replace => {
                    fs::remove_file(&file).with_context(|| format!("remove the old {}", file.display()))?;
                }
                Ok(_) => {
                    return Err(CliError::refused(format!(
                        "{} is there already and was left as it is",
                        file.display()
                    ))
                    .hint("give another directory with --path, or replace the earlier report with --force"));
                }
            }
        }
        Ok(this)
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.path.join(format!("{}.{kind}", self.prefix))
    }

    /// A new file for its owner only. It must not be there, not even as a link.
    pub fn create(&mut self, kind: &str) -> Result<BufWriter<File>> {
        let file = self.file(kind);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
        let opened = opened.with_context(|| format!("make {}", file.display()))?;
        self.files.push(file);
        Ok(BufWriter::new(opened))
    }

    /// Puts the files so far into a zip archive.
    pub fn archive(&mut self) -> Result<()> {
        let files = self.files.clone();
        let mut zip = ZipWriter::new(self.create("zip")?);
        for file in files {
            pack(&mut zip, &file).with_context(|| format!("put {} into the archive", file.display()))?;
        }
        let finished = zip.finish().map_err(io::Error::from).and_then(|mut out| out.flush());
        Ok(finished.context("write the archive")?)
    }

    /// The report is complete. Returns the paths of its files.
    pub fn keep(mut self) -> Vec<String> {
        self.new = false;
        std::mem::take(&mut self.files).iter().map(|file| file.display().to_string()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Whoever could not write may be unable to remove too; the error that led here is the one to tell.
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        if self.new {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

fn pack(zip: &mut ZipWriter<BufWriter<File>>, file: &Path) -> io::Result<()> {
    let mut from = File::open(file)?;
    let large = from.metadata()?.len() >= u64::from(u32::MAX);
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .unix_permissions(0o600)
        .large_file(large);
    zip.start_file(file.file_name().unwrap_or_default().to_string_lossy(), options)?;
    io::copy(&mut from, zip)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pbmbox-diagnostic-{name}-{}", std::process::id()))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn files_are_private_and_never_overwritten() {
        let path = place("private");
        let mut folder = Folder::open(&path, "b", false).expect("open");
        write!(folder.create("log").expect("create"), "one").expect("write");
        folder.archive().expect("archive");
        let files = folder.keep();
        assert_eq!(files.len(), 2);
        assert_eq!((mode(&path), mode(Path::new(&files[0])), mode(Path::new(&files[1]))), (0o700, 0o600, 0o600));
        let mut zip = zip::ZipArchive::new(File::open(&files[1]).expect("open")).expect("a zip archive");
        assert_eq!(io::read_to_string(zip.by_name("b.log").expect("the log")).expect("read"), "one");

        let again = Folder::open(&path, "b", false).expect_err("it is there");
        assert!(again.source.to_string().contains("b.log") && !again.hints.is_empty());
        assert_eq!(fs::read(&files[0]).expect("read"), b"one");
        drop(Folder::open(&path, "c", false).expect("another operation's files do not matter"));
        drop(Folder::open(&path, "b", true).expect("replaced"));
        assert!(!Path::new(&files[0]).exists() && path.exists());
        fs::remove_dir_all(&path).expect("clean up");
    }

    #[test]
    fn an_unfinished_report_leaves_nothing() {
        let path = place("unfinished");
        let mut folder = Folder::open(&path, "b", false).expect("open");
        drop(folder.create("report.json").expect("create"));
        drop(folder);
        assert!(!path.exists());
        assert!(Folder::open(&path, "../b", false).is_err());
    }
}
