//! Makes a plan from a backup's metadata, the objects on the storage and the present target, or returns all reasons why
//! that is impossible. Nothing on the target has been changed at this time.

mod chosen;
mod compatibility;
mod drops;
pub mod members;
pub mod moment;
pub mod namespaces;
mod oplog;
pub mod slices;
mod target;

pub use compatibility::{loadable, restorable};
pub use target::{Target, TargetNamespace};

use self::{
    namespaces::{Fate, Wish, aside_name, fate},
    slices::OplogObject,
};
use crate::{
    archive::meta::{NamespaceKind, NamespaceMeta},
    layout::ReplsetLayout,
    model::{
        backup::{BackupMeta, BackupReplset},
        chunk::Chunk,
        compression::Compression,
        names::{BUCKETS, series_name},
    },
    replay::{
        followed_names::Followed,
        options::{fit, lacks_for_index},
    },
    routing::tables::RoutingSource,
    snapshot::{stored::StoredDocuments, unpack::Packed},
    storage::ObjectInfo,
};
use bson::{Timestamp, Uuid};
use chosen::parked;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// One namespace that is restored.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The namespace as in the backup, but only with options that the target knows and with a UUID that it accepts.
    pub meta: NamespaceMeta,
    /// `None` for views and for collections without documents.
    pub data: Option<StoredDocuments>,
}

impl Planned {
    /// Returns the collection into which the documents are inserted. For a time series it is the bucket collection.
    #[must_use]
    pub fn data_collection(&self) -> String {
        match self.meta.kind {
            NamespaceKind::Timeseries => format!("{BUCKETS}{}", self.meta.coll),
            NamespaceKind::Collection | NamespaceKind::View => self.meta.coll.clone(),
        }
    }
}

/// A namespace that is dropped from the target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drop {
    pub db: String,
    pub coll: String,
}

/// The sources of users and roles. `None` keeps those of the target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsersSource {
    pub users: Option<StoredDocuments>,
    pub roles: Option<StoredDocuments>,
}

/// The plan for one replica set.
#[derive(Debug, Clone, PartialEq)]
pub struct RestorePlan {
    pub backup: String,
    /// The replica set's name in the backup.
    pub rs: String,
    /// The namespaces that are dropped first, sorted.
    pub drops: Vec<Drop>,
    /// The collections and time series that are created and loaded, sorted by database and name.
    pub collections: Vec<Planned>,
    /// The views, which are created after all collections, sorted.
    pub views: Vec<Planned>,
    /// Buckets without a series. They are created and loaded last, because while they exist, the server would insert
    /// documents for the collection of that name into them.
    pub remains: Vec<Planned>,
    /// The oplog objects, in the order of the replay.
    pub oplog: Vec<OplogObject>,
    /// Oplog entries after this time are not applied.
    pub end: Timestamp,
    /// The time of the newest write that the dump can contain.
    pub consistent_from: Timestamp,
    pub users: UsersSource,
    /// The routing tables, for a config server.
    pub routing: RoutingSource,
    /// The settings of a cluster. The outer `None` means that the target keeps its settings, and the inner `None` that
    /// the backup's settings collection is empty.
    pub settings: Option<Option<StoredDocuments>>,
    /// Remarks for the operator. They do not stop the restore.
    pub warnings: Vec<String>,
}

impl RestorePlan {
    /// Returns the uncompressed bytes of all collections, including the routing tables and the settings of a cluster.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let routing = &self.routing;
        let tables = [&routing.databases, &routing.collections, &routing.chunks, &routing.tags];
        let aside = tables.into_iter().flatten().chain(self.settings.iter().flatten());
        self.data().chain(aside).map(|data| data.size).sum()
    }

    /// Returns the stored documents of all collections.
    pub fn data(&self) -> impl Iterator<Item = &StoredDocuments> {
        self.collections.iter().chain(&self.remains).filter_map(|planned| planned.data.as_ref())
    }
}

/// A moment to restore to, after the end of the backup.
#[derive(Debug, Clone, PartialEq)]
pub struct PointInTime {
    /// The time of the last entry that is applied.
    pub target: Timestamp,
    /// All chunks of the replica set, which are listed under its name in the backup.
    pub chunks: Vec<Chunk>,
}

/// Why a backup cannot be restored here; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("backup '{backup}' cannot be restored, nothing was changed: {}", reasons.join("; "))]
pub struct Refusal {
    pub backup: String,
    pub reasons: Vec<String>,
}

/// The facts from which [`plan`] decides.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub backup: &'a BackupMeta,
    /// The replica set's name in the backup.
    pub rs: &'a str,
    /// The content of the part's `metadata.json`.
    pub namespaces: &'a [NamespaceMeta],
    /// The part's list of buckets that belong to no series.
    pub remains: &'a [NamespaceMeta],
    /// All objects below `<backup>/<rs>/` on the storage. A backup made before 2.0 has no such
    /// folder: then these are its archive and its oplog objects.
    pub objects: &'a [ObjectInfo],
    /// For a backup made before 2.0: the archive that contains all documents. Users and routing tables have been set
    /// aside.
    pub archive: Option<&'a Packed>,
    pub target: &'a Target,
    pub wish: &'a Wish,
    /// The names that the oplog creates, renames or drops; `None` until the oplog has been read.
    pub followed: Option<&'a Followed>,
    /// The moment to restore to. `None` means the moment at which the backup ends.
    pub point: Option<&'a PointInTime>,
    /// Whether the target is one of several replica sets.
    pub sharded: bool,
}

/// Plans the restore, or returns all reasons against it.
pub fn plan(facts: &Facts<'_>) -> Result<RestorePlan, Refusal> {
    let part = loadable(facts.backup, facts.rs)?;
    let mut draft = Draft::new(facts);
    draft.compare_versions();
    draft.take_namespaces();
    draft.compare_buckets();
    draft.settle_uuids();
    draft.plan_drops();
    draft.check_database_names();
    draft.take_oplog(part);
    draft.lengthen(part);
    draft.check_users();
    draft.check_selection();
    draft.into_plan(part)
}

/// An unfinished plan.
struct Draft<'a> {
    facts: &'a Facts<'a>,
    layout: ReplsetLayout,
    sizes: HashMap<&'a str, u64>,
    taken: BTreeMap<(String, String), Planned>,
    remains: Vec<Planned>,
    drops: BTreeSet<Drop>,
    oplog: Vec<OplogObject>,
    users: UsersSource,
    routing: RoutingSource,
    settings: Option<Option<StoredDocuments>>,
    warnings: Vec<String>,
    reasons: Vec<String>,
}

impl<'a> Draft<'a> {
    fn new(facts: &'a Facts<'a>) -> Self {
        Self {
            facts,
            layout: ReplsetLayout::new(&facts.backup.name, facts.rs, facts.backup.compression),
            sizes: facts.objects.iter().map(|object| (object.name.as_str(), object.size)).collect(),
            taken: BTreeMap::new(),
            remains: Vec::new(),
            drops: BTreeSet::new(),
            oplog: Vec::new(),
            users: UsersSource::default(),
            routing: RoutingSource::default(),
            settings: None,
            warnings: Vec::new(),
            reasons: Vec::new(),
        }
    }

    fn take_namespaces(&mut self) {
        for meta in self.facts.namespaces {
            let data = self.find_data(meta, meta.object_in(&self.layout));
            let meta = &self.facts.wish.renamed(meta);
            match fate(&meta.db, &meta.coll, self.facts.wish) {
                Fate::Leave(_) if self.is_followed(meta) => {
                    self.take(&parked(meta), data);
                }
                Fate::Leave(_) => {}
                Fate::Users => self.users.users = data,
                Fate::Roles => self.users.roles = data,
                Fate::Routing => {
                    if let Some(table) = self.routing.table(&meta.coll) {
                        *table = data;
                    }
                }
                // An empty settings collection in the backup also replaces the target's settings.
                Fate::Settings => self.settings = Some(data),
                Fate::Restore => self.take(meta, data),
            }
        }
        // The oplog creates the settings collection, so the collection did not exist when the backup was made.
        let settings = ("config".to_owned(), "settings".to_owned());
        if self.facts.followed.is_some_and(|followed| followed.named.contains(&settings)) {
            self.settings.get_or_insert(None);
        }
        for meta in self.facts.remains {
            let data = self.find_data(meta, meta.remains_in(&self.layout));
            let meta = &self.facts.wish.renamed(meta);
            // They are restored if the namespace with the name of their series is.
            let name = series_name(&meta.coll);
            if fate(&meta.db, name, self.facts.wish) == Fate::Restore {
                // The server has set the options of these buckets, and users do not set such options.
                self.remains.push(Planned { meta: meta.clone(), data });
            }
        }
    }

    fn take(&mut self, meta: &NamespaceMeta, data: Option<StoredDocuments>) {
        let ns = format!("{}.{}", meta.db, meta.coll);
        let fitted = fit(&meta.db, meta.kind, &meta.options, self.facts.target.able());
        self.reasons.extend(fitted.problems.into_iter().map(|problem| format!("'{ns}': {problem}")));
        self.warnings.extend(fitted.notes.into_iter().map(|note| format!("'{ns}': {note}")));
        let indexes = meta.indexes.iter().flatten();
        let unfit = indexes.filter_map(|spec| lacks_for_index(spec, self.facts.target.able()));
        self.reasons.extend(unfit.map(|problem| format!("'{ns}': {problem}")));
        let meta = NamespaceMeta { options: fitted.options, ..meta.clone() };
        if self.taken.insert((meta.db.clone(), meta.coll.clone()), Planned { meta, data }).is_some() {
            self.reasons.push(format!("its metadata lists '{ns}' twice"));
        }
    }

    /// Returns the object of a namespace after checking its existence and size. The check also covers namespaces that
    /// are not restored, because a backup with a missing object can't be trusted.
    fn find_data(&mut self, meta: &NamespaceMeta, object: String) -> Option<StoredDocuments> {
        let size = match u64::try_from(meta.size) {
            Ok(0) => return None,
            Ok(size) => size,
            Err(_) => {
                self.reasons.push(format!("its metadata gives '{}.{}' a size of {}", meta.db, meta.coll, meta.size));
                return None;
            }
        };
        if let Some(archive) = self.facts.archive {
            let (object, compression) = match fate(&meta.db, &meta.coll, self.facts.wish) {
                Fate::Users | Fate::Roles | Fate::Routing | Fate::Settings => {
                    (aside_name(&meta.db, &meta.coll), Compression::None)
                }
                Fate::Restore | Fate::Leave(_) => (archive.object.clone(), archive.compression),
            };
            return Some(StoredDocuments { object, compression, size, crc: meta.crc });
        }
        match self.sizes.get(object.as_str()) {
            None => self.reasons.push(format!("object '{object}' does not exist")),
            Some(0) => self.reasons.push(format!("object '{object}' is empty")),
            Some(&stored) if self.layout.compression == Compression::None && stored != size => {
                self.reasons.push(format!("object '{object}' has {stored} bytes in place of {size}"));
            }
            Some(_) => {}
        }
        Some(StoredDocuments { object, compression: self.layout.compression, size, crc: meta.crc })
    }

    /// Removes UUIDs that the server would refuse, and UUIDs that occur twice. The server then chooses new ones.
    fn settle_uuids(&mut self) {
        let mut seen = BTreeMap::new();
        for planned in self.taken.values_mut().chain(&mut self.remains) {
            let ns = format!("{}.{}", planned.meta.db, planned.meta.coll);
            let Some(uuid) = planned.meta.uuid else { continue };
            let complaint = if !is_random_uuid(uuid) {
                Some("which is not a random (version 4) UUID".to_owned())
            } else {
                seen.insert(uuid.bytes(), ns.clone()).map(|other| format!("which '{other}' has too"))
            };
            if let Some(complaint) = complaint {
                self.warnings.push(format!("'{ns}' gets a new UUID in place of {uuid}, {complaint}"));
                planned.meta.uuid = None;
            }
        }
    }

    fn check_users(&mut self) {
        if !self.facts.wish.users {
            return;
        }
        let backup = self.facts.backup;
        if !backup.nss.is_empty() && !backup.sel_users_and_roles {
            self.reasons
                .push("it was made without users and roles; restore it without --with-users-and-roles".to_owned());
            return;
        }
        for (what, source) in [("users", &self.users.users), ("roles", &self.users.roles)] {
            if source.is_none() {
                self.warnings.push(format!("the backup holds no {what}: those of the target stay"));
            }
        }
    }

    fn into_plan(self, part: &BackupReplset) -> Result<RestorePlan, Refusal> {
        let backup = self.facts.backup.name.clone();
        if !self.reasons.is_empty() {
            return Err(Refusal { backup, reasons: self.reasons });
        }
        let last = self.facts.backup.last_write_ts;
        let (end, consistent_from) = match self.facts.point {
            Some(point) => (point.target, last.max(part.last_write_ts)),
            // The last slice was taken after the dump, so the dump contains nothing newer than its end.
            None => (last, last),
        };
        let (views, collections) =
            self.taken.into_values().partition(|planned| planned.meta.kind == NamespaceKind::View);
        Ok(RestorePlan {
            backup,
            rs: self.facts.rs.to_owned(),
            drops: self.drops.into_iter().collect(),
            collections,
            views,
            remains: self.remains,
            oplog: self.oplog,
            end,
            consistent_from,
            users: self.users,
            routing: self.routing,
            settings: self.settings,
            warnings: self.warnings,
        })
    }
}

/// Whether the UUID is random in the sense of RFC 4122, version 4. `create` accepts no other.
fn is_random_uuid(uuid: Uuid) -> bool {
    let bytes = uuid.bytes();
    bytes[6] >> 4 == 4 && bytes[8] >> 6 == 0b10
}

#[cfg(test)]
mod tests;
