//! A storage that breaks on purpose, for tests of what stands on it.

use crate::storage::{ByteStream, Error, ObjectInfo, Promises, Result, SizeHint, Storage, failed_list};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};
use std::{
    fmt, io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The calls that can be made to fail. `delete_prefix` counts as a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Put,
    Get,
    Stat,
    List,
    Delete,
    Copy,
}

impl Call {
    pub const ALL: [Self; 6] = [Self::Put, Self::Get, Self::Stat, Self::List, Self::Delete, Self::Copy];
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A retryable error at once.
    Passing,
    /// An error at once that will not pass.
    Lasting,
    /// Permission refused.
    Denied,
    /// As if the object were not there.
    Missing,
    /// `put` only: a retryable error after so many bytes of the body.
    PassingAfter(u64),
    /// `put` only: no space left after so many bytes of the body.
    FullAfter(u64),
    /// `get` only: the stream breaks with an error after so many bytes.
    CutAfter(u64),
    /// `get` only: the stream ends without an error after so many bytes, as if the object were shorter.
    ShortAfter(u64),
    /// The call succeeds, but only after a pause.
    Slow(Duration),
    /// The call never returns.
    Hang,
}

#[derive(Debug)]
struct Planned {
    call: Call,
    /// Calls of this kind until it happens; 1 = the next one.
    nth: u64,
    fault: Fault,
}

/// Passes everything on but the calls that were told to fail.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Storage>,
    planned: Mutex<Vec<Planned>>,
}

impl Faulty {
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, planned: Mutex::default() }
    }

    /// Lets the `nth` (from 1) of the calls to come fail, once.
    pub fn fail(&self, call: Call, nth: u64, fault: Fault) -> &Self {
        self.lock().push(Planned { call, nth, fault });
        self
    }

    /// Faults that have not happened yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Planned>> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and says what happens to it.
    fn next(&self, call: Call) -> Option<Fault> {
        let mut planned = self.lock();
        planned.iter_mut().filter(|plan| plan.call == call).for_each(|plan| plan.nth -= 1);
        let due = planned.iter().position(|plan| plan.nth == 0)?;
        Some(planned.swap_remove(due).fault)
    }

    /// Counts a call and lets it fail if the fault is one of the whole call.
    async fn meet(&self, call: Call, name: &str) -> Result<Option<Fault>> {
        let fault = self.next(call);
        match fault {
            Some(Fault::Slow(pause)) => tokio::time::sleep(pause).await,
            Some(Fault::Hang) => std::future::pending().await,
            _ => {}
        }
        match fault.and_then(|fault| self.error(fault, name)) {
            Some(error) => Err(error),
            None => Ok(fault),
        }
    }

    fn error(&self, fault: Fault, name: &str) -> Option<Error> {
        let (store, name, action, reason) = (self.to_string(), name.to_owned(), "calling", "on purpose".to_owned());
        match fault {
            Fault::Passing | Fault::PassingAfter(0) => {
                Some(Error::Failed { store, action, name, reason, retryable: true })
            }
            Fault::Lasting => Some(Error::Failed { store, action, name, reason, retryable: false }),
            Fault::Denied => Some(Error::Denied { store, action, name, reason }),
            Fault::Missing => Some(Error::NotFound { store, name }),
            Fault::FullAfter(0) => Some(Error::Full { store, action, name, reason }),
            _ => None,
        }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

/// The first `size` bytes of `whole`, then `end`. Pieces after the limit are not asked for.
fn cut(whole: ByteStream, size: u64, end: Option<io::Error>) -> ByteStream {
    stream::try_unfold((whole, size, end), async |(mut whole, left, end)| {
        if left == 0 {
            return end.map_or(Ok(None), Err);
        }
        let Some(bytes) = whole.next().await else { return Ok(None) };
        let mut bytes: Bytes = bytes?;
        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - bytes.len() as u64;
        Ok(Some((bytes, (whole, left, end))))
    })
    .boxed()
}

#[async_trait]
impl Storage for Faulty {
    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    async fn put(&self, name: &str, body: ByteStream, hint: SizeHint) -> Result<u64> {
        let fault = self.meet(Call::Put, name).await?;
        let (size, at_size) = match fault {
            Some(Fault::PassingAfter(size)) => (size, Fault::PassingAfter(0)),
            Some(Fault::FullAfter(size)) => (size, Fault::FullAfter(0)),
            _ => return self.inner.put(name, body, hint).await,
        };
        // The store below sees a broken body, so it keeps its own promise to store nothing.
        let result = self.inner.put(name, cut(body, size, Some(io::Error::other("on purpose"))), hint).await;
        match (result, self.error(at_size, name)) {
            (Err(Error::Source { reason, .. }), Some(error)) if reason.to_string() == "on purpose" => Err(error),
            (result, _) => result,
        }
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream> {
        let fault = self.meet(Call::Get, name).await?;
        let whole = self.inner.get(name, range).await?;
        Ok(match fault {
            Some(Fault::CutAfter(size)) => cut(whole, size, Some(io::Error::other("cut on purpose"))),
            Some(Fault::ShortAfter(size)) => cut(whole, size, None),
            _ => whole,
        })
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        self.meet(Call::Stat, name).await?;
        self.inner.stat(name).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        match self.next(Call::List).and_then(|fault| self.error(fault, prefix)) {
            Some(error) => failed_list(error),
            None => self.inner.list(prefix),
        }
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.meet(Call::Delete, name).await?;
        self.inner.delete(name).await
    }

    async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.meet(Call::Copy, to).await?;
        self.inner.copy(from, to).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<()> {
        self.meet(Call::Delete, prefix).await?;
        self.inner.delete_prefix(prefix).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{contract, memory::Memory, read_all, write_all};
    use futures::TryStreamExt;

    fn faulty() -> Faulty {
        Faulty::new(Arc::new(Memory::new()))
    }

    #[tokio::test]
    async fn keeps_the_contract_when_nothing_is_planned() {
        contract::check(&faulty()).await;
    }

    #[tokio::test]
    async fn fails_the_planned_call_only() {
        let store = faulty();
        store.fail(Call::Put, 2, Fault::FullAfter(3)).fail(Call::Stat, 1, Fault::Missing);
        write_all(&store, "x", "old").await.expect("the first put");
        assert!(matches!(write_all(&store, "x", "longer").await, Err(Error::Full { .. })));
        assert_eq!(read_all(&store, "x", 10).await.expect("get"), "old");
        write_all(&store, "x", "longer").await.expect("the third put");
        assert!(store.stat("x").await.is_err_and(|error| error.is_not_found()));
        assert_eq!(store.stat("x").await.expect("stat").size, 6);
    }

    #[tokio::test]
    async fn cuts_streams() {
        let store = faulty();
        write_all(&store, "x", "abcdef").await.expect("put");
        store.fail(Call::Get, 1, Fault::ShortAfter(4)).fail(Call::Get, 2, Fault::CutAfter(4));
        assert_eq!(read_all(&store, "x", 10).await.expect("a short object"), "abcd");
        let mut chunks = store.get("x", None).await.expect("get");
        assert_eq!(chunks.try_next().await.expect("the beginning").expect("bytes"), "abcd");
        assert!(chunks.try_next().await.is_err());
    }
}
