//! Documents that are read without decoding them.

use super::words;
use crate::raw::{Field, Malformed, New, check as well_formed, fields, find, kind, rewrite, text};
use bson::{Document, RawDocument};
use std::collections::HashSet;

pub fn check(input: &[u8]) {
    any_bytes_are_text(input);
    if let Ok(document) = RawDocument::from_bytes(input) {
        document_holds(document);
    } else if let Some(framed) = super::framed(input) {
        document_holds(RawDocument::from_bytes(&framed).expect("a frame"));
    }
}

fn any_bytes_are_text(input: &[u8]) {
    assert_eq!(text::to_bytes(&text::to_text(input)), input);
}

fn document_holds(document: &RawDocument) {
    let bytes = document.as_bytes();
    let inside = &bytes[4..bytes.len() - 1];
    let mut read = 0;
    let mut complete = true;
    for field in fields(document) {
        match field {
            Ok(field) => {
                assert_eq!(field.whole, &inside[read..read + field.whole.len()], "fields follow each other");
                assert_eq!(field.whole.len(), 1 + field.name.len() + 1 + field.value.len());
                read += field.whole.len();
                value_can_be_looked_at(&field);
            }
            Err(error) => {
                words(error);
                complete = false;
            }
        }
    }
    assert!(!complete || read == inside.len(), "fields fill the document");
    match well_formed(document) {
        Ok(()) => {
            assert!(complete, "a document with a broken field is accepted");
            accepted(document);
        }
        Err(error) => {
            let why = words(error);
            assert!(text::decode(document).is_err(), "decoded although '{why}'");
            // The library has no limit of its own, so it does not get documents that are nested deeply.
            if !why.contains("nested more deeply") && bytes.len() < 1 << 12 {
                assert!(Document::try_from(document).is_err(), "the library accepts it: {why}");
            }
        }
    }
}

fn value_can_be_looked_at(field: &Field<'_>) {
    let alone = field.alone("it");
    let same = find(&alone, "it").expect("the only field");
    assert_eq!((same.kind, same.value), (field.kind, field.value));
    if let Some(text) = field.text() {
        assert_eq!(Some(text.as_bytes()), field.text_bytes());
    }
    let is_number = matches!(field.kind, kind::INT32 | kind::INT64);
    assert_eq!(field.integer().is_some(), is_number);
    assert_eq!(field.timestamp().is_some(), field.kind == kind::TIMESTAMP);
    assert_eq!(field.boolean().is_some(), field.kind == kind::BOOLEAN);
    assert!(field.document().is_none() || field.nested().is_some());
    if let Some(uuid) = field.uuid() {
        assert_eq!(field.value, [&[16, 0, 0, 0, 4][..], &uuid.bytes()].concat());
    }
}

fn accepted(document: &RawDocument) {
    let same = rewrite::<Malformed>(document, |_| Ok(New::Same)).expect("an accepted document");
    assert_eq!(same.as_bytes(), document.as_bytes());
    let empty = rewrite::<Malformed>(document, |_| Ok(New::Gone)).expect("an accepted document");
    assert_eq!(empty.as_bytes(), [5, 0, 0, 0, 0]);
    let renamed = rewrite::<Malformed>(document, |field| {
        Ok(if field.kind == kind::STRING { New::Text("other".to_owned()) } else { New::Same })
    });
    well_formed(&renamed.expect("an accepted document")).expect("a changed document");
    match text::decode(document) {
        Ok(decoded) => decoded_document(document, &decoded),
        Err(error) => {
            words(error);
        }
    }
}

fn decoded_document(document: &RawDocument, decoded: &Document) {
    let encoded = text::encode(decoded).expect("a decoded document");
    well_formed(&encoded).expect("an encoded document");
    if is_plain(document) {
        assert_eq!(encoded.as_bytes(), document.as_bytes(), "a document comes back byte for byte");
        return;
    }
    let again = text::decode(&encoded).expect("an encoded document");
    let twice = text::encode(&again).expect("a decoded document");
    assert_eq!(encoded.as_bytes(), twice.as_bytes(), "decoding has no further effect");
}

/// Whether the library keeps everything in this document. It drops repeated fields and the names of array elements, and
/// sorts the options of regular expressions.
/// sorts the options of regular expressions.
fn is_plain(document: &RawDocument) -> bool {
    let mut names = HashSet::new();
    fields(document).all(|field| {
        let Ok(field) = field else { return false };
        let inner_is_plain = match field.kind {
            kind::DOCUMENT => field.nested().is_some_and(is_plain),
            kind::ARRAY => field.nested().is_some_and(|array| has_usual_names(array) && is_plain(array)),
            kind::REGEX => {
                let options: Vec<u8> =
                    field.value.iter().rev().skip(1).take_while(|byte| **byte != 0).copied().collect();
                options.is_sorted_by(|later, earlier| later > earlier)
            }
            kind::BINARY => field.value[4] != 2,
            kind::CODE_WITH_SCOPE => false,
            _ => true,
        };
        inner_is_plain && names.insert(field.name)
    })
}

fn has_usual_names(array: &RawDocument) -> bool {
    fields(array).enumerate().all(|(at, field)| field.is_ok_and(|field| field.name == at.to_string().as_bytes()))
}
