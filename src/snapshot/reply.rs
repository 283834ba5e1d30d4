//! Extracts the documents from a server's batch, without decoding and with at most one copy.
//!
//! A batch is a BSON array inside the reply, so array keys lie between its documents. Small documents are copied next
//! to each other. Large ones are slices of the reply itself.

use bytes::Bytes;
use mongodb::raw_batch_cursor::RawBatch;
use std::{io, ops::Range};

/// Documents of at least this size are not copied.
const LARGE: usize = 64 * 1024;
/// Pieces made of small documents have about this size; a piece of one large document is at most this size.
pub const PIECE: usize = 512 * 1024;

/// Owns the bytes of a batch, for [`Bytes::from_owner`].
pub struct Owner(pub RawBatch);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.0.as_raw_document().as_bytes()
    }
}

/// The documents of one reply that have not been taken yet.
#[derive(Debug, Default)]
pub struct Reply {
    /// The elements of the array, and how many of their bytes were taken.
    elements: Bytes,
    taken: usize,
    /// The remaining bytes of a large document.
    large: Bytes,
}

/// Bytes of documents in their order. `docs` is the number of documents that begin in them.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    pub bytes: Bytes,
    pub docs: u64,
}

impl Reply {
    /// `reply` is the server's whole answer to a `find` or `getMore`.
    ///
    /// # Errors
    /// The bytes are not such an answer.
    pub fn new(reply: &Bytes) -> io::Result<Self> {
        let root = bson::RawDocument::from_bytes(reply).map_err(io::Error::other)?;
        let cursor = root.get_document("cursor").map_err(io::Error::other)?;
        let batch = match cursor.get_array("nextBatch") {
            Ok(batch) => batch,
            Err(_) => cursor.get_array("firstBatch").map_err(io::Error::other)?,
        };
        // An array is its length, the elements and a zero byte.
        let array = reply.slice_ref(batch.as_bytes());
        Ok(Self { elements: array.slice(4..array.len() - 1), taken: 0, large: Bytes::new() })
    }

    /// Whether every document was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken == self.elements.len() && self.large.is_empty()
    }

    /// Returns the next document.
    ///
    /// # Errors
    /// The batch contains something other than documents.
    pub fn next_document(&mut self) -> io::Result<Option<&[u8]>> {
        let Some(document) = self.peek()? else { return Ok(None) };
        self.taken = document.end;
        Ok(Some(&self.elements[document]))
    }

    /// Returns the next piece, or `None` at the end.
    ///
    /// # Errors
    /// The batch contains something other than documents.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        if !self.large.is_empty() {
            let bytes = self.large.split_to(self.large.len().min(PIECE));
            return Ok(Some(Piece { bytes, docs: 0 }));
        }
        let mut gathered = Vec::new();
        let mut docs = 0;
        while let Some(document) = self.peek()? {
            let size = document.len();
            if size >= LARGE && docs == 0 {
                self.taken = document.end;
                let mut bytes = self.elements.slice(document);
                self.large = bytes.split_off(size.min(PIECE));
                return Ok(Some(Piece { bytes, docs: 1 }));
            }
            if size >= LARGE || gathered.len() + size > PIECE {
                break;
            }
            if docs == 0 {
                gathered.reserve_exact((self.elements.len() - self.taken).min(PIECE));
            }
            self.taken = document.end;
            gathered.extend_from_slice(&self.elements[document]);
            docs += 1;
        }
        Ok((docs > 0).then(|| Piece { bytes: gathered.into(), docs }))
    }

    /// Returns the position of the next document. An element consists of a type, a key that ends with a zero byte, and
    /// the document.
    fn peek(&self) -> io::Result<Option<Range<usize>>> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "the server's batch holds no well-formed documents");
        let rest = &self.elements[self.taken..];
        match rest.first() {
            None => return Ok(None),
            Some(0x03) => {}
            Some(_) => return Err(broken()),
        }
        let start = rest.iter().position(|b| *b == 0).ok_or_else(broken)? + 1;
        let length = rest.get(start..start + 4).ok_or_else(broken)?;
        let length = i32::from_le_bytes(length.try_into().map_err(|_| broken())?);
        let end = start + usize::try_from(length).map_err(|_| broken())?;
        if length < 5 || end > rest.len() {
            return Err(broken());
        }
        Ok(Some(self.taken + start..self.taken + end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Document, doc};

    fn reply(name: &str, documents: &[Document]) -> Reply {
        let answer = doc! { "cursor": { "id": 1_i64, "ns": "a.b", name: documents }, "ok": 1 };
        Reply::new(&bson::serialize_to_vec(&answer).expect("encode").into()).expect("a reply")
    }

    fn joined(documents: &[Document]) -> Vec<u8> {
        documents.iter().flat_map(|d| bson::serialize_to_vec(d).expect("encode")).collect()
    }

    #[test]
    fn pieces_joined_are_the_documents() {
        let sizes = [0, 10, 70_000, 5, 600_000, 2_000_000, 1, 1, 65_000, 300_000];
        let mut documents: Vec<Document> = sizes.iter().map(|n| doc! { "s": "x".repeat(*n) }).collect();
        documents.extend((0..5000).map(|i| doc! { "_id": i, "s": "x".repeat(300) }));
        for name in ["firstBatch", "nextBatch"] {
            let mut reply = reply(name, &documents);
            let (mut bytes, mut docs) = (Vec::new(), 0);
            while let Some(piece) = reply.next_piece().expect("a piece") {
                assert!(!piece.bytes.is_empty() && piece.bytes.len() <= PIECE);
                bytes.extend_from_slice(&piece.bytes);
                docs += piece.docs;
            }
            assert!(reply.is_empty());
            assert_eq!((bytes, docs), (joined(&documents), documents.len() as u64));
        }
    }

    #[test]
    fn documents_come_one_by_one() {
        let documents = [doc! { "a": 1 }, doc! {}, doc! { "b": "x".repeat(100_000) }];
        let mut reply = reply("firstBatch", &documents);
        let mut bytes = Vec::new();
        while let Some(document) = reply.next_document().expect("a document") {
            bytes.extend_from_slice(document);
        }
        assert_eq!(bytes, joined(&documents));
        assert!(self::reply("nextBatch", &[]).is_empty());
    }

    #[test]
    fn answers_without_a_batch_are_refused() {
        let answer =
            |cursor: Document| Bytes::from(bson::serialize_to_vec(&doc! { "cursor": cursor }).expect("encode"));
        assert!(Reply::new(&answer(doc! { "id": 1 })).is_err());
        let mut numbers = Reply::new(&answer(doc! { "firstBatch": [1, 2] })).expect("an array");
        assert!(numbers.next_piece().is_err());
        let mut cut = reply("firstBatch", &[doc! { "a": 1 }]);
        cut.elements.truncate(cut.elements.len() - 1);
        assert!(cut.next_document().is_err());
    }
}
