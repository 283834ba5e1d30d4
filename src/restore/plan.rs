//! Makes a plan from a backup's metadata, the objects on the storage and the present target, or returns all reasons why
//! that is impossible. Nothing on the target has been changed at this time.

mod chosen;
pub mod members;
pub mod moment;
pub mod namespaces;
pub mod options;
pub mod slices;
pub mod version;

use self::{
    namespaces::{Fate, Wish, fate, is_droppable},
    options::fit,
    slices::{Ends, OplogObject, chain, cover, moment as time},
    version::Version,
};
use super::{
    legacy_archive::aside_name,
    router::{self, RoutingSource},
};
use crate::{
    archive::meta::{NamespaceKind, NamespaceMeta},
    layout::{self, BUCKETS, Generation, ReplsetLayout},
    model::{
        backup::{BackupMeta, BackupReplset, BackupType},
        chunk::Chunk,
        compression::Compression,
        names::PBM_VERSION,
        status::Status,
    },
    replay::{followed_names::Followed, temporary_names},
    snapshot::{stored::StoredDocuments, unpack::Packed},
    storage::ObjectInfo,
};
use bson::{Timestamp, Uuid};
use chosen::parked;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

/// The state of the restored replica set before anything is changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub server: Version,
    /// The `featureCompatibilityVersion`, or an empty text if it is unknown.
    pub fcv: String,
    pub namespaces: Vec<TargetNamespace>,
}

impl Target {
    /// Returns the version whose features collections may use. A server at an older feature compatibility version
    /// refuses newer features.
    #[must_use]
    pub fn able_to(&self) -> Version {
        Version::parse(&self.fcv).filter(|fcv| fcv.series() < self.server.series()).unwrap_or(self.server)
    }
}

/// A collection, view or time series that exists on the target. Bucket collections are included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetNamespace {
    pub db: String,
    pub coll: String,
    pub uuid: Option<Uuid>,
}

impl fmt::Display for TargetNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.db, self.coll)
    }
}

impl TargetNamespace {
    /// Whether this is a users' namespace, or the bucket collection of a users' time series.
    #[must_use]
    pub fn is_droppable(&self) -> bool {
        is_droppable(&self.db, self.coll.strip_prefix(BUCKETS).unwrap_or(&self.coll))
    }
}

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

/// Since this version chunks contain the UUID of their collection, and collections and databases have timestamps.
const NEW_ROUTING: u32 = 5;

/// Why a backup can't be restored here. Nothing was changed.
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
    /// All objects below `<backup>/<rs>/` on the storage. For a backup made before 2.0, the archive and the oplog.
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

/// Returns the replica set's part of the backup if this program can restore it: the backup must be finished, logical
/// and of a known layout.
///
/// Call this before `metadata.json` is read, because other layouts have no such file.
pub fn restorable<'a>(backup: &'a BackupMeta, rs: &str) -> Result<&'a BackupReplset, Refusal> {
    let mut reasons = Vec::new();
    if backup.kind != BackupType::Logical {
        reasons.push(format!("it is a {} backup, not a logical one", backup.kind));
    }
    if let layout::Origin::Unknown = layout::origin(&backup.pbm_version) {
        reasons.push(format!(
            "version {} made it, and this program knows the files of versions up to {PBM_VERSION}; use one of that generation",
            backup.pbm_version
        ));
    }
    if backup.status != Status::Done {
        let error = backup.error.as_deref().filter(|error| !error.is_empty());
        reasons.push(format!(
            "its status is '{}'{}",
            backup.status,
            error.map(|error| format!(" ({error})")).unwrap_or_default()
        ));
    }
    let found = backup.replsets.iter().find(|part| part.name == rs);
    match found {
        None => {
            let names: Vec<_> = backup.replsets.iter().map(|part| part.name.as_str()).collect();
            reasons.push(format!("it has no replica set '{rs}' (it has: {})", names.join(", ")));
        }
        Some(part) if part.status != Status::Done => {
            reasons.push(format!("the status of its replica set '{rs}' is '{}'", part.status));
        }
        Some(_) => {}
    }
    match found {
        Some(part) if reasons.is_empty() => Ok(part),
        _ => Err(Refusal { backup: backup.name.clone(), reasons }),
    }
}

/// Finds end times in the backup's metadata that contradict each other. No slice of a replica set may begin after the
/// end of its own part, and the end of the backup must be that of the part that ended first. Otherwise a restore would
/// not give a consistent state.
fn contradiction(backup: &BackupMeta, part: &BackupReplset, slices: &[OplogObject]) -> Option<String> {
    let ends: Vec<Timestamp> = backup.replsets.iter().map(|part| part.last_write_ts).collect();
    let earliest = ends.iter().copied().min().filter(|earliest| earliest.time > 0);
    if let Some(earliest) = earliest.filter(|earliest| *earliest != backup.last_write_ts) {
        let says = time(backup.last_write_ts);
        return Some(format!(
            "its metadata contradicts itself: it ends at {says}, but the first of its replica sets at {}",
            time(earliest)
        ));
    }
    let reached = slices.iter().map(|slice| slice.from).max()?;
    (part.last_write_ts.time > 0 && reached > part.last_write_ts).then(|| {
        format!(
            "its metadata contradicts its files: replica set '{}' ends at {}, but its oplog goes on from {}",
            part.name,
            time(part.last_write_ts),
            time(reached)
        )
    })
}

/// Plans the restore, or returns all reasons against it.
pub fn plan(facts: &Facts<'_>) -> Result<RestorePlan, Refusal> {
    let part = restorable(facts.backup, facts.rs)?;
    let mut draft = Draft::new(facts);
    draft.compare_versions();
    draft.take_namespaces();
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

    fn compare_versions(&mut self) {
        let (backup, target) = (self.facts.backup, self.facts.target);
        if !backup.fcv.is_empty() && !target.fcv.is_empty() && backup.fcv != target.fcv {
            self.warnings.push(format!(
                "the backup was made at feature compatibility version {}, the target is at {}",
                backup.fcv, target.fcv
            ));
        }
        if let layout::Origin::Newer = layout::origin(&backup.pbm_version) {
            self.warnings.push(format!(
                "version {} made the backup, and this program is like {PBM_VERSION}: it knows nothing that is new in it",
                backup.pbm_version
            ));
        }
        if let Some(source) = Version::parse(&backup.mongodb_version)
            && source.series() > target.server.series()
        {
            self.warnings.push(format!("the backup was made on server {source}, the target is {}", target.server));
        }
        if self.facts.sharded {
            self.compare_routing();
        }
    }

    /// Checks that the versions of the backup and the server fit, because the routing tables are restored unchanged and
    /// a server reads only the format of its own version.
    fn compare_routing(&mut self) {
        let (backup, target) = (self.facts.backup, self.facts.target);
        let source = Version::parse(&backup.fcv).or_else(|| Version::parse(&backup.mongodb_version));
        let Some(source) = source else { return };
        let here = target.able_to();
        let (made, at) = (format!("{}.{}", source.major, source.minor), format!("{}.{}", here.major, here.minor));
        if source.major < NEW_ROUTING && here.major >= NEW_ROUTING {
            self.reasons.push(format!(
                "it is of a sharded cluster at feature compatibility version {made}, and servers at {at} can't read the routing \
                 tables of that; restore it to a cluster at {made} and upgrade that one, or load each shard's data with \
                 `pbm export --replset` and mongorestore"
            ));
        } else if source.series() > here.series() {
            self.reasons.push(format!(
                "it is of a sharded cluster at feature compatibility version {made}, and the target is at {at}, which can't \
                 read newer routing tables; upgrade the target first"
            ));
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
            // Buckets without a series are restored if the namespace with the name of their series is.
            let name = meta.coll.strip_prefix(BUCKETS).unwrap_or(&meta.coll);
            if fate(&meta.db, name, self.facts.wish) == Fate::Restore {
                // The server has set the options of these buckets, and users do not set such options.
                self.remains.push(Planned { meta: meta.clone(), data });
            }
        }
    }

    fn take(&mut self, meta: &NamespaceMeta, data: Option<StoredDocuments>) {
        let ns = format!("{}.{}", meta.db, meta.coll);
        let fitted = fit(&meta.db, meta.kind, &meta.options, self.facts.target.able_to());
        self.reasons.extend(fitted.problems.into_iter().map(|problem| format!("'{ns}': {problem}")));
        self.warnings.extend(fitted.notes.into_iter().map(|note| format!("'{ns}': {note}")));
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

    /// Plans to drop every namespace of the target whose name is in the backup, or is created, renamed or dropped by
    /// the oplog: the replay begins before that change of names, so the target's namespace is from a later time. If the
    /// target has the UUID of such a collection under another name, the collection was renamed later and is dropped,
    /// too. Otherwise the server would not create the collection under its old name, but rename the existing one, which
    /// has newer documents.
    fn plan_drops(&mut self) {
        let by_uuid: HashMap<_, _> =
            self.taken.values().filter_map(|planned| Some((planned.meta.uuid?.bytes(), &planned.meta))).collect();
        let facts = self.facts;
        let mut extra = Vec::new();
        for there in &facts.target.namespaces {
            let name = there.coll.strip_prefix(BUCKETS).unwrap_or(&there.coll);
            if self.taken.contains_key(&(there.db.clone(), name.to_owned())) {
                self.drops.insert(Drop { db: there.db.clone(), coll: there.coll.clone() });
                continue;
            }
            if self.is_replayed(there) {
                self.drops.insert(Drop { db: there.db.clone(), coll: there.coll.clone() });
                continue;
            }
            let meta = there.uuid.and_then(|uuid| by_uuid.get(&uuid.bytes()));
            let of_backup = meta.map(|meta| (format!("{}.{}", meta.db, meta.coll), "of the backup"));
            let of_oplog = || Some((self.replayed_as(there)?, "of the oplog that is replayed"));
            let Some((old, whose)) = of_backup.or_else(of_oplog) else {
                extra.push(there);
                continue;
            };
            let now = there.to_string();
            if temporary_names::is_temporary(&there.coll) {
                self.drops.insert(Drop { db: there.db.clone(), coll: there.coll.clone() });
            } else if !self.facts.wish.selection.wants(&there.db, &there.coll) {
                self.reasons.push(format!(
                    "'{now}' on the target is '{old}' {whose}, renamed since then, and is not selected: it would be lost; \
                     copy it to another collection and drop it, or select it too"
                ));
            } else if there.is_droppable() {
                self.warnings.push(format!("'{now}' is dropped: it is '{old}' {whose}, renamed since then"));
                self.drops.insert(Drop { db: there.db.clone(), coll: there.coll.clone() });
            } else {
                self.reasons.push(format!("'{now}' on the target has the UUID of '{old}' and cannot be dropped"));
            }
        }
        extra.into_iter().for_each(|there| self.look_at_extra(there));
    }

    /// Refuses databases whose names differ only in case. The server also refuses them, but only when the second one is
    /// created.
    fn check_database_names(&mut self) {
        let there: BTreeSet<_> = self.facts.target.namespaces.iter().map(|ns| ns.db.as_str()).collect();
        let selection = &self.facts.wish.selection;
        let replayed = self.facts.followed.into_iter().flat_map(|followed| &followed.databases);
        let replayed = replayed.map(String::as_str).filter(|db| selection.touches(db) && !router::OWN.contains(db));
        let wanted: BTreeSet<_> = self.taken.keys().map(|(db, _)| db.as_str()).chain(replayed).collect();
        for db in wanted {
            if let Some(other) = there.iter().find(|other| **other != db && other.eq_ignore_ascii_case(db)) {
                self.reasons.push(format!("database '{db}' cannot be beside '{other}', which the target has"));
            }
        }
    }

    fn take_oplog(&mut self, part: &BackupReplset) {
        let (first, last) = (part.first_write_ts, self.facts.backup.last_write_ts);
        if last.time == 0 {
            self.reasons.push("its metadata does not say when it ends (last_write_ts)".to_owned());
        }
        // Before 2.4 a backup's oplog was one object.
        if Generation::of(&self.facts.backup.pbm_version) < Generation::Current {
            // The oplog object of every replica set ends at the last write of the cluster, which another replica set may have
            // made.
            match self.sizes.get(part.oplog_name.as_str()) {
                Some(&size) if size > 0 => self.oplog.push(OplogObject {
                    size,
                    holds: Some(last.min(part.last_write_ts)).filter(|holds| holds.time > 0),
                    ..OplogObject::new(
                        part.oplog_name.clone(),
                        self.layout.compression,
                        (first, last.max(part.last_write_ts)),
                        Ends::Unnamed,
                    )
                }),
                _ => self.reasons.push(format!("oplog '{}' does not exist or is empty", part.oplog_name)),
            }
            return;
        }
        let dir = if part.oplog_name.is_empty() { self.layout.oplog_dir() } else { part.oplog_name.clone() };
        match cover(&dir, self.facts.objects, first, last) {
            Ok(slices) => {
                self.reasons.extend(contradiction(self.facts.backup, part, &slices));
                self.oplog = slices;
            }
            Err(problems) => self.reasons.extend(problems),
        }
    }

    /// Adds the chunks up to the target after the backup's slices. Both are pieces of the same oplog.
    fn lengthen(&mut self, part: &BackupReplset) {
        let Some(point) = self.facts.point else { return };
        if !self.reasons.is_empty() {
            return;
        }
        if let Some(why) = moment::too_early(self.facts.backup, point.target) {
            self.reasons.push(why);
            return;
        }
        let from = match self.oplog.first() {
            Some(_) if part.first_write_ts.time > 0 => part.first_write_ts,
            Some(first) => first.from,
            None => moment::begin(self.facts.backup, part),
        };
        let chunks = point.chunks.iter().map(OplogObject::from);
        match chain(std::mem::take(&mut self.oplog).into_iter().chain(chunks).collect(), from, point.target) {
            Ok(oplog) => self.oplog = oplog,
            Err(gap) => self.reasons.push(gap.explain(self.facts.rs)),
        }
        // The replica set has an entry at its last write, so every object whose range contains that time must hold this entry.
        let known = part.last_write_ts;
        let current = Generation::of(&self.facts.backup.pbm_version) == Generation::Current;
        for object in self.oplog.iter_mut().filter(|it| current && it.from <= known && known <= it.to) {
            object.holds.get_or_insert(known);
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
mod tests {
    use super::*;
    use crate::layout::format_ts;
    use crate::model::selection::Selection;
    use bson::{Document, doc};
    use std::collections::HashSet;

    const V4: [u8; 16] = [0x62, 0x91, 0xc5, 0xa7, 0x4b, 5, 0x42, 0xe3, 0xb9, 0x0e, 0x41, 0xc4, 0x44, 0x9c, 0xbe, 0x47];

    fn ts(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    fn meta(db: &str, coll: &str, kind: NamespaceKind, options: Document, size: i64) -> NamespaceMeta {
        NamespaceMeta {
            db: db.to_owned(),
            coll: coll.to_owned(),
            kind,
            options,
            indexes: None,
            uuid: None,
            crc: 7,
            size,
            object: None,
        }
    }

    fn collection(db: &str, coll: &str, size: i64) -> NamespaceMeta {
        meta(db, coll, NamespaceKind::Collection, doc! {}, size)
    }

    fn object(name: &str, size: u64) -> ObjectInfo {
        ObjectInfo { name: format!("b/rs0/{name}"), size }
    }

    fn there(db: &str, coll: &str, uuid: Option<[u8; 16]>) -> TargetNamespace {
        TargetNamespace { db: db.to_owned(), coll: coll.to_owned(), uuid: uuid.map(Uuid::from_bytes) }
    }

    struct World {
        backup: BackupMeta,
        namespaces: Vec<NamespaceMeta>,
        remains: Vec<NamespaceMeta>,
        objects: Vec<ObjectInfo>,
        target: Target,
        archive: Option<Packed>,
        point: Option<PointInTime>,
        wish: Wish,
        followed: Option<Followed>,
        sharded: bool,
    }

    impl World {
        fn new(namespaces: Vec<NamespaceMeta>, mut objects: Vec<ObjectInfo>) -> Self {
            let backup = serde_json::from_value(serde_json::json!({
                "type": "logical", "name": "b", "compression": "s2", "status": "done", "pbm_version": "2.15.0",
                "mongodb_version": "6.0.5", "fcv": "6.0",
                "replsets": [{"name": "rs0", "status": "done"}],
            }));
            let mut backup: BackupMeta = backup.expect("a backup");
            (backup.first_write_ts, backup.last_write_ts) = (ts(10), ts(20));
            backup.replsets[0].first_write_ts = ts(10);
            backup.replsets[0].last_write_ts = ts(20);
            objects.push(object(&format!("oplog/{}.{}.s2", format_ts(ts(10)), format_ts(ts(20))), 5));
            let target = Target { server: Version::new(6, 0, 5), fcv: "6.0".to_owned(), namespaces: Vec::new() };
            Self {
                backup,
                namespaces,
                remains: Vec::new(),
                objects,
                target,
                archive: None,
                point: None,
                wish: Wish::default(),
                followed: None,
                sharded: false,
            }
        }

        fn plan(&self) -> Result<RestorePlan, Refusal> {
            plan(&Facts {
                backup: &self.backup,
                rs: "rs0",
                namespaces: &self.namespaces,
                remains: &self.remains,
                objects: &self.objects,
                target: &self.target,
                archive: self.archive.as_ref(),
                wish: &self.wish,
                followed: self.followed.as_ref(),
                point: self.point.as_ref(),
                sharded: self.sharded,
            })
        }

        fn refused(&self, part: &str) {
            let refusal = self.plan().expect_err(part);
            assert!(refusal.reasons.iter().any(|reason| reason.contains(part)), "{part}: {refusal}");
        }
    }

    fn names(planned: &[Planned]) -> Vec<String> {
        planned.iter().map(|p| format!("{}.{}", p.meta.db, p.meta.coll)).collect()
    }

    #[test]
    fn buckets_of_no_series_have_objects_of_their_own() {
        let plain = meta("shop", "x", NamespaceKind::Collection, doc! {}, 10);
        let buckets = |size| meta("shop", "system.buckets.x", NamespaceKind::Collection, doc! {}, size);
        let mut world = World::new(vec![plain], vec![object("shop.x.s2", 9)]);
        world.remains = vec![buckets(20)];
        world.refused("object 'b/rs0/shop.system.buckets.x.s2' does not exist");
        world.objects.push(object("shop.system.buckets.x.s2", 15));
        world.target.namespaces = vec![there("shop", "system.buckets.x", None)];
        let plan = world.plan().expect("a plan");
        assert_eq!(
            (names(&plan.collections), names(&plan.remains)),
            (vec!["shop.x".into()], vec!["shop.system.buckets.x".into()])
        );
        assert_eq!((plan.bytes(), plan.drops.len()), (30, 1));
        world.remains = vec![buckets(0)];
        assert_eq!(world.plan().expect("a plan").remains[0].data, None);
    }

    #[test]
    fn everything_is_sorted_and_split_by_kind() {
        let buckets = doc! { "timeseries": { "timeField": "t" } };
        let world = World::new(
            vec![
                meta("shop", "v", NamespaceKind::View, doc! { "viewOn": "orders", "pipeline": [] }, 0),
                collection("shop", "orders", 100),
                meta("shop", "ts", NamespaceKind::Timeseries, buckets, 30),
                collection("crm", "notes", 0),
                collection("admin", "pbmLog", 50),
                collection("admin", "pbmRUsers", 60),
            ],
            vec![
                object("shop.orders.s2", 9),
                object("shop.ts.s2", 9),
                object("admin.pbmLog.s2", 9),
                object("admin.pbmRUsers.s2", 9),
            ],
        );
        let plan = world.plan().expect("a plan");
        assert_eq!(names(&plan.collections), ["crm.notes", "shop.orders", "shop.ts"]);
        assert_eq!(names(&plan.views), ["shop.v"]);
        assert_eq!(plan.collections[0].data, None);
        assert_eq!(
            plan.collections[1].data,
            Some(StoredDocuments {
                object: "b/rs0/shop.orders.s2".to_owned(),
                compression: Compression::S2,
                size: 100,
                crc: 7
            })
        );
        assert_eq!(plan.collections[2].data_collection(), "system.buckets.ts");
        assert_eq!((plan.bytes(), plan.end, plan.oplog.len()), (130, ts(20), 1));
        assert_eq!(plan.users.users.as_ref().map(|u| u.object.as_str()), Some("b/rs0/admin.pbmRUsers.s2"));
        assert_eq!(plan.users.roles, None);
        assert_eq!(plan.warnings, ["the backup holds no roles: those of the target stay"]);
    }

    #[test]
    fn objects_are_missed_before_anything_is_dropped() {
        let world = World::new(vec![collection("shop", "orders", 100)], vec![]);
        world.refused("object 'b/rs0/shop.orders.s2' does not exist");
        let world = World::new(vec![collection("shop", "orders", 100)], vec![object("shop.orders.s2", 0)]);
        world.refused("is empty");
        let world = World::new(vec![collection("shop", "orders", -1)], vec![]);
        world.refused("a size of -1");
        let world = World::new(vec![collection("admin", "pbmLog", 100)], vec![]);
        world.refused("admin.pbmLog.s2");

        let mut world = World::new(vec![collection("shop", "orders", 100)], vec![object("shop.orders", 99)]);
        world.backup.compression = Compression::None;
        world.refused("has 99 bytes in place of 100");
        world.objects[0].size = 100;
        world.plan().expect("a plan");

        world.objects.pop();
        world.refused("no oplog slices");
    }

    #[test]
    fn all_reasons_are_given_at_once() {
        let mut world = World::new(vec![collection("shop", "orders", 100), collection("shop", "x", 1)], vec![]);
        world.objects.clear();
        assert_eq!(world.plan().expect_err("refused").reasons.len(), 3);
    }

    #[test]
    fn only_finished_logical_backups_of_a_known_layout() {
        let fresh = || World::new(vec![], vec![]);
        let mut world = fresh();
        world.backup.status = Status::Error;
        world.backup.error = Some("disk full".to_owned());
        world.refused("its status is 'error' (disk full)");
        let mut world = fresh();
        world.backup.kind = BackupType::Physical;
        world.refused("physical");
        let mut world = fresh();
        world.backup.replsets[0].name = "other".to_owned();
        world.refused("no replica set 'rs0' (it has: other)");
        let mut world = fresh();
        world.backup.replsets[0].status = Status::Running;
        world.refused("is 'running'");
        let mut world = fresh();
        world.backup.last_write_ts = Timestamp { time: 0, increment: 0 };
        world.refused("last_write_ts");
        let mut world = fresh();
        world.backup.pbm_version = "99.0.0".to_owned();
        world.refused("version 99.0.0 made it, and this program knows");
        world.backup.pbm_version = "2.99.0".to_owned();
        assert!(world.plan().expect("a plan").warnings.iter().any(|warning| warning.contains("2.99.0")));
    }

    #[test]
    fn ends_that_contradict_each_other_are_refused() {
        let mut world = World::new(vec![], vec![]);
        world.backup.last_write_ts = ts(15);
        world.refused("contradicts itself");
        world.backup.replsets[0].last_write_ts = ts(15);
        world.objects.push(object(&format!("oplog/{}.{}.s2", format_ts(ts(20)), format_ts(ts(30))), 5));
        world.refused("contradicts its files: replica set 'rs0' ends at");
        let mut world = World::new(vec![], vec![]);
        let other = BackupReplset { name: "rs1".to_owned(), last_write_ts: ts(19), ..world.backup.replsets[0].clone() };
        world.backup.replsets.push(other);
        world.refused("contradicts itself");
        world.backup.last_write_ts = ts(19);
        world.plan().expect("the cut is the smallest end");
    }

    #[test]
    fn before_2_4_the_oplog_is_one_object() {
        let mut world = World::new(vec![], vec![object("local.oplog.rs.bson.s2", 4)]);
        world.backup.pbm_version = "2.3.1".to_owned();
        world.backup.replsets[0].oplog_name = "b/rs0/local.oplog.rs.bson.s2".to_owned();
        let plan = world.plan().expect("a plan");
        assert_eq!(plan.oplog.len(), 1);
        assert_eq!((plan.oplog[0].from, plan.oplog[0].to), (ts(10), ts(20)));
        world.objects.clear();
        world.refused("local.oplog.rs.bson.s2");
    }

    #[test]
    fn before_2_0_everything_is_in_one_archive() {
        let whole = |name: &str| ObjectInfo { name: name.to_owned(), size: 9 };
        let mut world =
            World::new(vec![collection("shop", "orders", 100), collection("admin", "pbmRUsers", 60)], vec![]);
        world.backup.pbm_version = "1.6.0".to_owned();
        world.backup.replsets[0].dump_name = "b_rs0.dump.s2".to_owned();
        world.backup.replsets[0].oplog_name = "b_rs0.oplog.s2".to_owned();
        world.backup.replsets[0].last_write_ts = ts(15);
        world.objects = vec![whole("b_rs0.dump.s2"), whole("b_rs0.oplog.s2")];
        world.archive = Some(Packed { object: "b_rs0.dump.s2".to_owned(), compression: Compression::S2 });
        let plan = world.plan().expect("a plan");
        let data = plan.collections[0].data.clone().expect("data");
        assert_eq!((data.object.as_str(), data.size), ("b_rs0.dump.s2", 100));
        let users = plan.users.users.expect("users");
        assert_eq!((users.object.as_str(), users.compression), ("admin.pbmRUsers", Compression::None));
        // Other replica sets of the backup may have ended later than this one, and this one's oplog object ends at that later
        // time, too.
        assert_eq!((plan.oplog[0].from, plan.oplog[0].to, plan.end), (ts(10), ts(20), ts(20)));
        assert_eq!(plan.oplog[0].holds, Some(ts(15)), "the last one of its own");
        // So the chunks of all replica sets begin at that later time.
        world.point = Some(PointInTime { target: ts(30), chunks: vec![chunk(20, 40)] });
        assert_eq!(world.plan().expect("a plan").oplog.len(), 2);
        world.point = None;
        world.objects.pop();
        world.refused("b_rs0.oplog.s2");
    }

    #[test]
    fn uuids_that_cannot_be_kept_are_given_up() {
        let with = |name: &str, uuid: [u8; 16]| NamespaceMeta {
            uuid: Some(Uuid::from_bytes(uuid)),
            ..collection("shop", name, 0)
        };
        let mut v1 = V4;
        v1[6] = 0x12;
        let world = World::new(vec![with("a", V4), with("b", V4), with("c", v1)], vec![]);
        let plan = world.plan().expect("a plan");
        let kept: Vec<_> = plan.collections.iter().map(|c| c.meta.uuid.is_some()).collect();
        assert_eq!(kept, [true, false, false]);
        assert!(plan.warnings.iter().any(|w| w.contains("'shop.b'") && w.contains("'shop.a' has too")));
        assert!(plan.warnings.iter().any(|w| w.contains("'shop.c'") && w.contains("version 4")));
    }

    #[test]
    fn drops_follow_names_and_renamed_collections() {
        let orders = NamespaceMeta { uuid: Some(Uuid::from_bytes(V4)), ..collection("shop", "orders", 0) };
        let series = doc! { "timeseries": { "timeField": "t" } };
        let mut world = World::new(vec![orders, meta("shop", "ts", NamespaceKind::Timeseries, series, 0)], vec![]);
        world.target.namespaces = vec![
            there("shop", "kept", None),
            there("shop", "ts", None),
            there("shop", "system.buckets.ts", None),
            there("shop", "system.buckets.other", None),
            there("shop", "orders", None),
            there("shop", "orders_old", Some(V4)),
            there("admin", "pbmLog", None),
        ];
        let plan = world.plan().expect("a plan");
        let dropped: Vec<_> = plan.drops.iter().map(|d| d.coll.as_str()).collect();
        assert_eq!(dropped, ["orders", "orders_old", "system.buckets.ts", "ts"]);
        assert!(plan.warnings.iter().any(|w| w.contains("'shop.orders_old' is dropped")), "{:?}", plan.warnings);

        world.target.namespaces = vec![there("admin", "pbmLog", Some(V4))];
        world.refused("cannot be dropped");
    }

    #[test]
    fn what_the_target_cannot_have_is_refused() {
        let mut world = World::new(vec![collection("shop", "orders", 0)], vec![]);
        world.target.namespaces = vec![there("Shop", "x", None)];
        world.refused("beside 'Shop'");

        let series = doc! { "timeseries": { "timeField": "t" } };
        let mut world = World::new(vec![meta("shop", "ts", NamespaceKind::Timeseries, series, 0)], vec![]);
        world.target.server = Version::new(4, 4, 2);
        world.refused("needs server 5.0.0");
        let warnings = World { target: Target { fcv: "5.0".to_owned(), ..world.target }, ..World::new(vec![], vec![]) };
        let warnings = warnings.plan().expect("a plan").warnings;
        assert!(warnings.iter().any(|w| w.contains("6.0") && w.contains("5.0")), "{warnings:?}");
        assert!(warnings.iter().any(|w| w.contains("the target is 4.4.2")), "{warnings:?}");

        let world = World::new(vec![collection("shop", "a", 0), collection("shop", "a", 0)], vec![]);
        world.refused("lists 'shop.a' twice");
    }

    #[test]
    fn what_an_older_feature_compatibility_version_lacks_is_refused() {
        let clustered = doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true } };
        let mut world = World::new(vec![meta("shop", "c", NamespaceKind::Collection, clustered, 0)], vec![]);
        world.plan().expect("a plan");
        world.target.fcv = "5.0".to_owned();
        world.refused("option 'clusteredIndex' needs server 5.3.0");
    }

    #[test]
    fn routing_goes_to_servers_that_can_read_it() {
        let mut world = World::new(vec![], vec![]);
        world.sharded = true;
        for (made_on, made_at, server, at, refusal) in [
            ("4.4.2", "4.4", Version::new(4, 4, 2), "4.4", None),
            ("5.0.4", "5.0", Version::new(6, 0, 5), "6.0", None),
            ("5.0.4", "5.0", Version::new(6, 0, 5), "5.0", None),
            ("5.0.4", "4.4", Version::new(5, 0, 4), "4.4", None),
            ("4.4.2", "4.4", Version::new(5, 0, 4), "4.4", None),
            ("4.4.2", "4.4", Version::new(5, 0, 4), "5.0", Some("restore it to a cluster at 4.4")),
            ("4.4.2", "", Version::new(6, 0, 5), "6.0", Some("restore it to a cluster at 4.4")),
            ("5.0.4", "4.4", Version::new(5, 0, 4), "5.0", Some("restore it to a cluster at 4.4")),
            ("6.0.5", "6.0", Version::new(5, 0, 4), "5.0", Some("upgrade the target first")),
            ("6.0.5", "6.0", Version::new(6, 0, 5), "5.0", Some("upgrade the target first")),
        ] {
            (world.backup.mongodb_version, world.backup.fcv) = (made_on.to_owned(), made_at.to_owned());
            world.target = Target { server, fcv: at.to_owned(), namespaces: Vec::new() };
            match refusal {
                None => drop(world.plan().expect(made_on)),
                Some(part) => world.refused(part),
            }
        }
        world.sharded = false;
        world.plan().expect("a replica set has no routing");
    }

    #[test]
    fn a_selective_backup_without_users_swaps_none() {
        let namespaces =
            vec![collection("admin", "pbmRUsers", 5), collection("shop", "a", 0), collection("crm", "b", 0)];
        let mut world = World::new(namespaces, vec![object("admin.pbmRUsers.s2", 5)]);
        world.backup.nss = vec!["shop.*".to_owned()];
        world.wish = Wish::of(Selection::default(), false, &world.backup).expect("a wish");
        let plan = world.plan().expect("a plan");
        assert_eq!((plan.users, names(&plan.collections)), (UsersSource::default(), vec!["shop.a".into()]));
        world.backup.sel_users_and_roles = true;
        world.wish = Wish::of(Selection::default(), false, &world.backup).expect("a wish");
        assert!(world.plan().expect("a plan").users.users.is_some());
        world.wish =
            Wish::of(Selection::parse(&["crm.*"]).expect("a selection"), false, &world.backup).expect("a wish");
        let plan = world.plan().expect("a plan");
        assert_eq!((plan.users.users, names(&plan.collections)), (None, vec!["crm.b".into()]));
    }

    #[test]
    fn a_selection_takes_what_gets_its_names_and_nothing_else() {
        let with_uuid =
            |coll: &str, uuid| NamespaceMeta { uuid: Some(Uuid::from_bytes(uuid)), ..collection("shop", coll, 0) };
        let mut other = V4;
        other[0] = 0x77;
        let mut world = World::new(vec![with_uuid("new", V4), with_uuid("other", other)], vec![]);
        world.wish.selection = Selection::parse(&["shop.orders"]).expect("a selection");
        world.followed = Some(Followed::default());
        world.refused("it holds nothing of shop.orders");
        let creates = BTreeSet::from(["shop.orders".to_owned()]);
        world.followed = Some(Followed { uuids: HashSet::from([V4]), creates: creates.clone(), ..Followed::default() });
        assert_eq!(names(&world.plan().expect("a plan").collections), ["shop.tmp6291c5a7.pbm"]);
        // The oplog creates the collection.
        world.followed = Some(Followed { creates, ..Followed::default() });
        assert!(world.plan().expect("a plan").collections.is_empty());
        // The target has it under a name that is not selected.
        world.namespaces.push(with_uuid("orders", other));
        world.target.namespaces = vec![there("shop", "before", Some(other))];
        world.refused("'shop.before' on the target is 'shop.orders' of the backup");
        // A restore that was killed left this namespace behind.
        world.target.namespaces =
            vec![there("shop", "tmp0a1b2c3d.pbm", Some(other)), there("shop", "tmp99999999.pbm", None)];
        let plan = world.plan().expect("a plan");
        assert_eq!(plan.drops.iter().map(|drop| drop.coll.as_str()).collect::<Vec<_>>(), ["tmp0a1b2c3d.pbm"]);
        assert!(plan.warnings.iter().any(|warning| warning.contains("tmp99999999.pbm")), "{:?}", plan.warnings);
    }

    #[test]
    fn what_the_oplog_speaks_of_is_dropped_too() {
        let mut world = World::new(vec![collection("shop", "orders", 0)], vec![]);
        world.target.namespaces = [("shop", "made"), ("shop", "away"), ("shop", "kept"), ("admin", "system.users")]
            .map(|(db, coll)| there(db, coll, None))
            .into();
        world.target.namespaces.push(there("shop", "system.buckets.made", None));
        let name = |db: &str, coll: &str| (db.to_owned(), coll.to_owned());
        let spoken = [("shop", "made"), ("shop", "system.buckets.made"), ("admin", "system.users")];
        world.followed = Some(Followed {
            named: spoken.iter().map(|(db, coll)| name(db, coll)).collect(),
            renamed: BTreeMap::from([(name("shop", "away"), "shop.before".to_owned())]),
            ..Followed::default()
        });
        let plan = world.plan().expect("a plan");
        let drops: Vec<&str> = plan.drops.iter().map(|drop| drop.coll.as_str()).collect();
        assert_eq!(drops, ["away", "made", "system.buckets.made"]);
        assert!(plan.warnings.iter().any(|it| it.contains("'shop.away' is dropped: it is 'shop.before' of the oplog")));
        world.wish.selection = Selection::parse(&["shop.orders"]).expect("a selection");
        world.refused("'shop.away' on the target is 'shop.before' of the oplog");
        // The collection was renamed from one selected name to another.
        world.wish.selection = Selection::parse(&["shop.*"]).expect("a selection");
        assert_eq!(world.plan().expect("a plan").drops.len(), 3);
        world.wish.selection = Selection::default();
        world.followed = Some(Followed { databases: BTreeSet::from(["Shop".to_owned()]), ..Followed::default() });
        world.refused("database 'Shop' cannot be beside 'shop'");
    }

    #[test]
    fn the_settings_of_a_cluster_are_never_dropped() {
        let mut world = World::new(vec![collection("config", "settings", 0), collection("config", "tags", 0)], vec![]);
        world.wish.config_server = true;
        world.target.namespaces = vec![there("config", "settings", None), there("config", "tags", None)];
        let plan = world.plan().expect("a plan");
        assert_eq!((plan.drops.len(), plan.settings), (0, Some(None)));
        world.namespaces.clear();
        assert_eq!(world.plan().expect("a plan").settings, None);
        let named = BTreeSet::from([("config".to_owned(), "settings".to_owned())]);
        world.followed = Some(Followed { named, ..Followed::default() });
        assert_eq!(world.plan().expect("a plan").settings, Some(None), "the oplog makes it");
    }

    #[test]
    fn what_the_backup_lacks_stays_unless_it_is_to_go() {
        let mut world = World::new(vec![collection("shop", "orders", 0)], vec![]);
        let names =
            [("shop", "extra"), ("crm", "other"), ("admin", "pbmLog"), ("admin", "system.users"), ("config", "x")];
        world.target.namespaces = names.iter().map(|(db, coll)| there(db, coll, None)).collect();
        let dropped = |world: &World| -> Vec<String> {
            world.plan().expect("a plan").drops.iter().map(|drop| format!("{}.{}", drop.db, drop.coll)).collect()
        };
        assert!(dropped(&world).is_empty());
        world.wish.drop_extra = true;
        assert_eq!(dropped(&world), ["crm.other", "shop.extra"]);
        world.wish.selection = Selection::parse(&["shop.*"]).expect("a selection");
        assert_eq!(dropped(&world), ["shop.extra"]);
    }

    fn chunk(from: u32, to: u32) -> Chunk {
        Chunk {
            rs: "rs0".into(),
            fname: format!("pbmPitr/{from}-{to}"),
            compression: Compression::Gzip,
            start_ts: ts(from),
            end_ts: ts(to),
            size: 9,
            stored: None,
        }
    }

    #[test]
    fn chunks_lengthen_the_oplog_of_the_backup() {
        let mut world = World::new(vec![], vec![]);
        let chunks = vec![chunk(40, 50), chunk(30, 40), chunk(20, 30), chunk(22, 25), chunk(1, 9)];
        world.point = Some(PointInTime { target: ts(35), chunks });
        let plan = world.plan().expect("a plan");
        let names: Vec<_> = plan.oplog.iter().skip(1).map(|o| o.name.as_str()).collect();
        assert_eq!(names, ["pbmPitr/20-30", "pbmPitr/30-40"]);
        assert!(plan.oplog[0].name.starts_with("b/rs0/oplog/"));
        assert_eq!((plan.end, plan.consistent_from), (ts(35), ts(20)));
        // A restore to the end of the backup needs no chunk.
        world.point = Some(PointInTime { target: ts(20), chunks: vec![] });
        assert_eq!(world.plan().expect("a plan").oplog.len(), 1);
        // In a cluster, the dump of one shard may be newer than the end of the cluster's backup.
        let earlier = BackupReplset { name: "rs1".to_owned(), ..world.backup.replsets[0].clone() };
        world.backup.replsets.push(earlier);
        world.backup.replsets[0].last_write_ts = ts(21);
        world.point = Some(PointInTime { target: ts(20), chunks: vec![] });
        world.refused("before the end of the backup");
    }

    #[test]
    fn a_moment_that_the_chunks_do_not_reach_is_refused() {
        let mut world = World::new(vec![], vec![]);
        world.point = Some(PointInTime { target: ts(35), chunks: vec![chunk(20, 30), chunk(32, 40)] });
        world.refused("has a gap from 1970-01-01T00:00:30Z (30,1) to 1970-01-01T00:00:32Z (32,1)");
        world.point = Some(PointInTime { target: ts(35), chunks: vec![chunk(20, 30)] });
        world.refused("ends at 1970-01-01T00:00:30Z (30,1)");
        world.point = Some(PointInTime { target: ts(19), chunks: vec![chunk(10, 30)] });
        world.refused("before the end of the backup");
    }
}
