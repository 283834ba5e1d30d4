//! Extended JSON, in which the options and indexes of collections are stored.

use super::words;
use crate::archive::extjson::{compact, indented, parse};

pub fn check(input: &[u8]) {
    let document = match parse(input) {
        Ok(document) => document,
        Err(error) => {
            words(error);
            return;
        }
    };
    let text = compact(&document);
    let again = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    // The text is compared, because NaN is not equal to itself.
    assert_eq!(compact(&again), text);
    let lines = indented(&document);
    let again = parse(lines.as_bytes()).unwrap_or_else(|error| panic!("{error}: {lines}"));
    assert_eq!(compact(&again), text);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let indented: serde_json::Value = serde_json::from_str(&lines).expect("JSON");
    assert_eq!(json, indented);
}
