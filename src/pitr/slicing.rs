//! Stores one chunk after another until it is asked to stop (docs/format.md A.5, D.5.5).
//!
//! # Overview
//! A chunk is stored when its span is over ([`Settings::span`]). It is stored earlier if much was written ([`LARGE`]), or if
//! the oplog will soon lose entries that are not stored yet. With [`Settings::max_loss`] the unsaved end of the oplog is
//! stored as a small chunk whenever that time has passed. When the span is over, one chunk with all their entries replaces the
//! small chunks, so the number of chunks does not grow.
//!
//! # Consistency
//! Chunks end with an entry that a majority has. A chunk is added to the index in the control collections only after its
//! whole object is stored, and only if this agent still has the slicing lock. So an agent that was paused and continues later
//! adds nothing to a timeline that another agent continues.
//!
//! # Retries
//! A failed attempt is repeated until it succeeds, always from the same entry. The oplog is the buffer; nothing is kept in
//! memory. If the oplog loses entries before they are stored, the timeline has a gap: the log reports it, and slicing
//! continues after the gap.
//!
//! # Crash
//! The next slicer begins where the index ends. It adds chunks that were stored but are not in the index ([`adopt`]), and
//! removes small chunks whose replacement is in the index ([`drop_contained`]).

use super::timeline::Line;
use crate::control::Control;
use crate::layout::{self, ChunkName, PITR};
use crate::model::{chunk::Chunk, command::name, compression::Compression, lock::LockHeader, selection::Selection};
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
/// The most bytes of oplog that are kept in memory while they are stored.
const IN_FLIGHT: usize = 4 << 20;
/// Time between two checks of the oplog.
const LOOK: Duration = Duration::from_secs(5);
/// The longest pause between two attempts.
const PAUSE: Duration = Duration::from_secs(15);
/// The time limit for the last chunk.
const LAST: Duration = Duration::from_secs(30);
/// How many of the newest chunks are searched for remains of a crash.
const RECENT: i64 = 500;

/// The settings, which can change while an agent slices.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The time that one chunk covers.
    pub span: Duration,
    /// After this time a write is on the storage. `None` means after `span`.
    pub max_loss: Option<Duration>,
    pub compression: Compression,
    pub level: Option<i32>,
    pub storage: Arc<dyn Storage>,
}

/// The progress of slicing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// All entries up to this time are stored.
    pub saved: Timestamp,
    /// Why the last attempt failed. Empty if it succeeded.
    pub error: String,
}

/// Slices the oplog of one node.
#[derive(Debug)]
pub struct Slicing {
    pub control: Control,
    /// A direct connection to the node.
    pub client: Client,
    /// Our slicing lock.
    pub lock: LockHeader,
    pub settings: watch::Receiver<Settings>,
    pub progress: watch::Sender<Progress>,
    /// The time up to which the oplog has to be stored at once, because a user asked for it.
    pub flush: watch::Receiver<Timestamp>,
    /// Ends slicing after a last chunk.
    pub quit: CancellationToken,
}

/// Why a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// Only the unsaved end of the oplog is stored.
    Tail,
    /// The span is over, or much was written.
    Span,
    /// A user asked for it.
    Flush,
    /// It is the last chunk.
    Quit,
}

impl Slicing {
    /// Stores all entries after `begin`, which is the time of an entry, until it is asked to stop.
    ///
    /// # Errors
    /// This agent no longer has the lock. All other errors are handled here.
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
                    // More than a span is not stored yet, so there is no pause.
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
                // The original's agents take this text to mean that the error is over.
                tracing::debug!("start_ok");
            }
            let now = Progress { saved, error };
            let new = *told != now;
            *told = now;
            new
        });
    }

    /// Handles a failed attempt. If the oplog has lost the next entries, continues after the gap.
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

    /// Waits until a chunk is due.
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

    /// Whether much was written, or the oplog, which loses its oldest entries, has fewer entries before `next` than after it.
    async fn is_urgent(&self, next: Timestamp, grown: &mut Grown) -> Result<bool> {
        let (oldest, newest) = slice::window(&self.client).await?;
        let large = grown.by(slice::size(&self.client).await?) >= LARGE;
        let rolling = grown.oldest.replace(oldest).is_some_and(|before| before != oldest);
        Ok(large || rolling && next.time.saturating_sub(oldest.time) <= newest.time.saturating_sub(next.time))
    }

    /// Stores the chunk that is due. Returns `true` if more than a span is left.
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
                // The small chunks stay as they are.
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
                // While this agent catches up, its chunks are large enough.
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

    /// Returns where a chunk that begins at `next` ends. It covers at most a span, so that chunks do not become too large
    /// while this agent catches up.
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
        let wanted = Wanted {
            object: chunk.fname.clone(),
            compression: settings.compression,
            level: settings.level,
            from,
            to,
            selection: Selection::default(),
        };
        let budget = Budget::new(IN_FLIGHT);
        let Slice { bytes, stored, lost, .. } = slice::store(&self.client, &settings.storage, &budget, wanted).await?;
        chunk.size = i64::try_from(bytes).unwrap_or(i64::MAX);
        chunk.stored = i64::try_from(stored).ok();
        if self.control.beat_slicing(&self.lock).await?.is_none() {
            // Another agent continues where the index ends. The object stays, because that agent may have added it to the index.
            return Err(LockLost.into());
        }
        self.control.chunks.add(&chunk).await?;
        if let Some(lost) = lost {
            tracing::warn!("{lost}; make a backup soon");
        }
        tracing::info!("created chunk {} - {}", layout::format_ts(from), layout::format_ts(to));
        Ok(())
    }
}

/// The slicing lock belongs to another agent.
#[derive(Debug, thiserror::Error)]
#[error("the slicing lock is held by another agent now")]
pub struct LockLost;

/// Describes the error for the log and the status.
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
    /// The small chunks of this span, in their order.
    tail: Vec<Chunk>,
}

impl Span {
    fn restart(&mut self, next: Timestamp) {
        *self = Self { next, begun: Instant::now(), tail: Vec::new() };
    }
}

/// Estimates how many bytes were written to the oplog, from repeated readings of its size.
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

/// Removes chunks from the index and then deletes their objects. While a replay may read them, they stay, and
/// [`drop_contained`] removes them later.
async fn forget(control: &Control, storage: &dyn Storage, chunks: Vec<Chunk>) {
    let Some(rs) = chunks.first().map(|chunk| chunk.rs.clone()) else { return };
    match control.locks.of(&rs).await {
        Ok(lock) if lock.as_ref().is_none_or(|lock| lock.header.kind != name::REPLAY) => {}
        Ok(_) => return tracing::debug!("small chunks that were joined stay until the replay has ended"),
        Err(error) => return tracing::warn!("small chunks that were joined stay: {}", explain(&error)),
    }
    let names: Vec<String> = chunks.into_iter().map(|chunk| chunk.fname).collect();
    if let Err(error) = control.chunks.remove(&names).await {
        // They do no harm: the joined chunk contains all their entries.
        tracing::warn!("small chunks that were joined stay: {}", explain(&error));
        return;
    }
    for name in names {
        if let Err(error) = storage.delete(&name).await {
            tracing::warn!("{name} was joined with others but can't be deleted: {error}");
        }
    }
}

/// Adds the chunks to the index that were stored before a crash and are not in it, if they continue the newest chunk of `rs`.
///
/// # Errors
/// The storage can't be listed, or the index can't be written.
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

/// Removes recent small chunks whose joined chunk is in the index.
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
