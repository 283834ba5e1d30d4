//! One backup as `list` and `status` show it, and whether it can be restored on this cluster.

use super::{context::Context, error::Result, list::is_zero, restore::Remapping};
use crate::model::{
    backup::{BackupMeta, BackupType},
    lock::{STALE_SECS, is_stale},
    status::Status,
};
use crate::restore::members::participants;
use crate::topo::cluster::Cluster;
use bson::Timestamp;
use serde::Serialize;
use std::borrow::Cow;

/// What a backup is judged by.
#[derive(Debug)]
pub struct Judge {
    now: Timestamp,
    pub cluster: Cluster,
    /// Other names of the backup's replica sets.
    map: Remapping,
}

impl Judge {
    /// Reads the cluster.
    pub async fn read(cx: &Context, map: Option<Remapping>) -> Result<Self> {
        let now = cx.control.cluster_time().await?;
        Ok(Self { now, cluster: cx.cluster().await?, map: map.unwrap_or_default() })
    }

    /// The name in this cluster of a replica set of the backups.
    #[must_use]
    pub fn renamed<'a>(&'a self, rs: &'a str) -> &'a str {
        self.map.get(rs).map_or(rs, String::as_str)
    }

    /// Why its replica sets don't fit those of this cluster.
    fn misfit(&self, backup: &BackupMeta) -> Option<String> {
        let of_backup = |from: &String| backup.replsets.iter().any(|part| part.name == *from);
        let map = self.map.iter().filter(|(from, _)| of_backup(from)).map(|(a, b)| (a.clone(), b.clone())).collect();
        participants(backup, &self.cluster, &map).err().map(|why| why.join("; "))
    }

    /// The backups whose replica sets are those of this cluster.
    #[must_use]
    pub fn fitting<'a>(&self, all: &'a [BackupMeta]) -> Cow<'a, [BackupMeta]> {
        let fits = |backup: &BackupMeta| self.misfit(backup).is_none();
        match all.iter().all(fits) {
            true => Cow::Borrowed(all),
            false => Cow::Owned(all.iter().filter(|backup| fits(backup)).cloned().collect()),
        }
    }
}

/// One backup.
#[derive(Debug, Serialize)]
pub struct Snapshot {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nss: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub size: i64,
    pub status: Status,
    #[serde(rename = "printStatus")]
    pub print_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(rename = "restoreTo")]
    pub restore_to: i64,
    #[serde(rename = "pbmVersion")]
    pub pbm_version: String,
    #[serde(rename = "type")]
    pub kind: BackupType,
    pub src: String,
}

impl Snapshot {
    /// From its document.
    #[must_use]
    pub fn of(backup: &BackupMeta, judge: &Judge) -> Self {
        let done = backup.status == Status::Done;
        let profile = backup.store.name.clone().filter(|_| backup.store.profile == Some(true));
        let stored = backup.error.clone().filter(|error| !error.is_empty());
        // What is shown and not stored, as in the original.
        let (status, print_status, error) = match backup.status {
            Status::Done => match judge.misfit(backup) {
                Some(why) => (Status::Error, "success", Some(format!("incompatible: {why}"))),
                None => (Status::Done, "success", stored),
            },
            Status::Error | Status::Canceled => (backup.status, "failed", stored),
            status if is_stale(backup.hb, judge.now) => {
                let why = format!("stuck at '{status}': no heartbeat for more than {STALE_SECS} s");
                (Status::Error, "failed", Some(why))
            }
            status => (status, "ongoing", stored),
        };
        Self {
            name: backup.name.clone(),
            storage: profile.clone(),
            profile,
            nss: backup.nss.clone(),
            size: backup.size,
            status,
            print_status,
            error,
            restore_to: if done { i64::from(backup.last_write_ts.time) } else { backup.last_transition_ts },
            pbm_version: backup.pbm_version.clone(),
            kind: backup.kind,
            src: backup.src_backup.clone().unwrap_or_default(),
        }
    }

    /// For people.
    #[must_use]
    pub fn outcome(&self) -> String {
        match &self.error {
            Some(why) if self.print_status == "success" => why.clone(),
            Some(error) => format!("{}: {error}", self.status),
            None => self.status.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topo::cluster::Member;

    fn judge(map: &[(&str, &str)]) -> Judge {
        let member = Member { id: "rs0".into(), hosts: Vec::new(), config: false };
        let cluster = Cluster { sharded: false, members: [("rs0".to_owned(), member)].into() };
        let map = map.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        Judge { now: Timestamp { time: 1000, increment: 1 }, cluster, map }
    }

    fn backup(status: Status, rs: &str, hb: u32) -> BackupMeta {
        let meta = serde_json::json!({
            "name": "b", "pbm_version": "2.15.0", "last_transition_ts": 5, "replsets": [{ "name": rs }],
        });
        let meta = serde_json::from_value(meta).expect("a backup");
        let at = |time| Timestamp { time, increment: 1 };
        BackupMeta { status, hb: at(hb), last_write_ts: at(7), ..meta }
    }

    fn seen(backup: &BackupMeta, judge: &Judge) -> (Status, &'static str, String, i64) {
        let it = Snapshot::of(backup, judge);
        let outcome = it.outcome();
        (it.status, it.print_status, outcome, it.restore_to)
    }

    #[test]
    fn what_is_stuck_has_failed() {
        let silent = seen(&backup(Status::Running, "rs0", 960), &judge(&[]));
        assert_eq!((silent.0, silent.1, silent.3), (Status::Error, "failed", 5));
        assert!(silent.2.starts_with("error: stuck at 'running'"), "{}", silent.2);
        let alive = seen(&backup(Status::Running, "rs0", 990), &judge(&[]));
        assert_eq!(alive, (Status::Running, "ongoing", "running".to_owned(), 5));
        let canceled = seen(&backup(Status::Canceled, "rs0", 1), &judge(&[]));
        assert_eq!(canceled, (Status::Canceled, "failed", "canceled".to_owned(), 5));
    }

    #[test]
    fn what_does_not_fit_is_told_unless_it_is_renamed() {
        let done = seen(&backup(Status::Done, "rs0", 1), &judge(&[]));
        assert_eq!(done, (Status::Done, "success", "done".to_owned(), 7));
        let other = backup(Status::Done, "old", 1);
        let (status, print, outcome, _) = seen(&other, &judge(&[]));
        assert_eq!((status, print), (Status::Error, "success"));
        assert!(outcome.starts_with("incompatible: replica set 'old'"), "{outcome}");
        let renaming = judge(&[("old", "rs0"), ("unused", "rs9")]);
        assert_eq!(seen(&other, &renaming).0, Status::Done);
        let both = [other, backup(Status::Done, "rs0", 1)];
        assert_eq!((judge(&[]).fitting(&both).len(), judge(&[]).fitting(&both[1..]).len()), (1, 1));
    }
}
