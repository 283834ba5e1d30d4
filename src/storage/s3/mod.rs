//! S3 and what speaks its protocol.
//!
//! # Overview
//!
//! The types of requests and answers and the signature are `rusoto_s3`'s; everything that touches the network is ours
//! (`dispatch`). `auth` finds credentials, `error` sorts answers, `upload` stores objects of unknown length. No
//! type of rusoto leaves this folder, so another client can take its place.
//!
//! # Consistency
//!
//! A reader sees the old object or the new one: objects appear when their last request succeeds. A `put` of more than one
//! part compares the stored size in the end. Readers of an object that is replaced meanwhile get an error, not a mixture:
//! every range but the first is asked for with the ETag of the first.
//!
//! # Integrity
//!
//! The signature of every upload request covers the SHA-256 of its content, which the store verifies. Old signatures cover
//! its MD5.
//!
//! # Retries
//!
//! Parts and ranges are repeated by [`Settings::patience`]; whole calls are repeated by [`super::wrap::retry`].
//!
//! # Cancellation
//!
//! A dropped or failed upload is aborted, soon after. A killed process leaves its parts; they are removed with
//! [`Storage::delete_prefix`] of their folder.

mod auth;
mod calls;
mod dispatch;
mod error;
mod old_signature;
mod upload;

pub use auth::Keys;

use super::{
    ByteStream, Error, ObjectInfo, Promises, Result, SizeHint, Storage, check_name, check_prefix, failed_list,
    http::{self, HttpClient},
    parts::{self, Beginning, Cut},
    patience::Patience,
    ranges::{self, Downloads},
    refuse_empty_prefix,
};
use async_trait::async_trait;
use auth::Source;
use base64::{Engine, prelude::BASE64_STANDARD};
use calls::Calls;
use dispatch::{Address, Dispatch};
use futures::{FutureExt, StreamExt, TryStreamExt, stream, stream::BoxStream};
use md5::{Digest, Md5};
use rusoto_s3::S3Client;
use std::{fmt, ops::Range, sync::Arc};

/// How the store keeps objects secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket says.
    #[default]
    None,
    /// With keys of the store.
    StoreKeys { algorithm: String },
    /// With a key of the store's key service.
    Kms { algorithm: String, key: String },
    /// With a key that goes with every request.
    Customer(CustomerKey),
}

/// A key in base64 and its MD5.
#[derive(Clone, PartialEq, Eq)]
pub struct CustomerKey {
    pub algorithm: String,
    pub key: String,
    pub md5: String,
}

impl CustomerKey {
    /// # Errors
    /// The reason, if `key` is not 32 bytes in base64.
    pub fn new(algorithm: &str, key: &str) -> Result<Self, String> {
        let bytes = BASE64_STANDARD.decode(key).map_err(|error| format!("the key is not base64: {error}"))?;
        if bytes.len() != 32 {
            return Err(format!("the key has {} bytes instead of 32", bytes.len()));
        }
        let md5 = BASE64_STANDARD.encode(Md5::digest(&bytes));
        Ok(Self { algorithm: algorithm.to_owned(), key: key.to_owned(), md5 })
    }
}

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomerKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// How requests are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signature {
    /// Version 4, which covers the content.
    #[default]
    Current,
    /// Version 2, for stores that know no other one.
    Old,
}

/// Everything about one bucket.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the store is called in messages: `s3`, `minio`, …
    pub kind: &'static str,
    pub region: String,
    /// `https://host[:port]`.
    pub endpoint: String,
    pub path_style: bool,
    pub bucket: String,
    /// Without slashes at its ends; empty for the bucket's root.
    pub prefix: String,
    /// None: what the environment offers.
    pub keys: Option<Keys>,
    pub signature: Signature,
    pub encryption: Encryption,
    pub storage_class: Option<String>,
    pub cut: Cut,
    pub patience: Patience,
    pub http: http::Settings,
}

/// Largest object of one upload, and of one copy request.
const LARGEST_OBJECT: u64 = 5 << 40;

/// A bucket, or a folder of it.
#[derive(Debug, Clone)]
pub struct S3Storage {
    calls: Arc<Calls>,
    shown: Arc<str>,
    prefix: Arc<str>,
    cut: Cut,
    patience: Patience,
    downloads: Downloads,
}

impl S3Storage {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for addresses that can't be one, and CA files that can't be read.
    pub fn open(settings: Settings) -> Result<Self> {
        let shown = if settings.prefix.is_empty() {
            format!("{} {}/{}", settings.kind, settings.endpoint, settings.bucket)
        } else {
            format!("{} {}/{}/{}", settings.kind, settings.endpoint, settings.bucket, settings.prefix)
        };
        let invalid = |reason: String| Error::Invalid { store: shown.clone(), reason };
        let endpoint: ::http::Uri = settings
            .endpoint
            .parse()
            .map_err(|error| invalid(format!("'{}' is not an address: {error}", settings.endpoint)))?;
        let (Some(scheme @ ("http" | "https")), Some(host)) = (endpoint.scheme_str(), endpoint.authority()) else {
            return Err(invalid(format!("'{}' is not an http:// or https:// address", settings.endpoint)));
        };
        if !matches!(endpoint.path(), "" | "/") {
            return Err(invalid(format!("the address '{}' must not have a path", settings.endpoint)));
        }
        let http = HttpClient::new(settings.http).map_err(|error| invalid(error.to_string()))?;
        let address = Address {
            scheme: scheme.to_owned(),
            host: host.to_string(),
            bucket: settings.bucket.clone(),
            path_style: settings.path_style,
        };
        let source = Arc::new(Source::new(settings.keys, &settings.region, &http));
        let dispatch =
            Dispatch { http, address: Arc::new(address), source: Arc::clone(&source), signature: settings.signature };
        // The dispatcher knows the endpoint; the region's name is what goes into signatures.
        let region = rusoto_core::Region::Custom { name: settings.region, endpoint: host.to_string() };
        let client = S3Client::new_with_client(rusoto_core::Client::new_not_signing(dispatch), region);
        let shown: Arc<str> = shown.into();
        let calls = Calls {
            client: calls::S3ClientBox(client),
            store: Arc::clone(&shown),
            bucket: settings.bucket,
            encryption: settings.encryption,
            storage_class: settings.storage_class,
            source,
        };
        Ok(Self {
            calls: Arc::new(calls),
            shown,
            prefix: settings.prefix.into(),
            cut: settings.cut,
            patience: settings.patience,
            downloads: Downloads::default(),
        })
    }

    /// The same store, read in another way.
    #[must_use]
    pub fn downloading(self, downloads: Downloads) -> Self {
        Self { downloads, ..self }
    }

    fn invalid(&self, reason: String) -> Error {
        Error::Invalid { store: self.to_string(), reason }
    }

    /// The object's key in the bucket.
    fn key(&self, name: &str) -> Result<String> {
        check_name(name).map_err(|reason| self.invalid(reason))?;
        Ok(self.join(name))
    }

    fn join(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    /// What all keys of the folder begin with.
    fn folder(&self, prefix: &str) -> Result<String> {
        let folder = check_prefix(prefix).map_err(|reason| self.invalid(reason))?;
        Ok(match (self.prefix.is_empty(), folder.is_empty()) {
            (true, true) => String::new(),
            (false, true) => format!("{}/", self.prefix),
            _ => format!("{}/", self.join(folder)),
        })
    }

    /// The object of a listed key; `None` for what is no object of ours, such as the markers of folders that consoles make.
    fn object(&self, (key, size): (String, u64)) -> Option<ObjectInfo> {
        let name = if self.prefix.is_empty() { &key } else { key.strip_prefix(&*self.prefix)?.strip_prefix('/')? };
        check_name(name).is_ok().then(|| ObjectInfo { name: name.to_owned(), size })
    }
}

impl fmt::Display for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[async_trait]
impl Storage for S3Storage {
    fn promises(&self) -> Promises {
        Promises { largest_object: LARGEST_OBJECT, durable_on_return: true, keeps: true }
    }

    async fn put(&self, name: &str, body: ByteStream, hint: SizeHint) -> Result<u64> {
        let key = self.key(name)?;
        match parts::begin(&self.shown, name, body, self.cut.for_size(hint)).await? {
            Beginning::Whole(content) => {
                let size = content.len() as u64;
                self.patience.repeat("put", name, || self.calls.put(&key, name, content.clone())).await?;
                Ok(size)
            }
            Beginning::Part(first, rest) => {
                upload::in_parts(Arc::clone(&self.calls), self.patience, key, name, first, rest).await
            }
        }
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream> {
        let key = self.key(name)?;
        let wanted = range.unwrap_or(0..u64::MAX);
        if wanted.is_empty() {
            self.stat(name).await?;
            return Ok(stream::empty().boxed());
        }
        let first = self.downloads.first(&wanted);
        let call = || self.calls.get(&key, name, first.clone(), None);
        let Some((begun, of)) = self.patience.repeat("get", name, call).await? else {
            return Ok(stream::empty().boxed());
        };
        let (end, reached) = (wanted.end.min(of.size), first.end.min(of.size));
        let (calls, patience, name) = (Arc::clone(&self.calls), self.patience, name.to_owned());
        let tag = of.tag;
        let rest = ranges::stream(self.downloads.clone(), reached..end, move |part| {
            let (calls, key, name, tag) = (Arc::clone(&calls), key.clone(), name.clone(), tag.clone());
            async move {
                let got =
                    patience.repeat("get", &name, || calls.get(&key, &name, part.clone(), tag.as_deref())).await?;
                Ok(got.map(|(bytes, _)| bytes).unwrap_or_default())
            }
            .boxed()
        });
        Ok(stream::once(async { Ok(begun) }).chain(rest).boxed())
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        let size = self.calls.size(&self.key(name)?, name).await?;
        Ok(ObjectInfo { name: name.to_owned(), size })
    }

    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>> {
        match self.folder(prefix) {
            Ok(folder) => {
                let pages = self.calls.pages(folder, self.patience);
                pages
                    .map_ok(|page| stream::iter(page.into_iter().filter_map(|found| self.object(found)).map(Ok)))
                    .try_flatten()
                    .boxed()
            }
            Err(error) => failed_list(error),
        }
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.calls.delete(&self.key(name)?, name).await
    }

    async fn copy(&self, from: &str, to: &str) -> Result<()> {
        let (source, target) = (self.key(from)?, self.key(to)?);
        upload::copy(&self.calls, self.patience, (&source, from), (target, to)).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<()> {
        if check_prefix(prefix) == Ok("") {
            return Err(refuse_empty_prefix(self));
        }
        let folder = self.folder(prefix)?;
        let pages = self.calls.pages(folder.clone(), self.patience);
        // One page after the other: not every store can list what is being deleted.
        pages
            .try_for_each(|page| async move {
                let keys: Vec<String> = page.into_iter().map(|(key, _)| key).collect();
                self.patience.repeat("delete", prefix, || self.calls.delete_many(&keys, prefix)).await
            })
            .await?;
        upload::abort_abandoned(&self.calls, &folder, prefix).await;
        Ok(())
    }
}
