//! Uploads of unknown length: a body cut into parts, some of them on their way at once, in bounded memory.
//!
//! # Size of parts
//!
//! Stores allow only so many parts. If the length is known, the part size follows from it. If it isn't, parts begin at the
//! configured size and double after every tenth of the allowed number, so the largest object always fits; then fewer
//! are on their way at once, so that memory stays within [`Cut::in_flight`] bytes (or one part, if that is larger) and
//! the part that is being gathered.

use super::{ByteStream, Error, Result, SizeHint};
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use std::io;

/// How a body is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of the first parts.
    pub part: usize,
    /// Parts of one object at most.
    pub most: u32,
    /// Bytes on their way at a time.
    pub in_flight: usize,
}

impl Cut {
    /// The cut for a body of this length: with a hint, parts half again as large as needed.
    #[must_use]
    pub fn for_size(self, hint: SizeHint) -> Self {
        let needed = hint.0.unwrap_or(0) / u64::from(self.most.max(1)) * 3 / 2;
        Self { part: self.part.max(usize::try_from(needed).unwrap_or(usize::MAX)), ..self }
    }

    /// Bytes of part `number` (from 1).
    fn size(&self, number: u32) -> usize {
        let doublings = number.saturating_sub(1) / (self.most / 10).max(1);
        self.part.saturating_mul(1 << doublings.min(20))
    }
}

/// A body, given out part by part.
pub struct Parts {
    body: ByteStream,
    gathered: BytesMut,
    /// What the part after the one gathered begins with.
    left: Bytes,
    ended: bool,
    cut: Cut,
    given: u32,
}

impl Parts {
    #[must_use]
    pub fn new(body: ByteStream, cut: Cut) -> Self {
        Self { body, gathered: BytesMut::new(), left: Bytes::new(), ended: false, cut, given: 0 }
    }

    /// The next part, `None` at the end. All parts but the last have the size that [`Cut`] says; an empty body has none.
    ///
    /// The future can be dropped and the call repeated: nothing is lost.
    ///
    /// # Errors
    /// Those of the body.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let size = self.cut.size(self.given + 1);
        loop {
            if !self.left.is_empty() {
                let taken = self.left.split_to((size - self.gathered.len()).min(self.left.len()));
                if self.gathered.is_empty() && taken.len() < size {
                    self.gathered.reserve(size.min(self.cut.part));
                }
                self.gathered.extend_from_slice(&taken);
            }
            if self.gathered.len() == size || (self.ended && !self.gathered.is_empty()) {
                self.given += 1;
                return Ok(Some(self.gathered.split().freeze()));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.next().await {
                Some(piece) => self.left = piece?,
                None => self.ended = true,
            }
        }
    }

    /// Whether the parts given out so far were all: only known for certain after the body's end.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended && self.left.is_empty() && self.gathered.is_empty()
    }

    /// All parts again as one stream, `first` before the rest.
    #[must_use]
    pub fn rejoin(self, first: Bytes) -> ByteStream {
        let begun = [first, self.gathered.freeze(), self.left];
        stream::iter(begun.into_iter().filter(|bytes| !bytes.is_empty()).map(Ok)).chain(self.body).boxed()
    }
}

/// What becomes of a body that fails.
fn source(store: &str, name: &str, reason: io::Error) -> Error {
    Error::Source { store: store.to_owned(), name: name.to_owned(), reason }
}

/// The beginning of a body: a whole small object, or the first part of a large one.
pub enum Beginning {
    Whole(Bytes),
    Part(Bytes, Parts),
}

/// Reads the first part. An object that fits into it is given whole, so that it can be stored by one request.
///
/// # Errors
/// [`Error::Source`].
pub async fn begin(store: &str, name: &str, body: ByteStream, cut: Cut) -> Result<Beginning> {
    let mut parts = Parts::new(body, cut);
    let first = parts.next().await.map_err(|reason| source(store, name, reason))?.unwrap_or_default();
    if first.len() < cut.size(1) {
        return Ok(Beginning::Whole(first));
    }
    // A full part may be all.
    while !parts.ended && parts.left.is_empty() {
        match parts.body.next().await {
            Some(piece) => parts.left = piece.map_err(|reason| source(store, name, reason))?,
            None => parts.ended = true,
        }
    }
    Ok(if parts.ended() { Beginning::Whole(first) } else { Beginning::Part(first, parts) })
}

/// Uploads `first` and all further parts by `send`, several at once, and returns what it returned, in the parts' order,
/// with the bytes of all.
///
/// # Errors
/// The first failure of `send`, or [`Error::Source`]; uploads on their way are dropped.
pub async fn upload<T>(
    store: &str,
    name: &str,
    first: Bytes,
    mut parts: Parts,
    send: impl Fn(u32, Bytes) -> BoxFuture<'static, Result<T>>,
) -> Result<(Vec<T>, u64)> {
    let mut sending = FuturesUnordered::new();
    let (mut sent, mut on_their_way, mut bytes) = (Vec::new(), 0, 0);
    let mut next = Some(first);
    let mut number = 0;
    loop {
        if let Some(part) = next.take() {
            number += 1;
            if number > parts.cut.most {
                let reason = format!("the object has more than {} parts", parts.cut.most);
                let store = store.to_owned();
                return Err(Error::Failed { store, action: "put", name: name.to_owned(), reason, retryable: false });
            }
            let size = part.len();
            on_their_way += size;
            bytes += size as u64;
            let sending_it = send(number, part);
            sending.push(async move { (number, size, sending_it.await) });
        }
        let room = on_their_way == 0 || on_their_way + parts.cut.size(number + 1) <= parts.cut.in_flight;
        let done = if room && !parts.ended() {
            tokio::select! {
                biased;
                done = sending.next(), if !sending.is_empty() => done,
                part = parts.next() => {
                    next = part.map_err(|reason| source(store, name, reason))?;
                    continue;
                }
            }
        } else {
            sending.next().await
        };
        let Some((number, size, result)) = done else { break };
        on_their_way -= size;
        sent.push((number, result?));
    }
    sent.sort_unstable_by_key(|(number, _)| *number);
    Ok((sent.into_iter().map(|(_, answer)| answer).collect(), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::contract::{pattern, pieces};
    use futures::FutureExt;
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    const CUT: Cut = Cut { part: 1000, most: 10_000, in_flight: 4000 };

    async fn joined(size: usize, piece: usize, cut: Cut) -> (Bytes, Vec<usize>) {
        let whole = pattern(size, 5);
        let seen = Arc::new(Mutex::new(Vec::new()));
        match begin("s", "n", pieces(whole, piece), cut).await.expect("begin") {
            Beginning::Whole(bytes) => (bytes, vec![]),
            Beginning::Part(first, parts) => {
                let (got, bytes) = upload("s", "n", first, parts, |number, part| {
                    seen.lock().expect("lock").push(part.len());
                    // Later parts are done first.
                    async move {
                        for _ in 0..(7 - number % 7) {
                            tokio::task::yield_now().await;
                        }
                        Ok(part)
                    }
                    .boxed()
                })
                .await
                .expect("upload");
                assert_eq!(bytes, size as u64);
                let sizes = seen.lock().expect("lock").clone();
                (got.concat().into(), sizes)
            }
        }
    }

    #[tokio::test]
    async fn cuts_and_keeps_the_order() {
        for size in [0, 1, 999, 1000, 1001, 2000, 25_500] {
            for piece in [1, 7, 999, 1000, 1001, 30_000] {
                let (got, sizes) = joined(size, piece, CUT).await;
                assert!(got == pattern(size, 5), "{size} in pieces of {piece}");
                assert_eq!(sizes.is_empty(), size <= 1000, "{size} in pieces of {piece}");
                assert!(sizes.iter().rev().skip(1).all(|part| *part == 1000), "{sizes:?}");
            }
        }
    }

    #[tokio::test]
    async fn parts_grow_before_they_run_out() {
        let cut = Cut { part: 10, most: 20, in_flight: 40 };
        let (got, sizes) = joined(10_000, 333, cut).await;
        assert!(got == pattern(10_000, 5));
        assert!(sizes.len() <= 20, "{} parts", sizes.len());
        assert_eq!(&sizes[..5], &[10, 10, 20, 20, 40]);
        assert_eq!(cut.for_size(SizeHint(Some(10_000))).part, 750);
        assert_eq!(cut.for_size(SizeHint(None)).part, 10);
    }

    #[tokio::test]
    async fn only_so_many_bytes_are_on_their_way() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let Beginning::Part(first, parts) = begin("s", "n", pieces(pattern(50_000, 1), 777), CUT).await.expect("begin")
        else {
            panic!("one part")
        };
        upload("s", "n", first, parts, |_, part| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            most.fetch_max(now.fetch_add(part.len(), Ordering::SeqCst) + part.len(), Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                now.fetch_sub(part.len(), Ordering::SeqCst);
                Ok(())
            }
            .boxed()
        })
        .await
        .expect("upload");
        let most = most.load(Ordering::SeqCst);
        assert!((2000..=4000).contains(&most), "{most}");
    }

    #[tokio::test]
    async fn failures_end_it() {
        let broken = pieces(pattern(5000, 1), 100).chain(stream::once(async { Err(io::Error::other("gone")) })).boxed();
        let Beginning::Part(first, parts) = begin("s", "n", broken, CUT).await.expect("begin") else {
            panic!("one part")
        };
        let failed = upload("s", "n", first, parts, |_, _| async { Ok(()) }.boxed()).await;
        assert!(matches!(failed, Err(Error::Source { .. })), "{failed:?}");
        let Beginning::Part(first, parts) = begin("s", "n", pieces(pattern(5000, 1), 100), CUT).await.expect("begin")
        else {
            panic!("one part")
        };
        let failed = upload("s", "n", first, parts, |number, _| {
            async move { if number == 3 { Err(source("s", "n", io::Error::other("x"))) } else { Ok(()) } }.boxed()
        })
        .await;
        assert!(failed.is_err());
    }
}
