//! Notices that two clusters make their backups on one storage, which nobody does on purpose: each deletes and lists
//! what the other one made, and oplog chunks of replica sets with one name mix.
//!
//! # Design
//!
//! Every cluster that makes backups leaves a mark, `pbmPitr/.clusters/<id>` with a [`Tenant`] as JSON, and renews it when a
//! backup or the slicing of the oplog begins. The id is the sharded cluster's or the replica set's own. Marks of other
//! clusters are reported: in the log and by `pbm` at a backup and at a resync, and by `pbm status`, which reads them from the
//! agents' documents. When the last backup and chunk of a cluster are deleted, its mark is deleted too, so that nothing of
//! the cluster is left.
//!
//! Nothing is ever refused. Restoring on another cluster from the same storage is what backups are for, so reading (a
//! resync, a restore) leaves no mark and the first cluster hears nothing of it. When a cluster is gone for good and
//! another one goes on with its storage, a resync on the new one, once it has made a backup there, removes the marks of
//! the others. If one of them lives after all, its next backup brings its mark back, and both are told again.
//!
//! The original neither writes nor reads the marks: below `pbmPitr` it ignores every name that is not the name of a chunk.
//! Earlier releases of ours left the marks in `.pbm.clusters`: they are read there too, and moved when they are renewed.

use crate::layout;
use crate::model::agent::Tenant;
use crate::storage::{self, Storage};
use crate::topo::identity::Identity;
use anyhow::{Context, Result};
use futures::TryStreamExt;

/// No mark is as large.
const LIMIT: usize = 4096;
/// Marks that are read; more clusters than that tell nothing new.
const MOST: usize = 20;

/// All clusters that left a mark, by name. One whose mark can't be read is there by its id.
///
/// # Errors
/// The storage can't be read.
pub async fn all(store: &dyn Storage) -> Result<Vec<Tenant>> {
    let mut names: Vec<String> = Vec::new();
    for folder in [layout::CLUSTERS, layout::OLD_CLUSTERS] {
        let mut here: Vec<String> = store.list(folder).map_ok(|object| object.name).try_collect().await?;
        here.sort();
        names.extend(here);
    }
    names.truncate(MOST);
    let mut all: Vec<Tenant> = Vec::with_capacity(names.len());
    for name in names {
        let id = name.rsplit('/').next().unwrap_or_default().to_owned();
        if all.iter().any(|tenant| tenant.id == id) {
            continue;
        }
        let mark = match storage::read_all(store, &name, LIMIT).await {
            Err(error) if error.is_not_found() => continue,
            Err(error) if error.is_retryable() => return Err(error.into()),
            mark => mark.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        };
        all.push(Tenant { id: id.clone(), ..mark.unwrap_or(Tenant { name: id, ..Tenant::default() }) });
    }
    all.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    Ok(all)
}

/// Those that are not `me`.
#[must_use]
pub fn others(all: Vec<Tenant>, me: &Identity) -> Vec<Tenant> {
    all.into_iter().filter(|tenant| tenant.id != me.id).collect()
}

/// Those that this cluster shares the storage with: none while it only reads there.
#[must_use]
pub fn sharing(all: Vec<Tenant>, me: &Identity) -> Vec<Tenant> {
    if all.iter().any(|tenant| tenant.id == me.id) { others(all, me) } else { Vec::new() }
}

/// Leaves or renews the mark of this cluster, which begins to write at `now` (unix seconds) from `node`. Gives the others.
///
/// # Errors
/// The storage can't be read or written.
pub async fn begin(store: &dyn Storage, me: &Identity, node: &str, now: i64) -> Result<Vec<Tenant>> {
    let mark = Tenant { id: me.id.clone(), name: me.name.clone(), node: node.to_owned(), last: now };
    let bytes = serde_json::to_vec(&mark).context("encode this cluster's mark")?;
    let name = layout::cluster_mark(&me.id);
    storage::write_all(store, &name, bytes).await.with_context(|| format!("write {name}"))?;
    remove(store, layout::old_cluster_mark(&me.id)).await?;
    Ok(others(all(store).await.context("look for other clusters' marks")?, me))
}

/// What a resync does: if this cluster makes backups here, the storage is its own from now on and the marks of others
/// go. Gives the others that stay, and those that were removed.
///
/// # Errors
/// The storage can't be read or written.
pub async fn take_over(store: &dyn Storage, me: &Identity) -> Result<(Vec<Tenant>, Vec<Tenant>)> {
    let all = all(store).await.context("look for other clusters' marks")?;
    let mine = all.iter().any(|tenant| tenant.id == me.id);
    let others = others(all, me);
    if !mine {
        return Ok((others, Vec::new()));
    }
    for other in &others {
        leave(store, &other.id).await?;
    }
    Ok((Vec::new(), others))
}

/// Removes the mark of the cluster with this id, because nothing else of the cluster is on this storage any more.
///
/// # Errors
/// The storage can't be written.
pub async fn leave(store: &dyn Storage, id: &str) -> Result<()> {
    remove(store, layout::cluster_mark(id)).await?;
    remove(store, layout::old_cluster_mark(id)).await
}

async fn remove(store: &dyn Storage, name: String) -> Result<()> {
    match store.delete(&name).await {
        Err(error) if !error.is_not_found() => Err(error).with_context(|| format!("remove {name}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{memory::Memory, write_all};

    fn identity(id: &str) -> Identity {
        Identity { id: id.to_owned(), name: format!("rs-{id}") }
    }

    fn ids(tenants: &[Tenant]) -> Vec<&str> {
        tenants.iter().map(|tenant| tenant.id.as_str()).collect()
    }

    #[tokio::test]
    async fn two_that_make_backups_hear_of_each_other_and_one_that_only_reads_does_no_harm() {
        let (store, a, b) = (Memory::new(), identity("a"), identity("b"));
        assert_eq!(begin(&store, &a, "h:1", 10).await.expect("backup"), []);
        assert_eq!(begin(&store, &a, "h:1", 20).await.expect("backup"), []);
        let (stay, gone) = take_over(&store, &b).await.expect("resync");
        assert_eq!((ids(&stay), gone.len()), (vec!["a"], 0), "b has not made a backup");
        assert_eq!(sharing(all(&store).await.expect("all"), &b), []);
        assert_eq!(begin(&store, &a, "h:1", 30).await.expect("backup"), []);
        let seen = begin(&store, &b, "h:2", 40).await.expect("backup");
        assert_eq!(seen, [Tenant { id: "a".into(), name: "rs-a".into(), node: "h:1".into(), last: 30 }]);
        assert_eq!(ids(&begin(&store, &a, "h:1", 50).await.expect("backup")), ["b"]);
        assert_eq!(ids(&sharing(all(&store).await.expect("all"), &b)), ["a"]);

        let (stay, gone) = take_over(&store, &b).await.expect("resync");
        assert_eq!((stay.len(), ids(&gone)), (0, vec!["a"]));
        assert_eq!(begin(&store, &b, "h:2", 60).await.expect("backup"), [], "a is gone");
        assert_eq!(ids(&begin(&store, &a, "h:1", 70).await.expect("backup")), ["b"], "no, it is not");
    }

    #[tokio::test]
    async fn a_mark_that_nobody_can_read_is_a_cluster_too() {
        let store = Memory::new();
        write_all(&store, "pbmPitr/.clusters/x", "{").await.expect("put");
        write_all(&store, "pbmPitr/.clusters/y", vec![b'y'; LIMIT + 1]).await.expect("put");
        assert_eq!(ids(&others(all(&store).await.expect("all"), &identity("y"))), ["x"]);
    }

    #[tokio::test]
    async fn a_mark_of_an_earlier_release_counts_and_moves_and_one_that_leaves_leaves_nothing() {
        let store = Memory::new();
        let old = r#"{"id":"a","name":"rs-a","node":"h:1","last":5}"#;
        write_all(&store, ".pbm.clusters/a", old).await.expect("put");
        write_all(&store, ".pbm.clusters/b", old.replace("\"a\"", "\"b\"")).await.expect("put");
        assert_eq!(ids(&all(&store).await.expect("all")), ["a", "b"]);
        assert_eq!(ids(&begin(&store, &identity("a"), "h:1", 10).await.expect("backup")), ["b"]);
        let names = async || -> Vec<String> {
            let mut names: Vec<_> = store.list("").map_ok(|object| object.name).try_collect().await.expect("list");
            names.sort();
            names
        };
        assert_eq!(names().await, [".pbm.clusters/b", "pbmPitr/.clusters/a"]);
        take_over(&store, &identity("a")).await.expect("resync");
        leave(&store, "a").await.expect("leave");
        assert_eq!(names().await, [""; 0]);
    }
}
