//! Where log lines go: a text stream now, the database when it can.

use super::LogOptions;
use crate::model::log::{LogEntry, Severity};
use anyhow::Context as _;
use jiff::Zoned;
use std::time::Duration;
use std::{
    fs::File,
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{mpsc, watch};

/// stderr or a file.
pub(super) struct TextSink {
    out: Mutex<Box<dyn Write + Send>>,
    json: bool,
}

impl TextSink {
    pub(super) fn open(options: &LogOptions) -> anyhow::Result<Self> {
        let out: Box<dyn Write + Send> = match options.path.as_deref() {
            None => Box::new(std::io::stderr()),
            Some(path) if path.as_os_str() == "/dev/stderr" => Box::new(std::io::stderr()),
            Some(path) => Box::new(
                File::options()
                    .append(true)
                    .create(true)
                    .open(path)
                    .with_context(|| format!("open the log file {}", path.display()))?,
            ),
        };
        Ok(Self { out: Mutex::new(out), json: options.json })
    }

    pub(super) fn write(&self, now: &Zoned, entry: &LogEntry) {
        let line = if self.json { json_line(entry) } else { text_line(now, entry) };
        if let Ok(mut out) = self.out.lock() {
            // A log that can't be written must not stop a backup.
            let _ = writeln!(out, "{line}");
        }
    }
}

fn letter(severity: i32) -> char {
    match severity {
        0 => Severity::Fatal,
        1 => Severity::Error,
        2 => Severity::Warning,
        3 => Severity::Info,
        _ => Severity::Debug,
    }
    .letter()
}

fn text_line(now: &Zoned, entry: &LogEntry) -> String {
    let at = now.strftime("%Y-%m-%dT%H:%M:%S%.3f%z");
    let scope = match (entry.e.as_str(), entry.eobj.as_str()) {
        ("", _) => String::new(),
        (event, "") => format!("[{event}] "),
        (event, object) => format!("[{event}/{object}] "),
    };
    format!("{at} {} {scope}{}", letter(entry.s), entry.msg)
}

fn json_line(entry: &LogEntry) -> String {
    serde_json::json!({
        "ts": entry.ts, "ns": entry.ns, "s": entry.s, "e": entry.e, "eobj": entry.eobj, "opid": entry.opid, "msg": entry.msg,
    })
    .to_string()
}

/// Lines on their way to the database: bounded, never blocking.
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
    pub(super) fn new() -> Self {
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
