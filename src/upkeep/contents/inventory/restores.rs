//! Records of physical restores (docs/format.md A.9). Logical restores leave nothing on a storage.

use crate::{
    archive::json::first_value,
    layout,
    model::{backup::BackupType, restore::RestoreMeta, status::Status},
    storage::{self, Storage},
};
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

/// Records read at a time.
const AT_ONCE: usize = 4;
/// Size limit of a record. No valid record reaches it: it was a document of the database, without the fields that are not
/// read here.
const RECORD_LIMIT: usize = 32 << 20;
/// Values of a record.
const MOST_VALUES: usize = 200_000;
/// Last steps of a restore as the suffix of `cluster.`, the more telling first.
const LAST_STEPS: [Status; 3] = [Status::Error, Status::PartlyDone, Status::Done];

/// The records `.pbm.restore/<restore>.json`, by name: all of them or only the last.
///
/// The record is written by the first node that comes to the end, so the status is taken from the file that the
/// cluster left beside it, if there is one. A record that cannot be read is logged and left out.
///
/// # Errors
/// The storage cannot be listed, or does not answer for the time being.
pub async fn restores(store: &dyn Storage, all: bool) -> Result<Vec<RestoreMeta>> {
    let mut names: Vec<_> = store
        .list(layout::RESTORES)
        .try_filter_map(|object| async move {
            let file = object.name.strip_prefix(layout::RESTORES).and_then(|rest| rest.strip_prefix('/'));
            let record = file.is_some_and(|file| !file.contains('/') && file.ends_with(".json"));
            Ok(record.then_some(object.name))
        })
        .try_collect()
        .await
        .context("list the storage for restores")?;
    names.sort();
    if !all {
        names.drain(..names.len().saturating_sub(1));
    }
    let mut restores = Vec::with_capacity(names.len());
    let mut read = stream::iter(names)
        .map(async |name| {
            let record = record(store, &name).await;
            (name, record)
        })
        .buffered(AT_ONCE);
    while let Some((name, record)) = read.next().await {
        match record {
            Ok(restore) => restores.push(restore),
            Err(error) if error.downcast_ref().is_some_and(storage::Error::is_retryable) => return Err(error),
            Err(error) => tracing::warn!("{name} can't be read as a restore's record and is left out: {error:#}"),
        }
    }
    Ok(restores)
}

async fn record(store: &dyn Storage, name: &str) -> Result<RestoreMeta> {
    let bytes = storage::read_all(store, name, RECORD_LIMIT).await?;
    // Entries of the oplog matter only while a restore runs, and their form here can't be converted back.
    let mut json: Value = first_value(&bytes, MOST_VALUES, &["partial_txn"])?;
    timestamps(&mut json);
    let mut restore: RestoreMeta = serde_json::from_value(json).context("read it as the record of a restore")?;
    restore.kind = BackupType::Physical;
    let folder = name.strip_suffix(".json").unwrap_or(name);
    for step in LAST_STEPS {
        let mark = match storage::read_all(store, &format!("{folder}/cluster.{step}"), 1 << 20).await {
            Err(error) if error.is_not_found() => continue,
            mark => mark?,
        };
        let mark = String::from_utf8_lossy(&mark);
        let (at, message) = mark.split_once(':').map_or((&*mark, None), |(at, message)| (at, Some(message)));
        restore.status = step;
        restore.last_transition_ts = at.trim().parse().unwrap_or(restore.last_transition_ts);
        restore.error = message.map(str::to_owned).or(restore.error);
        break;
    }
    Ok(restore)
}

/// `{"T", "I"}`, wherever it stands, to the form that [`bson::Timestamp`] reads.
fn timestamps(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let (2, Some(t), Some(i)) = (object.len(), object.get("T"), object.get("I")) {
                *value = json!({ "$timestamp": { "t": t, "i": i } });
            } else {
                object.values_mut().for_each(timestamps);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(timestamps),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{
        memory::Memory,
        wrap::faulty::{Call, Fault, Faulty},
        write_all,
    };
    use std::sync::Arc;

    async fn store() -> Memory {
        let store = Memory::new();
        for (restore, status) in [("2026-11-21T03:00:00.1Z", "running"), ("2026-11-21T04:00:00Z", "done")] {
            let record = format!(
                r#"{{"name": "{restore}", "backup": "b", "type": "logical", "status": "{status}", "start_ts": 7, "bcp_chain": null,
                "hb": {{"T": 5, "I": 1}}, "stat": null, "replsets": [{{"name": "rs0", "status": "done", "nodes": [],
                "committed_txn": [{{"id": "x", "ts": {{"T": 9, "I": 2}}, "state": "commit"}}],
                "partial_txn": [{{"op": "c", "ts": {{"T": 9, "I": 2}}}}]}}]}}"#
            );
            write_all(&store, &format!(".pbm.restore/{restore}.json"), record).await.expect("put");
        }
        write_all(&store, ".pbm.restore/2026-11-21T03:00:00.1Z/cluster.error", "42:disk: gone").await.expect("put");
        write_all(&store, ".pbm.restore/2026-11-21T03:00:00.1Z/rs.rs0/log/x.json", "{}").await.expect("put");
        store
    }

    #[tokio::test]
    async fn records_are_read_with_the_status_of_the_cluster() {
        let store = store().await;
        let all = restores(&store, true).await.expect("restores");
        let told: Vec<_> = all.iter().map(|r| (&*r.name, r.status, r.error.as_deref(), r.last_transition_ts)).collect();
        assert_eq!(
            told,
            [
                ("2026-11-21T03:00:00.1Z", Status::Error, Some("disk: gone"), 42),
                ("2026-11-21T04:00:00Z", Status::Done, None, 0)
            ]
        );
        assert_eq!((all[0].kind, all[0].hb.time, all[0].start_ts), (BackupType::Physical, 5, 7));
        assert_eq!(all[0].replsets[0].committed_txn.as_ref().expect("committed")[0].ts.time, 9);
        assert_eq!(restores(&store, false).await.expect("restores"), all[1..]);
    }

    #[tokio::test]
    async fn a_broken_record_is_left_out_and_a_broken_storage_told() {
        let store = store().await;
        write_all(&store, ".pbm.restore/2026-11-21T03:30:00Z.json", "{").await.expect("put");
        assert_eq!(restores(&store, true).await.expect("restores").len(), 2);
        let store = Faulty::new(Arc::new(store));
        store.fail(Call::Get, 2, Fault::Passing);
        restores(&store, true).await.expect_err("the storage failed in passing");
    }
}
