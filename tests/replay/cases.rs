//! Single hard cases, written as oplog entries and as the dump that they meet.

use futures::stream;
use mongodb::bson::{Binary, DateTime, Document, RawDocumentBuf, Timestamp, Uuid, doc, oid::ObjectId};
use pbmbox::archive::meta::{NamespaceKind, NamespaceMeta};
use pbmbox::replay::apply::{ReplayOptions, Replayed, Replayer};
use pbmbox::replay::build::CommitQuorum;
use pbmbox::replay::catalog::Catalog;

use super::dump::{Dumped, load};
use super::server::{Server, Version};
use crate::support::cluster::Options;
use crate::support::doctored::Doctor;

/// A target, the dump loaded into it, and the entries to come.
pub(super) struct Case {
    pub(super) server: Server,
    pub(super) catalog: Catalog,
    entries: Vec<RawDocumentBuf>,
    /// Up to this second the dump may be newer.
    pub(super) fuzzy_until: u32,
}

fn ts(time: u32) -> Timestamp {
    Timestamp { time, increment: 1 }
}

pub(super) fn collection(coll: &str, uuid: Uuid, options: Document, documents: Vec<Document>) -> Dumped {
    let indexes = Some(vec![doc! {"v": 2, "key": {"_id": 1}, "name": "_id_"}]);
    let kind = NamespaceKind::Collection;
    let meta = NamespaceMeta {
        db: "t".into(),
        coll: coll.into(),
        kind,
        options,
        indexes,
        uuid: Some(uuid),
        crc: 0,
        size: 0,
        object: None,
    };
    let documents = documents.iter().map(|document| RawDocumentBuf::try_from(document).unwrap()).collect();
    Dumped { meta, from: coll.to_owned(), documents }
}

fn series(coll: &str) -> Dumped {
    let mut series = collection(coll, Uuid::new(), doc! {"timeseries": {"timeField": "t", "metaField": "m"}}, vec![]);
    series.meta = NamespaceMeta { kind: NamespaceKind::Timeseries, uuid: None, indexes: None, ..series.meta };
    series
}

pub(super) fn ids(range: std::ops::Range<i32>) -> Vec<Document> {
    range.map(|id| doc! {"_id": id}).collect()
}

impl Case {
    pub(super) async fn new(dump: Vec<Dumped>) -> Self {
        Self::on(Version::Current, dump).await
    }

    async fn on(version: Version, dump: Vec<Dumped>) -> Self {
        Self::with(Options { version, ..Options::default() }, dump).await
    }

    async fn with(options: Options, dump: Vec<Dumped>) -> Self {
        let server = Server::with(options).await;
        let mut catalog = Catalog::new(server.able().await);
        load(&server.client, &dump, &mut catalog).await;
        Self { server, catalog, entries: Vec::new(), fuzzy_until: 1000 }
    }

    /// The next entry, one second after the last.
    fn entry(mut self, mut entry: Document) -> Self {
        entry.insert("ts", ts(self.entries.len() as u32 + 1));
        self.entries.push(RawDocumentBuf::try_from(&entry).unwrap());
        self
    }

    pub(super) fn op(self, op: &str, coll: &str, uuid: Uuid, o: Document) -> Self {
        self.entry(doc! {"op": op, "ns": format!("t.{coll}"), "ui": Binary::from(uuid), "o": o})
    }

    pub(super) fn update(self, coll: &str, uuid: Uuid, id: i32, diff: Document) -> Self {
        let entry = doc! {"op": "u", "ns": format!("t.{coll}"), "ui": Binary::from(uuid), "o": {"$v": 2, "diff": diff}, "o2": {"_id": id}};
        self.entry(entry)
    }

    fn command(self, uuid: Uuid, o: Document) -> Self {
        self.entry(doc! {"op": "c", "ns": "t.$cmd", "ui": Binary::from(uuid), "o": o})
    }

    async fn replay(&self) -> anyhow::Result<Replayed> {
        self.replay_with(|_| ()).await
    }

    pub(super) async fn replay_with(&self, change: impl FnOnce(&mut ReplayOptions)) -> anyhow::Result<Replayed> {
        let mut options = ReplayOptions::new(ts(1), ts(90_000), ts(self.fuzzy_until));
        change(&mut options);
        let mut replayer = Replayer::new(self.server.client.clone(), self.catalog.clone(), options);
        let _ = replayer.apply(stream::iter(self.entries.clone()).map(Ok)).await?;
        replayer.finish().await
    }

    async fn finish(&self) -> Replayed {
        let replayed = self.replay().await.unwrap_or_else(|error| panic!("{error:#}"));
        replayed
            .catalog
            .build(&self.server.client, &CommitQuorum::Members(7))
            .await
            .unwrap_or_else(|error| panic!("{error:#}"));
        replayed
    }

    async fn fails(&self) -> String {
        format!("{:#}", self.replay().await.unwrap_err())
    }

    pub(super) async fn documents(&self, coll: &str) -> Vec<Document> {
        let mut cursor = self.server.client.database("t").run_cursor_command(doc! {"find": coll}).await.unwrap();
        let mut all = Vec::new();
        while cursor.advance().await.unwrap() {
            all.push(cursor.deserialize_current().unwrap());
        }
        all
    }

    pub(super) async fn ids(&self, coll: &str) -> Vec<i32> {
        self.documents(coll).await.iter().map(|document| document.get_i32("_id").unwrap()).collect()
    }

    /// Name -> type and options.
    async fn names(&self) -> Vec<(String, String, Document)> {
        let mut names: Vec<_> = super::dump::list(&self.server.client, "t")
            .await
            .into_iter()
            .map(|each| {
                let get = |name| each.get_str(name).unwrap().to_owned();
                (get("name"), get("type"), each.get_document("options").unwrap().clone())
            })
            .filter(|(name, ..)| name != "system.views")
            .collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        names
    }

    async fn just_names(&self) -> Vec<String> {
        self.names().await.into_iter().map(|(name, ..)| name).collect()
    }
}

use futures::StreamExt;

#[tokio::test]
async fn a_full_capped_collection_loses_nothing_and_keeps_its_order() {
    let uuid = Uuid::new();
    // Read when 0..5 had already been pushed out by 5..10.
    let options = doc! {"capped": true, "size": 4096, "max": 5};
    let mut case = Case::new(vec![collection("c", uuid, options, ids(5..10))]).await;
    for id in 3..10 {
        case = case.op("i", "c", uuid, doc! {"_id": id});
        if id >= 5 {
            case = case.op("d", "c", uuid, doc! {"_id": id - 5});
        }
    }
    // Growing in place; then two more.
    case = case.update("c", uuid, 8, doc! {"i": {"x": "long enough"}});
    for id in 10..12 {
        case = case.op("i", "c", uuid, doc! {"_id": id}).op("d", "c", uuid, doc! {"_id": id - 5});
    }
    case.finish().await;
    assert_eq!(case.ids("c").await, [7, 8, 9, 10, 11]);
    let options = case.names().await[0].2.clone();
    assert_eq!(options, doc! {"capped": true, "size": 4096, "max": 5});
    let uuid_now =
        super::dump::list(&case.server.client, "t").await[0].get_document("info").unwrap().get("uuid").cloned();
    assert_eq!(uuid_now, Some(Binary::from(uuid).into()));
}

#[tokio::test]
async fn a_capped_collection_has_the_order_of_the_last_insertions() {
    let uuid = Uuid::new();
    // The source deleted 2 and inserted it again before 5, and the dump saw that; then it saw 4 deleted.
    let dump =
        collection("c", uuid, doc! {"capped": true, "size": 4096}, [1, 3, 2, 5].map(|id| doc! {"_id": id}).to_vec());
    let case = Case::new(vec![dump]).await;
    let case = case
        .op("d", "c", uuid, doc! {"_id": 2})
        .op("i", "c", uuid, doc! {"_id": 2})
        .op("i", "c", uuid, doc! {"_id": 5})
        .op("d", "c", uuid, doc! {"_id": 4})
        .op("i", "c", uuid, doc! {"_id": 6});
    case.finish().await;
    assert_eq!(case.ids("c").await, [1, 3, 2, 5, 6]);
}

#[tokio::test]
async fn operations_before_a_rename_reach_what_the_dump_saw_after_it() {
    let (mine, older, stranger) = (Uuid::new(), Uuid::new(), Uuid::new());
    // When the listing was made `mine` had become `b`, and `older`, once `b`, was gone.
    let case = Case::new(vec![collection("b", mine, doc! {}, ids(1..3))]).await;
    // A namesake that was in the target before.
    case.server.run("t", doc! {"create": "a"}).await.unwrap();
    let case = case
        .command(older, doc! {"create": "b", "idIndex": {"v": 2, "key": {"_id": 1}, "name": "_id_"}})
        .op("i", "b", older, doc! {"_id": 50})
        .op("i", "a", mine, doc! {"_id": 3})
        .update("a", mine, 1, doc! {"i": {"x": 1}})
        .op("d", "a", mine, doc! {"_id": 2})
        .op("i", "gone", stranger, doc! {"_id": 1})
        .command(mine, doc! {"createIndexes": "a", "v": 2, "key": {"x": 1}, "name": "x_1"})
        .command(
            mine,
            doc! {"renameCollection": "t.a", "to": "t.b", "stayTemp": false, "dropTarget": Binary::from(older)},
        )
        .op("i", "b", mine, doc! {"_id": 4});
    let replayed = case.finish().await;
    assert_eq!(replayed.stats.missing_collections, 1);
    assert_eq!(case.documents("b").await, [doc! {"_id": 1, "x": 1}, doc! {"_id": 3}, doc! {"_id": 4}]);
    let indexes = case.server.run("t", doc! {"listIndexes": "b"}).await.unwrap();
    let indexes = indexes.get_document("cursor").unwrap().get_array("firstBatch").unwrap().clone();
    assert_eq!(indexes.len(), 2);
    // Nothing but the restored collection and the stranger that was never in the way.
    assert_eq!(case.just_names().await, ["a", "b"]);
}

#[tokio::test]
async fn a_time_series_dropped_and_made_again_leaves_nothing_behind() {
    let (first, second, views) = (Uuid::new(), Uuid::new(), Uuid::new());
    let case = Case::new(vec![series("w")]).await;
    case.server
        .run("t", doc! {"insert": "w", "documents": [{"t": mongodb::bson::DateTime::now(), "m": 1}]})
        .await
        .unwrap();
    let options = super::dump::list(&case.server.client, "t").await;
    let options = options
        .iter()
        .find(|each| each.get_str("name").unwrap() == "system.buckets.w")
        .unwrap()
        .get_document("options")
        .unwrap()
        .clone();
    let bucket = case.documents("system.buckets.w").await.remove(0);
    let view = case.documents("system.views").await.remove(0);
    let mut case = case;
    for uuid in [first, second] {
        let mut create = doc! {"create": "system.buckets.w"};
        create.extend(options.clone());
        create.insert("expireAfterSeconds", 1_000_000_i64);
        case = case
            .command(uuid, create)
            .op("i", "system.views", views, view.clone())
            .op("i", "system.buckets.w", uuid, bucket.clone())
            .command(uuid, doc! {"createIndexes": "system.buckets.w", "v": 2, "key": {"meta": 1}, "name": "m_1"});
        if uuid == first {
            case = case
                .op("d", "system.views", views, doc! {"_id": "t.w"})
                .command(uuid, doc! {"drop": "system.buckets.w"});
        }
    }
    case.finish().await;
    let names = case.names().await;
    assert_eq!(case.just_names().await, ["system.buckets.w", "w"]);
    assert_eq!(names[1].1, "timeseries");
    assert_eq!(names[1].2.get_i64("expireAfterSeconds").unwrap(), 1_000_000);
    assert_eq!(case.documents("w").await.len(), 1);
    let indexes = case.server.run("t", doc! {"listIndexes": "w"}).await.unwrap().to_string();
    assert!(indexes.contains("\"m\": 1"), "{indexes}");
}

/// A collection had the name between two series. The buckets were there all the time, and the second series took them without
/// a word in the oplog; the dump saw the second.
#[tokio::test]
async fn buckets_outlive_a_collection_with_the_name_of_their_series() {
    for version in [Version::Older, Version::Current] {
        let (plain, buckets, views) = (Uuid::new(), Uuid::new(), Uuid::new());
        let mut case = Case::on(version, vec![series("w")]).await;
        let measured = doc! {"t": DateTime::now(), "m": 1};
        case.server.run("t", doc! {"insert": "w", "documents": [measured]}).await.unwrap();
        let bucket = case.documents("system.buckets.w").await.remove(0);
        let view = case.documents("system.views").await.remove(0);
        case = case
            .command(plain, doc! {"create": "w", "idIndex": {"v": 2, "key": {"_id": 1}, "name": "_id_"}})
            .command(plain, doc! {"drop": "w"})
            .op("i", "system.views", views, view);
        case.fuzzy_until = 3;
        let id = bucket.get_object_id("_id").unwrap();
        let case = case.entry(doc! {
            "op": "u", "ns": "t.system.buckets.w", "ui": Binary::from(buckets), "o": {"$v": 2, "diff": {"u": {"meta": 5}}},
            "o2": {"_id": id},
        });
        case.finish().await;
        let found = case.documents("w").await;
        assert_eq!((found.len(), found[0].get_i32("m").ok()), (1, Some(5)), "{found:?}");
    }
}

#[tokio::test]
async fn after_the_window_what_does_not_fit_is_an_error_that_names_the_operation() {
    let (uuid, other) = (Uuid::new(), Uuid::new());
    let make = || async move {
        let mut case = Case::new(vec![collection("c", uuid, doc! {}, ids(1..3))]).await;
        case.fuzzy_until = 1;
        case.op("i", "c", uuid, doc! {"_id": 9})
    };
    let error = make().await.update("c", uuid, 77, doc! {"i": {"x": 1}}).fails().await;
    assert!(error.contains("update in t.c at 2:1") && error.contains("77"), "{error}");
    let error = make().await.op("i", "gone", other, doc! {"_id": 5}).fails().await;
    assert!(error.contains("insert in t.gone at 2:1"), "{error}");
    let error = make().await.command(uuid, doc! {"importCollection": "t.c"}).fails().await;
    assert!(error.contains("importCollection") && error.contains("2:1"), "{error}");
    // Ranges in the wrong order would lose entries without a word.
    let mut case = make().await.op("i", "c", uuid, doc! {"_id": 10});
    case.entries.reverse();
    assert!(case.fails().await.contains("out of order"));
}

#[tokio::test]
async fn transactions_are_applied_at_their_commit_or_not_at_all() {
    let uuid = Uuid::new();
    let case = Case::new(vec![collection("c", uuid, doc! {}, vec![])]).await;
    let part = |session: i32, prev: u32, o: Document| {
        doc! {
            "op": "c", "ns": "admin.$cmd", "lsid": {"id": session}, "txnNumber": 1_i64, "o": o,
            "prevOpTime": {"ts": if prev == 0 { Timestamp { time: 0, increment: 0 } } else { ts(prev) }, "t": 1_i64},
        }
    };
    let ops = |ids: std::ops::Range<i32>| -> Vec<Document> {
        ids.map(|id| doc! {"op": "i", "ns": "t.c", "ui": Binary::from(uuid), "o": {"_id": id}}).collect()
    };
    let case = case
        .entry(part(1, 0, doc! {"applyOps": ops(0..3), "partialTxn": true})) // 1
        .entry(part(2, 0, doc! {"applyOps": ops(10..13), "prepare": true})) // 2
        .entry(part(3, 0, doc! {"applyOps": ops(20..23), "prepare": true})) // 3
        .op("d", "c", uuid, doc! {"_id": 1}) // 4: before the commit, so it finds nothing
        .entry(part(1, 1, doc! {"applyOps": ops(3..5)})) // 5: commit
        .entry(part(2, 2, doc! {"commitTransaction": 1, "commitTimestamp": ts(6)})) // 6
        .entry(part(3, 3, doc! {"abortTransaction": 1})) // 7
        .entry(part(4, 0, doc! {"applyOps": ops(30..32), "count": 2})) // 8: whole
        .entry(part(5, 0, doc! {"applyOps": ops(40..42), "partialTxn": true})) // 9: never ends
        .entry(doc! {"op": "c", "ns": "admin.$cmd", "lsid": {"id": 6}, "txnNumber": 1_i64, "multiOpType": 1, "o": {"applyOps": ops(50..52)}})
        .entry(part(7, 3, doc! {"applyOps": ops(60..61), "count": 9})); // its beginning is missing
    let replayed = case.finish().await;
    let mut found = case.ids("c").await;
    found.sort_unstable();
    assert_eq!(found, [0, 1, 2, 3, 4, 10, 11, 12, 30, 31, 50, 51, 60]);
    let stats = replayed.stats;
    assert_eq!((stats.transactions, stats.aborted, stats.torn_transactions), (4, 1, 1));
    assert_eq!(replayed.open.len(), 1);
    assert!(!replayed.open[0].1.complete);
}

#[tokio::test]
async fn the_largest_documents_and_equal_ids_pass() {
    let (big, fold) = (Uuid::new(), Uuid::new());
    let largest = |id: i32, letter: &str| {
        let empty = mongodb::bson::serialize_to_vec(&doc! {"_id": id, "s": ""}).unwrap().len();
        doc! {"_id": id, "s": letter.repeat(16 * 1024 * 1024 - empty)}
    };
    let collation = doc! {"collation": {"locale": "en", "strength": 2}};
    let mut folded = collection("fold", fold, collation.clone(), vec![doc! {"_id": "A"}]);
    folded.meta.indexes.as_mut().unwrap()[0].insert("collation", doc! {"locale": "en", "strength": 2});
    folded.meta.indexes.as_mut().unwrap().push(doc! {"v": 2, "key": {"n": 1}, "name": "n_1", "hidden": true});
    let case = Case::new(vec![collection("big", big, doc! {}, vec![doc! {"_id": 2, "b": "b"}]), folded]).await;
    let case = case
        .op("i", "big", big, largest(1, "x"))
        .op("i", "big", big, largest(1, "y"))
        // The dump has what came of it; together it would be too large for a moment.
        .update("big", big, 1, doc! {"i": {"more": "m".repeat(1000)}})
        .update("big", big, 1, doc! {"d": {"more": false}})
        .op("i", "fold", fold, doc! {"_id": "a"})
        .entry(
            doc! {"op": "u", "ns": "t.fold", "ui": Binary::from(fold), "o": {"_id": "a", "n": 1}, "o2": {"_id": "a"}},
        )
        .op("d", "fold", fold, doc! {"_id": "a"})
        .op("i", "fold", fold, doc! {"_id": "A"})
        .update("fold", fold, 5, doc! {"i": {"x": 1}});
    let replayed = case.finish().await;
    assert_eq!((replayed.stats.superseded, replayed.stats.missing_documents), (3, 1));
    assert_eq!(case.documents("fold").await, [doc! {"_id": "A"}]);
    assert_eq!(case.documents("big").await, [doc! {"_id": 2, "b": "b"}, largest(1, "y")]);
    let indexes = case.server.run("t", doc! {"listIndexes": "fold"}).await.unwrap();
    let indexes = indexes.get_document("cursor").unwrap().get_array("firstBatch").unwrap().clone();
    let index = indexes[1].as_document().unwrap();
    assert!(index.get_bool("hidden").unwrap() && !index.contains_key("collation"), "{index}");
}

#[tokio::test]
async fn names_change_between_collection_and_view() {
    let (mine, other, views) = (Uuid::new(), Uuid::new(), Uuid::new());
    // The dump saw `v` as a collection; before that it was a view, and before that another collection.
    let case = Case::new(vec![collection("v", mine, doc! {}, ids(1..3))]).await;
    let id_index = doc! {"v": 2, "key": {"_id": 1}, "name": "_id_"};
    let case = case
        .command(other, doc! {"create": "v", "idIndex": id_index.clone()})
        .op("i", "v", other, doc! {"_id": 9})
        .command(other, doc! {"drop": "v"})
        .op("i", "system.views", views, doc! {"_id": "t.v", "viewOn": "x", "pipeline": []})
        .op("d", "system.views", views, doc! {"_id": "t.v"})
        .command(mine, doc! {"create": "v", "idIndex": id_index})
        .op("i", "v", mine, doc! {"_id": 1})
        .op("i", "v", mine, doc! {"_id": 2})
        .op("i", "system.views", views, doc! {"_id": "t.w", "viewOn": "v", "pipeline": []});
    case.finish().await;
    assert_eq!(case.ids("v").await, [1, 2]);
    assert_eq!(case.just_names().await, ["v", "w"]);
}

#[tokio::test]
async fn a_collection_that_a_view_of_a_later_time_hides_is_emptied() {
    let (mine, views) = (Uuid::new(), Uuid::new());
    let case = Case::new(vec![collection("v", mine, doc! {"capped": true, "size": 4096}, ids(1..4))]).await;
    let case = case
        .op("i", "system.views", views, doc! {"_id": "t.v", "viewOn": "x", "pipeline": []})
        .command(mine, doc! {"emptycapped": "v"})
        .op("i", "v", mine, doc! {"_id": 9})
        .op("d", "system.views", views, doc! {"_id": "t.v"});
    case.finish().await;
    assert_eq!(case.ids("v").await, [9]);
}

/// 5.0 leaves the buckets of a series whose creation failed, and with them refuses the indexes of the collection that was in
/// its way.
#[tokio::test]
async fn remains_of_a_failed_series_do_not_stand_in_the_way() {
    let wild = doc! {"v": 2, "key": {"$**": 1}, "name": "wild"};
    let single = doc! {"v": 2, "key": {"field": 1}, "name": "by"};
    let capped = doc! {"capped": true, "size": 4096, "max": 12};
    let images = doc! {"changeStreamPreAndPostImages": {"enabled": true}};
    for (version, options, index, filled, word) in [
        (Version::Older, doc! {}, Some(wild.clone()), false, "wild"),
        (Version::Older, doc! {}, Some(wild.clone()), true, "wild"),
        (Version::Current, doc! {}, Some(wild), true, "wild"),
        (Version::Older, doc! {}, Some(single.clone()), true, "field"),
        (Version::Current, doc! {}, Some(single), true, "field"),
        (Version::Older, doc! {"recordPreImages": true}, None, false, "recordPreImages"),
        (Version::Older, doc! {"recordPreImages": true}, None, true, "recordPreImages"),
        (Version::Older, capped.clone(), None, true, "max"),
        (Version::Current, capped.clone(), None, false, "max"),
        (Version::Current, capped, None, true, "max"),
        (Version::Current, images.clone(), None, false, "changeStreamPreAndPostImages"),
        (Version::Current, images, None, true, "changeStreamPreAndPostImages"),
    ] {
        // What waits for the remains comes after they were dropped, and is nothing.
        let mut uuids = [Uuid::new(), Uuid::new()];
        uuids.sort_by_key(|uuid| uuid.bytes());
        let [orders, buckets] = uuids;
        let mut dumped = collection("orders", orders, options, ids(0..3));
        dumped.meta.indexes.as_mut().unwrap().extend(index);
        let case = Case::on(version, vec![dumped]).await;
        let series = doc! {
            "create": "system.buckets.orders", "clusteredIndex": true,
            "timeseries": {"timeField": "t", "granularity": "seconds", "bucketMaxSpanSeconds": 3600},
            "expireAfterSeconds": 1_000_000_000_i64,
        };
        let mut case = case.command(buckets, series);
        if filled {
            let t = DateTime::from_millis(1_700_000_000_000);
            let bucket = doc! {
                "_id": ObjectId::new(), "control": {"version": 1, "min": {"t": t}, "max": {"t": t}}, "data": {"t": {"0": t}},
            };
            case = case.op("i", "system.buckets.orders", buckets, bucket);
        }
        case.finish().await;
        assert_eq!(case.ids("orders").await, [0, 1, 2]);
        let options = case.server.run("t", doc! {"listCollections": 1, "filter": {"name": "orders"}}).await.unwrap();
        // By name the server would list those of the buckets.
        let indexes = case.server.run("t", doc! {"listIndexes": orders}).await.unwrap();
        assert!(!indexes.to_string().contains("control"), "the buckets' indexes: {indexes}");
        assert!(format!("{options}{indexes}").contains(word), "{word}, filled: {filled}: {options} {indexes}");
    }
}

/// Writes go on into buckets that belong to no series, and that no backup has.
#[tokio::test]
async fn writes_to_buckets_of_no_series_are_left_out() {
    let orders = Uuid::new();
    let mut case = Case::new(vec![collection("orders", orders, doc! {}, ids(0..1))]).await;
    case.fuzzy_until = 0;
    let case =
        case.op("i", "system.buckets.orders", Uuid::new(), doc! {"_id": 1}).op("i", "orders", orders, doc! {"_id": 7});
    let replayed = case.finish().await;
    assert_eq!((case.ids("orders").await, replayed.stats.missing_collections), (vec![0, 7], 1));
}

/// The cluster uses these settings during the replay.
#[tokio::test]
async fn the_settings_of_a_cluster_are_deleted_and_not_dropped() {
    let mut case = Case::new(vec![]).await;
    let settings = case.server.client.database("config").collection::<Document>("settings");
    let before = ["balancer", "chunksize"].map(|id| doc! {"_id": id, "stopped": true});
    settings.insert_many(&before).await.unwrap();
    case = case.entry(doc! {"op": "c", "ns": "config.$cmd", "o": {"drop": "settings"}});
    case.replay_with(|options| options.scope.config_server = true).await.unwrap();
    let mut left = settings.find(doc! {}).await.unwrap();
    assert!(left.advance().await.unwrap());
    assert_eq!(left.deserialize_current().unwrap(), before[0]);
    assert!(!left.advance().await.unwrap());
    let oplog = case.server.client.database("local").collection::<Document>("oplog.rs");
    assert_eq!(oplog.find_one(doc! {"o.drop": "settings"}).await.unwrap(), None);
}

/// Newer servers answer that nothing was done, and not why. Here somebody drops a collection behind the restore's back.
#[tokio::test]
async fn a_missing_collection_is_told_from_a_missing_document_whatever_the_server_says() {
    let [gone, stays] = [(); 2].map(|()| Uuid::new());
    let dump = vec![collection("gone", gone, doc! {}, ids(0..1)), collection("stays", stays, doc! {}, ids(0..1))];
    let doctor = Some(Doctor::default().with_silent_misses());
    let case = Case::with(Options { doctor, ..Options::default() }, dump).await;
    let mut case = case
        .op("i", "stays", stays, doc! {"_id": 1})
        .op("i", "gone", gone, doc! {"_id": 1})
        .op("d", "gone", gone, doc! {"_id": 0})
        .update("gone", gone, 0, doc! {"i": {"x": 1}})
        .op("i", "stays", stays, doc! {"_id": 2});
    case.server.run("t", doc! {"drop": "gone"}).await.unwrap();
    let one_lane = |options: &mut ReplayOptions| options.lanes = 1;
    let replayed = case.replay_with(one_lane).await.unwrap();
    // The insert; and the update, of which it is fine either way. A delete has nothing to do.
    let counts = (replayed.stats.missing_collections, replayed.stats.missing_documents);
    assert_eq!(counts, (1, 1), "{:?}", replayed.stats);
    assert_eq!(case.ids("stays").await, [0, 1, 2]);
    // After the dump's last write it is an error, with its reason.
    case.fuzzy_until = 0;
    let error = format!("{:#}", case.replay_with(one_lane).await.unwrap_err());
    assert!(error.contains("insert in t.gone at 2:1") && error.contains("the collection is not there"), "{error}");
}
