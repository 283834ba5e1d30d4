//! Stores a range of the oplog as one object (docs/format.md A.4).
//!
//! # Overview
//! A slice contains every entry from `from` to `to`, both inclusive, and the next slice begins with the last entry of
//! this one. Both are timestamps of entries that the majority has. So the range is complete when it is read, and
//! reading does not wait for the next write.
//!
//! # Consistency
//! The first entry that is read must be the one at `from`, and the last must be the one at `to`. Otherwise the oplog no
//! longer contains the range, which is an error. So a slice always covers the range in its name.
//!
//! Entries with credentials are left out (see `oplog::secrets`). If the first or the last entry is such an entry, a
//! no-op replaces it, so that its timestamp stays.

use super::{
    secrets::{self, Verdict},
    unreadable_names,
};
use crate::archive::crc::Crc64;
use crate::compress;
use crate::model::{compression::Compression, selection::Selection};
use crate::mongo::majority;
use crate::snapshot::{
    budget::Budget,
    reply::{Owner, PIECE, Reply},
};
use crate::storage::{self, ByteStream, SizeHint, Storage};
use anyhow::{Context, Result, bail};
use bson::{RawDocument, Timestamp, doc};
use bytes::Bytes;
use futures::{StreamExt, stream};
use mongodb::{
    Client, ClientSession,
    options::{ReadConcern, SelectionCriteria},
    raw_batch_cursor::RawBatchCursor,
};
use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Returns the time at which a backup's oplog begins on this node. This is the time of the newest entry, which the
/// majority then has. If a transaction is open at that time, it is the time of the first entry of the oldest such
/// transaction, because a transaction can't be applied without its beginning.
///
/// When this returns, the majority has every write that was made before the call, so every later read of the node at
/// majority concern sees at least the state of that time.
pub async fn first_write(client: &Client) -> Result<Timestamp> {
    let newest = last_write(client).await?;
    let open = client
        .database("config")
        .collection::<bson::Document>("transactions")
        .find_one(doc! { "state": { "$in": ["prepared", "inProgress"] }, "startOpTime": { "$exists": true } })
        .sort(doc! { "startOpTime.ts": 1 })
        .read_concern(ReadConcern::local())
        .await
        .context("look for open transactions in config.transactions")?;
    // A transaction that was open at `newest` may have been committed meanwhile. The oplog of the backup lacks its
    // beginning, so this waits until every reader sees the commit.
    last_write(client).await?;
    let begun = open.and_then(|t| t.get_document("startOpTime").ok().and_then(|o| o.get_timestamp("ts").ok()));
    Ok(begun.map_or(newest, |begun| begun.min(newest)))
}

/// Returns the time of the newest entry of this node's oplog, after the majority has this entry. If the connection
/// string asks for fewer members to confirm writes ([`majority`]), it returns without waiting for the majority.
///
/// Documents are read at majority concern, but the list of collections and the drops are read as this node has them. So
/// the end of a backup is the state of the node after the last of these reads, and the majority must have it.
///
/// # Errors
/// The majority does not follow within a minute, or the node can't be read.
pub async fn last_write(client: &Client) -> Result<Timestamp> {
    let own =
        crate::mongo::hello(client).await?.own_write().context("hello tells no last write: is replication running?")?;
    if majority::must_confirm(client).await? {
        let wait = client.database("admin").run_command(wait_query(own, "majority")).await;
        if let Err(error) = wait {
            let what = format!("wait until the majority of the replica set has the write at {own}");
            return Err(anyhow::Error::new(error).context(explain_delay(client, &what).await));
        }
    }
    // Slices begin and end with entries, so the result must be the time of an entry.
    newest_until(client, own).await?.with_context(|| format!("the oplog has no entry until {own}"))
}

/// Waits until `node` has every write up to `time`. Also waits for the majority, unless the connection string asks for
/// fewer members. `time` need not be the time of an entry. `session` must already know `time`, because a node refuses
/// to wait for a time that it does not know.
///
/// # Errors
/// The node or the majority does not catch up within a minute, or the node can't be read.
pub async fn wait_for(node: &Client, time: Timestamp, session: &mut ClientSession) -> Result<()> {
    let level = if majority::must_confirm(node).await? { "majority" } else { "local" };
    let wait = node.database("admin").run_command(wait_query(time, level)).session(session).await;
    let Err(error) = wait else { return Ok(()) };
    let what = format!("wait until this node has what was written up to {time}");
    Err(anyhow::Error::new(error).context(explain_delay(node, &what).await))
}

/// Builds a query that the server answers when the node has every write up to `time`. At level `majority` the majority
/// must have them, too.
fn wait_query(time: Timestamp, level: &str) -> bson::Document {
    doc! {
        "find": "system.version",
        "limit": 1,
        "readConcern": { "level": level, "afterClusterTime": time },
        "maxTimeMS": FOLLOW_MS,
    }
}

/// Describes which write did not arrive in time, and the reason if the replica set's state shows one.
async fn explain_delay(node: &Client, what: &str) -> String {
    match majority::lack(node).await {
        Some(why) => format!("{what} ({why})"),
        None => what.to_owned(),
    }
}

/// The longest time in milliseconds that a node may be behind its primary, and the majority behind the node.
const FOLLOW_MS: i32 = 60_000;

/// Returns the times of the oldest and the newest entry of this node's oplog.
pub async fn window(client: &Client) -> Result<(Timestamp, Timestamp)> {
    let oldest = find_edge(client, doc! {}, 1).await?.context("the oplog is empty")?;
    let newest = find_edge(client, doc! {}, -1).await?.context("the oplog is empty")?;
    Ok((oldest, newest))
}

/// Returns the time of the oldest entry in the oplog of the member that `criteria` selects.
pub async fn oldest_of(set: &Client, criteria: SelectionCriteria) -> Result<Timestamp> {
    let oplog = set.database("local").collection::<bson::Document>("oplog.rs");
    let find = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).projection(doc! { "ts": 1 });
    let found = find.read_concern(ReadConcern::local()).selection_criteria(criteria).await;
    let found = found.context("look for the oldest entry of the oplog")?.context("the oplog is empty")?;
    found.get_timestamp("ts").context("look for the oldest entry of the oplog")
}

/// Returns the time of the oldest entry that is newer than `time`.
pub async fn first_after(client: &Client, time: Timestamp) -> Result<Option<Timestamp>> {
    find_edge(client, doc! { "ts": { "$gt": time } }, 1).await
}

/// Returns the size in bytes of all entries of this node's oplog.
pub async fn size(client: &Client) -> Result<u64> {
    size_and_limit(client).await.map(|(size, _)| size)
}

/// Returns the size in bytes of all entries of this node's oplog, and the oplog's size limit.
pub async fn size_and_limit(client: &Client) -> Result<(u64, u64)> {
    let stats =
        client.database("local").run_command(doc! { "collStats": "oplog.rs" }).await.context("size of the oplog")?;
    let number = |name: &str| match stats.get(name)? {
        bson::Bson::Int32(n) => u64::try_from(*n).ok(),
        bson::Bson::Int64(n) => u64::try_from(*n).ok(),
        bson::Bson::Double(n) => Some(*n as u64),
        _ => None,
    };
    let size = number("size").context("collStats tells no size of the oplog")?;
    Ok((size, number("maxSize").context("collStats tells no limit of the oplog")?))
}

/// Returns the time of the newest entry that is not newer than `until`.
pub async fn newest_until(client: &Client, until: Timestamp) -> Result<Option<Timestamp>> {
    find_edge(client, doc! { "ts": { "$lte": until } }, -1).await
}

/// Returns the time of the first matching entry, read from the oldest entry on or (backwards) from the newest.
async fn find_edge(client: &Client, filter: bson::Document, direction: i32) -> Result<Option<Timestamp>> {
    let found = client
        .database("local")
        .run_command(doc! {
            "find": "oplog.rs",
            "filter": filter,
            "sort": { "$natural": direction },
            "projection": { "ts": 1 },
            "limit": 1,
            "singleBatch": true,
        })
        .await
        .context("read the oplog")?;
    let batch = found.get_document("cursor").and_then(|c| c.get_array("firstBatch")).context("read the oplog")?;
    let Some(entry) = batch.first() else { return Ok(None) };
    let entry = entry.as_document().context("the oplog gave no document")?;
    entry.get_timestamp("ts").map(Some).context("an oplog entry without ts")
}

/// Waits until the slice that begins at `next` should be stored. It is due after `span`. It is due earlier if the
/// server has begun to remove old entries and `next` is in the older half of the oplog.
///
/// # Errors
/// The oplog does not contain the entry at `next` any more, or the node can't be read.
pub async fn wait_until_due(client: &Client, next: Timestamp, span: Duration) -> Result<()> {
    let deadline = Instant::now() + span;
    let begin = find_edge(client, doc! {}, 1).await?;
    while Instant::now() < deadline {
        tokio::time::sleep_until((Instant::now() + LOOK).min(deadline)).await;
        let oldest = find_edge(client, doc! {}, 1).await?.context("the oplog is empty")?;
        if oldest > next {
            bail!(too_small(next, oldest));
        }
        let newest = find_edge(client, doc! {}, -1).await?.context("the oplog is empty")?;
        if begin != Some(oldest) && next.time - oldest.time <= newest.time.saturating_sub(next.time) {
            return Ok(());
        }
    }
    Ok(())
}

/// Time between two checks of the oplog's oldest entry.
const LOOK: Duration = Duration::from_secs(5);

fn too_small(from: Timestamp, oldest: Timestamp) -> String {
    format!(
        "oplog has insufficient range: it has no entry at {from} any more and begins at {oldest}; enlarge it \
         (replSetResizeOplog), store slices more often (backup.oplogSpanMin), or make the backup faster"
    )
}

/// A stored slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub object: String,
    pub from: Timestamp,
    pub to: Timestamp,
    /// The number of uncompressed bytes, of stored bytes and of entries.
    pub bytes: u64,
    pub stored: u64,
    pub entries: u64,
    /// CRC-64/XZ of the uncompressed bytes.
    pub crc: i64,
    /// Why nothing after the slice can be restored from a backup before it, if that is so (see [`unreadable_names`]).
    pub lost: Option<String>,
}

/// A range of the oplog that is to be stored, and the name of its object.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The object's name.
    pub object: String,
    pub compression: Compression,
    pub level: Option<i32>,
    /// The first and the last time of the range. Both belong to entries that the majority has.
    pub from: Timestamp,
    pub to: Timestamp,
    /// The collections that will be restored from it.
    pub selection: Selection,
}

/// Reads the entries from `from` to `to` of the node's oplog and stores them as one object.
///
/// # Errors
/// The oplog does not contain the whole range any more, or the node or the storage fails. Then nothing is stored.
pub async fn store(client: &Client, storage: &Arc<dyn Storage>, budget: &Budget, wanted: Wanted) -> Result<Slice> {
    let Wanted { object, compression, level, from, to, selection } = wanted;
    let what = || format!("store the oplog from {from} to {to}");
    let cursor = client
        .database("local")
        .run_cursor_command(doc! {
            "find": "oplog.rs",
            "filter": { "ts": { "$gte": from, "$lte": to } },
            "batchSize": BATCH,
            "noCursorTimeout": true,
            // Without it a default of the cluster may end the scan (`defaultMaxTimeMS`, from 8.0 on).
            "maxTimeMS": 0,
            "readConcern": { "level": "local" },
        })
        .batch_size(BATCH)
        .batch()
        .await
        .with_context(what)?;
    let counts = Arc::new(Counts::default());
    let reader = Reader {
        cursor,
        from,
        to,
        last: None,
        selection,
        reply: None,
        counts: counts.clone(),
        crc: Crc64::new(),
        budget: budget.clone(),
    };
    let body = compress::encode(reader.stream(), compression, level)?;
    let stored = storage.put(&object, body, SizeHint(None)).await.with_context(what)?;
    storage::check_stored(storage.as_ref(), &object, stored).await.with_context(what)?;
    let (bytes, entries, crc) = (counts.bytes.load(Relaxed), counts.entries.load(Relaxed), counts.crc.load(Relaxed));
    let lost = counts.lost.get().cloned();
    Ok(Slice { object, from, to, bytes, stored, entries, crc, lost })
}

/// The number of entries in one batch of the server.
const BATCH: u32 = 4000;

#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    entries: AtomicU64,
    crc: AtomicI64,
    lost: OnceLock<String>,
}

struct Reader {
    cursor: RawBatchCursor,
    from: Timestamp,
    to: Timestamp,
    last: Option<Timestamp>,
    selection: Selection,
    /// The batch whose entries are being read.
    reply: Option<Reply>,
    counts: Arc<Counts>,
    crc: Crc64,
    budget: Budget,
}

impl Reader {
    fn stream(self) -> ByteStream {
        stream::try_unfold(self, |mut reader| async move {
            loop {
                let piece = reader.piece().map_err(io::Error::other)?;
                if !piece.is_empty() {
                    reader.counts.bytes.fetch_add(piece.len() as u64, Relaxed);
                    reader.crc.update(&piece);
                    return Ok(Some((Bytes::from(piece), reader)));
                }
                if !reader.next_batch().await.map_err(io::Error::other)? {
                    reader.counts.crc.store(reader.crc.value(), Relaxed);
                    return Ok(None);
                }
            }
        })
        .boxed()
    }

    /// Returns the entries of the current batch, or nothing if the batch has no more.
    fn piece(&mut self) -> Result<Vec<u8>> {
        let mut piece = Vec::new();
        // The reply is taken out of `self`, so that entries can be borrowed from it.
        let Some(mut reply) = self.reply.take() else { return Ok(piece) };
        while piece.len() < PIECE
            && let Some(entry) = reply.next_document()?
        {
            self.add(RawDocument::from_bytes(entry)?, &mut piece)?;
        }
        self.reply = Some(reply).filter(|reply| !reply.is_empty());
        Ok(piece)
    }

    async fn next_batch(&mut self) -> Result<bool> {
        match self.cursor.next().await {
            Some(batch) => {
                let batch = batch.context("read the oplog")?;
                self.reply = Some(Reply::new(&self.budget.admit(Owner(batch)).await)?);
                Ok(true)
            }
            None if self.last == Some(self.to) => Ok(false),
            None => bail!(
                "the oplog ends at {} in place of {}: it was truncated while it was read",
                self.last.map_or_else(|| "nothing".into(), |ts| ts.to_string()),
                self.to
            ),
        }
    }

    fn add(&mut self, entry: &RawDocument, piece: &mut Vec<u8>) -> Result<()> {
        let ts = entry.get_timestamp("ts").context("an oplog entry without ts")?;
        if self.last.is_none() && ts != self.from {
            bail!(too_small(self.from, ts));
        }
        self.last = Some(ts);
        if let Err(lost) = unreadable_names::leave_out(entry, &|ns| self.selection.wants_namespace(ns)) {
            self.counts.lost.get_or_init(|| format!("{lost:#}"));
        }
        match secrets::judge(entry)? {
            Verdict::Keep => piece.extend_from_slice(entry.as_bytes()),
            Verdict::Replace(entry) => piece.extend_from_slice(entry.as_bytes()),
            Verdict::Drop if ts == self.from || ts == self.to => {
                piece.extend_from_slice(secrets::no_op(entry, ts)?.as_bytes());
            }
            Verdict::Drop => return Ok(()),
        }
        self.counts.entries.fetch_add(1, Relaxed);
        Ok(())
    }
}
