//! Handles documents without decoding them: finds, copies and replaces single fields and leaves all others as they are.
//!
//! A server stores names and strings that are not valid UTF-8, documents with several fields of one name, and deprecated
//! types. The BSON library refuses such names and strings when it iterates over a document, and drops repeated fields when it
//! decodes one. So this program reads users' documents only through this module.

mod rewrite;
pub mod text;

pub use rewrite::{New, Writer, array, rewrite};

use bson::{RawDocument, RawDocumentBuf, Timestamp, Uuid};

/// Types of BSON values that this program looks at.
pub mod kind {
    pub const STRING: u8 = 0x02;
    pub const DOCUMENT: u8 = 0x03;
    pub const ARRAY: u8 = 0x04;
    pub const BINARY: u8 = 0x05;
    pub const OBJECT_ID: u8 = 0x07;
    pub const BOOLEAN: u8 = 0x08;
    pub const DATE: u8 = 0x09;
    pub const REGEX: u8 = 0x0b;
    pub const DB_POINTER: u8 = 0x0c;
    pub const CODE: u8 = 0x0d;
    pub const SYMBOL: u8 = 0x0e;
    pub const CODE_WITH_SCOPE: u8 = 0x0f;
    pub const INT32: u8 = 0x10;
    pub const TIMESTAMP: u8 = 0x11;
    pub const INT64: u8 = 0x12;
    pub const DOUBLE: u8 = 0x01;
    pub const DECIMAL: u8 = 0x13;
}

/// The deepest accepted nesting: somewhat more levels than a server can be configured to accept.
const DEEPEST: usize = 300;

/// One field of a document, or one element of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// See [`kind`].
    pub kind: u8,
    pub name: &'a [u8],
    pub value: &'a [u8],
    /// Type, name and value as they stand in the document.
    pub whole: &'a [u8],
}

impl<'a> Field<'a> {
    /// A nested document.
    #[must_use]
    pub fn document(&self) -> Option<&'a RawDocument> {
        (self.kind == kind::DOCUMENT).then(|| RawDocument::from_bytes(self.value).ok()).flatten()
    }

    /// A nested document or an array.
    #[must_use]
    pub fn nested(&self) -> Option<&'a RawDocument> {
        matches!(self.kind, kind::DOCUMENT | kind::ARRAY).then(|| RawDocument::from_bytes(self.value).ok()).flatten()
    }

    /// A string that is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.text_bytes()?).ok()
    }

    /// The bytes of a string, a symbol, or code.
    #[must_use]
    pub fn text_bytes(&self) -> Option<&'a [u8]> {
        let is_text = matches!(self.kind, kind::STRING | kind::SYMBOL | kind::CODE);
        is_text.then(|| self.value.get(4..self.value.len() - 1)).flatten()
    }

    #[must_use]
    pub fn timestamp(&self) -> Option<Timestamp> {
        if self.kind != kind::TIMESTAMP {
            return None;
        }
        let number = u64::from_le_bytes(self.value.try_into().ok()?);
        Some(Timestamp {
            time: u32::try_from(number >> 32).ok()?,
            increment: u32::try_from(number & 0xffff_ffff).ok()?,
        })
    }

    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self.kind {
            kind::INT32 => Some(i32::from_le_bytes(self.value.try_into().ok()?).into()),
            kind::INT64 => Some(i64::from_le_bytes(self.value.try_into().ok()?)),
            _ => None,
        }
    }

    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        (self.kind == kind::BOOLEAN).then(|| self.value != [0])
    }

    #[must_use]
    pub fn uuid(&self) -> Option<Uuid> {
        const UUID: u8 = 4;
        let (length, rest) = self.value.split_at_checked(4).filter(|_| self.kind == kind::BINARY)?;
        let (subtype, bytes) = rest.split_first()?;
        (length == 16_i32.to_le_bytes() && *subtype == UUID)
            .then(|| bytes.try_into().ok().map(Uuid::from_bytes))
            .flatten()
    }

    /// A document that contains only this value, under the name `name`.
    #[must_use]
    pub fn alone(&self, name: &str) -> RawDocumentBuf {
        let mut writer = Writer::new();
        writer.value(self.kind, name.as_bytes(), self.value);
        writer.finish()
    }
}

/// The bytes are not valid BSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no document: {0}")]
pub struct Malformed(&'static str);

impl From<Malformed> for String {
    fn from(error: Malformed) -> Self {
        error.to_string()
    }
}

/// The fields of a document or the elements of an array, in their order. Ends after the first error.
#[must_use]
pub fn fields(document: &RawDocument) -> Fields<'_> {
    let bytes = document.as_bytes();
    Fields { rest: bytes.get(4..bytes.len() - 1).unwrap_or_default() }
}

/// The first field with this name. The bytes after it are not checked. Returns `None` if the document is malformed before the
/// field.
#[must_use]
pub fn find<'a>(document: &'a RawDocument, name: &str) -> Option<Field<'a>> {
    fields(document).map_while(Result::ok).find(|field| field.name == name.as_bytes())
}

/// Checks every length and every terminating zero of the document, at all levels of nesting.
///
/// # Errors
/// The bytes are not a valid document.
pub fn check(document: &RawDocument) -> Result<(), Malformed> {
    check_below(document, DEEPEST)
}

fn check_below(document: &RawDocument, levels: usize) -> Result<(), Malformed> {
    if levels == 0 {
        return Err(Malformed("it is nested more deeply than a server takes"));
    }
    for field in fields(document) {
        let field = field?;
        let nested = match field.kind {
            kind::DOCUMENT | kind::ARRAY => Some(field.value),
            kind::CODE_WITH_SCOPE => Some(split_code(field.value)?.1),
            _ => None,
        };
        if let Some(nested) = nested {
            let nested =
                RawDocument::from_bytes(nested).map_err(|_| Malformed("a nested document has a wrong length"))?;
            check_below(nested, levels - 1)?;
        }
    }
    Ok(())
}

/// See [`fields`].
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let all = self.rest;
        let (&kind, behind) = all.split_first()?;
        let next = next(all, kind, behind);
        self.rest = next.as_ref().map_or(&[][..], |field| &all[field.whole.len()..]);
        Some(next)
    }
}

fn next<'a>(all: &'a [u8], kind: u8, behind: &'a [u8]) -> Result<Field<'a>, Malformed> {
    let name = until_zero(behind).ok_or(Malformed("a name has no end"))?;
    let value = &behind[name.len() + 1..];
    let size = size_of(kind, value)?;
    let value = value.get(..size).ok_or(Malformed("it ends within a value"))?;
    Ok(Field { kind, name, value, whole: &all[..1 + name.len() + 1 + size] })
}

fn until_zero(bytes: &[u8]) -> Option<&[u8]> {
    // Names are short, so a faster search that reads several bytes at a time would not pay off.
    bytes.iter().position(|byte| *byte == 0).map(|end| &bytes[..end])
}

/// The size in bytes of the value of type `of` that begins at the start of `value`.
fn size_of(of: u8, value: &[u8]) -> Result<usize, Malformed> {
    Ok(match of {
        0x06 | 0x0a | 0x7f | 0xff => 0,
        kind::BOOLEAN => 1,
        kind::INT32 => 4,
        kind::DOUBLE | kind::DATE | kind::TIMESTAMP | kind::INT64 => 8,
        kind::OBJECT_ID => 12,
        kind::DECIMAL => 16,
        kind::STRING | kind::CODE | kind::SYMBOL => text_size(value)?,
        kind::DB_POINTER => text_size(value)? + 12,
        kind::BINARY => 4 + 1 + length(value, 0)?,
        kind::DOCUMENT | kind::ARRAY => ended(value, length(value, 5)?)?,
        kind::CODE_WITH_SCOPE => length(value, 4 + 5 + 5)?,
        kind::REGEX => {
            let pattern = until_zero(value).ok_or(Malformed("a pattern has no end"))?.len() + 1;
            pattern + until_zero(&value[pattern..]).ok_or(Malformed("a pattern has no end"))?.len() + 1
        }
        _ => return Err(Malformed("a value is of no known type")),
    })
}

/// A length word of at least `least`.
fn length(value: &[u8], least: usize) -> Result<usize, Malformed> {
    let word = value.get(..4).and_then(|word| word.try_into().ok()).map(i32::from_le_bytes);
    word.and_then(|word| usize::try_from(word).ok())
        .filter(|length| *length >= least)
        .ok_or(Malformed("a value has an impossible length"))
}

fn text_size(value: &[u8]) -> Result<usize, Malformed> {
    ended(value, 4 + length(value, 1)?)
}

/// Returns `size` if the last byte of the value is a zero.
fn ended(value: &[u8], size: usize) -> Result<usize, Malformed> {
    match value.get(size - 1) {
        Some(0) => Ok(size),
        Some(_) => Err(Malformed("a value has no zero at its end")),
        None => Err(Malformed("it ends within a value")),
    }
}

/// Splits code with scope into the string, with its length word, and the scope.
fn split_code(value: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let inside = value.get(4..).ok_or(Malformed("code has no scope"))?;
    let size = text_size(inside)?;
    inside.split_at_checked(size).ok_or(Malformed("code has no scope"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bson::{Bson, doc, spec::BinarySubtype};

    /// A document of these elements: type, name, value.
    pub(crate) fn made(elements: &[(u8, &[u8], &[u8])]) -> RawDocumentBuf {
        let mut writer = Writer::new();
        for (kind, name, value) in elements {
            writer.value(*kind, name, value);
        }
        writer.finish()
    }

    pub(crate) fn text(bytes: &[u8]) -> Vec<u8> {
        let length = i32::try_from(bytes.len() + 1).expect("short");
        [&length.to_le_bytes(), bytes, b"\0"].concat()
    }

    /// Every type, names of every kind, and no UTF-8.
    pub(crate) fn strange() -> RawDocumentBuf {
        let scope = made(&[(0x02, b"\xfe", &text(b"\xfd"))]);
        let code = text(b"f(\xff)");
        let size = i32::try_from(4 + code.len() + scope.as_bytes().len()).expect("short").to_le_bytes();
        let with_scope = [&size[..], &code, scope.as_bytes()].concat();
        let inner = made(&[(0x10, b"\xff", &[1, 0, 0, 0]), (0x10, b"\xff", &[2, 0, 0, 0]), (0x0a, b"", b"")]);
        made(&[
            (0x01, b"double", &f64::NAN.to_le_bytes()),
            (0x02, b"text", &text(b"a\0b\xc3\x28")),
            (0x03, b"\xff\xfe", inner.as_bytes()),
            (0x04, b"array", made(&[(0x02, b"0", &text(b"\x80"))]).as_bytes()),
            (0x05, b"old", &[6, 0, 0, 0, 2, 2, 0, 0, 0, 7, 8]),
            (0x06, b"undefined", b""),
            (0x07, b"id", &[9; 12]),
            (0x08, b"yes", &[1]),
            (0x09, b"date", &i64::MIN.to_le_bytes()),
            (0x0a, b"a.b", b""),
            (0x0b, b"$regex", b"\xe9+\0xi\0"),
            (0x0c, b"pointer", &[&text(b"db.\xff")[..], &[3; 12]].concat()),
            (0x0d, b"code", &text(b"\xff")),
            (0x0e, b"symbol", &text(b"\xff")),
            (0x0f, b"scope", &with_scope),
            (0x10, b"same", &[1, 0, 0, 0]),
            (0x10, b"same", &[2, 0, 0, 0]),
            (0x11, b"ts", &[1, 0, 0, 0, 2, 0, 0, 0]),
            (0x12, b"long", &[1; 8]),
            (0x13, b"decimal", &[0xff; 16]),
            (0x7f, b"max", b""),
            (0xff, b"min", b""),
            (0x10, b"last", &[5, 0, 0, 0]),
        ])
    }

    #[test]
    fn every_field_of_a_strange_document_is_found() {
        let strange = strange();
        assert!(bson::Document::try_from(strange.as_ref()).is_err(), "the library refuses it");
        let all: Vec<Field<'_>> = fields(&strange).collect::<Result<_, _>>().expect("fields");
        assert_eq!(all.len(), 23);
        assert_eq!(all.iter().flat_map(|field| field.whole.to_vec()).collect::<Vec<u8>>(), {
            let bytes = strange.as_bytes();
            &bytes[4..bytes.len() - 1]
        });
        assert_eq!(find(&strange, "last").and_then(|field| field.integer()), Some(5));
        assert_eq!(find(&strange, "same").and_then(|field| field.integer()), Some(1));
        assert_eq!(find(&strange, "ts").and_then(|field| field.timestamp()), Some(Timestamp { time: 2, increment: 1 }));
        assert_eq!(find(&strange, "yes").and_then(|field| field.boolean()), Some(true));
        assert_eq!(find(&strange, "text").and_then(|field| field.text()), None);
        assert_eq!(find(&strange, "none"), None);
        check(&strange).expect("a document");
    }

    #[test]
    fn values_are_read_as_the_library_reads_them() {
        let uuid = Uuid::new();
        let document = doc! { "u": uuid, "t": "text", "d": { "x": 1 }, "l": 7_i64, "b": false,
        "other": bson::Binary { subtype: BinarySubtype::Generic, bytes: vec![0; 16] } };
        let raw = RawDocumentBuf::try_from(&document).expect("raw");
        let field = |name: &str| find(&raw, name).expect("a field");
        assert_eq!((field("u").uuid(), field("other").uuid()), (Some(uuid), None));
        assert_eq!(
            (field("t").text(), field("l").integer(), field("b").boolean()),
            (Some("text"), Some(7), Some(false))
        );
        assert_eq!(field("d").document().and_then(|inner| find(inner, "x")).and_then(|x| x.integer()), Some(1));
        let alone = bson::Document::try_from(field("d").alone("new").as_ref()).expect("a document");
        assert_eq!(alone, doc! { "new": Bson::from(doc! { "x": 1 }) });
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for bytes in [
            &b"\x06\0\0\0\x01\0"[..],
            b"\x08\0\0\0\x10a\0\0",
            b"\x08\0\0\0\x7ea\0\0",
            b"\x0d\0\0\0\x02a\0\xff\xff\xff\xff\0\0",
            b"\x0e\0\0\0\x02a\0\x02\0\0\0xy\0",
            b"\x0d\0\0\0\x03a\0\x04\0\0\0\0\0",
            b"\x12\0\0\0\x03a\0\x0a\0\0\0\x10b\0\0\0\0\0",
            b"\x0a\0\0\0\x0ba\0x\0\0",
        ] {
            let document = RawDocument::from_bytes(bytes).expect("a frame");
            assert!(check(document).is_err(), "{bytes:?}");
        }
        let mut deep = RawDocumentBuf::new();
        for _ in 0..200 {
            deep = made(&[(0x03, b"a", deep.as_bytes())]);
        }
        check(&deep).expect("as deep as servers take");
        for _ in 0..100_000 {
            deep = made(&[(0x03, b"a", deep.as_bytes())]);
            if deep.as_bytes().len() > 8000 {
                break;
            }
        }
        assert!(check(&deep).is_err());
    }
}
