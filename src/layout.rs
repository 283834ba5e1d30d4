//! Every object name on a storage: built here, parsed here, nowhere else (docs/format.md A.1, A.3-A.5).
//!
//! ```text
//! .pbm.init                                          proves that the storage is initialised
//! .pbm.speed-test/<run>/data<sfx>                    ours: of a running speed test
//! <backup>.pbm.json                                  metadata of a backup, written last
//! <backup>/<rs>/metadata.json                        namespaces, options, indexes, sizes and checksums
//! <backup>/<rs>/meta.pbm                             the same as one BSON document
//! <backup>/<rs>/<db>.<coll><sfx>                     documents of one collection
//! <backup>/<rs>/escaped/<number>-<words><sfx>        ours: the same, of a name that can't be an object's
//! <backup>/<rs>/oplog/<from>.<to><sfx>               oplog slices of the backup
//! pbmPitr/<rs>/<YYYYMMDD>/<from>.<to>.oplog<sfx>     PITR chunks
//! pbmPitr/.clusters/<cluster>                        ours: a cluster that makes backups here
//! pbmPitr/.probe.<node>/<run of its agent>           ours: written, read, listed and deleted to see that it works
//! ```

use crate::model::{
    backup::BackupReplset,
    chunk::Chunk,
    compression::Compression,
    names::{PBM_VERSION, series_name},
};
use bson::Timestamp;
use jiff::{civil, tz::TimeZone};

/// Marks an initialised storage; holds the version of its writer.
pub const INIT: &str = ".pbm.init";
/// Folder of the clusters that make backups on a storage.
///
/// The original ignores every name below `pbmPitr` that is not the name of a chunk. At the root, a person who looks for
/// remains of deleted backups would take such a folder for one.
pub const CLUSTERS: &str = "pbmPitr/.clusters";
/// Where earlier releases of ours kept these marks.
pub const OLD_CLUSTERS: &str = ".pbm.clusters";
/// Prefix of the folders in which agents test a storage; it is below `pbmPitr` for the same reason as [`CLUSTERS`].
pub const PROBE: &str = "pbmPitr/.probe.";
/// Folder of what `pbm-speed-test` writes and removes again; the original neither writes nor reads it.
pub const SPEED_TEST: &str = ".pbm.speed-test";
/// Suffix of backup metadata files.
pub const BACKUP_META_SUFFIX: &str = ".pbm.json";
/// Folder of PITR chunks.
pub const PITR: &str = "pbmPitr";
/// Folder of physical restores' synchronisation files and metadata.
pub const RESTORES: &str = ".pbm.restore";

/// Folder for the documents of collections whose names can't be object names. It holds no objects of other collections,
/// because their names begin with a database and a dot. The original neither writes nor reads it.
const ESCAPED: &str = "escaped";

/// Longest path element, in bytes, that every file system accepts.
const LONGEST_ELEMENT: usize = 255;

/// `<backup>.pbm.json`.
#[must_use]
pub fn backup_meta(backup: &str) -> String {
    format!("{backup}{BACKUP_META_SUFFIX}")
}

/// When the backup of this name began, unix seconds, if it is a backup's name as every program of this kind makes them:
/// `2026-11-21T00:44:27Z`.
#[must_use]
pub fn backup_start(name: &str) -> Option<i64> {
    let at = civil::DateTime::strptime("%Y-%m-%dT%H:%M:%SZ", name).ok()?.to_zoned(TimeZone::UTC).ok()?;
    (at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() == name).then(|| at.timestamp().as_second())
}

/// `pbmPitr/.clusters/<cluster>`.
#[must_use]
pub fn cluster_mark(cluster: &str) -> String {
    format!("{CLUSTERS}/{cluster}")
}

/// `.pbm.clusters/<cluster>`, of earlier releases.
#[must_use]
pub fn old_cluster_mark(cluster: &str) -> String {
    format!("{OLD_CLUSTERS}/{cluster}")
}

/// `pbmPitr/.probe.<node>`: no other node changes anything in this folder, so it can be created and removed at any time.
#[must_use]
pub fn probe_folder(node: &str) -> String {
    format!("{PROBE}{node}")
}

/// `.pbm.speed-test/<run>`: the folder of one run.
#[must_use]
pub fn speed_test(run: &str) -> String {
    format!("{SPEED_TEST}/{run}")
}

/// `.pbm.speed-test/<run>/data<sfx>`.
#[must_use]
pub fn speed_test_object(run: &str, compression: Compression) -> String {
    format!("{}/data{}", speed_test(run), compression.suffix())
}

/// The list of data files in a replica set's part of a physical or incremental backup.
#[must_use]
pub fn filelist(backup: &str, rs: &str) -> String {
    format!("{backup}/{rs}/filelist.pbm")
}

/// `.pbm.restore/<restore>`: the folder with the files by which the nodes of a physical restore wait for each other.
#[must_use]
pub fn restore_folder(restore: &str) -> String {
    format!("{RESTORES}/{restore}")
}

/// `.pbm.restore/<restore>.json`: the record of a physical restore.
#[must_use]
pub fn restore_record(restore: &str) -> String {
    format!("{RESTORES}/{restore}.json")
}

/// Names of one replica set's objects in one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplsetLayout {
    root: String,
    pub compression: Compression,
}

impl ReplsetLayout {
    #[must_use]
    pub fn new(backup: &str, rs: &str, compression: Compression) -> Self {
        Self { root: format!("{backup}/{rs}"), compression }
    }

    /// `<backup>/<rs>/metadata.json`.
    #[must_use]
    pub fn metadata(&self) -> String {
        format!("{}/metadata.json", self.root)
    }

    /// The `metadata.json` of a replica set's part, under the name that the backup gives it.
    #[must_use]
    pub fn metadata_of(&self, part: &BackupReplset) -> String {
        if part.dump_name.is_empty() { self.metadata() } else { part.dump_name.clone() }
    }

    /// `<backup>/<rs>/meta.pbm`.
    #[must_use]
    pub fn meta_pbm(&self) -> String {
        format!("{}/meta.pbm", self.root)
    }

    /// The object of a collection's documents. Nothing in the name is escaped: dots stay and a slash makes a folder;
    /// the bucket collection of a time series goes under the time series' name.
    #[must_use]
    pub fn collection(&self, db: &str, coll: &str) -> String {
        let coll = series_name(coll);
        format!("{}/{db}.{coll}{}", self.root, self.compression.suffix())
    }

    /// The object of the documents of buckets whose time series' name another collection has (*added by us*). No
    /// collection of [`ReplsetLayout::collection`] gets this name.
    #[must_use]
    pub fn remains(&self, db: &str, buckets: &str) -> String {
        format!("{}/{db}.{buckets}{}", self.root, self.compression.suffix())
    }

    /// Returns the object's name relative to the folder of this replica set.
    #[must_use]
    pub fn below<'a>(&self, object: &'a str) -> &'a str {
        object.strip_prefix(&self.root).and_then(|rest| rest.strip_prefix('/')).unwrap_or(object)
    }

    /// The inverse of [`ReplsetLayout::below`].
    #[must_use]
    pub fn object(&self, below: &str) -> String {
        format!("{}/{below}", self.root)
    }

    /// The object of a collection whose own name can't be an object name (*added by us*); see [`escaped_name`].
    #[must_use]
    pub fn escaped(&self, name: &str) -> String {
        format!("{}/{ESCAPED}/{name}{}", self.root, self.compression.suffix())
    }

    /// The object of a data file in a physical backup, or of a range of it: offset and length.
    #[must_use]
    pub fn data_file(&self, path: &str, range: Option<(i64, i64)>) -> String {
        let range = range.map(|(offset, length)| format!(".{offset}-{length}")).unwrap_or_default();
        format!("{}/{path}{}{range}", self.root, self.compression.suffix())
    }

    /// The folder of the backup's oplog slices.
    #[must_use]
    pub fn oplog_dir(&self) -> String {
        format!("{}/oplog", self.root)
    }

    /// One oplog slice, both ends inclusive.
    #[must_use]
    pub fn oplog_slice(&self, from: Timestamp, to: Timestamp) -> String {
        format!("{}/oplog/{}.{}{}", self.root, format_ts(from), format_ts(to), self.compression.suffix())
    }
}

/// The object name for a collection whose own name can't be an object name. The number identifies the collection in its
/// backup, the words are for people. The name has only small letters, digits and dashes, so that every store can keep it,
/// also a store that ignores case.
#[must_use]
pub fn escaped_name(number: usize, db: &str, coll: &str) -> String {
    const WORDS: usize = 60;
    let words: String = format!("{db}-{coll}").chars().take(WORDS).collect();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    format!("{number}-{}", words.chars().map(plain).collect::<String>())
}

/// Is this a name that [`escaped_name`] could have made? No other name is accepted, because the names come from files that
/// others can write.
#[must_use]
pub fn is_escaped_name(text: &str) -> bool {
    const LONGEST: usize = 100;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=LONGEST).contains(&text.len()) && text.chars().all(plain)
}

/// Returns why a store could refuse an object with this name, or not list it; `None` if no store would.
#[must_use]
pub fn unfit_name(object: &str) -> Option<&'static str> {
    // Most stores send listings as XML, which can't contain these characters.
    let unlisted = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    if object.split('/').any(|element| matches!(element, "" | "." | "..")) {
        Some("between slashes something other than '.' and '..' has to stand")
    } else if object.split('/').any(|element| element.len() > LONGEST_ELEMENT) {
        Some("no file has so long a name")
    } else if object.contains(unlisted) {
        Some("object stores don't take control characters")
    } else {
        None
    }
}

/// A range of the oplog kept in one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceName {
    pub from: Timestamp,
    pub to: Timestamp,
    pub compression_ext: String,
}

impl SliceName {
    /// Parses the last path element of a backup's oplog slice.
    #[must_use]
    pub fn parse(file: &str) -> Option<Self> {
        let mut parts = file.splitn(3, '.');
        let from = parse_ts(parts.next()?)?;
        let to = parse_ts(parts.next()?)?;
        (from <= to).then(|| Self { from, to, compression_ext: parts.next().unwrap_or_default().to_owned() })
    }

    /// By extension; an unknown one means uncompressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        Compression::from_extension(&self.compression_ext)
    }
}

/// `pbmPitr/<rs>/<YYYYMMDD>/<from>.<to>.oplog<sfx>`.
#[must_use]
pub fn pitr_chunk(rs: &str, from: Timestamp, to: Timestamp, compression: Compression) -> String {
    let day = civil_utc(from).strftime("%Y%m%d");
    format!("{PITR}/{rs}/{day}/{}.{}.oplog{}", format_ts(from), format_ts(to), compression.suffix())
}

/// A PITR chunk's name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkName {
    pub rs: String,
    pub from: Timestamp,
    pub to: Timestamp,
    pub compression: Compression,
}

impl ChunkName {
    /// The chunk in the object `fname`, which has this name and `size` bytes.
    #[must_use]
    pub fn chunk(self, fname: String, size: u64) -> Chunk {
        Chunk {
            rs: self.rs,
            fname,
            compression: self.compression,
            start_ts: self.from,
            end_ts: self.to,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            stored: None,
        }
    }

    /// Parses the full object name. As in the original the folder of the day is not looked at; `None` for anything
    /// that is no chunk (docs/format.md A.5).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (rs, rest) = name.strip_prefix(PITR)?.strip_prefix('/')?.split_once('/')?;
        let file: Vec<_> = rest.rsplit('/').next()?.split('.').collect();
        let (from, to, kind) = (parse_ts(file.first()?)?, parse_ts(file.get(1)?)?, *file.get(2)?);
        let compression = if file.len() == 4 { Compression::from_extension(file[3]) } else { Compression::None };
        let valid = kind == "oplog" && !rs.is_empty() && from <= to;
        valid.then(|| Self { rs: rs.to_owned(), from, to, compression })
    }
}

/// How the files of a logical backup are laid out, by the version that wrote it (docs/format.md A.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// Before 2.0: one mongodump archive and one oplog file per replica set.
    Archive,
    /// Before 2.4: an object per collection, but one oplog file.
    OneOplog,
    /// As this module describes.
    Current,
}

impl Generation {
    /// By `pbm_version`; an empty or unreadable one is older than everything.
    #[must_use]
    pub fn of(pbm_version: &str) -> Self {
        let mut numbers = pbm_version.strip_prefix('v').unwrap_or(pbm_version).splitn(3, ['.', '-', '+']);
        let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
        match number().zip(number()) {
            Some(version) if version >= (2, 4) => Self::Current,
            Some(version) if version >= (2, 0) => Self::OneOplog,
            _ => Self::Archive,
        }
    }
}

/// How the version that wrote a backup compares with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// As old as ours or older.
    Known,
    /// Newer, of the same generation: it adds data beside the files that this program knows.
    Newer,
    /// Of a newer generation, whose files this program does not know.
    Unknown,
}

/// Determines the origin by `pbm_version`. A text that is no version counts as an old version, as in [`Generation::of`].
#[must_use]
pub fn origin(pbm_version: &str) -> Origin {
    let (theirs, ours) = (numbers(pbm_version), numbers(PBM_VERSION));
    match theirs.zip(ours) {
        Some((theirs, ours)) if theirs.0 > ours.0 => Origin::Unknown,
        Some((theirs, ours)) if theirs > ours => Origin::Newer,
        _ => Origin::Known,
    }
}

/// The first two numbers of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix('v').unwrap_or(version).splitn(3, ['.', '-', '+']);
    let mut number = || numbers.next().and_then(|text| text.parse().ok());
    number().map(|major| (major, number().unwrap_or(0)))
}

/// `YYYYMMDDhhmmss-I`, UTC.
#[must_use]
pub fn format_ts(ts: Timestamp) -> String {
    format!("{}-{}", civil_utc(ts).strftime("%Y%m%d%H%M%S"), ts.increment)
}

/// The inverse of [`format_ts`]; a missing increment is 0. No other text is accepted for the same time.
#[must_use]
pub fn parse_ts(text: &str) -> Option<Timestamp> {
    let (time, increment) = text.split_once('-').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if time.len() != 14 || !is_number(time) || !is_number(increment) {
        return None;
    }
    let at = civil::DateTime::strptime("%Y%m%d%H%M%S", time).ok()?;
    let seconds = at.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
    let ts = Timestamp { time: u32::try_from(seconds).ok()?, increment: increment.parse().ok()? };
    // The library takes second 60 for 59, and numbers may begin with zeros.
    (format_ts(ts) == format!("{time}-{increment}")).then_some(ts)
}

fn civil_utc(ts: Timestamp) -> civil::DateTime {
    let at = jiff::Timestamp::from_second(i64::from(ts.time)).expect("every u32 of seconds is in range");
    TimeZone::UTC.to_datetime(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(time: u32, increment: u32) -> Timestamp {
        Timestamp { time, increment }
    }

    #[test]
    fn timestamps_go_both_ways() {
        assert_eq!(format_ts(ts(1_795_222_008, 19)), "20261121004648-19");
        assert_eq!(parse_ts("20261121004648-19"), Some(ts(1_795_222_008, 19)));
        assert_eq!(parse_ts("20261121004648"), Some(ts(1_795_222_008, 0)));
        for bad in ["", "2026112100464-1", "20261321004648-1", "20261121004648-x", "20261121004648-"]
            .into_iter()
            .chain(["20261121004660-1", "20261121004648-+5", "20261121004648-007", "20261121004648-4294967296"])
        {
            assert_eq!(parse_ts(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_a_backups_name_has_a_start() {
        assert_eq!(backup_start("2026-11-21T00:44:27Z"), Some(1_795_221_867));
        let others =
            ["", "2026-11-21", "2026-11-21T00:44:27", "2026-1-21T00:44:27Z", "2026-11-21T00:44:27Zx", "pbmPitr"];
        for other in
            others.into_iter().chain([" 2026-11-21T00:44:27Z", "2026-13-21T00:44:27Z", "2026-11-21T00:44:27.5Z"])
        {
            assert_eq!(backup_start(other), None, "{other}");
        }
    }

    #[test]
    fn slices_parse_as_written() {
        let at = ReplsetLayout::new("2026-11-21T00:46:47Z", "rs0", Compression::S2);
        let name = at.oplog_slice(ts(1_795_222_008, 19), ts(1_795_222_011, 9));
        assert_eq!(name, "2026-11-21T00:46:47Z/rs0/oplog/20261121004648-19.20261121004651-9.s2");
        let slice = SliceName::parse("20261121004648-19.20261121004651-9.s2").expect("a slice");
        assert_eq!(
            (slice.from, slice.to, slice.compression()),
            (ts(1_795_222_008, 19), ts(1_795_222_011, 9), Compression::S2)
        );
        assert_eq!(
            SliceName::parse("20261121004648-19.20261121004651-9").expect("a slice").compression(),
            Compression::None
        );
        assert!(SliceName::parse("20261121004651-9.20261121004648-19.s2").is_none(), "from after to");
    }

    #[test]
    fn collections_keep_dots_and_slashes() {
        let at = ReplsetLayout::new("b", "rs0", Compression::Zstd);
        assert_eq!(at.collection("shop", "dots.in.name"), "b/rs0/shop.dots.in.name.zst");
        assert_eq!(at.collection("shop", "sl/ash"), "b/rs0/shop.sl/ash.zst");
        assert_eq!(at.collection("shop", "system.buckets.ts"), "b/rs0/shop.ts.zst");
    }

    #[test]
    fn names_that_no_store_takes_are_known() {
        let at = ReplsetLayout::new("b", "rs0", Compression::S2);
        for fit in ["a", "a/b", "a.tmp", "sl/ash", "a\\b", "ü ", "/a", "a/", "..", "a/..", &"x".repeat(200)] {
            assert_eq!(unfit_name(&at.collection("shop", fit)), None, "{fit}");
        }
        for unfit in
            ["x/../y", "x//y", "x/./y", "a\nb", "a\u{1b}[2J", "a\u{7f}", "a\u{9b}", "\u{ffff}", &"x".repeat(248)]
        {
            assert!(unfit_name(&at.collection("shop", unfit)).is_some(), "{unfit}");
        }
        let bare = ReplsetLayout::new("b", "rs0", Compression::None);
        for unfit in ["a/", "a/.."] {
            assert!(unfit_name(&bare.collection("shop", unfit)).is_some(), "{unfit}");
        }
        for name in ["x/../y", "\u{1b}", "Ä", &"/".repeat(250)] {
            let escaped = escaped_name(7, "Shop", name);
            assert!(is_escaped_name(&escaped) && escaped.starts_with("7-shop-"), "{escaped}");
            assert_eq!(unfit_name(&at.escaped(&escaped)), None);
        }
        assert_eq!(at.escaped("7-x"), "b/rs0/escaped/7-x.s2");
        for other in ["", "../x", "a/b", "A", "a.b", &"a".repeat(101)] {
            assert!(!is_escaped_name(other), "{other}");
        }
    }

    #[test]
    fn chunks_are_filed_by_day() {
        assert_eq!(
            pitr_chunk("rs0", ts(1_795_222_204, 2), ts(1_795_222_282, 1), Compression::S2),
            "pbmPitr/rs0/20261121/20261121005004-2.20261121005122-1.oplog.s2"
        );
    }

    #[test]
    fn chunks_parse_as_written() {
        for compression in [Compression::None, Compression::S2, Compression::Gzip] {
            let (from, to) = (ts(1_795_222_204, 2), ts(1_795_222_282, 1));
            let chunk = ChunkName { rs: "rs.0".to_owned(), from, to, compression };
            assert_eq!(ChunkName::parse(&pitr_chunk("rs.0", from, to, compression)), Some(chunk));
        }
        let unusual = "pbmPitr/rs0/any/where/20261121005004.20261121005122-1.oplog.new.s2";
        let chunk = ChunkName::parse(unusual).expect("a chunk");
        assert_eq!((chunk.from.increment, chunk.compression), (0, Compression::None), "five elements: not compressed");
        for bad in [
            "pbmPitr/.clusters/65e1a5",
            "pbmPitr/.probe.h:1/0123456789abcdef",
            "pbmPitr/rs0",
            "pbmPitr/20261121005004-2.20261121005122-1.oplog.s2",
            "pbmPitr//20261121/20261121005004-2.20261121005122-1.oplog.s2",
            "pbmPitrs/rs0/20261121/20261121005004-2.20261121005122-1.oplog.s2",
            "pbmPitr/rs0/20261121/20261121005004-2.20261121005122-1.s2",
            "pbmPitr/rs0/20261121/20261121005004-2.20261121005122-x.oplog.s2",
            "pbmPitr/rs0/20261121/20261121005122-2.20261121005004-1.oplog.s2",
        ] {
            assert_eq!(ChunkName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn versions_choose_the_generation() {
        for (version, generation) in [
            ("", Generation::Archive),
            ("unknown", Generation::Archive),
            ("1.8.1", Generation::Archive),
            ("2", Generation::Archive),
            ("2.0.0", Generation::OneOplog),
            ("v2.3.1", Generation::OneOplog),
            ("2.4.0-rc1", Generation::Current),
            ("2.4-dev", Generation::Current),
            ("v2.15.0", Generation::Current),
            ("10.0.0", Generation::Current),
        ] {
            assert_eq!(Generation::of(version), generation, "{version}");
        }
    }

    #[test]
    fn another_generation_is_not_guessed_at() {
        for (version, wanted) in [
            ("", Origin::Known),
            ("1.8.1", Origin::Known),
            ("2.15.0", Origin::Known),
            ("v2.15.9-rc1", Origin::Known),
            ("2.16.0", Origin::Newer),
            ("3.0.0", Origin::Unknown),
            ("v99", Origin::Unknown),
            ("99.0-dev", Origin::Unknown),
        ] {
            assert_eq!(origin(version), wanted, "{version}");
        }
    }
}
