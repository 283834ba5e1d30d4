//! Data files to compressed objects, several at a time (docs/format.md A.8).
//!
//! Files of more than [`RANGE`] bytes are stored in ranges, so that a single large file is read, compressed and sent by several
//! threads at once, and a broken connection costs one range.
//!
//! # Memory
//! Of each object that is being stored, a few MiB are in memory: what is read ahead, and what the codec and the storage hold.

use super::dbpath::FoundFile;
use crate::archive::{crc::Crc64, filelist::DataFile};
use crate::compress;
use crate::layout::ReplsetLayout;
use crate::storage::{ByteStream, SizeHint, Storage};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};
use tokio_util::io::ReaderStream;

/// The most bytes of a file in one object: a multiple of 16 MiB, as all ranges of the format.
pub const RANGE: u64 = 256 << 20;
/// Read at a time.
const PIECE: usize = 512 * 1024;
/// Small files cost more time for requests than for bytes, so more of them are sent at once.
const SMALL: u64 = 1 << 20;
const SMALL_AT_ONCE: usize = 8;

/// What is stored, and how.
#[derive(Debug, Clone)]
pub struct UploadPlan {
    /// The folder of the files.
    pub root: PathBuf,
    pub layout: ReplsetLayout,
    pub level: Option<i32>,
    /// How many objects are stored at the same time.
    pub parallel: usize,
    /// The most bytes in one object.
    pub range: u64,
}

/// How far an upload is.
#[derive(Debug, Default)]
pub struct UploadProgress {
    pub bytes: AtomicU64,
    pub bytes_total: AtomicU64,
    pub files: AtomicU64,
    pub files_total: AtomicU64,
}

/// Stores all files. The entries come in the order of `files`, and the ranges of a file in the order of their bytes.
///
/// # Errors
/// A file can't be read or has another size than it had, or the storage fails. Objects that were finished stay.
pub async fn upload(
    storage: &Arc<dyn Storage>,
    plan: &UploadPlan,
    files: &[FoundFile],
    progress: &Arc<UploadProgress>,
) -> Result<Vec<DataFile>> {
    let mut parts: Vec<DataFile> = files.iter().flat_map(|file| parts_of(file, plan.range)).collect();
    progress.bytes_total.store(files.iter().map(|file| file.size).sum(), Relaxed);
    progress.files_total.store(parts.len() as u64, Relaxed);
    let mut order: Vec<usize> = (0..parts.len()).collect();
    // The largest come first, so that the upload does not end with a single large one.
    order.sort_by_key(|at| std::cmp::Reverse(parts[*at].content));
    let (large, small): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|at| parts[*at].content as u64 >= SMALL);
    for (group, at_once) in [(large, plan.parallel), (small, plan.parallel.max(SMALL_AT_ONCE))] {
        let stored: Vec<(usize, DataFile)> = stream::iter(group)
            .map(|at| {
                let part = parts[at].clone();
                async move {
                    let path = part.path.clone();
                    let done = store(storage, plan, part, progress).await;
                    done.map(|done| (at, done)).with_context(|| format!("store the data file '{path}'"))
                }
            })
            .buffer_unordered(at_once.max(1))
            .try_collect()
            .await?;
        for (at, part) in stored {
            parts[at] = part;
        }
    }
    Ok(parts)
}

/// The objects of a file, not stored yet. `content` is what each will contain.
fn parts_of(file: &FoundFile, range: u64) -> Vec<DataFile> {
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let part = |offset: u64, length: u64, content: u64| DataFile {
        path: file.path.clone(),
        offset: number(offset),
        length: number(length),
        file_size: number(file.size),
        stored: 0,
        content: number(content),
        mode: i64::from(file.mode & 0o777),
        crc: None,
    };
    if file.size <= range {
        return vec![part(0, 0, file.size)];
    }
    let begins = (0..file.size).step_by(usize::try_from(range).unwrap_or(usize::MAX));
    begins.map(|at| (at, range.min(file.size - at))).map(|(at, length)| part(at, length, length)).collect()
}

async fn store(
    storage: &Arc<dyn Storage>,
    plan: &UploadPlan,
    part: DataFile,
    progress: &Arc<UploadProgress>,
) -> Result<DataFile> {
    let (offset, expected) = (part.offset.unsigned_abs(), part.content.unsigned_abs());
    let seen = Arc::new(Mutex::new((0_u64, Crc64::new())));
    let body = read(&plan.root.join(&part.path), offset, expected).await?;
    let counted = body.inspect_ok({
        let (seen, progress) = (seen.clone(), progress.clone());
        move |bytes| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.0 += bytes.len() as u64;
            seen.1.update(bytes);
            progress.bytes.fetch_add(bytes.len() as u64, Relaxed);
        }
    });
    let body = compress::encode(counted.boxed(), plan.layout.compression, plan.level)?;
    let stored = storage.put(&part.object(&plan.layout), body, SizeHint(Some(expected))).await?;
    progress.files.fetch_add(1, Relaxed);
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(seen.0 == expected, "{} bytes could be read in place of {expected}", seen.0);
    Ok(DataFile { stored: i64::try_from(stored).unwrap_or(i64::MAX), crc: Some(seen.1.value()), ..part })
}

async fn read(path: &Path, offset: u64, length: u64) -> Result<ByteStream> {
    let what = || format!("read '{}'", path.display());
    let mut file = File::open(path).await.with_context(what)?;
    if offset > 0 {
        file.seek(SeekFrom::Start(offset)).await.with_context(what)?;
    }
    file.set_max_buf_size(PIECE);
    Ok(ReaderStream::with_capacity(file.take(length), PIECE).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datafiles::dbpath;
    use crate::model::compression::Compression;
    use crate::storage::memory::Memory;
    use std::fs;

    #[tokio::test]
    async fn files_and_ranges_are_stored_with_sizes_and_checksums() {
        let root = std::env::temp_dir().join(format!("pbmbox-upload-{:08x}", rand::random::<u32>()));
        fs::create_dir_all(root.join("journal")).expect("a folder");
        let large: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for (path, bytes) in [("WiredTiger", &b"mark"[..]), ("empty.wt", b""), ("large.wt", &large)] {
            fs::write(root.join(path), bytes).expect("a file");
        }
        fs::write(root.join("journal/WiredTigerLog.1"), b"log").expect("a file");
        let files = dbpath::list(&root).expect("a list");
        for compression in [Compression::None, Compression::S2, Compression::Pgzip] {
            let storage: Arc<dyn Storage> = Arc::new(Memory::default());
            let layout = ReplsetLayout::new("b", "rs0", compression);
            let range = 150_000;
            let plan = UploadPlan { root: root.clone(), layout: layout.clone(), level: None, parallel: 3, range };
            let progress = Arc::new(UploadProgress::default());
            let stored = upload(&storage, &plan, &files, &progress).await.expect("an upload");
            let names: Vec<(&str, i64, i64)> =
                stored.iter().map(|it| (it.path.as_str(), it.offset, it.length)).collect();
            let expected = [
                ("WiredTiger", 0, 0),
                ("empty.wt", 0, 0),
                ("journal/WiredTigerLog.1", 0, 0),
                ("large.wt", 0, 150_000),
                ("large.wt", 150_000, 150_000),
                ("large.wt", 300_000, 100_000),
            ];
            assert_eq!(names, expected);
            assert_eq!(progress.bytes.load(Relaxed), progress.bytes_total.load(Relaxed));
            assert_eq!(progress.files.load(Relaxed), 6);
            for part in &stored {
                let object = part.object(&layout);
                let info = storage.stat(&object).await.expect("an object");
                assert_eq!(info.size, part.stored.unsigned_abs(), "{object}");
                let content = compress::decode(storage.get(&object, None).await.expect("it"), compression);
                let content: Vec<u8> = content.try_collect::<Vec<_>>().await.expect("the content").concat();
                let whole = fs::read(root.join(&part.path)).expect("the file");
                let begin = usize::try_from(part.offset).expect("an offset");
                assert_eq!(content, whole[begin..begin + content.len()], "{object}");
                let mut crc = Crc64::new();
                crc.update(&content);
                assert_eq!((part.content, part.crc), (content.len() as i64, Some(crc.value())), "{object}");
                assert_eq!(part.file_size, whole.len() as i64);
            }
        }
        fs::remove_dir_all(&root).expect("clean up");
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_is_not_taken() {
        let root = std::env::temp_dir().join(format!("pbmbox-upload-{:08x}", rand::random::<u32>()));
        fs::create_dir_all(&root).expect("a folder");
        fs::write(root.join("WiredTiger"), b"mark").expect("a file");
        let files = dbpath::list(&root).expect("a list");
        fs::write(root.join("WiredTiger"), b"m").expect("a file");
        let storage: Arc<dyn Storage> = Arc::new(Memory::default());
        let layout = ReplsetLayout::new("b", "rs0", Compression::None);
        let plan = UploadPlan { root: root.clone(), layout, level: None, parallel: 1, range: RANGE };
        let failed = upload(&storage, &plan, &files, &Arc::default()).await.expect_err("too short");
        assert!(format!("{failed:#}").contains("1 bytes could be read in place of 4"), "{failed:#}");
        fs::remove_dir_all(&root).expect("clean up");
    }
}
