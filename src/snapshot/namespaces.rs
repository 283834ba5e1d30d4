//! Lists the namespaces that a dump contains, with their options and indexes (docs/format.md A.3.5).
//!
//! Unlike the original's backups, ours contain no control collections. These collections describe the cluster that made
//! the backup, they are never restored, and `pbmConfig` would put readable storage credentials into every backup.

use crate::archive::meta::NamespaceKind;
use crate::model::names::BUCKETS;
use crate::model::{names, selection::Selection};
use crate::mongo::{code, listing};
use crate::raw::text;
use anyhow::{Context, Result, bail};
use bson::{Bson, Document, Uuid, doc};
use futures::{StreamExt, stream};
use mongodb::{Client, Database};
use std::collections::{BTreeSet, HashSet};

/// One namespace, as the node describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    pub db: String,
    pub coll: String,
    pub kind: NamespaceKind,
    pub options: Document,
    /// Every option that the server returned, or `None` if the server lists no indexes for the namespace.
    pub indexes: Option<Vec<Document>>,
    pub uuid: Option<Uuid>,
    /// Estimates of the documents and bytes, only for the order and the progress.
    pub count: u64,
    pub bytes: u64,
    /// If set, only matching documents are dumped.
    pub filter: Option<Document>,
}

impl Namespace {
    /// `db.coll`.
    #[must_use]
    pub fn ns(&self) -> String {
        format!("{}.{}", self.db, self.coll)
    }

    /// Whether the namespace itself contains documents. A view does not, and the documents of a time series are in its
    /// bucket collection.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.kind == NamespaceKind::Collection
    }
}

/// Collections of the `config` database that describe the cluster; the others are caches and state.
const CONFIG: [&str; 7] = ["chunks", "collections", "databases", "settings", "shards", "tags", "version"];
/// How often the indexes are listed by UUID again while the collection's name changes to another collection.
const LOOKUPS: usize = 50;
/// The number of collections that are described at the same time. Each needs two short commands, and with thousands of
/// collections the round trips add up.
const DESCRIBED_AT_ONCE: usize = 8;

/// Stands in [`Listing::left_out`] for databases whose names are not valid UTF-8.
const OTHER_DATABASES: &str = "databases (`show dbs` shows their names)";

/// The name of a collection, for people. The buckets of a time series go with the series.
fn shown(db: &str, coll: &str) -> String {
    format!("{db}.{}", text::shown(names::series_name(coll)))
}

/// Whether a collection is part of a full backup.
#[must_use]
pub fn is_dumped(db: &str, coll: &str) -> bool {
    match db {
        "local" => false,
        "admin" => {
            !["system.keys", "system.views", "system.profile"].contains(&coll)
                && !names::CONTROL.contains(&coll)
                && ![names::TMP_USERS, names::TMP_ROLES].contains(&coll)
        }
        "config" => CONFIG.contains(&coll),
        _ => !coll.starts_with("system.") || coll == "system.js" || coll.starts_with(BUCKETS),
    }
}

/// The namespaces to dump.
#[derive(Debug, Default)]
pub struct Listing {
    /// The namespaces, sorted by database and collection.
    pub namespaces: Vec<Namespace>,
    /// Buckets whose series does not exist while a collection or view has its name. The failed creation of a series
    /// leaves such buckets. 5.0 stores measurements in them that are inserted under that name. A series that is created
    /// later uses these buckets with their content, without an entry in the oplog.
    pub remains: Vec<Namespace>,
    /// What can't be dumped, for people: collections whose names are not valid UTF-8. The driver can't read them.
    pub left_out: BTreeSet<String>,
}

/// Lists the namespaces of a backup. For a selection, users and roles are not included.
///
/// The collections of one database are listed at one moment, so a collection that is renamed meanwhile is listed
/// exactly once. A collection that is dropped while it is being described is left out, because its drop is in the oplog
/// of the backup.
pub async fn list(client: &Client, selection: &Selection) -> Result<Listing> {
    let mut found = Vec::new();
    let databases = listing::databases(client).await?;
    let mut left_out = BTreeSet::new();
    if databases.others && selection.is_everything() {
        left_out.insert(OTHER_DATABASES.to_owned());
    }
    for db in databases.names.iter().filter(|db| selection.touches(db)) {
        let db = client.database(db);
        let what = || format!("list the collections of {}", db.name());
        let collections = listing::documents(&db, doc! { "listCollections": 1 }).await.with_context(what)?;
        let names: HashSet<String> =
            collections.iter().filter_map(|it| it.get_str("name").ok().map(str::to_owned)).collect();
        let dumped = collections.into_iter().filter(|it| {
            it.get_str("name").is_ok_and(|coll| is_dumped(db.name(), coll) && selection.wants(db.name(), coll))
        });
        let (others, collections): (Vec<_>, Vec<_>) =
            dumped.partition(|it| it.get_str("name").is_ok_and(text::is_made_of_bytes));
        left_out.extend(others.iter().filter_map(|it| it.get_str("name").ok()).map(|coll| shown(db.name(), coll)));
        let mut described = stream::iter(collections.into_iter().map(|collection| {
            let db = db.clone();
            async move { describe(&db, &collection).await }
        }))
        .buffer_unordered(DESCRIBED_AT_ONCE);
        let first = found.len();
        while let Some(namespace) = described.next().await {
            found.extend(namespace?);
        }
        let series = found[first..].iter().filter(|it| it.kind == NamespaceKind::Timeseries);
        for series in series.filter(|it| !names.contains(&format!("{BUCKETS}{}", it.coll))) {
            require_buckets(&db, &series.coll).await?;
        }
    }
    keep_names_once(&mut found);
    let replaced = replaced_buckets(&found);
    let (mut remains, mut namespaces): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|it| replaced.contains(&(it.db.clone(), it.coll.clone())));
    for buckets in &mut remains {
        let by = buckets.uuid.map_or_else(|| Bson::from(buckets.coll.as_str()), Bson::from);
        buckets.indexes = list_indexes(&client.database(&buckets.db), &buckets.coll, by).await?;
    }
    namespaces.extend(unlisted_series(&namespaces));
    namespaces.sort_by(|a, b| (&a.db, &a.coll).cmp(&(&b.db, &b.coll)));
    Ok(Listing { namespaces, remains, left_out })
}

/// Keeps each name once. The server can list a name twice, because it reads the collections of a database at one moment
/// and its views and time series at another, and because it lists a series whose creation is about to fail (5.0.4). If
/// both namespaces existed, the oplog contains the change between them. If the creation of one of them failed, the
/// other one is kept.
fn keep_names_once(found: &mut Vec<Namespace>) {
    found.sort_by_key(|namespace| match namespace.kind {
        NamespaceKind::Collection => 0,
        NamespaceKind::View => 1,
        NamespaceKind::Timeseries => 2,
    });
    let mut seen = HashSet::new();
    found.retain(|namespace| seen.insert((namespace.db.clone(), namespace.coll.clone())));
}

/// Returns the bucket collections whose series has the name of a collection or view. They are left over, or about to be
/// dropped. In the latter case their drop is in the oplog.
fn replaced_buckets(found: &[Namespace]) -> Vec<(String, String)> {
    let others = found.iter().filter(|namespace| namespace.kind != NamespaceKind::Timeseries);
    others.map(|other| (other.db.clone(), format!("{BUCKETS}{}", other.coll))).collect()
}

/// Returns a time series for each bucket collection that was listed without its series. The buckets are created before
/// the series and dropped after it, and the list may be made in between. A backup describes buckets only through their
/// series, so they need one. If the series was being dropped, the drop is in the oplog.
fn unlisted_series(found: &[Namespace]) -> Vec<Namespace> {
    let of_series = |buckets: &&Namespace| {
        let name = buckets.coll.strip_prefix(BUCKETS)?;
        let listed = found.iter().any(|other| other.db == buckets.db && other.coll == name);
        (!listed).then(|| name.to_owned())
    };
    found
        .iter()
        .filter_map(|buckets| {
            let coll = of_series(&buckets)?;
            let kept = ["expireAfterSeconds", "timeseries", "collation"];
            let options = buckets.options.iter().filter(|(key, _)| kept.contains(&key.as_str()));
            Some(Namespace {
                db: buckets.db.clone(),
                coll,
                kind: NamespaceKind::Timeseries,
                options: options.map(|(key, value)| (key.clone(), value.clone())).collect(),
                indexes: None,
                uuid: None,
                count: 0,
                bytes: 0,
                filter: None,
            })
        })
        .collect()
}

/// Describes one collection of a list. Returns `None` if it has been dropped.
pub async fn describe(db: &Database, described: &Document) -> Result<Option<Namespace>> {
    let coll = described.get_str("name").context("listCollections gave a collection without a name")?;
    let kind = kind_of(db.name(), coll, described)?;
    let uuid = described.get_document("info").ok().and_then(|info| info.get("uuid"));
    let indexes = match kind {
        NamespaceKind::View => Some(Vec::new()),
        _ if coll.starts_with(BUCKETS) => None,
        // The indexes are listed by UUID, because another collection may have the name now. Time series have no UUID.
        _ => match list_indexes(db, coll, uuid.cloned().unwrap_or_else(|| coll.into())).await? {
            Some(indexes) if indexes.is_empty() => None,
            Some(mut indexes) => {
                if kind == NamespaceKind::Timeseries {
                    add_hidden_prepare_unique(db, coll, &mut indexes).await?;
                }
                Some(indexes)
            }
            None => return Ok(None),
        },
    };
    let (count, bytes) = if kind == NamespaceKind::Collection { estimate(db, coll).await } else { (0, 0) };
    Ok(Some(Namespace {
        db: db.name().to_owned(),
        coll: coll.to_owned(),
        kind,
        options: described.get_document("options").cloned().unwrap_or_default(),
        indexes,
        uuid: uuid.and_then(|uuid| bson::deserialize_from_bson(uuid.clone()).ok()),
        count,
        bytes,
        filter: None,
    }))
}

/// What a namespace is, by the list of collections.
///
/// # Errors
/// It is of a type that this program does not know: nobody can tell whether its documents are all that it has, and how it is
/// created again.
fn kind_of(db: &str, coll: &str, described: &Document) -> Result<NamespaceKind> {
    let options = described.get_document("options").ok();
    let has = |name: &str| options.is_some_and(|options| options.contains_key(name));
    Ok(match described.get_str("type").unwrap_or("collection") {
        "collection" => NamespaceKind::Collection,
        "view" => NamespaceKind::View,
        "timeseries" if has("timeseries") => NamespaceKind::Timeseries,
        // An ordinary view of a series' buckets is listed like this, too.
        "timeseries" if has("viewOn") => NamespaceKind::View,
        other => bail!(
            "'{db}.{coll}' is of the type '{other}', which this version does not know, so it can't be backed up; back up the other \
             namespaces by their names (--ns)"
        ),
    })
}

/// Checks that a time series that was listed without its buckets has them: without them a backup would lack its data.
///
/// Names are listed at several moments, so the series may have been created or dropped in between.
///
/// # Errors
/// The server keeps its time series in another form.
async fn require_buckets(db: &Database, series: &str) -> Result<()> {
    let buckets = format!("{BUCKETS}{series}");
    let command = doc! { "listCollections": 1, "filter": { "name": { "$in": [series, &buckets] } } };
    for _ in 0..LOOKUPS {
        let listed = listing::documents(db, command.clone()).await.with_context(|| format!("look for {buckets}"))?;
        let text = |it: &Document, key: &str| it.get_str(key).unwrap_or_default().to_owned();
        let is = |name: &str, kind: &str| listed.iter().any(|it| text(it, "name") == name && text(it, "type") == kind);
        if is(&buckets, "collection") || !is(series, "timeseries") {
            return Ok(());
        }
    }
    bail!(
        "the server lists the time series '{}.{series}' without its buckets ('{buckets}'), in which this program expects its data, so \
         it can't be backed up (servers from 9.0 on keep time series in another form); back up the other namespaces by their \
         names (--ns)",
        db.name()
    )
}

/// Lists the indexes of a collection. Returns `None` if it has been dropped.
///
/// Indexes that are still being built are left out. If they are finished before the backup's oplog ends, the oplog contains
/// them; if not, they are not part of the state that the backup restores.
async fn list_indexes(db: &Database, coll: &str, by: Bson) -> Result<Option<Vec<Document>>> {
    let what = || format!("list the indexes of {}.{coll}", db.name());
    let mut lookups = 0;
    let mut indexes = loop {
        lookups += 1;
        let command = doc! { "listIndexes": by.clone(), "includeBuildUUIDs": true };
        let error = match listing::documents(db, command).await {
            Ok(indexes) => break indexes,
            Err(error) => error,
        };
        match code::code(&error) {
            Some(code::NAMESPACE_NOT_FOUND) => return Ok(None),
            // The server first converts the UUID to a name and then looks up the name. If a view or a series has that
            // name now, the collection was dropped or renamed.
            Some(code::COMMAND_NOT_SUPPORTED_ON_VIEW) if by.as_str().is_some() => return Ok(None),
            Some(code::COMMAND_NOT_SUPPORTED_ON_VIEW) if lookups < LOOKUPS => {}
            _ => return Err(error).with_context(what),
        }
    };
    indexes.retain(|index| !index.contains_key("buildUUID"));
    Ok(Some(indexes))
}

/// Adds `prepareUnique` to the indexes of a series. If `collMod` set it on an index over measurements, the server lists
/// it only for the buckets (6.0.5).
async fn add_hidden_prepare_unique(db: &Database, series: &str, indexes: &mut [Document]) -> Result<()> {
    let buckets = format!("{BUCKETS}{series}");
    for hidden in list_indexes(db, &buckets, buckets.as_str().into()).await?.unwrap_or_default() {
        let (Some(value), Ok(name)) = (hidden.get("prepareUnique"), hidden.get_str("name")) else { continue };
        if let Some(index) = indexes.iter_mut().find(|index| index.get_str("name").is_ok_and(|other| other == name)) {
            index.insert("prepareUnique", value.clone());
        }
    }
    Ok(())
}

/// Estimates the number of documents and their bytes. Returns zeroes if the server returns no numbers, because they are
/// only for the order and the progress.
async fn estimate(db: &Database, coll: &str) -> (u64, u64) {
    let Ok(stats) = db.run_command(doc! { "collStats": coll }).await else { return (0, 0) };
    let number = |key: &str| -> u64 {
        match stats.get(key) {
            Some(bson::Bson::Int32(n)) => u64::try_from(*n).unwrap_or(0),
            Some(bson::Bson::Int64(n)) => u64::try_from(*n).unwrap_or(0),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
            Some(bson::Bson::Double(n)) => *n as u64,
            _ => 0,
        }
    };
    (number("count"), number("size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_always_have_their_series() {
        let namespace = |coll: &str, kind, options| Namespace {
            db: "shop".into(),
            coll: coll.into(),
            kind,
            options,
            indexes: None,
            uuid: None,
            count: 0,
            bytes: 0,
            filter: None,
        };
        let options = doc! { "validator": {}, "clusteredIndex": true, "timeseries": { "timeField": "t" } };
        let buckets = namespace("system.buckets.x", NamespaceKind::Collection, options);
        let series = namespace("x", NamespaceKind::Timeseries, doc! { "timeseries": { "timeField": "t" } });
        let both = [buckets, series.clone()];
        assert_eq!(unlisted_series(&both[..1]), [series]);
        assert_eq!(unlisted_series(&both), []);
        let other = namespace("x", NamespaceKind::View, doc! {});
        assert_eq!(replaced_buckets(&[other]), [("shop".to_owned(), "system.buckets.x".to_owned())]);
        let plain = |coll: &str| namespace(coll, NamespaceKind::Collection, doc! {});
        let view = |coll: &str| namespace(coll, NamespaceKind::View, doc! {});
        let series = |coll: &str| namespace(coll, NamespaceKind::Timeseries, doc! {});
        let mut found = vec![series("x"), view("x"), plain("x"), series("y"), view("y"), series("z"), view("w")];
        keep_names_once(&mut found);
        assert_eq!(found, [plain("x"), view("y"), view("w"), series("z")]);
    }

    #[test]
    fn what_a_namespace_is_depends_on_its_type_and_options() {
        let kind = |kind: &str, options: Document| {
            kind_of("shop", "x", &doc! { "name": "x", "type": kind, "options": options })
        };
        let series = doc! { "timeseries": { "timeField": "t" } };
        let view = doc! { "viewOn": "system.buckets.y", "pipeline": [] };
        for (listed, options, expected) in [
            ("collection", doc! {}, NamespaceKind::Collection),
            ("view", view.clone(), NamespaceKind::View),
            ("timeseries", series.clone(), NamespaceKind::Timeseries),
            ("timeseries", view, NamespaceKind::View),
        ] {
            assert_eq!(kind(listed, options).expect("known"), expected, "{listed}");
        }
        assert_eq!(kind_of("shop", "x", &doc! { "name": "x" }).expect("known"), NamespaceKind::Collection);
        for (listed, options) in [("queue", doc! {}), ("timeseries", doc! {})] {
            let said = kind(listed, options).expect_err("unknown").to_string();
            assert!(said.contains("'shop.x' is of the type") && said.contains(listed), "{said}");
        }
    }

    #[test]
    fn a_backup_holds_what_a_restore_needs() {
        for (db, coll) in [
            ("admin", "system.users"),
            ("admin", "system.roles"),
            ("admin", "system.version"),
            ("admin", "mine"),
            ("config", "databases"),
            ("shop", "orders"),
            ("shop", "system.js"),
            ("shop", "system.buckets.ts"),
            ("shop", "pbmConfig"),
        ] {
            assert!(is_dumped(db, coll), "{db}.{coll}");
        }
        for (db, coll) in [
            ("local", "oplog.rs"),
            ("admin", "system.keys"),
            ("admin", "pbmConfig"),
            ("admin", "pbmLog"),
            ("admin", "pbmRUsers"),
            ("admin", "system.views"),
            ("config", "transactions"),
            ("config", "system.sessions"),
            ("shop", "system.views"),
            ("shop", "system.profile"),
        ] {
            assert!(!is_dumped(db, coll), "{db}.{coll}");
        }
    }
}
