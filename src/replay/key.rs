//! How a collection is found on the target: by its UUID, or by its name if its UUID does not last.

use bson::Uuid;

use crate::model::names::BUCKETS;

/// How a collection of the restore is found on the target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Uuid([u8; 16]),
    /// `db.coll`. For a time series it is the name of the bucket collection.
    Name(String),
}

impl Key {
    pub fn uuid(uuid: Uuid) -> Self {
        Self::Uuid(uuid.bytes())
    }

    pub fn name(db: &str, coll: &str) -> Self {
        Self::Name(format!("{db}.{coll}"))
    }

    /// Returns the UUID as the key, or the name if there is no UUID or the collection is found by its name.
    pub fn of(db: &str, coll: &str, uuid: Option<Uuid>) -> Self {
        match lasting_uuid(db, coll, uuid) {
            Some(uuid) => Self::uuid(uuid),
            None => Self::name(db, coll),
        }
    }
}

/// Returns the UUID, or `None` if the collection is found by its name.
pub fn lasting_uuid(db: &str, coll: &str, uuid: Option<Uuid>) -> Option<Uuid> {
    uuid.filter(|_| !is_found_by_name(db, coll))
}

/// Whether operations on this collection find it by its name. Otherwise they find it by its UUID.
///
/// The UUIDs of these collections differ from cluster to cluster, and none of them can be renamed. The original finds those of
/// `config` and `system.js` by UUID, but a restore does not always give them their old UUID.
pub(super) fn is_found_by_name(db: &str, coll: &str) -> bool {
    match db {
        "config" => true,
        "admin" if coll.starts_with("system.") => true,
        _ => coll.starts_with(BUCKETS) || matches!(coll, "system.views" | "system.js"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_without_a_lasting_uuid_are_found_by_name() {
        let uuid = Uuid::from_bytes([7; 16]);
        for (ns, expected) in [
            ("shop.a", false),
            ("shop.system.buckets.ts", true),
            ("shop.system.views", true),
            ("shop.system.js", true),
            ("shop.system.resharding.1", false),
            ("admin.mine", false),
            ("admin.system.users", true),
            ("config.settings", true),
        ] {
            let (db, coll) = ns.split_once('.').unwrap();
            assert_eq!(is_found_by_name(db, coll), expected, "{ns}");
            let key = if expected { Key::name(db, coll) } else { Key::uuid(uuid) };
            assert_eq!(Key::of(db, coll, Some(uuid)), key, "{ns}");
            assert_eq!(Key::of(db, coll, None), Key::name(db, coll), "{ns}");
        }
    }
}
