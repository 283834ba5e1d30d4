//! Replays the saved oplog onto the present data (docs/format.md E.11). Statuses: starting → running (all have checked)
//! → done.
//!
//! An operator who starts a replay has brought the data to the beginning of the window by other means. Up to the end of
//! the window, the data may be newer than the oplog. So a missing or newer document is tolerated and counted.
//!
//! Intended differences to the original: if a replica set lacks a part of the window, that is an error before anything
//! is applied. And indexes are created and dropped as in the oplog.

use super::{
    logical::{APPEAR, hold_balancer, statistics},
    oplog_check,
    plan::{
        members::mapping,
        moment,
        slices::{OplogObject, at},
    },
    record::{begin, empty_document, first_part, insert_refused},
    shard_transactions,
    sources::Source,
    stream::{Rewrite, replay_all, until},
    target_state,
};
use crate::control::{Control, ControlBoard};
use crate::model::{chunk::Chunk, command::ReplayCmd, restore::RestoreMeta, selection::Selection, status::Status};
use crate::operation::{self, Cx, Kind, progress};
use crate::rendezvous::{Role, gather, reach};
use crate::replay::{
    apply::{ReplayOptions, Replayer},
    build::CommitQuorum,
    existing_catalog,
    feasible::Onto,
    followed_names::{Asked, Present},
    txn::Committed,
};
use crate::routing::{self, on_shards, own::Own, shard_ids};
use crate::topo::cluster;
use anyhow::{Context as _, Result, anyhow};
use bson::{Timestamp, Uuid, doc};
use std::collections::BTreeMap;

/// Stores a document with the reason why a replay never began.
pub async fn refuse(control: &Control, opid: &str, window: &ReplayCmd, why: &str) -> Result<()> {
    insert_refused(control, document(control, opid, window).await?, why).await
}

async fn document(control: &Control, opid: &str, window: &ReplayCmd) -> Result<RestoreMeta> {
    Ok(RestoreMeta {
        start_pitr: i64::from(window.start.time),
        pitr: i64::from(window.end.time),
        ..empty_document(control, opid, &window.name).await?
    })
}

/// Runs the replay of this replica set. On failure the document contains the reason before this returns.
pub async fn run(cx: &Cx, storage: &Source, window: &ReplayCmd) -> Result<()> {
    tracing::info!("replay of the oplog from {} to {} started", at(window.start), at(window.end));
    begin(cx, document(&cx.control, &cx.opid, window).await?).await?;
    let board = cx.board(cx.cluster.names());
    let recipe = recipe(cx, storage, window, &board);
    operation::run(cx, &board, Kind::Replay, recipe).await
}

async fn recipe(cx: &Cx, storage: &Source, window: &ReplayCmd, board: &ControlBoard<RestoreMeta>) -> Result<()> {
    let restores = &cx.control.restores;
    restores.add_member(&cx.name, &cx.rs, &first_part(&cx.rs)).await?;
    gather(board, cx.role, Status::Running, APPEAR, &cx.cancel).await?;

    let storage = storage.clone().map_err(|e| anyhow!(e))?;
    let (map, chunks) = (mapping(&window.rs_map)?, cx.control.chunks.all().await?);
    let objects = covered(&cx.cluster.names(), &map, &chunks, window.start, window.end)
        .map_err(|problems| anyhow!("the oplog can't be replayed, nothing was changed: {}", problems.join("; ")))?
        .remove(&cx.rs)
        .context("this replica set is not in the cluster any more")?;
    progress::publish_phase(cx, "check").await;
    let me = cx.cluster.members.get(&cx.rs).context("this replica set is not in the cluster any more")?;
    if cx.cluster.sharded && !me.config {
        on_shards::refuse(&cx.client).await.context("nothing was changed")?;
    }
    let able = target_state::read(&cx.client).await?.able();
    let (everything, nothing) = (Selection::default(), Present::default());
    let onto = Onto { able, sharded: cx.cluster.sharded };
    let asked = Asked { selection: &everything, present: &nothing, onto };
    let reading = oplog_check::Reading { asked, rewrite: Rewrite::default(), end: window.end };
    until(&cx.cancel, async {
        let checked = oplog_check::check(&storage, &objects, reading).await.map(drop);
        checked.map_err(|unsound| anyhow!("{}; nothing was changed; end the replay before it", unsound.why))
    })
    .await?;
    if cx.cluster.sharded {
        cluster::refuse_config_shard(cx.control.client()).await.context("nothing was changed")?;
    }
    if cx.role == Role::Leader && cx.cluster.sharded {
        hold_balancer(cx).await?;
    }
    reach(board, cx.role, Status::Running, None, &cx.cancel, async || Ok(())).await?;

    progress::publish_phase(cx, "oplog").await;
    let mut options = ReplayOptions::new(window.start, window.end, window.end);
    options.scope.config_server = me.config;
    options.scope.routing = Own::everything(if me.config { sessions(cx).await? } else { None });
    let catalog = existing_catalog::read(&cx.client, able).await?;
    let mut replayer = Replayer::new(cx.client.clone(), catalog, options);
    // The window contains no shard ids. If a replica set was renamed, its old name is assumed to be its old id.
    let ids = shard_ids::ids(map.iter().map(|(from, to)| (from.clone(), cx.cluster.members[to].id.clone())));
    let rewrite = Rewrite { ids: Some(&ids).filter(|_| me.config), ..Rewrite::default() };
    replay_all(storage.as_ref(), &mut replayer, &objects, rewrite, &cx.cancel).await?;
    let members = cx.cluster.names();
    let exchange = async |mine: &[Committed]| shard_transactions::exchange(cx, &members, mine).await;
    let committed = until(&cx.cancel, exchange(&replayer.committed())).await?;
    let settled = until(&cx.cancel, replayer.settle(&committed)).await.context("finish transactions")?;
    if settled.undecided > 0 {
        shard_transactions::report(cx, &settled).await?;
    }
    let replayed = replayer.finish().await?;
    tracing::info!("replayed the oplog: {:?}", replayed.stats);
    if replayed.stats.missing_collections > 0 {
        tracing::warn!(
            "{} operations were left out because their collections are not there",
            replayed.stats.missing_collections
        );
    }

    progress::publish_phase(cx, "indexes").await;
    let quorum: CommitQuorum = cx.settings.restore.index_commit_quorum.as_deref().unwrap_or_default().parse()?;
    let built = until(&cx.cancel, replayed.catalog.build(&cx.client, &quorum)).await.context("build indexes")?;
    tracing::info!("built {} indexes on {} collections", built.indexes, built.collections);
    if cx.cluster.sharded {
        routing::drop::forget(&cx.client).await?;
    }
    if me.config {
        routing::put_back::renew_placement_history(&cx.client).await;
    }
    reach(board, cx.role, Status::Done, None, &cx.cancel, async || {
        operation::pay_debts(cx, Kind::Replay).await;
        restores.set(&cx.name, doc! { "stat": statistics(cx) }).await.map(drop)
    })
    .await
}

/// Returns the objects that each replica set of the cluster has to replay, or a description of what is missing. `map`
/// is the operator's mapping from the replica set of the oplog to one of the cluster.
pub fn covered(
    members: &[String],
    map: &BTreeMap<String, String>,
    chunks: &[Chunk],
    start: Timestamp,
    end: Timestamp,
) -> Result<BTreeMap<String, Vec<OplogObject>>, Vec<String>> {
    let sources = sources(members, map)?;
    let all: Vec<String> = sources.values().cloned().collect();
    let found = moment::window(&all, chunks, start, end)?;
    Ok(sources.into_iter().map(|(rs, source)| (rs, found.get(&source).cloned().unwrap_or_default())).collect())
}

/// Returns, for each replica set of the cluster, the replica set whose oplog it replays.
fn sources(members: &[String], map: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Vec<String>> {
    let nowhere = map.iter().filter(|(_, to)| !members.contains(to)).map(|(from, to)| {
        format!(
            "the mapping gives the oplog of '{from}' to '{to}', which the cluster does not have (it has: {})",
            members.join(", ")
        )
    });
    let mut problems: Vec<String> = nowhere.collect();
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    for rs in members {
        let source = map.iter().find(|(_, to)| *to == rs).map_or(rs, |(from, _)| from);
        if let Some((other, _)) = sources.iter().find(|(_, known)| *known == source) {
            problems.push(format!("both '{other}' and '{rs}' would get the oplog of '{source}'; map each of them"));
        }
        sources.insert(rs.clone(), source.clone());
    }
    if problems.is_empty() { Ok(sources) } else { Err(problems) }
}

/// Returns the UUID of this cluster's `config.system.sessions`, whose routing a replay must not change.
async fn sessions(cx: &Cx) -> Result<Option<Uuid>> {
    let collections = cx.client.database("config").collection::<bson::Document>("collections");
    let found =
        collections.find_one(doc! { "_id": "config.system.sessions" }).await.context("read config.collections")?;
    Ok(found.and_then(|found| found.get("uuid").cloned()).and_then(|uuid| bson::deserialize_from_bson(uuid).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oplog_comes_from_the_mapped_names() {
        let members = ["a".to_owned(), "b".to_owned()];
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
        };
        assert_eq!(sources(&members, &map(&[("x", "a")])).expect("it fits"), map(&[("a", "x"), ("b", "b")]));
        assert_eq!(
            sources(&members, &map(&[("a", "b"), ("b", "a")])).expect("it fits"),
            map(&[("a", "b"), ("b", "a")])
        );
        assert!(sources(&members, &map(&[("x", "c")])).is_err_and(|e| e[0].contains("'c'")));
        assert!(sources(&members, &map(&[("a", "b")])).is_err_and(|e| e[0].contains("both 'a' and 'b'")));
    }
}
