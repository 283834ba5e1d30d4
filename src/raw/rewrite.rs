//! Replaces some fields of a document and keeps all others as they are.

use super::{Field, Malformed, fields, kind};
use bson::{RawDocument, RawDocumentBuf, Uuid};

/// What becomes of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum New {
    Same,
    Text(String),
    Uuid(Uuid),
    /// Another nested document or array. The type of the field stays the same.
    Nested(RawDocumentBuf),
    Gone,
}

/// Returns the document with every field replaced by the result of `change`. Elements of an array keep their names unless one
/// is removed.
///
/// # Errors
/// The bytes are not a valid document, or `change` fails.
pub fn rewrite<E: From<Malformed>>(
    document: &RawDocument,
    mut change: impl FnMut(&Field<'_>) -> Result<New, E>,
) -> Result<RawDocumentBuf, E> {
    let mut writer = Writer::new();
    for field in fields(document) {
        let field = field?;
        match change(&field)? {
            New::Same => writer.copy(&field),
            New::Text(text) => writer.text(field.name, text.as_bytes()),
            New::Uuid(uuid) => writer.uuid(field.name, uuid),
            New::Nested(nested) => writer.value(field.kind, field.name, nested.as_bytes()),
            New::Gone => {}
        }
    }
    Ok(writer.finish())
}

/// A document being written.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: vec![0; 4] }
    }

    /// A field as it stands in another document.
    pub fn copy(&mut self, field: &Field<'_>) {
        self.bytes.extend_from_slice(field.whole);
    }

    /// Any value by its bytes.
    pub fn value(&mut self, kind: u8, name: &[u8], value: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.bytes.extend_from_slice(value);
    }

    pub fn text(&mut self, name: &[u8], text: &[u8]) {
        self.value(kind::STRING, name, &sized_text(text));
    }

    pub fn document(&mut self, name: &[u8], document: &RawDocument) {
        self.value(kind::DOCUMENT, name, document.as_bytes());
    }

    pub fn uuid(&mut self, name: &[u8], uuid: Uuid) {
        let mut value = vec![16, 0, 0, 0, 4];
        value.extend_from_slice(&uuid.bytes());
        self.value(kind::BINARY, name, &value);
    }

    #[must_use]
    pub fn finish(mut self) -> RawDocumentBuf {
        self.bytes.push(0);
        let length = i32::try_from(self.bytes.len()).expect("a document of less than 2 GiB");
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        RawDocumentBuf::from_bytes(self.bytes).expect("length and end were just written")
    }
}

/// A string in its BSON form: the length, the bytes, and a terminating zero.
pub(super) fn sized_text(text: &[u8]) -> Vec<u8> {
    let length = i32::try_from(text.len() + 1).expect("a text of less than 2 GiB");
    let mut sized = Vec::with_capacity(text.len() + 5);
    sized.extend_from_slice(&length.to_le_bytes());
    sized.extend_from_slice(text);
    sized.push(0);
    sized
}

/// An array of these documents.
#[must_use]
pub fn array<'a>(documents: impl IntoIterator<Item = &'a RawDocument>) -> RawDocumentBuf {
    let mut writer = Writer::new();
    for (at, document) in documents.into_iter().enumerate() {
        writer.document(at.to_string().as_bytes(), document);
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::super::{find, tests::strange};
    use super::*;

    #[test]
    fn only_what_is_changed_changes() {
        let strange = strange();
        let same = rewrite::<Malformed>(&strange, |_| Ok(New::Same)).expect("a document");
        assert_eq!(same.as_bytes(), strange.as_bytes());
        let changed = rewrite::<Malformed>(&strange, |field| {
            Ok(match field.name {
                b"text" => New::Text("new".to_owned()),
                b"same" => New::Gone,
                b"array" => New::Nested(array([strange.as_ref()])),
                _ => New::Same,
            })
        })
        .expect("a document");
        assert_eq!(find(&changed, "text").and_then(|field| field.text()), Some("new"));
        assert_eq!(find(&changed, "same"), None);
        let inner = find(&changed, "array").and_then(|array| array.nested()).and_then(|array| find(array, "0"));
        assert_eq!(inner.and_then(|inner| inner.document()), Some(strange.as_ref()));
        assert_eq!(fields(&changed).count(), fields(&strange).count() - 2);
    }
}
