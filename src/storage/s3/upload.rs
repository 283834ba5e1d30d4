//! Objects of more than one part.

use super::calls::Calls;
use crate::storage::{Error, Result, parts, parts::Parts, patience::Patience};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use std::sync::Arc;

/// Largest object that one request copies, and the size of the ranges of larger ones.
const COPY: u64 = 1 << 30;
/// Ranges copied at a time.
const COPIES_AT_ONCE: usize = 4;

/// An upload that was begun. Dropped before it was completed, it is aborted.
struct Begun {
    calls: Arc<Calls>,
    key: String,
    name: String,
    id: String,
    open: bool,
}

impl Begun {
    async fn new(calls: &Arc<Calls>, patience: Patience, key: String, name: &str) -> Result<Self> {
        let id = patience.repeat("put", name, || calls.begin(&key, name)).await?;
        Ok(Self { calls: Arc::clone(calls), key, name: name.to_owned(), id, open: true })
    }

    /// Puts the parts together and compares the size of what is there then.
    ///
    /// An answer can be lost after the store did its work, and then a repetition finds no such upload: the object's size
    /// decides.
    async fn complete(mut self, patience: Patience, tags: &[String], size: u64) -> Result<()> {
        let (calls, key, name) = (Arc::clone(&self.calls), self.key.clone(), self.name.clone());
        let completed = patience.repeat("put", &name, || calls.complete(&key, &name, &self.id, tags)).await;
        let found = patience.repeat("stat", &name, || calls.size(&key, &name)).await;
        match (completed, found) {
            (Ok(()), Ok(found)) if found == size => {}
            (Ok(()), Ok(found)) => {
                let reason = format!("the store has {found} of its {size} bytes");
                return Err(Error::Failed {
                    store: calls.store.to_string(),
                    action: "put",
                    name,
                    reason,
                    retryable: false,
                });
            }
            (Ok(()), Err(error)) => return Err(error),
            (Err(Error::NotFound { .. }), Ok(found)) if found == size => {}
            (Err(error), _) => return Err(error),
        }
        self.open = false;
        Ok(())
    }

    /// Aborts the upload after `error`, so that no parts of it remain on the storage. Returns the error.
    async fn give_up(mut self, error: Error) -> Error {
        self.open = false;
        if let Err(left) = self.calls.abort(&self.key, &self.name, &self.id).await {
            tracing::warn!(name = self.name, error = %left, "parts of an upload that was given up remain");
        }
        error
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let (calls, key, name, id) =
            (Arc::clone(&self.calls), std::mem::take(&mut self.key), self.name.clone(), self.id.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = calls.abort(&key, &name, &id).await {
                tracing::warn!(name, %error, "parts of an upload that was given up remain");
            }
        });
    }
}

/// Stores `first` and the `rest`, several parts at once; returns the object's bytes.
pub async fn in_parts(
    calls: Arc<Calls>,
    patience: Patience,
    key: String,
    name: &str,
    first: Bytes,
    rest: Parts,
) -> Result<u64> {
    let begun = Begun::new(&calls, patience, key, name).await?;
    let (key, upload): (Arc<str>, Arc<str>) = (begun.key.as_str().into(), begun.id.as_str().into());
    let whose: Arc<str> = name.into();
    let send = |number, content: Bytes| {
        let (calls, key, name, upload) =
            (Arc::clone(&calls), Arc::clone(&key), Arc::clone(&whose), Arc::clone(&upload));
        async move {
            let call = || calls.part(&key, &name, &upload, number, content.clone());
            patience.for_part().repeat("put", &name, call).await
        }
        .boxed()
    };
    match parts::upload(&calls.store, name, first, rest, send).await {
        Ok((tags, size)) => begun.complete(patience, &tags, size).await.map(|()| size),
        Err(error) => Err(begun.give_up(error).await),
    }
}

/// Copies within the bucket: by one request, or range by range where the object is larger than a request may copy.
pub async fn copy(
    calls: &Arc<Calls>,
    patience: Patience,
    (from, from_name): (&str, &str),
    (key, name): (String, &str),
) -> Result<()> {
    let size = calls.size(from, from_name).await?;
    if size <= COPY {
        return calls.copy(from, &key, name).await;
    }
    let begun = Begun::new(calls, patience, key, name).await?;
    let target: &Begun = &begun;
    let ranges = (0..size.div_ceil(COPY)).map(|number| number * COPY..size.min((number + 1) * COPY));
    let copies = (1..).zip(ranges).map(|(number, range)| async move {
        let call = || calls.part_of((from, range.clone()), (&target.key, name), &target.id, number);
        patience.repeat("copy", name, call).await
    });
    let tags: Result<Vec<String>> = stream::iter(copies).buffered(COPIES_AT_ONCE).try_collect().await;
    match tags {
        Ok(tags) => begun.complete(patience, &tags, size).await,
        Err(error) => Err(begun.give_up(error).await),
    }
}

/// Aborts what interrupted writers began under `folder`. A store that can't list uploads has its own way to remove them.
pub async fn abort_abandoned(calls: &Calls, folder: &str, name: &str) {
    let found = match calls.open_uploads(folder, name).await {
        Ok(found) => found,
        Err(error) => return tracing::debug!(%error, "unfinished uploads can't be listed"),
    };
    for (key, id) in found {
        if let Err(error) = calls.abort(&key, name, &id).await {
            tracing::warn!(key, %error, "parts of an unfinished upload remain");
        }
    }
}
