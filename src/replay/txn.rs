//! Keeps the operations of transactions until their commit is known.
//!
//! A transaction is one entry of the oplog, a chain of `applyOps` entries, or a chain followed by a commit or an abort
//! (docs/format.md E.6.5). Its operations have to be applied at the time of the commit, so they are kept until then.
//! They are held in memory up to a limit that all open transactions share, and beyond it in temporary files without a
//! name.

use std::collections::{HashMap, VecDeque};
use std::io::SeekFrom;
use std::path::Path;

use anyhow::{Context, Result};
use bson::{RawArray, RawDocumentBuf, Timestamp};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader, BufWriter};

use crate::oplog::entry::operations;

/// How many prepared commits are remembered for the other shards. A commit reaches all shards within moments, so the other
/// shards need the last ones only. The original publishes 100; a busy cluster commits more than that within moments.
const REMEMBERED: usize = 5000;

/// The operations of one transaction, in order.
#[derive(Debug)]
pub struct Open {
    /// Time of the first part that the oplog contains.
    pub first: Timestamp,
    /// Time of the newest part.
    pub last: Timestamp,
    /// Whether the oplog contains the last part, so that only the commit or abort is missing.
    pub complete: bool,
    /// Whether the chain began before the replay, so that its first operations are not known.
    pub torn: bool,
    memory: Vec<u8>,
    file: Option<BufWriter<File>>,
}

/// A prepared transaction that this shard committed. Shards whose oplog lacks the commit need this record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub id: String,
    pub at: Timestamp,
}

/// All transactions that are neither committed nor aborted yet.
#[derive(Debug)]
pub struct Transactions {
    open: HashMap<String, Open>,
    committed: VecDeque<Committed>,
    limit: usize,
}

impl Transactions {
    /// Holds at most `limit` bytes of operations in memory, plus one entry.
    pub fn new(limit: usize) -> Self {
        Self { open: HashMap::new(), committed: VecDeque::new(), limit }
    }

    /// Appends the operations of the part at `ts`. `prev` is the time of the previous part, or (0,0) for the first
    /// part.
    pub async fn append(&mut self, id: &str, ops: &RawArray, ts: Timestamp, prev: Timestamp, more: bool) -> Result<()> {
        let begins = prev.time == 0;
        let held = self.open.values().map(|open| open.memory.len()).sum::<usize>();
        if begins {
            // A session begins a new transaction only after the older one has ended. No entry ended the older one, so
            // it was aborted.
            self.open.remove(id);
        }
        let open = self.open.entry(id.to_owned()).or_insert_with(|| Open::new(ts));
        open.torn |= !begins && open.last != prev;
        open.last = ts;
        open.complete = !more;
        for op in operations(ops, ts) {
            open.memory.extend_from_slice(op?.as_bytes());
        }
        if open.file.is_some() || held + ops.as_bytes().len() > self.limit {
            open.spill().await.context("write the operations of a large transaction to a temporary file")?;
        }
        Ok(())
    }

    /// Removes and returns a transaction that was committed or aborted.
    pub fn take(&mut self, id: &str) -> Option<Open> {
        self.open.remove(id)
    }

    /// Remembers that a prepared transaction was committed.
    pub fn remember(&mut self, id: &str, at: Timestamp) {
        if self.committed.len() == REMEMBERED {
            self.committed.pop_front();
        }
        self.committed.push_back(Committed { id: id.to_owned(), at });
    }

    /// The last prepared transactions that were committed, oldest first.
    pub fn committed(&self) -> Vec<Committed> {
        self.committed.iter().cloned().collect()
    }

    /// Removes and returns the undecided transactions, with the oldest first.
    pub fn take_all(&mut self) -> Vec<(String, Open)> {
        let mut open: Vec<_> = self.open.drain().collect();
        open.sort_by_key(|(_, open)| open.first);
        open
    }
}

impl Open {
    fn new(first: Timestamp) -> Self {
        // The `prev` of the first part is compared with this time, so a chain without its beginning counts as torn.
        let last = Timestamp { time: 0, increment: 0 };
        Self { first, last, complete: false, torn: false, memory: Vec::new(), file: None }
    }

    async fn spill(&mut self) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(BufWriter::new(create_unnamed(&std::env::temp_dir()).await?)),
        };
        file.write_all(&self.memory).await?;
        self.memory = Vec::new();
        Ok(())
    }

    /// Reads the operations back, in order.
    pub async fn read(self) -> Result<Operations> {
        match self.file {
            None => Ok(Operations { memory: std::io::Cursor::new(self.memory), file: None }),
            Some(mut file) => {
                file.write_all(&self.memory).await.context("write temporary file")?;
                file.flush().await.context("write temporary file")?;
                let mut file = file.into_inner();
                file.seek(SeekFrom::Start(0)).await.context("read temporary file")?;
                Ok(Operations { memory: std::io::Cursor::default(), file: Some(BufReader::new(file)) })
            }
        }
    }
}

/// The operations of a transaction, read one by one.
#[derive(Debug)]
pub struct Operations {
    memory: std::io::Cursor<Vec<u8>>,
    file: Option<BufReader<File>>,
}

impl Operations {
    pub async fn next(&mut self) -> Result<Option<RawDocumentBuf>> {
        match &mut self.file {
            Some(file) => next_document(file).await,
            None => next_document(&mut self.memory).await,
        }
    }
}

async fn next_document(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<Option<RawDocumentBuf>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result.context("read the operations of a transaction back")?,
    };
    // The length was checked when the operation was read from the oplog.
    let mut bytes = vec![0; i32::from_le_bytes(length) as usize];
    bytes[..4].copy_from_slice(&length);
    from.read_exact(&mut bytes[4..]).await.context("read the operations of a transaction back")?;
    Ok(Some(RawDocumentBuf::from_bytes(bytes).context("read the operations of a transaction back")?))
}

/// Creates a temporary file without a name. It disappears when it is closed.
async fn create_unnamed(dir: &Path) -> Result<File> {
    let path = dir.join(format!("pbm-txn-{}", uuid::Uuid::new_v4().simple()));
    let mut options = tokio::fs::OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path).await;
    let file = file.with_context(|| format!("create temporary file {}", path.display()))?;
    tokio::fs::remove_file(&path).await.with_context(|| format!("unlink temporary file {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawArrayBuf, rawdoc};

    fn ts(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    fn ops(from: i32, to: i32) -> RawArrayBuf {
        let mut array = RawArrayBuf::new();
        for n in from..to {
            array.push(rawdoc! {"op": "i", "ns": "a.b", "o": {"_id": n}});
        }
        array
    }

    async fn ids(open: Open) -> Vec<i32> {
        let mut all = open.read().await.unwrap();
        let mut ids = Vec::new();
        while let Some(op) = all.next().await.unwrap() {
            ids.push(op.get_document("o").unwrap().get_i32("_id").unwrap());
        }
        ids
    }

    #[tokio::test]
    async fn a_chain_is_read_back_in_order_from_memory_and_from_a_file() {
        for limit in [1 << 20, 100] {
            let mut txns = Transactions::new(limit);
            txns.append("a", &ops(0, 5), ts(1), ts(0), true).await.unwrap();
            txns.append("b", &ops(100, 101), ts(2), ts(0), false).await.unwrap();
            txns.append("a", &ops(5, 9), ts(3), ts(1), false).await.unwrap();
            let a = txns.take("a").unwrap();
            assert_eq!((a.first, a.complete, a.torn, a.file.is_some()), (ts(1), true, false, limit == 100));
            assert_eq!(ids(a).await, (0..9).collect::<Vec<_>>());
            assert_eq!(ids(txns.take("b").unwrap()).await, [100]);
            assert!(txns.take("a").is_none());
        }
    }

    #[tokio::test]
    async fn a_chain_without_its_beginning_or_with_a_hole_is_torn() {
        let mut txns = Transactions::new(1 << 20);
        txns.append("a", &ops(0, 1), ts(3), ts(1), false).await.unwrap();
        txns.append("b", &ops(0, 1), ts(3), ts(0), true).await.unwrap();
        txns.append("b", &ops(0, 1), ts(5), ts(4), false).await.unwrap();
        txns.append("c", &ops(0, 1), ts(6), ts(0), true).await.unwrap();
        txns.append("c", &ops(7, 8), ts(7), ts(0), true).await.unwrap();
        assert!(txns.take("a").unwrap().torn);
        assert!(txns.take("b").unwrap().torn);
        let c = txns.take("c").unwrap();
        assert!(!c.torn && !c.complete);
        assert_eq!(ids(c).await, [7]);
    }

    #[tokio::test]
    async fn undecided_transactions_are_returned_in_the_order_of_their_beginnings() {
        let mut txns = Transactions::new(1 << 20);
        let begun: Vec<String> = (1..=20).map(|n| (n * 7 % 23).to_string()).collect();
        for (at, id) in (1..).zip(&begun) {
            txns.append(id, &ops(0, 1), ts(at), ts(0), true).await.unwrap();
        }
        let ids: Vec<String> = txns.take_all().into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, begun);
    }

    #[test]
    fn only_the_last_commits_are_remembered() {
        let mut txns = Transactions::new(1);
        for n in 0..5005 {
            txns.remember(&n.to_string(), ts(n));
        }
        let committed = txns.committed();
        assert_eq!((committed.len(), committed[0].id.as_str()), (REMEMBERED, "5"));
    }
}
