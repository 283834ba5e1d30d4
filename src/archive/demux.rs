//! Reads a mongodump archive stream strictly and in one pass (docs/format.md A.7).
//!
//! The namespaces of an archive are interleaved in blocks. [`Archive::next`] returns their bytes as they arrive and
//! keeps only the current chunk. Every irregularity is an error with its position: bytes that are not a document,
//! namespaces that were not announced or continue after their end, a wrong checksum, and an end of the stream before
//! every announced namespace has ended. So a stream that was read to [`None`] was complete.

use super::{
    crc::Crc64,
    frame::{FORMAT, MAGIC, TERM, length},
    prelude::{Prelude, PreludeEntry},
};
use crate::{raw, storage::ByteStream};
use bson::{Document, RawDocument};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::TryStreamExt as _;
use std::{collections::HashMap, io};

/// The most memory for a list of namespaces. It is enough for some hundred thousand of them.
const LONGEST_PRELUDE: u64 = 512 << 20;
/// The memory for an entry of the list in addition to its bytes: a compressed archive can announce millions of very
/// short names.
const ENTRY: u64 = 512;

fn is_too_long(bytes: u64, entries: usize) -> bool {
    bytes.saturating_add(ENTRY.saturating_mul(entries as u64)) > LONGEST_PRELUDE
}

/// Why an archive can't be read. Positions count bytes of the uncompressed stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the archive can't be read on from its byte {at}")]
    Read { at: u64, source: io::Error },
    #[error("the archive is damaged at its byte {at}{}: {reason}", within(.ns))]
    Damaged { at: u64, ns: Option<String>, reason: String },
}

fn within(ns: &Option<String>) -> String {
    ns.as_ref().map(|ns| format!(", in '{ns}'")).unwrap_or_default()
}

/// The next piece of an archive. `ns` is a position in [`Archive::names`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of documents. They continue the last piece of this namespace, possibly within a document.
    Part { ns: usize, bytes: Bytes },
    /// A block has ended after a complete document. The next piece may belong to another namespace.
    BlockEnd { ns: usize },
    /// The namespace was complete and had the right checksum.
    End { ns: usize, size: u64, crc: i64 },
}

/// An archive that is being read.
pub struct Archive {
    prelude: Prelude,
    names: Vec<(String, String)>,
    by_name: HashMap<(String, String), usize>,
    progress: Vec<Progress>,
    source: Source,
    state: State,
}

#[derive(Clone, Default)]
struct Progress {
    crc: Crc64,
    size: u64,
    ended: bool,
    /// Whether the namespace may have no blocks at all, like a view.
    optional: bool,
}

#[derive(Clone, Copy)]
enum State {
    /// A block's header or the end of the stream comes next.
    Header,
    /// The position is inside a block. This is the number of missing bytes of the current document.
    Body {
        ns: usize,
        rest: usize,
    },
    Finished,
}

impl Archive {
    /// Reads the archive up to its first block.
    ///
    /// # Errors
    /// The stream fails, or does not begin like an archive.
    pub async fn open(stream: ByteStream) -> Result<Self, Error> {
        let mut source = Source { stream, ahead: BytesMut::new(), at: 0, ended: false };
        if !source.fill(MAGIC.len()).await? || source.ahead[..MAGIC.len()] != MAGIC {
            return Err(source.damaged(None, "it does not begin as a mongodump archive does"));
        }
        source.consume(MAGIC.len());
        let mut prelude = match source.document(None).await? {
            Some(header) => read_header(&header).map_err(|reason| source.damaged(None, reason))?,
            None => return Err(source.damaged(None, "it has no header")),
        };
        while let Some(entry) = source.document(None).await? {
            prelude.entries.push(read_entry(&entry).map_err(|reason| source.damaged(None, reason))?);
            if is_too_long(source.at, prelude.entries.len()) {
                return Err(source.damaged(None, "its list of namespaces takes more than 512 MiB of memory"));
            }
        }
        let mut archive = Self {
            names: Vec::new(),
            by_name: HashMap::new(),
            progress: Vec::new(),
            source,
            state: State::Header,
            prelude: Prelude::default(),
        };
        for entry in &prelude.entries {
            let name = (entry.db.clone(), entry.data_collection());
            // Old tools also list the buckets of a time series.
            if let Some(&known) = archive.by_name.get(&name) {
                archive.progress[known].optional &= entry.is_view();
                continue;
            }
            archive.by_name.insert(name.clone(), archive.names.len());
            archive.names.push(name);
            archive.progress.push(Progress { optional: entry.is_view(), ..Progress::default() });
        }
        archive.prelude = prelude;
        Ok(archive)
    }

    #[must_use]
    pub fn prelude(&self) -> &Prelude {
        &self.prelude
    }

    /// Returns the database and collection of every namespace that may have blocks. For a time series, the collection
    /// is that of its buckets.
    #[must_use]
    pub fn names(&self) -> &[(String, String)] {
        &self.names
    }

    /// Returns `db.coll`.
    #[must_use]
    pub fn ns(&self, ns: usize) -> String {
        let (db, coll) = &self.names[ns];
        format!("{db}.{coll}")
    }

    /// Returns the next piece, or `None` after the whole archive was read and correct. Must not be called again after
    /// an error.
    ///
    /// # Errors
    /// The stream fails or is not valid.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        match self.state {
            State::Finished => Ok(None),
            State::Header => self.next_block().await,
            State::Body { ns, rest } => self.next_part(ns, rest).await.map(Some),
        }
    }

    async fn next_block(&mut self) -> Result<Option<Frame>, Error> {
        if !self.source.fill(1).await? {
            self.check_end()?;
            self.state = State::Finished;
            return Ok(None);
        }
        let header = match self.source.document(None).await? {
            Some(header) => read_block_header(&header).map_err(|reason| self.source.damaged(None, reason))?,
            None => return Err(self.source.damaged(None, "a block has no header")),
        };
        let (name, end) = header;
        let ns = format!("{}.{}", name.0, name.1);
        let Some(&id) = self.by_name.get(&name) else {
            return Err(self.source.damaged(Some(ns), "its list of namespaces does not have this one"));
        };
        if self.progress[id].ended {
            return Err(self.source.damaged(Some(ns), "the namespace goes on after its end"));
        }
        let Some(crc) = end else {
            self.state = State::Body { ns: id, rest: 0 };
            return self.next_part(id, 0).await.map(Some);
        };
        if self.source.document(Some(&ns)).await?.is_some() {
            return Err(self.source.damaged(Some(ns), "there are documents in the block that ends the namespace"));
        }
        let progress = &mut self.progress[id];
        let found = progress.crc.value();
        if found != crc {
            return Err(self.source.damaged(Some(ns), format!("its checksum is {found} in place of {crc}")));
        }
        progress.ended = true;
        Ok(Some(Frame::End { ns: id, size: progress.size, crc }))
    }

    /// Returns the available bytes of the block's documents, at least one, or the end of the block.
    async fn next_part(&mut self, ns: usize, mut rest: usize) -> Result<Frame, Error> {
        let needed = if rest > 0 { 1 } else { 4 };
        if !self.source.fill(needed).await? {
            return Err(self.source.damaged(Some(self.ns(ns)), "it ends within a block"));
        }
        if rest == 0 && self.source.ahead[..4] == TERM {
            self.source.consume(4);
            self.state = State::Header;
            return Ok(Frame::BlockEnd { ns });
        }
        let ahead = &self.source.ahead;
        let mut end = rest.min(ahead.len());
        rest -= end;
        while rest == 0 && ahead.len() - end >= 4 && ahead[end..end + 4] != TERM {
            let length = length((&ahead[end..]).get_i32_le()).map_err(|reason| Error::Damaged {
                at: self.source.at + end as u64,
                ns: Some(self.ns(ns)),
                reason,
            })?;
            let there = length.min(ahead.len() - end);
            end += there;
            rest = length - there;
        }
        let bytes = self.source.consume(end);
        let progress = &mut self.progress[ns];
        progress.crc.update(&bytes);
        progress.size += bytes.len() as u64;
        self.state = State::Body { ns, rest };
        Ok(Frame::Part { ns, bytes })
    }

    fn check_end(&self) -> Result<(), Error> {
        let open: Vec<String> = (0..self.names.len())
            .filter(|&ns| {
                let progress = &self.progress[ns];
                !progress.ended && (!progress.optional || progress.size > 0)
            })
            .map(|ns| self.ns(ns))
            .collect();
        match open.as_slice() {
            [] => Ok(()),
            [first, others @ ..] => {
                let more = if others.is_empty() { String::new() } else { format!(" and of {} others", others.len()) };
                Err(self.source.damaged(None, format!("it ends before the end of '{first}'{more}")))
            }
        }
    }
}

/// The stream, with the bytes that were read ahead.
struct Source {
    stream: ByteStream,
    ahead: BytesMut,
    /// The position of the first byte of `ahead`.
    at: u64,
    ended: bool,
}

impl Source {
    /// Reads until at least `least` bytes are available. Returns false if the stream ends before.
    async fn fill(&mut self, least: usize) -> Result<bool, Error> {
        while self.ahead.len() < least && !self.ended {
            let at = self.at + self.ahead.len() as u64;
            match self.stream.try_next().await.map_err(|source| Error::Read { at, source })? {
                Some(chunk) => self.ahead.extend_from_slice(&chunk),
                None => self.ended = true,
            }
        }
        Ok(self.ahead.len() >= least)
    }

    fn consume(&mut self, bytes: usize) -> Bytes {
        self.at += bytes as u64;
        self.ahead.split_to(bytes).freeze()
    }

    /// Returns the next document, or `None` at a terminator.
    async fn document(&mut self, ns: Option<&str>) -> Result<Option<Document>, Error> {
        let cut = |source: &Self| source.damaged(ns.map(str::to_owned), "it ends where a document should be");
        if !self.fill(4).await? {
            return Err(cut(self));
        }
        if self.ahead[..4] == TERM {
            self.consume(4);
            return Ok(None);
        }
        let length = length((&self.ahead[..]).get_i32_le()).map_err(|e| self.damaged(ns.map(str::to_owned), e))?;
        if !self.fill(length).await? {
            return Err(cut(self));
        }
        let document = RawDocument::from_bytes(&self.ahead[..length]).map_err(|e| e.to_string());
        // The library does not limit nested documents, and aborts the program when the stack is full.
        let document = document.and_then(|raw| raw::check(raw).map(|()| raw).map_err(|e| e.to_string()));
        let document = document.and_then(|raw| Document::try_from(raw).map_err(|e| e.to_string()));
        let document = document.map_err(|e| self.damaged(ns.map(str::to_owned), e))?;
        self.consume(length);
        Ok(Some(document))
    }

    fn damaged(&self, ns: Option<String>, reason: impl Into<String>) -> Error {
        Error::Damaged { at: self.at, ns, reason: reason.into() }
    }
}

fn text(document: &Document, key: &str) -> Result<String, String> {
    document.get_str(key).map(str::to_owned).map_err(|_| format!("there is no '{key}' in {document}"))
}

fn read_header(header: &Document) -> Result<Prelude, String> {
    let version = text(header, "version")?;
    if version != FORMAT {
        return Err(format!("its format version is '{version}', only '{FORMAT}' is known"));
    }
    Ok(Prelude {
        concurrent_collections: header.get_i32("concurrent_collections").unwrap_or_default(),
        server_version: header.get_str("server_version").unwrap_or_default().to_owned(),
        tool_version: header.get_str("tool_version").unwrap_or_default().to_owned(),
        entries: Vec::new(),
    })
}

fn read_entry(entry: &Document) -> Result<PreludeEntry, String> {
    Ok(PreludeEntry {
        db: text(entry, "db")?,
        coll: text(entry, "collection")?,
        metadata: entry.get_str("metadata").unwrap_or_default().to_owned(),
        kind: entry.get_str("type").unwrap_or_default().to_owned(),
    })
}

/// The namespace and, in the block that ends it, the checksum.
type BlockHeader = ((String, String), Option<i64>);

fn read_block_header(header: &Document) -> Result<BlockHeader, String> {
    let name = (text(header, "db")?, text(header, "collection")?);
    let end = header.get_bool("EOF").map_err(|_| format!("there is no 'EOF' in {header}"))?;
    let crc = header.get_i64("CRC").or_else(|_| header.get_i32("CRC").map(i64::from));
    let crc = crc.map_err(|_| format!("there is no 'CRC' in {header}"))?;
    Ok((name, end.then_some(crc)))
}

#[cfg(test)]
mod tests;
