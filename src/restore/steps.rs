//! The logical restore of one replica set, step by step, without statuses and locks. Each step consumes the previous
//! state, so steps in another order do not compile:
//!
//! ```text
//! prepare            read the metadata, list the objects, look at the target, read the oplog → Checked; changes nothing
//! drop               what the backup and the oplog replace → Emptied
//! load               create everything empty; storage → decompress → insert → Filled
//!   put_users_back     users and roles
//!   put_settings_back  the content of `config.settings`
//! put_routing_back   the tables of a config server, nothing elsewhere → Routed
//! replay             oplog objects in order, up to the end of the backup or to the moment → Current
//! finish             indexes and the options that had to wait
//! ```
//!
//! The caller publishes statuses between the steps and logs their results. A failed step leaves the target incomplete.
//! The restore then has to be run again from its beginning, which is always possible.

pub mod all_shards;
mod prepare;

use super::{
    create,
    plan::{Planned, PointInTime, RestorePlan, Target, TargetNamespace, namespaces::Wish},
    settings,
    stream::{Rewrite, replay_all, until},
    users,
};
use crate::{
    archive::meta::{NamespaceKind, NamespaceMeta},
    model::{backup::BackupMeta, names::BUCKETS, selection::Selection},
    replay::{
        apply::{ReplayOptions, Replayed, Replayer, Settled},
        build::{Built, CommitQuorum},
        catalog::Catalog,
        followed_names::Followed,
        txn::Committed,
    },
    routing::{own::Own, put_back, shard_ids::Ids},
    snapshot::{
        batch::InsertInto,
        load::{Goal, LoadItem, LoadOptions, LoadProgress, Loaded, load},
        unpack::{Job, Packed, unpack},
    },
    storage::Storage,
};
use anyhow::{Context as _, Result};
use mongodb::Client;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// The parameters of a restore.
#[derive(Debug, Clone)]
pub struct Order {
    pub backup: BackupMeta,
    /// The replica set's name in the backup.
    pub rs: String,
    pub wish: Wish,
    pub load: LoadOptions,
    pub quorum: CommitQuorum,
    /// The moment to restore to. `None` means the moment at which the backup ends.
    pub point: Option<PointInTime>,
    /// Whether the target is one of several replica sets.
    pub sharded: bool,
    /// The shard ids of the backup that differ from those of the cluster.
    pub ids: Ids,
    /// Maps each replica set of the backup to its shard id in the cluster.
    pub places: BTreeMap<String, String>,
}

/// Everything is planned and the oplog has been read; nothing is changed.
#[derive(Debug)]
pub struct Checked {
    catalog: Catalog,
    /// The part of a cluster's routing that the restore replaces.
    routing: Own,
}

/// State: everything that the restore replaces is dropped.
#[derive(Debug)]
pub struct Emptied(Checked);

/// State: the documents of the backup are loaded.
#[derive(Debug)]
pub struct Filled(Checked);

/// The routing tables of the backup are there, too.
#[derive(Debug)]
pub struct Routed {
    catalog: Catalog,
    /// The part of a cluster's routing that the replay may change.
    routing: Own,
}

/// State: the oplog is replayed, so the documents are those of the wanted moment.
#[derive(Debug)]
pub struct Current {
    replayed: Replayed,
}

/// A restore in progress.
#[derive(Debug)]
pub struct Steps<S = Checked> {
    /// A box, because it moves from state to state.
    work: Box<Work>,
    state: S,
}

/// The data that all steps use.
#[derive(Debug)]
struct Work {
    storage: Arc<dyn Storage>,
    /// The place of the users, roles and routing tables.
    aside: Arc<dyn Storage>,
    /// For a backup made before 2.0: the archive with all documents.
    archive: Option<Packed>,
    client: Client,
    order: Order,
    plan: RestorePlan,
    /// The target's state before the restore.
    target: Target,
    progress: Arc<LoadProgress>,
    followed: Followed,
}

impl<S> Steps<S> {
    #[must_use]
    pub fn plan(&self) -> &RestorePlan {
        &self.work.plan
    }

    /// Returns the namespaces of the target at the time of the plan.
    pub fn there(&self) -> impl Iterator<Item = &TargetNamespace> {
        self.work.target.namespaces.iter()
    }

    /// Returns the selection that is restored.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.work.order.wish.selection
    }

    /// Returns the storage of the backup.
    #[must_use]
    pub fn storage(&self) -> &dyn Storage {
        self.work.storage.as_ref()
    }

    /// Returns the counters of [`Steps::load`].
    #[must_use]
    pub fn progress(&self) -> Arc<LoadProgress> {
        self.work.progress.clone()
    }
}

impl Steps<Checked> {
    /// Drops everything that the restore replaces. From here on the target is changed.
    pub async fn drop(self, cancel: &CancellationToken) -> Result<Steps<Emptied>> {
        create::drop_all(&self.work.client, &self.work.plan.drops, cancel).await?;
        Ok(Steps { work: self.work, state: Emptied(self.state) })
    }
}

impl Steps<Emptied> {
    /// Creates everything empty and loads all documents. Returns when a majority has them.
    pub async fn load(self, cancel: &CancellationToken) -> Result<(Steps<Filled>, Loaded)> {
        let Self { work, state: Emptied(mut checked) } = self;
        let loaded = Box::pin(work.load(&mut checked.catalog, cancel)).await?;
        Ok((Steps { work, state: Filled(checked) }, loaded))
    }
}

impl Work {
    async fn load(&self, catalog: &mut Catalog, cancel: &CancellationToken) -> Result<Loaded> {
        // `finish` sets the options that would disturb the loading and the replay.
        let collections = take_up(catalog, &self.plan.collections);
        let views = take_up(catalog, &self.plan.views);
        create::create_all(&self.client, &collections, &views, cancel).await?;
        let items = self.plan.collections.iter().filter_map(load_item).collect();
        if let Some(packed) = &self.archive {
            let job = Job::new(packed.clone(), items);
            let options = (self.order.load, self.progress.clone());
            return Ok(unpack(self.storage.as_ref(), &self.client, job, options, cancel).await?);
        }
        let loaded = self.load_items(items, cancel).await?;
        let remains = take_up(catalog, &self.plan.remains);
        create::create_all(&self.client, &remains, &[], cancel).await.context("create buckets of no series")?;
        let items = self.plan.remains.iter().filter_map(load_item).collect();
        Ok(loaded + self.load_items(items, cancel).await?)
    }

    async fn load_items(&self, items: Vec<LoadItem>, cancel: &CancellationToken) -> Result<Loaded> {
        let (storage, progress) = (self.storage.clone(), self.progress.clone());
        Ok(load(storage, &self.client, items, self.order.load, progress, cancel).await?)
    }
}

impl Steps<Filled> {
    /// Restores the users and roles of the backup.
    pub async fn put_users_back(&self, cancel: &CancellationToken) -> Result<users::Swapped> {
        let wish = &self.work.order.wish;
        let databases: Option<Vec<&str>> = (!wish.selection.is_everything()).then(|| wish.selection.databases());
        let swap = users::put_back(
            self.work.aside.as_ref(),
            &self.work.client,
            &self.work.plan.users,
            databases.as_deref(),
            cancel,
        );
        swap.await.context("put users and roles back")
    }

    /// Restores the settings of the cluster one by one. The state of the balancer does not change.
    pub async fn put_settings_back(&self, cancel: &CancellationToken) -> Result<()> {
        let Some(source) = &self.work.plan.settings else { return Ok(()) };
        let work = settings::put_back(self.work.aside.as_ref(), &self.work.client, source.as_ref());
        until(cancel, work).await.context("put the settings of the cluster back")
    }

    /// Puts the routing tables of a config server back, with the shards' new ids. In a full restore, databases that are not
    /// among `ours` keep their routing. Does nothing on other replica sets.
    pub async fn put_routing_back(self, ours: &BTreeSet<String>, cancel: &CancellationToken) -> Result<Steps<Routed>> {
        let Self { work, state: Filled(Checked { catalog, mut routing }) } = self;
        if work.order.wish.config_server {
            let (source, ids) = (&work.plan.routing, &work.order.ids);
            let back = put_back::put_back(work.aside.as_ref(), &work.client, source, ids, routing, ours);
            routing = until(cancel, Box::pin(back)).await.context("put the routing tables back")?;
        }
        Ok(Steps { work, state: Routed { catalog, routing } })
    }
}

impl Steps<Routed> {
    /// Replays the oplog up to the end of the backup, or to the moment that is wanted.
    ///
    /// After the replay, `exchange` receives the transactions that this shard committed. When all shards have replayed,
    /// it returns the transactions that any shard committed.
    pub async fn replay<F>(self, cancel: &CancellationToken, exchange: F) -> Result<(Steps<Current>, Settled)>
    where
        F: AsyncFnOnce(&[Committed]) -> Result<HashSet<String>>,
    {
        let Self { work, state: Routed { catalog, routing } } = self;
        let Work { plan, order, followed, .. } = work.as_ref();
        let start = plan.oplog.first().map_or(plan.end, |slice| slice.from);
        let mut options = ReplayOptions::new(start, plan.end, plan.consistent_from);
        options.scope.config_server = order.wish.config_server;
        options.scope.selection = order.wish.selection.clone();
        options.scope.users = order.wish.users;
        options.scope.followed = followed.uuids.clone();
        options.scope.routing = routing;
        let mut replayer = Replayer::new(work.client.clone(), catalog, options);
        let rewrite = Rewrite { clone: order.wish.clone.as_ref(), ids: Some(&order.ids) };
        Box::pin(replay_all(work.storage.as_ref(), &mut replayer, &plan.oplog, rewrite, cancel)).await?;
        let committed = until(cancel, exchange(&replayer.committed())).await?;
        let settled = until(cancel, replayer.settle(&committed)).await.context("finish transactions")?;
        let replayed = replayer.finish().await?;
        Ok((Steps { work, state: Current { replayed } }, settled))
    }
}

impl Steps<Current> {
    /// Returns the result of the replay.
    #[must_use]
    pub fn replayed(&self) -> &Replayed {
        &self.state.replayed
    }

    /// Builds the indexes and sets the deferred options, as they are after the replay.
    pub async fn finish(&self, cancel: &CancellationToken) -> Result<Built> {
        until(cancel, self.state.replayed.catalog.build(&self.work.client, &self.work.order.quorum))
            .await
            .context("build indexes")
    }
}

/// What is to be created of these namespaces; the catalogue keeps the rest.
fn take_up(catalog: &mut Catalog, planned: &[Planned]) -> Vec<NamespaceMeta> {
    let first = |it: &Planned| NamespaceMeta { options: catalog.add(&it.meta), ..it.meta.clone() };
    planned.iter().map(first).collect()
}

/// Returns the documents of a collection and the collection into which they are loaded.
fn load_item(planned: &Planned) -> Option<LoadItem> {
    let is_series = planned.meta.kind == NamespaceKind::Timeseries || planned.meta.coll.starts_with(BUCKETS);
    let series = is_series.then(|| planned.meta.coll.clone());
    Some(LoadItem {
        data: planned.data.clone()?,
        goal: Goal {
            into: InsertInto {
                db: planned.meta.db.clone(),
                coll: planned.data_collection(),
                ordered: planned.meta.options.get_bool("capped").unwrap_or_default(),
                bypass_validation: series.is_none(),
            },
            series,
        },
    })
}
