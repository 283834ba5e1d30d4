//! Publishes the progress of an operation for operators who wait (fields *added by us*), and logs it at intervals.

use super::{
    Cx,
    progress_log::{Far, Telling},
};
use crate::control::{OpDocs, OpDocument};
use crate::datafiles::upload::UploadProgress;
use crate::model::backup::Progress;
use crate::snapshot::{load::LoadProgress, source::DumpProgress};
use std::{sync::atomic::Ordering::Relaxed, time::Duration};
use tokio::time::Instant;

/// Time between two samples.
const EVERY: Duration = Duration::from_millis(500);
/// Time before the first log line about data files, and between two lines.
const FIRST_LINE: Duration = Duration::from_secs(10);
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Publishes the progress of a dump until dropped.
pub async fn publish_dump(cx: &Cx, progress: &DumpProgress) {
    let far = || Far {
        bytes: progress.bytes.load(Relaxed),
        bytes_total: progress.bytes_total.load(Relaxed),
        docs: progress.docs.load(Relaxed),
        docs_total: progress.docs_total.load(Relaxed),
        collections: progress.collections.load(Relaxed),
        collections_total: progress.collections_total.load(Relaxed),
    };
    publish_samples(cx, &cx.control.backups, "dump", "dumping", far).await;
}

/// Publishes the progress of data files that are stored, until dropped.
pub async fn publish_upload(cx: &Cx, progress: &UploadProgress) {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let mut next = Instant::now() + FIRST_LINE;
    loop {
        tokio::time::sleep(EVERY).await;
        let (bytes, total) = (progress.bytes.load(Relaxed), progress.bytes_total.load(Relaxed));
        if total > 0 && Instant::now() >= next {
            next = Instant::now() + LINE_EVERY;
            let (files, all) = (progress.files.load(Relaxed), progress.files_total.load(Relaxed));
            let percent = bytes.saturating_mul(100) / total;
            tracing::info!(
                "storing data files: {} of {} MiB ({percent} %), {files} of {all} objects",
                bytes >> 20,
                total >> 20
            );
        }
        let phase = if total > 0 { "files" } else { "copy" };
        let sample =
            Progress { phase: phase.into(), bytes: number(bytes), bytes_total: number(total), ..Progress::default() };
        publish(cx, &cx.control.backups, sample).await;
    }
}

/// Publishes the progress of a load until dropped.
pub async fn publish_load(cx: &Cx, progress: &LoadProgress) {
    let far = || Far {
        bytes: progress.bytes.load(Relaxed),
        bytes_total: progress.total.load(Relaxed),
        docs: progress.documents.load(Relaxed),
        // The total is unknown, because the metadata of a backup has no counts.
        docs_total: 0,
        collections: progress.collections.load(Relaxed),
        collections_total: progress.collections_total.load(Relaxed),
    };
    publish_samples(cx, &cx.control.restores, "load", "loading", far).await;
}

/// Publishes that a phase without numbers has begun.
pub async fn publish_phase(cx: &Cx, name: &str) {
    publish(cx, &cx.control.restores, Progress { phase: name.into(), ..Progress::default() }).await;
}

async fn publish_samples<T: OpDocument>(cx: &Cx, docs: &OpDocs<T>, phase: &str, verb: &str, far: impl Fn() -> Far) {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let mut telling = Telling::begin();
    loop {
        tokio::time::sleep(EVERY).await;
        let far = far();
        if let Some(line) = telling.line(far) {
            tracing::info!("{verb}: {line}");
        }
        let sample = Progress {
            phase: phase.into(),
            bytes: number(far.bytes),
            bytes_total: number(far.bytes_total),
            docs: number(far.docs),
            docs_total: number(far.docs_total),
            ..Progress::default()
        };
        publish(cx, docs, sample).await;
    }
}

async fn publish<T: OpDocument>(cx: &Cx, docs: &OpDocs<T>, sample: Progress) {
    let sample = Progress { at: jiff::Timestamp::now().as_millisecond(), ..sample };
    if let Err(error) = docs.set_progress(&cx.name, &cx.rs, &sample).await {
        tracing::debug!("{error:#}");
    }
}
