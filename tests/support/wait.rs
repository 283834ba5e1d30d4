//! Waiting for another process, the one place where looking again and again is right.

use std::time::{Duration, Instant};

/// Calls `look` until it gives something. Panics after `limit`, saying what was waited for.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(since.elapsed() < limit, "waited {limit:?} for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As [`until`], but `None` after `limit`, also when one look takes longer than that.
pub async fn within<T>(limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let since = Instant::now();
    loop {
        let left = limit.checked_sub(since.elapsed())?;
        if let Some(found) = tokio::time::timeout(left, look()).await.ok()? {
            return Some(found);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs a task on its own thread, so that a test can work with several clusters at the same time.
pub fn apart<T, F>(work: impl FnOnce() -> F + Send + 'static) -> tokio::task::JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    tokio::task::spawn_blocking(move || tokio::runtime::Handle::current().block_on(work()))
}
