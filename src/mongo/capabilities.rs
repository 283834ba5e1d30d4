//! What a server can do, by its version and its feature compatibility version: the one table for that.
//!
//! A server at an older feature compatibility version has most features of that older version only. Nothing else in this
//! program compares the version of a server with a number.

use super::version::Version;
use std::fmt;

/// A property of servers that begins with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Collections of the type `timeseries`.
    TimeSeries,
    /// `expireAfterSeconds` as an option of a collection.
    CollectionTtl,
    /// Routing tables with UUIDs and timestamps. Servers that have it can't read the older tables.
    RoutingByUuid,
    ClusteredCollections,
    PreAndPostImages,
    EncryptedFields,
    /// `collMod` can change the cap of a collection.
    ChangeableCaps,
    /// The option `recordPreImages` is gone.
    WithoutRecordPreImages,
    /// A `collMod` without `recordPreImages` leaves that option as it is. Before, it switched the option off (5.0.4).
    KeepsRecordPreImages,
    /// `bucketMaxSpanSeconds` and `bucketRoundingSeconds` can be chosen.
    ChosenBucketSpans,
    /// Direct access to a shard of a cluster with several shards needs the action `issueDirectShardOperations`.
    DirectShardChecks,
    /// Buckets of time series whose measurements are compressed and not sorted (`control.version` 3).
    UnsortedBuckets,
    /// A time series is one collection: there is no `system.buckets.NAME` beside it.
    ViewlessTimeSeries,
}

/// Whether the version of the program decides, or the feature compatibility version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Program,
    Features,
}

use Capability::{
    ChangeableCaps, ChosenBucketSpans, ClusteredCollections, CollectionTtl, DirectShardChecks, EncryptedFields,
    KeepsRecordPreImages, PreAndPostImages, RoutingByUuid, TimeSeries, UnsortedBuckets, ViewlessTimeSeries,
    WithoutRecordPreImages,
};

/// Which version has it first.
const TABLE: [(Capability, Version, By); 13] = [
    (TimeSeries, Version::new(5, 0, 0), By::Features),
    (CollectionTtl, Version::new(5, 0, 0), By::Features),
    (RoutingByUuid, Version::new(5, 0, 0), By::Features),
    (ClusteredCollections, Version::new(5, 3, 0), By::Features),
    (PreAndPostImages, Version::new(6, 0, 0), By::Features),
    (EncryptedFields, Version::new(6, 0, 0), By::Features),
    (ChangeableCaps, Version::new(6, 0, 0), By::Features),
    (WithoutRecordPreImages, Version::new(6, 0, 0), By::Features),
    (KeepsRecordPreImages, Version::new(6, 0, 0), By::Program),
    (ChosenBucketSpans, Version::new(6, 3, 0), By::Features),
    (DirectShardChecks, Version::new(7, 3, 0), By::Features),
    (UnsortedBuckets, Version::new(8, 0, 0), By::Features),
    (ViewlessTimeSeries, Version::new(9, 0, 0), By::Features),
];

/// Release series that this program was made for: tested, or built to the documented facts. The newest one is the last.
const KNOWN: [(u32, u32); 4] = [(5, 0), (6, 0), (7, 0), (8, 0)];

impl Capability {
    fn row(self) -> (Version, By) {
        let row = TABLE.iter().find(|(capability, ..)| *capability == self);
        row.map_or((Version::new(u32::MAX, 0, 0), By::Program), |(_, since, by)| (*since, *by))
    }

    /// The first version that has it.
    #[must_use]
    pub fn since(self) -> Version {
        self.row().0
    }
}

/// The version of a server, and the version whose features it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    pub server: Version,
    /// The server's version, or its feature compatibility version if that is of an older series.
    pub features: Version,
}

impl Capabilities {
    /// `fcv` is the feature compatibility version, empty if it is not known.
    #[must_use]
    pub fn of(server: Version, fcv: &str) -> Self {
        let features = Version::parse(fcv).filter(|fcv| fcv.series() < server.series()).unwrap_or(server);
        Self { server, features }
    }

    /// From the texts that a server or a backup gives. `None` if there is no version in them.
    #[must_use]
    pub fn read(server: &str, fcv: &str) -> Option<Self> {
        Some(Self::of(Version::parse(server).or_else(|| Version::parse(fcv))?, fcv))
    }

    /// A server of this release series, at its own feature compatibility version.
    #[must_use]
    pub const fn release(major: u32, minor: u32) -> Self {
        let version = Version::new(major, minor, 0);
        Self { server: version, features: version }
    }

    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        let (since, by) = capability.row();
        since <= if by == By::Program { self.server } else { self.features }
    }

    /// Whether the server is newer than all that this program knows, and so may know what this program does not.
    #[must_use]
    pub fn may_know_more(&self) -> bool {
        self.server.series() > KNOWN[KNOWN.len() - 1]
    }

    /// What an operator should know about this version, if it is none that this program was made for.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        let newest = KNOWN[KNOWN.len() - 1];
        if KNOWN.contains(&self.server.series()) {
            return None;
        }
        Some(if self.may_know_more() {
            format!(
                "newer than {}.{}, the newest one that this build knows. Untested are its collection types and options, its oplog \
                 entries, its routing tables and its rights of users: what is unknown of them is refused by its name",
                newest.0, newest.1
            )
        } else {
            "none that this build was made for".to_owned()
        })
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_whole() {
        assert!(TABLE.is_sorted_by_key(|(_, since, _)| *since));
        for (at, (capability, ..)) in TABLE.iter().enumerate() {
            assert!(!TABLE[..at].iter().any(|(other, ..)| other == capability), "{capability:?} is there twice");
        }
        assert!(KNOWN.is_sorted());
    }

    #[test]
    fn the_feature_compatibility_version_decides_if_it_is_older() {
        let all = |server: &str, fcv: &str| {
            let able = Capabilities::read(server, fcv).expect("versions");
            TABLE.iter().filter(|(capability, ..)| able.has(*capability)).count()
        };
        for (server, fcv, count) in [
            ("4.4.2", "4.4", 0),
            ("5.0.4", "5.0", 3),
            ("6.0.5", "5.0", 4),
            ("6.0.5", "6.0", 9),
            ("6.0.27", "", 9),
            ("7.0.16", "6.0", 9),
            ("7.0.16", "7.0", 10),
            ("8.0.4", "7.0", 10),
            ("8.0.4-1", "8.0", 12),
            ("8.2.0", "8.2", 12),
            ("9.0.0", "8.0", 12),
            ("9.0.0", "9.0", 13),
            ("", "7.0", 10),
        ] {
            assert_eq!(all(server, fcv), count, "{server} at {fcv}");
        }
        assert_eq!(Capabilities::read("", ""), None);
        let old = Capabilities::read("6.0.5", "5.0").expect("versions");
        assert!(old.has(KeepsRecordPreImages) && !old.has(WithoutRecordPreImages) && !old.has(ClusteredCollections));
    }

    #[test]
    fn versions_that_nobody_tried_are_remarked_on() {
        let remark = |major, minor| Capabilities::release(major, minor).remark().unwrap_or_default();
        for (major, minor, part) in [
            (4, 4, "none that this build was made for"),
            (5, 0, ""),
            (6, 0, ""),
            (6, 3, "none that this build was made for"),
            (7, 0, ""),
            (8, 0, ""),
            (8, 1, "newer than 8.0"),
            (9, 0, "oplog entries"),
        ] {
            let said = remark(major, minor);
            assert!(said.contains(part) && said.is_empty() == part.is_empty(), "{major}.{minor}: {said}");
        }
    }
}
