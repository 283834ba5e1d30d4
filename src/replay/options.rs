//! Adapts the options of a collection, from a backup or from the oplog, to the server on which the collection is created.

use crate::archive::described::{is_collection_option, is_index_option};
use crate::archive::meta::NamespaceKind;
use crate::mongo::capabilities::{Capabilities, Capability};
use bson::{Bson, Document};

/// Options that a server must be able to have. Another server can't create a collection with them.
const NEEDED: [(&str, Capability); 5] = [
    ("timeseries", Capability::TimeSeries),
    ("expireAfterSeconds", Capability::CollectionTtl),
    ("clusteredIndex", Capability::ClusteredCollections),
    ("changeStreamPreAndPostImages", Capability::PreAndPostImages),
    ("encryptedFields", Capability::EncryptedFields),
];

/// What a `collMod` changes, besides options.
const CHANGES: [&str; 9] = [
    "cappedMax",
    "cappedSize",
    "collMod",
    "index",
    "isTimeseriesNamespace",
    "noPadding",
    "timeseriesBucketsMayHaveMixedSchemaData",
    "usePowerOf2Sizes",
    "viewOn",
];

/// How a source keeps the records of a collection, and not what is in them. A server that does not do it refuses the option.
const RECORD_IDS: &str = "recordIdsReplicated";

/// Seconds that one bucket may cover, and to which its begin is rounded, for each granularity.
const GRANULARITIES: [(&str, i64, i64); 3] =
    [("seconds", 3600, 60), ("minutes", 86_400, 3600), ("hours", 2_592_000, 86_400)];
const SPAN: &str = "bucketMaxSpanSeconds";
const ROUNDING: &str = "bucketRoundingSeconds";

/// The options that remain, and remarks about the others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fitted {
    pub options: Document,
    /// Reasons why the server can't have this collection.
    pub problems: Vec<String>,
    pub notes: Vec<String>,
}

/// Leaves out options that the server no longer knows or that are not about the data, and lists options that it does not know
/// yet.
#[must_use]
pub fn fit(db: &str, kind: NamespaceKind, given: &Document, able: Capabilities) -> Fitted {
    let mut fitted = Fitted { options: given.clone(), ..Fitted::default() };
    fitted.options.remove("uuid");
    fitted.problems = lacks(&fitted.options, able);
    fitted.notes = adapt(db, &mut fitted.options, able);
    match (kind, fitted.options.get("viewOn"), fitted.options.get("timeseries")) {
        (NamespaceKind::View, Some(Bson::String(_)), _)
        | (NamespaceKind::Timeseries, _, Some(Bson::Document(_)))
        | (NamespaceKind::Collection, None, None) => {}
        _ => fitted.problems.push(format!("its options do not describe a {}", kind.as_str())),
    }
    fitted
}

/// Makes options fit a server that can have them: removes those that it no longer knows, and those that say nothing about the
/// data and that only some servers accept. Returns remarks.
pub fn adapt(db: &str, options: &mut Document, able: Capabilities) -> Vec<String> {
    options.remove(RECORD_IDS);
    if db != "local" {
        options.remove("autoIndexId");
    }
    fold_spans(options, able);
    if able.has(Capability::WithoutRecordPreImages) && options.remove("recordPreImages").is_some() {
        let since = Capability::WithoutRecordPreImages.since();
        return vec![format!("option 'recordPreImages' is left out: server {since} removed it")];
    }
    Vec::new()
}

/// Lists which of these options the server can't have. They are those of a collection, or what a `collMod` sets.
#[must_use]
pub fn lacks(options: &Document, able: Capabilities) -> Vec<String> {
    let missing = |(name, capability): &&(&str, Capability)| options.contains_key(name) && !able.has(*capability);
    let mut problems: Vec<String> = NEEDED.iter().filter(missing).map(|(name, it)| needs(name, *it, able)).collect();
    let unknown = |name: &&String| !is_collection_option(name) && !CHANGES.contains(&name.as_str());
    if let Some(name) = options.keys().find(unknown).filter(|_| !able.may_know_more()) {
        problems.push(format!("option '{name}' is unknown to servers at {able}, and to this version"));
    }
    let Ok(series) = options.get_document("timeseries") else { return problems };
    if able.has(Capability::ViewlessTimeSeries) {
        problems.push(format!(
            "time series can't be restored to a server at {able} yet: it keeps them in another form, without a bucket \
             collection beside each"
        ));
    }
    if !able.has(Capability::ChosenBucketSpans) && spans(series).is_some() && granularity(series).is_none() {
        problems.push(needs(&format!("{SPAN}' and '{ROUNDING}"), Capability::ChosenBucketSpans, able));
    }
    problems
}

/// Why the server can't have this index.
#[must_use]
pub fn lacks_for_index(spec: &Document, able: Capabilities) -> Option<String> {
    let unknown = spec.keys().find(|name| !is_index_option(name)).filter(|_| !able.may_know_more())?;
    let index = spec.get_str("name").unwrap_or_default();
    Some(format!("option '{unknown}' of index '{index}' is unknown to servers at {able}, and to this version"))
}

fn needs(name: &str, capability: Capability, able: Capabilities) -> String {
    let since = capability.since();
    format!("option '{name}' needs server {since} and its feature compatibility version, the target is at {able}")
}

/// The span and the rounding, if a rounding is given: only then they were chosen.
fn spans(series: &Document) -> Option<(i64, i64)> {
    let number = |name: &str| match series.get(name)? {
        Bson::Int32(n) => Some(i64::from(*n)),
        Bson::Int64(n) => Some(*n),
        #[expect(clippy::cast_possible_truncation, reason = "a fraction is no span of any granularity")]
        Bson::Double(n) => Some(*n as i64),
        _ => None,
    };
    Some((number(SPAN).unwrap_or(0), number(ROUNDING)?))
}

/// The granularity that chosen spans are equal to.
fn granularity(series: &Document) -> Option<&'static str> {
    let chosen = spans(series)?;
    GRANULARITIES.iter().find(|(_, span, rounding)| (*span, *rounding) == chosen).map(|(name, ..)| *name)
}

/// Replaces spans that are equal to a granularity by that granularity, for a server that knows no others.
fn fold_spans(options: &mut Document, able: Capabilities) {
    let Ok(series) = options.get_document_mut("timeseries") else { return };
    let Some(granularity) = granularity(series).filter(|_| !able.has(Capability::ChosenBucketSpans)) else { return };
    series.remove(SPAN);
    series.remove(ROUNDING);
    series.insert("granularity", granularity);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    const SIX: Capabilities = Capabilities::release(6, 0);

    #[test]
    fn harmless_leftovers_are_removed() {
        let given = doc! { "capped": true, "size": 4096, "autoIndexId": true, "recordPreImages": false, "recordIdsReplicated": true };
        let fitted = fit("shop", NamespaceKind::Collection, &given, SIX);
        assert_eq!(fitted.options, doc! { "capped": true, "size": 4096 });
        assert_eq!((fitted.problems.len(), fitted.notes.len()), (0, 1));
        assert_eq!(
            fit("shop", NamespaceKind::Collection, &given, Capabilities::release(5, 0)).options,
            doc! { "capped": true, "size": 4096, "recordPreImages": false }
        );
    }

    #[test]
    fn a_server_that_is_too_old_is_named() {
        let given = doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true }, "expireAfterSeconds": 5_i64 };
        assert_eq!(fit("shop", NamespaceKind::Collection, &given, SIX).problems, Vec::<String>::new());
        let old = fit("shop", NamespaceKind::Collection, &given, Capabilities::release(4, 4));
        assert_eq!(old.problems.len(), 2, "{:?}", old.problems);
        assert!(old.problems[1].contains("clusteredIndex") && old.problems[1].contains("4.4.0"));
    }

    #[test]
    fn an_option_that_nobody_knows_needs_a_server_that_may_know_it() {
        let given = doc! { "capped": true, "size": 1, "novelty": 1 };
        let index = doc! { "v": 2, "key": { "a": 1 }, "name": "a_1", "novelty": true };
        let newer = Capabilities::release(8, 1);
        for (able, count) in [(SIX, 1), (Capabilities::release(8, 0), 1), (newer, 0)] {
            let said = fit("shop", NamespaceKind::Collection, &given, able).problems;
            assert_eq!(said.len(), count, "{said:?}");
            assert!(said.iter().all(|it| it.contains("option 'novelty' is unknown")), "{said:?}");
            let said = lacks_for_index(&index, able);
            assert_eq!(said.iter().filter(|it| it.contains("'novelty' of index 'a_1'")).count(), count, "{said:?}");
        }
        assert_eq!(fit("shop", NamespaceKind::Collection, &given, newer).options, given);
        let change = doc! { "collMod": "c", "index": { "name": "a" }, "cappedSize": 1, "validator": {}, "isTimeseriesNamespace": true };
        assert_eq!(lacks(&change, SIX), [""; 0]);
    }

    #[test]
    fn kind_and_options_agree() {
        let view = doc! { "viewOn": "orders", "pipeline": [] };
        assert!(fit("shop", NamespaceKind::View, &view, SIX).problems.is_empty());
        assert_eq!(fit("shop", NamespaceKind::Collection, &view, SIX).problems.len(), 1);
        assert_eq!(fit("shop", NamespaceKind::View, &doc! {}, SIX).problems.len(), 1);
        assert_eq!(fit("shop", NamespaceKind::Timeseries, &doc! {}, SIX).problems.len(), 1);
    }

    /// Servers list a span beside a granularity since 5.0, and both a span and a rounding since 6.3 if they were chosen.
    #[test]
    fn spans_of_buckets_go_to_servers_that_can_have_them() {
        let series = |more: Document| {
            let mut series = doc! { "timeField": "t" };
            series.extend(more);
            doc! { "timeseries": series }
        };
        let fitted = |more: Document, able| fit("shop", NamespaceKind::Timeseries, &series(more), able);
        let usual = doc! { "granularity": "minutes", "bucketMaxSpanSeconds": 86_400 };
        let equal = doc! { "bucketMaxSpanSeconds": 86_400, "bucketRoundingSeconds": 3600_i64 };
        let chosen = doc! { "bucketMaxSpanSeconds": 7200, "bucketRoundingSeconds": 7200 };
        assert_eq!(fitted(usual.clone(), SIX), Fitted { options: series(usual), ..Fitted::default() });
        let folded = series(doc! { "granularity": "minutes" });
        assert_eq!(fitted(equal.clone(), SIX), Fitted { options: folded, ..Fitted::default() });
        let said = fitted(chosen.clone(), SIX).problems;
        assert!(said.len() == 1 && said[0].contains("needs server 6.3.0"), "{said:?}");
        for (given, able) in [(equal, Capabilities::release(7, 0)), (chosen, Capabilities::release(8, 0))] {
            assert_eq!(fitted(given.clone(), able), Fitted { options: series(given), ..Fitted::default() });
        }
    }

    #[test]
    fn a_server_without_bucket_collections_gets_no_time_series() {
        let nine = Capabilities::read("9.0.0", "9.0").expect("versions");
        let given = doc! { "timeseries": { "timeField": "t" } };
        let said = fit("shop", NamespaceKind::Timeseries, &given, nine).problems;
        assert!(said.len() == 1 && said[0].contains("another form"), "{said:?}");
        assert!(fit("shop", NamespaceKind::Collection, &doc! {}, nine).problems.is_empty());
        let before = Capabilities::read("9.0.0", "8.0").expect("versions");
        assert!(fit("shop", NamespaceKind::Timeseries, &given, before).problems.is_empty());
    }
}
