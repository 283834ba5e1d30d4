//! The state of a physical restore as its files on the storage show it: for programs that only look (docs/format.md A.9).

use super::marks::{Who, step_of};
use crate::layout;
use crate::model::backup::BackupType;
use crate::model::restore::{RestoreMeta, RestoreReplset, RestoreStat};
use crate::model::serde_help::zero_ts;
use crate::model::status::{Condition, Status};
use crate::rendezvous::rank;
use crate::storage::{self, Storage, read_all};
use anyhow::{Context, Result};
use bson::Timestamp;
use futures::TryStreamExt;
use std::collections::BTreeMap;

/// The most bytes of a synchronisation file.
const LIMIT: usize = 1 << 20;

/// What is known of a restore before anything of it was read.
#[must_use]
pub fn unknown(name: &str) -> RestoreMeta {
    RestoreMeta {
        status: Status::Init,
        error: None,
        name: name.to_owned(),
        opid: String::new(),
        backup: String::new(),
        bcp_chain: None,
        nss: Vec::new(),
        start_pitr: 0,
        pitr: 0,
        replsets: Vec::new(),
        hb: zero_ts(),
        start_ts: 0,
        last_transition_ts: 0,
        conditions: Vec::new(),
        kind: BackupType::Physical,
        leader: None,
        stat: None,
        changed_from: None,
    }
}

/// Enters what the files show into `meta`. Returns `false` if there are none.
///
/// # Errors
/// The storage can't be read.
pub async fn read(storage: &dyn Storage, name: &str, meta: &mut RestoreMeta) -> Result<bool> {
    let prefix = format!("{}/", layout::restore_folder(name));
    let objects: Vec<String> = storage
        .list(&prefix)
        .map_ok(|object| object.name)
        .try_collect()
        .await
        .context("list the synchronisation files of the restore")?;
    let mut found: BTreeMap<Who, Vec<Condition>> = BTreeMap::new();
    let mut beats: BTreeMap<Who, Timestamp> = BTreeMap::new();
    for object in &objects {
        let Some((who, word)) = object.strip_prefix(&prefix).and_then(Who::parse) else { continue };
        let step = step_of(&word);
        if step.is_none() && word != "hb" {
            continue;
        }
        let content = match read_all(storage, object, LIMIT).await {
            Ok(content) => String::from_utf8_lossy(&content).into_owned(),
            // It is being replaced.
            Err(storage::Error::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let (at, message) = content.split_once(':').map_or((content.as_str(), None), |(at, text)| (at, Some(text)));
        let at: i64 = at.trim().parse().unwrap_or_default();
        match step {
            Some(status) => {
                let error = message.map(str::to_owned);
                found.entry(who).or_default().push(Condition { timestamp: at, status, error });
            }
            None => drop(beats.insert(who, Timestamp { time: u32::try_from(at).unwrap_or_default(), increment: 0 })),
        }
    }
    let any = !found.is_empty();
    meta.hb = beats.get(&Who::Cluster).copied().unwrap_or(meta.hb);
    for (who, conditions) in found {
        enter(meta, &who, sorted(conditions), beats.get(&who).copied());
    }
    Ok(any)
}

fn sorted(mut conditions: Vec<Condition>) -> Vec<Condition> {
    conditions.sort_by_key(|it| (it.timestamp, rank(it.status)));
    conditions
}

fn enter(meta: &mut RestoreMeta, who: &Who, conditions: Vec<Condition>, hb: Option<Timestamp>) {
    let Some(last) = conditions.iter().max_by_key(|it| (it.status.is_final(), it.timestamp, rank(it.status))).cloned()
    else {
        return;
    };
    match who {
        Who::Cluster => {
            (meta.status, meta.last_transition_ts) = (last.status, last.timestamp);
            meta.error = last.error;
            meta.start_ts = if meta.start_ts > 0 { meta.start_ts } else { conditions[0].timestamp };
            meta.conditions = conditions;
        }
        Who::Set(rs) => {
            let part = part(meta, rs);
            (part.status, part.last_transition_ts, part.error) = (last.status, last.timestamp, last.error);
            part.hb = hb.unwrap_or(part.hb);
            part.conditions = conditions;
        }
        // The error of a node is told where its replica set has none.
        Who::Node(rs, node) => {
            let part = part(meta, rs);
            if let (Some(error), None) = (last.error, &part.error) {
                part.error = Some(format!("node {node}: {error}"));
            }
        }
    }
}

fn part<'a>(meta: &'a mut RestoreMeta, rs: &str) -> &'a mut RestoreReplset {
    let at = meta.replsets.iter().position(|it| it.name == rs).unwrap_or_else(|| {
        meta.replsets.push(RestoreReplset {
            name: rs.to_owned(),
            start_ts: 0,
            status: Status::Init,
            committed_txn: None,
            txn_set: false,
            partial_txn: None,
            op: zero_ts(),
            last_transition_ts: 0,
            last_write_ts: zero_ts(),
            error: None,
            conditions: Vec::new(),
            hb: zero_ts(),
            stat: RestoreStat::default(),
            progress: None,
        });
        meta.replsets.len() - 1
    });
    &mut meta.replsets[at]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{memory::Memory, write_all};

    #[tokio::test]
    async fn the_state_is_read_from_the_files() {
        let store = Memory::new();
        let mut meta = unknown("r");
        assert!(!read(&store, "r", &mut meta).await.expect("a listing"));
        for (file, content) in [
            ("cluster.starting", "5"),
            ("cluster.running", "7"),
            ("cluster.hb", "9"),
            ("rs.rs0/rs.starting", "5"),
            ("rs.rs0/rs.running", "6"),
            ("rs.rs0/node.h:1.error", "8:disk: full"),
            ("rs.rs0/stat.h:1", "{}"),
        ] {
            write_all(&store, &format!(".pbm.restore/r/{file}"), content).await.expect("put");
        }
        assert!(read(&store, "r", &mut meta).await.expect("the state"));
        assert_eq!((meta.status, meta.start_ts, meta.last_transition_ts, meta.hb.time), (Status::Running, 5, 7, 9));
        let part = &meta.replsets[0];
        assert_eq!((part.status, part.error.as_deref()), (Status::Running, Some("node h:1: disk: full")));
        write_all(&store, ".pbm.restore/r/cluster.error", "8:disk: full").await.expect("put");
        read(&store, "r", &mut meta).await.expect("the state");
        assert_eq!((meta.status, meta.error.as_deref()), (Status::Error, Some("disk: full")));
    }
}
