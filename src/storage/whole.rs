//! Small objects in one piece: metadata and markers.

use super::{ByteStream, Error, Result, SizeHint, Storage};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};

/// A body of known content.
#[must_use]
pub fn body(content: impl Into<Bytes>) -> ByteStream {
    let content = content.into();
    if content.is_empty() { stream::empty().boxed() } else { stream::once(async { Ok(content) }).boxed() }
}

/// Stores `content` under `name`.
///
/// # Errors
/// As [`Storage::put`].
pub async fn write_all(store: &dyn Storage, name: &str, content: impl Into<Bytes> + Send) -> Result<u64> {
    let content = content.into();
    let hint = SizeHint(Some(content.len() as u64));
    store.put(name, body(content), hint).await
}

/// Checks that an object that was just stored has the size with which it was stored.
///
/// # Errors
/// The object has another size or does not exist; also the errors of [`Storage::stat`].
pub async fn check_stored(store: &dyn Storage, name: &str, size: u64) -> Result<()> {
    let there = match store.stat(name).await {
        Ok(info) => info.size,
        // This storage keeps nothing, so there is nothing to check.
        Err(error) if error.is_not_found() && !store.promises().keeps => return Ok(()),
        Err(error) => return Err(error),
    };
    if there == size {
        return Ok(());
    }
    let reason = format!("it has {there} bytes right after {size} bytes were written");
    Err(Error::Failed { store: store.to_string(), action: "checking", name: name.to_owned(), reason, retryable: true })
}

/// Reads a whole object of at most `limit` bytes.
///
/// # Errors
/// As [`Storage::get`]; a larger object is [`Error::Invalid`], a stream that breaks is a retryable [`Error::Failed`].
pub async fn read_all(store: &dyn Storage, name: &str, limit: usize) -> Result<Bytes> {
    let mut content = BytesMut::new();
    let mut chunks = store.get(name, None).await?;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Error::Failed {
            store: store.to_string(),
            action: "reading",
            name: name.to_owned(),
            reason: error.to_string(),
            retryable: true,
        })?;
        if content.len() + chunk.len() > limit {
            let reason = format!("object '{name}' is larger than the {limit} bytes that make sense for it");
            return Err(Error::Invalid { store: store.to_string(), reason });
        }
        content.extend_from_slice(&chunk);
    }
    Ok(content.freeze())
}
