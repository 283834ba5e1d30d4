//! Object stores behind one trait: whole objects under names, streamed in and out.
//!
//! Drivers ([`fs`], [`memory`], [`blackhole`]) implement [`Storage`]; wrappers ([`wrap`]) implement it over another
//! one. What every implementation promises is written at the methods and checked by [`contract::check`].
//!
//! # Names
//!
//! Relative, `/`-separated, no element empty, `.` or `..`, no NUL: see [`check_name`]. Every other Unicode character
//! may occur, because names of databases and collections go into object names as they are.

pub mod blackhole;
#[cfg(feature = "stores")]
pub mod cloud;
mod complete_listing;
#[doc(hidden)]
pub mod contract;
pub mod fs;
#[cfg(feature = "stores")]
pub mod http;
pub mod memory;
pub mod parts;
pub mod patience;
pub mod ranges;
pub mod rate;
#[cfg(feature = "stores")]
pub mod s3;
mod whole;
pub mod wrap;

pub use complete_listing::list_with;
pub use whole::{body, check_stored, read_all, write_all};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use std::{fmt, ops::Range};

/// The content of an object on its way. An error ends the stream and fails whatever consumes it.
pub type ByteStream = BoxStream<'static, std::io::Result<Bytes>>;

/// A result of a storage call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can branch on; everything else is [`Error::Failed`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("{store}: object '{name}' does not exist")]
    NotFound { store: String, name: String },
    /// The store refuses us: permissions or credentials.
    #[error("{store}: {action} '{name}' was refused: {reason}")]
    Denied { store: String, action: &'static str, name: String, reason: String },
    /// No room left.
    #[error("{store}: {action} '{name}': no space left: {reason}")]
    Full { store: String, action: &'static str, name: String, reason: String },
    /// The body given to `put` failed; nothing was stored.
    #[error("{store}: writing '{name}' was given up because its source failed: {reason}")]
    Source { store: String, name: String, reason: std::io::Error },
    /// The settings or a name cannot work.
    #[error("{store}: {reason}")]
    Invalid { store: String, reason: String },
    /// Everything else. `retryable` says whether the same call may succeed later.
    #[error("{store}: {action} '{name}': {reason}")]
    Failed { store: String, action: &'static str, name: String, reason: String, retryable: bool },
}

impl Error {
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// May the same call succeed later without anybody changing anything?
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Failed { retryable: true, .. })
    }
}

/// One stored object as `list` and `stat` see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Name relative to the storage root.
    pub name: String,
    /// Stored bytes.
    pub size: u64,
}

/// Facts about an implementation that callers plan with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises {
    /// Largest object that one `put` can store.
    pub largest_object: u64,
    /// `put` returns only when the object survives a power cut.
    pub durable_on_return: bool,
    /// Stored objects can be read again.
    pub keeps: bool,
}

/// How much `put` will get, if known: a wrong hint costs speed, not correctness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SizeHint(pub Option<u64>);

/// A store of named objects.
///
/// Names are relative, `/`-separated, without `.` or `..` elements; every other Unicode character may occur.
#[async_trait]
pub trait Storage: fmt::Debug + fmt::Display + Send + Sync {
    /// What callers can rely on beyond the methods' own words.
    fn promises(&self) -> Promises;

    /// Stores `body` under `name`, whole or not at all, and returns the bytes stored.
    ///
    /// A reader sees the old object or the new one, never a part. When this returns, the object is durable as far as
    /// [`Promises::durable_on_return`] says. After an error nothing new is visible under `name`.
    async fn put(&self, name: &str, body: ByteStream, hint: SizeHint) -> Result<u64>;

    /// Streams the object, or the byte range of it. A missing object is [`Error::NotFound`], at the call, not later.
    ///
    /// The range is cut at the end of the object, so one that starts there or later gives an empty stream. Whoever
    /// has begun to read goes on to read the same object if it is replaced or deleted meanwhile, as far as the store
    /// can do that (files can).
    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream>;

    /// Size of the object. A missing object is [`Error::NotFound`]; an empty one is an object of size 0.
    async fn stat(&self, name: &str) -> Result<ObjectInfo>;

    /// Objects whose name starts with `prefix` (a folder: `prefix` is followed by `/` unless empty), in no order.
    /// A prefix with nothing below it gives nothing. Names are relative to the root, not to the prefix. Objects that
    /// come or go while listing may or may not be seen.
    fn list(&self, prefix: &str) -> BoxStream<'_, Result<ObjectInfo>>;

    /// Removes one object; a missing one is success.
    async fn delete(&self, name: &str) -> Result<()>;

    /// Copies within the store, with `put`'s all-or-nothing.
    async fn copy(&self, from: &str, to: &str) -> Result<()>;

    /// Removes every object that `list(prefix)` shows, and what interrupted writes have left there. Nothing there is
    /// success. An empty prefix is refused as [`Error::Invalid`]: nobody means to empty a whole storage.
    ///
    /// Not atomic: after an error some objects are gone and others are not; calling again goes on.
    async fn delete_prefix(&self, prefix: &str) -> Result<()> {
        delete_listed(self, prefix).await
    }
}

/// How many objects [`Storage::delete_prefix`] removes at a time.
const DELETES_AT_ONCE: usize = 16;

/// [`Storage::delete_prefix`] for stores without anything better: list and delete, several at once.
///
/// # Errors
/// The first failing call; the rest is not tried.
pub async fn delete_listed<S: Storage + ?Sized>(store: &S, prefix: &str) -> Result<()> {
    if check_prefix(prefix) == Ok("") {
        return Err(refuse_empty_prefix(store));
    }
    store
        .list(prefix)
        .try_for_each_concurrent(DELETES_AT_ONCE, |object| async move { store.delete(&object.name).await })
        .await
}

fn refuse_empty_prefix<S: Storage + ?Sized>(store: &S) -> Error {
    Error::Invalid { store: store.to_string(), reason: "will not delete everything: the prefix is empty".to_owned() }
}

/// Checks that `name` can name an object: relative, no element empty, `.` or `..`, no NUL.
///
/// # Errors
/// The reason, in words.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.contains('\0') {
        return Err(format!("{name:?} cannot name an object: it contains a NUL"));
    }
    match name.split('/').find(|element| matches!(*element, "" | "." | "..")) {
        Some(element) => Err(format!("'{name}' cannot name an object: '{element}' is not allowed between slashes")),
        None => Ok(()),
    }
}

/// The folder of a listing without its final slash; empty for the root.
fn check_prefix(prefix: &str) -> Result<&str, String> {
    let folder = prefix.strip_suffix('/').unwrap_or(prefix);
    if folder.is_empty() { Ok(folder) } else { check_name(folder).map(|()| folder) }
}

/// Is `name` below the folder `prefix` (without a final slash; empty = everything is)?
fn is_below(name: &str, folder: &str) -> bool {
    folder.is_empty() || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// A stream that only reports `error`.
fn failed_list<'a>(error: Error) -> BoxStream<'a, Result<ObjectInfo>> {
    futures::stream::once(async { Err(error) }).boxed()
}
