//! A limit on how fast an operation sends.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// What was not used may be made up for so long.
const BURST: Duration = Duration::from_millis(200);

/// Bytes per second over everything that shares it; clones share.
#[derive(Debug, Clone)]
pub struct Pace {
    per_second: NonZeroU64,
    /// When everything that was booked is sent.
    free: Arc<Mutex<Instant>>,
}

impl Pace {
    #[must_use]
    pub fn new(per_second: NonZeroU64) -> Self {
        Self { per_second, free: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Books `bytes`: they may be sent at the time that is given. Bookings are served in their order.
    #[must_use]
    pub fn book(&self, bytes: usize) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let at = now.checked_sub(BURST).map_or(now, |earliest| free.max(earliest));
        #[expect(clippy::cast_precision_loss, reason = "a duration")]
        let takes = Duration::from_secs_f64(bytes as f64 / self.per_second.get() as f64);
        *free = at + takes;
        at
    }

    /// Waits until `bytes` may be sent.
    pub async fn wait(&self, bytes: usize) {
        tokio::time::sleep_until(self.book(bytes)).await;
    }

    /// Bytes to be sent at a time, so that even many connections get their turn several times a second.
    #[must_use]
    pub fn piece(&self) -> usize {
        usize::try_from(self.per_second.get() / 16).unwrap_or(usize::MAX).max(1 << 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_shared_is_as_fast_as_one() {
        let pace = Pace::new(NonZeroU64::new(1 << 20).expect("not 0"));
        let begun = Instant::now();
        let send = async || {
            for _ in 0..50 {
                pace.wait(64 << 10).await;
            }
        };
        futures::join!(send(), send());
        // 6.25 MiB.
        let took = begun.elapsed().as_secs_f64();
        assert!((5.9..6.3).contains(&took), "{took}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let begun = Instant::now();
        send().await;
        let took = begun.elapsed().as_secs_f64();
        assert!(took > 2.7, "a pause is not made up for: {took}");
    }
}
