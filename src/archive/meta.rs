//! `metadata.json` (version 1) and `meta.pbm` (version 2) of one replica set (docs/format.md A.3.3, A.3.4).

use super::{extjson, prelude::Prelude};
use crate::{
    layout::{self, ReplsetLayout},
    model::names::BUCKETS,
    raw,
};
use anyhow::{Context as _, anyhow, bail};
use bson::{Bson, Document, RawDocument, doc};
use std::collections::HashSet;

/// The only version of the archive format in `metadata.json`.
const FORMAT: &str = "0.1";

/// The largest `metadata.json` that is written and read: some hundred thousand collections.
pub const METADATA_LIMIT: usize = 1 << 30;

/// The kind of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceKind {
    Collection,
    View,
    Timeseries,
}

impl NamespaceKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collection => "collection",
            Self::View => "view",
            Self::Timeseries => "timeseries",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Collection, Self::View, Self::Timeseries].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// One collection, view or time series: its description by the server, and its stored data.
#[derive(Debug, Clone, PartialEq)]
pub struct NamespaceMeta {
    pub db: String,
    pub coll: String,
    pub kind: NamespaceKind,
    /// The `options` from `listCollections`, empty if the server returned none.
    pub options: Document,
    /// The result of `listIndexes` with every option that the server returned. `None` (written as `null`) if the server
    /// lists no indexes.
    pub indexes: Option<Vec<Document>>,
    pub uuid: Option<bson::Uuid>,
    /// CRC-64/XZ of the uncompressed documents, in the order of the file.
    pub crc: i64,
    /// The number of uncompressed bytes. 0 means that there is no object.
    pub size: i64,
    /// The name of the object with the documents, if the collection's own name can't be an object name: see
    /// [`layout::escaped_name`]. *Added by us*.
    pub object: Option<String>,
}

impl NamespaceMeta {
    /// Returns the name of the object that contains the documents.
    #[must_use]
    pub fn object_in(&self, at: &ReplsetLayout) -> String {
        self.object.as_ref().map_or_else(|| at.collection(&self.db, &self.coll), |name| at.escaped(name))
    }

    /// Returns the name of the object that contains the documents of buckets that belong to no time series.
    #[must_use]
    pub fn remains_in(&self, at: &ReplsetLayout) -> String {
        self.object.as_ref().map_or_else(|| at.remains(&self.db, &self.coll), |name| at.escaped(name))
    }
}

/// The content of `metadata.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ArchiveMeta {
    /// The number of collections that were dumped at the same time.
    pub concurrent_collections: i32,
    pub server_version: String,
    /// Version of the backup software.
    pub tool_version: String,
    pub namespaces: Vec<NamespaceMeta>,
    /// Buckets that belong to no time series but that a later series may use. *Added by us*: a separate field, which
    /// the original does not read.
    pub remains: Vec<NamespaceMeta>,
    /// Every object that was stored for this replica set. *Added by us*, like `remains`; empty if the backup does not record
    /// it.
    pub written: Vec<Written>,
}

/// An object that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The name relative to the folder of the replica set's part, such as `shop.orders.s2`.
    pub name: String,
    /// The number of bytes on the storage.
    pub stored: i64,
    /// Only for an oplog slice: its uncompressed bytes and their CRC-64/XZ. [`NamespaceMeta`] has both for a collection.
    pub content: Option<(i64, i64)>,
}

impl Written {
    fn to_document(&self) -> Document {
        let mut out = doc! { "name": &self.name, "stored": self.stored };
        if let Some((size, crc)) = self.content {
            out.extend(doc! { "size": size, "crc": crc });
        }
        out
    }

    fn read(value: &Bson) -> anyhow::Result<Self> {
        let entry = value.as_document().context("an object is no document")?;
        only(entry, &["name", "stored", "size", "crc"])?;
        let content = match entry.contains_key("crc") {
            true => Some((size(entry, "size")?, integer(entry, "crc")?)),
            false => None,
        };
        Ok(Self { name: text(entry, "name")?, stored: size(entry, "stored")?, content })
    }
}

impl ArchiveMeta {
    /// Returns the namespaces that have documents, each with the name of the object that contains them.
    pub fn stored<'a>(&'a self, at: &ReplsetLayout) -> impl Iterator<Item = (String, &'a NamespaceMeta)> {
        let usual = self.namespaces.iter().map(|ns| (ns.object_in(at), ns));
        let remains = self.remains.iter().map(|ns| (ns.remains_in(at), ns));
        usual.chain(remains).filter(|(_, ns)| ns.size != 0)
    }
}

/// Returns `metadata.json` in canonical Extended JSON, with namespaces sorted by database and collection.
///
/// `meta` contains every namespace that was dumped. A bucket collection is not listed; its time series gets its
/// checksum and size. Of the other `system.*` collections, `system.js` is always listed, and the rest only for `admin`
/// and `config`. Collections that are stored under an escaped name are in a separate list. The original does not read
/// that list, so it restores the other collections.
#[must_use]
pub fn write_metadata_json(meta: &ArchiveMeta) -> Vec<u8> {
    let mut namespaces: Vec<&NamespaceMeta> = meta.namespaces.iter().filter(|ns| is_listed(ns)).collect();
    namespaces.sort_by_key(|ns| (&ns.db, &ns.coll));
    let listings = namespaces.into_iter().map(|ns| (ns, data_of(ns, &meta.namespaces)));
    let (escaped, usual): (Vec<_>, Vec<_>) = listings.partition(|(_, data)| data.object.is_some());
    let list = |of: Vec<(&NamespaceMeta, &NamespaceMeta)>| -> Vec<Document> {
        of.into_iter().map(|(ns, data)| listed(ns, data)).collect()
    };
    let mut file = doc! {
        "concurrent_collections": meta.concurrent_collections,
        "version": FORMAT,
        "server_version": &meta.server_version,
        "tool_version": &meta.tool_version,
        "namespaces": list(usual),
    };
    if !escaped.is_empty() {
        file.insert("escaped", list(escaped));
    }
    if !meta.remains.is_empty() {
        let remains = meta.remains.iter().map(|ns| listed(ns, ns));
        file.insert("remains", remains.collect::<Vec<_>>());
    }
    if !meta.written.is_empty() {
        file.insert("written", meta.written.iter().map(Written::to_document).collect::<Vec<_>>());
    }
    extjson::indented(&file).into_bytes()
}

/// Checks the size of a `metadata.json`, because a larger one could be written but never read again.
///
/// # Errors
/// The size is more than [`METADATA_LIMIT`] bytes.
pub fn check_size(bytes: usize) -> anyhow::Result<()> {
    if bytes > METADATA_LIMIT {
        bail!(
            "the description of all collections has {bytes} bytes, of which restores read at most {METADATA_LIMIT}; back up \
             some databases at a time, with --ns"
        );
    }
    Ok(())
}

/// Returns a namespace as an element of a list, with the checksum and size of the namespace that contains its
/// documents.
fn listed(ns: &NamespaceMeta, data: &NamespaceMeta) -> Document {
    let mut listed = doc! {
        "db": &ns.db,
        "collection": &ns.coll,
        "metadata": collection_metadata(ns),
        "type": ns.kind.as_str(),
        "crc": data.crc,
        "size": data.size,
    };
    if let Some(object) = &data.object {
        listed.insert("object", object);
    }
    listed
}

/// Returns the options, indexes and UUID of a namespace as one line of canonical Extended JSON.
#[must_use]
pub fn collection_metadata(ns: &NamespaceMeta) -> String {
    let mut inner = Document::new();
    insert_options(&mut inner, ns);
    inner.insert("indexes", indexes(ns));
    insert_uuid(&mut inner, ns);
    inner.insert("collectionName", &ns.coll);
    inner.insert("type", ns.kind.as_str());
    extjson::compact(&inner)
}

/// Returns the namespaces that an archive announces, without its oplog. Sizes and checksums are zero, because an
/// archive has them only after the data.
///
/// # Errors
/// A namespace lacks its name or has an unknown type, or its metadata can't be read.
pub fn read_prelude(prelude: &Prelude) -> anyhow::Result<Vec<NamespaceMeta>> {
    let namespaces = prelude.entries.iter().filter(|entry| !entry.is_oplog()).map(|entry| {
        let kind = if entry.is_view() { NamespaceKind::View.as_str() } else { &entry.kind };
        let doc = doc! { "db": &entry.db, "collection": &entry.coll, "metadata": &entry.metadata, "type": kind };
        read_namespace(&Bson::Document(doc))
    });
    namespaces.collect()
}

/// Reads `metadata.json`. Numbers may be of any integer type. An unknown key is an error, because it shows that the
/// file is damaged: the right key would be missing without a warning.
///
/// # Errors
/// The bytes are not a `metadata.json`, a namespace lacks its name or has an unknown type, or a key is unknown.
pub fn read_metadata_json(bytes: &[u8]) -> anyhow::Result<ArchiveMeta> {
    let file = extjson::parse(bytes).context("parse metadata.json")?;
    only(
        &file,
        &[
            "concurrent_collections",
            "version",
            "server_version",
            "tool_version",
            "namespaces",
            "escaped",
            "remains",
            "written",
        ],
    )
    .context("read metadata.json")?;
    let format = text(&file, "version")?;
    if !matches!(format.as_str(), FORMAT | "") {
        return Err(anyhow!("metadata.json has format version '{format}', only '{FORMAT}' is known"));
    }
    let (mut namespaces, remains): (Vec<NamespaceMeta>, _) =
        (list(&file, "namespaces", read_namespace)?, list(&file, "remains", read_namespace)?);
    let escaped = list(&file, "escaped", read_namespace)?;
    if !escaped.is_empty() {
        namespaces.extend(escaped);
        namespaces.sort_by(|a: &NamespaceMeta, b| (&a.db, &a.coll).cmp(&(&b.db, &b.coll)));
    }
    each_once(&namespaces)?;
    each_once(&remains)?;
    let written = list(&file, "written", Written::read)?;
    let concurrent_collections =
        i32::try_from(integer(&file, "concurrent_collections")?).context("read concurrent_collections")?;
    Ok(ArchiveMeta {
        concurrent_collections,
        server_version: text(&file, "server_version")?,
        tool_version: text(&file, "tool_version")?,
        namespaces,
        remains,
        written,
    })
}

fn list<T>(file: &Document, field: &str, read: impl Fn(&Bson) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
    match file.get(field) {
        Some(Bson::Array(list)) => list.iter().map(read).collect(),
        Some(Bson::Null) | None => Ok(Vec::new()),
        Some(other) => Err(anyhow!("'{field}' is {:?}, not an array", other.element_type())),
    }
}

/// Checks that the document has no other keys.
fn only(doc: &Document, known: &[&str]) -> anyhow::Result<()> {
    match doc.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(anyhow!("'{key}' is no key that it can have: it is damaged, or of a newer version")),
        None => Ok(()),
    }
}

/// Returns `meta.pbm`: all namespaces, including buckets, as one BSON document, sorted by the names of their objects.
/// `remains` has its own field, *added by us*.
///
/// # Errors
/// The document cannot be encoded, that is, it would be larger than 2 GiB.
pub fn write_meta_pbm(
    version: &str,
    server_version: &str,
    fcv: &str,
    namespaces: &[NamespaceMeta],
    remains: &[NamespaceMeta],
) -> anyhow::Result<Vec<u8>> {
    let mut sorted: Vec<&NamespaceMeta> = namespaces.iter().collect();
    sorted.sort_by_cached_key(|ns| format!("{}.{}", ns.db, ns.coll.strip_prefix(BUCKETS).unwrap_or(&ns.coll)));
    let specifications: Vec<Bson> = sorted.into_iter().map(specification).collect();
    let mut file =
        doc! { "version": version, "serverVersion": server_version, "fcv": fcv, "specifications": specifications };
    if !remains.is_empty() {
        file.insert("remains", remains.iter().map(specification).collect::<Vec<_>>());
    }
    file.to_vec().context("encode meta.pbm")
}

fn specification(ns: &NamespaceMeta) -> Bson {
    let mut spec = doc! { "db": &ns.db, "name": &ns.coll, "type": ns.kind.as_str() };
    insert_uuid(&mut spec, ns);
    insert_options(&mut spec, ns);
    spec.insert("indexes", indexes(ns));
    spec.insert("crc", ns.crc);
    spec.insert("size", ns.size);
    Bson::Document(spec)
}

/// Returns the namespaces of `meta.pbm`, and its `remains` if the file has that field.
///
/// # Errors
/// The bytes are not a `meta.pbm`.
pub fn read_meta_pbm(bytes: &[u8]) -> anyhow::Result<(Vec<NamespaceMeta>, Option<Vec<NamespaceMeta>>)> {
    let raw = RawDocument::from_bytes(bytes).context("read it as BSON")?;
    // The library does not limit nested documents, and aborts the program when the stack is full.
    raw::check(raw).context("read it as BSON")?;
    let file = Document::try_from(raw).context("read it as BSON")?;
    let read = |spec: &Bson| {
        let spec = spec.as_document().context("a specification is no document")?;
        read_described(spec, spec, text(spec, "db")?, text(spec, "name")?)
    };
    if !file.contains_key("specifications") {
        return Err(anyhow!("it has no specifications"));
    }
    let remains = file.contains_key("remains").then(|| list(&file, "remains", read)).transpose()?;
    let namespaces = list(&file, "specifications", read)?;
    each_once(&namespaces)?;
    each_once(remains.as_deref().unwrap_or_default())?;
    Ok((namespaces, remains))
}

/// Checks that no namespace is listed twice, because it would be loaded twice.
fn each_once(namespaces: &[NamespaceMeta]) -> anyhow::Result<()> {
    let mut seen = HashSet::new();
    match namespaces.iter().find(|ns| !seen.insert((&ns.db, &ns.coll))) {
        Some(twice) => Err(anyhow!("'{}.{}' is listed twice", twice.db, twice.coll)),
        None => Ok(()),
    }
}

pub(super) fn is_listed(ns: &NamespaceMeta) -> bool {
    let whole = matches!(ns.db.as_str(), "admin" | "config") && !ns.coll.starts_with(BUCKETS);
    whole || !ns.coll.starts_with("system.") || ns.coll == "system.js"
}

/// Returns the namespace that contains the documents. For a time series these are its buckets, if they are in the list.
pub(super) fn data_of<'a>(ns: &'a NamespaceMeta, all: &'a [NamespaceMeta]) -> &'a NamespaceMeta {
    if ns.kind != NamespaceKind::Timeseries {
        return ns;
    }
    let is_bucket = |other: &&NamespaceMeta| other.db == ns.db && other.coll.strip_prefix(BUCKETS) == Some(&ns.coll);
    all.iter().find(is_bucket).unwrap_or(ns)
}

fn insert_options(into: &mut Document, ns: &NamespaceMeta) {
    if !ns.options.is_empty() {
        into.insert("options", &ns.options);
    }
}

fn insert_uuid(into: &mut Document, ns: &NamespaceMeta) {
    if let Some(uuid) = ns.uuid {
        let hex: String = uuid.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        into.insert("uuid", hex);
    }
}

fn indexes(ns: &NamespaceMeta) -> Bson {
    ns.indexes.as_ref().map_or(Bson::Null, |list| list.iter().cloned().collect())
}

fn read_namespace(value: &Bson) -> anyhow::Result<NamespaceMeta> {
    let entry = value.as_document().context("a namespace is no document")?;
    let (db, coll) = (text(entry, "db")?, text(entry, "collection")?);
    if db.is_empty() || coll.is_empty() {
        return Err(anyhow!("a namespace has no name: db '{db}', collection '{coll}'"));
    }
    let name = format!("{db}.{coll}");
    read_named(entry, db, coll).with_context(|| format!("read the metadata of '{name}'"))
}

fn read_named(entry: &Document, db: String, coll: String) -> anyhow::Result<NamespaceMeta> {
    only(entry, &["db", "collection", "metadata", "type", "crc", "size", "object"])?;
    let inner = match text(entry, "metadata")? {
        json if json.is_empty() => Document::new(),
        json => extjson::parse(json.as_bytes()).context("parse its options and indexes")?,
    };
    only(&inner, &["options", "indexes", "uuid", "collectionName", "type"])?;
    read_described(entry, &inner, db, coll)
}

/// `inner` contains options, indexes and UUID, and `entry` contains the rest.
fn read_described(entry: &Document, inner: &Document, db: String, coll: String) -> anyhow::Result<NamespaceMeta> {
    let kind = match text(entry, "type")?.as_str() {
        "" => NamespaceKind::Collection,
        other => NamespaceKind::parse(other).ok_or_else(|| anyhow!("unknown type '{other}'"))?,
    };
    let options = match inner.get("options") {
        Some(Bson::Document(options)) => options.clone(),
        Some(Bson::Null) | None => Document::new(),
        Some(_) => return Err(anyhow!("'options' is no document")),
    };
    let indexes = match inner.get("indexes") {
        Some(Bson::Array(list)) => {
            let specs = list.iter().map(|spec| spec.as_document().cloned()).collect::<Option<Vec<_>>>();
            Some(specs.context("an index is no document")?)
        }
        Some(Bson::Null) | None => None,
        Some(_) => return Err(anyhow!("'indexes' is no array")),
    };
    let uuid = match text(inner, "uuid")? {
        hex if hex.is_empty() => None,
        hex => Some(bson::Uuid::parse_str(&hex).with_context(|| format!("parse the uuid '{hex}'"))?),
    };
    Ok(NamespaceMeta {
        db,
        coll,
        kind,
        options,
        indexes,
        uuid,
        crc: integer(entry, "crc")?,
        size: size(entry, "size")?,
        object: match text(entry, "object")? {
            none if none.is_empty() => None,
            name if layout::is_escaped_name(&name) => Some(name),
            name => return Err(anyhow!("'{name}' is no name of an object that we write")),
        },
    })
}

/// Returns a string, or an empty one if it is missing or null.
fn text(doc: &Document, key: &str) -> anyhow::Result<String> {
    match doc.get(key) {
        Some(Bson::String(value)) => Ok(value.clone()),
        Some(Bson::Null) | None => Ok(String::new()),
        Some(other) => Err(anyhow!("'{key}' is {:?}, not a string", other.element_type())),
    }
}

/// Returns an integer of any width, or 0 if it is missing or null.
fn integer(doc: &Document, key: &str) -> anyhow::Result<i64> {
    match doc.get(key) {
        Some(Bson::Int64(value)) => Ok(*value),
        Some(Bson::Int32(value)) => Ok(i64::from(*value)),
        Some(Bson::Null) | None => Ok(0),
        Some(other) => Err(anyhow!("'{key}' is {:?}, not an integer", other.element_type())),
    }
}

/// Returns a number of bytes, or 0 if it is missing or null.
fn size(doc: &Document, key: &str) -> anyhow::Result<i64> {
    match integer(doc, key)? {
        negative @ ..0 => Err(anyhow!("'{key}' is {negative}, and nothing has a negative size")),
        size => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        ArchiveMeta, METADATA_LIMIT, NamespaceKind, NamespaceMeta, ReplsetLayout, Written, check_size,
        read_metadata_json, write_meta_pbm, write_metadata_json,
    };
    use bson::{Document, doc};

    #[test]
    fn what_nobody_would_read_is_not_written() {
        check_size(METADATA_LIMIT).expect("as much as is read");
        assert!(check_size(METADATA_LIMIT + 1).expect_err("more").to_string().contains("--ns"));
    }

    const REAL: &[u8] = include_bytes!("../../tests/fixtures/original/metadata.json");

    fn namespace(db: &str, coll: &str, kind: NamespaceKind, size: i64) -> NamespaceMeta {
        let indexes = Some(vec![doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_", "hidden": true }]);
        NamespaceMeta {
            db: db.into(),
            coll: coll.into(),
            kind,
            options: Document::new(),
            indexes,
            uuid: None,
            crc: size * 7,
            size,
            object: None,
        }
    }

    fn archive(namespaces: Vec<NamespaceMeta>) -> ArchiveMeta {
        ArchiveMeta {
            concurrent_collections: 2,
            server_version: "6.0.5".into(),
            tool_version: "2.15.0".into(),
            namespaces,
            remains: Vec::new(),
            written: Vec::new(),
        }
    }

    #[test]
    fn remains_have_a_field_of_their_own() {
        let mut meta = archive(vec![namespace("shop", "x", NamespaceKind::Collection, 5)]);
        meta.remains = vec![namespace("shop", "system.buckets.x", NamespaceKind::Collection, 0)];
        assert_eq!(read_metadata_json(&write_metadata_json(&meta)).unwrap(), meta);
        meta.remains.clear();
        assert!(!String::from_utf8(write_metadata_json(&meta)).unwrap().contains("remains"));
    }

    #[test]
    fn what_was_written_has_a_field_of_its_own() {
        let mut meta = archive(vec![namespace("shop", "x", NamespaceKind::Collection, 5)]);
        let collection = Written { name: "shop.x.s2".into(), stored: 4, content: None };
        let slice = Written { name: "oplog/1.2.s2".into(), stored: 9, content: Some((20, -3)) };
        meta.written = vec![collection, slice];
        assert_eq!(read_metadata_json(&write_metadata_json(&meta)).unwrap(), meta);
        meta.written.clear();
        assert!(!String::from_utf8(write_metadata_json(&meta)).unwrap().contains("written"));
    }

    #[test]
    fn escaped_names_are_hidden_from_the_original() {
        let escaped = |ns: NamespaceMeta, object: &str| NamespaceMeta { object: Some(object.to_owned()), ..ns };
        let series = namespace("shop", "t//s", NamespaceKind::Timeseries, 0);
        let buckets = escaped(namespace("shop", "system.buckets.t//s", NamespaceKind::Collection, 9), "4-shop-t--s");
        let odd = escaped(namespace("shop", "a/../b", NamespaceKind::Collection, 5), "0-shop-a----b");
        let meta = archive(vec![odd.clone(), namespace("shop", "c", NamespaceKind::Collection, 3), series, buckets]);
        let text = write_metadata_json(&meta);
        let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(file["namespaces"].as_array().map(Vec::len), Some(1), "the original reads this list alone");
        let read = read_metadata_json(&text).unwrap();
        assert_eq!(read.namespaces[0], odd);
        let at = ReplsetLayout::new("b", "rs0", crate::model::compression::Compression::S2);
        let stored: Vec<_> = read.stored(&at).map(|(name, ns)| (name, ns.size)).collect();
        let want = [("b/rs0/escaped/0-shop-a----b.s2", 5), ("b/rs0/shop.c.s2", 3), ("b/rs0/escaped/4-shop-t--s.s2", 9)];
        assert_eq!(stored, want.map(|(name, size)| (name.to_owned(), size)));
        let evil = String::from_utf8(text).unwrap().replace("0-shop-a----b", "../../other");
        assert!(format!("{:#}", read_metadata_json(evil.as_bytes()).unwrap_err()).contains("no name of an object"));
    }

    #[test]
    fn a_file_of_the_original_comes_back_byte_for_byte() {
        let meta = read_metadata_json(REAL).unwrap();
        let series = meta.namespaces.iter().find(|ns| ns.kind == NamespaceKind::Timeseries).unwrap();
        assert_eq!((series.coll.as_str(), series.crc, &series.indexes), ("ts", 4_140_447_196_977_631_677, &None));
        assert_eq!(String::from_utf8(write_metadata_json(&meta)).unwrap(), String::from_utf8_lossy(REAL));
    }

    #[test]
    fn buckets_and_system_collections() {
        let all = vec![
            namespace("shop", "ts", NamespaceKind::Timeseries, 0),
            namespace("shop", "system.buckets.ts", NamespaceKind::Collection, 11),
            namespace("shop", "system.js", NamespaceKind::Collection, 12),
            namespace("shop", "system.profile", NamespaceKind::Collection, 13),
            namespace("admin", "system.users", NamespaceKind::Collection, 14),
            namespace("other", "system.buckets.ts", NamespaceKind::Collection, 15),
        ];
        let read = read_metadata_json(&write_metadata_json(&archive(all))).unwrap();
        let names: Vec<_> = read.namespaces.iter().map(|ns| (ns.db.as_str(), ns.coll.as_str(), ns.size)).collect();
        assert_eq!(names, [("admin", "system.users", 14), ("shop", "system.js", 12), ("shop", "ts", 11)]);
        assert_eq!(read.namespaces[2].crc, 77);
        assert!(read.namespaces[0].indexes.as_ref().unwrap()[0].get_bool("hidden").unwrap());
    }

    #[test]
    fn bson_lists_everything_in_the_order_of_the_objects() {
        let mut series = namespace("shop", "ts", NamespaceKind::Timeseries, 0);
        series.indexes = None;
        series.options = doc! { "timeseries": { "timeField": "t" } };
        let mut orders = namespace("shop", "zz", NamespaceKind::Collection, 3);
        orders.uuid = Some(bson::Uuid::parse_str("00112233-4455-4677-8899-aabbccddeeff").unwrap());
        let buckets = namespace("shop", "system.buckets.ts", NamespaceKind::Collection, 5);
        let bytes = write_meta_pbm("2.15.0", "6.0.5", "6.0", &[orders, series, buckets], &[]).unwrap();
        let index = doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_", "hidden": true };
        let expected = doc! {
            "version": "2.15.0", "serverVersion": "6.0.5", "fcv": "6.0",
            "specifications": [
                { "db": "shop", "name": "ts", "type": "timeseries", "options": { "timeseries": { "timeField": "t" } },
                  "indexes": null, "crc": 0_i64, "size": 0_i64 },
                { "db": "shop", "name": "system.buckets.ts", "type": "collection", "indexes": [index.clone()],
                  "crc": 35_i64, "size": 5_i64 },
                { "db": "shop", "name": "zz", "type": "collection", "uuid": "00112233445546778899aabbccddeeff",
                  "indexes": [index], "crc": 21_i64, "size": 3_i64 },
            ],
        };
        assert_eq!(Document::from_reader(&bytes[..]).unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (file, reason) in [
            (r#"{"version":"9"}"#, "version '9'"),
            (r#"{"namespaces":[{"db":"a"}]}"#, "no name"),
            (r#"{"namespaces":[{"db":"a","collection":"b","type":"x"}]}"#, "'a.b': unknown type 'x'"),
            (r#"{"namespaces":[{"db":"a","collection":"b","metadata":"{"}]}"#, "'a.b': parse its options"),
            (r#"{"namespaces":[{"db":"a","collection":"b","size":"1"}]}"#, "'size' is String"),
            (r#"{"namespaces":[{"db":"a","collection":"b","size":-1}]}"#, "'size' is -1"),
            (r#"{"namespaces":[{"db":"a","collection":"b"},{"db":"a","collection":"b"}]}"#, "'a.b' is listed twice"),
            (r#"{"written":[{"name":"x","stored":-1}]}"#, "'stored' is -1"),
            ("[]", "parse metadata.json"),
        ] {
            let error = format!("{:#}", read_metadata_json(file.as_bytes()).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
    }
}
