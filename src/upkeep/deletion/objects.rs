//! Removes the objects of a backup from a storage.
//!
//! # Crash
//!
//! A deletion that is cut short must neither leave a backup that looks whole nor objects that nobody finds again. So
//! the order is: the objects without which a backup fails its check (`metadata.json` of every replica set, the list of
//! files of a physical one), everything else, and `<backup>.pbm.json` last. Until that is gone, a resync lists the
//! backup with status `error`, and deleting it again finishes the work. The caller removes the database document
//! after that.

use crate::{
    archive::backup_json,
    layout,
    storage::{self, Storage, check_name},
};
use anyhow::{Context, Result, ensure};
use futures::{TryStreamExt, stream};

/// How many objects are deleted at a time.
const AT_ONCE: usize = 16;
/// A metadata file that is larger is not read; only backups before 2.0 have objects that nothing else tells.
const META_LIMIT: usize = 64 << 20;

/// Deletes every object of the backup `name`, its metadata file last. What is already gone is success.
///
/// # Errors
/// The first failing call of the storage, and a name that cannot be a backup's: nothing is deleted then.
pub async fn backup(store: &dyn Storage, name: &str) -> Result<()> {
    ensure!(
        check_name(name).is_ok() && !name.contains('/') && !name.starts_with('.') && name != layout::PITR,
        "'{name}' cannot be the name of a backup, so nothing is deleted"
    );
    let vital: Vec<_> = store
        .list(name)
        .try_filter_map(|object| async move {
            let vital = object.name.ends_with("/metadata.json") || object.name.ends_with("/filelist.pbm");
            Ok(vital.then_some(object.name))
        })
        .try_collect()
        .await
        .with_context(|| format!("list the files of backup {name}"))?;
    objects(store, vital).await?;
    store.delete_prefix(name).await.with_context(|| format!("delete the files of backup {name}"))?;
    objects(store, beside_the_metadata(store, name).await?).await?;
    objects(store, [layout::backup_meta(name)]).await
}

/// Before 2.0 the data of a backup lay beside its metadata file, under names that only that file tells.
async fn beside_the_metadata(store: &dyn Storage, name: &str) -> Result<Vec<String>> {
    let bytes = match storage::read_all(store, &layout::backup_meta(name), META_LIMIT).await {
        Err(storage::Error::NotFound { .. } | storage::Error::Invalid { .. }) => return Ok(Vec::new()),
        bytes => bytes?,
    };
    let Ok(meta) = backup_json::read(&bytes) else { return Ok(Vec::new()) };
    // Whatever the metadata file says, no object of another backup is deleted, and no metadata file.
    let own = |object: &String| {
        object.contains(name)
            && !object.contains('/')
            && !object.ends_with(layout::BACKUP_META_SUFFIX)
            && check_name(object).is_ok()
    };
    let named = meta.replsets.into_iter().flat_map(|rs| [rs.dump_name, rs.oplog_name]);
    let plain = |object: String| object.trim_start_matches("./").trim_start_matches('/').to_owned();
    Ok(named.map(plain).filter(own).collect())
}

/// Deletes objects by name, several at once, in no order: for PITR chunks.
///
/// # Errors
/// The first failing call; those that were under way may or may not have happened.
pub async fn objects(store: &dyn Storage, names: impl IntoIterator<Item = String> + Send) -> Result<()> {
    let names: Vec<_> = names.into_iter().collect();
    stream::iter(names.into_iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, |name| async move {
            store.delete(&name).await.with_context(|| format!("delete '{name}'"))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{
        memory::Memory,
        wrap::faulty::{Call, Fault, Faulty},
        write_all,
    };
    use std::sync::Arc;

    const NAMES: [&str; 8] = [
        ".pbm.init",
        "b.pbm.json",
        "b/rs0/metadata.json",
        "b/rs0/oplog/1",
        "b/rs0/shop.sl/ash.s2",
        "b/rs1/metadata.json",
        "bb.pbm.json",
        "bb/rs0/metadata.json",
    ];

    async fn store() -> Arc<Memory> {
        let store = Memory::new();
        for name in NAMES {
            write_all(&store, name, "x").await.expect("put");
        }
        Arc::new(store)
    }

    #[tokio::test]
    async fn a_backup_goes_with_all_its_objects_and_no_others() {
        let store = store().await;
        for _ in 0..2 {
            backup(&*store, "b").await.expect("delete");
            assert_eq!(store.names(), [".pbm.init", "bb.pbm.json", "bb/rs0/metadata.json"]);
        }
    }

    /// Cut after each of its deletions: until the metadata file goes, it is there and nothing looks whole.
    #[tokio::test]
    async fn a_deletion_cut_short_shows() {
        for nth in 1..=4 {
            let memory = store().await;
            let faulty = Faulty::new(Arc::clone(&memory) as Arc<dyn Storage>);
            faulty.fail(Call::Delete, nth, Fault::Lasting);
            backup(&faulty, "b").await.expect_err("cut short");
            let names = memory.names();
            assert!(names.contains(&"b.pbm.json".to_owned()), "cut at {nth}: {names:?}");
            let vital = names.iter().filter(|name| name.starts_with("b/") && name.ends_with("metadata.json")).count();
            let whole = names.len() == NAMES.len();
            assert!(whole || vital < 2, "cut at {nth}, the backup looks whole: {names:?}");
            backup(&faulty, "b").await.expect("the second time");
            assert_eq!(memory.names().len(), 3);
        }
    }

    #[tokio::test]
    async fn the_archive_of_an_old_backup_goes_too() {
        let (store, name) = (Memory::new(), "2022-02-07T14:05:59Z");
        let old = |rest: &str| rest.replace('B', name);
        let meta = old(
            r#"{"name": "B", "replsets": [{"name": "rs.0", "backup_name": "B_rs.0.dump.gz", "oplog_name": "./.B_rs.0.oplog.gz"},
                {"name": "rs1", "backup_name": "other", "oplog_name": "otherB.pbm.json"}]}"#,
        );
        for object in ["B_rs.0.dump.gz", ".B_rs.0.oplog.gz", "other", "otherB.pbm.json"] {
            write_all(&store, &old(object), "x").await.expect("put");
        }
        write_all(&store, &old("B.pbm.json"), meta).await.expect("put");
        backup(&store, name).await.expect("delete");
        assert_eq!(store.names(), ["other".to_owned(), old("otherB.pbm.json")]);
    }

    #[tokio::test]
    async fn what_is_no_backup_is_left_alone() {
        let store = store().await;
        write_all(&*store, "pbmPitr/rs0/x", "x").await.expect("put");
        for name in ["", ".", "..", "b/rs0", "pbmPitr", ".pbm.restore", "/"] {
            backup(&*store, name).await.expect_err("no name of a backup");
        }
        assert_eq!(store.names().len(), NAMES.len() + 1);
    }

    #[tokio::test]
    async fn many_objects() {
        let store = store().await;
        objects(&*store, NAMES.map(str::to_owned)).await.expect("delete");
        assert_eq!(store.names(), [""; 0]);
    }
}
