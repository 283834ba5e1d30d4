//! The logical restore of one replica set, step by step, without statuses and locks. Each step consumes the previous
//! state, so steps in another order do not compile:
//!
//! ```text
//! prepare            read the metadata, list the objects, look at the target, read the oplog → Checked; changes nothing
//! drop               what the backup and the oplog replace → Emptied
//! load               create everything empty; storage → decompress → insert → Filled
//!   put_users_back     users and roles
//!   put_settings_back  the content of `config.settings`
//!   put_routing_back   the tables of a config server
//! replay             oplog objects in order, up to the end of the backup or to the moment → Current
//! finish             indexes and the options that had to wait
//! ```
//!
//! The caller publishes statuses between the steps and logs their results. A failed step leaves the target incomplete.
//! The restore then has to be run again from its beginning, which is always possible.

use super::{
    create,
    legacy_archive::{Contents, inspect},
    oplog_check, part,
    plan::{
        Drop, Facts, Planned, PointInTime, Refusal, RestorePlan, Target, TargetNamespace,
        namespaces::Wish,
        plan as decide, restorable,
        slices::{at, moment},
        version::Version,
    },
    router::{self, Ids},
    settings,
    stream::{Rewrite, replay_all, until},
    target_state, users,
};
use crate::{
    archive::{
        described,
        meta::{NamespaceKind, NamespaceMeta, Written},
    },
    layout::{BUCKETS, Generation, PITR, ReplsetLayout},
    model::{backup::BackupMeta, selection::Selection},
    replay::{
        apply::{ReplayOptions, Replayed, Replayer, Settled},
        build::{Built, CommitQuorum},
        catalog::Catalog,
        followed_names::{Asked, Followed, Present},
        own_routing::OwnRouting,
        txn::Committed,
    },
    snapshot::{
        batch::InsertInto,
        load::{Goal, LoadItem, LoadOptions, LoadProgress, Loaded, load},
        unpack::{Job, Packed, unpack},
    },
    storage::{self, ObjectInfo, Storage},
};
use anyhow::{Context as _, Result};
use mongodb::Client;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
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

/// The parts of a replica set's backup.
struct Stored<'a> {
    namespaces: &'a [NamespaceMeta],
    remains: &'a [NamespaceMeta],
    objects: &'a [ObjectInfo],
    written: &'a [Written],
    /// The archive of a backup made before 2.0.
    archive: Option<Packed>,
}

/// State: everything is planned and the oplog has been read. Nothing is changed.
#[derive(Debug)]
pub struct Checked {
    catalog: Catalog,
    /// For a selection on a config server: see [`OwnRouting`].
    routing: OwnRouting,
}

/// State: everything that the restore replaces is dropped.
#[derive(Debug)]
pub struct Emptied(Checked);

/// State: the documents of the backup are loaded.
#[derive(Debug)]
pub struct Filled {
    catalog: Catalog,
    routing: OwnRouting,
    /// The UUID of `config.system.sessions` in the backup. Set when its routing is restored.
    sessions: Option<bson::Uuid>,
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

impl Steps {
    /// Reads, checks and plans, and changes nothing. `client` is connected to the primary.
    pub async fn prepare(storage: Arc<dyn Storage>, client: Client, order: Order) -> Result<Self> {
        let part = restorable(&order.backup, &order.rs)?;
        if Generation::of(&order.backup.pbm_version) == Generation::Archive {
            if order.sharded && !order.wish.selection.is_everything() {
                let reasons = vec!["it was made before 2.0, and of a sharded cluster's such backup a part can't be restored: restore all of it".to_owned()];
                return Err(Refusal { backup: order.backup.name.clone(), reasons }.into());
            }
            let contents = inspect(storage.as_ref(), part, order.backup.compression, &order.wish).await?;
            return Self::with(storage, client, order, contents).await;
        }
        let layout = ReplsetLayout::new(&order.backup.name, &order.rs, order.backup.compression);
        let name = layout.metadata_of(part);
        let metadata = described::read(storage.as_ref(), &name).await?;
        let folder = format!("{}/{}", order.backup.name, order.rs);
        let wanted = metadata.stored(&layout).map(|(name, _)| name);
        let objects =
            storage::list_with(storage.as_ref(), &folder, wanted).await.with_context(|| format!("list '{folder}'"))?;
        let aside = storage.clone();
        let stored = Stored {
            namespaces: &metadata.namespaces,
            remains: &metadata.remains,
            objects: &objects,
            written: &metadata.written,
            archive: None,
        };
        Self::plan_with(storage, aside, client, order, stored).await
    }

    /// Does the same as [`Steps::prepare`], for a backup made before 2.0.
    async fn with(storage: Arc<dyn Storage>, client: Client, order: Order, contents: Contents) -> Result<Self> {
        let Contents { packed, namespaces, aside, objects } = contents;
        let stored =
            Stored { namespaces: &namespaces, remains: &[], objects: &objects, written: &[], archive: Some(packed) };
        Self::plan_with(storage, aside, client, order, stored).await
    }

    async fn plan_with(
        storage: Arc<dyn Storage>,
        aside: Arc<dyn Storage>,
        client: Client,
        mut order: Order,
        stored: Stored<'_>,
    ) -> Result<Self> {
        let Stored { namespaces, remains, objects, written, archive } = stored;
        let target = target_state::read(&client).await?;
        let mut facts = Facts {
            backup: &order.backup,
            rs: &order.rs,
            namespaces,
            remains,
            objects,
            archive: archive.as_ref(),
            target: &target,
            wish: &order.wish,
            followed: None,
            point: order.point.as_ref(),
            sharded: order.sharded,
        };
        // The first plan shows which oplog objects are replayed. The second plan is made after these objects have been read.
        let first = decide_noted(&facts, written)?;
        let mut ids = order.ids.clone();
        if order.sharded && order.wish.config_server {
            for (id, rs) in router::shard_ids(aside.as_ref(), &first.routing).await? {
                match order.places.get(&rs) {
                    Some(place) if *place != id => drop(ids.insert(id, place.clone())),
                    _ => drop(ids.remove(&id)),
                }
            }
            if order.wish.selection.is_everything() {
                let shards = order.places.values().map(String::as_str).collect();
                let reasons = router::strangers(aside.as_ref(), &first.routing, &ids, &shards).await?;
                if !reasons.is_empty() {
                    return Err(Refusal { backup: order.backup.name.clone(), reasons }.into());
                }
            }
        }
        let followed = read_oplog(&storage, &order, &first, &target).await?;
        facts.followed = Some(&followed);
        // The second plan also contains the collections that the oplog renames into the selection.
        let plan = decide_noted(&facts, written)?;
        let mut routing = OwnRouting::default();
        if order.wish.config_server && !order.wish.selection.is_everything() {
            let selection = &order.wish.selection;
            let nothing = order.point.is_none() && followed.sharded.is_empty() && followed.creates.is_empty();
            if nothing && part::names(aside.as_ref(), &order.backup, selection).await?.is_empty() {
                let reasons = vec![format!("it holds nothing of {selection}")];
                return Err(Refusal { backup: order.backup.name.clone(), reasons }.into());
            }
            let kept = part::kept(aside.as_ref(), &client, &plan.routing, &ids, selection, &followed);
            let kept = Box::pin(kept).await?;
            routing.kept = kept.map_err(|reasons| Refusal { backup: order.backup.name.clone(), reasons })?;
        }
        let major = |version: Version| i32::try_from(version.major).context("read the server's version");
        let catalog = Catalog::new(major(target.server)?).at_features_of(major(target.able_to())?);
        order.ids = ids;
        let progress = Arc::default();
        let work = Box::new(Work { storage, aside, archive, client, order, plan, target, progress, followed });
        Ok(Self { work, state: Checked { catalog, routing } })
    }
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

    /// Whether namespaces that the backup lacks are dropped, too.
    #[must_use]
    pub fn drops_extra(&self) -> bool {
        self.work.order.wish.drop_extra
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

    /// Returns the selected names (`db.coll`) that the oplog creates or gives to a collection.
    #[must_use]
    pub fn created(&self) -> &BTreeSet<String> {
        &self.work.followed.creates
    }
}

impl Steps<Checked> {
    /// Returns the databases and collections that the oplog of this replica set creates or drops and that other replica
    /// sets may also have. For a full restore these are databases, including those in the backup's routing table. For a
    /// selective restore they are the databases that are selected as a whole, and the sharded collections (`db.coll`)
    /// that get a selected name. `config` is a client of the config servers.
    pub async fn makes(&self, config: &Client) -> Result<BTreeSet<String>> {
        let selection = &self.work.order.wish.selection;
        if selection.is_everything() {
            let mut made = self.work.followed.databases.clone();
            if self.work.order.wish.config_server {
                made.extend(router::named(self.work.aside.as_ref(), &self.work.plan.routing).await?);
            }
            return Ok(made);
        }
        let whole = self.work.followed.databases.iter().filter(|db| selection.wants_database(db));
        let mut made: BTreeSet<String> = whole.cloned().collect();
        made.extend(part::sharded(config, |ns| self.work.followed.creates.contains(ns)).await?);
        Ok(made)
    }

    /// Adds all namespaces that the target has in these databases and collections (`db.coll`) to the planned drops,
    /// because the restore replaces them on every shard.
    pub fn replace(&mut self, names: &BTreeSet<String>) {
        let goes = |ns: &&TargetNamespace| {
            ns.is_droppable() && (names.contains(&ns.db) || names.contains(&part::known_as(&ns.to_string())))
        };
        let more = self.work.target.namespaces.iter().filter(goes);
        let more = more.map(|ns| Drop { db: ns.db.clone(), coll: ns.coll.clone() });
        let all: BTreeSet<Drop> = std::mem::take(&mut self.work.plan.drops).into_iter().chain(more).collect();
        self.work.plan.drops = all.into_iter().collect();
    }

    /// Drops everything that the restore replaces. From here on the target is changed.
    pub async fn drop(self, cancel: &CancellationToken) -> Result<Steps<Emptied>> {
        create::drop_all(&self.work.client, &self.work.plan.drops, cancel).await?;
        Ok(Steps { work: self.work, state: Emptied(self.state) })
    }
}

impl Steps<Emptied> {
    /// Creates everything empty and loads all documents. Returns when a majority has them.
    pub async fn load(self, cancel: &CancellationToken) -> Result<(Steps<Filled>, Loaded)> {
        let Self { work, state: Emptied(Checked { mut catalog, routing }) } = self;
        let loaded = Box::pin(work.load(&mut catalog, cancel)).await?;
        Ok((Steps { work, state: Filled { catalog, routing, sessions: None } }, loaded))
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

    /// Restores the routing tables of a config server, with the new ids of the shards. In a full restore, databases
    /// that are not in `ours` keep their routing.
    pub async fn put_routing_back(&mut self, ours: &BTreeSet<String>, cancel: &CancellationToken) -> Result<()> {
        let (aside, client, source, ids) =
            (self.work.aside.as_ref(), &self.work.client, &self.work.plan.routing, &self.work.order.ids);
        let selection = &self.work.order.wish.selection;
        if selection.is_everything() {
            let work = router::put_back(aside, client, source, ids, ours);
            self.state.sessions = until(cancel, work).await.context("put the routing tables back")?;
        } else {
            let own = (&self.state.routing.kept, &self.work.followed);
            let work = part::put_back(aside, client, source, ids, selection, own);
            self.state.routing = until(cancel, Box::pin(work)).await.context("put the selection's routing back")?;
        }
        Ok(())
    }

    /// Replays the oplog up to the end of the backup or to the wanted moment.
    ///
    /// After the replay, `exchange` receives the transactions that this shard committed. When all shards have replayed,
    /// it returns the transactions that any shard committed.
    pub async fn replay<F>(self, cancel: &CancellationToken, exchange: F) -> Result<(Steps<Current>, Settled)>
    where
        F: AsyncFnOnce(&[Committed]) -> Result<HashSet<String>>,
    {
        let Self { work, state: Filled { catalog, routing, sessions } } = self;
        let Work { plan, order, followed, .. } = work.as_ref();
        let start = plan.oplog.first().map_or(plan.end, |slice| slice.from);
        let mut options = ReplayOptions::new(start, plan.end, plan.consistent_from);
        options.scope.config_server = order.wish.config_server;
        options.scope.sessions = sessions;
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

/// Makes the plan, and adds what was recorded about its objects when they were stored.
fn decide_noted(facts: &Facts<'_>, written: &[Written]) -> Result<RestorePlan, Refusal> {
    let mut plan = decide(facts)?;
    let layout = ReplsetLayout::new(&facts.backup.name, facts.rs, facts.backup.compression);
    let reasons = note_written(&mut plan, &layout, written, facts.objects);
    if reasons.is_empty() { Ok(plan) } else { Err(Refusal { backup: facts.backup.name.clone(), reasons }) }
}

/// Adds the sizes and checksums that the backup recorded to the plan's oplog slices. Returns a reason for every object of the
/// plan whose size on the storage is not the recorded one.
fn note_written(
    plan: &mut RestorePlan,
    layout: &ReplsetLayout,
    written: &[Written],
    objects: &[ObjectInfo],
) -> Vec<String> {
    let noted: HashMap<String, &Written> = written.iter().map(|it| (layout.object(&it.name), it)).collect();
    for slice in &mut plan.oplog {
        let content = noted.get(&slice.name).and_then(|it| it.content);
        slice.content = content.and_then(|(size, crc)| Some((u64::try_from(size).ok()?, crc)));
    }
    let users = [&plan.users.users, &plan.users.roles];
    let data = plan.data().chain(users.into_iter().flatten()).map(|data| data.object.as_str());
    let needed: HashSet<&str> = data.chain(plan.oplog.iter().map(|slice| slice.name.as_str())).collect();
    let differs = |info: &&ObjectInfo| {
        needed.contains(info.name.as_str())
            && noted.get(&info.name).is_some_and(|it| u64::try_from(it.stored) != Ok(info.size))
    };
    let why = |info: &ObjectInfo| {
        let stored = noted.get(&info.name).map_or(0, |it| it.stored);
        format!("object '{}' has {} bytes in place of the {stored} that were written", info.name, info.size)
    };
    objects.iter().filter(differs).map(why).collect()
}

/// Reads the whole oplog that will be replayed, so that a missing or damaged object is found before the restore drops
/// anything. Returns the names that the oplog creates, renames or drops.
async fn read_oplog(
    storage: &Arc<dyn Storage>,
    order: &Order,
    plan: &RestorePlan,
    target: &Target,
) -> Result<Followed> {
    let present = target.namespaces.iter().map(|ns| (ns.db.as_str(), ns.coll.as_str(), ns.uuid));
    let present = Present::new(present);
    let asked = Asked { selection: &order.wish.selection, present: &present };
    let rewrite = Rewrite { clone: order.wish.clone.as_ref(), ids: None };
    let oplog = &plan.oplog;
    oplog_check::check(storage, oplog, oplog_check::Reading { asked, rewrite, end: plan.end }).await.map_err(
        |unsound| {
            // If a backup lacks one of its own slices, it can't be restored to any moment.
            let own = oplog.get(unsound.at).is_some_and(|object| !object.name.starts_with(PITR));
            if own || order.point.is_none() {
                return anyhow::anyhow!(
                    "{}; nothing was changed; restore another backup, or the saved oplog from an earlier one \
                 (--base-snapshot)",
                    unsound.why
                );
            }
            let before = unsound.at.checked_sub(1).map(|before| oplog[before].to);
            let advice = match before.filter(|before| *before > super::plan::moment::end(&order.backup)) {
                Some(before) => format!(
                    "the last moment before it that can be restored is {}: repeat with --time {}",
                    moment(before),
                    at(before)
                ),
                None => {
                    format!("without it only the backup itself can be restored, by its name: {}", order.backup.name)
                }
            };
            anyhow::anyhow!("{}; nothing was changed; {advice}", unsound.why)
        },
    )
}

/// Returns the namespaces to create, without the options and indexes that the catalogue sets later.
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
