//! Reads typed values from a settings document. Every error names the key.

use super::super::ConfigError;
use bson::{Bson, Document};
use std::time::Duration;

/// A group of settings. Null and empty values count as not set, because the original writes them for settings that are
/// not set.
pub struct Fields<'a> {
    at: String,
    doc: Option<&'a Document>,
}

impl<'a> Fields<'a> {
    /// `at` is the group's dotted path.
    pub fn new(at: &str, doc: &'a Document) -> Self {
        Self { at: at.to_owned(), doc: Some(doc) }
    }

    pub fn group(&self, key: &str) -> Self {
        Self { at: self.path(key), doc: self.doc.and_then(|doc| doc.get_document(key).ok()) }
    }

    /// Returns the dotted path of a key.
    pub fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.at)
    }

    pub fn wrong(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::setting(&self.path(key), reason)
    }

    fn get(&self, key: &str) -> Option<&'a Bson> {
        self.doc?.get(key)
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    pub fn required(&self, key: &str) -> Result<&'a str, ConfigError> {
        self.text(key).ok_or_else(|| self.wrong(key, "must be given"))
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    pub fn whole(&self, key: &str) -> Option<i64> {
        match self.get(key)? {
            Bson::Int32(number) => Some(i64::from(*number)),
            Bson::Int64(number) => Some(*number),
            #[expect(clippy::cast_possible_truncation, reason = "saturates, and whole numbers are what is meant")]
            Bson::Double(number) => Some(*number as i64),
            _ => None,
        }
    }

    pub fn float(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Bson::Double(number) => Some(*number),
            #[expect(clippy::cast_precision_loss, reason = "sizes in GiB")]
            Bson::Int64(number) => Some(*number as f64),
            Bson::Int32(number) => Some(f64::from(*number)),
            _ => None,
        }
    }

    /// Returns a duration, which is in nanoseconds in the document. 0 counts as not set.
    pub fn duration(&self, key: &str) -> Option<Duration> {
        let nanos = u64::try_from(self.whole(key)?).ok()?;
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// Returns the entry of a map for this node (`host:port`), or the value of `key` if the map has no such entry.
    pub fn for_node(&self, map: &str, node: &str, key: &str) -> Option<&'a str> {
        let own = self.doc.and_then(|doc| doc.get_document(map).ok()).and_then(|map| map.get_str(node).ok());
        own.filter(|text| !text.is_empty()).or_else(|| self.text(key))
    }
}
