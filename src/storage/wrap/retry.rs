//! Repeats calls that failed in passing.
//!
//! # Bodies
//!
//! A body can be read only once. The wrapper keeps its beginning (up to `REPLAY` bytes), so a `put` is
//! repeated if the object is small or if the failed attempt did not get beyond that beginning. A `get` is repeated
//! until it has given its stream; an error inside the stream is the reader's.

use crate::storage::{ByteStream, Error, ObjectInfo, Promises, Result, SizeHint, Storage, patience::Patience};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future, stream, stream::BoxStream};
use std::{
    fmt, io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

/// Bytes of a body kept for a repetition.
const REPLAY: usize = 1 << 20;

/// Asks [`Error::is_retryable`] and nothing else. Dropping a call ends it at once, pauses included.
#[derive(Debug, Clone)]
pub struct Retry {
    inner: Arc<dyn Storage>,
    patience: Patience,
}

impl Retry {
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>, patience: Patience) -> Self {
        Self { inner, patience }
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A body that can be given out again as long as nobody read beyond its beginning.
struct Replay {
    beginning: Vec<Bytes>,
    /// What follows, until an attempt takes it.
    rest: Arc<Mutex<Option<ByteStream>>>,
}

impl Replay {
    /// Reads the beginning: up to `limit` bytes and the piece that reaches it.
    async fn new(mut body: ByteStream, limit: usize) -> io::Result<Self> {
        let (mut beginning, mut size) = (Vec::new(), 0);
        while size < limit {
            match body.next().await {
                Some(bytes) => {
                    let bytes = bytes?;
                    size += bytes.len();
                    beginning.push(bytes);
                }
                None => {
                    body = stream::empty().boxed();
                    break;
                }
            }
        }
        Ok(Self { beginning, rest: Arc::new(Mutex::new(Some(body))) })
    }

    fn can_repeat(&self) -> bool {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn body(&self) -> ByteStream {
        let rest = Arc::clone(&self.rest);
        let rest = future::lazy(move |_| {
            let taken = rest.lock().unwrap_or_else(PoisonError::into_inner).take();
            taken.unwrap_or_else(|| {
                stream::once(async { Err(io::Error::other("the body was read by an earlier attempt")) }).boxed()
            })
        });
        stream::iter(self.beginning.clone()).map(Ok).chain(rest.flatten_stream()).boxed()
    }
}

#[async_trait]
impl Storage for Retry {
    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    async fn put(&self, name: &str, body: ByteStream, hint: SizeHint) -> Result<u64> {
        let source = |reason| Error::Source { store: self.to_string(), name: name.to_owned(), reason };
        let replay = Replay::new(body, REPLAY).await.map_err(source)?;
        let mut attempts = self.patience.begin();
        loop {
            let error = match self.inner.put(name, replay.body(), hint).await {
                Err(error) if error.is_retryable() && replay.can_repeat() => error,
                result => return result,
            };
            attempts.rest("put", name, error).await?;
        }
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream> {
        self.patience.repeat("get", name, || self.inner.get(name, range.clone())).await
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        self.patience.repeat("stat", name, || self.inner.stat(name)).await
    }

    /// Repeated only while nothing was listed yet.
    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        let prefix = prefix.to_owned();
        let begin = async move {
            let mut attempts = self.patience.begin();
            loop {
                let mut objects = self.inner.list(&prefix).peekable();
                let passing = std::pin::Pin::new(&mut objects)
                    .next_if(|first| first.as_ref().is_err_and(Error::is_retryable))
                    .await;
                let Some(Err(error)) = passing else { return objects.boxed() };
                if let Err(error) = attempts.rest("list", &prefix, error).await {
                    return stream::once(async { Err(error) }).boxed();
                }
            }
        };
        begin.flatten_stream().boxed()
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.patience.repeat("delete", name, || self.inner.delete(name)).await
    }

    async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.patience.repeat("copy", to, || self.inner.copy(from, to)).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<()> {
        self.patience.repeat("delete", prefix, || self.inner.delete_prefix(prefix)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::faulty::{Call, Fault, Faulty};
    use super::*;
    use crate::storage::{contract, memory::Memory, read_all, write_all};
    use futures::TryStreamExt;

    fn quick() -> Patience {
        Patience { first_pause: std::time::Duration::from_millis(1), attempts: 3, ..Patience::default() }
    }

    fn over(faulty: &Arc<Faulty>) -> Retry {
        Retry::new(Arc::clone(faulty) as Arc<dyn Storage>, quick())
    }

    fn faulty() -> Arc<Faulty> {
        Arc::new(Faulty::new(Arc::new(Memory::new())))
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        contract::check(&Retry::new(Arc::new(Memory::new()), quick())).await;
    }

    #[tokio::test]
    async fn repeats_what_failed_in_passing() {
        let faulty = faulty();
        let store = over(&faulty);
        for call in Call::ALL {
            write_all(&*faulty, "a/b", "x").await.expect("put");
            faulty.fail(call, 1, Fault::Passing).fail(call, 2, Fault::Passing);
            match call {
                Call::Put => drop(write_all(&store, "a/b", "x").await.expect("put")),
                Call::Get => assert_eq!(read_all(&store, "a/b", 1).await.expect("get"), "x"),
                Call::Stat => assert_eq!(store.stat("a/b").await.expect("stat").size, 1),
                Call::List => assert_eq!(store.list("a").try_collect::<Vec<_>>().await.expect("list").len(), 1),
                Call::Delete => store.delete("a/b").await.expect("delete"),
                Call::Copy => store.copy("a/b", "a/c").await.expect("copy"),
            }
            assert_eq!(faulty.pending(), 0, "{call:?} was not tried three times");
        }
    }

    #[tokio::test]
    async fn gives_up_after_the_last_attempt_and_at_lasting_errors() {
        let faulty = faulty();
        let store = over(&faulty);
        faulty.fail(Call::Stat, 1, Fault::Passing).fail(Call::Stat, 2, Fault::Passing).fail(
            Call::Stat,
            3,
            Fault::Passing,
        );
        assert!(store.stat("x").await.expect_err("three failures").is_retryable());
        faulty.fail(Call::Stat, 1, Fault::Denied);
        assert!(matches!(store.stat("x").await, Err(Error::Denied { .. })));
        assert!(store.stat("x").await.expect_err("missing").is_not_found());
        faulty.fail(Call::List, 1, Fault::Passing).fail(Call::List, 2, Fault::Passing).fail(
            Call::List,
            3,
            Fault::Passing,
        );
        assert!(store.list("").try_collect::<Vec<_>>().await.expect_err("three failures").is_retryable());
        assert_eq!(faulty.pending(), 0);
    }

    #[tokio::test]
    async fn repeats_a_put_while_it_has_the_beginning() {
        let (faulty, large) = (faulty(), contract::pattern(3 << 20, 1));
        let store = over(&faulty);
        let put =
            async |size: usize| store.put("x", contract::pieces(large.slice(..size), 100_000), SizeHint(None)).await;
        for (size, torn_after) in [(1 << 19, 0), (1 << 19, 1 << 18), (3 << 20, 0), (3 << 20, 1 << 19)] {
            faulty.fail(Call::Put, 1, Fault::PassingAfter(torn_after));
            assert_eq!(put(size).await.expect("the second attempt"), size as u64);
            assert!(read_all(&store, "x", 3 << 20).await.expect("get") == large.slice(..size), "{size}, {torn_after}");
        }
        faulty.fail(Call::Put, 1, Fault::PassingAfter(2 << 20));
        assert!(put(3 << 20).await.expect_err("the beginning is gone").is_retryable());
        assert_eq!(faulty.pending(), 0);
    }
}
