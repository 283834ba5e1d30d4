//! Builds `insert` commands directly from the bytes of a backup. A document is copied once and never decoded.

use crate::raw::{self, Writer};
use bson::{RawDocument, RawDocumentBuf, doc, raw::RawBsonRef, rawdoc};

/// The largest document that a server stores or returns: 16 MiB, and the additional space that its own commands need.
pub const MAX_DOCUMENT: usize = 16 * 1024 * 1024 + 16 * 1024;
/// The smallest BSON document: its length and a zero byte.
pub const MIN_DOCUMENT: usize = 5;
/// The most documents that a server accepts in one command.
pub const MAX_DOCUMENTS: usize = 100_000;

/// The collection of a batch, and how documents are inserted there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsertInto {
    pub db: String,
    pub coll: String,
    /// Whether the order of the documents must be kept, as in capped collections. Then the inserts are sent one after
    /// the other.
    pub ordered: bool,
    /// False for buckets of time series, because the server requires that their validator runs.
    pub bypass_validation: bool,
}

/// The fields of a document that the server replaces by its own time.
#[derive(Debug, Clone, PartialEq)]
pub struct ZeroTimestamps {
    /// A document with only the `_id` of the document.
    pub id: RawDocumentBuf,
    /// The names of the fields, which can contain any bytes.
    pub fields: Vec<Vec<u8>>,
}

/// An `insert` command under construction.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Position of the length of the `documents` array.
    array_at: usize,
    /// Position of the document that is being written.
    document_at: usize,
    documents: usize,
    document_bytes: usize,
    /// The number of the first document within its object.
    pub first: u64,
    zeros: Vec<ZeroTimestamps>,
}

/// A finished `insert` command.
#[derive(Debug)]
pub struct Insert {
    pub command: RawDocumentBuf,
    pub documents: usize,
    /// The size of the documents without the rest of the command.
    pub bytes: usize,
    pub first: u64,
    /// Top-level fields with `Timestamp(0, 0)`. The server replaces these values by its own time when it inserts the
    /// documents, so they are restored afterwards.
    pub zeros: Vec<ZeroTimestamps>,
}

impl Batch {
    /// Creates an empty batch with space for `capacity` bytes of documents. With `majority`, the server answers only
    /// after a majority of the members has the batch.
    #[must_use]
    pub fn new(into: &InsertInto, majority: bool, first: u64, capacity: usize) -> Self {
        let concern = if majority {
            doc! { "w": "majority" }
        } else {
            doc! { "w": 1 }
        };
        let mut head = doc! { "insert": &into.coll, "ordered": false };
        if into.bypass_validation {
            head.insert("bypassDocumentValidation", true);
        }
        head.insert("writeConcern", concern);
        let mut bytes = Vec::with_capacity(capacity + capacity / 16 + 1024);
        bytes.extend_from_slice(&head.to_vec().expect("a document of strings and booleans"));
        bytes.pop();
        bytes.extend_from_slice(b"\x04documents\0");
        let array_at = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        Self { bytes, array_at, document_at: 0, documents: 0, document_bytes: 0, first, zeros: Vec::new() }
    }

    #[must_use]
    pub fn documents(&self) -> usize {
        self.documents
    }

    /// Returns the number of bytes used so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.documents == 0
    }

    /// Begins the next document. Its bytes follow through [`Batch::extend`].
    pub fn begin(&mut self) {
        self.bytes.push(0x03);
        push_decimal(&mut self.bytes, self.documents);
        self.bytes.push(0);
        self.document_at = self.bytes.len();
    }

    /// Adds the next bytes of the current document.
    pub fn extend(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    /// Ends the current document. It is an error if its bytes are not a valid document.
    pub fn end(&mut self) -> Result<(), String> {
        let document = RawDocument::from_bytes(&self.bytes[self.document_at..]).map_err(|e| e.to_string())?;
        if let Some(zero) = zero_timestamps(document)? {
            self.zeros.push(zero);
        }
        self.documents += 1;
        self.document_bytes += self.bytes.len() - self.document_at;
        Ok(())
    }

    /// Returns the finished command.
    #[must_use]
    pub fn finish(mut self) -> Insert {
        self.bytes.push(0);
        let array = i32::try_from(self.bytes.len() - self.array_at).expect("bounded by MAX_DOCUMENT");
        self.bytes[self.array_at..self.array_at + 4].copy_from_slice(&array.to_le_bytes());
        self.bytes.push(0);
        let all = i32::try_from(self.bytes.len()).expect("bounded by MAX_DOCUMENT");
        self.bytes[..4].copy_from_slice(&all.to_le_bytes());
        let command = RawDocumentBuf::from_bytes(self.bytes).expect("length and end were just written");
        Insert { command, documents: self.documents, bytes: self.document_bytes, first: self.first, zeros: self.zeros }
    }
}

impl Insert {
    /// Returns a batch with only the documents at these positions.
    pub fn only(&self, into: &InsertInto, positions: &[usize]) -> Result<Self, String> {
        let documents = self.command.get_array("documents").map_err(|e| e.to_string())?;
        let mut batch = Batch::new(into, false, self.first, self.command.as_bytes().len());
        for (position, document) in documents.into_iter().enumerate() {
            if let (true, RawBsonRef::Document(document)) =
                (positions.contains(&position), document.map_err(|e| e.to_string())?)
            {
                batch.begin();
                batch.extend(document.as_bytes());
                batch.end()?;
            }
        }
        Ok(batch.finish())
    }
}

/// Returns the oplog entry that restores zero timestamps. An update of this form treats field names literally and keeps
/// zeros.
#[must_use]
pub fn put_back(ns: &str, zero: &ZeroTimestamps) -> RawDocumentBuf {
    let mut fields = Writer::new();
    for name in &zero.fields {
        fields.value(raw::kind::TIMESTAMP, name, &ZERO);
    }
    let change = rawdoc! { "$v": 2, "diff": { "u": fields.finish() } };
    rawdoc! { "op": "u", "ns": ns, "o2": zero.id.clone(), "o": change }
}

/// The bytes of `Timestamp(0, 0)` in a document.
const ZERO: [u8; 8] = [0; 8];

/// Returns the top-level fields with `Timestamp(0, 0)`, except `_id`, which the server does not change.
fn zero_timestamps(document: &RawDocument) -> Result<Option<ZeroTimestamps>, String> {
    let mut fields = Vec::new();
    for field in raw::fields(document) {
        let field = field?;
        if field.kind == raw::kind::TIMESTAMP && field.value == ZERO && field.name != b"_id" {
            fields.push(field.name.to_owned());
        }
    }
    if fields.is_empty() {
        return Ok(None);
    }
    let id = raw::find(document, "_id").ok_or("a document without _id")?;
    Ok(Some(ZeroTimestamps { id: id.alone("_id"), fields }))
}

fn push_decimal(bytes: &mut Vec<u8>, number: usize) {
    let mut digits = [0_u8; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).expect("one digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    bytes.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Bson, Document, Timestamp};

    fn into() -> InsertInto {
        InsertInto { db: "shop".into(), coll: "orders".into(), ordered: false, bypass_validation: true }
    }

    fn add(batch: &mut Batch, document: &Document) {
        let bytes = document.to_vec().expect("bytes");
        batch.begin();
        batch.extend(&bytes[..3]);
        batch.extend(&bytes[3..]);
        batch.end().expect("a document");
    }

    #[test]
    fn the_command_is_what_the_driver_would_send() {
        let mut batch = Batch::new(&into(), true, 7, 100);
        let documents: Vec<Document> = (0..123).map(|i| doc! { "_id": i, "s": "x".repeat(i as usize) }).collect();
        for document in &documents {
            add(&mut batch, document);
        }
        let insert = batch.finish();
        let bytes: usize = documents.iter().map(|d| d.to_vec().expect("bytes").len()).sum();
        assert_eq!((insert.documents, insert.bytes, insert.first, insert.zeros.len()), (123, bytes, 7, 0));
        assert_eq!(
            Document::try_from(insert.command.clone()).expect("valid"),
            doc! {
                "insert": "orders", "ordered": false, "bypassDocumentValidation": true,
                "writeConcern": { "w": "majority" }, "documents": documents.clone(),
            }
        );
        let keys: Vec<_> = insert.command.get_array("documents").expect("an array").as_bytes().to_vec();
        let same = doc! { "documents": documents.clone() }.to_vec().expect("bytes");
        assert_eq!(keys, same[15..same.len() - 1], "array keys are 0, 1, 2 …");

        let some = insert.only(&into(), &[1, 5]).expect("a batch");
        assert_eq!(
            Document::try_from(some.command).expect("valid").get_array("documents").expect("an array").as_slice(),
            [Bson::from(documents[1].clone()), Bson::from(documents[5].clone())]
        );
    }

    #[test]
    fn zero_timestamps_are_noticed_at_the_top_only() {
        let zero = Timestamp { time: 0, increment: 0 };
        let mut batch = Batch::new(&into(), false, 0, 100);
        add(&mut batch, &doc! { "_id": 1, "a": { "t": zero }, "t": Timestamp { time: 1, increment: 0 } });
        add(&mut batch, &doc! { "_id": 2, "x.y": zero, "b": 1, "$c": zero });
        add(&mut batch, &doc! { "_id": zero, "b": 1 });
        let zeros = batch.finish().zeros;
        assert_eq!(zeros, [ZeroTimestamps { id: rawdoc! { "_id": 2 }, fields: vec![b"x.y".to_vec(), b"$c".to_vec()] }]);
        assert_eq!(
            put_back("shop.orders", &zeros[0]),
            rawdoc! {
                "op": "u", "ns": "shop.orders", "o2": { "_id": 2 },
                "o": { "$v": 2, "diff": { "u": { "x.y": zero, "$c": zero } } },
            }
        );
    }

    #[test]
    fn what_is_in_a_document_does_not_matter() {
        let strange = crate::raw::tests::strange();
        let zero = crate::raw::tests::made(&[
            (0x10, b"\xff", &[1, 0, 0, 0]),
            (0x11, b"\xfe", &ZERO),
            (0x07, b"_id", &[1; 12]),
        ]);
        let mut batch = Batch::new(&into(), false, 0, 100);
        for document in [&strange, &zero] {
            batch.begin();
            batch.extend(document.as_bytes());
            batch.end().expect("a document");
        }
        let insert = batch.finish();
        assert_eq!(insert.zeros.len(), 1);
        let put_back = put_back("a.b", &insert.zeros[0]);
        assert!(put_back.as_bytes().windows(12).any(|bytes| bytes == b"\x11\xfe\0\0\0\0\0\0\0\0\0\0"));
        assert_eq!(insert.only(&into(), &[0]).expect("a batch").bytes, strange.as_bytes().len());
    }

    #[test]
    fn bytes_that_are_no_document_are_noticed() {
        for bytes in [&b"\x06\0\0\0\0"[..], b"\x05\0\0\0\x01", b"\x08\0\0\0\x10a\0\0"] {
            let mut batch = Batch::new(&into(), false, 0, 100);
            batch.begin();
            batch.extend(bytes);
            assert!(batch.end().is_err(), "{bytes:?}");
        }
    }
}
