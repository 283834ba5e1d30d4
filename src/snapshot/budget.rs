//! One bound for the bytes of all pipelines together.

use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit in which bytes are counted.
const UNIT: usize = 1024;

/// Hands out memory; bytes count until their last copy is dropped.
#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    units: usize,
}

impl Budget {
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).max(1);
        Self { free: Arc::new(Semaphore::new(units)), units }
    }

    /// Waits until there is room and wraps the bytes. Something larger than the whole budget is let through alone.
    pub async fn admit(&self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        let units = bytes.as_ref().len().div_ceil(UNIT).clamp(1, self.units);
        let permit = self.free.clone().acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX)).await;
        // The semaphore is never closed; without a permit the bytes would merely not be counted.
        Bytes::from_owner(Admitted { bytes, _permit: permit.ok() })
    }
}

struct Admitted<T> {
    bytes: T,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Admitted<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn waits_for_room_and_lets_giants_through_alone() {
        let budget = Budget::new(10 * UNIT);
        let first = budget.admit(vec![0; 6 * UNIT]).await;
        let second = budget.admit(vec![0; 5 * UNIT]);
        tokio::pin!(second);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut second).await.is_err(), "there is no room");
        drop(first.clone());
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut second).await.is_err(), "a copy still lives");
        drop(first);
        drop(second.await);
        assert_eq!(budget.admit(vec![0; 100 * UNIT]).await.len(), 100 * UNIT);
    }
}
