//! Where the files of a physical backup come from: somebody keeps them from changing for a while.

use super::{lock::Lock, place::Place};
use crate::datafiles::dbpath::{self, FoundFile, HELD};
use crate::mongo::Uri;
use anyhow::{Context, Error, Result, ensure};
use async_trait::async_trait;
use bson::{Bson, Document, Timestamp, doc};
use mongodb::Client;
use std::{path::PathBuf, time::Duration};

/// An entry of the oplog. Entries of two histories can have the same time, but not the same term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub ts: Timestamp,
    pub term: i64,
}

/// Files that don't change.
#[derive(Debug)]
pub(super) struct Held {
    /// The newest entry of the oplog in the files.
    pub top: Entry,
    /// The folder of the files.
    pub root: PathBuf,
    pub files: Vec<FoundFile>,
}

/// Keeps the files of a node from changing.
#[async_trait]
pub(super) trait FileSource: Send {
    /// From the return on, the files don't change.
    async fn hold(&mut self) -> Result<Held>;

    /// Returns only if the files may change again before [`FileSource::release`], with the reason.
    async fn ended(&mut self) -> Error;

    /// Lets the files change again. Returns how long they were held.
    ///
    /// # Errors
    /// They may have changed before.
    async fn release(&mut self) -> Result<Duration>;
}

/// Runs `work` while the files are held.
///
/// # Errors
/// Those of `work`, or why the files may have changed meanwhile.
pub(super) async fn meanwhile<T>(source: &mut dyn FileSource, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        why = source.ended() => Err(why),
        done = work => done,
    }
}

/// The lock of `fsync`, which every server has.
pub(super) struct LockSource<'a> {
    client: &'a Client,
    uri: &'a Uri,
    place: &'a Place,
    limit: Duration,
    lock: Option<Lock>,
}

impl<'a> LockSource<'a> {
    pub fn new(client: &'a Client, uri: &'a Uri, place: &'a Place, limit: Duration) -> Self {
        Self { client, uri, place, limit, lock: None }
    }
}

#[async_trait]
impl FileSource for LockSource<'_> {
    async fn hold(&mut self) -> Result<Held> {
        let lock = self.lock.insert(Lock::take(self.client, self.uri.as_str(), self.limit).await?);
        let look = look(self.client, self.place);
        tokio::select! {
            biased;
            why = lock.ended() => Err(why),
            held = look => held,
        }
    }

    async fn ended(&mut self) -> Error {
        match &mut self.lock {
            Some(lock) => lock.ended().await,
            None => anyhow::anyhow!("the node is not locked"),
        }
    }

    async fn release(&mut self) -> Result<Duration> {
        self.lock.take().context("the node is not locked")?.release().await
    }
}

/// What lies there, of a node that is locked.
async fn look(client: &Client, place: &Place) -> Result<Held> {
    let top = newest_entry(client).await?;
    let root = place.db_path.clone();
    let files = tokio::task::spawn_blocking(move || {
        // The lock of this very server makes this file. So the folder is that of this server.
        ensure!(dbpath::stamp(&root, HELD)?.is_some(), super::place::not_seen(&root));
        dbpath::list(&root)
    });
    Ok(Held { top, root: place.db_path.clone(), files: files.await.context("list the data files")?? })
}

/// Returns the newest entry of this node's oplog.
async fn newest_entry(client: &Client) -> Result<Entry> {
    entry(client, doc! {}).await?.context("the oplog is empty")
}

/// Returns the entry of this node's oplog at this time.
pub(super) async fn entry_at(client: &Client, ts: Timestamp) -> Result<Option<Entry>> {
    entry(client, doc! { "ts": ts }).await
}

async fn entry(client: &Client, filter: Document) -> Result<Option<Entry>> {
    let find = doc! {
        "find": "oplog.rs", "filter": filter, "sort": { "$natural": -1 }, "projection": { "ts": 1, "t": 1 },
        "limit": 1, "singleBatch": true, "readConcern": { "level": "local" },
    };
    let found = client.database("local").run_command(find).await.context("read the oplog")?;
    let batch =
        found.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).context("read the oplog")?;
    let Some(entry) = batch.first().and_then(Bson::as_document) else { return Ok(None) };
    let ts = entry.get_timestamp("ts").context("an oplog entry without ts")?;
    Ok(Some(Entry { ts, term: entry.get_i64("t").unwrap_or(-1) }))
}
