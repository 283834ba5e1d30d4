//! Reads the description of the collections in one replica set's part of a backup from both files that contain it.
//!
//! `metadata.json` has no checksum, and a flipped bit can hide an index or an option while the file is still valid JSON.
//! `meta.pbm` in the same folder contains the same description, so the two files are compared. Early versions of the original
//! wrote no `meta.pbm`: such a part is accepted if every key of its `metadata.json` is known.

use super::meta::{ArchiveMeta, METADATA_LIMIT, NamespaceMeta, collection_metadata, data_of, is_listed};
use super::meta::{read_meta_pbm, read_metadata_json};
use crate::storage::{self, Storage};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;

/// Index options of all server versions.
const INDEX_OPTIONS: [&str; 31] = [
    "2dsphereIndexVersion",
    "background",
    "bits",
    "bucketSize",
    "buildUUID",
    "clustered",
    "coarsestIndexedLevel",
    "collation",
    "columnstoreProjection",
    "default_language",
    "dropDups",
    "expireAfterSeconds",
    "finestIndexedLevel",
    "hidden",
    "key",
    "language_override",
    "max",
    "min",
    "name",
    "ns",
    "originalSpec",
    "partialFilterExpression",
    "prepareUnique",
    "sparse",
    "storageEngine",
    "textIndexVersion",
    "unique",
    "v",
    "weights",
    "wildcardProjection",
    "safe",
];
/// Options of collections, views and time series in all server versions.
const COLLECTION_OPTIONS: [&str; 23] = [
    "autoIndexId",
    "capped",
    "changeStreamPreAndPostImages",
    "clusteredIndex",
    "collation",
    "create",
    "encryptedFields",
    "expireAfterSeconds",
    "flags",
    "idIndex",
    "indexOptionDefaults",
    "max",
    "pipeline",
    "recordIdsReplicated",
    "recordPreImages",
    "size",
    "storageEngine",
    "temp",
    "timeseries",
    "uuid",
    "validationAction",
    "validationLevel",
    "validator",
];
/// An option that only views have, in addition to the options above.
const VIEW_ON: &str = "viewOn";

/// Whether a server that this program knows has this option of collections, views and time series.
#[must_use]
pub fn is_collection_option(name: &str) -> bool {
    COLLECTION_OPTIONS.contains(&name) || name == VIEW_ON
}

/// Whether a server that this program knows has this option of indexes.
#[must_use]
pub fn is_index_option(name: &str) -> bool {
    INDEX_OPTIONS.contains(&name)
}

/// Reads the `metadata.json` with this name and compares it with the `meta.pbm` in the same folder.
///
/// # Errors
/// One of the two files can't be read or is damaged, or they contradict each other.
pub async fn read(storage: &dyn Storage, name: &str) -> Result<ArchiveMeta> {
    let bytes = storage::read_all(storage, name, METADATA_LIMIT).await?;
    let meta = read_metadata_json(&bytes).with_context(|| format!("read '{name}'"))?;
    let Some(folder) = name.strip_suffix("metadata.json") else { return known(meta, name) };
    let other = format!("{folder}meta.pbm");
    let twin = match storage::read_all(storage, &other, METADATA_LIMIT).await {
        Ok(twin) => twin,
        Err(error) if error.is_not_found() => return known(meta, name),
        Err(error) => return Err(error.into()),
    };
    let advice = || {
        format!(
            "'{name}' and '{other}' must say the same, so one of them is damaged; take an intact copy of it, or, if it is \
             '{other}', move it away: '{name}' is enough where it is whole"
        )
    };
    let (namespaces, remains) = read_meta_pbm(&twin).with_context(|| format!("read '{other}'")).with_context(advice)?;
    agree(&meta.namespaces, &namespaces).with_context(advice)?;
    if let Some(remains) = remains {
        agree(&meta.remains, &remains).with_context(advice)?;
    }
    Ok(meta)
}

fn known(meta: ArchiveMeta, name: &str) -> Result<ArchiveMeta> {
    check_keys(&meta).with_context(|| format!("read '{name}'"))?;
    Ok(meta)
}

/// Checks that every option of a collection or an index exists in some server version.
fn check_keys(meta: &ArchiveMeta) -> Result<()> {
    for ns in meta.namespaces.iter().chain(&meta.remains) {
        let indexes = ns.indexes.iter().flatten().flat_map(bson::Document::keys);
        if let Some(key) = indexes.into_iter().find(|key| !is_index_option(key)) {
            bail!(
                "an index of '{}.{}' has the option '{key}', which no known server has: it is damaged, or of a newer server",
                ns.db,
                ns.coll
            );
        }
        let mut options = ns.options.keys();
        if let Some(key) = options.find(|key| !is_collection_option(key)) {
            bail!(
                "'{}.{}' has the option '{key}', which no known server has: it is damaged, or of a newer server",
                ns.db,
                ns.coll
            );
        }
    }
    Ok(())
}

/// Checks that both lists have the same namespaces with the same descriptions. The second list also contains bucket
/// collections.
fn agree(json: &[NamespaceMeta], pbm: &[NamespaceMeta]) -> Result<()> {
    let mut rest: BTreeMap<(&str, &str), &NamespaceMeta> =
        pbm.iter().map(|ns| ((ns.db.as_str(), ns.coll.as_str()), ns)).collect();
    for ns in json {
        let Some(twin) = rest.remove(&(ns.db.as_str(), ns.coll.as_str())) else {
            bail!("only the first one knows '{}.{}'", ns.db, ns.coll);
        };
        let data = data_of(twin, pbm);
        if (ns.size, ns.crc) != (data.size, data.crc) {
            bail!("they tell different sizes or checksums of '{}.{}'", ns.db, ns.coll);
        }
        let (mine, other) = (collection_metadata(ns), collection_metadata(twin));
        if mine != other {
            bail!("they describe '{}.{}' differently: {}", ns.db, ns.coll, difference(&mine, &other));
        }
    }
    match rest.into_values().find(|ns| is_listed(ns)) {
        Some(ns) => bail!("only the second one knows '{}.{}'", ns.db, ns.coll),
        None => Ok(()),
    }
}

/// How many characters of a difference an error shows.
const SHOWN: usize = 40;

/// Returns both texts, beginning at the first difference.
fn difference(a: &str, b: &str) -> String {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| text.chars().skip(same.saturating_sub(SHOWN / 2)).take(SHOWN).collect::<String>();
    format!("'{}' and '{}'", part(a), part(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::meta::{NamespaceKind, write_meta_pbm, write_metadata_json};
    use crate::storage::{memory::Memory, write_all};
    use bson::doc;

    const NAME: &str = "b/rs0/metadata.json";

    fn namespace(coll: &str, kind: NamespaceKind, size: i64) -> NamespaceMeta {
        let by_sku = doc! { "v": 2, "key": { "sku": 1 }, "name": "sku_1", "unique": true,
        "partialFilterExpression": { "sku": { "$type": "string" }, "x": f64::NAN } };
        let starts = bson::Regex {
            pattern: "^x".try_into().expect("a pattern"),
            options: "mi".try_into().expect("some options"),
        };
        NamespaceMeta {
            db: "shop".into(),
            coll: coll.into(),
            kind,
            options: doc! { "validator": { "a": starts } },
            indexes: Some(vec![doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }, by_sku]),
            uuid: Some(bson::Uuid::from_bytes([7; 16])),
            crc: size * 3,
            size,
            object: None,
        }
    }

    fn archive() -> ArchiveMeta {
        let mut series = namespace("ts", NamespaceKind::Timeseries, 0);
        series.options = doc! { "timeseries": { "timeField": "t" } };
        ArchiveMeta {
            concurrent_collections: 2,
            server_version: "6.0.5".into(),
            tool_version: "2.15.0".into(),
            namespaces: vec![
                namespace("orders", NamespaceKind::Collection, 5),
                series,
                namespace("system.buckets.ts", NamespaceKind::Collection, 9),
            ],
            remains: vec![namespace("system.buckets.orders", NamespaceKind::Collection, 4)],
            written: Vec::new(),
        }
    }

    async fn said(json: Vec<u8>, pbm: Option<Vec<u8>>) -> String {
        let store = Memory::new();
        write_all(&store, NAME, json).await.expect("memory takes everything");
        if let Some(pbm) = pbm {
            write_all(&store, "b/rs0/meta.pbm", pbm).await.expect("memory takes everything");
        }
        read(&store, NAME).await.map_or_else(|error| format!("{error:#}"), |_| "read".to_owned())
    }

    fn files() -> (Vec<u8>, Vec<u8>) {
        let meta = archive();
        let pbm = write_meta_pbm("2.15.0", "6.0.5", "6.0", &meta.namespaces, &meta.remains).expect("encoded");
        (write_metadata_json(&meta), pbm)
    }

    #[tokio::test]
    async fn both_files_say_the_same() {
        let (json, pbm) = files();
        assert_eq!(said(json.clone(), Some(pbm.clone())).await, "read");
        assert_eq!(said(json.clone(), None).await, "read");
        assert!(said(json, Some(pbm[..20].to_vec())).await.contains("move it away"));
    }

    /// Flips one bit in every byte that describes collections, one byte after another.
    #[tokio::test]
    async fn no_flipped_bit_goes_unseen() {
        let (json, pbm) = files();
        let begin = json.windows(12).position(|w| w == b"\"namespaces\"").expect("the list");
        let mut unseen = Vec::new();
        for at in begin..json.len() {
            let mut damaged = json.clone();
            damaged[at] ^= 1 << (at % 7);
            let before = read_metadata_json(&damaged);
            if said(damaged.clone(), Some(pbm.clone())).await == "read"
                && before.is_ok_and(|meta| write_metadata_json(&meta) != json)
            {
                let around = &damaged[at.saturating_sub(20)..(at + 20).min(damaged.len())];
                unseen.push(String::from_utf8_lossy(around).into_owned());
            }
        }
        assert!(unseen.is_empty(), "{}", unseen.join("\n"));
    }

    /// Without `meta.pbm`, unknown keys are still detected.
    #[tokio::test]
    async fn unknown_keys_are_refused() {
        let text = String::from_utf8(files().0).expect("text");
        for (key, other) in [
            ("\\\"indexes\\\"", "\\\"indepes\\\""),
            ("\\\"options\\\"", "\\\"optyons\\\""),
            ("\\\"uuid\\\"", "\\\"uwid\\\""),
            ("\\\"unique\\\"", "\\\"unipue\\\""),
            ("\\\"partialFilterExpression\\\"", "\\\"pqrtialFilterExpression\\\""),
            ("\\\"validator\\\"", "\\\"valhdator\\\""),
            ("\"crc\"", "\"crs\""),
            ("\"size\"", "\"syze\""),
            ("\"metadata\"", "\"metedata\""),
            ("\"namespaces\"", "\"namespaxes\""),
            ("\"remains\"", "\"remaims\""),
        ] {
            assert!(text.contains(key), "{key}");
            let refusal = said(text.replacen(key, other, 1).into_bytes(), None).await;
            assert_ne!(refusal, "read", "{other}");
        }
    }

    #[test]
    fn a_difference_is_shown() {
        let (a, b) = (doc! { "a": 1 }.to_string(), doc! { "a": 2 }.to_string());
        assert_eq!(difference(&a, &b), format!("'{a}' and '{b}'"));
    }
}
