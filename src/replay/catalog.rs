//! The collections of a restore, with the indexes and options that they get when their data is complete.
//!
//! # Overview
//!
//! The catalogue begins with the dump's metadata ([`Catalog::add`]), or with the server's own collections if the replay
//! changes collections in use (`Catalog::adopt`). It follows the DDL of the oplog, and [`super::build`] applies it at
//! the end. Collections are kept by UUID: a rename does not matter, and a collection that is created again under an old
//! name is another collection. Collections without a lasting UUID (bucket collections, `system.*`, dumps without UUIDs)
//! are kept by name.
//!
//! # Deferred options
//!
//! | option | why it is not set before the data is complete |
//! |---|---|
//! | `capped`, `size`, `max` | the replay inserts documents again that the source had already removed, and at the cap each such insert would remove a document that has to stay. 6.0 and newer: capped with the largest size, and `collMod` sets the real one at the end. 5.0 cannot change a cap, and refuses deletes and growing updates in a capped collection: not capped, copied into a capped one at the end |
//! | `expireAfterSeconds` (clustered, time series) | the TTL monitor would delete while documents are still being updated |
//! | `changeStreamPreAndPostImages`, `recordPreImages` | every replayed operation would be recorded |

use std::collections::BTreeMap;

use bson::{Bson, Document, Uuid};

use crate::archive::meta::{NamespaceKind, NamespaceMeta};
use crate::model::names::BUCKETS;
use crate::mongo::capabilities::{Capabilities, Capability};
use crate::replay::key::{Key, is_found_by_name};
use crate::replay::options;

/// The largest size of a capped collection that the server accepts.
pub const WIDEST: i64 = 1 << 50;

/// Whether an index specification uses the fields of a time series or those of its buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Fields of the collection's documents, or of the measurements of a time series.
    Documents,
    /// Fields of the buckets of a time series. Index specifications in the oplog use these.
    Buckets,
}

/// One index to be built.
#[derive(Debug, Clone, PartialEq)]
pub struct Index {
    pub spec: Document,
    pub level: Level,
}

/// The size limits of a capped collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    pub size: i64,
    pub max: Option<i64>,
}

/// Options that are set when the data is complete.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeferredOptions {
    pub cap: Option<Cap>,
    /// `expireAfterSeconds`, `changeStreamPreAndPostImages`, `recordPreImages` in the form that `collMod` takes.
    pub options: Document,
}

/// One collection of the restore.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Collection {
    /// The present `db.coll` on the target. For a collection that is kept by UUID, the oplog can change it.
    pub ns: String,
    /// The collection has a default collation, so the specification of an index without a collation must state that it
    /// has none.
    pub has_collation: bool,
    /// The indexes by their names.
    pub indexes: BTreeMap<String, Index>,
    pub deferred: DeferredOptions,
    /// Whether all operations on the collection are applied in the order of the oplog, including operations on
    /// different documents. True if it already has a unique index on the target ([`Catalog::keep_order`]).
    pub in_order: bool,
    /// The indexes that the collection had before the replay, if it was in use then. Option changes and index drops
    /// from the oplog are applied to such a collection at once, and only new indexes are built at the end.
    pub existing_indexes: Option<BTreeMap<String, Index>>,
}

/// All collections of a restore.
#[derive(Debug, Clone)]
pub struct Catalog {
    collections: BTreeMap<Key, Collection>,
    /// What the target can do.
    able: Capabilities,
}

impl Catalog {
    /// For a target that can do this.
    pub fn new(able: Capabilities) -> Self {
        Self { collections: BTreeMap::new(), able }
    }

    /// Makes the options of a collection in the database `db`, or what a `collMod` sets, fit the target.
    pub(super) fn adapt(&self, db: &str, options: &mut Document) {
        options::adapt(db, options, self.able);
    }

    /// Whether the server can change the cap of a collection. If so, a capped collection is created with a very large cap.
    /// Otherwise the collection is uncapped until its data is complete.
    pub(super) fn can_move_caps(&self) -> bool {
        self.able.has(Capability::ChangeableCaps)
    }

    /// Adds a namespace of the dump and returns the options to create it with before its data is loaded.
    ///
    /// For a collection without UUID in `meta`, the caller leaves the choice of the UUID to the server. The caller
    /// inserts the documents of a collection that is (or will be) capped in their order.
    pub fn add(&mut self, meta: &NamespaceMeta) -> Document {
        let mut options = meta.options.clone();
        if meta.kind == NamespaceKind::View {
            return options;
        }
        let key = key_of(meta);
        let level = if meta.coll.starts_with(BUCKETS) { Level::Buckets } else { Level::Documents };
        let deferred = self.defer_options(&mut options);
        let ns = format!("{}.{}", meta.db, meta.coll);
        let entry = self.collections.entry(key).or_default();
        entry.has_collation = has_collation(&options);
        if entry.ns.is_empty() || level == Level::Documents {
            *entry = Collection { ns, deferred, ..std::mem::take(entry) };
        }
        for spec in meta.indexes.iter().flatten() {
            entry.put_index(spec.clone(), level);
        }
        options
    }

    /// Must be called after [`Catalog::add`] for a collection whose indexes exist on the target while the oplog is
    /// replayed. (A restore builds the indexes after the replay.) If one of its indexes is unique, the operations on
    /// the collection are applied strictly in order, because a document has to lose a value before another document
    /// gets it.
    pub fn keep_order(&mut self, meta: &NamespaceMeta) {
        if let Some(collection) = self.collections.get_mut(&key_of(meta))
            && has_unique_index(meta.indexes.iter().flatten())
        {
            collection.in_order = true;
        }
    }

    /// Adds a collection that is in use on the target, with its indexes.
    pub(super) fn adopt(&mut self, db: &str, coll: &str, uuid: Uuid, options: &Document, indexes: Vec<Document>) {
        let key = Key::of(db, coll, Some(uuid));
        let level = if coll.starts_with(BUCKETS) { Level::Buckets } else { Level::Documents };
        let mut collection =
            Collection { ns: format!("{db}.{coll}"), has_collation: has_collation(options), ..Collection::default() };
        for spec in indexes {
            collection.put_index(spec, level);
        }
        let unique = has_unique_index(collection.indexes.values().map(|index| &index.spec));
        collection.in_order = unique || options.get("capped").is_some_and(is_true);
        collection.existing_indexes = Some(collection.indexes.clone());
        self.collections.insert(key, collection);
    }

    /// Removes the deferred options from `options` (a `create` command or the options of `listCollections`) and returns
    /// them. The collection is created with the remaining options.
    fn defer_options(&self, options: &mut Document) -> DeferredOptions {
        let mut deferred = DeferredOptions::default();
        let take = |options: &mut Document, name: &str| options.remove(name).filter(|value| value != &Bson::Null);
        if options.get("capped").is_some_and(is_true) {
            let max = take(options, "max").as_ref().and_then(integer).filter(|max| *max > 0);
            let size = take(options, "size").as_ref().and_then(integer).unwrap_or(4096);
            deferred.cap = Some(Cap { size, max });
            if self.can_move_caps() {
                options.insert("size", WIDEST);
            } else {
                options.remove("capped");
            }
        }
        for name in ["expireAfterSeconds", "changeStreamPreAndPostImages", "recordPreImages"] {
            if let Some(value) = take(options, name) {
                deferred.options.insert(name, value);
            }
        }
        deferred
    }

    /// Whether the collection is part of the restore now.
    pub fn knows(&self, key: &Key) -> bool {
        self.collections.contains_key(key)
    }

    /// Adds a collection that the oplog creates. It replaces an older collection with the same key. Returns the command
    /// that creates it.
    pub(super) fn create(&mut self, key: Key, ns: String, command: &Document) -> Document {
        let mut command = command.clone();
        let deferred = self.defer_options(&mut command);
        let has_collation = has_collation(&command);
        // If the target already has the collection, the command does nothing, and the collection keeps its indexes.
        let in_order = self.collections.get(&key).is_some_and(|collection| collection.in_order);
        self.collections.insert(key, Collection { ns, has_collation, deferred, in_order, ..Collection::default() });
        command
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.collections.remove(key);
    }

    pub(super) fn forget_database(&mut self, db: &str) {
        let prefix = format!("{db}.");
        self.collections.retain(|_, collection| !collection.ns.starts_with(&prefix));
    }

    pub(super) fn rename(&mut self, key: &Key, ns: &str) {
        if let Some(collection) = self.collections.get_mut(key) {
            ns.clone_into(&mut collection.ns);
        }
    }

    pub(super) fn rename_by_name(&mut self, from: &Key, to: &Key, ns: &str) {
        self.rename(from, ns);
        if let Some(collection) = self.collections.remove(from) {
            self.collections.insert(to.clone(), collection);
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Collection> {
        self.collections.get(key)
    }

    pub(super) fn add_index(&mut self, key: &Key, spec: Document) {
        let level = match key {
            Key::Name(name) if name.contains(".system.buckets.") => Level::Buckets,
            _ => Level::Documents,
        };
        if let Some(collection) = self.collections.get_mut(key) {
            collection.put_index(spec, level);
        }
    }

    /// Removes an index, or all indexes for `*`. Returns the indexes to drop now, which exist if the collection is in
    /// use.
    pub(super) fn remove_index(&mut self, key: &Key, name: &str) -> Vec<String> {
        let Some(collection) = self.collections.get_mut(key) else { return Vec::new() };
        let is_meant = |other: &String| name == "*" || name == other;
        collection.indexes.retain(|other, _| !is_meant(other));
        let Some(existing) = &mut collection.existing_indexes else { return Vec::new() };
        let removed = existing.keys().filter(|other| is_meant(other)).cloned().collect();
        existing.retain(|other, _| !is_meant(other));
        removed
    }

    /// Applies a `collMod` to the catalogue, and returns the part that has to be sent to the server now.
    pub(super) fn modify(&mut self, key: &Key, command: &Document) -> Option<Document> {
        let mut command = command.clone();
        let keeps_pre_images = self.able.has(Capability::KeepsRecordPreImages);
        let index = command.remove("index");
        command.remove("noPadding");
        command.remove("usePowerOf2Sizes");
        if let Some(collection) = self.collections.get_mut(key) {
            if let Some(Bson::Document(change)) = &index {
                collection.change_index(change);
            }
            if collection.existing_indexes.is_some() {
                return (command.len() > 1).then_some(command);
            }
            let size = command.remove("cappedSize").as_ref().and_then(integer);
            let max = command.remove("cappedMax").as_ref().and_then(integer);
            if let Some(cap) = &mut collection.deferred.cap {
                cap.size = size.unwrap_or(cap.size);
                cap.max = max.map_or(cap.max, |max| Some(max).filter(|max| *max > 0));
            }
            for name in ["expireAfterSeconds", "changeStreamPreAndPostImages", "recordPreImages"] {
                match command.remove(name) {
                    Some(Bson::String(off)) if off == "off" => drop(collection.deferred.options.remove(name)),
                    Some(value) => drop(collection.deferred.options.insert(name, value)),
                    None if name == "recordPreImages" && !keeps_pre_images => {
                        collection.deferred.options.remove(name);
                    }
                    None => {}
                }
            }
        }
        (command.len() > 1).then_some(command)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Collection)> {
        self.collections.iter()
    }
}

impl Collection {
    fn put_index(&mut self, mut spec: Document, level: Level) {
        spec.remove("ns");
        let clustered = spec.remove("clustered").is_some();
        if clustered || is_id_index(&spec) {
            return;
        }
        if let Ok(name) = spec.get_str("name").map(str::to_owned) {
            self.indexes.insert(name, Index { spec, level });
        }
    }

    /// Names of the indexes that exist on the target in an outdated form, if the collection is in use.
    pub(super) fn outdated_indexes(&self) -> Vec<&str> {
        let existing = self.existing_indexes.iter().flatten();
        existing
            .filter(|(name, old)| self.indexes.get(*name).is_some_and(|new| !is_same(old, new)))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Indexes that have to be built.
    pub(super) fn missing_indexes(&self) -> impl Iterator<Item = &Index> {
        let exists = |name: &str, index: &Index| {
            self.existing_indexes
                .as_ref()
                .and_then(|existing| existing.get(name))
                .is_some_and(|old| is_same(old, index))
        };
        self.indexes.iter().filter(move |(name, index)| !exists(name, index)).map(|(_, index)| index)
    }

    fn change_index(&mut self, change: &Document) {
        let by_name = change.get_str("name").ok().map(str::to_owned);
        let by_key = || {
            let key = change.get_document("keyPattern").ok()?;
            let found = self.indexes.iter().find(|(_, index)| index.spec.get_document("key").is_ok_and(|k| k == key));
            found.map(|(name, _)| name.clone())
        };
        let Some(index) = by_name.or_else(by_key).and_then(|name| self.indexes.get_mut(&name)) else { return };
        for (name, value) in change {
            match name.as_str() {
                "name" | "keyPattern" => {}
                "hidden" | "prepareUnique" | "unique" if !is_true(value) => drop(index.spec.remove(name)),
                "unique" => {
                    index.spec.remove("prepareUnique");
                    index.spec.insert("unique", true);
                }
                _ => drop(index.spec.insert(name, value.clone())),
            }
        }
    }
}

fn key_of(meta: &NamespaceMeta) -> Key {
    match (meta.kind, meta.uuid) {
        (NamespaceKind::Timeseries, _) => Key::name(&meta.db, &format!("{BUCKETS}{}", meta.coll)),
        (_, Some(uuid)) if !is_found_by_name(&meta.db, &meta.coll) => Key::uuid(uuid),
        _ => Key::name(&meta.db, &meta.coll),
    }
}

/// Whether two indexes are equal. The order of the fields matters in an index's key, but not in other documents.
fn is_same(a: &Index, b: &Index) -> bool {
    let fields = |index: &Index| -> Vec<String> {
        index.spec.get_document("key").map(|key| key.keys().cloned().collect()).unwrap_or_default()
    };
    a == b && fields(a) == fields(b)
}

/// Whether an index, except the one on `_id`, forbids that two documents have the same value.
fn has_unique_index<'a>(mut specs: impl Iterator<Item = &'a Document>) -> bool {
    let set = |spec: &Document, name| spec.get(name).is_some_and(is_true);
    specs.any(|spec| !is_id_index(spec) && (set(spec, "unique") || set(spec, "prepareUnique")))
}

fn has_collation(options: &Document) -> bool {
    options
        .get_document("collation")
        .is_ok_and(|collation| collation.get_str("locale").is_ok_and(|locale| locale != "simple"))
}

fn is_id_index(spec: &Document) -> bool {
    let Ok(key) = spec.get_document("key") else { return false };
    key.len() == 1 && key.get("_id").and_then(integer).is_some_and(|direction| direction.abs() == 1)
}

fn is_true(value: &Bson) -> bool {
    match value {
        Bson::Boolean(value) => *value,
        other => integer(other).is_some_and(|number| number != 0),
    }
}

pub(super) fn integer(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(value) => Some(i64::from(*value)),
        Bson::Int64(value) => Some(*value),
        // A shell sends whole numbers as doubles. A fraction is cut off, as the server does it.
        Bson::Double(value) => Some(*value as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    const UUID: Uuid = Uuid::from_bytes([7; 16]);

    fn meta(coll: &str, kind: NamespaceKind, options: Document, indexes: Vec<Document>) -> NamespaceMeta {
        let uuid = (kind == NamespaceKind::Collection).then_some(UUID);
        let indexes = Some(indexes);
        NamespaceMeta {
            db: "shop".into(),
            coll: coll.into(),
            kind,
            options,
            indexes,
            uuid,
            crc: 0,
            size: 0,
            object: None,
        }
    }

    fn names(catalog: &Catalog, key: &Key) -> Vec<String> {
        catalog.get(key).unwrap().indexes.keys().cloned().collect()
    }

    #[test]
    fn options_that_would_disturb_the_replay_are_deferred() {
        let all = doc! {
            "capped": true, "size": 4096, "max": 7_i64, "expireAfterSeconds": 9_i64,
            "changeStreamPreAndPostImages": {"enabled": true}, "validator": {"a": 1},
        };
        for (major, now) in
            [(6, doc! {"capped": true, "size": WIDEST, "validator": {"a": 1}}), (5, doc! {"validator": {"a": 1}})]
        {
            let mut catalog = Catalog::new(Capabilities::release(major, 0));
            assert_eq!(catalog.add(&meta("c", NamespaceKind::Collection, all.clone(), vec![])), now);
            let deferred = &catalog.get(&Key::uuid(UUID)).unwrap().deferred;
            assert_eq!(deferred.cap, Some(Cap { size: 4096, max: Some(7) }));
            assert_eq!(
                deferred.options,
                doc! {"expireAfterSeconds": 9_i64, "changeStreamPreAndPostImages": {"enabled": true}}
            );
        }
    }

    #[test]
    fn id_and_clustered_indexes_are_not_built() {
        let mut catalog = Catalog::new(Capabilities::release(6, 0));
        let indexes = vec![
            doc! {"v": 2, "key": {"_id": 1}, "name": "_id_", "ns": "shop.c"},
            doc! {"v": 2, "key": {"_id": 1}, "name": "clus key", "unique": true, "clustered": true},
            doc! {"v": 2, "key": {"_id": "hashed"}, "name": "_id_hashed", "ns": "shop.c"},
            doc! {"v": 2, "key": {"_id": 1, "a": 1}, "name": "both"},
        ];
        let _ = catalog.add(&meta("c", NamespaceKind::Collection, doc! {}, indexes));
        assert_eq!(names(&catalog, &Key::uuid(UUID)), ["_id_hashed", "both"]);
        assert!(!catalog.get(&Key::uuid(UUID)).unwrap().indexes["_id_hashed"].spec.contains_key("ns"));
    }

    #[test]
    fn only_unique_indexes_on_the_target_keep_the_order() {
        let id = doc! {"v": 2, "key": {"_id": 1}, "name": "_id_", "unique": true};
        for (spec, in_order) in [
            (doc! {"v": 2, "key": {"u": 1}, "name": "u"}, false),
            (doc! {"v": 2, "key": {"u": 1}, "name": "u", "unique": false}, false),
            (doc! {"v": 2, "key": {"u": 1}, "name": "u", "unique": true}, true),
            (doc! {"v": 2, "key": {"u": 1}, "name": "u", "unique": 1.0, "sparse": true}, true),
            (doc! {"v": 2, "key": {"u": 1}, "name": "u", "prepareUnique": true}, true),
        ] {
            let mut catalog = Catalog::new(Capabilities::release(6, 0));
            let meta = meta("c", NamespaceKind::Collection, doc! {}, vec![id.clone(), spec.clone()]);
            let _ = catalog.add(&meta);
            assert!(!catalog.get(&Key::uuid(UUID)).unwrap().in_order, "a restore builds them afterwards");
            catalog.keep_order(&meta);
            assert_eq!(catalog.get(&Key::uuid(UUID)).unwrap().in_order, in_order, "{spec}");
            // While the collection exists, creating it again changes nothing. After it was dropped and created again,
            // it has no indexes.
            let creation = doc! {"create": "c"};
            let _ = catalog.create(Key::uuid(UUID), "shop.c".into(), &creation);
            assert_eq!(catalog.get(&Key::uuid(UUID)).unwrap().in_order, in_order, "{spec}");
            catalog.forget(&Key::uuid(UUID));
            let _ = catalog.create(Key::uuid(UUID), "shop.c".into(), &creation);
            assert!(!catalog.get(&Key::uuid(UUID)).unwrap().in_order, "{spec}");
        }
    }

    #[test]
    fn indexes_of_a_time_series_are_of_two_levels() {
        let mut catalog = Catalog::new(Capabilities::release(6, 0));
        let _ = catalog.add(&meta("ts", NamespaceKind::Timeseries, doc! {}, vec![doc! {"key": {"m": 1}, "name": "m"}]));
        let key = Key::name("shop", "system.buckets.ts");
        catalog.add_index(&key, doc! {"key": {"meta": 1}, "name": "b"});
        let indexes = &catalog.get(&key).unwrap().indexes;
        assert_eq!((indexes["m"].level, indexes["b"].level), (Level::Documents, Level::Buckets));
    }

    #[test]
    fn ddl_changes_the_catalogue() {
        let mut catalog = Catalog::new(Capabilities::release(6, 0));
        let key = Key::uuid(UUID);
        let spec = |name: &str| doc! {"v": 2, "key": {name: 1}, "name": name};
        let indexes = ["a", "b", "c"].map(spec).to_vec();
        let _ = catalog.add(&meta("c", NamespaceKind::Collection, doc! {"capped": true, "size": 4096}, indexes));
        catalog.remove_index(&key, "b");
        catalog.add_index(&key, spec("d"));
        assert_eq!(names(&catalog, &key), ["a", "c", "d"]);

        // Index changes only go into the catalogue; nothing is left to apply.
        let change = |index: Document| doc! {"collMod": "c", "index": index};
        for index in [
            doc! {"name": "a", "expireAfterSeconds": 60, "hidden": true},
            doc! {"keyPattern": {"c": 1}, "prepareUnique": true},
            doc! {"name": "c", "unique": true},
            doc! {"name": "a", "hidden": false},
        ] {
            assert_eq!(catalog.modify(&key, &change(index)), None);
        }
        let specs = &catalog.get(&key).unwrap().indexes;
        assert_eq!(specs["a"].spec, doc! {"v": 2, "key": {"a": 1}, "name": "a", "expireAfterSeconds": 60});
        assert_eq!(specs["c"].spec, doc! {"v": 2, "key": {"c": 1}, "name": "c", "unique": true});

        let command =
            doc! {"collMod": "c", "cappedSize": 8192, "expireAfterSeconds": 5, "validator": {}, "noPadding": true};
        assert_eq!(catalog.modify(&key, &command), Some(doc! {"collMod": "c", "validator": {}}));
        assert_eq!(catalog.get(&key).unwrap().deferred.cap, Some(Cap { size: 8192, max: None }));
        assert_eq!(catalog.modify(&key, &doc! {"collMod": "c", "expireAfterSeconds": "off"}), None);
        assert!(catalog.get(&key).unwrap().deferred.options.is_empty());

        catalog.rename(&key, "crm.z");
        catalog.forget_database("shop");
        assert!(catalog.knows(&key));
        catalog.remove_index(&key, "*");
        assert!(names(&catalog, &key).is_empty());
        catalog.forget_database("crm");
        assert!(!catalog.knows(&key));
    }

    #[test]
    fn before_6_0_any_change_ends_the_recording_of_pre_images() {
        let record = doc! {"recordPreImages": true};
        let cases = [(5, doc! {"validator": {}}, false), (5, record.clone(), true), (6, doc! {"validator": {}}, true)];
        for (major, change, stays) in cases {
            let mut catalog = Catalog::new(Capabilities::release(major, 0));
            let key = Key::uuid(UUID);
            let _ = catalog.add(&meta("c", NamespaceKind::Collection, record.clone(), vec![]));
            let mut command = doc! {"collMod": "c"};
            command.extend(change);
            let _ = catalog.modify(&key, &command);
            assert_eq!(!catalog.get(&key).unwrap().deferred.options.is_empty(), stays, "{major} {command}");
        }
    }

    #[test]
    fn a_dropped_database_takes_only_its_own_collections() {
        let mut catalog = Catalog::new(Capabilities::release(6, 0));
        let keys = ["shop.a", "shopping.a"].map(|ns| (Key::Name(ns.to_owned()), ns));
        for (key, ns) in &keys {
            let _ = catalog.create(key.clone(), (*ns).to_owned(), &doc! {"create": "a"});
        }
        catalog.forget_database("shop");
        assert_eq!(keys.map(|(key, _)| catalog.knows(&key)), [false, true]);
    }

    #[test]
    fn a_collection_that_is_created_again_has_nothing_of_the_old_one() {
        let mut catalog = Catalog::new(Capabilities::release(6, 0));
        let key = Key::uuid(UUID);
        let indexes = vec![doc! {"key": {"a": 1}, "name": "a"}];
        let _ = catalog.add(&meta("c", NamespaceKind::Collection, doc! {"capped": true, "size": 1}, indexes));
        let create = doc! {"create": "c", "collation": {"locale": "de"}, "idIndex": {"name": "_id_"}};
        assert_eq!(catalog.create(key.clone(), "shop.c".into(), &create), create);
        let collection = catalog.get(&key).unwrap();
        assert!(collection.indexes.is_empty() && collection.deferred.cap.is_none() && collection.has_collation);
    }

    #[test]
    fn a_collection_in_use_gets_only_the_indexes_that_differ() {
        let mut catalog = Catalog::new(Capabilities::release(6, 0));
        let index = |name: &str| doc! {"v": 2, "key": {"a": 1, "b": 1}, "name": name};
        let specs = ["same", "ttl", "gone", "order"].map(index).to_vec();
        catalog.adopt("shop", "c", UUID, &doc! {"capped": true, "size": 4096, "expireAfterSeconds": 5}, specs);
        let key = Key::uuid(UUID);
        // Its options are changed at once and not at the end.
        assert_eq!(catalog.get(&key).unwrap().deferred, DeferredOptions::default());
        let change = doc! {"collMod": "c", "expireAfterSeconds": "off", "index": {"name": "ttl", "hidden": true}};
        assert_eq!(catalog.modify(&key, &change), Some(doc! {"collMod": "c", "expireAfterSeconds": "off"}));
        assert_eq!(catalog.remove_index(&key, "gone"), ["gone"]);
        assert!(catalog.remove_index(&key, "gone").is_empty(), "once");
        catalog.add_index(&key, index("same"));
        catalog.add_index(&key, doc! {"v": 2, "key": {"b": 1, "a": 1}, "name": "order"});
        catalog.add_index(&key, index("new"));
        let collection = catalog.get(&key).unwrap();
        assert_eq!(collection.outdated_indexes(), ["order", "ttl"]);
        let missing: Vec<_> = collection.missing_indexes().map(|index| index.spec.get_str("name").unwrap()).collect();
        assert_eq!(missing, ["new", "order", "ttl"]);
        assert_eq!(catalog.remove_index(&key, "*"), ["order", "same", "ttl"]);
    }
}
