//! Is the oplog that is to be replayed whole? Every object is read to its end before anything of the target is changed.

use super::slices::{OplogObject, moment};
use crate::{
    model::compression::Compression,
    oplog::{entry::Entry, follow::note_databases, read},
    storage::Storage,
};
use anyhow::{Context as _, Result, bail};
use bson::{Document, Timestamp};
use futures::{StreamExt as _, stream};
use std::{collections::BTreeSet, sync::Arc};

/// Objects read at the same time.
pub const AT_ONCE: usize = 4;

/// An object that can't be replayed.
#[derive(Debug)]
pub struct Unsound {
    /// Its position.
    pub at: usize,
    /// What is wrong with it, with its name.
    pub why: String,
}

/// Reads all of `objects`, some at a time. Gives the databases in which they create something up to `end`.
///
/// # Errors
/// The first unsound one in their order.
pub async fn check(
    storage: &Arc<dyn Storage>,
    objects: &[OplogObject],
    end: Timestamp,
) -> Result<BTreeSet<String>, Unsound> {
    let mut made = BTreeSet::new();
    let mut read = stream::iter(objects.iter().cloned().enumerate())
        .map(|(at, object)| {
            let storage = storage.clone();
            async move { (at, whole(storage.as_ref(), &object, end).await, object.name) }
        })
        .buffered(AT_ONCE);
    while let Some((at, result, name)) = read.next().await {
        match result {
            Ok(databases) => made.extend(databases),
            Err(error) => {
                return Err(Unsound { at, why: format!("oplog object '{name}' cannot be used: {error:#}") });
            }
        }
    }
    Ok(made)
}

/// As [`check`], of an oplog that was checked when it was written.
///
/// # Errors
/// It can't be read.
pub async fn databases(storage: &dyn Storage, objects: &[OplogObject], end: Timestamp) -> Result<BTreeSet<String>> {
    let mut made = BTreeSet::new();
    for object in objects {
        let read = async {
            let mut entries = std::pin::pin!(read::entries(storage, &object.name, object.compression).await?);
            while let Some(raw) = entries.next().await {
                let raw = raw.context("read its entries")?;
                let entry = Entry::parse(&raw, None)?;
                if entry.ts > end {
                    break;
                }
                note_databases(&entry, &mut made)?;
            }
            anyhow::Ok(())
        };
        read.await.with_context(|| format!("read oplog object '{}'", object.name))?;
    }
    Ok(made)
}

/// The entries are readable, in order, and reach from the start to the end that the object's name tells.
async fn whole(storage: &dyn Storage, object: &OplogObject, end: Timestamp) -> Result<BTreeSet<String>> {
    let mut made = BTreeSet::new();
    let mut entries = std::pin::pin!(read::entries(storage, &object.name, object.compression).await?);
    let (mut first, mut last): (Option<Timestamp>, Option<Timestamp>) = (None, None);
    while let Some(raw) = entries.next().await {
        let raw = raw.with_context(|| match last {
            Some(last) => format!("read it after the entry at {}", moment(last)),
            None => "read its first entry".to_owned(),
        })?;
        let entry = Entry::parse(&raw, None)?;
        let ts = entry.ts;
        if ts <= end {
            note_databases(&entry, &mut made)?;
        }
        if object.compression == Compression::None {
            // There is no checksum; at least what is no BSON shows.
            Document::try_from(&*raw).with_context(|| format!("read the entry at {}", moment(ts)))?;
        }
        if let Some(last) = last.filter(|last| ts < *last) {
            bail!("the entry at {} comes after the one at {}", moment(ts), moment(last));
        }
        first.get_or_insert(ts);
        last = Some(ts);
    }
    match (first, last) {
        (Some(first), _) if first > object.from => {
            bail!("it begins at {} in place of {}", moment(first), moment(object.from))
        }
        (_, Some(last)) if last < object.to => {
            bail!("it ends at {} in place of {}", moment(last), moment(object.to))
        }
        (Some(_), Some(_)) => Ok(made),
        _ => bail!("it is empty"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compress,
        storage::{body, memory::Memory, write_all},
    };
    use bson::rawdoc;

    fn ts(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    fn entries(times: &[u32]) -> Vec<u8> {
        let entry =
            |time: &u32| rawdoc! { "ts": ts(*time), "op": "n", "ns": "", "o": { "msg": "some text" } }.into_bytes();
        times.iter().flat_map(entry).collect()
    }

    async fn verdict(content: Option<Vec<u8>>, compression: Compression) -> String {
        let store: Arc<dyn Storage> = Arc::new(Memory::new());
        let name = "pbmPitr/rs0/x".to_owned();
        if let Some(content) = content {
            write_all(store.as_ref(), &name, content).await.expect("memory takes everything");
        }
        let good = OplogObject { name: "good".into(), size: 1, compression: Compression::None, from: ts(1), to: ts(9) };
        write_all(store.as_ref(), "good", entries(&[1, 9])).await.expect("memory takes everything");
        let object = OplogObject { name, size: 1, compression, from: ts(10), to: ts(20) };
        match check(&store, &[good, object], ts(20)).await {
            Ok(_) => "whole".to_owned(),
            Err(unsound) => format!("{} {}", unsound.at, unsound.why),
        }
    }

    #[tokio::test]
    async fn damage_of_every_kind_is_seen() {
        let good = entries(&[10, 15, 20]);
        let mut structure = good.clone();
        // The type of the last element of the first entry's inner document.
        let at = structure.windows(4).position(|w| w == b"\x02msg").expect("the field");
        structure[at] = 0x7e;
        for (content, expected) in [
            (Some(good.clone()), "whole"),
            (None, "does not exist"),
            (Some(Vec::new()), "1 oplog object 'pbmPitr/rs0/x' cannot be used: it is empty"),
            (Some(good[..good.len() - 3].to_vec()), "ends within an entry"),
            (Some(entries(&[10, 15])), "ends at 1970-01-01T00:00:15Z (15,1) in place of"),
            (Some(entries(&[11, 20])), "begins at 1970-01-01T00:00:11Z (11,1) in place of"),
            (Some(entries(&[10, 16, 15, 20])), "(15,1) comes after the one at"),
            (Some(structure), "read the entry at"),
        ] {
            let said = verdict(content, Compression::None).await;
            assert!(said.contains(expected), "{expected}: {said}");
        }
        for codec in [Compression::Gzip, Compression::Zstd, Compression::S2, Compression::Snappy, Compression::Lz4] {
            let packed = compress::encode(body(good.clone()), codec, None).expect("an encoder");
            let mut packed: Vec<u8> =
                futures::TryStreamExt::try_concat(packed.map(|p| p.map(|p| p.to_vec()))).await.expect("packed");
            assert_eq!(verdict(Some(packed.clone()), codec).await, "whole", "{codec:?}");
            let half = packed[..packed.len() / 2].to_vec();
            assert!(verdict(Some(half), codec).await.starts_with("1 "), "{codec:?}");
            let middle = packed.len() / 2;
            packed[middle] ^= 0x10;
            assert!(verdict(Some(packed), codec).await.starts_with("1 "), "{codec:?}: a flipped bit");
        }
    }
}
