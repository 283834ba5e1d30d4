//! The agent's log: one line on stderr, and the same line in `admin.pbmLog` once that is reachable.
//!
//! Code logs with `tracing`. A line's event, object, OPID and epoch come from the span of the operation around it:
//! open one with [`operation`]. Nothing that happens while a line is written can stop the program: a database that is
//! away or slow costs lines in `pbmLog` (their number is logged later), never time.

mod database;
mod event;
mod text;

pub use database::DbSink;
pub use event::{Level, operation};

use std::{fmt, path::PathBuf, sync::Arc};
use tracing_subscriber::layer::SubscriberExt;

/// How an agent logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// A file, or stderr.
    pub path: Option<PathBuf>,
    pub json: bool,
    /// The least severe level that is written.
    pub level: Level,
}

/// Tells on stderr why the program ends, wherever the log is.
pub fn last_words(text: &str) {
    text::last_words(text);
}

/// The log of this process.
#[derive(Clone)]
pub struct Log {
    text: Arc<text::TextSink>,
    /// The way into the database.
    pub lines: DbSink,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Log {
    /// Installs the log for the whole process.
    ///
    /// # Errors
    /// The log file can't be opened, or a log is installed already.
    pub fn install(options: &LogOptions) -> anyhow::Result<Self> {
        let log = Self { text: Arc::new(text::TextSink::open(options)?), lines: DbSink::new() };
        let layer = event::layer(log.text.clone(), log.lines.clone());
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;
        Ok(log)
    }

    /// Opens the log file again, for whoever moved it away, and goes on with these options.
    ///
    /// # Errors
    /// The file can't be opened; the log stays as it was.
    pub fn change(&self, options: &LogOptions) -> anyhow::Result<()> {
        self.text.change(options)
    }
}
