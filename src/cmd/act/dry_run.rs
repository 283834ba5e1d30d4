//! `pbm restore --dry-run`: the plan that the agents would follow, made from here, with every reason why it would be refused.

use crate::cmd::io::{
    context::Context,
    error::{CliError, Result},
    output::Report,
    storage, units,
};
use crate::model::{backup::BackupMeta, config::StorageConf};
use crate::mongo::connect::{Purpose, connect_elsewhere};
use crate::printable;
use crate::replay::build::CommitQuorum;
use crate::restore::{
    plan::{
        PointInTime,
        members::participants,
        moment,
        namespaces::{Wish, is_droppable},
        slices,
    },
    steps::{Order, Steps, all_shards},
};
use crate::snapshot::load::LoadOptions;
use crate::storage::Storage;
use bson::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Names shown of a long list.
const SHOWN: usize = 20;

/// What a restore would do.
#[derive(Debug, Serialize)]
struct DryRun {
    backup: String,
    #[serde(rename = "restoreTo")]
    restore_to: String,
    replsets: Vec<Part>,
}

/// Of one replica set.
#[derive(Debug, Serialize)]
struct Part {
    rs: String,
    /// Of the target, dropped first.
    drops: Vec<String>,
    creates: Vec<Created>,
    views: Vec<String>,
    users: bool,
    roles: bool,
    /// Uncompressed bytes of all documents.
    bytes: u64,
    oplog: Vec<Replayed>,
    /// Of the target, not in the backup (or not selected) and not touched.
    stays: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Created {
    ns: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
}

#[derive(Debug, Serialize)]
struct Replayed {
    object: String,
    size: u64,
}

/// What is asked for.
pub struct Question<'a> {
    pub uri: &'a str,
    pub place: &'a StorageConf,
    pub backup: &'a BackupMeta,
    pub wish: &'a Wish,
    pub map: &'a BTreeMap<String, String>,
    pub target: Option<Timestamp>,
}

/// Looks at the storage and at every replica set, and changes nothing.
///
/// # Errors
/// The restore would be refused, with every reason; or the storage or a replica set can't be reached from here.
pub async fn run(cx: &Context, asked: &Question<'_>) -> Result<()> {
    let replsets = look(cx, asked).await?;
    let restore_to = match asked.target {
        Some(target) => slices::moment(target),
        None => units::rfc3339(i64::from(asked.backup.last_write_ts.time)),
    };
    cx.out.print(&DryRun { backup: asked.backup.name.clone(), restore_to, replsets });
    Ok(())
}

/// The number of collections that the restore would drop, by database.
///
/// # Errors
/// As [`run`].
pub async fn drops(cx: &Context, asked: &Question<'_>) -> Result<BTreeMap<String, usize>> {
    let mut databases = BTreeMap::new();
    for part in look(cx, asked).await? {
        for (db, _) in part.drops.iter().filter_map(|ns| ns.split_once('.')) {
            *databases.entry(db.to_owned()).or_insert(0) += 1;
        }
    }
    Ok(databases)
}

async fn look(cx: &Context, asked: &Question<'_>) -> Result<Vec<Part>> {
    let store = storage::open_here(asked.place).await?;
    let cluster = cx.cluster().await?;
    let of =
        participants(asked.backup, &cluster, asked.map).map_err(|reasons| CliError::refused(reasons.join("; ")))?;
    let chunks = if asked.target.is_some() { cx.control.chunks.all().await? } else { Vec::new() };
    let mut reasons = match asked.target {
        Some(target) => moment::obstacles(asked.backup, &chunks, target),
        None => Vec::new(),
    };
    let mut prepared = Vec::new();
    for (rs, from) in &of.parts {
        let member = &cluster.members[rs];
        let client = if cluster.sharded && !member.config {
            connect_elsewhere(asked.uri, &member.hosts.join(","), Purpose::Leader { app: "pbm-ctl" }).await?
        } else {
            cx.control.client().clone()
        };
        let point = asked.target.map(|target| PointInTime {
            target,
            chunks: chunks.iter().filter(|chunk| chunk.rs == *from).cloned().collect(),
        });
        let order = Order {
            backup: asked.backup.clone(),
            rs: from.clone(),
            wish: Wish { config_server: member.config, ..asked.wish.clone() },
            load: LoadOptions::default(),
            quorum: CommitQuorum::default(),
            point,
            sharded: cluster.sharded,
            ids: of.ids.clone(),
            places: of.places.clone(),
        };
        match Steps::prepare(store.clone(), client, order).await {
            Ok(steps) => prepared.push((rs, member.config, steps)),
            Err(error) => reasons.push(format!("{rs}: {}", crate::mongo::admin::explain(&error))),
        }
    }
    if !reasons.is_empty() {
        let mut all = CliError::refused(format!("this restore would be refused: {}", reasons.join("; ")));
        all = all.hint("nothing was changed; `pbm list` shows what can be restored");
        return Err(all);
    }
    if cluster.sharded {
        replace_everywhere(cx, store.as_ref(), asked, &mut prepared).await?;
    }
    Ok(prepared.iter().map(|(rs, _, steps)| part(rs, steps)).collect())
}

/// Does what the agents do after they have exchanged what their oplogs create.
async fn replace_everywhere(
    cx: &Context,
    store: &dyn Storage,
    asked: &Question<'_>,
    prepared: &mut [(&String, bool, Steps)],
) -> Result<()> {
    let mut made = BTreeSet::new();
    for (_, _, steps) in prepared.iter() {
        made.extend(steps.makes(cx.control.client()).await?);
    }
    let replaced = all_shards::replaced(store, asked.backup, &asked.wish.selection, made).await?;
    for (_, _, shard) in prepared.iter_mut().filter(|(_, config, _)| !config) {
        shard.replace(&replaced);
    }
    Ok(())
}

/// Lists the plan of one replica set by collection names.
fn part(rs: &str, steps: &Steps) -> Part {
    let plan = steps.plan();
    let drops: Vec<String> = plan.drops.iter().map(|drop| format!("{}.{}", drop.db, drop.coll)).collect();
    let stays = steps
        .there()
        .filter(|ns| ns.db != "admin" && is_droppable(&ns.db, &ns.coll))
        .map(ToString::to_string)
        .filter(|ns| !drops.contains(ns));
    Part {
        rs: rs.to_owned(),
        stays: stays.collect(),
        creates: plan
            .collections
            .iter()
            .chain(&plan.remains)
            .map(|planned| Created {
                ns: format!("{}.{}", planned.meta.db, planned.meta.coll),
                bytes: planned.data.as_ref().map_or(0, |data| data.size),
                object: planned.data.as_ref().map(|data| data.object.clone()),
            })
            .collect(),
        views: plan.views.iter().map(|planned| format!("{}.{}", planned.meta.db, planned.meta.coll)).collect(),
        users: plan.users.users.is_some(),
        roles: plan.users.roles.is_some(),
        bytes: plan.bytes(),
        oplog: plan.oplog.iter().map(|it| Replayed { object: it.name.clone(), size: it.size }).collect(),
        warnings: plan.warnings.clone(),
        drops,
    }
}

impl Report for DryRun {
    fn text(&self) -> String {
        let mut lines = vec![format!("Restore of backup {} to {}; nothing was changed", self.backup, self.restore_to)];
        for part in &self.replsets {
            let bytes = |bytes: u64| units::size(i64::try_from(bytes).unwrap_or(i64::MAX));
            lines.push(format!("{}:", part.rs));
            list(&mut lines, "drops", &part.drops);
            let created: Vec<String> =
                part.creates.iter().map(|it| format!("{} ({})", it.ns, bytes(it.bytes))).collect();
            list(&mut lines, "creates", &created);
            list(&mut lines, "views", &part.views);
            lines.push(format!("  loads     {}", bytes(part.bytes)));
            let swapped = match (part.users, part.roles) {
                (true, true) => "users and roles",
                (true, false) => "users",
                (false, true) => "roles",
                (false, false) => "neither users nor roles",
            };
            lines.push(format!("  replaces  {swapped}"));
            let size = part.oplog.iter().map(|it| it.size).sum();
            lines.push(format!("  replays   {} oplog objects, {} as stored", part.oplog.len(), bytes(size)));
            list(&mut lines, "stays", &part.stays);
            lines.extend(part.warnings.iter().map(|warning| format!("  note      {warning}")));
        }
        lines.iter().map(|line| printable::line(line)).collect::<Vec<_>>().join("\n")
    }
}

fn list(lines: &mut Vec<String>, what: &str, names: &[String]) {
    lines
        .push(format!("  {what:<9} {}", if names.is_empty() { "nothing".to_owned() } else { names.len().to_string() }));
    lines.extend(names.iter().take(SHOWN).map(|name| format!("            {name}")));
    if names.len() > SHOWN {
        lines.push(format!("            and {} more (all of them with -o json)", names.len() - SHOWN));
    }
}
