//! The data of a physical backup: its files, in which the server itself goes on to the wanted moment.

use super::{CACHE_GB, Wish};
use crate::datafiles::{
    download::{self, Fetch},
    program::Program,
    recovery::{self, Files},
};
use crate::layout::ReplsetLayout;
use crate::restore::physical::plan;
use crate::storage::Storage;
use anyhow::{Context as _, Result, ensure};
use bson::Document;
use std::{path::Path, sync::Arc, sync::atomic::AtomicU64};

/// Files that are fetched at a time.
const AT_ONCE: usize = 4;

/// Fetches the files into the empty folder `data`. Returns the options with which a server reads them.
pub(super) async fn bring(storage: &Arc<dyn Storage>, wish: &Wish, program: &Program, data: &Path) -> Result<Document> {
    let Wish { backup, rs, selection, point } = wish;
    ensure!(
        selection.is_everything(),
        "a physical backup can only be served as a whole: leave --ns and --ns-exclude out"
    );
    let part = plan::part_named(backup, rs)?;
    plan::check_series(program, backup).context("give another mongod with --mongod")?;
    let storage = storage.as_ref();
    let layout = ReplsetLayout::new(&backup.name, rs, backup.compression);
    let files = plan::files(storage, backup, rs, &layout).await?;
    let oplog = match point {
        Some(point) => plan::oplog(storage, backup, part, &point.chunks, point.target).await?,
        None => Vec::new(),
    };
    let fetch = Fetch { layout: &layout, files: &files, folder: data, at_once: AT_ONCE, written: &AtomicU64::new(0) };
    download::fetch(storage, fetch).await.context("fetch the files")?;
    let options = part.mongod_opts.clone().unwrap_or_default();
    let files = Files { program, folder: data, options: &options, cache_gb: Some(CACHE_GB) };
    let end = point.as_ref().map_or_else(|| plan::last_write(backup, part), |point| point.target);
    let saved = (!oplog.is_empty()).then(|| plan::entries(storage, &oplog));
    recovery::prepare(files, end, saved).await?;
    recovery::recover(files).await?;
    Ok(options)
}
