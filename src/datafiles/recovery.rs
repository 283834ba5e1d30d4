//! From copied files to a member of a replica set, by the server's own recovery.
//!
//! | step | the temporary mongod | what is done |
//! |---|---|---|
//! | [`prepare`] | plain | the member of before is forgotten; the end of the oplog is set, saved entries are added |
//! | [`recover`] | `recoverFromOplogAsStandalone` | the server applies its oplog from its last checkpoint to the end |
//! | [`reset`] | plain | the configuration of the replica set that the files now belong to |
//!
//! Transactions, index builds and other commands in the oplog are the server's work, so they are exact.
//!
//! # Traps
//! - After the first entry was added above the top, a read of the oplog from its begin blocks: the top is read backwards,
//!   and before.
//! - Nothing here may create a collection: each member would give it another UUID. Documents are only removed, or written
//!   to `local`.

use super::program::Program;
use super::server::Launch;
use anyhow::{Context, Result, bail};
use bson::oid::ObjectId;
use bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc};
use futures::{Stream, TryStreamExt};
use mongodb::{Client, Collection};
use std::collections::BTreeMap;
use std::path::Path;

const OPLOG: &str = "oplog.rs";
/// What a member remembers of its replica set and of its own recovery.
const OF_THE_MEMBER: [&str; 4] =
    ["replset.minvalid", "replset.oplogTruncateAfterPoint", "replset.election", "system.replset"];
/// An insert command is sent when its entries have so many bytes or documents.
const BATCH_BYTES: usize = 12 << 20;
const BATCH_ENTRIES: usize = 10_000;
/// Entries below the top that are compared with the saved ones.
const COMPARED: i64 = 10_000;

/// The files, and what reads them.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    pub program: &'a Program,
    pub folder: &'a Path,
    /// `mongod_opts` of the backup.
    pub options: &'a Document,
    /// The cache of the temporary mongod; its own default where no other mongod runs beside it.
    pub cache_gb: Option<f64>,
}

impl<'a> Files<'a> {
    /// A temporary mongod on them.
    #[must_use]
    pub fn launch(&self) -> Launch<'a> {
        let launch = Launch::new(self.program, self.folder).stored_with(self.options);
        self.cache_gb.into_iter().fold(launch, Launch::cache_gb)
    }
}

/// Makes the files a state that recovery leads exactly to `end`. `saved` are the entries of the saved oplog, in their
/// order, which begin at or before the top of the copy's own oplog; none for a restore to the backup's own end.
///
/// # Errors
/// The saved entries are of another history, or do not reach to the copy's oplog; also if the server fails.
pub async fn prepare<S>(files: Files<'_>, end: Timestamp, saved: Option<S>) -> Result<Added>
where
    S: Stream<Item = Result<RawDocumentBuf>> + Send,
{
    let server = files.launch().start().await?;
    let done = prepare_on(server.client(), end, saved).await;
    server.finish(done).await
}

async fn prepare_on<S>(client: &Client, end: Timestamp, saved: Option<S>) -> Result<Added>
where
    S: Stream<Item = Result<RawDocumentBuf>> + Send,
{
    forget_member(client).await?;
    let added = match saved {
        Some(saved) => add_entries(client, end, saved).await.context("add the saved oplog to the copy's own")?,
        None => Added::default(),
    };
    set_end(client, end).await?;
    Ok(added)
}

/// Lets the server apply its oplog.
///
/// # Errors
/// The server fails.
pub async fn recover(files: Files<'_>) -> Result<()> {
    let launch = files.launch();
    let launch = launch.parameter("recoverFromOplogAsStandalone", true);
    launch.parameter("takeUnstableCheckpointOnShutdown", true).start().await?.stop().await
}

/// Writes the configuration of the replica set, and drops collections that belong to the cluster of before.
///
/// # Errors
/// The server fails.
pub async fn reset(files: Files<'_>, config: &Document, dropped: &[(&str, &str)]) -> Result<()> {
    let launch = files.launch().parameter("skipShardingConfigurationChecks", true);
    let server = launch.start().await?;
    let done = reset_on(server.client(), config, dropped).await;
    server.finish(done).await
}

async fn reset_on(client: &Client, config: &Document, dropped: &[(&str, &str)]) -> Result<()> {
    for (db, coll) in dropped {
        let collection = client.database(db).collection::<Document>(coll);
        collection.drop().await.with_context(|| format!("drop {db}.{coll}"))?;
    }
    let local = client.database("local");
    empty(&local.collection("system.replset")).await?;
    let configs = local.collection::<Document>("system.replset");
    configs.insert_one(config).await.context("write the configuration of the replica set").map(drop)
}

/// What was added to the oplog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Added {
    pub entries: u64,
    /// Entries that both had.
    pub compared: u64,
}

async fn forget_member(client: &Client) -> Result<()> {
    let local = client.database("local");
    for name in OF_THE_MEMBER {
        empty(&local.collection(name)).await?;
    }
    let valid = doc! { "_id": ObjectId::new(), "t": -1_i64, "ts": Timestamp { time: 0, increment: 1 } };
    local.collection("replset.minvalid").insert_one(valid).await.context("write replset.minvalid").map(drop)
}

/// Entries after `end` are removed by the recovery.
async fn set_end(client: &Client, end: Timestamp) -> Result<()> {
    let point = doc! { "_id": "oplogTruncateAfterPoint", "oplogTruncateAfterPoint": end };
    let points = client.database("local").collection("replset.oplogTruncateAfterPoint");
    points.insert_one(point).await.context("write replset.oplogTruncateAfterPoint").map(drop)
}

async fn empty(collection: &Collection<Document>) -> Result<()> {
    let name = collection.namespace();
    collection.delete_many(doc! {}).await.with_context(|| format!("empty {name}")).map(drop)
}

/// What tells histories apart: the term, the kind and the namespace of an entry.
type Mark = (Option<i64>, String, String);

fn mark(entry: &RawDocument) -> Mark {
    let text = |key| entry.get_str(key).unwrap_or_default().to_owned();
    (entry.get_i64("t").ok(), text("op"), text("ns"))
}

/// Whether a saved entry is what the copy's own oplog has at the same time. A no-op without a namespace stands for an entry that
/// was left out of the saved oplog, because it is about a control collection.
fn is_same(saved: &Mark, own: &Mark) -> bool {
    let left_out = saved.1 == "n" && saved.2.is_empty();
    saved.0 == own.0 && (left_out || saved == own)
}

/// The newest entries of the copy's own oplog, by time.
async fn own_entries(client: &Client) -> Result<BTreeMap<Timestamp, Mark>> {
    let oplog = client.database("local").collection::<RawDocumentBuf>(OPLOG);
    let newest = oplog
        .find(doc! {})
        .sort(doc! { "$natural": -1 })
        .limit(COMPARED)
        .projection(doc! { "ts": 1, "t": 1, "op": 1, "ns": 1 });
    let mut found = newest.await.context("read the copy's oplog")?;
    let mut own = BTreeMap::new();
    while let Some(entry) = found.try_next().await.context("read the copy's oplog")? {
        own.insert(time(&entry)?, mark(&entry));
    }
    Ok(own)
}

fn time(entry: &RawDocument) -> Result<Timestamp> {
    entry.get_timestamp("ts").context("an oplog entry without ts")
}

async fn add_entries<S>(client: &Client, end: Timestamp, saved: S) -> Result<Added>
where
    S: Stream<Item = Result<RawDocumentBuf>> + Send,
{
    let own = own_entries(client).await?;
    let top = *own.last_key_value().context("the copy has no oplog: it is not of a member of a replica set")?.0;
    let (mut added, mut batch, mut last) = (Added::default(), Batch::default(), None);
    let mut saved = std::pin::pin!(saved);
    while let Some(entry) = saved.try_next().await? {
        let ts = time(&entry)?;
        // Chunks share their borders.
        if last.is_some_and(|last| ts <= last) {
            continue;
        }
        last = Some(ts);
        if ts > end {
            break;
        }
        if ts > top {
            if added.compared == 0 {
                bail!(
                    "the saved oplog has none of the last entries of the copy before {}: it is of another history",
                    at(top)
                );
            }
            added.entries += 1;
            batch.add(&entry, client).await?;
        } else if let Some(known) = own.get(&ts) {
            let here = mark(&entry);
            if !is_same(&here, known) {
                bail!(
                    "at {} the copy has {known:?} and the saved oplog {here:?}: they are of different histories",
                    at(ts)
                );
            }
            added.compared += 1;
        }
    }
    batch.send(client).await?;
    Ok(added)
}

fn at(ts: Timestamp) -> String {
    format!("{},{}", ts.time, ts.increment)
}

/// Entries on their way into the oplog. The command is sent raw: a driver's insert would add an `_id`.
#[derive(Default)]
struct Batch {
    entries: RawArrayBuf,
    count: usize,
    bytes: usize,
}

impl Batch {
    async fn add(&mut self, entry: &RawDocument, client: &Client) -> Result<()> {
        let size = entry.as_bytes().len();
        if self.count > 0 && (self.count >= BATCH_ENTRIES || self.bytes + size > BATCH_BYTES) {
            self.send(client).await?;
        }
        self.entries.push(entry.to_owned());
        (self.count, self.bytes) = (self.count + 1, self.bytes + size);
        Ok(())
    }

    async fn send(&mut self, client: &Client) -> Result<()> {
        let batch = std::mem::take(self);
        if batch.count == 0 {
            return Ok(());
        }
        let command = rawdoc! { "insert": OPLOG, "ordered": true, "documents": batch.entries };
        let answer = client.database("local").run_raw_command(command).await.context("insert into the oplog")?;
        match answer.get("writeErrors") {
            Some(errors) => bail!("insert into the oplog: {errors}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_history_is_told_from_entries_that_were_left_out() {
        let entry = |t: i64, op: &str, ns: &str| (Some(t), op.to_owned(), ns.to_owned());
        let own = entry(3, "u", "admin.pbmAgents");
        assert!(is_same(&own, &own));
        assert!(is_same(&entry(3, "n", ""), &own), "left out");
        assert!(!is_same(&entry(4, "n", ""), &own), "of another term");
        assert!(!is_same(&entry(3, "i", "admin.pbmAgents"), &own));
        assert!(!is_same(&entry(3, "u", "shop.orders"), &own));
    }
}
