//! How fast data goes through a codec and to a storage: one stream, through the layers that a backup's objects go through.
//!
//! The data is a sample that is kept in memory ([`SAMPLE`] at most) and repeated until it is enough, so that neither the
//! making of data nor the reading of a collection is measured. A sample that is smaller than the window of a codec
//! compresses better when it is repeated than it would alone: [`Sample::is_small`] tells.

use crate::compress;
use crate::layout;
use crate::model::compression::Compression;
use crate::storage::{self, ByteStream, SizeHint, Storage};
use anyhow::{Context, Result, bail};
use bson::{RawDocumentBuf, doc, oid::ObjectId, rawdoc};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::Client;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The most that is kept of the data.
pub const SAMPLE: u64 = 64 << 20;
/// Larger than what any codec looks back to.
const WINDOW: u64 = 16 << 20;
/// Data is handed on in pieces of this size, as dumps hand it on.
const PIECE: usize = 1 << 20;

/// Data to measure with.
#[derive(Debug, Clone)]
pub struct Sample {
    pieces: Vec<Bytes>,
    bytes: u64,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Before compression.
    pub bytes: u64,
    /// After compression.
    pub stored: u64,
    pub took: Duration,
}

impl Measured {
    /// Millions of bytes of data per second, before compression.
    #[must_use]
    pub fn rate(&self) -> f64 {
        per_second(self.bytes, self.took)
    }

    /// Millions of bytes per second after compression.
    #[must_use]
    pub fn stored_rate(&self) -> f64 {
        per_second(self.stored, self.took)
    }

    /// How many times smaller the data became.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    pub fn ratio(&self) -> f64 {
        self.bytes as f64 / (self.stored.max(1)) as f64
    }
}

#[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
fn per_second(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64().max(1e-9)
}

/// Collects documents into pieces.
#[derive(Default)]
struct Collector {
    pieces: Vec<Bytes>,
    open: Vec<u8>,
    bytes: u64,
}

impl Collector {
    fn push(&mut self, document: &[u8]) {
        self.bytes += document.len() as u64;
        self.open.extend_from_slice(document);
        if self.open.len() >= PIECE {
            self.pieces.push(std::mem::take(&mut self.open).into());
        }
    }

    fn finish(mut self) -> Sample {
        if !self.open.is_empty() {
            self.pieces.push(self.open.into());
        }
        Sample { pieces: self.pieces, bytes: self.bytes }
    }
}

impl Sample {
    /// Made-up documents, half of them text that repeats itself as people's data does, half of them noise. Not more than
    /// `wanted` bytes and a document.
    #[must_use]
    pub fn random(wanted: u64) -> Self {
        const WORDS: [&str; 16] = [
            "order",
            "customer",
            "street",
            "pending",
            "shipped",
            "invoice",
            "blue",
            "large",
            "north",
            "returned",
            "monthly",
            "express",
            "account",
            "discount",
            "warehouse",
            "priority",
        ];
        let mut random = SmallRng::from_os_rng();
        let mut sample = Collector::default();
        while sample.bytes < wanted.min(2 * WINDOW) {
            let words = |random: &mut SmallRng, n: usize| -> String {
                (0..n).filter_map(|_| WORDS.choose(random).copied()).collect::<Vec<_>>().join(" ")
            };
            let mut noise = [0_u8; 160];
            random.fill(&mut noise[..]);
            let document = rawdoc! {
                "_id": ObjectId::new(), "status": words(&mut random, 1), "note": words(&mut random, 24),
                "amount": random.random_range(0.0..10_000.0), "count": random.random_range(0..1000),
                "noise": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: noise.to_vec() },
            };
            sample.push(document.as_bytes());
        }
        sample.finish()
    }

    /// The first documents of a collection. Not more than `wanted` bytes and a document.
    ///
    /// # Errors
    /// The collection can't be read, or has no documents.
    pub async fn of_collection(client: &Client, db: &str, coll: &str, wanted: u64) -> Result<Self> {
        let failed = || format!("read {db}.{coll}");
        let collection = client.database(db).collection::<RawDocumentBuf>(coll);
        let mut found = collection.find(doc! {}).await.with_context(failed)?;
        let mut sample = Collector::default();
        while sample.bytes < wanted.min(SAMPLE) {
            let Some(document) = found.try_next().await.with_context(failed)? else { break };
            sample.push(document.as_bytes());
        }
        if sample.bytes == 0 {
            bail!("there are no documents in {db}.{coll}");
        }
        Ok(sample.finish())
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Repeating it up to `wanted` bytes helps codecs in a way in which real data would not.
    #[must_use]
    pub fn is_small(&self, wanted: u64) -> bool {
        self.bytes < WINDOW && self.bytes < wanted
    }

    /// Exactly `wanted` bytes: the sample, again and again.
    #[must_use]
    pub fn stream(&self, wanted: u64) -> ByteStream {
        let pieces = self.pieces.clone();
        stream::unfold((0, wanted), move |(at, left)| {
            let piece = (left > 0).then(|| pieces.get(at % pieces.len().max(1)).cloned()).flatten();
            std::future::ready(piece.map(|mut piece| {
                piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - piece.len() as u64;
                (Ok(piece), (at + 1, left))
            }))
        })
        .boxed()
    }
}

/// A stream, with its bytes counted.
fn counted(stream: ByteStream) -> (ByteStream, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    let stream = stream
        .inspect_ok(move |piece| {
            counter.fetch_add(piece.len() as u64, Relaxed);
        })
        .boxed();
    (stream, count)
}

/// Compresses `bytes` of the sample.
///
/// # Errors
/// The codec has no such level.
pub async fn compression(sample: &Sample, bytes: u64, codec: Compression, level: Option<i32>) -> Result<Measured> {
    let begun = Instant::now();
    let mut encoded = compress::encode(sample.stream(bytes), codec, level)?;
    let mut stored = 0;
    while let Some(piece) = encoded.try_next().await? {
        stored += piece.len() as u64;
    }
    Ok(Measured { bytes, stored, took: begun.elapsed() })
}

/// Writes `bytes` of the sample, compressed, into one object of the storage, and removes it whatever happened. If this is
/// dropped before its end, [`remove`] has to be called with the same `run`.
///
/// # Errors
/// The codec has no such level; the object can't be written or removed.
pub async fn storage(
    sample: &Sample,
    bytes: u64,
    codec: Compression,
    level: Option<i32>,
    store: &dyn Storage,
    run: &str,
) -> Result<Measured> {
    let begun = Instant::now();
    let (body, stored) = counted(compress::encode(sample.stream(bytes), codec, level)?);
    let hint = SizeHint((codec == Compression::None).then_some(bytes));
    let name = layout::speed_test_object(run, codec);
    let put = store.put(&name, body, hint).await;
    let took = begun.elapsed();
    let removed = remove(store, run).await;
    put.context("write the test's object")?;
    removed.with_context(|| format!("remove the test's object {name}"))?;
    Ok(Measured { bytes, stored: stored.load(Relaxed), took })
}

/// Removes what [`storage()`] has written, and parts of it. Fine when there is nothing.
///
/// # Errors
/// Those of the storage.
pub async fn remove(store: &dyn Storage, run: &str) -> storage::Result<()> {
    store.delete_prefix(&layout::speed_test(run)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{
        memory::Memory,
        wrap::faulty::{Call, Fault, Faulty},
    };

    #[tokio::test]
    async fn streams_are_exactly_as_long_as_asked() {
        let sample = Sample::random(3 * PIECE as u64);
        assert!((3 * PIECE as u64..4 * PIECE as u64).contains(&sample.bytes()), "{}", sample.bytes());
        for wanted in [0, 1, 1000, 10 * PIECE as u64 + 7] {
            let got = sample.stream(wanted).try_fold(0, async |sum, piece| Ok(sum + piece.len() as u64)).await;
            assert_eq!(got.expect("no errors"), wanted);
        }
        assert!(sample.is_small(u64::MAX) && !sample.is_small(10));
    }

    #[tokio::test]
    async fn every_codec_is_measured() {
        let sample = Sample::random(100_000);
        for codec in Compression::ALL {
            let it = compression(&sample, 2_000_000, codec, None).await.expect("compress");
            assert_eq!(it.bytes, 2_000_000);
            assert_eq!(it.stored == it.bytes, codec == Compression::None, "{codec}: {it:?}");
            assert!(it.rate() > 0.0 && it.ratio() >= 1.0, "{codec}: {it:?}");
        }
        assert!(compression(&sample, 1, Compression::Gzip, Some(10)).await.is_err());
    }

    #[tokio::test]
    async fn nothing_stays_on_the_storage_whatever_happens() {
        let sample = Sample::random(100_000);
        let memory = Arc::new(Memory::new());
        let store = Faulty::new(memory.clone());
        let it = storage(&sample, 300_000, Compression::Zstd, None, &store, "r").await.expect("write");
        assert!(it.stored > 0 && it.stored < it.bytes, "{it:?}");
        store.fail(Call::Put, 1, Fault::Denied);
        assert!(storage(&sample, 10, Compression::None, None, &store, "r").await.is_err());
        let left: Vec<_> = memory.list("").try_collect().await.expect("list");
        assert_eq!(left, []);
    }
}
