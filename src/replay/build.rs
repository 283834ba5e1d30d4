//! The end of a restore: caps, indexes and waiting options of the catalogue become real (docs/format.md E.8).
//!
//! Differences to the original, on purpose: `v`, `hidden` and `prepareUnique` of an index are kept; an index follows its
//! collection through renames; a collection that does not exist any more is never made again by building its indexes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bson::{Bson, Document, Uuid, doc, rawdoc};
use mongodb::Client;

use crate::mongo::{code, majority};
use crate::replay::apply::command_document;
use crate::replay::capped;
use crate::replay::owed::{Catalog, Collection, Index, Key, Level};
use crate::replay::target::{Mode, Occupant, Target};

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

    /// A whole number means that many members, anything else is a name; nothing is the default.
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

    /// Replaces an unchosen quorum by the majority if a voting member is down or builds no indexes: the server would wait for
    /// that member forever.
    async fn settled(&self, client: &Client) -> Self {
        match (self, majority::who_builds_no_indexes(client).await) {
            (Self::Unchosen, Some(who)) => {
                tracing::warn!("indexes are committed when the majority has them: {who}");
                Self::Named("majority".to_owned())
            }
            _ => self.clone(),
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Built {
    /// Collections that got indexes.
    pub collections: usize,
    pub indexes: usize,
}

impl Catalog {
    /// Carries the catalogue out on the primary behind `client`: collection after collection its cap, all its indexes in
    /// one command, its waiting options. Can be repeated after an error. Dropping the future stops between two
    /// commands (an index build that was begun goes on in the server).
    pub async fn build(&self, client: &Client, quorum: &CommitQuorum) -> Result<Built> {
        let target = Target::new(client.clone());
        let quorum = &quorum.settled(client).await;
        let there = Names::read(&target, self.iter().map(|(_, collection)| collection)).await?;
        let mut built = Built::default();
        let how = (quorum, self.can_move_caps());
        let mut dropped = HashSet::new();
        for (key, collection) in self.iter() {
            let Some((db, coll)) = there.find(key).filter(|found| !dropped.contains(found)) else {
                tracing::debug!(ns = collection.ns, "not there any more, no indexes to build");
                continue;
            };
            let waiting = &collection.waiting;
            let changes = waiting.cap.is_some() || !waiting.options.is_empty() || collection.missing().next().is_some();
            let buckets = format!("system.buckets.{coll}");
            let remains = there.find(&Key::name(db, &buckets)).filter(|found| changes && !dropped.contains(found));
            let beside = match remains {
                Some(found) if drop_remains(&target, db, &buckets).await? => {
                    dropped.insert(found);
                    false
                }
                found => found.is_some(),
            };
            let count = if beside {
                let aside = format!("tmp{}.pbm", &Uuid::new().to_string()[..8]);
                rename(&target, db, key, coll, &aside).await?;
                let done = finish(&target, db, &aside, (key, collection), how).await;
                // Back whatever happened; why it failed says more than why it could not be named back.
                let back = rename(&target, db, key, &aside, coll).await;
                let count = done?;
                back?;
                count
            } else {
                finish(&target, db, coll, (key, collection), how).await?
            };
            built.indexes += count;
            built.collections += usize::from(count > 0);
        }
        Ok(built)
    }
}

/// Carries out what waits for one collection, which is named `coll` at this moment. Returns how many indexes it got.
async fn finish(
    target: &Target,
    db: &str,
    coll: &str,
    (key, collection): (&Key, &Collection),
    (quorum, movable_caps): (&CommitQuorum, bool),
) -> Result<usize> {
    let (waiting, ns) = (&collection.waiting, &collection.ns);
    if let Some(cap) = waiting.cap {
        capped::settle(target, db, coll, key, cap, movable_caps).await.with_context(|| format!("cap {ns}"))?;
    }
    let count = build_indexes(target, db, coll, collection, quorum).await?;
    if !waiting.options.is_empty() {
        let mut command = doc! {"collMod": coll};
        command.extend(waiting.options.clone());
        run(target, db, command).await.with_context(|| format!("set the options of {ns}"))?;
    }
    Ok(count)
}

/// Renames a collection as an entry of the oplog does: of this UUID, whatever buckets lie beside its names.
async fn rename(target: &Target, db: &str, key: &Key, from: &str, to: &str) -> Result<()> {
    let command = rawdoc! {"renameCollection": format!("{db}.{from}"), "to": format!("{db}.{to}"), "stayTemp": false};
    let (applied, _) = target.apply_ops(Mode::InitialSync, &[&command_document(db, key, &command)]).await?;
    match applied.stopped {
        Some(stop) => bail!("rename {db}.{from} to {to} for a while: error {}: {}", stop.code, stop.message),
        None => Ok(()),
    }
}

/// A server keeps the buckets of a series whose creation failed because a collection had its name. They belong to nothing, but
/// the server takes that collection for a series then: it refuses its indexes and options or gives them to the buckets, and
/// 6.0 answers `ok` to a new cap and does nothing. Empty ones are dropped; beside others the collection gets what
/// waits for it under another name. Returns whether they are gone.
async fn drop_remains(target: &Target, db: &str, buckets: &str) -> Result<bool> {
    let found = target.run(db, doc! {"find": buckets, "limit": 1, "singleBatch": true}).await;
    let found = found.with_context(|| format!("look into {db}.{buckets}"))?;
    let empty = found.get_document("cursor").and_then(|c| c.get_array("firstBatch")).is_ok_and(Vec::is_empty);
    if empty {
        tracing::warn!("{db}.{buckets} is empty and beside a collection, the remains of a failed creation: dropped");
        // As an entry of the oplog: the command would drop the collection that has the series' name.
        let drop = command_document(db, &Key::name(db, buckets), &rawdoc! {"drop": buckets});
        let (applied, _) = target.apply_ops(Mode::InitialSync, &[&drop]).await?;
        if let Some(stop) = applied.stopped {
            bail!("drop {db}.{buckets}: error {}: {}", stop.code, stop.message);
        }
    }
    Ok(empty)
}

/// Builds a collection's indexes, returns how many.
async fn build_indexes(
    target: &Target,
    db: &str,
    coll: &str,
    collection: &Collection,
    quorum: &CommitQuorum,
) -> Result<usize> {
    let mut by_collection: BTreeMap<&str, Vec<Document>> = BTreeMap::new();
    let measurements = coll.strip_prefix("system.buckets.");
    let outdated = collection.outdated();
    if !outdated.is_empty() {
        drop_indexes(target, db, coll, &outdated).await?;
    }
    let mut count = 0;
    for index in collection.missing() {
        count += 1;
        let (level, spec) = specification(index, collection.collation);
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
        let mut result = run(target, db, command.clone()).await;
        if result.as_ref().is_err_and(|error| code::code(error) == Some(code::UNSATISFIABLE_COMMIT_QUORUM)) {
            tracing::warn!(
                ?quorum,
                "the replica set has not enough members that build indexes for this commit quorum: the majority is enough"
            );
            command.insert("commitQuorum", "majority");
            result = run(target, db, command).await;
        }
        result.with_context(|| failed)?;
    }
    Ok(count)
}

/// Drops indexes by name; what is not there is fine.
pub(super) async fn drop_indexes<T: AsRef<str>>(target: &Target, db: &str, coll: &str, names: &[T]) -> Result<()> {
    for name in names.iter().map(AsRef::as_ref) {
        let command = doc! {"dropIndexes": coll, "index": name, "writeConcern": {"w": "majority"}};
        match run(target, db, command).await {
            Err(error) if matches!(code::code(&error), Some(code::INDEX_NOT_FOUND | code::NAMESPACE_NOT_FOUND)) => {}
            result => result.map(drop).with_context(|| format!("drop the index '{name}' of {db}.{coll}"))?,
        }
    }
    Ok(())
}

/// What to send for an index, and for which of a time series' two collections.
fn specification(index: &Index, default_collation: bool) -> (Level, Document) {
    let mut spec = index.spec.clone();
    let mut level = index.level;
    if let Some(Bson::Document(original)) = spec.remove("originalSpec") {
        // The server wants the user's form where the buckets' form does not say all (partial, 2dsphere).
        let changed: Vec<_> = ["hidden", "expireAfterSeconds", "prepareUnique"]
            .into_iter()
            .map(|name| (name, spec.remove(name)))
            .collect();
        spec = original;
        for (name, value) in changed {
            match value {
                Some(value) => drop(spec.insert(name, value)),
                // Written out by whoever made the index, and true.
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

/// Runs a command that can be repeated, with some attempts.
pub(super) async fn run(target: &Target, db: &str, command: Document) -> Result<Document, mongodb::error::Error> {
    let mut delay = Duration::from_millis(200);
    for _ in 0..5 {
        match target.run(db, command.clone()).await {
            Err(error) if code::is_transient(&error) => tracing::warn!("interrupted, trying again: {error}"),
            result => return result,
        }
        tokio::time::sleep(delay).await;
        delay *= 2;
    }
    target.run(db, command).await
}

/// The collections that exist now.
struct Names {
    by_uuid: HashMap<Key, (String, String)>,
    by_name: HashMap<Key, (String, String)>,
}

impl Names {
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

/// The UUID of a collection by name; an error if it is not there.
pub(super) async fn uuid_of(target: &Target, db: &str, coll: &str) -> Result<Uuid> {
    match target.lookup(db, coll).await? {
        Some(Occupant::Collection(uuid)) => Ok(uuid),
        other => bail!("{db}.{coll} should be a collection but is {other:?}"),
    }
}
