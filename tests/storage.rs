//! What only a process of its own can show of the filesystem storage: it is killed, or runs out of room.
//!
//! The test runs itself again, one test only, with [`CHILD`] naming the directory of the store.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use pbmbox::storage::{
    Error, SizeHint, Storage,
    fs::{Buffers, FsStorage},
    read_all, write_all,
};
use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const CHILD: &str = "PBMBOX_TEST_CHILD_STORE";
const MIB: usize = 1 << 20;

/// A directory that vanishes with the value.
struct Dir(PathBuf);

impl Dir {
    fn new(what: &str) -> Self {
        let path = env::temp_dir().join(format!("pbmbox-{what}-{}", std::process::id()));
        fs::create_dir(&path).expect("create a directory for the test");
        Self(path)
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("b")).expect("read_dir");
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn open(path: &Path) -> FsStorage {
    FsStorage::open(path, Buffers::default()).await.expect("open")
}

/// This test again, in a process of its own.
fn again(test: &str, wrapper: &[&str], dir: &Dir) -> Command {
    let exe = env::current_exe().expect("the test's own path");
    let words = wrapper.iter().map(Into::into).chain([exe.into_os_string()]).collect::<Vec<_>>();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--exact", "--nocapture", test]).env(CHILD, &dir.0).stdin(Stdio::null());
    command
}

#[tokio::test]
async fn a_killed_writer_leaves_no_object() {
    if let Some(dir) = env::var_os(CHILD) {
        let pieces = stream::iter((0..8).map(|_| Ok(Bytes::from(vec![1; MIB]))));
        let stuck = stream::once(async {
            println!("\nin mid-put");
            std::future::pending().await
        });
        open(Path::new(&dir)).await.put("b/x", pieces.chain(stuck).boxed(), SizeHint(None)).await.expect("never ends");
    }
    let dir = Dir::new("killed");
    let store = open(&dir.0).await;
    write_all(&store, "b/kept", "old").await.expect("put");
    let mut child = again("storage::a_killed_writer_leaves_no_object", &[], &dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the test again");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let reached = lines.any(|line| line == "in mid-put");
    child.kill().expect("kill -9");
    child.wait().expect("wait");
    assert!(reached, "the child ended before it was in mid-put");

    let remains: Vec<_> = dir.files().into_iter().filter(|file| file != "kept").collect();
    assert!(matches!(&*remains, [one] if one.ends_with(".tmp")), "killed too early or too late: {remains:?}");
    let listed: Vec<_> = store.list("").map_ok(|object| object.name).try_collect().await.expect("list");
    assert_eq!(listed, ["b/kept"]);
    assert!(store.get("b/x", None).await.is_err_and(|error| error.is_not_found()));
    write_all(&store, "b/x", "new").await.expect("the remains are not in the way");
    store.delete_prefix("b").await.expect("delete_prefix");
    assert!(!dir.0.join("b").exists(), "the remains go with their folder");
}

#[tokio::test]
async fn without_room_nothing_is_stored() {
    if let Some(dir) = env::var_os(CHILD) {
        let store = open(Path::new(&dir)).await;
        let body = stream::iter((0..20).map(|_| Ok(Bytes::from(vec![1; MIB])))).boxed();
        let error = store.put("b/large", body, SizeHint(None)).await.expect_err("20 MiB do not fit");
        assert!(matches!(error, Error::Full { .. }), "{error:?}");
        let error = store.copy("b/huge", "b/copy").await.expect_err("50 MiB do not fit");
        assert!(matches!(error, Error::Full { .. }), "{error:?}");
        write_all(&store, "b/small", "fits").await.expect("a small object fits");
        return;
    }
    let dir = Dir::new("full");
    let store = open(&dir.0).await;
    write_all(&store, "b/huge", vec![2; 50 * MIB]).await.expect("put");
    // The limit on file sizes is the lack of room that needs no file system of its own. Without the trap the kernel
    // would end the process.
    let limited = ["sh", "-c", "ulimit -f 16384 && trap '' XFSZ && exec \"$0\" \"$@\""];
    let status = again("storage::without_room_nothing_is_stored", &limited, &dir).status().expect("run sh");
    assert!(status.success(), "see above");
    let mut files = dir.files();
    files.sort();
    assert_eq!(files, ["huge", "small"], "something remains");
    assert_eq!(read_all(&store, "b/small", 10).await.expect("get"), "fits");
}
