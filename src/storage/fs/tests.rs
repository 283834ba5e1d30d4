use super::*;
use crate::storage::{body, contract, write_all};
use bytes::Bytes;
use futures::stream;
use std::{fs, os::unix::fs::PermissionsExt};

/// A directory of its own that vanishes with the value.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("pbmbox-fs-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        fs::create_dir(&path).expect("create a directory for the test");
        Self(path)
    }

    async fn store(&self) -> FsStorage {
        FsStorage::open(&self.0.join("store"), Buffers::default()).await.expect("open")
    }

    /// Every file and directory below, relative.
    fn tree(&self) -> Vec<String> {
        fn walk(dir: &Path, root: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(dir).expect("read_dir") {
                let path = entry.expect("entry").path();
                found.push(path.strip_prefix(root).expect("below").to_string_lossy().into_owned());
                if path.is_dir() {
                    walk(&path, root, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.0.join("store"), &self.0.join("store"), &mut found);
        found.sort();
        found
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let dir = Dir::new();
    contract::check(&dir.store().await).await;
    assert_eq!(dir.tree(), [""; 0], "folders or temporary files remain");
}

#[tokio::test]
async fn keeps_the_contract_with_other_buffers() {
    let dir = Dir::new();
    let store = FsStorage::open(&dir.0.join("store"), Buffers { write: 1000, read: 123_456 }).await.expect("open");
    contract::check(&store).await;
}

#[tokio::test]
async fn objects_are_plain_files_that_not_everybody_reads() {
    let dir = Dir::new();
    let store = dir.store().await;
    write_all(&store, "b/rs0/shop.sl/ash.s2", "x").await.expect("put");
    let root = dir.0.join("store");
    assert_eq!(fs::read(root.join("b/rs0/shop.sl/ash.s2")).expect("a plain file"), b"x");
    // The umask of the user who runs this test may remove more permissions.
    for (path, most) in [("b/rs0/shop.sl/ash.s2", 0o640), ("b/rs0", 0o750), ("", 0o750)] {
        let mode = mode(&root.join(path));
        assert_eq!(mode & !most, 0, "{path}: {mode:o}");
        assert_eq!(mode & 0o600, 0o600, "{path}: {mode:o}");
    }
}

#[tokio::test]
async fn permissions_are_as_they_are_set() {
    let dir = Dir::new();
    let modes = Modes { file: Some(0o664), folder: Some(0o2775) };
    let root = dir.0.join("open");
    let store = FsStorage::open_with(&root, Buffers::default(), modes).await.expect("open");
    write_all(&store, "b/x", "x").await.expect("put");
    store.copy("b/x", "c/y").await.expect("copy");
    for (path, wanted) in [("b/x", 0o664), ("c/y", 0o664), ("b", 0o2775), ("", 0o2775)] {
        let mode = fs::metadata(root.join(path)).expect("metadata").permissions().mode() & 0o7777;
        assert_eq!(mode, wanted, "{path}: {mode:o}");
    }
}

#[tokio::test]
async fn hides_temporary_files_and_deletes_them_with_their_folder() {
    let dir = Dir::new();
    let store = dir.store().await;
    write_all(&store, "b/rs0/x", "x").await.expect("put");
    fs::write(dir.0.join("store/b/rs0/y.tmp"), "left by a killed agent").expect("write");
    let seen: Vec<_> = store.list("b").try_collect().await.expect("list");
    assert_eq!(seen, [ObjectInfo { name: "b/rs0/x".to_owned(), size: 1 }]);
    store.delete_prefix("b").await.expect("delete_prefix");
    assert_eq!(dir.tree(), [""; 0]);
}

#[tokio::test]
async fn refuses_a_root_that_is_no_directory_and_follows_a_symlink() {
    let dir = Dir::new();
    fs::write(dir.0.join("file"), "x").expect("write");
    fs::create_dir(dir.0.join("real")).expect("mkdir");
    std::os::unix::fs::symlink(dir.0.join("real"), dir.0.join("link")).expect("symlink");
    std::os::unix::fs::symlink(dir.0.join("nowhere"), dir.0.join("dangling")).expect("symlink");
    for bad in ["file", "file/below", "dangling"] {
        let opened = FsStorage::open(&dir.0.join(bad), Buffers::default()).await;
        assert!(matches!(opened, Err(Error::Invalid { .. })), "{bad}: {opened:?}");
    }
    assert!(matches!(FsStorage::open(Path::new(""), Buffers::default()).await, Err(Error::Invalid { .. })));
    let store = FsStorage::open(&dir.0.join("link"), Buffers::default()).await.expect("open");
    write_all(&store, "x", "x").await.expect("put");
    assert!(dir.0.join("real/x").is_file());
    assert!(dir.0.join("link").is_symlink());
}

#[tokio::test]
async fn does_not_write_beside_a_missing_mount() {
    let dir = Dir::new();
    let store = dir.store().await;
    fs::remove_dir(dir.0.join("store")).expect("rmdir");
    let error = write_all(&store, "b/x", "x").await.expect_err("the root is gone");
    assert!(matches!(&error, Error::Failed { reason, retryable: false, .. } if reason.contains("root")), "{error:?}");
    assert!(!dir.0.join("store").exists());
}

#[tokio::test]
async fn tells_what_is_in_the_way() {
    let dir = Dir::new();
    let store = dir.store().await;
    write_all(&store, "a/file", "x").await.expect("put");
    let below = write_all(&store, "a/file/below", "x").await.expect_err("a file is no folder");
    assert!(below.to_string().contains("not a directory"), "{below}");
    let over = write_all(&store, "a", "x").await.expect_err("a folder is no object");
    assert!(matches!(over, Error::Failed { retryable: false, .. }), "{over:?}");
    let long = write_all(&store, &"n".repeat(256), "x").await.expect_err("too long");
    assert!(matches!(long, Error::Invalid { .. }), "{long:?}");
    assert_eq!(dir.tree(), ["a", "a/file"]);
}

/// The runtime's end waits for the blocking threads, so that nothing of a dropped write can come later.
#[test]
fn a_dropped_put_leaves_nothing() {
    let dir = Dir::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let seen = runtime.block_on(async {
        let store = dir.store().await;
        let (reached, wait) = tokio::sync::oneshot::channel();
        let pieces = stream::iter((0..8).map(|_| Ok(Bytes::from(vec![1; 1 << 20]))));
        let stuck = stream::once(async move {
            reached.send(()).expect("the test waits");
            std::future::pending().await
        });
        let mut put = store.put("b/rs0/x", pieces.chain(stuck).boxed(), SizeHint(None));
        tokio::select! {
            _ = &mut put => panic!("the body does not end"),
            reached = wait => reached.expect("reached"),
        }
        // The put is dropped after this.
        dir.tree()
    });
    assert!(seen.last().is_some_and(|name| name.starts_with("b/rs0/x.") && name.ends_with(".tmp")), "{seen:?}");
    drop(runtime);
    assert_eq!(dir.tree(), [""; 0]);
}

#[tokio::test]
async fn two_writers_of_one_object_do_not_mix() {
    let dir = Dir::new();
    let store = dir.store().await;
    let contents = [contract::pattern(4 << 20, 1), contract::pattern(4 << 20, 2)];
    let puts = contents.clone().map(|content| store.put("x", contract::pieces(content, 100_000), SizeHint(None)));
    futures::future::try_join_all(puts).await.expect("both succeed");
    let stored = crate::storage::read_all(&store, "x", usize::MAX).await.expect("get");
    assert!(contents.contains(&stored));
    assert_eq!(dir.tree(), ["x"]);
}

#[tokio::test]
async fn a_put_survives_the_removal_of_its_empty_folder() {
    let dir = Dir::new();
    let store = dir.store().await;
    let rounds = 200;
    let write = async {
        for _ in 0..rounds {
            store.put("f/g/x", body("x"), SizeHint(None)).await.expect("put");
            store.delete("f/g/x").await.expect("delete");
        }
    };
    let other = async {
        for _ in 0..rounds {
            store.put("f/g/y", body("y"), SizeHint(None)).await.expect("put");
            store.delete("f/g/y").await.expect("delete");
        }
    };
    futures::join!(write, other);
    assert_eq!(dir.tree(), [""; 0]);
}

#[test]
fn errors_are_told_apart() {
    let kind = |errno: i32, action| match classify("s".to_owned(), action, "n", io::Error::from_raw_os_error(errno)) {
        Error::NotFound { .. } => "not found",
        Error::Denied { .. } => "denied",
        Error::Full { .. } => "full",
        Error::Invalid { .. } => "invalid",
        Error::Failed { retryable: true, .. } => "passing",
        Error::Failed { .. } => "failed",
        Error::Source { .. } => "source",
    };
    // ENOENT, EACCES, EPERM, EROFS, ENOSPC, EDQUOT, EFBIG, ENAMETOOLONG, EIO, ESTALE, EMFILE, EINVAL
    let found = [2, 13, 1, 30, 28, 122, 27, 36, 5, 116, 24, 22].map(|errno| kind(errno, "reading"));
    assert_eq!(
        found,
        [
            "not found",
            "denied",
            "denied",
            "denied",
            "full",
            "full",
            "full",
            "invalid",
            "passing",
            "passing",
            "passing",
            "failed"
        ]
    );
    assert_eq!(kind(2, "writing"), "failed");
}
