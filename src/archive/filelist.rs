//! `filelist.pbm`: the data files of a replica set's part of a physical backup (docs/format.md A.8.1).
//!
//! The object is a sequence of BSON documents, one for each whole file, and one for each range of a file that is stored in
//! ranges.

use crate::layout::ReplsetLayout;
use crate::model::serde_help::is_default;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The most bytes of a list that is read. One entry takes about 200 bytes.
pub const LARGEST: usize = 256 << 20;
/// The offset and length of a file that has not changed since the previous backup of a chain, so that it has no object here.
const UNCHANGED: i64 = -1;

/// A stored file, or a range of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// The path below the dbPath.
    #[serde(rename = "filename")]
    pub path: String,
    /// Where the range begins.
    pub offset: i64,
    /// Bytes of the range; 0 for a whole file.
    pub length: i64,
    /// Size of the whole file.
    #[serde(rename = "fileSize", default)]
    pub file_size: i64,
    /// Size of the object.
    #[serde(rename = "stgSize", default)]
    pub stored: i64,
    /// Size of what the object contains, uncompressed.
    #[serde(rename = "stgSizeUncompressed", default)]
    pub content: i64,
    /// Permissions, as in the original: Go's bits of a file mode.
    #[serde(rename = "fmode", default)]
    pub mode: i64,
    /// *Added by us*: the CRC-64 of the content, uncompressed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub crc: Option<i64>,
}

impl DataFile {
    /// Whether the file is in an earlier backup of the chain and has no object in this one.
    #[must_use]
    pub const fn is_unchanged(&self) -> bool {
        self.offset == UNCHANGED && self.length == UNCHANGED
    }

    /// Whether this entry describes a range and not a whole file.
    #[must_use]
    pub const fn is_range(&self) -> bool {
        self.length > 0
    }

    /// The name of the object.
    #[must_use]
    pub fn object(&self, layout: &ReplsetLayout) -> String {
        layout.data_file(&self.path, self.is_range().then_some((self.offset, self.length)))
    }

    fn check(&self) -> Result<()> {
        let path = &self.path;
        if let Err(why) = crate::storage::check_name(path) {
            bail!("the path of a data file can't be used: {why}");
        }
        let numbers = [self.file_size, self.stored, self.content];
        ensure!(numbers.iter().all(|it| *it >= 0), "'{path}' has a negative size");
        let range = self.offset >= 0 && self.length >= 0 && self.offset.checked_add(self.length).is_some();
        ensure!(
            range || self.is_unchanged(),
            "'{path}' has no possible range: {} bytes at {}",
            self.length,
            self.offset
        );
        ensure!(self.is_range() || self.offset <= 0, "'{path}' begins at {} and has no length", self.offset);
        Ok(())
    }
}

/// Writes a list.
///
/// # Errors
/// An entry can't be encoded.
pub fn write(files: &[DataFile]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for file in files {
        out.extend(bson::serialize_to_vec(file).with_context(|| format!("describe the file '{}'", file.path))?);
    }
    Ok(out)
}

/// Reads a list.
///
/// # Errors
/// It is damaged, or has a path that leads out of the dbPath, or an impossible range.
pub fn read(mut bytes: &[u8]) -> Result<Vec<DataFile>> {
    let mut files = Vec::new();
    while !bytes.is_empty() {
        let at = files.len();
        let length = bytes.first_chunk().map(|it| u32::from_le_bytes(*it) as usize);
        let document = length.filter(|it| *it >= 5).and_then(|length| bytes.split_at_checked(length));
        let (document, rest) = document.with_context(|| format!("the list ends in the middle of its entry {at}"))?;
        let file: DataFile = bson::deserialize_from_slice(document).with_context(|| format!("read entry {at}"))?;
        file.check().with_context(|| format!("entry {at}"))?;
        files.push(file);
        bytes = rest;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::compression::Compression;

    fn file(path: &str) -> DataFile {
        let path = path.to_owned();
        DataFile { path, offset: 0, length: 0, file_size: 9, stored: 5, content: 9, mode: 0o600, crc: Some(-7) }
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let range = DataFile { offset: 16, length: 32, ..file("shop/collection-1.wt") };
        let unchanged = DataFile { offset: -1, length: -1, crc: None, ..file("a.wt") };
        let files = [file("WiredTiger"), range, unchanged];
        assert_eq!(read(&write(&files).expect("a list")).expect("the list"), files);
        assert_eq!(files.each_ref().map(DataFile::is_unchanged), [false, false, true]);
        assert_eq!(read(&[]).expect("an empty list"), []);
    }

    #[test]
    fn objects_have_the_names_of_the_original() {
        let layout = ReplsetLayout::new("b", "rs0", Compression::S2);
        assert_eq!(file("journal/WiredTigerLog.01").object(&layout), "b/rs0/journal/WiredTigerLog.01.s2");
        let range = DataFile { offset: 16_777_216, length: 33_554_432, ..file("index-5--12.wt") };
        assert_eq!(range.object(&layout), "b/rs0/index-5--12.wt.s2.16777216-33554432");
        let none = ReplsetLayout::new("b", "rs0", Compression::None);
        assert_eq!(file("storage.bson").object(&none), "b/rs0/storage.bson");
    }

    #[test]
    fn damage_is_refused() {
        let good = write(&[file("a.wt")]).expect("a list");
        for cut in 1..good.len() {
            assert!(read(&good[..cut]).is_err(), "cut after {cut} bytes");
        }
        type Change = fn(&mut DataFile);
        let wrong: [(&str, Change); 6] = [
            ("out of the dbPath", |it| it.path = "../a".into()),
            ("absolute", |it| it.path = "/data/a".into()),
            ("a negative size", |it| it.file_size = -1),
            ("half unchanged", |it| it.length = -1),
            ("an offset without a length", |it| it.offset = 5),
            ("an end beyond all files", |it| (it.offset, it.length) = (i64::MAX, 1)),
        ];
        for (what, change) in wrong {
            let mut bad = file("a.wt");
            change(&mut bad);
            assert!(read(&write(&[file("b.wt"), bad]).expect("a list")).is_err(), "{what}");
        }
    }
}
