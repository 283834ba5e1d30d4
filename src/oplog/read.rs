//! Reads a stored range of the oplog as a stream of entries.

use crate::compress;
use crate::model::compression::Compression;
use crate::raw;
use crate::storage::{self, ByteStream, Storage};
use bson::RawDocumentBuf;
use bytes::{Buf, BytesMut};
use futures::{Stream, StreamExt, stream};
use std::io;

/// The largest accepted entry. It may be a little larger than the largest document.
const LARGEST: usize = 16 * 1024 * 1024 + 16 * 1024;
const SMALLEST: usize = 5;

/// Reads the entries of one object in their order. If an entry is incomplete, the stream ends with an error. The codec
/// verifies the object's checksum.
pub async fn entries(
    storage: &dyn Storage,
    object: &str,
    compression: Compression,
) -> storage::Result<impl Stream<Item = io::Result<RawDocumentBuf>> + Send + use<>> {
    Ok(whole_entries(compress::decode(storage.get(object, None).await?, compression)))
}

/// Returns the entries of an uncompressed stream.
pub(crate) fn whole_entries(from: ByteStream) -> impl Stream<Item = io::Result<RawDocumentBuf>> + Send + use<> {
    let reader = Reader { from, ahead: BytesMut::new(), at: 0 };
    stream::try_unfold(reader, |mut reader| async move { Ok(reader.next().await?.map(|entry| (entry, reader))) })
        .boxed()
}

struct Reader {
    from: ByteStream,
    ahead: BytesMut,
    /// Position of the first byte of `ahead` in the uncompressed object.
    at: u64,
}

impl Reader {
    async fn next(&mut self) -> io::Result<Option<RawDocumentBuf>> {
        loop {
            if self.ahead.len() >= SMALLEST {
                let length = (&self.ahead[..4]).get_i32_le();
                let length = usize::try_from(length)
                    .ok()
                    .filter(|length| (SMALLEST..=LARGEST).contains(length))
                    .ok_or_else(|| self.damaged(&format!("an entry of {length} bytes is impossible")))?;
                if self.ahead.len() >= length {
                    let entry = self.ahead.split_to(length).to_vec();
                    let entry = RawDocumentBuf::from_bytes(entry).map_err(|e| self.damaged(&e.to_string()))?;
                    // The code that handles an entry recurses into nested documents. This check limits their depth to
                    // what servers accept.
                    raw::check(&entry).map_err(|e| self.damaged(&e.to_string()))?;
                    self.at += length as u64;
                    return Ok(Some(entry));
                }
            }
            match self.from.next().await {
                Some(chunk) => self.ahead.extend_from_slice(&chunk?),
                None if self.ahead.is_empty() => return Ok(None),
                None => return Err(self.damaged("it ends within an entry")),
            }
        }
    }

    fn damaged(&self, why: &str) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the object is damaged at its uncompressed byte {}: {why}", self.at),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{memory::Memory, write_all};
    use bson::rawdoc;
    use futures::TryStreamExt;

    fn entry_in_entries(levels: usize) -> Vec<u8> {
        let innermost = rawdoc! { "op": "n" };
        let wrapped = |inner: RawDocumentBuf, _| rawdoc! { "op": "c", "o": { "applyOps": [inner] } };
        (0..levels).fold(innermost, wrapped).into_bytes()
    }

    #[tokio::test]
    async fn whole_entries_come_back_and_damage_is_named() {
        let store = Memory::new();
        let entry = rawdoc! { "op": "n", "o": { "msg": "x" } };
        let two = [entry.as_bytes(), entry.as_bytes()].concat();
        write_all(&store, "whole", two.clone()).await.expect("write");
        let got: Vec<_> =
            entries(&store, "whole", Compression::None).await.expect("open").try_collect().await.expect("read");
        assert_eq!(got, [entry.clone(), entry]);

        write_all(&store, "cut", two[..two.len() - 3].to_vec()).await.expect("write");
        let cut = entries(&store, "cut", Compression::None).await.expect("open").try_collect::<Vec<_>>().await;
        assert!(cut.expect_err("cut").to_string().contains("ends within an entry"));

        write_all(&store, "deep", entry_in_entries(400)).await.expect("write");
        let deep = entries(&store, "deep", Compression::None).await.expect("open").try_collect::<Vec<_>>().await;
        assert!(
            deep.expect_err("deep").to_string().contains("byte 0: the bytes are no document: it is nested more deeply")
        );

        write_all(&store, "wild", b"\xff\xff\xff\xffx".to_vec()).await.expect("write");
        let wild = entries(&store, "wild", Compression::None).await.expect("open").try_collect::<Vec<_>>().await;
        assert!(wild.expect_err("wild").to_string().contains("impossible"));
    }
}
