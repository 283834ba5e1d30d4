//! One backup as `list` and `status` show it, and whether it can be restored on this cluster.

use crate::cmd::io::{context::Context, error::Result, remapping::Remapping};
use crate::model::{
    backup::{BackupMeta, BackupType},
    lock::{STALE_SECS, is_stale},
    serde_help::is_default,
    status::Status,
};
use crate::mongo::admin;
use crate::mongo::version::Version;
use crate::restore::plan::members::participants;
use crate::topo::cluster::Cluster;
use bson::Timestamp;
use serde::Serialize;
use std::borrow::Cow;

/// What a backup is judged by.
#[derive(Debug)]
pub struct Judge {
    now: Timestamp,
    pub cluster: Cluster,
    /// Of the leader replica set's server; none if it doesn't tell.
    server: Option<admin::Version>,
    /// Other names of the backup's replica sets.
    map: Remapping,
}

impl Judge {
    /// Reads the cluster.
    pub async fn read(cx: &Context, map: Option<Remapping>) -> Result<Self> {
        let now = cx.control.cluster_time().await?;
        let server = admin::version(cx.control.client()).await;
        let server = server.inspect_err(|error| tracing::debug!("{error:#}")).ok();
        Ok(Self { now, cluster: cx.cluster().await?, server, map: map.unwrap_or_default() })
    }

    /// Of a cluster that is one replica set, for tests.
    #[cfg(test)]
    pub fn of_one_set(rs: &str, now: u32) -> Self {
        let member = crate::topo::cluster::Member { id: rs.into(), hosts: Vec::new(), config: false };
        let cluster = Cluster { sharded: false, members: [(rs.to_owned(), member)].into() };
        let server = admin::Version { server: "6.0.5".into(), fcv: "6.0".into(), psmdb: None };
        Self { now: Timestamp { time: now, increment: 1 }, cluster, server: Some(server), map: Remapping::new() }
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

    /// Why it is of another time, in the original's order. A logical restore warns of that, or needs not know.
    fn stranger(&self, backup: &BackupMeta) -> Option<String> {
        let series = |text: &str| Version::parse(text).map(Version::series);
        let warned = "a restore of it warns and goes on";
        match &self.server {
            Some(here) if !backup.fcv.is_empty() && backup.fcv != here.fcv => {
                return Some(format!("made at FCV {}, the cluster is at {}; {warned}", backup.fcv, here.fcv));
            }
            Some(here) if backup.fcv.is_empty() && series(&backup.mongodb_version) != series(&here.server) => {
                return Some(format!("made on server {}, this is {}; {warned}", backup.mongodb_version, here.server));
            }
            _ => {}
        }
        let (least, kind) = match backup.kind {
            BackupType::Logical => (Version::new(1, 5, 0), "logical"),
            BackupType::Incremental => (Version::new(2, 1, 0), "incremental"),
            _ => return None,
        };
        let written = Version::parse(&backup.pbm_version);
        (written < Some(least))
            .then(|| format!("written by PBM {}, {kind} backups are compatible since {least}", backup.pbm_version))
    }

    /// Its replica sets are those of this cluster.
    #[must_use]
    pub fn fits(&self, backup: &BackupMeta) -> bool {
        self.misfit(backup).is_none()
    }

    /// The backups whose replica sets are those of this cluster.
    #[must_use]
    pub fn fitting<'a>(&self, all: &'a [BackupMeta]) -> Cow<'a, [BackupMeta]> {
        match all.iter().all(|backup| self.fits(backup)) {
            true => Cow::Borrowed(all),
            false => Cow::Owned(all.iter().filter(|backup| self.fits(backup)).cloned().collect()),
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
    #[serde(skip_serializing_if = "is_default")]
    pub size: i64,
    pub status: Status,
    #[serde(rename = "printStatus")]
    pub print_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It was made, and is not of this cluster or of this time.
    #[serde(skip)]
    pub incompatible: bool,
    #[serde(rename = "restoreTo")]
    pub restore_to: i64,
    #[serde(rename = "pbmVersion")]
    pub pbm_version: String,
    #[serde(rename = "type")]
    pub kind: BackupType,
    pub src: String,
    /// *Added by us*: the collections that the backup can't hold.
    #[serde(rename = "leftOut", skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
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
            Status::Done => match judge.misfit(backup).or_else(|| judge.stranger(backup)) {
                Some(why) => (Status::Error, "failed", Some(format!("incompatible: {why}"))),
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
            incompatible: done && status == Status::Error,
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
            left_out: backup.replsets.iter().flat_map(|rs| &rs.left_out).cloned().collect(),
        }
    }

    /// For people.
    #[must_use]
    pub fn outcome(&self) -> String {
        match &self.error {
            Some(why) if self.incompatible => why.clone(),
            Some(error) => format!("{}: {error}", self.status),
            None => match self.remark() {
                Some(remark) => format!("{}, {remark}", self.status),
                None => self.status.to_string(),
            },
        }
    }

    /// What people should know of the backup besides its status.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        let left_out = (!self.left_out.is_empty()).then_some(self.left_out.len());
        self.error.clone().or_else(|| left_out.map(|count| format!("{count} left out: `pbm describe-backup`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(map: &[(&str, &str)]) -> Judge {
        let map = map.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        Judge { map, ..Judge::of_one_set("rs0", 1000) }
    }

    fn backup(status: Status, rs: &str, hb: u32) -> BackupMeta {
        let meta = serde_json::json!({
            "name": "b", "pbm_version": "2.15.0", "last_transition_ts": 5, "replsets": [{ "name": rs }], "fcv": "6.0",
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
    fn what_is_of_another_time_is_marked() {
        let here = backup(Status::Done, "rs0", 1);
        for (fcv, server, kind, pbm, said) in [
            ("6.0", "5.0.2", BackupType::Logical, "1.5.0", "done"),
            ("5.0", "6.0.5", BackupType::Logical, "2.15.0", "incompatible: made at FCV 5.0, the cluster is at 6.0; a"),
            ("7.0", "6.0.5", BackupType::Physical, "2.15.0", "incompatible: made at FCV 7.0"),
            ("", "6.0.11-8", BackupType::Logical, "v1.8.1", "done"),
            ("", "5.0.5-4", BackupType::Logical, "1.6.0", "incompatible: made on server 5.0.5-4, this is 6.0.5"),
            ("6.0", "6.0.5", BackupType::Logical, "1.4.1", "incompatible: written by PBM 1.4.1, logical"),
            ("6.0", "6.0.5", BackupType::Logical, "", "incompatible: written by PBM"),
            ("6.0", "6.0.5", BackupType::Incremental, "2.0.5", "incompatible: written by PBM 2.0.5, incremental"),
            ("6.0", "6.0.5", BackupType::Physical, "1.7.0", "done"),
        ] {
            let backup = BackupMeta {
                fcv: fcv.into(),
                mongodb_version: server.into(),
                kind,
                pbm_version: pbm.into(),
                ..here.clone()
            };
            let (status, print, outcome, _) = seen(&backup, &judge(&[]));
            assert!(outcome.starts_with(said), "{fcv} {server} {pbm}: {outcome}");
            let fits = said == "done";
            assert_eq!((status == Status::Done, print), (fits, if fits { "success" } else { "failed" }));
            assert_eq!(judge(&[]).fitting(&[backup]).len(), 1, "its data can be restored, so it is a base of ranges");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_unless_it_is_renamed() {
        let done = seen(&backup(Status::Done, "rs0", 1), &judge(&[]));
        assert_eq!(done, (Status::Done, "success", "done".to_owned(), 7));
        let other = backup(Status::Done, "old", 1);
        let (status, print, outcome, _) = seen(&other, &judge(&[]));
        assert_eq!((status, print), (Status::Error, "failed"), "as in the original");
        assert!(outcome.starts_with("incompatible: replica set 'old'"), "{outcome}");
        let renaming = judge(&[("old", "rs0"), ("unused", "rs9")]);
        assert_eq!(seen(&other, &renaming).0, Status::Done);
        let both = [other, backup(Status::Done, "rs0", 1)];
        assert_eq!((judge(&[]).fitting(&both).len(), judge(&[]).fitting(&both[1..]).len()), (1, 1));
    }
}
