//! Counts calls, bytes and time of a storage.

use crate::storage::{ByteStream, ObjectInfo, Promises, Result, SizeHint, Storage};
use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// What went through so far. Counters only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Calls begun, listings and prefix deletions included.
    pub calls: u64,
    /// Calls that returned an error; a missing object counts, a stream that breaks later does not.
    pub errors: u64,
    /// Bytes of bodies taken by `put`, of failed ones too.
    pub written: u64,
    /// Bytes streamed out by `get`.
    pub read: u64,
    /// Time inside calls, added up over parallel ones. Listings and the streams of `get` are not in it; the wait of a
    /// `put` for its body is.
    pub busy: Duration,
}

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    errors: AtomicU64,
    written: AtomicU64,
    read: AtomicU64,
    busy_micros: AtomicU64,
}

/// Counts on the way through; a few atomic additions per call and per piece.
#[derive(Debug)]
pub struct Measured {
    inner: Arc<dyn Storage>,
    counters: Arc<Counters>,
}

impl Measured {
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, counters: Arc::default() }
    }

    #[must_use]
    pub fn totals(&self) -> Totals {
        let counters = &self.counters;
        Totals {
            calls: counters.calls.load(Relaxed),
            errors: counters.errors.load(Relaxed),
            written: counters.written.load(Relaxed),
            read: counters.read.load(Relaxed),
            busy: Duration::from_micros(counters.busy_micros.load(Relaxed)),
        }
    }

    async fn count<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.counters.calls.fetch_add(1, Relaxed);
        let start = Instant::now();
        let result = call.await;
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.busy_micros.fetch_add(micros, Relaxed);
        self.counters.errors.fetch_add(u64::from(result.is_err()), Relaxed);
        result
    }

    fn counted(&self, stream: ByteStream, counter: fn(&Counters) -> &AtomicU64) -> ByteStream {
        let counters = Arc::clone(&self.counters);
        stream
            .inspect(move |bytes| {
                let size = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                counter(&counters).fetch_add(size, Relaxed);
            })
            .boxed()
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Storage for Measured {
    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    async fn put(&self, name: &str, body: ByteStream, hint: SizeHint) -> Result<u64> {
        let body = self.counted(body, |counters| &counters.written);
        self.count(self.inner.put(name, body, hint)).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream> {
        let stream = self.count(self.inner.get(name, range)).await?;
        Ok(self.counted(stream, |counters| &counters.read))
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        self.count(self.inner.stat(name)).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        self.counters.calls.fetch_add(1, Relaxed);
        self.inner
            .list(prefix)
            .inspect(|object| {
                self.counters.errors.fetch_add(u64::from(object.is_err()), Relaxed);
            })
            .boxed()
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.count(self.inner.delete(name)).await
    }

    async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.count(self.inner.copy(from, to)).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<()> {
        self.count(self.inner.delete_prefix(prefix)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{contract, memory::Memory, read_all, write_all};
    use futures::TryStreamExt;

    #[tokio::test]
    async fn keeps_the_contract() {
        contract::check(&Measured::new(Arc::new(Memory::new()))).await;
    }

    #[tokio::test]
    async fn counts() {
        let store = Measured::new(Arc::new(Memory::new()));
        write_all(&store, "x", vec![0; 100_000]).await.expect("put");
        read_all(&store, "x", 100_000).await.expect("get");
        store.get("x", Some(0..10)).await.expect("get").try_collect::<Vec<_>>().await.expect("read");
        store.stat("none").await.expect_err("missing");
        store.list("").try_collect::<Vec<_>>().await.expect("list");
        let Totals { calls, errors, written, read, .. } = store.totals();
        assert_eq!((calls, errors, written, read), (5, 1, 100_000, 100_010));
    }
}
