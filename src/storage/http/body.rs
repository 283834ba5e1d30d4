//! A request's body, given out in small pieces, so that its progress can be seen and its pace kept.

use crate::storage::rate::Pace;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::time::Sleep;

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
    pace: Option<Pace>,
    /// Until the next piece, which is booked, may go.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Outgoing {
    pub fn new(content: Bytes, progress: Progress, pace: Option<Pace>) -> Self {
        Self { rest: content, progress, pace, pause: None }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let size = self.pace.as_ref().map_or(PIECE, |pace| PIECE.min(pace.piece())).min(self.rest.len());
        if let Some(pace) = self.pace.clone() {
            let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(pace.book(size))));
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        self.progress.0.fetch_add(1, Ordering::Relaxed);
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
