//! Compares the versions of a backup and of the target.

use super::{Draft, version::Version};
use crate::{layout, model::names::PBM_VERSION};

/// From this version on chunks name their collection by its UUID, and collections and databases have timestamps.
const NEW_ROUTING: u32 = 5;

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
