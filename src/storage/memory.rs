//! A store in memory, for tests: small, true to the contract.

use super::{
    ByteStream, Error, ObjectInfo, Promises, Result, SizeHint, Storage, check_name, check_prefix, failed_list, is_below,
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Bytes per piece of a `get`, small so that readers meet more than one.
const CHUNK: usize = 64 << 10;

/// Objects in a map. Nothing survives the value.
#[derive(Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl Memory {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn valid(&self, name: &str) -> Result<()> {
        check_name(name).map_err(|reason| Error::Invalid { store: self.to_string(), reason })
    }

    fn find(&self, name: &str) -> Result<Bytes> {
        self.valid(name)?;
        let found = self.lock().get(name).cloned();
        found.ok_or_else(|| Error::NotFound { store: self.to_string(), name: name.to_owned() })
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("objects", &self.names()).finish()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl Storage for Memory {
    fn promises(&self) -> Promises {
        Promises { largest_object: u64::MAX, durable_on_return: false, keeps: true }
    }

    async fn put(&self, name: &str, mut body: ByteStream, _hint: SizeHint) -> Result<u64> {
        self.valid(name)?;
        let mut content = BytesMut::new();
        let source = |reason| Error::Source { store: self.to_string(), name: name.to_owned(), reason };
        while let Some(chunk) = body.try_next().await.map_err(source)? {
            content.extend_from_slice(&chunk);
        }
        let size = content.len() as u64;
        self.lock().insert(name.to_owned(), content.freeze());
        Ok(size)
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream> {
        let content = self.find(name)?;
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
        let mut rest = match range {
            Some(range) => content.slice(place(range.start)..place(range.end.max(range.start))),
            None => content,
        };
        Ok(stream::iter(std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| Ok(rest.split_to(CHUNK.min(rest.len()))))
        }))
        .boxed())
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        Ok(ObjectInfo { name: name.to_owned(), size: self.find(name)?.len() as u64 })
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        let folder = match check_prefix(prefix) {
            Ok(folder) => folder,
            Err(reason) => return failed_list(Error::Invalid { store: self.to_string(), reason }),
        };
        let found: Vec<_> = self
            .lock()
            .iter()
            .filter(|(name, _)| is_below(name, folder))
            .map(|(name, content)| Ok(ObjectInfo { name: name.clone(), size: content.len() as u64 }))
            .collect();
        stream::iter(found).boxed()
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.valid(name)?;
        self.lock().remove(name);
        Ok(())
    }

    async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.valid(to)?;
        let content = self.find(from)?;
        self.lock().insert(to.to_owned(), content);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_contract() {
        super::super::contract::check(&Memory::new()).await;
    }
}
