//! The storage as the command line sees it: its name, and reading it where it can be reached.

use crate::archive::{
    described,
    meta::{NamespaceMeta, read_prelude},
};
use crate::config::open::{self, Root};
use crate::layout::{Generation, ReplsetLayout};
use crate::model::{backup::BackupMeta, config::StorageConf, store::StoreKind};
use crate::snapshot::unpack::Packed;
use crate::storage::{Error, Storage};
use anyhow::{Context as _, Result};
use std::{path::Path, sync::Arc};

/// The original's word for a storage type.
#[must_use]
pub fn type_name(conf: &StorageConf) -> &'static str {
    conf.store_kind().map_or("Unknown", StoreKind::label)
}

/// Directory or address of the storage.
#[must_use]
pub fn path(conf: &StorageConf) -> String {
    let Some(kind) = conf.store_kind() else { return String::new() };
    if kind == StoreKind::Filesystem {
        return conf.filesystem.as_ref().map(|fs| fs.path.clone()).unwrap_or_default();
    }
    let (scheme, keys) = kind.address();
    let parts: Vec<&str> = keys
        .iter()
        .filter_map(|key| conf.object_store()?.get_str(key).ok())
        .filter(|part| !part.is_empty())
        .map(|part| part.trim_end_matches('/'))
        .collect();
    let parts = parts.join("/");
    if parts.contains("://") { parts } else { format!("{scheme}{parts}") }
}

/// The region, where the kind of storage has one.
#[must_use]
pub fn region(conf: &StorageConf) -> Option<String> {
    conf.object_store()?.get_str("region").ok().map(str::to_owned)
}

/// Opens the storage from this host, for reading.
///
/// # Errors
/// It is a directory that this host does not have; those of opening.
pub async fn open_here(conf: &StorageConf) -> Result<Arc<dyn Storage>> {
    // Opening makes a missing directory, which a reader must not do.
    if conf.is_of(StoreKind::Filesystem)
        && let Some(fs) = &conf.filesystem
        && !Path::new(&fs.path).is_dir()
    {
        let reason = "this directory is not on this host; run this where an agent runs, or mount it here".to_owned();
        return Err(Error::Invalid { store: fs.path.clone(), reason }.into());
    }
    open::open_briefly(conf, "", Root::MustExist).await
}

/// What a backup holds of one replica set.
///
/// # Errors
/// The file is not there or can't be read as `metadata.json`.
pub async fn namespaces(store: &dyn Storage, backup: &BackupMeta, rs: &str) -> Result<Vec<NamespaceMeta>> {
    let part = backup.replsets.iter().find(|part| part.name == rs).context("the backup has no such replica set")?;
    if Generation::of(&backup.pbm_version) == Generation::Archive {
        let packed = Packed { object: part.dump_name.clone(), compression: backup.compression };
        let archive = packed.open(store).await?;
        return read_prelude(archive.prelude()).with_context(|| format!("read {}", packed.object));
    }
    let name = ReplsetLayout::new(&backup.name, rs, backup.compression).metadata_of(part);
    Ok(described::read(store, &name).await.with_context(|| format!("read {name}"))?.namespaces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn places_have_names() {
        let s3 = StorageConf {
            kind: "s3".into(),
            s3: Some(doc! { "bucket": "b", "prefix": "p/", "region": "eu-1" }),
            ..StorageConf::default()
        };
        assert_eq!((path(&s3), type_name(&s3), region(&s3)), ("s3://b/p".into(), "S3", Some("eu-1".into())));
        let with_endpoint = StorageConf { s3: Some(doc! { "endpointUrl": "http://h:9000", "bucket": "b" }), ..s3 };
        assert_eq!(path(&with_endpoint), "http://h:9000/b");
    }
}
