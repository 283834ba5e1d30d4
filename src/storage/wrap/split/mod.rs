//! Cuts objects over a size limit into pieces (docs/format.md A.1.2).
//!
//! An object `x` of more than the limit is stored as `x`, `x.pbmpart.1`, `x.pbmpart.2`, …; every piece but the last
//! holds exactly `limit` bytes. An object that ends on a border has no empty piece.
//!
//! # How pieces are found
//!
//! Every piece but the last is as large as the first, so the first one tells where a piece ends, whatever limit its
//! writer had. After a full piece the next is probed; a piece that is smaller, or missing, ends the object. A first
//! piece below 1 GiB, the smallest limit anyone can set, stands alone and costs no probe.
//!
//! # Consistency
//!
//! The first piece is put last: its body is held open until the others are stored, so a reader finds the old object
//! or the whole new one. That cannot hold for an old object that has pieces itself: they are replaced one by one.
//! Pieces left over from a longer object are removed after a `put`.
//!
//! # Cancellation, crash
//!
//! A failed or dropped `put` removes the pieces that it wrote. A crash can leave pieces without a first one; they are
//! listed under the object's name, and deleting that name removes them.

use crate::storage::{ByteStream, Error, ObjectInfo, Promises, Result, SizeHint, Storage, check_name};
use async_trait::async_trait;
use futures::{FutureExt, StreamExt, TryStreamExt, stream, stream::BoxStream};
use std::{fmt, ops::Range, sync::Arc};

mod feed;
mod fold;

use feed::Gate;

/// The smallest limit that a configuration can set.
pub const SMALLEST_LIMIT: u64 = 1 << 30;

/// Cuts what is written, joins what is read.
#[derive(Debug, Clone)]
pub struct Split {
    inner: Arc<dyn Storage>,
    limit: u64,
}

impl Split {
    /// `limit` in bytes, at least 1. Limits below [`SMALLEST_LIMIT`] are for tests.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>, limit: u64) -> Self {
        Self { inner, limit: limit.max(1) }
    }

    /// Can a first piece of this size have others after it?
    fn may_continue(&self, size: u64) -> bool {
        size >= self.limit.min(SMALLEST_LIMIT)
    }

    /// The size of piece `number`, `None` if it is missing.
    async fn probe(&self, name: &str, number: u64) -> Result<Option<u64>> {
        match self.inner.stat(&piece(name, number)).await {
            Ok(info) => Ok(Some(info.size)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sizes of all pieces, the first included. A missing object is `NotFound`.
    async fn sizes(&self, name: &str) -> Result<Vec<u64>> {
        let first = self.inner.stat(name).await?.size;
        let mut sizes = vec![first];
        while self.may_continue(first) && sizes.last() == Some(&first) {
            match self.probe(name, sizes.len() as u64).await? {
                Some(size) => sizes.push(size),
                None => break,
            }
        }
        Ok(sizes)
    }

    /// Removes the pieces from number `from` on, the last one first: what an interruption leaves can be found again.
    async fn remove_from(&self, name: &str, from: u64) -> Result<()> {
        let mut end = from;
        while self.probe(name, end).await?.is_some() {
            end += 1;
        }
        for number in (from..end).rev() {
            self.inner.delete(&piece(name, number)).await?;
        }
        Ok(())
    }

    /// Stores the pieces after the first one, then lets the first one end. Returns their number and bytes.
    async fn put_rest(&self, name: &str, gate: Gate, hint: SizeHint, written: &mut Written) -> Result<(u64, u64)> {
        let Some(mut open) = gate.reached().await else { return Ok((0, 0)) };
        let (mut number, mut bytes) = (0_u64, 0);
        while let Some(cutter) = open.next_piece().await {
            number += 1;
            let left = hint.0.map(|all| all.saturating_sub(number.saturating_mul(self.limit)));
            written.last = number;
            bytes += self.inner.put(&piece(name, number), cutter.stream(), SizeHint(left)).await?;
        }
        open.let_first_end();
        Ok((number, bytes))
    }
}

/// The object of which one of this name would be taken for a piece.
#[must_use]
pub fn whole_of(name: &str) -> Option<&str> {
    fold::parse(name).map(|(whole, _)| whole)
}

/// `<name>.pbmpart.<number>`, numbers from 1.
fn piece(name: &str, number: u64) -> String {
    format!("{name}.pbmpart.{number}")
}

/// Where the reader of a whole object is.
struct Joined {
    piece: ByteStream,
    number: u64,
    /// Bytes of this piece so far, and of the first one when it has ended.
    size: u64,
    full: Option<u64>,
}

/// Pieces stored by a `put` that has not succeeded yet; removed if it never does.
struct Written {
    inner: Arc<dyn Storage>,
    name: String,
    last: u64,
}

impl Written {
    fn removal(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let (inner, name, last) = (Arc::clone(&self.inner), self.name.clone(), std::mem::take(&mut self.last));
        async move {
            for number in (1..=last).rev() {
                let name = piece(&name, number);
                if let Err(error) = inner.delete(&name).await {
                    tracing::warn!(%name, %error, "a piece of an object that was given up remains");
                }
            }
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if self.last > 0
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(self.removal());
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Storage for Split {
    fn promises(&self) -> Promises {
        Promises { largest_object: u64::MAX, ..self.inner.promises() }
    }

    async fn put(&self, name: &str, body: ByteStream, hint: SizeHint) -> Result<u64> {
        let mut written = Written { inner: Arc::clone(&self.inner), name: name.to_owned(), last: 0 };
        let (first, gate) = feed::cut(body, self.limit);
        let first_hint = SizeHint(hint.0.map(|size| size.min(self.limit)));
        let outcome = {
            let first = self.inner.put(name, first, first_hint).fuse();
            let rest = self.put_rest(name, gate, hint, &mut written).fuse();
            futures::pin_mut!(first, rest);
            futures::select_biased! {
                // The first piece cannot end well before the others, but it can fail while they are written.
                stored = first => match stored {
                    Ok(size) => rest.await.map(|(pieces, bytes)| (pieces, size + bytes)),
                    Err(error) => Err(error),
                },
                stored = rest => match stored {
                    Ok((pieces, bytes)) => first.await.map(|size| (pieces, size + bytes)),
                    Err(error) => {
                        // Its body breaks now, so it cannot succeed; waiting for it lets the store clean up.
                        let _ = first.await;
                        Err(error)
                    }
                },
            }
        };
        match outcome {
            Ok((pieces, size)) => {
                written.last = 0;
                self.remove_from(name, pieces + 1).await?;
                Ok(size)
            }
            Err(error) => {
                written.removal().await;
                Err(error)
            }
        }
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream> {
        let Some(range) = range else {
            let first = self.inner.get(name, None).await?;
            return Ok(self.joined(name, first));
        };
        let first = self.inner.stat(name).await?.size;
        if range.end <= first || !self.may_continue(first) {
            return self.inner.get(name, Some(range)).await;
        }
        let sizes = self.sizes(name).await?;
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        let parts: Vec<_> = sizes
            .into_iter()
            .enumerate()
            .scan(0, |end, (number, size)| {
                let start = *end;
                *end += size;
                Some((number as u64, start, size))
            })
            .map(|(number, start, size)| {
                let within = |at: u64| at.saturating_sub(start).min(size);
                (number, within(range.start)..within(range.end))
            })
            .filter(|(_, part)| part.start < part.end)
            .collect();
        Ok(stream::iter(parts)
            .then(move |(number, part)| {
                let (inner, name) = (Arc::clone(&inner), if number == 0 { name.clone() } else { piece(&name, number) });
                async move { inner.get(&name, Some(part)).await.map_err(std::io::Error::other) }
            })
            .try_flatten()
            .boxed())
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        Ok(ObjectInfo { name: name.to_owned(), size: self.sizes(name).await?.iter().sum() })
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        fold::fold(self, self.inner.list(prefix))
    }

    async fn delete(&self, name: &str) -> Result<()> {
        // The first piece first: without it the others are invisible.
        self.inner.delete(name).await?;
        self.remove_from(name, 1).await
    }

    async fn copy(&self, from: &str, to: &str) -> Result<()> {
        check_name(to).map_err(|reason| Error::Invalid { store: self.to_string(), reason })?;
        let pieces = self.sizes(from).await?.len() as u64;
        if from == to {
            return self.inner.stat(from).await.map(drop);
        }
        let mut written = Written { inner: Arc::clone(&self.inner), name: to.to_owned(), last: 0 };
        for number in 1..pieces {
            written.last = number;
            if let Err(error) = self.inner.copy(&piece(from, number), &piece(to, number)).await {
                written.removal().await;
                return Err(error);
            }
        }
        if let Err(error) = self.inner.copy(from, to).await {
            written.removal().await;
            return Err(error);
        }
        written.last = 0;
        self.remove_from(to, pieces).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<()> {
        self.inner.delete_prefix(prefix).await
    }
}

impl Split {
    /// The first piece's stream and, if it was full, those after it.
    fn joined(&self, name: &str, first: ByteStream) -> ByteStream {
        let (store, name) = (self.clone(), name.to_owned());
        let start = Joined { piece: first, number: 0, size: 0, full: None };
        stream::try_unfold((store, name, start), async |(store, name, mut at)| {
            loop {
                if let Some(bytes) = at.piece.try_next().await? {
                    at.size += bytes.len() as u64;
                    return Ok(Some((bytes, (store, name, at))));
                }
                let full = *at.full.get_or_insert(at.size);
                if !store.may_continue(full) || at.size != full {
                    return Ok(None);
                }
                at.number += 1;
                at.size = 0;
                at.piece = match store.inner.get(&piece(&name, at.number), None).await {
                    Ok(piece) => piece,
                    Err(Error::NotFound { .. }) => return Ok(None),
                    Err(error) => return Err(std::io::Error::other(error)),
                };
            }
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests;
