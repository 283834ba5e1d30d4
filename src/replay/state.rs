//! The catalogue and the counts of a running replay. Batches and commands read and change them.

use anyhow::{Result, bail};
use bson::{Timestamp, Uuid};

use crate::replay::catalog::Catalog;
use crate::replay::key::Key;
use crate::replay::stats::{Stats, Tolerance};

#[derive(Debug)]
pub(super) struct State {
    pub(super) catalog: Catalog,
    pub(super) stats: Stats,
    pub(super) tolerance: Tolerance,
}

impl State {
    /// Decides how the collection of an operation is found on the target.
    pub(super) fn key(&self, db: &str, coll: &str, uuid: Option<Uuid>) -> Key {
        let key = Key::of(db, coll, uuid);
        if matches!(key, Key::Name(_)) || self.catalog.knows(&key) {
            return key;
        }
        // If the dump has no UUIDs, the catalogue contains the collection under its name only.
        let name = Key::name(db, coll);
        if self.catalog.knows(&name) { name } else { key }
    }

    /// Counts a command whose collection the target does not have.
    ///
    /// # Errors
    /// The dump is not newer than the command at `ts`, so the collection should exist.
    pub(super) fn count_missing_collection(&mut self, ts: Timestamp) -> Result<()> {
        if !self.tolerance.includes(ts) {
            bail!("the collection is not there, so the restored data is not what the oplog continues");
        }
        self.stats.missing_collections += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mongo::capabilities::Capabilities;

    const SIX: Capabilities = Capabilities::release(6, 0);

    #[test]
    fn a_collection_of_a_dump_without_uuids_is_found_by_its_name() {
        let uuid = Uuid::from_bytes([7; 16]);
        let end = Tolerance::new(Timestamp { time: 5, increment: 1 });
        let mut state = State { catalog: Catalog::new(SIX), stats: Stats::default(), tolerance: end };
        assert_eq!(state.key("shop", "c", Some(uuid)), Key::uuid(uuid), "it is not known yet");
        let create = bson::doc! {"create": "c"};
        let _ = state.catalog.create(Key::name("shop", "c"), "shop.c".into(), &create);
        assert_eq!(state.key("shop", "c", Some(uuid)), Key::name("shop", "c"));
        let _ = state.catalog.create(Key::uuid(uuid), "shop.c".into(), &create);
        assert_eq!(state.key("shop", "c", Some(uuid)), Key::uuid(uuid));
    }

    #[test]
    fn a_missing_collection_is_an_error_after_the_last_write_of_the_dump() {
        let ts = |time| Timestamp { time, increment: 1 };
        let tolerance = Tolerance::new(ts(5));
        let mut state = State { catalog: Catalog::new(SIX), stats: Stats::default(), tolerance };
        state.count_missing_collection(ts(5)).expect("the dump may be newer");
        assert_eq!(state.stats.missing_collections, 1);
        let error = state.count_missing_collection(ts(6)).expect_err("data is missing");
        assert!(error.to_string().contains("the collection is not there"), "{error}");
        assert_eq!(state.stats.missing_collections, 1);
    }
}
