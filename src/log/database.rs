//! Log lines on their way to the database.

use crate::model::log::LogEntry;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Bounded, never blocking.
#[derive(Debug, Clone)]
pub struct DbSink {
    send: mpsc::Sender<LogEntry>,
    receive: Arc<Mutex<Option<mpsc::Receiver<LogEntry>>>>,
    dropped: Arc<AtomicU64>,
    /// Lines given to whoever carries them, since the start, and those that have arrived.
    pushed: Arc<AtomicU64>,
    arrived: watch::Sender<u64>,
}

/// Lines kept while the database is away.
const WAITING: usize = 10_000;

impl DbSink {
    pub(crate) fn new() -> Self {
        let (send, receive) = mpsc::channel(WAITING);
        Self {
            send,
            receive: Arc::new(Mutex::new(Some(receive))),
            dropped: Arc::default(),
            pushed: Arc::default(),
            arrived: watch::Sender::new(0),
        }
    }

    pub(super) fn push(&self, entry: LogEntry) {
        match self.send.try_send(entry) {
            Ok(()) => self.pushed.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.dropped.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// The lines so far and from now on; `None` when somebody takes them already.
    #[must_use]
    pub fn take_lines(&self) -> Option<mpsc::Receiver<LogEntry>> {
        self.receive.lock().ok()?.take()
    }

    /// So many lines more are in the database.
    pub fn have_arrived(&self, lines: usize) {
        self.arrived.send_modify(|arrived| *arrived += lines as u64);
    }

    /// Waits until the lines so far are in the database, at most for `limit`: for whoever looks there next.
    pub async fn settle(&self, limit: Duration) {
        let so_far = self.pushed.load(Ordering::Relaxed);
        let mut arrived = self.arrived.subscribe();
        // Late lines are late for their reader, nothing more.
        let _ = tokio::time::timeout(limit, arrived.wait_for(|arrived| *arrived >= so_far)).await;
    }

    /// Lines lost since the last call because too many were waiting.
    #[must_use]
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}
