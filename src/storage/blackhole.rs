//! A store that swallows what it is given: for measuring everything but the storage (docs/format.md A.1.4).

use super::{ByteStream, Error, ObjectInfo, Promises, Result, SizeHint, Storage, check_name};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use std::{fmt, ops::Range};

/// Reads every body to its end and keeps nothing, so no object exists ever.
///
/// It does not pass the contract. What is checked after writing, such as the files of a backup, must not be checked here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Blackhole;

impl fmt::Display for Blackhole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("blackhole")
    }
}

impl Blackhole {
    fn valid(name: &str) -> Result<()> {
        check_name(name).map_err(|reason| Error::Invalid { store: Self.to_string(), reason })
    }

    fn missing(name: &str) -> Error {
        Error::NotFound { store: Self.to_string(), name: name.to_owned() }
    }
}

#[async_trait]
impl Storage for Blackhole {
    fn promises(&self) -> Promises {
        Promises { largest_object: u64::MAX, durable_on_return: false, keeps: false }
    }

    async fn put(&self, name: &str, mut body: ByteStream, _hint: SizeHint) -> Result<u64> {
        Self::valid(name)?;
        let mut size = 0;
        let source = |reason| Error::Source { store: self.to_string(), name: name.to_owned(), reason };
        while let Some(chunk) = body.try_next().await.map_err(source)? {
            size += chunk.len() as u64;
        }
        Ok(size)
    }

    async fn get(&self, name: &str, _range: Option<Range<u64>>) -> Result<ByteStream> {
        Err(Self::missing(name))
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        Err(Self::missing(name))
    }

    fn list(&self, _prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        stream::empty().boxed()
    }

    async fn delete(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    async fn copy(&self, from: &str, _to: &str) -> Result<()> {
        Err(Self::missing(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn counts_and_forgets() {
        let body = stream::iter([Ok("ab".into()), Ok("cde".into())]).boxed();
        assert_eq!(Blackhole.put("a/b", body, SizeHint(None)).await.expect("put"), 5);
        assert!(Blackhole.stat("a/b").await.expect_err("nothing kept").is_not_found());
        assert!(matches!(
            Blackhole.put("../b", stream::empty().boxed(), SizeHint(None)).await,
            Err(Error::Invalid { .. })
        ));
        let torn = stream::iter([Err(std::io::Error::other("torn"))]).boxed();
        assert!(matches!(Blackhole.put("a", torn, SizeHint(None)).await, Err(Error::Source { .. })));
    }
}
