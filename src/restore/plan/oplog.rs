//! The oplog objects of a plan: the slices of the backup and, up to a later moment, PITR chunks.

use super::{
    Draft, moment,
    slices::{Ends, OplogObject, chain, cover, moment as time},
};
use crate::{
    layout::Generation,
    model::backup::{BackupMeta, BackupReplset},
};
use bson::Timestamp;

impl Draft<'_> {
    pub(super) fn take_oplog(&mut self, part: &BackupReplset) {
        let (first, last) = (part.first_write_ts, self.facts.backup.last_write_ts);
        if last.time == 0 {
            self.reasons.push("its metadata does not say when it ends (last_write_ts)".to_owned());
        }
        // Before 2.4 a backup's oplog was one object.
        if Generation::of(&self.facts.backup.pbm_version) < Generation::Current {
            // The oplog object of every replica set ends at the last write of the cluster, which another replica set may have
            // made.
            match self.sizes.get(part.oplog_name.as_str()) {
                Some(&size) if size > 0 => self.oplog.push(OplogObject {
                    size,
                    holds: Some(last.min(part.last_write_ts)).filter(|holds| holds.time > 0),
                    ..OplogObject::new(
                        part.oplog_name.clone(),
                        self.layout.compression,
                        (first, last.max(part.last_write_ts)),
                        Ends::Unnamed,
                    )
                }),
                _ => self.reasons.push(format!("oplog '{}' does not exist or is empty", part.oplog_name)),
            }
            return;
        }
        let dir = if part.oplog_name.is_empty() { self.layout.oplog_dir() } else { part.oplog_name.clone() };
        match cover(&dir, self.facts.objects, first, last) {
            Ok(slices) => {
                self.reasons.extend(contradiction(self.facts.backup, part, &slices));
                self.oplog = slices;
            }
            Err(problems) => self.reasons.extend(problems),
        }
    }

    /// Puts the chunks up to the target behind the backup's slices. Both are pieces of the same oplog.
    pub(super) fn lengthen(&mut self, part: &BackupReplset) {
        let Some(point) = self.facts.point else { return };
        if !self.reasons.is_empty() {
            return;
        }
        if let Some(why) = moment::too_early(self.facts.backup, point.target) {
            self.reasons.push(why);
            return;
        }
        let from = match self.oplog.first() {
            Some(_) if part.first_write_ts.time > 0 => part.first_write_ts,
            Some(first) => first.from,
            None => moment::begin(self.facts.backup, part),
        };
        let chunks = point.chunks.iter().map(OplogObject::from);
        match chain(std::mem::take(&mut self.oplog).into_iter().chain(chunks).collect(), from, point.target) {
            Ok(oplog) => self.oplog = oplog,
            Err(gap) => self.reasons.push(gap.explain(self.facts.rs)),
        }
        // The replica set has an entry at its last write, so every object whose range contains that time must hold this entry.
        let known = part.last_write_ts;
        let current = Generation::of(&self.facts.backup.pbm_version) == Generation::Current;
        for object in self.oplog.iter_mut().filter(|it| current && it.from <= known && known <= it.to) {
            object.holds.get_or_insert(known);
        }
    }
}

/// Finds end times in the backup's metadata that contradict each other. No slice of a replica set may begin after the end of
/// its own part, and the end of the backup must be that of the part that ended first. A restore to any other end would not
/// give a consistent state.
fn contradiction(backup: &BackupMeta, part: &BackupReplset, slices: &[OplogObject]) -> Option<String> {
    let ends: Vec<Timestamp> = backup.replsets.iter().map(|part| part.last_write_ts).collect();
    let earliest = ends.iter().copied().min().filter(|earliest| earliest.time > 0);
    if let Some(earliest) = earliest.filter(|earliest| *earliest != backup.last_write_ts) {
        let says = time(backup.last_write_ts);
        return Some(format!(
            "its metadata contradicts itself: it ends at {says}, but the first of its replica sets at {}",
            time(earliest)
        ));
    }
    let reached = slices.iter().map(|slice| slice.from).max()?;
    (part.last_write_ts.time > 0 && reached > part.last_write_ts).then(|| {
        format!(
            "its metadata contradicts its files: replica set '{}' ends at {}, but its oplog goes on from {}",
            part.name,
            time(part.last_write_ts),
            time(reached)
        )
    })
}
