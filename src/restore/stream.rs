//! Passes the entries of oplog objects to the replay.

use super::plan::slices::{Ends, OplogObject, at};
use crate::{
    oplog::read,
    replay::{
        apply::{Flow, Replayer},
        mapping::Mapping,
    },
    routing::shard_ids::{Ids, translated},
    storage::Storage,
};
use anyhow::{Context as _, Result, bail};
use bson::{RawDocument, RawDocumentBuf};
use futures::{Stream, StreamExt as _, stream::BoxStream};
use std::{io, pin::pin};
use tokio_util::sync::CancellationToken;

/// The changes that are made to entries before the replay.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rewrite<'a> {
    /// For a clone: the new names and UUIDs.
    pub clone: Option<&'a Mapping>,
    /// The shard ids of the target.
    pub ids: Option<&'a Ids>,
}

impl<'a> Rewrite<'a> {
    /// Rewrites an entry with the new names or ids. Returns `None` if the entry needs no change.
    pub(super) fn entry(&self, raw: &RawDocument) -> Result<Option<RawDocumentBuf>> {
        self.clone.map(|mapping| mapping.entry(raw.to_owned())).transpose()
    }

    fn entries(
        self,
        entries: impl Stream<Item = io::Result<RawDocumentBuf>> + Send + 'a,
    ) -> BoxStream<'a, io::Result<RawDocumentBuf>> {
        match (self.clone, self.ids.filter(|ids| !ids.is_empty())) {
            (None, None) => entries.boxed(),
            (Some(mapping), _) => entries.map(|entry| mapping.entry(entry?).map_err(io::Error::other)).boxed(),
            (None, Some(ids)) => entries.map(|entry| translated(entry?, ids).map_err(io::Error::other)).boxed(),
        }
    }
}

/// Replays objects in their order, until an object contains an entry after the end of the replay.
pub(super) async fn replay_all(
    storage: &dyn Storage,
    replayer: &mut Replayer,
    objects: &[OplogObject],
    rewrite: Rewrite<'_>,
    cancel: &CancellationToken,
) -> Result<()> {
    for slice in objects {
        let entries = rewrite.entries(read::entries(storage, &slice.name, slice.compression).await?);
        let applied = until(cancel, replayer.apply(entries)).await;
        match applied.with_context(|| format!("replay '{}'", slice.name))? {
            // The slice was complete when it was checked. This comparison notices if it has been truncated since.
            Flow::Continue if slice.ends == Ends::Entries && replayer.last().is_none_or(|last| last < slice.to) => {
                bail!(
                    "'{}' is damaged: its entries end before {}, the end time in its name; nothing more was replayed",
                    slice.name,
                    at(slice.to)
                )
            }
            Flow::Continue => {}
            Flow::PastEnd => break,
        }
    }
    Ok(())
}

/// Waits for `work`, or fails as soon as the restore is cancelled.
pub(super) async fn until<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    tokio::select! {
        () = cancel.cancelled() => bail!("the restore was cancelled"),
        result = &mut work => result,
    }
}
