//! Publishes how far the data step is, for people who wait (fields *added by us*).

use super::Cx;
use crate::model::backup::Progress;
use crate::snapshot::{
    progress_log::{Far, Telling},
    source::DumpProgress,
};
use std::{sync::atomic::Ordering::Relaxed, time::Duration};

/// Time between two samples.
const EVERY: Duration = Duration::from_millis(500);

/// Samples until dropped.
pub(super) async fn dump(cx: &Cx, progress: &DumpProgress) {
    let count = |counter: &std::sync::atomic::AtomicU64| i64::try_from(counter.load(Relaxed)).unwrap_or(i64::MAX);
    let mut telling = Telling::begin();
    loop {
        tokio::time::sleep(EVERY).await;
        let sample = Progress {
            phase: "dump".into(),
            bytes: count(&progress.bytes),
            bytes_total: count(&progress.bytes_total),
            docs: count(&progress.docs),
            docs_total: count(&progress.docs_total),
            at: jiff::Timestamp::now().as_millisecond(),
        };
        let far = Far {
            bytes: progress.bytes.load(Relaxed),
            bytes_total: progress.bytes_total.load(Relaxed),
            docs: progress.docs.load(Relaxed),
            collections: progress.collections.load(Relaxed),
            collections_total: progress.collections_total.load(Relaxed),
        };
        if let Some(line) = telling.line(far) {
            tracing::info!("dumping: {line}");
        }
        if let Err(error) = cx.control.backups.set_progress(&cx.name, &cx.rs, &sample).await {
            tracing::debug!("{error:#}");
        }
    }
}
