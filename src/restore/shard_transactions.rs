//! Transactions over several shards at the end of the replay (docs/format.md E.6.5).
//!
//! A shard's oplog may end between the preparation of a transaction and its commit, while another shard's oplog
//! contains the commit. Then the commit happened before the end of the restored state, and all shards have to apply it.
//! So every member publishes the commits in its oplog, waits until all members have published theirs, and applies the
//! transactions that any member has committed.

use crate::{
    control::{Look, Waited},
    model::{
        restore::{CommittedTxn, RestoreMeta},
        status::Status,
    },
    operation::Cx,
    rendezvous::Why,
    replay::{apply::Settled, txn::Committed},
};
use anyhow::{Context as _, Result, bail};
use bson::{Document, doc};
use std::{collections::HashSet, time::Duration};

/// How long the other members have after the first one has published. The time is long, because they may still be
/// replaying. Lost members are noticed much earlier by their locks.
const ALL_THERE: Duration = Duration::from_secs(24 * 3600);

/// Publishes the commits in this member's oplog and returns those of all members. If the cluster is not sharded, there
/// are no other members.
pub(super) async fn exchange(cx: &Cx, members: &[String], mine: &[Committed]) -> Result<HashSet<String>> {
    if !cx.cluster.sharded {
        return Ok(mine.iter().map(|txn| txn.id.clone()).collect());
    }
    let published: Vec<CommittedTxn> =
        mine.iter().map(|txn| CommittedTxn { id: txn.id.clone(), ts: txn.at, state: "commit".to_owned() }).collect();
    let published = bson::serialize_to_bson(&published).context("encode the committed transactions")?;
    let restores = &cx.control.restores;
    let name = &cx.name;
    restores.set_member(name, &cx.rs, doc! { "committed_txn": published, "txn_set": true }).await?;
    let look = || async {
        let meta: RestoreMeta = restores.get(name).await?.ok_or(Why::Gone)?;
        if matches!(meta.status, Status::Error | Status::Canceled) {
            return Err(Why::ClusterFailed(meta.error.unwrap_or_default()).into());
        }
        let there = |rs: &String| meta.replsets.iter().any(|part| part.name == *rs && part.txn_set);
        if members.iter().all(there) {
            let all = meta.replsets.into_iter().flat_map(|part| part.committed_txn.unwrap_or_default());
            return Ok(Look::Found(all.map(|txn| txn.id).collect()));
        }
        Ok(Look::Missing(()))
    };
    match cx.control.bell.until(ALL_THERE, cx.cancel.cancelled(), look).await? {
        Waited::Found(committed) => Ok(committed),
        Waited::TimedOut(()) => bail!("not every replica set reported which transactions it saw committed"),
        Waited::Cancelled => bail!("the operation was cancelled while it waited for the transactions of other shards"),
    }
}

/// Records in this member's part how the undecided transactions were handled.
pub(super) async fn report(cx: &Cx, settled: &Settled) -> Result<()> {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let partial: Vec<Document> = settled.partial.iter().map(|id| doc! { "id": id }).collect();
    for id in &settled.partial {
        tracing::error!(transaction = id, "committed on another shard, but this backup has only a part of it");
    }
    let stat = doc! {
        "partial": count(settled.partial.len()),
        "shard_uncommitted": count(settled.undecided),
        "left_uncommitted": count(settled.dropped),
    };
    let fields = doc! { "stat.txn": stat, "partial_txn": partial };
    cx.control.restores.set_member(&cx.name, &cx.rs, fields).await.map(drop)
}
