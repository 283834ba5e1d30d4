//! Checks whether this program can restore a backup, and compares the versions of the backup and of the target.

use super::{Draft, Refusal};
use crate::archive::meta::NamespaceKind;
use crate::mongo::capabilities::{Capabilities, Capability};
use crate::mongo::version::Version;
use crate::{
    layout,
    model::{
        backup::{BackupMeta, BackupReplset, BackupType},
        names::{BUCKETS, PBM_VERSION},
        status::Status,
    },
};

/// How many names a reason has.
const NAMED: usize = 5;

/// Returns the replica set's part of the backup if this program can restore it: the backup must be finished, logical
/// and of a known layout.
///
/// Call this before `metadata.json` is read, because other layouts have no such file.
pub fn restorable<'a>(backup: &'a BackupMeta, rs: &str) -> Result<&'a BackupReplset, Refusal> {
    let mut reasons = Vec::new();
    if !matches!(backup.kind, BackupType::Logical | BackupType::Physical) {
        reasons.push(format!("it is an {} backup, and this program can't restore those", backup.kind));
    }
    if let layout::Origin::Unknown = layout::origin(&backup.pbm_version) {
        reasons.push(format!(
            "version {} made it, and this program knows the files of versions up to {PBM_VERSION}; use one of that generation",
            backup.pbm_version
        ));
    }
    if backup.status != Status::Done {
        let error = backup.error.as_deref().filter(|error| !error.is_empty());
        reasons.push(format!(
            "its status is '{}'{}",
            backup.status,
            error.map(|error| format!(" ({error})")).unwrap_or_default()
        ));
    }
    let found = backup.replsets.iter().find(|part| part.name == rs);
    match found {
        None => {
            let names: Vec<_> = backup.replsets.iter().map(|part| part.name.as_str()).collect();
            reasons.push(format!("it has no replica set '{rs}' (it has: {})", names.join(", ")));
        }
        Some(part) if part.status != Status::Done => {
            reasons.push(format!("the status of its replica set '{rs}' is '{}'", part.status));
        }
        Some(_) => {}
    }
    match found {
        Some(part) if reasons.is_empty() => Ok(part),
        _ => Err(Refusal { backup: backup.name.clone(), reasons }),
    }
}

/// As [`restorable`], if the backup has documents, which can be loaded one by one.
pub fn loadable<'a>(backup: &'a BackupMeta, rs: &str) -> Result<&'a BackupReplset, Refusal> {
    if backup.kind != BackupType::Physical {
        return restorable(backup, rs);
    }
    let reason = "it is a physical backup, which has data files and no documents".to_owned();
    Err(Refusal { backup: backup.name.clone(), reasons: vec![reason] })
}

impl Draft<'_> {
    pub(super) fn compare_versions(&mut self) {
        let (backup, target) = (self.facts.backup, self.facts.target);
        if !backup.fcv.is_empty() && !target.fcv.is_empty() && backup.fcv != target.fcv {
            self.warnings.push(format!(
                "the backup was made at feature compatibility version {}, the target is at {}",
                backup.fcv, target.fcv
            ));
        }
        if let layout::Origin::Newer = layout::origin(&backup.pbm_version) {
            self.warnings.push(format!(
                "version {} made the backup, and this program is like {PBM_VERSION}: it knows nothing that is new in it",
                backup.pbm_version
            ));
        }
        if let Some(source) = Version::parse(&backup.mongodb_version)
            && source.series() > target.server.series()
        {
            self.warnings.push(format!("the backup was made on server {source}, the target is {}", target.server));
        }
        if self.facts.sharded {
            self.compare_routing();
        }
    }

    /// Compares versions, because the routing tables are restored unchanged and a server reads only the format of its own
    /// version.
    fn compare_routing(&mut self) {
        let (backup, target) = (self.facts.backup, self.facts.target);
        let source = Version::parse(&backup.fcv).or_else(|| Version::parse(&backup.mongodb_version));
        let Some(source) = source else { return };
        let here = target.able().features;
        let (made, at) = (format!("{}.{}", source.major, source.minor), format!("{}.{}", here.major, here.minor));
        let new = |able: Capabilities| able.has(Capability::RoutingByUuid);
        if !new(Capabilities::of(source, "")) && new(target.able()) {
            self.reasons.push(format!(
                "it is of a sharded cluster at feature compatibility version {made}, and servers at {at} can't read the routing \
                 tables of that; restore it to a cluster at {made} and upgrade that one, or load each shard's data with \
                 `pbm export --replset` and mongorestore"
            ));
        } else if source.series() > here.series() {
            self.reasons.push(format!(
                "it is of a sharded cluster at feature compatibility version {made}, and the target is at {at}, which can't \
                 read newer routing tables; upgrade the target first"
            ));
        }
    }

    /// A server of the backup's version may have written buckets that the target can't read: it would take them, and queries
    /// would fail. The backup does not tell which buckets these are, so every time series with data counts.
    pub(super) fn compare_buckets(&mut self) {
        let (backup, target) = (self.facts.backup, self.facts.target.able());
        let Some(source) = Capabilities::read(&backup.mongodb_version, &backup.fcv) else { return };
        if !source.has(Capability::UnsortedBuckets) || target.has(Capability::UnsortedBuckets) {
            return;
        }
        let has_buckets = |planned: &&super::Planned| {
            let is_series = planned.meta.kind == NamespaceKind::Timeseries || planned.meta.coll.starts_with(BUCKETS);
            is_series && planned.data.is_some()
        };
        let all = self.taken.values().chain(&self.remains).filter(has_buckets);
        let names: Vec<String> = all.map(|it| format!("'{}.{}'", it.meta.db, it.meta.coll)).collect();
        if names.is_empty() {
            return;
        }
        let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
        self.reasons.push(format!(
            "the time series {}{more} were written at feature compatibility version {}, whose buckets (control.version 3) a server \
             at {target} can't read; restore them to a server that is as new, or select what else is to be restored (--ns)",
            names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "),
            source.features
        ));
    }
}
