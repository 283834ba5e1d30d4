//! A common memory limit for all pipelines.

use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit in which bytes are counted.
const UNIT: usize = 1024;

/// Grants memory. Bytes count until their last copy is dropped.
#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    units: usize,
}

/// A part of the budget. It becomes free when this value is dropped.
#[derive(Debug)]
pub struct Reservation {
    // The semaphore is never closed. If a permit were missing, the bytes would only not be counted.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Budget {
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).max(1);
        Self { free: Arc::new(Semaphore::new(units)), units }
    }

    /// Waits until `bytes` are free and reserves them. If `bytes` exceed the whole budget, all of it is reserved.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        let units = bytes.div_ceil(UNIT).clamp(1, self.units);
        let permit = self.free.clone().acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX)).await;
        Reservation { _permit: permit.ok() }
    }

    /// Waits until the budget has space for the bytes, and wraps them. If they exceed the whole budget, all of it is
    /// reserved.
    pub async fn admit(&self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        let reservation = self.reserve(bytes.as_ref().len()).await;
        Bytes::from_owner(Admitted { bytes, _reservation: reservation })
    }
}

struct Admitted<T> {
    bytes: T,
    _reservation: Reservation,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Admitted<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compress,
        config::open,
        model::{
            compression::Compression,
            config::{FilesystemConf, StorageConf},
        },
        storage::{ByteStream, SizeHint},
    };
    use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
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

    #[tokio::test(start_paused = true)]
    async fn a_reservation_counts_until_it_is_dropped() {
        let budget = Budget::new(10 * UNIT);
        let whole = budget.reserve(100 * UNIT).await;
        assert_eq!(budget.free.available_permits(), 0, "more than the budget gets all of it");
        assert!(tokio::time::timeout(Duration::from_secs(1), budget.reserve(1)).await.is_err(), "there is no room");
        drop(whole);
        let (_small, _rounded) = (budget.reserve(1).await, budget.reserve(UNIT + 1).await);
        assert_eq!(budget.free.available_permits(), 7, "bytes are rounded up to units");
    }

    /// Returns a stream of replies of one size, each passed on in slices.
    fn collection(budget: &Budget, replies: usize, reply: usize, slice: usize) -> ByteStream {
        let budget = budget.clone();
        stream::iter(0..replies)
            .then(move |_| {
                let budget = budget.clone();
                async move { budget.admit(vec![7; reply]).await }
            })
            .map(move |mut reply| {
                let slices =
                    std::iter::from_fn(move || (!reply.is_empty()).then(|| Ok(reply.split_to(slice.min(reply.len())))));
                stream::iter(slices)
            })
            .flatten()
            .boxed()
    }

    /// Bytes that were sent do not count: a storage keeps the beginning of an object until its end, to be able to send
    /// it again, and collects the rest. If these bytes counted, the next reply would wait for ever.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_sent_does_not_count() {
        const KIB: usize = 1 << 10;
        let path = std::env::temp_dir().join(format!("pbmbox-budget-{:08x}", rand::random::<u32>()));
        let filesystem = FilesystemConf { path: path.to_string_lossy().into_owned(), ..FilesystemConf::default() };
        let conf =
            StorageConf { kind: "filesystem".to_owned(), filesystem: Some(filesystem), ..StorageConf::default() };
        let store = open::open(&conf, "").await.expect("open");
        for compression in [Compression::None, Compression::S2] {
            let budget = Budget::new(16 << 20);
            // One reply contains one document of 9 MiB, another four of 255 KiB.
            let giants = (0..2).map(|_| (3, 9 << 20, 512 * KIB));
            let large = (0..4).map(|_| (8, 4 * 255 * KIB, 255 * KIB));
            let (store, budget) = (&store, &budget);
            let puts = giants.chain(large).enumerate().map(|(n, (replies, reply, slice))| async move {
                let body = collection(budget, replies, reply, slice);
                let body = compress::encode(body, compression, None).expect("a level");
                store.put(&format!("b/rs0/{compression}.{n}"), body, SizeHint(None)).await?;
                let body = store.get(&format!("b/rs0/{compression}.{n}"), None).await?;
                let back = compress::decode(body, compression);
                let read = back.try_fold(0, async |all, piece: Bytes| Ok(all + piece.len())).await.expect("read");
                assert_eq!(read, replies * reply);
                crate::storage::Result::<()>::Ok(())
            });
            let all = tokio::time::timeout(Duration::from_secs(60), try_join_all(puts)).await;
            all.unwrap_or_else(|_| panic!("{compression}: it hangs")).expect("stored");
            assert_eq!(budget.free.available_permits(), budget.units, "{compression}");
        }
        std::fs::remove_dir_all(path).expect("clean up");
    }
}
