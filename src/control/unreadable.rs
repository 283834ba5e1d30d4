//! Handles documents in the control collections that can't be decoded. Other releases and users of shells write there,
//! too, and one bad document must not hide the others. Each such document is left out and reported once.

use crate::mongo::admin;
use bson::{Bson, Document, RawDocument};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// The unreadable documents found so far. Copies share this list.
#[derive(Debug, Clone, Default)]
pub struct Unreadable {
    named: Arc<Mutex<BTreeSet<String>>>,
}

impl Unreadable {
    /// Decodes the document. If that fails, logs a line and returns `None`.
    pub(super) fn read<T: DeserializeOwned>(&self, coll: &str, document: Document) -> Option<T> {
        let name = name(&document);
        match bson::deserialize_from_document(document) {
            Ok(value) => Some(value),
            Err(error) => {
                self.tell(coll, &name, &admin::explain(&error.into()));
                None
            }
        }
    }

    /// Does the same as [`Self::read`], for collections with many documents.
    pub(super) fn read_raw<T: DeserializeOwned>(&self, coll: &str, document: &RawDocument) -> Option<T> {
        match bson::deserialize_from_slice(document.as_bytes()) {
            Ok(value) => Some(value),
            Err(error) => {
                let name = Document::try_from(document).map_or_else(|_| "a document".to_owned(), |it| name(&it));
                self.tell(coll, &name, &error.to_string());
                None
            }
        }
    }

    /// Returns the documents that can be decoded, in their order.
    pub(super) fn sort_out<T: DeserializeOwned>(&self, coll: &str, documents: Vec<Document>) -> Vec<T> {
        documents.into_iter().filter_map(|document| self.read(coll, document)).collect()
    }

    fn tell(&self, coll: &str, name: &str, reason: &str) {
        let text = format!("{name} in admin.{coll} can't be read and is left out: {reason}");
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.insert(text.clone()) {
            tracing::warn!("{text}");
        }
    }

    /// Returns a sentence for each document that was left out.
    #[must_use]
    pub fn named(&self) -> Vec<String> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Returns the name under which users know the document.
fn name(document: &Document) -> String {
    let text = |key: &str| document.get_str(key).ok().filter(|text| !text.is_empty());
    match (text("name").or(text("fname")), text("rs"), text("n")) {
        (Some(name), ..) => name.to_owned(),
        (None, Some(rs), Some(node)) => format!("the line of {rs}/{node}"),
        _ => format!("the document with _id {}", document.get("_id").unwrap_or(&Bson::Null)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{agent::AgentStat, chunk::Chunk};
    use bson::{Timestamp, doc};

    #[test]
    fn one_document_does_not_hide_the_others() {
        let unreadable = Unreadable::default();
        let at = Timestamp { time: 5, increment: 1 };
        let chunk = |name: &str, codec: &str| doc! { "rs": "rs0", "fname": name, "compression": codec, "start_ts": at, "end_ts": at };
        for _ in 0..2 {
            let found = vec![chunk("a", "s2"), chunk("b", "zip"), doc! { "_id": 7 }, chunk("c", "gzip")];
            let read: Vec<Chunk> = unreadable.sort_out("pbmPITRChunks", found);
            assert_eq!(read.iter().map(|it| it.fname.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        }
        let raw = bson::RawDocumentBuf::try_from(&chunk("b", "zip")).expect("bytes");
        assert_eq!(unreadable.read_raw::<Chunk>("pbmPITRChunks", &raw), None);
        assert_eq!(unreadable.read::<AgentStat>("pbmAgents", doc! { "rs": "rs0", "n": "h:1", "s": "up" }), None);
        let named = unreadable.named();
        assert_eq!(named.len(), 3, "each once: {named:?}");
        for part in ["b in admin.pbmPITRChunks", "_id 7", "the line of rs0/h:1 in admin.pbmAgents"] {
            assert!(named.iter().any(|text| text.contains(part)), "{part}: {named:?}");
        }
    }
}
