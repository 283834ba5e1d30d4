//! Downloads in ranges: several on their way at once, given out in order, each repeated by itself when it fails.

use super::{ByteStream, Error};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream};
use std::{collections::VecDeque, io, ops::Range, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

/// Bytes asked for at a time, unless the settings say otherwise.
pub const SIZE: u64 = 8 << 20;
/// Ranges of one object on their way at a time, unless the settings say otherwise.
pub const AT_ONCE: usize = 4;
/// No ceiling makes ranges smaller than this: requests would cost more than they bring.
const SMALLEST: u64 = 256 << 10;

/// How objects are read. Clones share one ceiling.
#[derive(Debug, Clone)]
pub struct Downloads {
    /// Bytes asked for at a time.
    pub size: u64,
    /// Ranges of one object on their way at a time.
    pub at_once: usize,
    /// Ranges that all readers together may have beyond one each; none: as many as they like.
    spare: Option<Arc<Semaphore>>,
}

impl Default for Downloads {
    fn default() -> Self {
        Self { size: SIZE, at_once: AT_ONCE, spare: None }
    }
}

impl Downloads {
    /// At most `ceiling` bytes in memory while `readers` objects are read at a time.
    ///
    /// Each reader may always have one range, however much the others hold: if it had to wait for them, readers that wait
    /// for each other would wait forever. Ranges are made smaller where the ceiling has no room for that many. What is
    /// left of it goes to those who ask first.
    #[must_use]
    pub fn within(ceiling: u64, readers: usize, size: u64, at_once: usize) -> Self {
        let readers = readers.max(1) as u64;
        let size = size.max(1).min((ceiling / readers).max(SMALLEST));
        let spare = ceiling.saturating_sub(size.saturating_mul(readers)) / size;
        let spare = usize::try_from(spare).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { size, at_once: at_once.max(1), spare: Some(Arc::new(Semaphore::new(spare))) }
    }

    /// The range that the first request of a reader asks for.
    #[must_use]
    pub fn first(&self, wanted: &Range<u64>) -> Range<u64> {
        wanted.start..wanted.end.min(wanted.start.saturating_add(self.size))
    }

    /// Leave to have one more range, if there is any; inner `None`: no leave is needed, as for a reader's `own` one.
    fn leave(&self, own: bool) -> Option<Option<OwnedSemaphorePermit>> {
        match &self.spare {
            Some(spare) if !own => Arc::clone(spare).try_acquire_owned().ok().map(Some),
            _ => Some(None),
        }
    }
}

/// One range on its way, and its part of the ceiling.
struct Flight {
    wanted: u64,
    fetching: AbortOnDropHandle<Result<Bytes, Error>>,
    leave: Option<OwnedSemaphorePermit>,
}

/// A reader's state.
struct Reader<F> {
    downloads: Downloads,
    fetch: F,
    left: Range<u64>,
    flying: VecDeque<Flight>,
    /// Of the range that was given out last: it is in memory until the next one is asked for.
    in_hand: Option<OwnedSemaphorePermit>,
}

/// Streams `range` by calling `fetch` for parts of it. Memory: [`Downloads::size`] × [`Downloads::at_once`] bytes and the
/// range that the reader has in hand, or less under a ceiling.
///
/// `fetch` must return exactly the bytes asked for. It runs beside the reader, who may take its time.
pub fn stream<F>(downloads: Downloads, range: Range<u64>, fetch: F) -> ByteStream
where
    F: Fn(Range<u64>) -> BoxFuture<'static, Result<Bytes, Error>> + Send + 'static,
{
    let reader = Reader { downloads, fetch, left: range, flying: VecDeque::new(), in_hand: None };
    stream::try_unfold(reader, |mut reader| async move { Ok(reader.next().await?.map(|bytes| (bytes, reader))) })
        .boxed()
}

impl<F> Reader<F>
where
    F: Fn(Range<u64>) -> BoxFuture<'static, Result<Bytes, Error>>,
{
    fn send_off(&mut self) {
        while self.flying.len() < self.downloads.at_once && !self.left.is_empty() {
            let own = self.flying.iter().all(|flight| flight.leave.is_some());
            let Some(leave) = self.downloads.leave(own) else { return };
            let part = self.downloads.first(&self.left);
            self.left.start = part.end;
            let wanted = part.end - part.start;
            let fetching = AbortOnDropHandle::new(tokio::spawn((self.fetch)(part)));
            self.flying.push_back(Flight { wanted, fetching, leave });
        }
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.in_hand = None;
        self.send_off();
        let Some(flight) = self.flying.pop_front() else { return Ok(None) };
        let (wanted, got) =
            (flight.wanted, flight.fetching.await.map_err(io::Error::other)?.map_err(io::Error::other)?);
        self.in_hand = flight.leave;
        if got.len() as u64 == wanted {
            return Ok(Some(got));
        }
        let reason = format!("{} bytes came where {wanted} were asked for", got.len());
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::contract::pattern;
    use futures::{FutureExt, TryStreamExt};
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    };

    fn cut(whole: &Bytes, part: Range<u64>) -> Bytes {
        whole.slice(usize::try_from(part.start).expect("small")..usize::try_from(part.end).expect("small"))
    }

    #[tokio::test]
    async fn joins_ranges_in_order() {
        let whole = pattern(usize::try_from(SIZE * 5 / 2).expect("small"), 1);
        for downloads in
            [Downloads::default(), Downloads::within(1 << 20, 1, SIZE, 3), Downloads::within(1, 9, SIZE, 1)]
        {
            for range in [0..0, 0..1, 3..SIZE + 3, 0..whole.len() as u64] {
                let object = whole.clone();
                let want = cut(&whole, range.clone());
                let got = stream(downloads.clone(), range, move |part| {
                    let bytes = cut(&object, part.clone());
                    async move {
                        if part.start < SIZE {
                            tokio::task::yield_now().await;
                        }
                        Ok(bytes)
                    }
                    .boxed()
                });
                assert!(got.try_collect::<Vec<_>>().await.expect("read").concat() == want);
            }
        }
    }

    #[tokio::test]
    async fn short_ranges_are_errors() {
        let got = stream(Downloads::default(), 0..10, |_| async { Ok(Bytes::from_static(b"short")) }.boxed());
        assert!(got.try_collect::<Vec<_>>().await.is_err());
    }

    /// A store that counts the bytes that its readers hold, and the ranges that were asked for.
    #[derive(Clone, Default)]
    struct Counting {
        held: Arc<AtomicU64>,
        most: Arc<AtomicU64>,
        sizes: Arc<Mutex<Vec<u64>>>,
    }

    /// Zeros that count as held until they are dropped.
    struct Held(Vec<u8>, Arc<AtomicU64>);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            self.1.fetch_sub(self.0.len() as u64, SeqCst);
        }
    }

    impl Counting {
        fn read(&self, downloads: &Downloads, bytes: u64) -> ByteStream {
            let store = self.clone();
            stream(downloads.clone(), 0..bytes, move |part| {
                let (size, held) = (part.end - part.start, Arc::clone(&store.held));
                store.sizes.lock().expect("no panics").push(size);
                store.most.fetch_max(held.fetch_add(size, SeqCst) + size, SeqCst);
                async move { Ok(Bytes::from_owner(Held(vec![0; usize::try_from(size).expect("small")], held))) }.boxed()
            })
        }

        /// Four objects, all of them begun, then read one after the other.
        async fn four(&self, downloads: &Downloads, bytes: u64) {
            let mut readers: Vec<_> = (0..4).map(|_| self.read(downloads, bytes)).collect();
            let mut in_hand = Vec::new();
            for reader in &mut readers {
                in_hand.push(reader.next().await.expect("not empty").expect("read"));
            }
            for (mut reader, piece) in readers.into_iter().zip(in_hand) {
                drop(piece);
                while let Some(piece) = reader.next().await {
                    drop(piece.expect("read"));
                    tokio::task::yield_now().await;
                }
            }
            assert_eq!(self.sizes.lock().expect("no panics").iter().sum::<u64>(), 4 * bytes);
        }
    }

    #[tokio::test]
    async fn readers_together_stay_below_the_ceiling() {
        const KIB: u64 = 1 << 10;
        for (ceiling, at_once, size, most) in [
            // As much as they may.
            (16_384 * KIB, 4, 1024 * KIB, 16_384 * KIB),
            (8192 * KIB, 4, 1024 * KIB, 8192 * KIB),
            // One reader would like all of it.
            (8192 * KIB, 100, 1024 * KIB, 8192 * KIB),
            // One each.
            (4096 * KIB, 4, 1024 * KIB, 4096 * KIB),
            // Smaller ranges.
            (2048 * KIB, 4, 512 * KIB, 2048 * KIB),
            // No smaller ones.
            (4 * KIB, 4, 256 * KIB, 1024 * KIB),
        ] {
            let store = Counting::default();
            let downloads = Downloads::within(ceiling, 4, 1024 * KIB, at_once);
            assert_eq!(downloads.size, size, "{ceiling}");
            store.four(&downloads, 20 << 20).await;
            assert!(store.sizes.lock().expect("no panics").iter().all(|it| *it == size));
            let seen = store.most.load(SeqCst);
            assert!(seen <= most && seen > most / 2, "{ceiling}: {seen} bytes in memory");
        }
    }

    #[tokio::test]
    async fn one_object_has_as_many_ranges_as_are_allowed() {
        let store = Counting::default();
        let downloads = Downloads { size: 1 << 10, at_once: 7, spare: None };
        let mut reader = store.read(&downloads, 1 << 20);
        let in_hand = reader.next().await.expect("not empty").expect("read");
        assert_eq!(store.sizes.lock().expect("no panics").len(), 7, "ranges on their way");
        drop((in_hand, reader));
    }
}
