//! Sets the caps, indexes and deferred options of the catalogue's collections at the end of a restore (docs/format.md
//! E.8).
//!
//! Differences to the original, on purpose: `v`, `hidden` and `prepareUnique` of an index are kept; an index follows its
//! collection through renames; building indexes never creates a collection that does not exist any more.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::str::FromStr;

use anyhow::{Context, Result};
use bson::{Bson, Document, doc, rawdoc};
use mongodb::Client;

use crate::model::names::BUCKETS;
use crate::mongo::{code, majority};
use crate::replay::capped;
use crate::replay::catalog::{Catalog, Collection, Index, Level};
use crate::replay::key::Key;
use crate::replay::op::command_document;
use crate::replay::target::{Mode, Occupant, Target};
use crate::replay::temporary_names;

/// How many members must be ready before an index build is committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CommitQuorum {
    /// No quorum was chosen: every voting member must be ready, or the majority while a voting member can't build indexes.
    #[default]
    Unchosen,
    Members(i32),
    /// `majority`, `votingMembers` or a tag.
    Named(String),
}

impl FromStr for CommitQuorum {
    type Err = std::convert::Infallible;

    /// A whole number is a number of members; any other text is a name. An empty text chooses no quorum.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse() {
            _ if text.is_empty() => Self::default(),
            Ok(members) => Self::Members(members),
            Err(_) => Self::Named(text.to_owned()),
        })
    }
}

impl CommitQuorum {
    fn to_bson(&self) -> Bson {
        match self {
            Self::Unchosen => Bson::String("votingMembers".to_owned()),
            Self::Members(members) => Bson::Int32(*members),
            Self::Named(name) => Bson::String(name.clone()),
        }
    }

    /// Replaces an unchosen quorum by the majority if a voting member is down or builds no indexes, because the server
    /// would wait for that member forever.
    async fn resolve(&self, client: &Client) -> Self {
        match (self, majority::who_builds_no_indexes(client).await) {
            (Self::Unchosen, Some(who)) => {
                tracing::warn!("indexes are committed when the majority has them: {who}");
                Self::Named("majority".to_owned())
            }
            _ => self.clone(),
        }
    }
}

/// Counts of the built indexes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Built {
    /// Collections that got indexes.
    pub collections: usize,
    pub indexes: usize,
}

impl Catalog {
    /// Applies the catalogue to the primary behind `client`: each collection gets its cap, then all its indexes in one
    /// command, then its deferred options. Can be called again after an error. If the caller drops the future, the work
    /// stops between two commands (but the server finishes an index build that has begun).
    pub async fn build(&self, client: &Client, quorum: &CommitQuorum) -> Result<Built> {
        let target = Target::new(client.clone());
        let quorum = &quorum.resolve(client).await;
        let existing = ExistingNames::read(&target, self.iter().map(|(_, collection)| collection)).await?;
        let mut built = Built::default();
        let how = (quorum, self.can_move_caps());
        let mut dropped = HashSet::new();
        for (key, collection) in self.iter() {
            let Some((db, coll)) = existing.find(key).filter(|found| !dropped.contains(found)) else {
                tracing::debug!(ns = collection.ns, "not there any more, no indexes to build");
                continue;
            };
            let deferred = &collection.deferred;
            let changes =
                deferred.cap.is_some() || !deferred.options.is_empty() || collection.missing_indexes().next().is_some();
            let buckets = format!("{BUCKETS}{coll}");
            let stray = existing.find(&Key::name(db, &buckets)).filter(|found| changes && !dropped.contains(found));
            let has_stray_buckets = match stray {
                Some(found) if drop_empty_buckets(&target, db, &buckets).await? => {
                    dropped.insert(found);
                    false
                }
                found => found.is_some(),
            };
            let count = if has_stray_buckets {
                let temporary = temporary_names::generate();
                rename(&target, db, key, coll, &temporary).await?;
                let completed = complete(&target, db, &temporary, (key, collection), how).await;
                // The collection gets its name back even if a step failed. If both fail, the first error explains more.
                let renamed = rename(&target, db, key, &temporary, coll).await;
                let count = completed?;
                renamed?;
                count
            } else {
                complete(&target, db, coll, (key, collection), how).await?
            };
            built.indexes += count;
            built.collections += usize::from(count > 0);
        }
        Ok(built)
    }
}

/// Sets the cap, indexes and deferred options of one collection, whose name at this moment is `coll`. Returns how many
/// indexes were built.
async fn complete(
    target: &Target,
    db: &str,
    coll: &str,
    (key, collection): (&Key, &Collection),
    (quorum, movable_caps): (&CommitQuorum, bool),
) -> Result<usize> {
    let (deferred, ns) = (&collection.deferred, &collection.ns);
    if let Some(cap) = deferred.cap {
        capped::set_cap(target, db, coll, key, cap, movable_caps).await.with_context(|| format!("cap {ns}"))?;
    }
    let count = build_indexes(target, db, coll, collection, quorum).await?;
    if !deferred.options.is_empty() {
        let mut command = doc! {"collMod": coll};
        command.extend(deferred.options.clone());
        target.run_with_retries(db, command).await.with_context(|| format!("set the options of {ns}"))?;
    }
    Ok(count)
}

/// Renames a collection in the form of an oplog entry: this finds it by its UUID, even if bucket collections have one
/// of the names.
async fn rename(target: &Target, db: &str, key: &Key, from: &str, to: &str) -> Result<()> {
    let command = rawdoc! {"renameCollection": format!("{db}.{from}"), "to": format!("{db}.{to}"), "stayTemp": false};
    let renamed = target.apply_all(Mode::InitialSync, &[&command_document(db, key, &command)]).await;
    renamed.with_context(|| format!("rename {db}.{from} to {to} for a while"))
}

/// Drops a bucket collection that has the name of an ordinary collection, if it is empty. Returns whether it was
/// dropped.
///
/// If the server can't create a time series because a collection has its name, it still keeps the buckets of the
/// series. No series uses them, but the server then treats the collection as a time series: it refuses the collection's
/// indexes and options or applies them to the buckets, and 6.0 answers `ok` to a new cap without setting it. If the
/// buckets are not empty, the collection gets its indexes and options while it has another name.
async fn drop_empty_buckets(target: &Target, db: &str, buckets: &str) -> Result<bool> {
    let found = target.run(db, doc! {"find": buckets, "limit": 1, "singleBatch": true}).await;
    let found = found.with_context(|| format!("look into {db}.{buckets}"))?;
    let empty = found.get_document("cursor").and_then(|c| c.get_array("firstBatch")).is_ok_and(Vec::is_empty);
    if empty {
        tracing::warn!("{db}.{buckets} is empty and beside a collection, the remains of a failed creation: dropped");
        // The form of an oplog entry drops the buckets. The ordinary command would drop the collection that has the
        // name of the series.
        let drop = command_document(db, &Key::name(db, buckets), &rawdoc! {"drop": buckets});
        target.apply_all(Mode::InitialSync, &[&drop]).await.with_context(|| format!("drop {db}.{buckets}"))?;
    }
    Ok(empty)
}

/// Builds a collection's indexes and returns their number.
async fn build_indexes(
    target: &Target,
    db: &str,
    coll: &str,
    collection: &Collection,
    quorum: &CommitQuorum,
) -> Result<usize> {
    let mut by_collection: BTreeMap<&str, Vec<Document>> = BTreeMap::new();
    let measurements = coll.strip_prefix(BUCKETS);
    let outdated = collection.outdated_indexes();
    if !outdated.is_empty() {
        target.drop_indexes(db, coll, &outdated).await?;
    }
    let mut count = 0;
    for index in collection.missing_indexes() {
        count += 1;
        let (level, spec) = specification(index, collection.has_collation);
        let on = match (level, measurements) {
            (Level::Documents, Some(name)) => name,
            _ => coll,
        };
        by_collection.entry(on).or_default().push(spec);
    }
    for (on, specs) in by_collection {
        let names: Vec<_> = specs.iter().filter_map(|spec| spec.get_str("name").ok()).collect();
        tracing::info!(ns = format!("{db}.{on}"), indexes = ?names, "building indexes");
        let failed = format!("build the indexes {names:?} of {db}.{on}");
        let mut command = doc! {
            "createIndexes": on,
            "indexes": specs.clone(),
            "ignoreUnknownIndexOptions": true,
            "commitQuorum": quorum.to_bson(),
            "writeConcern": {"w": "majority"},
        };
        let mut result = target.run_with_retries(db, command.clone()).await;
        if result.as_ref().is_err_and(|error| code::code(error) == Some(code::UNSATISFIABLE_COMMIT_QUORUM)) {
            tracing::warn!(
                ?quorum,
                "the replica set has not enough members that build indexes for this commit quorum: the majority is enough"
            );
            command.insert("commitQuorum", "majority");
            result = target.run_with_retries(db, command).await;
        }
        result.with_context(|| failed)?;
    }
    Ok(count)
}

/// The specification to send for an index, and whether it is for the time series or for its bucket collection.
fn specification(index: &Index, default_collation: bool) -> (Level, Document) {
    let mut spec = index.spec.clone();
    let mut level = index.level;
    if let Some(Bson::Document(original)) = spec.remove("originalSpec") {
        // The server needs the specification for the time series, because the one for the buckets is incomplete
        // (partial, 2dsphere).
        let changed: Vec<_> = ["hidden", "expireAfterSeconds", "prepareUnique"]
            .into_iter()
            .map(|name| (name, spec.remove(name)))
            .collect();
        spec = original;
        for (name, value) in changed {
            match value {
                Some(value) => drop(spec.insert(name, value)),
                // The stored specification has `false`, which is also the default, so nothing changed.
                None if spec.get(name) == Some(&Bson::Boolean(false)) => {}
                None => drop(spec.remove(name)),
            }
        }
        level = Level::Documents;
    }
    if default_collation && !spec.contains_key("collation") {
        spec.insert("collation", doc! {"locale": "simple"});
    }
    (level, spec)
}

/// The names of the collections that exist on the target at the end.
struct ExistingNames {
    by_uuid: HashMap<Key, (String, String)>,
    by_name: HashMap<Key, (String, String)>,
}

impl ExistingNames {
    async fn read(target: &Target, collections: impl Iterator<Item = &Collection>) -> Result<Self> {
        let dbs: BTreeSet<String> =
            collections.map(|collection| collection.ns.split_once('.').map_or("", |(db, _)| db).to_owned()).collect();
        let (mut by_uuid, mut by_name) = (HashMap::new(), HashMap::new());
        for db in dbs {
            for (name, occupant) in target.list(&db, doc! {}).await? {
                if let Occupant::Collection(uuid) = occupant {
                    by_name.insert(Key::name(&db, &name), (db.clone(), name.clone()));
                    by_uuid.insert(Key::uuid(uuid), (db.clone(), name));
                }
            }
        }
        Ok(Self { by_uuid, by_name })
    }

    fn find(&self, key: &Key) -> Option<(&str, &str)> {
        let found = match key {
            Key::Uuid(_) => self.by_uuid.get(key),
            Key::Name(_) => self.by_name.get(key),
        };
        found.map(|(db, coll)| (db.as_str(), coll.as_str()))
    }
}
