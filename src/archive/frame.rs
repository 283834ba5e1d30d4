//! Writes the parts of a mongodump archive stream (docs/format.md A.7), and cuts bytes between documents.
//!
//! ```text
//! stream := magic header entry* TERM block*      block := { db, collection, EOF, CRC } document* TERM
//! ```

use crate::archive::meta::{NamespaceKind, NamespaceMeta, collection_metadata};
use crate::archive::prelude::{Prelude, PreludeEntry};
use crate::model::names::BUCKETS;
use bson::{Bson, Document, doc};
use bytes::{Buf as _, Bytes, BytesMut};

/// The first bytes of every archive.
pub const MAGIC: [u8; 4] = [0x6d, 0xe2, 0x99, 0x81];
/// Ends the list of namespaces and every block. It stands in the place of a document's length and has the value −1.
pub const TERM: [u8; 4] = [0xff; 4];
/// The only version of the format.
pub const FORMAT: &str = "0.1";
/// The namespace of the oplog: database and collection.
pub const OPLOG: (&str, &str) = ("", "oplog");
/// The largest document in a stream: 16 MiB, and the additional space that oplog entries may use.
pub const LARGEST: usize = 16 * 1024 * 1024 + 16 * 1024;
/// The smallest document: its length and a zero byte.
pub const SMALLEST: usize = 5;

impl PreludeEntry {
    #[must_use]
    pub fn of(meta: &NamespaceMeta) -> Self {
        Self {
            db: meta.db.clone(),
            coll: meta.coll.clone(),
            metadata: collection_metadata(meta),
            kind: meta.kind.as_str().to_owned(),
        }
    }

    /// Returns the entry that announces the oplog.
    #[must_use]
    pub fn oplog() -> Self {
        Self { db: OPLOG.0.to_owned(), coll: OPLOG.1.to_owned(), ..Self::default() }
    }

    #[must_use]
    pub fn is_oplog(&self) -> bool {
        (self.db.as_str(), self.coll.as_str()) == OPLOG
    }

    /// Whether the namespace is a view. A view has no documents and need not have blocks.
    #[must_use]
    pub fn is_view(&self) -> bool {
        self.kind == NamespaceKind::View.as_str() || (self.kind.is_empty() && self.metadata.contains("\"viewOn\""))
    }

    /// Returns the collection that the blocks contain. For a time series, it is the bucket collection.
    #[must_use]
    pub fn data_collection(&self) -> String {
        match self.kind == NamespaceKind::Timeseries.as_str() {
            true => format!("{BUCKETS}{}", self.coll),
            false => self.coll.clone(),
        }
    }
}

/// Returns the beginning of a stream, up to its first block.
#[must_use]
pub fn head(prelude: &Prelude) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    push(
        &mut out,
        &doc! {
            "concurrent_collections": prelude.concurrent_collections,
            "version": FORMAT,
            "server_version": &prelude.server_version,
            "tool_version": &prelude.tool_version,
        },
    );
    for entry in &prelude.entries {
        push(
            &mut out,
            &doc! {
                "db": &entry.db, "collection": &entry.coll, "metadata": &entry.metadata, "size": 0, "type": &entry.kind,
            },
        );
    }
    out.extend_from_slice(&TERM);
    out
}

/// Returns one block of complete documents, in pieces that must be written in this order.
#[must_use]
pub fn block(db: &str, coll: &str, documents: Bytes) -> [Bytes; 3] {
    [header(db, coll, false, 0).into(), documents, Bytes::from_static(&TERM)]
}

/// Returns the block that ends a namespace. `crc` is the checksum of all its documents (A.3.2).
#[must_use]
pub fn end(db: &str, coll: &str, crc: i64) -> Bytes {
    let mut out = header(db, coll, true, crc);
    out.extend_from_slice(&TERM);
    out.into()
}

fn header(db: &str, coll: &str, eof: bool, crc: i64) -> Vec<u8> {
    let mut out = Vec::new();
    push(&mut out, &doc! { "db": db, "collection": coll, "EOF": eof, "CRC": Bson::Int64(crc) });
    out
}

fn push(out: &mut Vec<u8>, document: &Document) {
    out.extend_from_slice(&document.to_vec().expect("strings and numbers, far below 2 GiB"));
}

/// Cuts a stream of documents after complete documents.
#[derive(Debug, Default)]
pub struct Cutter {
    ahead: BytesMut,
    /// The position in `ahead` after the last complete document.
    whole: usize,
}

impl Cutter {
    /// Adds the next bytes.
    ///
    /// # Errors
    /// A length is impossible for a document.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.ahead.extend_from_slice(bytes);
        while let Some(mut rest) = self.ahead.get(self.whole..).filter(|rest| rest.len() >= 4) {
            let length = length(rest.get_i32_le())?;
            if self.whole + length > self.ahead.len() {
                break;
            }
            self.whole += length;
        }
        Ok(())
    }

    /// Returns the complete documents so far, if they have at least `least` bytes.
    pub fn take(&mut self, least: usize) -> Option<Bytes> {
        if self.whole == 0 || self.whole < least {
            return None;
        }
        Some(self.ahead.split_to(std::mem::take(&mut self.whole)).freeze())
    }

    /// Whether there are bytes of an incomplete document.
    #[must_use]
    pub fn is_within_document(&self) -> bool {
        self.ahead.len() > self.whole
    }
}

/// Checks the length field of a document.
pub(super) fn length(word: i32) -> Result<usize, String> {
    usize::try_from(word)
        .ok()
        .filter(|length| (SMALLEST..=LARGEST).contains(length))
        .ok_or_else(|| format!("a document of {word} bytes is impossible"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of an archive of the original.
    #[test]
    fn a_head_is_as_the_original_writes_it() {
        let prelude = Prelude {
            concurrent_collections: 4,
            server_version: "5.0.5-4".into(),
            tool_version: "0.0.1".into(),
            entries: vec![PreludeEntry { db: "config".into(), ..PreludeEntry::default() }],
        };
        let expected: &[u8] =
            b"\x6d\xe2\x99\x81\x66\0\0\0\x10concurrent_collections\0\x04\0\0\0\x02version\0\x04\0\0\0\
            0.1\0\x02server_version\0\x08\0\0\x005.0.5-4\0\x02tool_version\0\x06\0\0\x000.0.1\0\0";
        assert_eq!(head(&prelude)[..expected.len()], *expected);
        assert_eq!(head(&prelude)[expected.len() + 4..][..16], *b"\x02db\0\x07\0\0\0config\0\x02");
        assert!(head(&prelude).ends_with(&TERM));
    }

    #[test]
    fn documents_are_cut_whole() {
        let documents: Vec<Vec<u8>> = (0..20_i32)
            .map(|i| doc! { "i": i, "s": "x".repeat(usize::try_from(i).expect("small")) }.to_vec().expect("bytes"))
            .collect();
        let all = documents.concat();
        for step in [1, 3, 7, 100, all.len()] {
            let (mut cutter, mut out) = (Cutter::default(), Vec::new());
            for part in all.chunks(step) {
                cutter.push(part).expect("documents");
                if let Some(bytes) = cutter.take(60) {
                    assert!(bytes.len() >= 60);
                    out.extend_from_slice(&bytes);
                    assert!(
                        documents
                            .iter()
                            .scan(0, |at, d| {
                                *at += d.len();
                                Some(*at)
                            })
                            .any(|at| at == out.len())
                    );
                }
            }
            out.extend_from_slice(&cutter.take(0).unwrap_or_default());
            assert!(out == all && !cutter.is_within_document());
        }
        let mut cutter = Cutter::default();
        cutter.push(&all[..all.len() - 1]).expect("documents");
        assert!(cutter.is_within_document());
        assert!(Cutter::default().push(b"\x04\0\0\0").is_err());
    }
}
