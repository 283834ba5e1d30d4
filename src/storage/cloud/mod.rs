//! Azure Blob and Google Cloud Storage, through the `object_store` crate over our own HTTP client.
//!
//! # Overview
//!
//! The crate knows the two protocols and their credentials; `transport` carries its requests and compares checksums;
//! `azure` and `gcs` turn settings into it. This file is the storage: parts up, ranges down, errors sorted.
//!
//! # Consistency
//!
//! A reader sees the old object or the new one: an upload of parts appears when its last request succeeds, and its size is
//! compared then. Ranges of one reader are of one object, by its ETag.
//!
//! # Retries
//!
//! Each request is repeated by the crate, as the settings say; whole calls by [`super::wrap::retry`].
//!
//! # Cancellation, crash
//!
//! A failed upload is aborted, a dropped one soon after. Azure removes the blocks of a killed process after a week; Google
//! keeps them until a lifecycle rule (`AbortIncompleteMultipartUpload`) removes them.

mod azure;
mod gcs;
mod transport;

pub use azure::{AzureAccess, AzureSettings};
pub use gcs::{GcsAccess, GcsSettings};
pub use transport::LARGEST_ANSWER;

use super::{
    ByteStream, Error, ObjectInfo, Promises, Result, SizeHint, Storage, check_name, check_prefix, failed_list,
    parts::{self, Beginning, Cut, Parts},
    patience::Patience,
    ranges::{self, Downloads},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    BackoffConfig, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use std::{fmt, ops::Range, sync::Arc, time::Duration};
use transport::TOO_LARGE;

/// What both protocols of the crate can do.
trait Blobs: ObjectStore + MultipartStore {}
impl<T: ObjectStore + MultipartStore> Blobs for T {}

/// A container or bucket, or a folder of it.
#[derive(Clone)]
pub struct CloudStorage {
    blobs: Arc<dyn Blobs>,
    /// The same, with the patience that parts of uploads have.
    uploads: Arc<dyn Blobs>,
    shown: Arc<str>,
    prefix: Arc<str>,
    cut: Cut,
    largest_object: u64,
    downloads: Downloads,
}

impl fmt::Debug for CloudStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CloudStorage").field(&self.shown).finish()
    }
}

impl fmt::Display for CloudStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The crate's words for our patience. It panics over pauses that can't grow, so here they can, if only by a little.
fn retry_config(patience: Patience) -> RetryConfig {
    const SHORTEST: Duration = Duration::from_millis(1);
    const LEAST_GROWTH: f64 = 1.01;
    let longest = patience.longest_pause.max(SHORTEST);
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: patience.first_pause.clamp(SHORTEST, longest),
            max_backoff: longest,
            base: patience.growth.max(LEAST_GROWTH),
        },
        max_retries: usize::try_from(patience.attempts.saturating_sub(1)).unwrap_or(usize::MAX),
        retry_timeout: patience.overall,
    }
}

impl CloudStorage {
    /// The same store, read in another way. Ranges are no larger than an answer can be.
    #[must_use]
    pub fn downloading(self, mut downloads: Downloads) -> Self {
        downloads.size = downloads.size.min(LARGEST_ANSWER as u64);
        Self { downloads, ..self }
    }

    fn path(&self, name: &str) -> Result<Path> {
        let invalid = |reason: String| Error::Invalid { store: self.to_string(), reason };
        check_name(name).map_err(invalid)?;
        self.parse(name)
    }

    fn parse(&self, name: &str) -> Result<Path> {
        let whole = if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        Path::parse(whole).map_err(|error| Error::Invalid { store: self.to_string(), reason: error.to_string() })
    }

    fn sort(&self, action: &'static str, name: &str, error: object_store::Error) -> Error {
        sort(&self.shown, action, name, error)
    }

    fn object(&self, found: &ObjectMeta) -> Option<ObjectInfo> {
        let key = found.location.as_ref();
        let name = if self.prefix.is_empty() { key } else { key.strip_prefix(&*self.prefix)?.strip_prefix('/')? };
        check_name(name).is_ok().then(|| ObjectInfo { name: name.to_owned(), size: found.size })
    }

    async fn put_parts(&self, name: &str, path: Path, first: Bytes, rest: Parts) -> Result<u64> {
        let sorted = |error| self.sort("put", name, error);
        let id = self.blobs.create_multipart(&path).await.map_err(sorted)?;
        let mut begun = Begun { blobs: Arc::clone(&self.blobs), path: path.clone(), id, open: true };
        let send = |number: u32, content: Bytes| {
            let (blobs, path, id) = (Arc::clone(&self.uploads), path.clone(), begun.id.clone());
            let (store, name) = (Arc::clone(&self.shown), name.to_owned());
            async move {
                let index = number as usize - 1;
                let sent = blobs.put_part(&path, &id, index, content.into()).await;
                sent.map_err(|error| sort(&store, "put", &name, error))
            }
            .boxed()
        };
        let stored: Result<(Vec<PartId>, u64)> = parts::upload(&self.shown, name, first, rest, send).await;
        let (ids, size) = match stored {
            Ok(stored) => stored,
            Err(error) => return Err(begun.give_up(error).await),
        };
        let completed = self.blobs.complete_multipart(&path, &begun.id, ids).await;
        begun.open = completed.is_err();
        let there = self.blobs.head(&path).await;
        match (completed, there) {
            // The answer to a completion can be lost: what is there decides.
            (_, Ok(there)) if there.size == size => Ok(begun.done(size)),
            (Ok(_), Ok(there)) => {
                let reason = format!("the store has {} of its {size} bytes", there.size);
                let (store, name) = (self.to_string(), name.to_owned());
                Err(Error::Failed { store, action: "put", name, reason, retryable: false })
            }
            (Err(error), _) | (_, Err(error)) => Err(sorted(error)),
        }
    }
}

/// Reads one object.
struct Reader {
    blobs: Arc<dyn Blobs>,
    store: Arc<str>,
    path: Path,
    name: String,
}

impl Reader {
    /// A range, cut at the object's end. With a `tag` the object must still be the same.
    async fn part(&self, range: Range<u64>, tag: Option<String>) -> Result<(Bytes, ObjectMeta)> {
        let sorted = |error| sort(&self.store, "get", &self.name, error);
        let range = Some(GetRange::Bounded(range));
        let options = GetOptions { range, if_match: tag.clone(), ..GetOptions::default() };
        let got = self.blobs.get_opts(&self.path, options).await.map_err(sorted)?;
        let meta = got.meta.clone();
        // Not every store looks at the condition.
        if tag.is_some() && meta.e_tag != tag {
            let (store, name) = (self.store.to_string(), self.name.clone());
            let reason = "it was replaced while it was read".to_owned();
            return Err(Error::Failed { store, action: "get", name, reason, retryable: false });
        }
        Ok((got.bytes().await.map_err(sorted)?, meta))
    }
}

/// An upload that was begun. Dropped open, it is aborted.
struct Begun {
    blobs: Arc<dyn Blobs>,
    path: Path,
    id: String,
    open: bool,
}

impl Begun {
    fn done(&mut self, size: u64) -> u64 {
        self.open = false;
        size
    }

    async fn give_up(mut self, error: Error) -> Error {
        self.open = false;
        if let Err(left) = self.blobs.abort_multipart(&self.path, &self.id).await {
            tracing::warn!(name = %self.path, error = %left, "parts of an upload that was given up remain");
        }
        error
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(runtime) = tokio::runtime::Handle::try_current().ok().filter(|_| self.open) else { return };
        let (blobs, path, id) = (Arc::clone(&self.blobs), self.path.clone(), self.id.clone());
        runtime.spawn(async move {
            if let Err(error) = blobs.abort_multipart(&path, &id).await {
                tracing::warn!(name = %path, %error, "parts of an upload that was given up remain");
            }
        });
    }
}

#[async_trait]
impl Storage for CloudStorage {
    fn promises(&self) -> Promises {
        Promises { largest_object: self.largest_object, durable_on_return: true, keeps: true }
    }

    async fn put(&self, name: &str, body: ByteStream, hint: SizeHint) -> Result<u64> {
        let path = self.path(name)?;
        match parts::begin(&self.shown, name, body, self.cut.for_size(hint)).await? {
            Beginning::Whole(content) => {
                let size = content.len() as u64;
                self.blobs.put(&path, content.into()).await.map_err(|error| self.sort("put", name, error))?;
                Ok(size)
            }
            Beginning::Part(first, rest) => self.put_parts(name, path, first, rest).await,
        }
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream> {
        let path = self.path(name)?;
        let wanted = range.unwrap_or(0..u64::MAX);
        if wanted.is_empty() {
            self.stat(name).await?;
            return Ok(stream::empty().boxed());
        }
        let reader =
            Reader { blobs: Arc::clone(&self.blobs), store: Arc::clone(&self.shown), path, name: name.to_owned() };
        let first = self.downloads.first(&wanted);
        let (begun, meta) = match reader.part(first.clone(), None).await {
            Ok(begun) => begun,
            // A range that begins at the end or behind it, of an object that is there.
            Err(error) => {
                return if self.stat(name).await?.size <= first.start {
                    Ok(stream::empty().boxed())
                } else {
                    Err(error)
                };
            }
        };
        let (end, reached) = (wanted.end.min(meta.size), first.end.min(meta.size));
        let (came, due) = (begun.len() as u64, reached.saturating_sub(first.start));
        if came != due {
            let (store, name) = (self.to_string(), name.to_owned());
            let reason = format!("{came} bytes came where {due} were asked for");
            return Err(Error::Failed { store, action: "get", name, reason, retryable: true });
        }
        let reader = Arc::new(reader);
        let rest = ranges::stream(self.downloads.clone(), reached..end, move |part| {
            let (reader, tag) = (Arc::clone(&reader), meta.e_tag.clone());
            async move { reader.part(part, tag).await.map(|(bytes, _)| bytes) }.boxed()
        });
        Ok(stream::once(async { Ok(begun) }).chain(rest).boxed())
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        let meta = self.blobs.head(&self.path(name)?).await.map_err(|error| self.sort("stat", name, error))?;
        Ok(ObjectInfo { name: name.to_owned(), size: meta.size })
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        let folder = match check_prefix(prefix) {
            Ok(folder) => folder,
            Err(reason) => return failed_list(Error::Invalid { store: self.to_string(), reason }),
        };
        let whole = match (self.prefix.is_empty(), folder.is_empty()) {
            (true, true) => None,
            (false, true) => Some(Path::parse(&*self.prefix).map_err(|error| error.to_string())),
            _ => Some(self.parse(folder).map_err(|error| error.to_string())),
        };
        let whole = match whole.transpose() {
            Ok(whole) => whole,
            Err(reason) => return failed_list(Error::Invalid { store: self.to_string(), reason }),
        };
        let prefix = prefix.to_owned();
        let found = self.blobs.list(whole.as_ref());
        found
            .map_err(move |error| self.sort("list", &prefix, error))
            .try_filter_map(async |meta| Ok(self.object(&meta)))
            .boxed()
    }

    async fn delete(&self, name: &str) -> Result<()> {
        match self.blobs.delete(&self.path(name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.sort("delete", name, error)),
        }
    }

    async fn copy(&self, from: &str, to: &str) -> Result<()> {
        let (source, target) = (self.path(from)?, self.path(to)?);
        self.stat(from).await?;
        self.blobs.copy(&source, &target).await.map_err(|error| self.sort("copy", to, error))
    }
}

/// Sorts an error of the crate. What is left of a failed request is text: the status in it decides what may be repeated.
fn sort(store: &str, action: &'static str, name: &str, error: object_store::Error) -> Error {
    use object_store::Error as Of;
    let (store, name) = (store.to_owned(), name.to_owned());
    let reason = reason(&error);
    match error {
        Of::NotFound { .. } if reason.contains("ContainerNotFound") || reason.contains("NoSuchBucket") => {
            Error::Failed { store, action, name, reason, retryable: false }
        }
        Of::NotFound { .. } => Error::NotFound { store, name },
        Of::PermissionDenied { .. } | Of::Unauthenticated { .. } => Error::Denied { store, action, name, reason },
        Of::Precondition { .. } => {
            let reason = "it was replaced while it was read".to_owned();
            Error::Failed { store, action, name, reason, retryable: false }
        }
        Of::Generic { .. } => {
            let status: Option<u16> = reason
                .split_once("status code: ")
                .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
            if status == Some(507) {
                return Error::Full { store, action, name, reason };
            }
            let lasting = status.is_some_and(|it| (400..500).contains(&it) && !matches!(it, 408 | 409 | 429));
            let lasting = lasting || ["certificate", "can't be sent", TOO_LARGE].iter().any(|it| reason.contains(it));
            Error::Failed { store, action, name, reason, retryable: !lasting }
        }
        _ => Error::Failed { store, action, name, reason, retryable: false },
    }
}

/// The error and its causes in one line.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn google(server: &str) -> CloudStorage {
        let document = serde_json::json!({
            "gcs_base_url": server, "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": "",
        });
        let settings = GcsSettings {
            bucket: "b".to_owned(),
            prefix: String::new(),
            access: GcsAccess::Document(document.to_string()),
            cut: Cut { part: 5 << 20, most: 10_000, in_flight: 20 << 20 },
            patience: Patience { attempts: 1, ..Patience::default() },
            http: super::super::http::Settings::default(),
        };
        CloudStorage::gcs(settings).expect("open")
    }

    /// A first range of which a part is missing, behind which the next one would go on.
    #[tokio::test]
    async fn a_first_range_that_is_too_short_is_an_error() {
        let answer = |came: usize| {
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {came}\r\nContent-Range: bytes 0-99/1000\r\n\
                 ETag: \"x\"\r\nLast-Modified: Sat, 21 Nov 2026 00:44:27 GMT\r\n\r\n"
            );
            [head.as_bytes(), &vec![7; came]].concat()
        };
        let got = async |came| {
            let store = google(&transport::always(answer(came)).await);
            store.get("a", Some(0..100)).await?.try_collect::<Vec<_>>().await.map(|all| all.concat()).map_err(|error| {
                store.sort("get", "a", object_store::Error::Generic { store: "", source: error.into() })
            })
        };
        assert_eq!(got(100).await.expect("whole").len(), 100);
        let error = got(60).await.expect_err("40 bytes are missing");
        assert!(
            error.is_retryable() && error.to_string().contains("60 bytes came where 100 were asked for"),
            "{error}"
        );
    }

    #[test]
    fn ranges_fit_into_answers() {
        for (wish, size) in [(1 << 20, 1 << 20), (1 << 30, LARGEST_ANSWER as u64)] {
            let store = google("http://127.0.0.1").downloading(Downloads::within(u64::MAX, 1, wish, 4));
            assert_eq!(store.downloads.size, size);
        }
    }
}
