//! The namespaces of the target that a restore drops, because the backup or the oplog replaces them.

use super::{Draft, Drop, Planned, TargetNamespace};
use crate::{
    model::names::{BUCKETS, series_name},
    replay::temporary_names,
    routing::OWN,
};
use std::collections::{BTreeSet, HashMap};

impl Draft<'_> {
    /// Plans to drop every namespace of the target whose name is in the backup, or is created, renamed or dropped by
    /// the oplog: the replay begins before that change of names, so the target's namespace is from a later time. If the
    /// target has the UUID of such a collection under another name, the collection was renamed later and is dropped,
    /// too. Otherwise the server would not create the collection under its old name, but rename the existing one, which
    /// has newer documents.
    pub(super) fn plan_drops(&mut self) {
        let named = |planned: &Planned| {
            Some((planned.meta.uuid?.bytes(), format!("{}.{}", planned.meta.db, planned.meta.coll)))
        };
        let by_uuid: HashMap<_, _> = self.taken.values().filter_map(named).collect();
        let facts = self.facts;
        let mut extra = Vec::new();
        for there in &facts.target.namespaces {
            let own = there.uuid.and_then(|uuid| by_uuid.get(&uuid.bytes()));
            if !there.is_readable() {
                self.look_at_unreadable(there, own);
                continue;
            }
            let name = series_name(&there.coll);
            if self.taken.contains_key(&(there.db.clone(), name.to_owned())) {
                self.drops.insert(Drop { db: there.db.clone(), coll: there.coll.clone() });
                continue;
            }
            if self.is_replayed(there) {
                self.drops.insert(Drop { db: there.db.clone(), coll: there.coll.clone() });
                continue;
            }
            let of_backup = own.map(|ns| (ns.clone(), "of the backup"));
            let of_oplog = || Some((self.replayed_as(there)?, "of the oplog that is replayed"));
            let Some((old, whose)) = of_backup.or_else(of_oplog) else {
                extra.push(there);
                continue;
            };
            let now = there.to_string();
            if temporary_names::is_temporary(&there.coll) {
                self.drops.insert(Drop { db: there.db.clone(), coll: there.coll.clone() });
            } else if !self.facts.wish.selection.wants(&there.db, &there.coll) {
                self.reasons.push(format!(
                    "'{now}' on the target is '{old}' {whose}, renamed since then, and is not selected: it would be lost; \
                     copy it to another collection and drop it, or select it too"
                ));
            } else if there.is_droppable() {
                self.warnings.push(format!("'{now}' is dropped: it is '{old}' {whose}, renamed since then"));
                self.drops.insert(Drop { db: there.db.clone(), coll: there.coll.clone() });
            } else {
                self.reasons.push(format!("'{now}' on the target has the UUID of '{old}' and cannot be dropped"));
            }
        }
        extra.into_iter().for_each(|there| self.look_at_extra(there));
    }

    /// A collection of the target whose name is not valid UTF-8 stays. So the restore is refused if it would drop the
    /// collection or needs its UUID.
    fn look_at_unreadable(&mut self, there: &TargetNamespace, of_backup: Option<&String>) {
        if !there.is_droppable() || there.coll.starts_with(BUCKETS) {
            return;
        }
        let facts = self.facts;
        let why = "its name is not valid UTF-8";
        let old = of_backup.cloned().or_else(|| self.replayed_as(there));
        if let Some(old) = old {
            self.reasons.push(format!(
                "'{there}' on the target is '{old}', renamed since then, and {why}, so it can't be replaced: drop it, or rename \
                 it back"
            ));
        } else if facts.sharded && !facts.wish.config_server && facts.wish.selection.is_everything() {
            self.reasons.push(format!(
                "'{there}' on the target would be lost, because a restore of shards drops whole databases, and {why}, so no \
                 backup holds it: copy it to a collection with another name and drop it"
            ));
        } else {
            self.warnings.push(format!("'{there}' stays as it is: {why}, so no backup holds it"));
        }
    }

    /// Refuses databases whose names differ only in case. The server also refuses them, but only when the second one is
    /// created.
    pub(super) fn check_database_names(&mut self) {
        let there: BTreeSet<_> = self.facts.target.namespaces.iter().map(|ns| ns.db.as_str()).collect();
        let selection = &self.facts.wish.selection;
        let replayed = self.facts.followed.into_iter().flat_map(|followed| &followed.databases);
        let replayed = replayed.map(String::as_str).filter(|db| selection.touches(db) && !OWN.contains(db));
        let wanted: BTreeSet<_> = self.taken.keys().map(|(db, _)| db.as_str()).chain(replayed).collect();
        for db in wanted {
            if let Some(other) = there.iter().find(|other| **other != db && other.eq_ignore_ascii_case(db)) {
                self.reasons.push(format!("database '{db}' cannot be beside '{other}', which the target has"));
            }
        }
    }
}
