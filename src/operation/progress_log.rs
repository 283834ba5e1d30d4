//! Log lines about the progress of a long dump or load. The caller asks for a line each time it publishes the progress.
//! A short dump or load logs none.

use std::time::Duration;
use tokio::time::Instant;

/// Time before the first line.
const FIRST: Duration = Duration::from_secs(10);
/// Time between two lines.
const EVERY: Duration = Duration::from_secs(30);

/// The progress of a dump or load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Far {
    /// Uncompressed bytes.
    pub bytes: u64,
    pub bytes_total: u64,
    pub docs: u64,
    pub docs_total: u64,
    pub collections: u64,
    pub collections_total: u64,
}

/// The time of the last line, and the progress then.
#[derive(Debug)]
pub struct Telling {
    last: Instant,
    bytes: u64,
    next: Instant,
}

impl Telling {
    /// Starts the clock, with no progress yet.
    #[must_use]
    pub fn begin() -> Self {
        let now = Instant::now();
        Self { last: now, bytes: 0, next: now + FIRST }
    }

    /// Returns the next line if one is due.
    #[must_use]
    pub fn line(&mut self, far: Far) -> Option<String> {
        let now = Instant::now();
        if now < self.next {
            return None;
        }
        let passed = now - self.last;
        #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
        let rate = far.bytes.saturating_sub(self.bytes) as f64 / passed.as_secs_f64();
        *self = Self { last: now, bytes: far.bytes, next: now + EVERY };
        // The total is an estimate, and collections can grow, so the percentage is limited to 100.
        let percent = (far.bytes.saturating_mul(100) / far.bytes_total.max(1)).min(100);
        Some(format!(
            "{} of {} ({percent} %), {} documents, {} of {} collections done, {}/s",
            size(far.bytes),
            size(far.bytes_total),
            far.docs,
            far.collections,
            far.collections_total,
            shown(rate),
        ))
    }
}

fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let bytes = bytes as f64;
    shown(bytes)
}

fn shown(bytes: f64) -> String {
    const GIB: f64 = 1_073_741_824.0;
    const MIB: f64 = 1_048_576.0;
    if bytes >= GIB { format!("{:.1} GiB", bytes / GIB) } else { format!("{:.1} MiB", bytes / MIB) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_soon_and_then_each_half_minute() {
        let mut telling = Telling::begin();
        let far = |gib: u64| Far {
            bytes: gib << 29,
            bytes_total: 3 << 30,
            docs: 1000 * gib,
            docs_total: 0,
            collections: gib,
            collections_total: 7,
        };
        let mut lines = Vec::new();
        // The samplers ask twice a second.
        for step in 0..130 {
            lines.extend(telling.line(far(step / 40)));
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert_eq!(
            lines,
            [
                "0.0 MiB of 3.0 GiB (0 %), 0 documents, 0 of 7 collections done, 0.0 MiB/s",
                "1.0 GiB of 3.0 GiB (33 %), 2000 documents, 2 of 7 collections done, 34.1 MiB/s",
            ]
        );
        assert_eq!(telling.line(far(3)), None, "too early");
        tokio::time::advance(EVERY).await;
        let grown = Far { bytes_total: 1, ..far(3) };
        assert!(telling.line(grown).expect("a line").contains("(100 %)"));
    }
}
