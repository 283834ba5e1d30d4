//! A request's body, given out in small pieces, so that its progress can be seen.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

/// What the connection takes at a time.
const PIECE: usize = 128 << 10;

/// Counts the pieces that the connection took.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicUsize>);

impl Progress {
    pub fn seen(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Content of known size.
#[derive(Debug)]
pub struct Outgoing {
    rest: Bytes,
    progress: Progress,
}

impl Outgoing {
    pub fn new(content: Bytes, progress: Progress) -> Self {
        Self { rest: content, progress }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.progress.0.fetch_add(1, Ordering::Relaxed);
        let size = PIECE.min(self.rest.len());
        let piece = self.rest.split_to(size);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
