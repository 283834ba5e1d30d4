//! Additions to a plan: from a selection, from the oplog, and from the option to drop everything that the backup lacks.

use super::{Draft, Drop, TargetNamespace};
use crate::{
    archive::meta::NamespaceMeta,
    model::selection::Selection,
    replay::temporary_names,
    restore::plan::namespaces::{Fate, Wish, fate, is_droppable},
};

impl Draft<'_> {
    /// Whether a collection gets a selected name while the oplog is replayed.
    pub(super) fn is_followed(&self, meta: &NamespaceMeta) -> bool {
        let everything = Wish { selection: Selection::default(), ..self.facts.wish.clone() };
        let uuid = meta.uuid.filter(|_| fate(&meta.db, &meta.coll, &everything) == Fate::Restore);
        uuid.is_some_and(|uuid| self.facts.followed.is_some_and(|followed| followed.uuids.contains(&uuid.bytes())))
    }

    /// Whether the oplog creates, renames or drops the name of this target namespace.
    pub(super) fn is_replayed(&self, there: &TargetNamespace) -> bool {
        let name = (there.db.clone(), there.coll.clone());
        there.is_droppable() && self.facts.followed.is_some_and(|followed| followed.named.contains(&name))
    }

    /// Returns the oplog's name for a collection that has another name on the target.
    pub(super) fn replayed_as(&self, there: &TargetNamespace) -> Option<String> {
        self.facts.followed?.renamed.get(&(there.db.clone(), there.coll.clone())).cloned()
    }

    /// Handles a namespace that the target has and the backup lacks.
    pub(super) fn look_at_extra(&mut self, there: &TargetNamespace) {
        let wish = self.facts.wish;
        if temporary_names::is_temporary(&there.coll) {
            self.warnings.push(format!(
                "'{}.{}' is left from a restore that was interrupted; drop it when this one is done",
                there.db, there.coll
            ));
        } else if wish.drop_extra
            && is_droppable(&there.db, &there.coll)
            && wish.selection.wants(&there.db, &there.coll)
        {
            self.drops.insert(Drop { db: there.db.clone(), coll: there.coll.clone() });
        }
    }

    /// Refuses a selection that matches nothing in the backup, because it is most likely a typing error.
    pub(super) fn check_selection(&mut self) {
        let selection = &self.facts.wish.selection;
        if selection.is_everything() {
            return;
        }
        if self.facts.archive.is_some() {
            self.reasons.push("of a backup made before 2.0 everything is restored, or nothing".to_owned());
        }
        if self.facts.wish.clone.is_some() {
            let there = self.facts.target.namespaces.iter();
            let there = there.filter(|it| !it.coll.starts_with("system.") && selection.wants(&it.db, &it.coll));
            let exists = |it: &TargetNamespace| {
                format!("'{}.{}' exists on the target; choose another name for the clone", it.db, it.coll)
            };
            self.reasons.extend(there.map(exists));
        }
        let created = self.facts.followed.is_none_or(|followed| !followed.creates.is_empty());
        // The other shards may have all selected namespaces.
        if self.taken.is_empty() && !created && !self.facts.sharded {
            self.reasons.push(format!("it holds nothing of {selection}"));
        }
    }
}

/// Returns the collection with a temporary name, because the target may have another collection of its own name that
/// must stay.
pub(super) fn parked(meta: &NamespaceMeta) -> NamespaceMeta {
    NamespaceMeta {
        coll: temporary_names::for_uuid(&meta.uuid.map(bson::Uuid::bytes).unwrap_or_default()),
        ..meta.clone()
    }
}
