//! How often a storage call is tried, and for how long.

use super::{Error, Result};
use std::time::Duration;
use tokio::time::Instant;

/// Limits of repeating what failed in passing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    /// Calls in all, the first included.
    pub attempts: u32,
    /// Pause after the first failure; it grows after every other one, and is shortened at random by up to a half.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// By how much a pause is longer than the one before.
    pub growth: f64,
    /// No attempt begins later than this after the first one began.
    pub overall: Duration,
    /// The same for a part of an upload, if that is to differ.
    pub part: Option<Duration>,
}

impl Default for Patience {
    /// Outlives a store that refuses everything for a minute.
    fn default() -> Self {
        Self {
            attempts: 20,
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(10),
            growth: 2.0,
            overall: Duration::from_secs(120),
            part: None,
        }
    }
}

impl Patience {
    /// The pause after failure number `failures` (from 1), or `None` if that was the last attempt.
    fn pause(&self, failures: u32) -> Option<Duration> {
        let failures_before = i32::try_from(failures - 1).unwrap_or(i32::MAX);
        let grown = self.first_pause.as_secs_f64() * self.growth.powi(failures_before);
        let pause = Duration::try_from_secs_f64(grown).unwrap_or(Duration::MAX).min(self.longest_pause);
        (failures < self.attempts).then(|| pause.mul_f64(rand::random_range(0.5..=1.0)))
    }

    /// For a part of an upload.
    #[must_use]
    pub fn for_part(self) -> Self {
        Self { overall: self.part.unwrap_or(self.overall), ..self }
    }

    /// Attempts that begin now.
    #[must_use]
    pub fn begin(self) -> Attempts {
        Attempts { patience: self, failures: 0, since: Instant::now() }
    }

    /// Calls until it succeeds, fails for good, or patience ends. Asks [`Error::is_retryable`] and nothing else.
    ///
    /// # Errors
    /// That of the last call.
    pub async fn repeat<T, F>(self, action: &'static str, name: &str, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut attempts = self.begin();
        loop {
            match call().await {
                Err(error) if error.is_retryable() => attempts.rest(action, name, error).await?,
                result => return result,
            }
        }
    }
}

/// Attempts at one call.
#[derive(Debug)]
pub struct Attempts {
    patience: Patience,
    failures: u32,
    since: Instant,
}

impl Attempts {
    /// Sleeps before the next attempt, or gives the error back if there is none. Dropping ends it at once.
    ///
    /// # Errors
    /// `error`.
    pub async fn rest(&mut self, action: &'static str, name: &str, error: Error) -> Result<()> {
        self.failures += 1;
        let Some(pause) = self.patience.pause(self.failures) else { return Err(error) };
        if self.since.elapsed() + pause > self.patience.overall {
            return Err(error);
        }
        tracing::debug!(action, name, failures = self.failures, ?pause, %error, "the storage call is tried again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let patience = Patience { attempts: 40, ..Patience::default() };
        for (failures, whole) in [(1, 200), (2, 400), (3, 800), (7, 10_000), (39, 10_000)] {
            let pause = patience.pause(failures).expect("another attempt").as_millis();
            assert!((whole / 2..=whole).contains(&pause), "{pause} ms after {failures} failures");
        }
        assert_eq!(patience.pause(40), None);
        let steeper = Patience { growth: 5.0, ..patience };
        for (failures, whole) in [(1, 200), (2, 1000), (3, 5000), (4, 10_000), (39, 10_000)] {
            let pause = steeper.pause(failures).expect("another attempt").as_millis();
            assert!((whole / 2..=whole).contains(&pause), "{pause} ms after {failures} failures");
        }
        let even = Patience { growth: 1.0, ..patience };
        assert!(even.pause(30).expect("another attempt") <= even.first_pause);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_by_the_clock_too() {
        let patience = Patience { attempts: u32::MAX, overall: Duration::from_secs(60), ..Patience::default() };
        let begun = Instant::now();
        let failed: Result<()> = patience
            .repeat("get", "x", || async {
                Err(Error::Failed {
                    store: "s".into(),
                    action: "get",
                    name: "x".into(),
                    reason: "r".into(),
                    retryable: true,
                })
            })
            .await;
        assert!(failed.is_err());
        assert!((40..=60).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
}
