//! The first step: reads the metadata, the list of objects, the target and the oplog, and makes the plan. Changes nothing.

use super::{Checked, Order, Steps, Work, all_shards::selected_names};
use crate::{
    archive::{
        described,
        meta::{NamespaceMeta, Written},
    },
    layout::{Generation, PITR, ReplsetLayout},
    replay::{
        catalog::Catalog,
        feasible::Onto,
        followed_names::{Asked, Followed, Present},
    },
    restore::{
        legacy_archive::{Contents, inspect},
        oplog_check,
        plan::{
            self, Facts, Refusal, RestorePlan, Target, loadable, plan as decide,
            slices::{at, moment},
        },
        stream::Rewrite,
        target_state,
    },
    routing::{check, on_shards, own::Own, shard_ids},
    snapshot::unpack::Packed,
    storage::{self, ObjectInfo, Storage},
};
use anyhow::{Context as _, Result};
use mongodb::Client;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// What a replica set's part of a backup consists of.
struct Stored<'a> {
    namespaces: &'a [NamespaceMeta],
    remains: &'a [NamespaceMeta],
    objects: &'a [ObjectInfo],
    written: &'a [Written],
    /// The archive of a backup made before 2.0.
    archive: Option<Packed>,
}

impl Steps {
    /// Reads, checks and plans; nothing is changed. `client` is connected to the primary.
    pub async fn prepare(storage: Arc<dyn Storage>, client: Client, order: Order) -> Result<Self> {
        let part = loadable(&order.backup, &order.rs)?;
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

    /// As [`Steps::prepare`], for a backup made before 2.0.
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
        if order.sharded && !order.wish.config_server {
            on_shards::refuse(&client).await.context("nothing was changed")?;
        }
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
        let followed = read_oplog(&storage, &order, &first, &target).await?;
        facts.followed = Some(&followed);
        // The second plan also contains the collections that the oplog renames into the selection.
        let plan = decide_noted(&facts, written)?;
        let mut routing = Own::default();
        if order.wish.config_server {
            order.ids = shard_ids::by_table(aside.as_ref(), &plan.routing, order.ids, &order.places).await?;
            let checked = check_routing(aside.as_ref(), &client, &order, &plan, &followed);
            routing = Box::pin(checked).await?;
        }
        let catalog = Catalog::new(target.able());
        let progress = Arc::default();
        let work = Box::new(Work { storage, aside, archive, client, order, plan, target, progress, followed });
        Ok(Self { work, state: Checked { catalog, routing } })
    }
}

/// Decides which part of the cluster's routing is replaced.
async fn check_routing(
    aside: &dyn Storage,
    config: &Client,
    order: &Order,
    plan: &RestorePlan,
    followed: &Followed,
) -> Result<Own> {
    let selection = &order.wish.selection;
    let refuse = |reasons| Refusal { backup: order.backup.name.clone(), reasons };
    let created = order.point.is_some() || !followed.sharded.is_empty() || !followed.creates.is_empty();
    if !selection.is_everything() && !created && selected_names(aside, &order.backup, selection).await?.is_empty() {
        return Err(refuse(vec![format!("it holds nothing of {selection}")]).into());
    }
    let (source, ids, places) = (&plan.routing, &order.ids, &order.places);
    let facts = check::Facts { source, ids, places, selection, moved: &followed.moved, sharded: &followed.sharded };
    Ok(check::check(aside, config, &facts).await?.map_err(refuse)?)
}

/// The plan, with what was noted of its objects when they were stored.
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
    let onto = Onto { able: target.able(), sharded: order.sharded };
    let asked = Asked { selection: &order.wish.selection, present: &present, onto };
    let rewrite = Rewrite { clone: order.wish.clone.as_ref(), ids: None };
    let oplog = &plan.oplog;
    oplog_check::check(storage, oplog, oplog_check::Reading { asked, rewrite, end: plan.end }).await.map_err(
        |unsound| {
            // A backup that lacks one of its own slices can't be restored to any moment.
            let own = oplog.get(unsound.at).is_some_and(|object| !object.name.starts_with(PITR));
            if own || order.point.is_none() {
                return anyhow::anyhow!(
                    "{}; nothing was changed; restore another backup, or the saved oplog from an earlier one \
                 (--base-snapshot)",
                    unsound.why
                );
            }
            let before = unsound.at.checked_sub(1).map(|before| oplog[before].to);
            let advice = match before.filter(|before| *before > plan::moment::end(&order.backup)) {
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
