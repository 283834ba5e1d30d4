//! `pbmLog`: the log lines of all agents (docs/format.md C.11).

use super::table::can_be_tailed;
use crate::model::{
    command::name,
    log::{LogEntry, Severity},
    names,
};
use crate::mongo::code::only_duplicate_keys;
use anyhow::{Context, Result};
use bson::{Document, Timestamp, doc};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use mongodb::{
    Collection, Database,
    options::{Acknowledgment, CursorType, ReadConcern, WriteConcern},
};
use std::time::Duration;

/// Reads and writes log lines.
#[derive(Debug, Clone)]
pub struct Logs {
    coll: Collection<LogEntry>,
}

/// Selects log lines. Each field restricts the selection, unless it is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogQuery {
    pub replset: Option<String>,
    pub node: Option<String>,
    /// The lowest severity, as a number: lines with this number or a lower one are selected.
    pub severity: Option<i32>,
    pub event: Option<String>,
    pub object: Option<String>,
    pub opid: Option<String>,
    /// The earliest time, in unix seconds.
    pub since: Option<i64>,
}

impl LogQuery {
    fn filter(&self) -> Document {
        let mut filter = Document::new();
        let texts = [
            ("rs", &self.replset),
            ("node", &self.node),
            ("e", &self.event),
            ("eobj", &self.object),
            ("opid", &self.opid),
        ];
        for (key, value) in texts {
            if let Some(value) = value {
                filter.insert(key, value);
            }
        }
        if let Some(severity) = self.severity {
            filter.insert("s", doc! { "$lte": severity });
        }
        if let Some(since) = self.since {
            filter.insert("ts", doc! { "$gte": since });
        }
        filter
    }
}

impl Logs {
    pub(super) fn new(db: &Database) -> Self {
        Self { coll: db.collection(names::LOG) }
    }

    /// Appends lines in their order. After an error, some of them may be stored; calling this again stores only the
    /// missing lines.
    pub async fn append(&self, lines: &[LogEntry]) -> Result<()> {
        let quick = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
        // An ordered insert would stop at the first line that is already stored, and the lines after it would never be
        // stored.
        match self.coll.insert_many(lines).ordered(false).write_concern(quick).await {
            Err(error) if !only_duplicate_keys(&error) => Err(error).context("write admin.pbmLog"),
            _ => Ok(()),
        }
    }

    /// Returns the newest `limit` matching lines (0 = all), with the oldest first.
    pub async fn newest(&self, query: &LogQuery, limit: i64) -> Result<Vec<LogEntry>> {
        let mut lines: Vec<LogEntry> = self
            .coll
            .find(query.filter())
            .sort(doc! { "ts": -1, "ns": -1 })
            .limit(limit)
            .await
            .context("read admin.pbmLog")?
            .try_collect()
            .await
            .context("read admin.pbmLog")?;
        lines.reverse();
        Ok(lines)
    }

    /// Returns all matching lines by time, with the oldest first. The result is a stream because the log may not fit
    /// into memory.
    pub async fn all(&self, query: &LogQuery) -> Result<impl Stream<Item = Result<LogEntry>> + use<>> {
        let lines = self.coll.find(query.filter()).sort(doc! { "ts": 1, "ns": 1 }).allow_disk_use(true);
        let cursor = lines.await.context("read admin.pbmLog")?;
        Ok(cursor.map_err(|e| anyhow::Error::new(e).context("read admin.pbmLog")))
    }

    /// Returns the newest error of a replica set's slicing since the configuration of `epoch`, unless slicing has begun
    /// again after that error (docs/format.md C.11.1). Like the original, it compares the seconds of the `_id`s.
    pub async fn pitr_error(&self, rs: &str, epoch: Timestamp) -> Result<Option<LogEntry>> {
        let newest = async |s: Severity, msg: Option<&str>| {
            let mut filter = doc! { "e": name::PITR, "rs": rs, "ep": epoch, "s": s as i32 };
            if let Some(msg) = msg {
                filter.insert("msg", msg);
            }
            self.coll.find_one(filter).sort(doc! { "ts": -1, "ns": -1 }).await.context("read admin.pbmLog")
        };
        let Some(error) = newest(Severity::Error, None).await? else { return Ok(None) };
        let begun = newest(Severity::Debug, Some("start_ok")).await?;
        let seconds = |line: &LogEntry| line.id.map_or(line.ts, |id| id.timestamp().timestamp_millis() / 1000);
        Ok(Some(error).filter(|error| begun.is_none_or(|begun| seconds(&begun) <= seconds(error))))
    }

    /// Returns matching lines in the order in which they are written, beginning with the oldest stored line, and then
    /// each new line. The stream ends when the server drops the cursor; on an empty collection it does so at once.
    pub async fn follow(&self, query: &LogQuery) -> Result<impl Stream<Item = Result<LogEntry>> + use<>> {
        if !can_be_tailed(&self.coll).await.context("follow admin.pbmLog")? {
            return Ok(stream::empty().left_stream());
        }
        let cursor = self
            .coll
            .find(query.filter())
            .cursor_type(CursorType::TailableAwait)
            .read_concern(ReadConcern::local())
            .max_await_time(Duration::from_secs(5))
            .await
            .context("follow admin.pbmLog")?;
        Ok(cursor.map_err(|e| anyhow::Error::new(e).context("follow admin.pbmLog")).right_stream())
    }
}
