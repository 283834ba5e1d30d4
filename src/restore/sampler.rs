//! Publishes how far a restore is, for people who wait (fields *added by us*).

use super::Cx;
use crate::model::backup::Progress;
use crate::snapshot::{
    load::LoadProgress,
    progress_log::{Far, Telling},
};
use std::{sync::atomic::Ordering::Relaxed, time::Duration};

/// Time between two samples.
const EVERY: Duration = Duration::from_millis(500);

/// Samples the load until dropped.
pub(super) async fn load(cx: &Cx, progress: &LoadProgress) {
    let count = |counter: &std::sync::atomic::AtomicU64| i64::try_from(counter.load(Relaxed)).unwrap_or(i64::MAX);
    let mut telling = Telling::begin();
    loop {
        tokio::time::sleep(EVERY).await;
        let far = Far {
            bytes: progress.bytes.load(Relaxed),
            bytes_total: progress.total.load(Relaxed),
            docs: progress.documents.load(Relaxed),
            collections: progress.collections.load(Relaxed),
            collections_total: progress.collections_total.load(Relaxed),
        };
        if let Some(line) = telling.line(far) {
            tracing::info!("loading: {line}");
        }
        publish(
            cx,
            Progress {
                phase: "load".into(),
                bytes: count(&progress.bytes),
                bytes_total: count(&progress.total),
                docs: count(&progress.documents),
                ..Progress::default()
            },
        )
        .await;
    }
}

/// Says which phase without numbers has begun.
pub(super) async fn phase(cx: &Cx, name: &str) {
    publish(cx, Progress { phase: name.into(), ..Progress::default() }).await;
}

async fn publish(cx: &Cx, mut sample: Progress) {
    sample.at = jiff::Timestamp::now().as_millisecond();
    if let Err(error) = cx.control.restores.set_progress(&cx.name, &cx.rs, &sample).await {
        tracing::debug!("{error:#}");
    }
}
