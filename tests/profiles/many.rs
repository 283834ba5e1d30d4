//! Ten thousand objects under a prefix: listed, read again and deleted within seconds.

use super::Stage;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Of four objects each.
const BACKUPS: u32 = 2500;
/// Of a server's disk that others use too; each of them takes a few seconds when it is idle.
const LIMIT: Duration = Duration::from_secs(60);

/// A backup like `from`, `n` minutes older, with files as small as they can be.
fn copy(store: &Path, from: &Value, n: u32) {
    let time = |seconds: u32| 1_700_000_000 + n * 60 + seconds;
    let name = jiff::Timestamp::from_second(time(0).into()).expect("a time").to_string();
    let mut meta = from.clone();
    meta["name"] = name.clone().into();
    meta["opid"] = format!("{n:024x}").into();
    meta["start_ts"] = time(0).into();
    let (first, last) = (ts(time(1)), ts(time(2)));
    meta["first_write_ts"] = first.clone();
    meta["last_write_ts"] = last.clone();
    let rs = &mut meta["replsets"][0];
    rs["backup_name"] = format!("{name}/rs0/metadata.json").into();
    rs["oplog_name"] = format!("{name}/rs0/oplog").into();
    rs["first_write_ts"] = first;
    rs["last_write_ts"] = last;
    let folder = store.join(&name).join("rs0");
    fs::create_dir_all(folder.join("oplog")).expect("make the folder");
    fs::write(
        folder.join("metadata.json"),
        r#"{"concurrent_collections":1,"server_version":"6.0.5","tool_version":"2.15.0","namespaces":[]}"#,
    )
    .expect("write");
    let described = pbmbox::archive::meta::write_meta_pbm("2.15.0", "6.0.5", "6.0", &[], &[]).expect("encode");
    fs::write(folder.join("meta.pbm"), described).expect("write");
    let slice = pbmbox::layout::ReplsetLayout::new(&name, "rs0", pbmbox::model::compression::Compression::S2);
    let at = |seconds| mongodb::bson::Timestamp { time: time(seconds), increment: 1 };
    fs::write(store.join(slice.oplog_slice(at(1), at(2))), "x").expect("write");
    fs::write(store.join(format!("{name}.pbm.json")), serde_json::to_vec(&meta).expect("JSON")).expect("write");
}

fn ts(time: u32) -> Value {
    serde_json::json!({ "T": time, "I": 1 })
}

fn within<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let since = Instant::now();
    let done = work();
    let took = since.elapsed();
    println!("{what}: {took:.1?}");
    assert!(took < LIMIT, "{what} took {took:.1?}");
    done
}

/// The most memory that a process has had, in MiB.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_backups_are_read_and_deleted_in_seconds() {
    let stage = Stage::set_up().await;
    stage.add("many");
    let made = stage.sandbox.backup(&["--profile", "many"]);
    let store = stage.store("many");
    let meta = fs::read(store.join(format!("{made}.pbm.json"))).expect("read");
    let meta: Value = serde_json::from_slice(&meta).expect("JSON");
    (0..BACKUPS).for_each(|n| copy(&store, &meta, n));
    fs::write(store.join("2001-01-01T00:00:00Z.pbm.json"), "no JSON").expect("write");
    let pbm = |args: &[&str]| stage.sandbox.pbm(args).ok();
    let agent = stage.sandbox.agents[0].pid();
    let before = peak(agent);

    for _ in 0..2 {
        let synced = within("sync", || pbm(&["profile", "sync", "many", "--wait"]));
        assert!(synced.stderr.contains("2001-01-01T00:00:00Z.pbm.json can't be read"), "{}", synced.stderr);
        assert_eq!(within("list", || stage.listed("many")).len(), BACKUPS as usize + 1);
    }
    let more = peak(agent).saturating_sub(before);
    println!("memory: {before} MiB and {more} more");
    assert!(more < 64, "the agent took {more} MiB more");

    // The one that was made just now is younger.
    within("cleanup", || pbm(&["cleanup", "--older-than", "2026-01-01", "--profile", "many", "-y", "--wait"]));
    assert_eq!(stage.listed("*"), [made]);
    let left = fs::read_dir(&store).expect("read").count();
    assert!(left <= 5, "{left} entries are left");
}
