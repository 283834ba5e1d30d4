//! Converts strings of any bytes to Rust strings and back.
//!
//! This program decodes the documents that it must understand: index specifications and options of collections. Each byte that
//! is not valid UTF-8 becomes one character of a range that is otherwise unused, so that nothing is lost: [`to_bytes`] returns
//! exactly the bytes that [`to_text`] received. If a string really contains a character of that range, each of its bytes is
//! converted in the same way.

use super::{Malformed, Writer, fields, kind, rewrite::sized_text, split_code};
use bson::{Document, RawDocument, RawDocumentBuf};
use std::borrow::Cow;

/// The byte 0 would become this character; only 128 to 255 do.
const BASE: u32 = 0x10_fe00;

/// Converts any bytes to a Rust string.
#[must_use]
pub fn to_text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(stands_for_byte) => return Cow::Borrowed(text),
        _ => {}
    }
    let mut text = String::with_capacity(bytes.len() * 2);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if stands_for_byte(c) {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| text.push(stand_in(byte)));
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push(stand_in(*byte)));
    }
    Cow::Owned(text)
}

/// Returns the bytes from which [`to_text`] made this string.
#[must_use]
pub fn to_bytes(text: &str) -> Cow<'_, [u8]> {
    if !is_made_of_bytes(text) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        if stands_for_byte(c) {
            bytes.push(u8::try_from(u32::from(c) - BASE).expect("128 to 255"));
        } else {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Cow::Owned(bytes)
}

/// The form of such a string for people: every byte of a string that is not valid UTF-8 is shown as in `a\xff`.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    match is_made_of_bytes(text) {
        true => Cow::Owned(to_bytes(text).escape_ascii().to_string()),
        false => Cow::Borrowed(text),
    }
}

/// Whether [`to_text`] made this string from bytes that are not valid UTF-8.
#[must_use]
pub fn is_made_of_bytes(text: &str) -> bool {
    text.chars().any(stands_for_byte)
}

fn stands_for_byte(c: char) -> bool {
    (BASE + 0x80..=BASE + 0xff).contains(&u32::from(c))
}

fn stand_in(byte: u8) -> char {
    char::from_u32(BASE + u32::from(byte)).expect("a private character")
}

/// Decodes a document whose names and strings may contain any bytes.
///
/// # Errors
/// It is no document.
pub fn decode(document: &RawDocument) -> Result<Document, Malformed> {
    let text = map(document, &mut |bytes| match to_text(bytes) {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    })?;
    Document::try_from(text.as_ref()).map_err(|_| Malformed("the library can't read a value"))
}

/// Encodes a document for the server. This is the reverse of [`decode`].
///
/// # Errors
/// The document can't be encoded.
pub fn encode(document: &Document) -> Result<RawDocumentBuf, Malformed> {
    let raw = RawDocumentBuf::try_from(document).map_err(|_| Malformed("a name or text has a zero in it"))?;
    // Four bytes of UTF-8: F4 8F BA or BB, and another.
    if !raw.as_bytes().windows(3).any(|bytes| matches!(bytes, [0xf4, 0x8f, 0xba | 0xbb])) {
        return Ok(raw);
    }
    map(&raw, &mut |bytes| match std::str::from_utf8(bytes).map(to_bytes) {
        Ok(Cow::Owned(bytes)) => Cow::Owned(bytes),
        _ => Cow::Borrowed(bytes),
    })
}

/// Applies `change` to all names and strings of the document.
fn map(document: &RawDocument, change: &mut impl FnMut(&[u8]) -> Cow<'_, [u8]>) -> Result<RawDocumentBuf, Malformed> {
    super::check(document)?;
    map_checked(document, change)
}

fn map_checked(
    document: &RawDocument,
    change: &mut impl FnMut(&[u8]) -> Cow<'_, [u8]>,
) -> Result<RawDocumentBuf, Malformed> {
    let mut writer = Writer::new();
    for field in fields(document) {
        let field = field?;
        let name = change(field.name).into_owned();
        let nested =
            |bytes| RawDocument::from_bytes(bytes).map_err(|_| Malformed("a nested document has a wrong length"));
        let value = match field.kind {
            kind::STRING | kind::CODE | kind::SYMBOL => sized_text(&change(inside(field.value))),
            kind::DOCUMENT | kind::ARRAY => map_checked(nested(field.value)?, change)?.into_bytes(),
            kind::REGEX => {
                let end = field.value.iter().position(|byte| *byte == 0).unwrap_or_default();
                [&*change(&field.value[..end]), &field.value[end..]].concat()
            }
            kind::DB_POINTER => {
                let (text, id) = field.value.split_at(field.value.len() - 12);
                [sized_text(&change(inside(text))), id.to_vec()].concat()
            }
            kind::CODE_WITH_SCOPE => {
                let (code, scope) = split_code(field.value)?;
                let code = sized_text(&change(inside(code)));
                let scope = map_checked(nested(scope)?, change)?;
                let size = i32::try_from(4 + code.len() + scope.as_bytes().len()).map_err(|_| Malformed("too long"))?;
                [&size.to_le_bytes(), &code[..], scope.as_bytes()].concat()
            }
            _ => field.value.to_vec(),
        };
        writer.value(field.kind, &name, &value);
    }
    Ok(writer.finish())
}

/// A string without its length word and the zero at its end.
fn inside(text: &[u8]) -> &[u8] {
    text.get(4..text.len() - 1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{made, strange, text};
    use super::*;
    use bson::doc;

    #[test]
    fn any_bytes_come_back() {
        let own = "\u{10fe80}\u{10feff}\u{10fe7f}\u{10ff00}";
        for bytes in
            [&b""[..], b"plain", "h\u{e9}llo \u{1f600}".as_bytes(), b"\xff", b"a\xc3\x28\xe2\x82", own.as_bytes()]
        {
            let text = to_text(bytes).into_owned();
            assert_eq!(to_bytes(&text), bytes, "{text:?}");
        }
        assert_eq!(to_text(b"a\xff"), "a\u{10feff}");
        let all: Vec<u8> = (0..=255).rev().chain(0..=255).collect();
        assert_eq!(to_bytes(&to_text(&all)), &all[..]);
        assert!(matches!(to_text("h\u{e9}llo".as_bytes()), Cow::Borrowed(_)));
    }

    #[test]
    fn a_document_comes_back_byte_for_byte() {
        // The document has no repeated field names, because the library would drop the second field.
        let key = made(&[(0x10, b"\xff", &[1, 0, 0, 0]), (0x10, b"b", &[1, 0, 0, 0])]);
        let raw = made(&[
            (0x03, b"key", key.as_bytes()),
            (0x02, b"name", &text(b"\xff_1")),
            (0x0b, b"r", b"\xe9\0i\0"),
            (0x0e, b"s", &text("\u{10fe80}".as_bytes())),
        ]);
        let decoded = decode(&raw).expect("a document");
        assert_eq!(decoded.get_str("name").expect("a text"), "\u{10feff}_1");
        assert_eq!(encode(&decoded).expect("bytes").as_bytes(), raw.as_bytes());
        decode(&strange()).expect("a document");
        let plain = doc! { "a": "x", "b": [1, { "c": "\u{1f600}" }] };
        let raw = encode(&plain).expect("bytes");
        assert_eq!(decode(&raw).expect("a document"), plain);
        assert_eq!(raw, RawDocumentBuf::try_from(&plain).expect("bytes"));
    }
}
