//! Objects of a physical backup back to files (docs/format.md A.8).
//!
//! Several objects are read at a time, and each piece is written at its place at once, so memory does not grow with the
//! files. Sizes and checksums are compared with the list. When this returns, the files survive a power cut.

use crate::archive::{crc::Crc64, filelist::DataFile};
use crate::compress;
use crate::layout::ReplsetLayout;
use crate::storage::Storage;
use anyhow::{Context, Result, bail, ensure};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Permissions of files that the list has none for.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// What is fetched, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Fetch<'a> {
    pub layout: &'a ReplsetLayout,
    pub files: &'a [DataFile],
    pub folder: &'a Path,
    /// Objects that are read at a time.
    pub at_once: usize,
    /// Bytes written so far.
    pub written: &'a AtomicU64,
}

/// The bytes of all files together.
#[must_use]
pub fn total(files: &[DataFile]) -> u64 {
    sizes(files).values().sum()
}

fn sizes(files: &[DataFile]) -> BTreeMap<&str, u64> {
    let mut sizes = BTreeMap::new();
    for file in files {
        let size = u64::try_from(file.file_size.max(file.content)).unwrap_or_default();
        let known: &mut u64 = sizes.entry(file.path.as_str()).or_default();
        *known = size.max(*known);
    }
    sizes
}

/// Fetches all files into a folder that has none of them. They belong to the owner of the folder.
///
/// # Errors
/// An object is missing or damaged, or a file can't be written.
pub async fn fetch(storage: &dyn Storage, fetch: Fetch<'_>) -> Result<()> {
    let targets = Targets::make(fetch.folder, fetch.files)?;
    let (targets_of, fetch_of) = (&targets, &fetch);
    stream::iter(0..fetch.files.len())
        .map(|at| one(storage, fetch_of, &fetch_of.files[at], targets_of).boxed())
        .buffer_unordered(fetch.at_once.max(1))
        .try_collect::<()>()
        .await?;
    tokio::task::spawn_blocking(move || targets.finish()).await.context("finish the files")?
}

async fn one(storage: &dyn Storage, fetch: &Fetch<'_>, entry: &DataFile, targets: &Targets) -> Result<()> {
    if entry.is_unchanged() {
        return Ok(());
    }
    let file = targets.file(entry)?;
    let object = entry.object(fetch.layout);
    let read = async {
        let mut pieces = compress::decode(storage.get(&object, None).await?, fetch.layout.compression);
        let (mut at, mut crc) = (u64::try_from(entry.offset).unwrap_or_default(), Crc64::new());
        let begin = at;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            let (file, length) = (file.clone(), piece.len() as u64);
            crc = tokio::task::spawn_blocking(move || {
                crc.update(&piece);
                file.write_all_at(&piece, at).map(|()| crc)
            })
            .await
            .context("write a piece")?
            .with_context(|| format!("write '{}'", fetch.folder.join(&entry.path).display()))?;
            at += length;
            fetch.written.fetch_add(length, Ordering::Relaxed);
        }
        compare(entry, at - begin, crc.value())
    };
    read.await.with_context(|| format!("restore '{}' from the object '{object}'", entry.path))
}

/// Compares what an object contained with the list. The original lists no checksum, and no sizes of the journal.
fn compare(entry: &DataFile, length: u64, crc: i64) -> Result<()> {
    let listed = u64::try_from(entry.content).unwrap_or_default();
    ensure!(listed == 0 || length == listed, "it contains {length} bytes in place of {listed}");
    let rest = u64::try_from(entry.file_size - entry.offset).unwrap_or_default();
    let wanted = if entry.is_range() { rest.min(u64::try_from(entry.length).unwrap_or_default()) } else { rest };
    ensure!(length >= wanted, "it contains {length} bytes, and {wanted} are needed");
    if let Some(listed) = entry.crc {
        ensure!(crc == listed, "its checksum differs: the object is damaged");
    }
    Ok(())
}

/// The files that are written.
struct Targets {
    folder: PathBuf,
    files: BTreeMap<String, (Arc<File>, DataFile)>,
    folders: BTreeSet<PathBuf>,
}

impl Targets {
    fn make(folder: &Path, files: &[DataFile]) -> Result<Self> {
        let about = std::fs::metadata(folder).with_context(|| format!("look at the folder {}", folder.display()))?;
        let owner = rustix::process::geteuid().is_root().then(|| (about.uid(), about.gid()));
        let mut made = Self { folder: folder.to_owned(), files: BTreeMap::new(), folders: BTreeSet::new() };
        for entry in files.iter().filter(|file| !file.is_unchanged()) {
            if !made.files.contains_key(&entry.path) {
                let file = made.create(entry, owner)?;
                made.files.insert(entry.path.clone(), (Arc::new(file), entry.clone()));
            }
        }
        Ok(made)
    }

    fn create(&mut self, entry: &DataFile, owner: Option<(u32, u32)>) -> Result<File> {
        let path = self.folder.join(&entry.path);
        let mut folders: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        folders.retain(|it| it.starts_with(&self.folder) && *it != self.folder);
        for folder in folders.into_iter().rev() {
            if self.folders.insert(folder.clone()) {
                let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&folder);
                made.with_context(|| format!("make the folder {}", folder.display()))?;
                own(&folder, owner)?;
            }
        }
        let created = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        let file = created.with_context(|| format!("make the file {}", path.display()))?;
        own(&path, owner)?;
        Ok(file)
    }

    fn file(&self, entry: &DataFile) -> Result<Arc<File>> {
        let found = self.files.get(&entry.path);
        found.map(|(file, _)| file.clone()).with_context(|| format!("'{}' was not made", entry.path))
    }

    /// Cuts the files to their sizes, gives them their permissions and waits until the disk has all of it.
    fn finish(self) -> Result<()> {
        for (path, (file, entry)) in &self.files {
            let done = || -> std::io::Result<()> {
                if entry.file_size > 0 {
                    file.set_len(u64::try_from(entry.file_size).unwrap_or_default())?;
                }
                file.set_permissions(Permissions::from_mode(mode_of(entry)))?;
                file.sync_all()
            };
            done().with_context(|| format!("finish '{path}'"))?;
        }
        for folder in self.folders.iter().chain([&self.folder]) {
            let synced = File::open(folder).and_then(|it| it.sync_all());
            synced.with_context(|| format!("write the folder {} to the disk", folder.display()))?;
        }
        Ok(())
    }
}

fn own(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    chown(path, Some(uid), Some(gid)).with_context(|| format!("give {} to its owner", path.display()))
}

fn mode_of(entry: &DataFile) -> u32 {
    let mode = u32::try_from(entry.mode & 0o777).unwrap_or_default();
    if mode == 0 { FILE_MODE } else { mode }
}

/// Checks that every object is on the storage with the size that the list has. Returns all problems in one error.
///
/// # Errors
/// An object is missing, or has another size; also if the storage does not answer.
pub async fn check(storage: &dyn Storage, layout: &ReplsetLayout, files: &[DataFile]) -> Result<()> {
    const SHOWN: usize = 5;
    let there: BTreeMap<String, u64> =
        storage.list(&layout.object("")).map_ok(|object| (object.name, object.size)).try_collect().await?;
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| !file.is_unchanged()) {
        let object = file.object(layout);
        let listed = u64::try_from(file.stored).unwrap_or_default();
        match there.get(&object) {
            None => problems.push(format!("'{object}' is missing")),
            Some(size) if listed > 0 && *size != listed => {
                problems.push(format!("'{object}' has {size} bytes in place of {listed}"));
            }
            Some(_) => {}
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let more = problems.len().saturating_sub(SHOWN);
    problems.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    bail!("{}{more}", problems.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::compression::Compression;
    use crate::storage::{body, memory::Memory, read_all, write_all};

    struct Temp(PathBuf);

    impl Temp {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("pbm-download-{:016x}", rand::random::<u64>()));
            std::fs::create_dir(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn crc_of(content: &[u8]) -> i64 {
        let mut crc = Crc64::new();
        crc.update(content);
        crc.value()
    }

    async fn stored(store: &Memory, layout: &ReplsetLayout, mut entry: DataFile, content: &[u8]) -> DataFile {
        let packed = compress::encode(body(content.to_vec()), layout.compression, None).expect("a codec");
        entry.content = content.len() as i64;
        entry.stored = store.put(&entry.object(layout), packed, Default::default()).await.expect("put") as i64;
        entry.crc = Some(crc_of(content));
        entry
    }

    fn entry(path: &str, (offset, length): (i64, i64), file_size: i64) -> DataFile {
        DataFile { path: path.into(), offset, length, file_size, stored: 0, content: 0, mode: 0o640, crc: None }
    }

    async fn backup() -> (Memory, ReplsetLayout, Vec<DataFile>) {
        let (store, layout) = (Memory::new(), ReplsetLayout::new("b", "rs0", Compression::S2));
        let files = vec![
            stored(&store, &layout, entry("WiredTiger", (0, 0), 3), b"WT.").await,
            stored(&store, &layout, entry("shop/orders.wt", (0, 4), 6), b"abcd").await,
            // The range goes on behind the end of the file, as the original lists it.
            stored(&store, &layout, entry("shop/orders.wt", (4, 4), 6), b"ef").await,
            stored(&store, &layout, entry("empty.wt", (0, 0), 0), b"").await,
        ];
        (store, layout, files)
    }

    async fn run(store: &Memory, layout: &ReplsetLayout, files: &[DataFile], folder: &Path) -> Result<u64> {
        let written = AtomicU64::new(0);
        let fetch = Fetch { layout, files, folder, at_once: 2, written: &written };
        super::fetch(store, fetch).await.map(|()| written.into_inner())
    }

    #[tokio::test]
    async fn files_come_back_with_their_ranges_sizes_and_permissions() {
        let ((store, layout, files), temp) = (backup().await, Temp::new());
        check(&store, &layout, &files).await.expect("everything is there");
        assert_eq!(run(&store, &layout, &files, &temp.0).await.expect("files"), 9);
        let read = |path: &str| std::fs::read(temp.0.join(path)).expect(path);
        assert_eq!(
            [read("WiredTiger"), read("shop/orders.wt"), read("empty.wt")],
            [b"WT.".to_vec(), b"abcdef".to_vec(), vec![]]
        );
        let mode = |path: &str| std::fs::metadata(temp.0.join(path)).expect(path).permissions().mode() & 0o777;
        assert_eq!([mode("shop/orders.wt"), mode("shop")], [0o640, 0o700]);
        assert_eq!(total(&files), 9);
    }

    #[tokio::test]
    async fn damage_is_named() {
        let (store, layout, files) = backup().await;
        let object = files[1].object(&layout);
        let good = read_all(&store, &object, 1 << 20).await.expect("the object");
        let other = compress::encode(body(b"abcx".to_vec()), layout.compression, None).expect("a codec");
        store.put(&object, other, Default::default()).await.expect("put");
        let error = run(&store, &layout, &files, &Temp::new().0).await.expect_err("a changed byte");
        let text = format!("{error:#}");
        assert!(text.contains("shop/orders.wt") && text.contains("checksum"), "{text}");
        write_all(&store, &object, good[..good.len() - 1].to_vec()).await.expect("put");
        let error = check(&store, &layout, &files).await.expect_err("a short object");
        assert!(error.to_string().starts_with(&format!("'{object}' has ")), "{error}");
        store.delete(&object).await.expect("delete");
        let error = check(&store, &layout, &files).await.expect_err("a missing object");
        assert_eq!(error.to_string(), format!("'{object}' is missing"));
        run(&store, &layout, &files, &Temp::new().0).await.expect_err("a missing object");
    }
}
