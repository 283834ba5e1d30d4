//! Carries out what [`super::retention`] has planned.
//!
//! # Crash
//!
//! A chunk leaves the index before its object goes, so the index never names what is gone; a backup's document goes
//! last, after it was marked, so nothing that is half deleted looks whole. What a run that was cut short leaves behind
//! is found by the next one: such backups are deleted again, and chunks of our replica sets that are on the storage but
//! not in the index are found by listing ([`strays`]).

use super::{
    objects,
    plan::{Cut, Item, Plan},
    retention::Facts,
};
use crate::control::Control;
use crate::layout::{self, ChunkName};
use crate::model::{config::Config, lock::is_stale, status::Status};
use crate::pitr::timeline::{self, Line, Lines};
use crate::storage::{Storage, check_name};
use anyhow::{Context, Result, bail};
use bson::{Bson, Timestamp, doc};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};

/// Backups deleted at a time, of those that don't depend on each other.
const AT_ONCE: usize = 8;
/// Chunks that leave the index with one write.
const BATCH: usize = 1000;

/// The error of a backup whose deletion did not come to its end.
pub(in crate::upkeep) const DELETION_BEGUN: &str = "its deletion has begun and did not end; delete it again";

/// Reads what a plan is made from.
pub async fn facts(control: &Control, config: &Config) -> Result<Facts> {
    let mut lines = Lines::new();
    let mut spans = std::pin::pin!(control.chunks.spans().await?);
    while let Some(chunk) = spans.try_next().await? {
        timeline::extend(&mut lines, &chunk.rs, Line { start: chunk.start_ts, end: chunk.end_ts });
    }
    Ok(Facts { backups: control.backups.all().await?, lines, slicing: config.slicing() })
}

/// Refuses when another operation runs: it may read what is to go.
pub async fn nothing_else_runs(control: &Control, opid: &str) -> Result<()> {
    let locks = control.locks.all().await?;
    let restores = control.restores.unfinished().await?;
    let now = control.time_of_last_call().await?;
    if let Some(lock) = locks.iter().find(|lock| lock.header.opid != opid && !is_stale(lock.hb, now)) {
        let it = &lock.header;
        bail!("nothing was deleted: the {} with OPID {} is running on {}/{}", it.kind, it.opid, it.replset, it.node);
    }
    // One that has just begun holds no lock yet.
    let beats = |restore: &bson::Document| restore.get_timestamp("hb").is_ok_and(|hb| !is_stale(hb, now));
    if let Some(restore) = restores.iter().find(|restore| beats(restore)) {
        bail!("nothing was deleted: restore {} is running", restore.get_str("name").unwrap_or_default());
    }
    Ok(())
}

/// How much went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    pub backups: usize,
    pub chunks: usize,
}

/// Deletes what goes: backups, then chunks.
///
/// # Errors
/// The first failing call. What was deleted before is gone; the same command goes on.
pub async fn run(control: &Control, store: &dyn Storage, plan: &Plan) -> Result<Pruned> {
    let mut done = Pruned::default();
    let (chained, single): (Vec<&Item>, Vec<&Item>) = plan.going().partition(|item| item.chained);
    for item in chained {
        backup(control, store, &item.name).await?;
        done.backups += 1;
    }
    done.backups += single.len();
    let single: Vec<String> = single.into_iter().map(|item| item.name.clone()).collect();
    stream::iter(single.into_iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, |name| async move { backup(control, store, &name).await })
        .await?;
    if let Some(cut) = &plan.chunks {
        done.chunks = chunks(control, store, cut).await.context("delete PITR chunks")?;
    }
    Ok(done)
}

async fn backup(control: &Control, store: &dyn Storage, name: &str) -> Result<()> {
    let work = async {
        control.backups.set(name, doc! { "status": Status::Error.as_str(), "error": DELETION_BEGUN }).await?;
        objects::backup(store, name).await?;
        control.backups.remove(name).await
    };
    work.await.with_context(|| format!("delete backup {name}"))?;
    tracing::info!("deleted backup {name}");
    Ok(())
}

async fn chunks(control: &Control, store: &dyn Storage, cut: &Cut) -> Result<usize> {
    let indexed = control.chunks.ending_by(cut.until).await?;
    let going = indexed.try_filter(|it| std::future::ready(cut.takes(it.chunk.start_ts, it.chunk.end_ts)));
    let mut batches = std::pin::pin!(going.try_chunks(BATCH));
    let mut done = 0;
    while let Some(batch) = batches.try_next().await.map_err(|error| error.1)? {
        let ids: Vec<Bson> = batch.iter().map(|it| it.id.clone()).collect();
        control.chunks.forget(&ids).await?;
        // A document that names something else must not make us delete it.
        let own = |name: &String| ChunkName::parse(name).is_some() && check_name(name).is_ok();
        let (objects, others): (Vec<_>, Vec<_>) = batch.into_iter().map(|it| it.chunk.fname).partition(own);
        for name in others {
            tracing::warn!("'{name}' left the index of PITR chunks; it is no chunk's name, so the object stays");
        }
        done += ids.len();
        objects::objects(store, objects).await?;
    }
    Ok(done)
}

/// Deletes chunks of the replica sets `ours` that are on the storage and that the index does not know: left by a run that
/// was cut short. What a slicer may be about to add to the index is not touched. Only for a storage that is of no other
/// cluster: its replica sets may have the same names.
///
/// # Errors
/// The first failing call.
pub async fn strays(control: &Control, store: &dyn Storage, cut: &Cut, ours: &BTreeSet<String>) -> Result<usize> {
    let before = slicing(control).await?;
    let found = store.list(layout::PITR).map_err(anyhow::Error::from).try_filter_map(async |object| {
        let name = ChunkName::parse(&object.name);
        let name = name.filter(|name| ours.contains(&name.rs) && cut.takes(name.from, name.to));
        Ok(name.map(|name| (object.name, name)))
    });
    let mut batches = std::pin::pin!(found.boxed().try_chunks(BATCH));
    let mut done = 0;
    while let Some(batch) = batches.try_next().await.map_err(|error| error.1)? {
        let now = slicing(control).await?;
        let idle = |name: &ChunkName| match (before.get(&name.rs), now.get(&name.rs)) {
            (None, None) => true,
            (Some(saved), _) => name.to <= *saved,
            (None, Some(_)) => false,
        };
        let names: Vec<(String, Timestamp)> =
            batch.into_iter().filter(|(_, name)| idle(name)).map(|(object, name)| (object, name.from)).collect();
        let known = control.chunks.known(&names).await?;
        let lost: Vec<String> =
            names.into_iter().map(|(object, _)| object).filter(|name| !known.contains(name)).collect();
        done += lost.len();
        objects::objects(store, lost).await?;
    }
    Ok(done)
}

/// Replica sets with a living slicer, and up to when everything of theirs is in the index.
async fn slicing(control: &Control) -> Result<BTreeMap<String, Timestamp>> {
    let states = control.pitr.get().await?.map(|pitr| pitr.slicers).unwrap_or_default();
    let locks = control.locks.slicers().await?;
    let now = control.time_of_last_call().await?;
    let living = locks.into_iter().filter(|lock| !is_stale(lock.hb, now)).map(|lock| lock.header.replset);
    let saved = |rs: &String| {
        let state = states.iter().find(|state| state.rs == *rs);
        state.map_or(Timestamp { time: 0, increment: 0 }, |state| state.saved)
    };
    Ok(living.map(|rs| (rs.clone(), saved(&rs))).collect())
}
