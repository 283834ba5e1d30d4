use super::super::fixture::{self, SELECTIVE, SHARDED};
use super::*;
use crate::model::chunk::Chunk;
use crate::{
    model::compression::Compression,
    storage::{
        memory::Memory,
        read_all,
        wrap::faulty::{Call, Fault, Faulty},
        write_all,
    },
};
use std::sync::Arc;

fn current() -> StorageConf {
    StorageConf { kind: "filesystem".to_owned(), name: Some("here".to_owned()), ..StorageConf::default() }
}

/// What came last of each backup, by name, and what was no use.
#[derive(Debug, Default)]
struct Scan {
    found: Vec<Found>,
    unreadable: Vec<(String, String)>,
}

async fn backups(store: &dyn Storage, current: &StorageConf) -> Result<Scan> {
    let (mut found, mut scan) = (std::collections::BTreeMap::new(), Scan::default());
    let mut read = std::pin::pin!(super::backups(store, current).await?);
    while let Some(read) = read.try_next().await? {
        match read {
            Read::Backup(backup) => drop(found.insert(backup.meta.name.clone(), *backup)),
            Read::Unreadable { object, reason } => scan.unreadable.push((object, reason)),
        }
    }
    scan.found = found.into_values().collect();
    Ok(scan)
}

fn names(scan: &Scan) -> Vec<&str> {
    scan.found.iter().map(|found| &*found.meta.name).collect()
}

#[tokio::test]
async fn finds_what_the_original_left() {
    let store = fixture::load().await;
    let scan = backups(&store, &current()).await.expect("backups");
    assert_eq!((names(&scan), &*scan.unreadable), (vec![SELECTIVE, SHARDED], &[][..]));
    for found in scan.found {
        assert_eq!((&*found.problems, &found.meta.store), (&[][..], &current()));
        let meta = found.meta.clone();
        assert_eq!(found.into_document(), meta);
    }
}

#[tokio::test]
async fn damage_becomes_the_status_and_a_gap_does_not() {
    let store = fixture::load().await;
    for name in store.names() {
        let gone = name.starts_with(SELECTIVE) && name.contains("/oplog/")
            || name.starts_with(&format!("{SHARDED}/rs1/shop."));
        if gone {
            store.delete(&name).await.expect("delete");
        }
    }
    let scan = backups(&store, &current()).await.expect("backups");
    let [selective, sharded] = scan.found.try_into().expect("both");
    assert!(matches!(&*selective.problems, [gap] if gap.is_warning()));
    assert_eq!(selective.into_document().status, Status::Done);
    let missing = sharded.problems.len();
    assert!(missing > 1);
    let document = sharded.into_document();
    let error = document.error.expect("an error");
    assert_eq!(document.status, Status::Error);
    assert!(
        error.contains(&format!("'{SHARDED}/rs1/shop.")) && error.ends_with(&format!("(and {} more)", missing - 1)),
        "{error}"
    );
}

#[tokio::test]
async fn one_bad_file_does_not_hide_the_others() {
    let store = fixture::load().await;
    let good = read_all(&store, &layout::backup_meta(SELECTIVE), 1 << 20).await.expect("read");
    write_all(&store, "deep/er/copy.pbm.json", good).await.expect("put");
    write_all(&store, "0.pbm.json", "{").await.expect("put");
    write_all(&store, "1.pbm.json", r#"{"status": "done"}"#).await.expect("put");
    let scan = backups(&store, &current()).await.expect("backups");
    assert_eq!(names(&scan), [SELECTIVE, SHARDED], "once each");
    let bad: Vec<_> = scan.unreadable.iter().map(|(name, _)| &**name).collect();
    assert_eq!(bad, ["0.pbm.json", "1.pbm.json"]);

    store.delete(&layout::backup_meta(SELECTIVE)).await.expect("delete");
    let scan = backups(&store, &current()).await.expect("backups");
    assert_eq!(names(&scan), [SELECTIVE, SHARDED], "at any depth");
}

/// Neither a long file nor a short one with very many values is made into a backup, and the others are found.
#[tokio::test]
async fn no_file_takes_the_memory_of_the_agent() {
    let store = fixture::load().await;
    let long = usize::try_from(META_LIMIT).expect("small") + 1;
    write_all(&store, "long.pbm.json", vec![b' '; long]).await.expect("put");
    let many = format!(r#"{{"name": "many", "replsets": [{}{{}}]}}"#, "{},".repeat(300_000));
    write_all(&store, "many.pbm.json", many).await.expect("put");
    let file = r#"{"name": "f", "size": 1},"#.repeat(300_000);
    let physical = format!(
        r#"{{"name": "old", "type": "physical", "status": "error", "replsets": [{{"name": "rs0", "files": [{file}{{}}]}}]}}"#
    );
    write_all(&store, "old.pbm.json", physical).await.expect("put");
    let scan = backups(&store, &current()).await.expect("backups");
    assert_eq!(names(&scan), [SELECTIVE, SHARDED, "old"], "long lists of files are no matter");
    let [(long, too_long), (many, too_many)] = scan.unreadable.try_into().expect("two");
    assert_eq!((long.as_str(), many.as_str()), ("long.pbm.json", "many.pbm.json"));
    assert!(too_long.contains("bytes") && too_many.contains("more values"), "{too_long} {too_many}");
}

#[tokio::test]
async fn a_storage_that_fails_in_passing_is_told_and_one_that_refuses_is_noted() {
    let faulty = Faulty::new(Arc::new(fixture::load().await));
    faulty.fail(Call::Get, 2, Fault::Passing);
    backups(&faulty, &current()).await.expect_err("not the whole truth");
    faulty.fail(Call::List, 1, Fault::Denied);
    backups(&faulty, &current()).await.expect_err("nothing is known");
    faulty.fail(Call::List, 2, Fault::Denied);
    let scan = backups(&faulty, &current()).await.expect("backups");
    let damaged: Vec<_> = scan.found.iter().map(|found| found.problems.len()).collect();
    assert!(damaged.contains(&0) && damaged.contains(&1), "{damaged:?}");
    assert_eq!(faulty.pending(), 0);
}

#[tokio::test]
async fn chunks_by_replica_set_and_time() {
    let store = fixture::load().await;
    write_all(&store, "pbmPitr/rs1/20261121/20261121022844-1.20261121022854-1.oplog", "").await.expect("put");
    write_all(&store, "pbmPitr/rs1/20261121/notes.txt", "x").await.expect("put");
    let chunks: Vec<Chunk> = chunks(&store).await.expect("chunks").iter().collect();
    assert_eq!(chunks.len(), 6);
    assert!(chunks.is_sorted_by_key(|chunk| (chunk.rs.clone(), chunk.start_ts)));
    for chunk in &chunks {
        assert_eq!(layout::pitr_chunk(&chunk.rs, chunk.start_ts, chunk.end_ts, Compression::S2), chunk.fname);
        let size = store.stat(&chunk.fname).await.expect("stat").size;
        assert_eq!((chunk.size, chunk.compression), (i64::try_from(size).expect("small"), Compression::S2));
    }
    let small = "pbmPitr/rs1/20261121/20261121022920-1.20261121022922-16.oplog.s2";
    write_all(&store, small, "x").await.expect("put");
    let names = |chunks: Vec<Chunk>| chunks.into_iter().map(|chunk| chunk.fname).collect::<Vec<_>>();
    let again = super::chunks(&store).await.expect("chunks").iter().collect();
    assert_eq!(names(again), names(chunks), "a part of another one is left out");
    let none = Memory::new();
    assert!(super::chunks(&none).await.expect("chunks").is_empty());
}
