//! Tries a storage: whether this node may write, read, list and delete there, and how much space is free.

use crate::layout;
use crate::model::{agent::Space, config::StorageConf, store::StoreKind};
use crate::storage::{self, Storage};
use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;

/// The steps of a trial that succeeded.
#[derive(Debug)]
pub enum Tried {
    All,
    /// Backups can be made, but never deleted.
    NotDeleted(anyhow::Error),
}

/// How many objects of killed agents are removed at once.
const LEFT: usize = 20;

/// Writes, reads, lists and deletes a small object as the node `node`. `instance` identifies this run of its agent, so
/// that objects of earlier runs are recognized and removed.
///
/// # Errors
/// Writing, reading or listing failed, so no backup can be made.
pub async fn attempt(store: &dyn Storage, node: &str, instance: &str) -> Result<Tried> {
    let folder = layout::probe_folder(node);
    let name = format!("{folder}/{instance}");
    let content = format!("{node} {instance}");
    storage::write_all(store, &name, content.clone()).await.context("write to the storage")?;
    let read = storage::read_all(store, &name, content.len()).await.context("read from the storage")?;
    ensure!(
        read == content.as_bytes(),
        "read from the storage: {store} gave other bytes for '{name}' than were written"
    );
    let listed: Vec<String> =
        store.list(&folder).map_ok(|object| object.name).try_collect().await.context("list what is on the storage")?;
    ensure!(listed.contains(&name), "list what is on the storage: {store} does not show '{name}', which is there");
    for name in listed.iter().take(LEFT) {
        if let Err(error) = store.delete(name).await {
            return Ok(Tried::NotDeleted(anyhow::Error::from(error).context("delete from the storage")));
        }
    }
    Ok(Tried::All)
}

/// Returns the free space if the storage is a folder. Returns `None` for other storages, and if the space is unknown.
pub async fn space(conf: &StorageConf) -> Option<Space> {
    let path = conf.filesystem.as_ref().filter(|_| conf.is_of(StoreKind::Filesystem))?.path.clone();
    let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(path)).await.ok()?.ok()?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(asked.f_frsize)).unwrap_or(i64::MAX);
    Some(Space { free: bytes(asked.f_bavail), total: bytes(asked.f_blocks) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::FilesystemConf;
    use crate::storage::{
        memory::Memory,
        wrap::faulty::{Call, Fault, Faulty},
    };
    use std::sync::Arc;

    #[tokio::test]
    async fn every_right_is_tried_and_nothing_is_left() {
        let memory = Arc::new(Memory::new());
        storage::write_all(memory.as_ref(), "pbmPitr/.probe.h:1/killed", "x").await.expect("put");
        let store = Faulty::new(memory.clone());
        for (call, words) in
            [(Call::Put, "write to the storage"), (Call::Get, "read from the storage"), (Call::List, "list what is on")]
        {
            store.fail(call, 1, Fault::Denied);
            let error = attempt(&store, "h:1", "a").await.expect_err(words);
            assert!(format!("{error:#}").contains(words), "{error:#}");
        }
        store.fail(Call::Delete, 1, Fault::Denied);
        assert!(matches!(attempt(&store, "h:1", "a").await, Ok(Tried::NotDeleted(_))));
        assert!(matches!(attempt(&store, "h:1", "a").await, Ok(Tried::All)));
        let left: Vec<_> = memory.list("").try_collect().await.expect("list");
        assert_eq!(left, [], "a killed agent's object is gone too");
    }

    #[tokio::test]
    async fn a_folder_has_room() {
        let path = std::env::temp_dir().to_string_lossy().into_owned();
        let filesystem = FilesystemConf { path, ..FilesystemConf::default() };
        let mut conf =
            StorageConf { kind: "filesystem".into(), filesystem: Some(filesystem), ..StorageConf::default() };
        let space = super::space(&conf).await.expect("a folder");
        assert!(space.total > 0 && space.free <= space.total, "{space:?}");
        conf.kind = "s3".into();
        assert_eq!(super::space(&conf).await, None);
    }
}
