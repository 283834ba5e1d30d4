//! Reads the stored documents of one collection back, and checks them.

use super::batch::{MAX_DOCUMENT, MIN_DOCUMENT};
use crate::{
    model::compression::Compression,
    storage::{self, ByteStream, Storage},
};
use bson::RawDocumentBuf;
use bytes::{Buf as _, Bytes, BytesMut};
use futures::TryStreamExt as _;

/// An object of concatenated documents, with the size and checksum that its backup recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDocuments {
    pub object: String,
    pub compression: Compression,
    /// Uncompressed bytes.
    pub size: u64,
    /// CRC-64/XZ of the uncompressed bytes.
    pub crc: i64,
}

/// Why an object can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open '{object}'")]
    Open { object: String, source: storage::Error },
    #[error("read '{object}'")]
    Read { object: String, source: std::io::Error },
    /// The object can be read, but its content is not the content that the backup stored.
    #[error("'{object}' is damaged: {reason}")]
    Damaged { object: String, reason: String },
}

/// An object that is being read. Its bytes are counted and checked while they pass.
pub struct Reading<'a> {
    of: &'a StoredDocuments,
    stream: ByteStream,
    digest: crc64fast::Digest,
    bytes: u64,
    /// Bytes that [`Reading::next_document`] has already read.
    ahead: BytesMut,
}

impl StoredDocuments {
    /// Opens the object.
    pub async fn open(&self, storage: &dyn Storage) -> Result<Reading<'_>, Error> {
        let stream = storage
            .get(&self.object, None)
            .await
            .map_err(|source| Error::Open { object: self.object.clone(), source })?;
        let stream = crate::compress::decode(stream, self.compression);
        Ok(Reading { of: self, stream, digest: crc64fast::Digest::new(), bytes: 0, ahead: BytesMut::new() })
    }

    /// Reads everything and checks size and checksum. Keeps no data.
    pub async fn verify(&self, storage: &dyn Storage) -> Result<(), Error> {
        let mut reading = self.open(storage).await?;
        while reading.next().await?.is_some() {}
        Ok(())
    }

    /// Returns the error for an object with wrong content.
    #[must_use]
    pub fn damaged(&self, reason: String) -> Error {
        Error::Damaged { object: self.object.clone(), reason }
    }
}

impl Reading<'_> {
    /// Returns the next uncompressed bytes, or `None` at the end if size and checksum are right.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk =
            self.stream.try_next().await.map_err(|source| Error::Read { object: self.of.object.clone(), source })?;
        match &chunk {
            Some(chunk) => {
                self.bytes += chunk.len() as u64;
                self.digest.write(chunk);
                if self.bytes > self.of.size {
                    return Err(self.of.damaged(format!("it holds more than the recorded {} bytes", self.of.size)));
                }
            }
            None => self.check_end()?,
        }
        Ok(chunk)
    }

    /// Returns the next document, or `None` at the end if size and checksum are right. Must not be combined with
    /// [`Reading::next`].
    pub async fn next_document(&mut self) -> Result<Option<RawDocumentBuf>, Error> {
        loop {
            if self.ahead.len() >= MIN_DOCUMENT {
                let length = (&self.ahead[..]).get_i32_le();
                let length = usize::try_from(length)
                    .ok()
                    .filter(|length| (MIN_DOCUMENT..=MAX_DOCUMENT).contains(length))
                    .ok_or_else(|| self.of.damaged(format!("a document length of {length} bytes is impossible")))?;
                if self.ahead.len() >= length {
                    let document = RawDocumentBuf::from_bytes(self.ahead.split_to(length).to_vec());
                    return document.map(Some).map_err(|e| self.of.damaged(e.to_string()));
                }
            }
            match self.next().await? {
                Some(chunk) => self.ahead.extend_from_slice(&chunk),
                None if self.ahead.is_empty() => return Ok(None),
                None => return Err(self.of.damaged("it ends within a document".to_owned())),
            }
        }
    }

    fn check_end(&self) -> Result<(), Error> {
        if self.bytes != self.of.size {
            return Err(self.of.damaged(format!("it holds {} bytes in place of {}", self.bytes, self.of.size)));
        }
        let crc = self.digest.sum64().cast_signed();
        if crc != self.of.crc {
            return Err(self.of.damaged(format!("its checksum is {crc} in place of {}", self.of.crc)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{memory::Memory, write_all};
    use bson::doc;

    fn bytes(count: i32) -> Vec<u8> {
        (0..count).flat_map(|i| doc! { "_id": i, "s": "x".repeat(10) }.to_vec().expect("bytes")).collect()
    }

    fn crc(bytes: &[u8]) -> i64 {
        let mut digest = crc64fast::Digest::new();
        digest.write(bytes);
        digest.sum64().cast_signed()
    }

    async fn verify(content: &[u8], size: u64, crc: i64) -> Result<(), String> {
        let storage = Memory::new();
        write_all(&storage, "o", content.to_vec()).await.expect("stored");
        let data = StoredDocuments { object: "o".to_owned(), compression: Compression::None, size, crc };
        data.verify(&storage).await.map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn size_and_checksum_are_checked() {
        let content = bytes(10_000);
        let (size, sum) = (content.len() as u64, crc(&content));
        assert_eq!(verify(&content, size, sum).await, Ok(()));
        let damage = verify(&content, size, sum + 1).await.expect_err("a wrong checksum");
        assert_eq!(damage, format!("'o' is damaged: its checksum is {sum} in place of {}", sum + 1));
        let short = verify(&content[..1000], size, sum).await.expect_err("too short");
        assert!(short.contains("1000 bytes in place of"), "{short}");
        let long = verify(&content, size - 1, sum).await.expect_err("too long");
        assert!(long.contains("more than the recorded"), "{long}");
    }

    #[tokio::test]
    async fn documents_are_cut_and_damage_is_named() {
        let good = bytes(5000);
        let cases: [(&[u8], Option<&str>); 4] = [
            (b"", None),
            (b"\x07\0\0", Some("ends within a document")),
            (b"\x04\0\0\0\0", Some("a document length of 4 bytes")),
            (b"\x05\0\0\0\x01", Some("is damaged")),
        ];
        for (tail, damage) in cases {
            let content = [&good[..], tail].concat();
            let storage = Memory::new();
            write_all(&storage, "o", content.clone()).await.expect("stored");
            let (size, crc) = (content.len() as u64, crc(&content));
            let data = StoredDocuments { object: "o".to_owned(), compression: Compression::None, size, crc };
            let mut reading = data.open(&storage).await.expect("open");
            let mut found = Vec::new();
            let end = loop {
                match reading.next_document().await {
                    Ok(Some(document)) => found.extend_from_slice(document.as_bytes()),
                    Ok(None) => break None,
                    Err(error) => break Some(error.to_string()),
                }
            };
            assert!(found == good, "{damage:?}");
            match (damage, end) {
                (None, None) => {}
                (Some(part), Some(error)) => assert!(error.contains(part), "{error}"),
                (wanted, found) => panic!("{wanted:?}: {found:?}"),
            }
        }
    }
}
