//! Combines two storages: the backup may be on a profile's storage, but the oplog after it is always on the main
//! storage.

use crate::{
    layout,
    storage::{ByteStream, ObjectInfo, Promises, Result, SizeHint, Storage},
};
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::{fmt, ops::Range, sync::Arc};

/// The storage of the backup and the following oplog, or why it can't be used.
pub type Source = std::result::Result<Arc<dyn Storage>, String>;

/// Reads PITR chunks from `main` and everything else from `backup`.
#[derive(Debug)]
pub struct Sources {
    pub backup: Arc<dyn Storage>,
    pub main: Arc<dyn Storage>,
}

impl Sources {
    fn of(&self, name: &str) -> &dyn Storage {
        let chunk = name.strip_prefix(layout::PITR).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if chunk { self.main.as_ref() } else { self.backup.as_ref() }
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (oplog chunks: {})", self.backup, self.main)
    }
}

#[async_trait]
impl Storage for Sources {
    fn promises(&self) -> Promises {
        self.backup.promises()
    }

    async fn put(&self, name: &str, body: ByteStream, hint: SizeHint) -> Result<u64> {
        self.of(name).put(name, body, hint).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream> {
        self.of(name).get(name, range).await
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        self.of(name).stat(name).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        self.of(prefix).list(prefix)
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.of(name).delete(name).await
    }

    async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.of(from).copy(from, to).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{memory::Memory, read_all, write_all};

    #[tokio::test]
    async fn the_oplog_comes_from_the_main_storage_and_the_backup_from_its_own() {
        let (backup, main) = (Memory::new(), Memory::new());
        for (store, content) in [(&backup, "backup"), (&main, "main")] {
            for name in ["b/rs0/metadata.json", "pbmPitr/rs0/x", "pbmPitrs/x"] {
                write_all(store, name, content).await.expect("put");
            }
        }
        let both = Sources { backup: Arc::new(backup), main: Arc::new(main) };
        for (name, content) in [("b/rs0/metadata.json", "backup"), ("pbmPitr/rs0/x", "main"), ("pbmPitrs/x", "backup")]
        {
            assert_eq!(read_all(&both, name, 99).await.expect("get"), content, "{name}");
        }
    }
}
