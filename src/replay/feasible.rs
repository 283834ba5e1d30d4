//! Finds operations of an oplog that can't be applied to the target, while nothing is changed yet.

use anyhow::{Context, Result, bail};
use bson::{Document, RawDocument};

use crate::model::names::BUCKETS;
use crate::mongo::capabilities::{Capabilities, Capability};
use crate::oplog::entry::{Entry, Kind, show};
use crate::raw::{find, text};
use crate::replay::options;

/// The format of buckets that only some servers can read: compressed, with measurements that are not sorted.
const UNSORTED: i64 = 3;

/// The target of a replay.
#[derive(Debug, Clone, Copy)]
pub struct Onto {
    pub able: Capabilities,
    /// Whether the target is a member of a sharded cluster.
    pub sharded: bool,
}

impl Onto {
    /// Checks an operation that creates `coll` or changes its options.
    pub(super) fn check_options(&self, entry: &Entry<'_>, coll: &str) -> Result<()> {
        let mut options = text::decode(entry.o).context("read the options")?;
        if coll.starts_with(BUCKETS) {
            // Buckets are clustered on every server that has time series.
            options.remove("clusteredIndex");
        }
        let problems = options::lacks(&options, self.able);
        if !problems.is_empty() {
            let (db, at) = (entry.split_ns().0, show(entry.ts));
            bail!("it can't be replayed that '{db}.{coll}' was created or changed at {at}: {}", problems.join("; "));
        }
        Ok(())
    }

    /// Checks an operation that builds indexes of `coll`.
    pub(super) fn check_indexes(&self, entry: &Entry<'_>, coll: &str, specs: &[Document]) -> Result<()> {
        match specs.iter().find_map(|spec| options::lacks_for_index(spec, self.able)) {
            None => Ok(()),
            Some(problem) => {
                let (db, at) = (entry.split_ns().0, show(entry.ts));
                bail!("it can't be replayed that an index of '{db}.{coll}' was built at {at}: {problem}")
            }
        }
    }

    /// Checks an insert or update of a bucket.
    pub(super) fn check_bucket(&self, entry: &Entry<'_>) -> Result<()> {
        let is_bucket = entry.kind != Kind::Delete && entry.split_ns().1.starts_with(BUCKETS);
        if is_bucket && !self.able.has(Capability::UnsortedBuckets) && bucket_format(entry.o) >= Some(UNSORTED) {
            bail!(
                "the bucket that is written to '{}' at {} has a format (control.version 3) that a server at {} can't read",
                entry.ns,
                show(entry.ts),
                self.able
            );
        }
        Ok(())
    }

    /// Checks a change of the routing that shards keep themselves. A single replica set has no such routing.
    pub(super) fn check_own_routing(&self, entry: &Entry<'_>, command: &str) -> Result<()> {
        if self.sharded {
            bail!(
                "the oplog has `{command}` at {} in {}: the shards of that cluster keep routing of their own, which this version \
                 can't restore",
                show(entry.ts),
                entry.ns
            );
        }
        Ok(())
    }
}

/// The format of a bucket, from the whole bucket or from a change of it that sets the format.
fn bucket_format(o: &RawDocument) -> Option<i64> {
    let inside = |document: &'_ RawDocument, name: &str| -> Option<Document> {
        text::decode(find(document, name)?.document()?).ok()
    };
    let number = |control: &Document| match control.get("version")? {
        bson::Bson::Int32(n) => Some(i64::from(*n)),
        bson::Bson::Int64(n) => Some(*n),
        _ => None,
    };
    if let Some(control) = inside(o, "control") {
        return number(&control);
    }
    let diff = find(o, "diff")?.document()?;
    let control = inside(diff, "scontrol")?;
    ["u", "i"].into_iter().find_map(|change| number(control.get_document(change).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{RawDocumentBuf, Timestamp, rawdoc};

    const TS: Timestamp = Timestamp { time: 7, increment: 3 };

    fn said(able: Capabilities, raw: &RawDocumentBuf, check: impl Fn(&Onto, &Entry<'_>) -> Result<()>) -> String {
        let entry = Entry::parse(raw, Some(TS)).expect("an entry");
        check(&Onto { able, sharded: true }, &entry).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn buckets_of_the_newest_format_need_a_server_that_reads_them() {
        let write = |op: &str, coll: &str, o: RawDocumentBuf| {
            rawdoc! {"op": op, "ns": format!("shop.{coll}"), "o": o, "o2": {"_id": 1}}
        };
        let buckets = "system.buckets.x";
        for (raw, refused) in [
            (write("i", buckets, rawdoc! {"_id": 1, "control": {"version": 3, "min": {}}}), true),
            (write("i", buckets, rawdoc! {"_id": 1, "control": {"version": 2}}), false),
            (write("i", "x", rawdoc! {"_id": 1, "control": {"version": 3}}), false),
            (write("u", buckets, rawdoc! {"$v": 2, "diff": {"scontrol": {"u": {"version": 3}}}}), true),
            (write("u", buckets, rawdoc! {"$v": 2, "diff": {"scontrol": {"smin": {"u": {"a": 1}}}}}), false),
            (write("u", buckets, rawdoc! {"_id": 1, "control": {"version": 3_i64}}), true),
            (write("d", buckets, rawdoc! {"_id": 1}), false),
        ] {
            let old = said(Capabilities::release(7, 0), &raw, |onto, entry| onto.check_bucket(entry));
            assert_eq!(old.contains("control.version 3") && old.contains("7:3"), refused, "{raw:?}: {old}");
            assert_eq!(said(Capabilities::release(8, 0), &raw, |onto, entry| onto.check_bucket(entry)), "");
        }
    }

    #[test]
    fn options_that_the_target_lacks_are_named() {
        let create = |coll: &str, mut o: RawDocumentBuf| {
            let mut all = rawdoc! {"create": coll};
            o.iter().for_each(|field| {
                let (name, value) = field.expect("a field");
                all.append(name, value);
            });
            o = all;
            rawdoc! {"op": "c", "ns": "shop.$cmd", "o": o}
        };
        let series = rawdoc! {"timeField": "t", "bucketMaxSpanSeconds": 60, "bucketRoundingSeconds": 60};
        let buckets = rawdoc! {"clusteredIndex": true, "timeseries": {"timeField": "t"}};
        let five = Capabilities::release(5, 0);
        for (coll, raw, able, part) in [
            (
                "c",
                create("c", rawdoc! {"clusteredIndex": {}}),
                five,
                "'shop.c' was created or changed at 7:3: option 'clusteredIndex'",
            ),
            ("c", create("c", rawdoc! {"capped": true, "size": 1}), five, ""),
            ("system.buckets.x", create("system.buckets.x", buckets), five, ""),
            (
                "system.buckets.x",
                create("x", rawdoc! {"timeseries": series}),
                Capabilities::release(6, 0),
                "bucketRoundingSeconds",
            ),
        ] {
            let found = said(able, &raw, |onto, entry| onto.check_options(entry, coll));
            assert!(found.contains(part) && found.is_empty() == part.is_empty(), "{coll}: {found}");
        }
    }
}
