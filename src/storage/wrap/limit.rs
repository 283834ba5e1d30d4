//! Slows uploads down to a [`Pace`]. For drivers that don't do it themselves where the bytes leave.

use crate::storage::{ByteStream, ObjectInfo, Promises, Result, SizeHint, Storage, rate::Pace};
use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use std::{fmt, ops::Range, sync::Arc};

/// Bodies of `put` wait for their turn; everything else goes through.
#[derive(Debug)]
pub struct Limited {
    inner: Arc<dyn Storage>,
    pace: Pace,
}

impl Limited {
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>, pace: Pace) -> Self {
        Self { inner, pace }
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Storage for Limited {
    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    async fn put(&self, name: &str, body: ByteStream, hint: SizeHint) -> Result<u64> {
        let pace = self.pace.clone();
        let slowed = body.then(move |piece| {
            let pace = pace.clone();
            async move {
                if let Ok(piece) = &piece {
                    pace.wait(piece.len()).await;
                }
                piece
            }
        });
        self.inner.put(name, slowed.boxed(), hint).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream> {
        self.inner.get(name, range).await
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        self.inner.stat(name).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        self.inner.list(prefix)
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name).await
    }

    async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.inner.copy(from, to).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<()> {
        self.inner.delete_prefix(prefix).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{contract, memory::Memory};
    use std::num::NonZeroU64;
    use tokio::time::Instant;

    fn limited(per_second: u64) -> Limited {
        Limited::new(Arc::new(Memory::new()), Pace::new(NonZeroU64::new(per_second).expect("not 0")))
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        contract::check(&limited(1 << 40)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_take_their_time() {
        let store = limited(1 << 20);
        let begun = Instant::now();
        let body = contract::pieces(contract::pattern(5 << 20, 1), 100_000);
        store.put("x", body, SizeHint(None)).await.expect("put");
        let took = begun.elapsed().as_secs_f64();
        assert!((4.6..5.2).contains(&took), "{took}");
    }
}
