//! The description of the collections in one replica set's part: `metadata.json` and `meta.pbm`.

use super::{two_parts, wait, words};
use crate::{
    archive::{
        described,
        meta::{
            ArchiveMeta, NamespaceMeta, collection_metadata, read_meta_pbm, read_metadata_json, write_meta_pbm,
            write_metadata_json,
        },
    },
    layout::{ReplsetLayout, is_escaped_name},
    model::compression::Compression,
    storage::{memory::Memory, write_all},
};
use std::collections::BTreeMap;

const NAME: &str = "b/rs0/metadata.json";

/// The input is a `metadata.json`, which a `meta.pbm` may follow.
pub fn check(input: &[u8]) {
    let (json, pbm) = two_parts(input).map_or((input, None), |(json, pbm)| (json, Some(pbm)));
    match read_metadata_json(json) {
        Ok(meta) => accepted_json(&meta),
        Err(error) => {
            words(error);
        }
    }
    if let Some(pbm) = pbm {
        match read_meta_pbm(pbm).or_else(|_| read_meta_pbm(&super::framed(pbm).unwrap_or_default())) {
            Ok((namespaces, remains)) => accepted_pbm(&namespaces, &remains.unwrap_or_default()),
            Err(error) => {
                words(error);
            }
        }
    }
    both(json, pbm);
}

fn accepted_json(meta: &ArchiveMeta) {
    for (object, ns) in meta.stored(&ReplsetLayout::new("b", "rs0", Compression::S2)) {
        assert!(object.starts_with("b/rs0/") && ns.size > 0, "{object}: {} bytes", ns.size);
    }
    for ns in meta.namespaces.iter().chain(&meta.remains) {
        assert!(!ns.db.is_empty() && !ns.coll.is_empty() && ns.size >= 0, "{}.{}: {}", ns.db, ns.coll, ns.size);
        assert!(ns.object.as_deref().is_none_or(is_escaped_name), "{:?}", ns.object);
    }
    let written = write_metadata_json(meta);
    let again = read_metadata_json(&written).expect("a file that was written");
    assert_eq!(String::from_utf8_lossy(&write_metadata_json(&again)), String::from_utf8_lossy(&written));
    assert_eq!((&again.server_version, &again.tool_version), (&meta.server_version, &meta.tool_version));
    assert_eq!(again.written, meta.written);
    let names = meta.namespaces.iter().map(|ns| (&ns.db, &ns.coll));
    assert_eq!(names.collect::<std::collections::BTreeSet<_>>().len(), meta.namespaces.len(), "each once");
    // Buckets and system collections are not listed. All others are unchanged.
    let mut others = BTreeMap::new();
    for ns in &again.namespaces {
        others.insert((&ns.db, &ns.coll), ns);
    }
    for ns in meta.namespaces.iter().filter(|ns| !ns.coll.starts_with("system.")) {
        let other = others.get(&(&ns.db, &ns.coll)).unwrap_or_else(|| panic!("'{}.{}' is lost", ns.db, ns.coll));
        assert_eq!(collection_metadata(other), collection_metadata(ns));
    }
}

fn accepted_pbm(namespaces: &[NamespaceMeta], remains: &[NamespaceMeta]) {
    let write = |namespaces: &[NamespaceMeta], remains: &[NamespaceMeta]| {
        write_meta_pbm("2.15.0", "6.0.5", "6.0", namespaces, remains).expect("a file that was read")
    };
    let written = write(namespaces, remains);
    let (again, remains_again) = read_meta_pbm(&written).expect("a file that was written");
    assert_eq!(write(&again, &remains_again.unwrap_or_default()), written);
    assert_eq!(again.len(), namespaces.len());
}

/// If two files are accepted together, they contain the same description.
fn both(json: &[u8], pbm: Option<&[u8]>) {
    let store = Memory::new();
    let put =
        |name: &str, bytes: &[u8]| wait(write_all(&store, name, bytes.to_vec())).expect("memory takes everything");
    put(NAME, json);
    if let Some(pbm) = pbm {
        put("b/rs0/meta.pbm", pbm);
    }
    let Ok(meta) = wait(described::read(&store, NAME)).inspect_err(|error| drop(words(error))) else { return };
    let Some((namespaces, _)) = pbm.map(|pbm| read_meta_pbm(pbm).expect("it was read before")) else { return };
    // Only the first file contains the names of objects and the list of stored objects.
    let text = |mut namespaces: Vec<NamespaceMeta>| {
        namespaces.iter_mut().for_each(|ns| ns.object = None);
        let meta = ArchiveMeta { namespaces, ..meta.clone() };
        String::from_utf8(write_metadata_json(&meta)).expect("JSON is text")
    };
    assert_eq!(text(namespaces), text(meta.namespaces.clone()), "both files describe the same");
}
