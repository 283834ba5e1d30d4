//! Reads data objects to their end.

use crate::{
    archive::{crc::Crc64, demux::Archive},
    compress,
    model::compression::Compression,
    storage::Storage,
};
use anyhow::Result;
use futures::TryStreamExt;

/// Reads `object` and returns what is wrong with it: it does not decompress, or it has another size or checksum than
/// `expected`.
///
/// # Errors
/// The object cannot be opened. An error while it is read counts as damage, since a broken object and a broken
/// connection look alike from here.
pub(in crate::upkeep) async fn fault(
    store: &dyn Storage,
    object: &str,
    compression: Compression,
    expected: Option<(i64, i64)>,
) -> Result<Option<String>> {
    let mut content = compress::decode(store.get(object, None).await?, compression);
    let (mut size, mut crc) = (0_u64, Crc64::new());
    loop {
        match content.try_next().await {
            Ok(Some(bytes)) => {
                size += bytes.len() as u64;
                if expected.is_some() {
                    crc.update(&bytes);
                }
            }
            Ok(None) => break,
            Err(error) => return Ok(Some(format!("it cannot be read after {size} bytes: {error}"))),
        }
    }
    Ok(expected.and_then(|(want_size, want_crc)| {
        if u64::try_from(want_size) != Ok(size) {
            Some(format!("it has {size} bytes of documents where the metadata say {want_size}"))
        } else if crc.value() != want_crc {
            Some("its checksum is not that of the metadata".to_owned())
        } else {
            None
        }
    }))
}

/// Reads a mongodump archive to its end and returns what is wrong with it.
///
/// # Errors
/// As [`fault`].
pub(in crate::upkeep) async fn archive_fault(
    store: &dyn Storage,
    object: &str,
    compression: Compression,
) -> Result<Option<String>> {
    let stream = compress::decode(store.get(object, None).await?, compression);
    let mut archive = match Archive::open(stream).await {
        Ok(archive) => archive,
        Err(error) => return Ok(Some(format!("{:#}", anyhow::Error::from(error)))),
    };
    loop {
        match archive.next().await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(format!("{:#}", anyhow::Error::from(error)))),
        }
    }
}
