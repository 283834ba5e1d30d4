//! One chunk after another, until told to stop (docs/format.md A.5, D.5.5).
//!
//! # Overview
//! A chunk is stored when its span is over ([`Settings::span`]), earlier when much was written ([`LARGE`]) or the oplog is
//! about to lose what is not stored yet. With [`Settings::max_loss`] the unsaved tail is stored as a small chunk each time
//! that many seconds have passed; when the span is over the small chunks are replaced by one with all their entries, so
//! that their number stays what it would be without.
//!
//! # Consistency
//! Chunks end with an entry that the majority has. The index in the control collections names a chunk only after the whole
//! object is stored, and only if the slicing lock is still ours then: an agent that was stopped and wakes up later adds
//! nothing to a timeline that another one continues.
//!
//! # Retries
//! What fails is tried again, as long as it takes, and always from the same place: the oplog is the buffer, nothing is held
//! here. If it loses entries before they could be stored, that is a gap: it is told, and slicing goes on behind it.
//!
//! # Crash
//! The next slicer begins where the index ends. A chunk that was stored but not noted is noted then ([`adopt`]); small
//! chunks whose replacement is noted already are removed ([`drop_contained`]).

use super::timeline::Line;
use crate::control::Control;
use crate::layout::{self, ChunkName, PITR};
use crate::model::{chunk::Chunk, command::name, compression::Compression, lock::LockHeader};
use crate::mongo::admin::explain;
use crate::oplog::slice::{self, Slice, Wanted};
use crate::snapshot::budget::Budget;
use crate::storage::Storage;
use anyhow::{Context, Result};
use bson::Timestamp;
use futures::TryStreamExt;
use mongodb::Client;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bytes of oplog after which a chunk is stored early.
pub const LARGE: u64 = 128 << 20;
/// Bytes of oplog on their way to the storage.
const IN_FLIGHT: usize = 4 << 20;
/// Time between two looks at the oplog.
const LOOK: Duration = Duration::from_secs(5);
/// The longest pause between two attempts.
const PAUSE: Duration = Duration::from_secs(15);
/// How long the last chunk may take.
const LAST: Duration = Duration::from_secs(30);
/// So many of the newest chunks are looked at for what a crash left.
const RECENT: i64 = 500;

/// What may change while slicing goes on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// One chunk has this time of oplog.
    pub span: Duration,
    /// Writes that are older are on the storage; `None`: after `span`.
    pub max_loss: Option<Duration>,
    pub compression: Compression,
    pub level: Option<i32>,
    pub storage: Arc<dyn Storage>,
}

/// How far slicing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here is stored.
    pub saved: Timestamp,
    /// Why the last attempt failed; empty when it did not.
    pub error: String,
}

/// Slices the oplog of one node.
#[derive(Debug)]
pub struct Slicing {
    pub control: Control,
    /// Direct connection to the node.
    pub client: Client,
    /// Our slicing lock.
    pub lock: LockHeader,
    pub settings: watch::Receiver<Settings>,
    pub progress: watch::Sender<Progress>,
    /// The time up to which somebody wants the oplog to be stored now.
    pub flush: watch::Receiver<Timestamp>,
    /// Ends slicing, after a last chunk.
    pub quit: CancellationToken,
}

/// Why a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The tail only.
    Tail,
    /// The span is over, or full.
    Span,
    /// Somebody asked for the oplog to be stored.
    Flush,
    /// The last one.
    Quit,
}

impl Slicing {
    /// Stores everything after `begin`, which is the time of an entry, until told to stop.
    ///
    /// # Errors
    /// Only what makes going on useless: the lock is not ours any more.
    pub async fn run(mut self, begin: Timestamp) -> Result<()> {
        let mut span = Span { next: begin, begun: Instant::now(), tail: Vec::new() };
        let mut due = Due::Tail;
        let mut pause = Duration::from_millis(500);
        let mut answered = *self.flush.borrow();
        loop {
            let started = Instant::now();
            let asked = *self.flush.borrow_and_update();
            let stored = match due {
                Due::Quit => tokio::time::timeout(LAST, self.store(&mut span, due)).await.unwrap_or_else(|_| {
                    Err(anyhow::anyhow!("store the last chunk: it took longer than {} s", LAST.as_secs()))
                }),
                _ => self.store(&mut span, due).await,
            };
            match stored {
                Ok(behind) => {
                    self.tell(span.next, String::new());
                    pause = Duration::from_millis(500);
                    if due == Due::Quit {
                        return Ok(());
                    }
                    if !behind && asked > answered {
                        match self.control.locks.flushed(&self.lock, asked).await {
                            Ok(()) => answered = asked,
                            Err(error) => tracing::warn!("{}", explain(&error)),
                        }
                    }
                    // More than a span is waiting: no pause.
                    due = if behind { Due::Span } else { self.wait(&span, started).await };
                }
                Err(error) if error.is::<LockLost>() => return Err(error),
                Err(error) => {
                    self.failed(&mut span, &error).await;
                    if due == Due::Quit {
                        return Ok(());
                    }
                    tokio::select! {
                        () = self.quit.cancelled() => due = Due::Quit,
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE),
                    }
                }
            }
        }
    }

    fn tell(&self, saved: Timestamp, error: String) {
        self.progress.send_if_modified(|told| {
            if error.is_empty() && !told.error.is_empty() {
                // The original takes this word for the end of an error.
                tracing::debug!("start_ok");
            }
            let now = Progress { saved, error };
            let new = *told != now;
            *told = now;
            new
        });
    }

    /// An attempt failed. If the oplog has lost what comes next, goes on behind the gap.
    async fn failed(&self, span: &mut Span, error: &anyhow::Error) {
        let why = explain(error);
        if self.progress.borrow().error != why {
            tracing::error!("the oplog after {} is not saved yet, trying again: {why}", layout::format_ts(span.next));
        }
        self.tell(span.next, why);
        let lost = async {
            let (oldest, _) = slice::window(&self.client).await?;
            if oldest <= span.next {
                return anyhow::Ok(None);
            }
            Ok(Some(slice::last_write(&self.client).await?))
        };
        if let Ok(Some(now)) = lost.await {
            let gap = Line { start: span.next, end: now };
            tracing::error!("{}", gap_message(gap));
            span.restart(now);
            self.tell(now, String::new());
        }
    }

    /// Waits until something is due.
    async fn wait(&mut self, span: &Span, started: Instant) -> Due {
        let mut grown = Grown::default();
        loop {
            let settings = self.settings.borrow_and_update().clone();
            let whole = span.begun + settings.span;
            let tail = settings.max_loss.map(|limit| started + limit);
            let at = tail.map_or(whole, |tail| tail.min(whole));
            let look = Instant::now() + LOOK;
            tokio::select! {
                () = self.quit.cancelled() => return Due::Quit,
                changed = self.settings.changed() => if changed.is_err() { return Due::Quit },
                asked = self.flush.changed() => return if asked.is_ok() { Due::Flush } else { Due::Quit },
                () = tokio::time::sleep_until(at.min(look)) => {}
            }
            if Instant::now() >= whole {
                return Due::Span;
            }
            if tail.is_some_and(|tail| Instant::now() >= tail) {
                return Due::Tail;
            }
            if Instant::now() >= look && self.is_urgent(span.next, &mut grown).await.unwrap_or(false) {
                return Due::Span;
            }
        }
    }

    /// Much was written, or the oplog, which loses its oldest entries, has more behind `next` than in front of it.
    async fn is_urgent(&self, next: Timestamp, grown: &mut Grown) -> Result<bool> {
        let (oldest, newest) = slice::window(&self.client).await?;
        let large = grown.by(slice::size(&self.client).await?) >= LARGE;
        let rolling = grown.oldest.replace(oldest).is_some_and(|before| before != oldest);
        Ok(large || rolling && next.time.saturating_sub(oldest.time) <= newest.time.saturating_sub(next.time))
    }

    /// Stores what is due; `true` if more than a span is left.
    async fn store(&self, span: &mut Span, due: Due) -> Result<bool> {
        let settings = self.settings.borrow().clone();
        let newest = slice::last_write(&self.client).await?;
        let to = self.end_of_next(span.next, newest, settings.span).await?;
        let whole = match (due, span.tail.first()) {
            (Due::Span, Some(first)) if span.tail.len() > 1 || to > span.next => Some(first.start_ts),
            _ => None,
        };
        if let Some(from) = whole {
            match self.chunk(&settings, from, to).await {
                Ok(()) => {
                    forget(&self.control, settings.storage.as_ref(), std::mem::take(&mut span.tail)).await;
                    span.restart(to);
                    return Ok(to < newest);
                }
                Err(error) if error.is::<LockLost>() => return Err(error),
                // The small ones stay what they are.
                Err(error) => {
                    tracing::warn!(
                        "the small chunks since {} can't be joined: {}",
                        layout::format_ts(from),
                        explain(&error)
                    );
                    span.tail.clear();
                }
            }
        }
        if to > span.next {
            let from = span.next;
            self.chunk(&settings, from, to).await?;
            span.next = to;
            if to != newest {
                // Catching up: these chunks are large enough.
                span.restart(to);
            } else if due == Due::Flush || due == Due::Tail && settings.max_loss.is_some() {
                span.tail.push(chunk_of(&self.lock.replset, from, to, settings.compression));
            }
        }
        if due == Due::Span {
            span.restart(span.next);
        }
        Ok(to < newest)
    }

    /// Where a chunk that begins at `next` ends: no further than a span away, so that no catching up makes a chunk
    /// that is too large.
    async fn end_of_next(&self, next: Timestamp, newest: Timestamp, span: Duration) -> Result<Timestamp> {
        let seconds = u32::try_from(span.as_secs().max(60)).unwrap_or(u32::MAX);
        let limit = Timestamp { time: next.time.saturating_add(seconds), increment: u32::MAX };
        if newest <= limit {
            return Ok(newest);
        }
        match slice::newest_until(&self.client, limit).await? {
            Some(end) if end > next => Ok(end),
            _ => Ok(slice::first_after(&self.client, next).await?.unwrap_or(newest).min(newest)),
        }
    }

    async fn chunk(&self, settings: &Settings, from: Timestamp, to: Timestamp) -> Result<()> {
        let mut chunk = chunk_of(&self.lock.replset, from, to, settings.compression);
        let wanted =
            Wanted { object: chunk.fname.clone(), compression: settings.compression, level: settings.level, from, to };
        let budget = Budget::new(IN_FLIGHT);
        let Slice { bytes, stored, .. } = slice::store(&self.client, &settings.storage, &budget, wanted).await?;
        chunk.size = i64::try_from(bytes).unwrap_or(i64::MAX);
        chunk.stored = i64::try_from(stored).ok();
        if self.control.beat_slicing(&self.lock).await?.is_none() {
            // Another agent goes on where the index ends. The object stays: that agent may have noted it by now.
            return Err(LockLost.into());
        }
        self.control.chunks.add(&chunk).await?;
        tracing::info!("created chunk {} - {}", layout::format_ts(from), layout::format_ts(to));
        Ok(())
    }
}

/// The slicing lock went to another agent.
#[derive(Debug, thiserror::Error)]
#[error("the slicing lock is held by another agent now")]
pub struct LockLost;

/// For log and status.
#[must_use]
pub fn gap_message(gap: Line) -> String {
    format!(
        "gap: the oplog lost its entries from {} to {} before they could be saved; nothing in between can be restored. \
         Make a new base backup, and enlarge the oplog (replSetResizeOplog) if its window is shorter than such a pause",
        layout::format_ts(gap.start),
        layout::format_ts(gap.end)
    )
}

/// The present span.
struct Span {
    /// Everything up to here is stored.
    next: Timestamp,
    begun: Instant,
    /// The small chunks of this span, in order.
    tail: Vec<Chunk>,
}

impl Span {
    fn restart(&mut self, next: Timestamp) {
        *self = Self { next, begun: Instant::now(), tail: Vec::new() };
    }
}

/// Bytes written to the oplog, from looks at the size of what it holds.
#[derive(Debug, Default)]
struct Grown {
    size: Option<u64>,
    bytes: u64,
    oldest: Option<Timestamp>,
}

impl Grown {
    fn by(&mut self, size: u64) -> u64 {
        self.bytes += self.size.replace(size).map_or(0, |before| size.saturating_sub(before));
        self.bytes
    }
}

fn chunk_of(rs: &str, from: Timestamp, to: Timestamp, compression: Compression) -> Chunk {
    let fname = layout::pitr_chunk(rs, from, to, compression);
    Chunk { rs: rs.to_owned(), fname, compression, start_ts: from, end_ts: to, size: 0, stored: None }
}

/// Takes chunks out of the index, then deletes their objects. While a replay may read them they stay, for
/// [`drop_contained`] to find.
async fn forget(control: &Control, storage: &dyn Storage, chunks: Vec<Chunk>) {
    let Some(rs) = chunks.first().map(|chunk| chunk.rs.clone()) else { return };
    match control.locks.of(&rs).await {
        Ok(lock) if lock.as_ref().is_none_or(|lock| lock.header.kind != name::REPLAY) => {}
        Ok(_) => return tracing::debug!("small chunks that were joined stay until the replay has ended"),
        Err(error) => return tracing::warn!("small chunks that were joined stay: {}", explain(&error)),
    }
    let names: Vec<String> = chunks.into_iter().map(|chunk| chunk.fname).collect();
    if let Err(error) = control.chunks.remove(&names).await {
        // They say nothing wrong: the joined chunk covers them.
        tracing::warn!("small chunks that were joined stay: {}", explain(&error));
        return;
    }
    for name in names {
        if let Err(error) = storage.delete(&name).await {
            tracing::warn!("{name} was joined with others but can't be deleted: {error}");
        }
    }
}

/// Notes chunks that were stored but not noted before a crash: those that continue the newest chunk of `rs`.
///
/// # Errors
/// The storage can't be listed, the index can't be written.
pub async fn adopt(control: &Control, storage: &dyn Storage, rs: &str) -> Result<()> {
    let Some(mut last) = control.chunks.last(rs).await? else { return Ok(()) };
    let folder = last.fname.rsplit_once('/').map_or(PITR, |(folder, _)| folder).to_owned();
    let mut folders = vec![folder];
    let today = layout::pitr_chunk(rs, last.end_ts, last.end_ts, last.compression);
    if let Some((folder, _)) = today.rsplit_once('/')
        && folder != folders[0]
    {
        folders.push(folder.to_owned());
    }
    for folder in folders {
        let objects: Vec<_> = storage.list(&folder).try_collect().await.with_context(|| format!("list '{folder}'"))?;
        let mut found: Vec<(ChunkName, _)> =
            objects.into_iter().filter_map(|object| Some((ChunkName::parse(&object.name)?, object))).collect();
        found.sort_by_key(|(name, _)| (name.from, name.to));
        for (name, object) in found {
            if name.rs != rs || name.from > last.end_ts || name.to <= last.end_ts || object.size == 0 {
                continue;
            }
            last = name.chunk(object.name, object.size);
            tracing::info!("{} was stored before a crash and is noted now", last.fname);
            control.chunks.add(&last).await?;
        }
    }
    Ok(())
}

/// Removes recent small chunks whose joined chunk is noted too.
///
/// # Errors
/// The index can't be read.
pub async fn drop_contained(control: &Control, storage: &dyn Storage, rs: &str) -> Result<()> {
    let recent = control.chunks.recent(rs, RECENT).await?;
    let contained = recent.iter().filter(|small| {
        recent.iter().any(|joined| {
            joined.fname != small.fname
                && joined.start_ts <= small.start_ts
                && joined.end_ts >= small.end_ts
                && (joined.start_ts, joined.end_ts) != (small.start_ts, small.end_ts)
        })
    });
    let contained: Vec<Chunk> = contained.cloned().collect();
    if !contained.is_empty() {
        forget(control, storage, contained).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_counts_over_truncations() {
        let mut grown = Grown::default();
        let seen: Vec<u64> = [100, 150, 120, 180].into_iter().map(|size| grown.by(size)).collect();
        assert_eq!(seen, [0, 50, 50, 110]);
    }
}
