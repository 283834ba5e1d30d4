//! One body cut into the bodies of pieces, the first of which does not end before it is told to.

use crate::storage::ByteStream;
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::{io, sync::Arc};
use tokio::sync::{Mutex, oneshot};

/// The body and what of its last piece belongs to the next object.
struct Feed {
    body: ByteStream,
    carry: Option<Bytes>,
}

impl Feed {
    /// At most `most` bytes.
    async fn next(&mut self, most: u64) -> io::Result<Option<Bytes>> {
        if !self.more().await? {
            return Ok(None);
        }
        let Some(mut bytes) = self.carry.take() else { return Ok(None) };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if bytes.len() > most {
            self.carry = Some(bytes.split_off(most));
        }
        Ok(Some(bytes))
    }

    /// Is there at least one more byte? After an error it is the body's last word.
    async fn more(&mut self) -> io::Result<bool> {
        while self.carry.as_ref().is_none_or(Bytes::is_empty) {
            match self.body.next().await {
                Some(bytes) => self.carry = Some(bytes?),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// One piece of the body, to be streamed.
pub(super) struct Cutter {
    feed: Arc<Mutex<Feed>>,
    left: u64,
}

impl Cutter {
    pub(super) fn stream(self) -> ByteStream {
        stream::try_unfold(self, async |mut at| {
            if at.left == 0 {
                return Ok(None);
            }
            let bytes = at.feed.lock().await.next(at.left).await?;
            Ok(bytes.map(|bytes| {
                at.left -= bytes.len() as u64;
                (bytes, at)
            }))
        })
        .boxed()
    }
}

/// Where the writer of the further pieces waits until the first piece is full.
pub(super) struct Gate {
    reached: oneshot::Receiver<oneshot::Sender<()>>,
    feed: Arc<Mutex<Feed>>,
    limit: u64,
}

impl Gate {
    /// Waits until the first piece is full and more follows; `None` if the body ends, or fails, within it.
    pub(super) async fn reached(self) -> Option<Open> {
        let first = self.reached.await.ok()?;
        Some(Open { feed: self.feed, limit: self.limit, first })
    }
}

/// The first piece is full and waits. Dropping this breaks its body, so that it is not stored.
pub(super) struct Open {
    feed: Arc<Mutex<Feed>>,
    limit: u64,
    first: oneshot::Sender<()>,
}

impl Open {
    /// The next piece, if anything is left, or an error that it will meet.
    pub(super) async fn next_piece(&mut self) -> Option<Cutter> {
        let mut feed = self.feed.lock().await;
        match feed.more().await {
            Ok(false) => None,
            Ok(true) => Some(Cutter { feed: Arc::clone(&self.feed), left: self.limit }),
            Err(error) => {
                feed.body = stream::once(async { Err(error) }).boxed();
                Some(Cutter { feed: Arc::clone(&self.feed), left: self.limit })
            }
        }
    }

    /// All pieces are stored.
    pub(super) fn let_first_end(self) {
        // If nobody listens, the first piece has failed by itself.
        let _ = self.first.send(());
    }
}

/// The body of the first piece, and where to get the others.
///
/// The first one, once full, tells the gate whether more follows; if so it ends only after `let_first_end`.
pub(super) fn cut(body: ByteStream, limit: u64) -> (ByteStream, Gate) {
    // Both the first piece and the gate look for the end, so the body is asked again after it.
    let feed = Arc::new(Mutex::new(Feed { body: body.fuse().boxed(), carry: None }));
    let (tell, reached) = oneshot::channel();
    let end = {
        let feed = Arc::clone(&feed);
        async move {
            if !feed.lock().await.more().await? {
                return Ok(());
            }
            let (go, stored) = oneshot::channel();
            let gone = || io::Error::other("the pieces after the first one were not stored");
            tell.send(go).map_err(|_| gone())?;
            stored.await.map_err(|_| gone())
        }
    };
    let end = stream::once(end).filter_map(async |end| end.err().map(Err));
    let first = Cutter { feed: Arc::clone(&feed), left: limit };
    (first.stream().chain(end).boxed(), Gate { reached, feed, limit })
}
