//! Downloads in ranges: several on their way at once, given out in order, each repeated by itself when it fails.

use super::{ByteStream, Error};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream};
use std::{io, ops::Range};
use tokio_util::task::AbortOnDropHandle;

/// Bytes asked for at a time.
pub const SIZE: u64 = 8 << 20;
/// Ranges on their way at a time.
pub const AT_ONCE: usize = 4;

/// Streams `range` by calling `fetch` for parts of it. Memory: [`SIZE`] × [`AT_ONCE`] bytes.
///
/// `fetch` must return exactly the bytes asked for. It runs beside the reader, who may take its time.
pub fn stream<F>(range: Range<u64>, fetch: F) -> ByteStream
where
    F: Fn(Range<u64>) -> BoxFuture<'static, Result<Bytes, Error>> + Send + 'static,
{
    let starts = (0..).map(move |number: u64| range.start + number * SIZE).take_while(move |start| *start < range.end);
    stream::iter(starts)
        .map(move |start| {
            let part = start..range.end.min(start + SIZE);
            let wanted = part.end - part.start;
            let fetching = AbortOnDropHandle::new(tokio::spawn(fetch(part)));
            async move {
                let got = fetching.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
                if got.len() as u64 == wanted {
                    return Ok(got);
                }
                let reason = format!("{} bytes came where {wanted} were asked for", got.len());
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason))
            }
        })
        .buffered(AT_ONCE)
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::contract::pattern;
    use futures::{FutureExt, TryStreamExt};

    #[tokio::test]
    async fn joins_ranges_in_order() {
        let whole = pattern(usize::try_from(SIZE * 5 / 2).expect("small"), 1);
        for range in [0..0, 0..1, 3..SIZE + 3, 0..whole.len() as u64] {
            let object = whole.clone();
            let cut = move |part: Range<u64>| {
                object.slice(usize::try_from(part.start).expect("small")..usize::try_from(part.end).expect("small"))
            };
            let want = cut(range.clone());
            let got = stream(range, move |part| {
                let bytes = cut(part.clone());
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

    #[tokio::test]
    async fn short_ranges_are_errors() {
        let got = stream(0..10, |_| async { Ok(Bytes::from_static(b"short")) }.boxed());
        assert!(got.try_collect::<Vec<_>>().await.is_err());
    }
}
