//! A storage that writes and deletes only while the mark of an initialised storage is there.
//!
//! A folder whose mount has gone is an empty folder. Data written there is not on the storage, and is hidden when the mount
//! comes back; data deleted there is still on the storage. The same holds for a bucket that was deleted and created again.

use crate::layout;
use crate::storage::{ByteStream, Error, ObjectInfo, Promises, Result, SizeHint, Storage};
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Wraps a storage and requires its mark.
#[derive(Debug)]
pub struct Guarded {
    inner: Arc<dyn Storage>,
    /// How long one check of the mark counts: a check costs nothing in a folder, but a request on other storages.
    counts_for: Duration,
    seen: Mutex<Option<Instant>>,
}

impl Guarded {
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>, counts_for: Duration) -> Self {
        Self { inner, counts_for, seen: Mutex::new(None) }
    }

    async fn check(&self, action: &'static str, name: &str) -> Result<()> {
        // Poison carries no meaning here: a time is valid whatever happened after it was written.
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_some_and(|at| at.elapsed() < self.counts_for) {
            return Ok(());
        }
        let now = Instant::now();
        match self.inner.stat(layout::INIT).await {
            Ok(_) => {
                *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
                Ok(())
            }
            Err(error) if error.is_not_found() => Err(Error::Failed {
                store: self.inner.to_string(),
                action,
                name: name.to_owned(),
                reason: format!(
                    "the storage's mark {} was there before and is gone; is a mount missing, or was everything deleted?",
                    layout::INIT
                ),
                retryable: false,
            }),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Storage for Guarded {
    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    async fn put(&self, name: &str, body: ByteStream, hint: SizeHint) -> Result<u64> {
        self.check("writing", name).await?;
        self.inner.put(name, body, hint).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream> {
        self.inner.get(name, range).await
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        self.inner.stat(name).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        self.inner.list(prefix)
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.check("deleting", name).await?;
        self.inner.delete(name).await
    }

    async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.check("copying to", to).await?;
        self.inner.copy(from, to).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<()> {
        self.check("deleting", prefix).await?;
        self.inner.delete_prefix(prefix).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{memory::Memory, read_all, write_all};

    #[tokio::test]
    async fn without_the_mark_nothing_is_written_or_deleted() {
        let memory = Arc::new(Memory::new());
        write_all(memory.as_ref(), layout::INIT, "2").await.expect("the mark");
        let store = Guarded::new(memory.clone(), Duration::ZERO);
        write_all(&store, "a/1", "1").await.expect("put");
        memory.delete(layout::INIT).await.expect("the mount goes");
        for refused in [
            write_all(&store, "a/2", "2").await.map(drop),
            store.delete("a/1").await,
            store.delete_prefix("a").await,
            store.copy("a/1", "a/3").await,
        ] {
            let refused = refused.expect_err("no mark").to_string();
            assert!(refused.contains(".pbm.init") && refused.contains("mount"), "{refused}");
        }
        assert_eq!(read_all(&store, "a/1", 9).await.expect("get"), "1", "reading needs no mark");
        write_all(memory.as_ref(), layout::INIT, "2").await.expect("it is back");
        store.delete("a/1").await.expect("delete");
    }
}
