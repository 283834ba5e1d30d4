//! The agent's log: one line on stderr, and the same line in `admin.pbmLog` once that is reachable.
//!
//! Code logs with `tracing`. A line's event, object, OPID and epoch come from the span of the operation around it:
//! open one with [`operation`]. Nothing that happens while a line is written can stop the program: a database that is
//! away or slow costs lines in `pbmLog` (their number is logged later), never time.

mod event;
mod sinks;

pub use event::{Level, operation};
pub use sinks::DbSink;

use std::path::PathBuf;
use tracing_subscriber::layer::SubscriberExt;

/// How an agent logs.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A file, or stderr.
    pub path: Option<PathBuf>,
    pub json: bool,
    /// The least severe level that is written.
    pub level: Level,
}

/// Installs the log for the whole process and returns the way to connect it with the database.
///
/// # Errors
/// The log file can't be opened, or a log is installed already.
pub fn install(options: &LogOptions) -> anyhow::Result<DbSink> {
    let text = sinks::TextSink::open(options)?;
    let (layer, db) = event::layer(text, options.level);
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;
    Ok(db)
}
