//! Dotted paths in documents.

use bson::{Bson, Document};

/// Returns the value at a dotted path.
pub(super) fn lookup<'a>(doc: &'a Document, path: &str) -> Option<&'a Bson> {
    match path.split_once('.') {
        None => doc.get(path),
        Some((head, rest)) => lookup(doc.get(head)?.as_document()?, rest),
    }
}

/// Writes a value at a dotted path. Missing groups are created.
pub(super) fn put(doc: &mut Document, path: &str, value: Bson) {
    match path.split_once('.') {
        None => {
            doc.insert(path, value);
        }
        Some((head, rest)) => {
            if !matches!(doc.get(head), Some(Bson::Document(_))) {
                doc.insert(head, Document::new());
            }
            if let Some(Bson::Document(inner)) = doc.get_mut(head) {
                put(inner, rest, value);
            }
        }
    }
}

/// Removes the value at a dotted path.
pub(super) fn remove(doc: &mut Document, path: &str) {
    match path.split_once('.') {
        None => {
            doc.remove(path);
        }
        Some((head, rest)) => {
            if let Some(Bson::Document(inner)) = doc.get_mut(head) {
                remove(inner, rest);
            }
        }
    }
}
