//! A temporary mongod on a folder of data files.

use crate::support::cluster::{Folder, Version, binary};
use bson::{Document, doc};
use pbmbox::datafiles::{program::Program, server::Launch};
use std::fs;
use std::path::Path;

/// The tested servers, each with the libraries that it needs.
async fn program(version: Version) -> Program {
    let (path, libraries) = binary(version);
    let found = match libraries {
        Some(libraries) => Program::with_libraries(&path, &libraries).await,
        None => Program::find(Some(&path.display().to_string()), None).await,
    };
    found.expect("a mongod")
}

fn tcp_listeners_of(pid: u32) -> usize {
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("open files")
        .filter_map(|it| fs::read_link(it.ok()?.path()).ok())
        .map(|it| it.display().to_string())
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").expect("sockets")
        + &fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    let listens = |line: &&str| line.split_whitespace().nth(3) == Some("0A");
    table
        .lines()
        .filter(listens)
        .filter(|line| {
            line.split_whitespace().nth(9).is_some_and(|inode| inodes.contains(&format!("socket:[{inode}]")))
        })
        .count()
}

fn pid_of(dbpath: &Path) -> u32 {
    fs::read_to_string(dbpath.join("mongod.lock")).expect("a lock file").trim().parse().expect("a process id")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_mongod_answers_on_its_socket_only_and_leaves_nothing_behind() {
    for version in [Version::Current, Version::Older, Version::Oldest] {
        let program = program(version).await;
        let data = Folder::new("datafiles");
        let server = Launch::new(&program, data.path()).cache_gb(0.25).start().await.expect("a server");
        let pid = pid_of(data.path());
        assert_eq!(tcp_listeners_of(pid), 0, "{version:?}");
        let docs = server.client().database("shop").collection::<Document>("orders");
        docs.insert_one(doc! { "_id": 1 }).await.expect("insert");
        server.stop().await.expect("a clean stop");
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{version:?} still runs");

        let again = Launch::new(&program, data.path()).cache_gb(0.25).start().await.expect("a server");
        let docs = again.client().database("shop").collection::<Document>("orders");
        let found = docs.count_documents(doc! {}).await.map_err(anyhow::Error::new);
        assert_eq!(again.finish(found).await.expect("a count"), 1, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mongod_that_does_not_start_says_why() {
    let program = program(Version::Current).await;
    let data = Folder::new("datafiles");
    fs::write(data.path().join("WiredTiger.wt"), "no table").expect("write");
    fs::write(data.path().join("WiredTiger.turtle"), "no turtle").expect("write");
    let error = Launch::new(&program, data.path()).start().await.expect_err("no server");
    let text = format!("{error:#}");
    assert!(text.contains("start a temporary mongod on") && text.contains("WiredTiger error message"), "{text}");
    let error = Launch::new(&program, data.path()).argument("--noSuchOption").start().await.expect_err("no server");
    assert!(format!("{error:#}").contains("noSuchOption"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_handle_ends_its_mongod() {
    let program = program(Version::Current).await;
    let data = Folder::new("datafiles");
    let server = Launch::new(&program, data.path()).cache_gb(0.25).start().await.expect("a server");
    let process = format!("/proc/{}", pid_of(data.path()));
    drop(server);
    crate::support::wait::until("the end of mongod", std::time::Duration::from_secs(20), async || {
        let state = fs::read_to_string(format!("{process}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    })
    .await;
}
