//! Checks whether this program can restore a backup, and compares the versions of the backup and of the target.

use super::{Draft, Refusal, version::Version};
use crate::{
    layout,
    model::{
        backup::{BackupMeta, BackupReplset, BackupType},
        names::PBM_VERSION,
        status::Status,
    },
};

/// From this version on chunks name their collection by its UUID, and collections and databases have timestamps.
const NEW_ROUTING: u32 = 5;

/// Returns the replica set's part of the backup if this program can restore it: the backup must be finished, logical
/// and of a known layout.
///
/// Call this before `metadata.json` is read, because other layouts have no such file.
pub fn restorable<'a>(backup: &'a BackupMeta, rs: &str) -> Result<&'a BackupReplset, Refusal> {
    let mut reasons = Vec::new();
    if backup.kind != BackupType::Logical {
        reasons.push(format!("it is a {} backup, not a logical one", backup.kind));
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
        let here = target.able_to();
        let (made, at) = (format!("{}.{}", source.major, source.minor), format!("{}.{}", here.major, here.minor));
        if source.major < NEW_ROUTING && here.major >= NEW_ROUTING {
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
}
