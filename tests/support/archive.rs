//! mongodump archives as docs/format.md A.7 says, made and read without the program's own code.

use bson::{Document, RawDocumentBuf, doc};

const TERM: [u8; 4] = [0xff; 4];
const MAGIC: [u8; 4] = [0x6d, 0xe2, 0x99, 0x81];

/// CRC-64/XZ, bit by bit.
pub fn crc(bytes: &[u8]) -> i64 {
    let mut crc = u64::MAX;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xC96C_5795_D787_0F42 } else { crc >> 1 };
        }
    }
    (!crc).cast_signed()
}

pub fn bytes(documents: &[Document]) -> Vec<u8> {
    documents.iter().flat_map(|document| document.to_vec().expect("bytes")).collect()
}

/// The beginning of an archive. A namespace is database, collection, type, metadata.
pub fn head(namespaces: &[(&str, &str, &str, String)]) -> Vec<u8> {
    let header =
        doc! { "concurrent_collections": 4, "version": "0.1", "server_version": "6.0.5", "tool_version": "0.0.1" };
    let mut out = [MAGIC.to_vec(), bytes(&[header])].concat();
    for (db, coll, kind, metadata) in namespaces {
        out.extend(bytes(&[doc! { "db": db, "collection": coll, "metadata": metadata, "size": 0, "type": kind }]));
    }
    out.extend(TERM);
    out
}

pub fn block(db: &str, coll: &str, documents: &[Document]) -> Vec<u8> {
    let header = doc! { "db": db, "collection": coll, "EOF": false, "CRC": 0_i64 };
    [bytes(&[header]), bytes(documents), TERM.to_vec()].concat()
}

/// The end of a namespace that had these documents.
pub fn end(db: &str, coll: &str, documents: &[Document]) -> Vec<u8> {
    let header = doc! { "db": db, "collection": coll, "EOF": true, "CRC": crc(&bytes(documents)) };
    [bytes(&[header]), TERM.to_vec()].concat()
}

/// What an archive says and holds.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    pub header: Document,
    pub entries: Vec<Document>,
    /// By `db.coll`, in the order of their ends.
    pub namespaces: Vec<(String, Vec<RawDocumentBuf>)>,
}

impl Decoded {
    pub fn of(&self, ns: &str) -> Option<&[RawDocumentBuf]> {
        self.namespaces.iter().find(|(name, _)| name == ns).map(|(_, documents)| documents.as_slice())
    }

    pub fn names(&self) -> Vec<&str> {
        self.namespaces.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// Reads an archive to its end; panics at everything that is not as it should be.
pub fn decode(archive: &[u8]) -> Decoded {
    assert_eq!(archive[..4], MAGIC);
    let mut rest = &archive[4..];
    let mut head = documents(&mut rest).into_iter().map(|raw| Document::try_from(raw).expect("a document"));
    let (header, entries) = (head.next().expect("a header"), head.collect::<Vec<_>>());
    let mut open: Vec<(String, Vec<RawDocumentBuf>)> = Vec::new();
    let mut namespaces: Vec<(String, Vec<RawDocumentBuf>)> = Vec::new();
    while !rest.is_empty() {
        let mut block = documents(&mut rest).into_iter();
        let header = Document::try_from(block.next().expect("a block's header")).expect("a document");
        let ns = format!("{}.{}", header.get_str("db").expect("db"), header.get_str("collection").expect("collection"));
        assert!(namespaces.iter().all(|(name, _)| *name != ns), "{ns} goes on after its end");
        if !open.iter().any(|(name, _)| *name == ns) {
            let is_end = header.get_bool("EOF").expect("EOF");
            assert!(ns != ".oplog" || !is_end, "mongorestore knows the oplog by a block that is not its end");
            open.push((ns.clone(), Vec::new()));
        }
        let at = open.iter().position(|(name, _)| *name == ns).expect("just made");
        open[at].1.extend(block);
        if header.get_bool("EOF").expect("EOF") {
            let (name, documents) = open.remove(at);
            let all: Vec<u8> = documents.iter().flat_map(|d| d.as_bytes().to_vec()).collect();
            assert_eq!(header.get_i64("CRC").expect("CRC"), crc(&all), "{name}");
            namespaces.push((name, documents));
        } else {
            assert_eq!(header.get_i64("CRC").expect("CRC"), 0);
        }
    }
    assert!(open.is_empty(), "{:?} have no end", open.iter().map(|(name, _)| name).collect::<Vec<_>>());
    Decoded { header, entries, namespaces }
}

/// Documents up to a terminator.
fn documents(rest: &mut &[u8]) -> Vec<RawDocumentBuf> {
    let mut found = Vec::new();
    loop {
        let word: [u8; 4] = rest[..4].try_into().expect("a length");
        if word == TERM {
            *rest = &rest[4..];
            return found;
        }
        let length = usize::try_from(i32::from_le_bytes(word)).expect("a length");
        found.push(RawDocumentBuf::from_bytes(rest[..length].to_vec()).expect("a document"));
        *rest = &rest[length..];
    }
}
