use super::*;
use crate::layout::format_ts;
use crate::model::{backup::BackupType, selection::Selection, status::Status};
use crate::mongo::version::Version;
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
    let mut world = World::new(vec![collection("shop", "orders", 100), collection("admin", "pbmRUsers", 60)], vec![]);
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
fn buckets_go_to_servers_that_can_read_them() {
    let series = doc! { "timeseries": { "timeField": "t" } };
    let with = |size| {
        let objects = if size > 0 { vec![object("shop.ts.s2", 5)] } else { vec![] };
        World::new(vec![meta("shop", "ts", NamespaceKind::Timeseries, series.clone(), size)], objects)
    };
    for (made_on, made_at, server, at, size, refused) in [
        ("8.0.4", "8.0", Version::new(6, 0, 5), "6.0", 5, true),
        ("8.0.4", "8.0", Version::new(7, 0, 16), "7.0", 5, true),
        ("8.0.4", "8.0", Version::new(8, 0, 4), "7.0", 5, true),
        ("8.0.4", "8.0", Version::new(8, 0, 4), "8.0", 5, false),
        ("8.0.4", "7.0", Version::new(7, 0, 16), "7.0", 5, false),
        ("7.0.16", "7.0", Version::new(6, 0, 5), "6.0", 5, false),
        ("8.0.4", "8.0", Version::new(6, 0, 5), "6.0", 0, false),
    ] {
        let mut world = with(size);
        (world.backup.mongodb_version, world.backup.fcv) = (made_on.to_owned(), made_at.to_owned());
        world.target = Target { server, fcv: at.to_owned(), namespaces: Vec::new() };
        match refused {
            true => world.refused("the time series 'shop.ts' were written at feature compatibility version 8.0"),
            false => drop(world.plan().expect(made_on)),
        }
    }
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
    let namespaces = vec![collection("admin", "pbmRUsers", 5), collection("shop", "a", 0), collection("crm", "b", 0)];
    let mut world = World::new(namespaces, vec![object("admin.pbmRUsers.s2", 5)]);
    world.backup.nss = vec!["shop.*".to_owned()];
    world.wish = Wish::of(Selection::default(), false, &world.backup).expect("a wish");
    let plan = world.plan().expect("a plan");
    assert_eq!((plan.users, names(&plan.collections)), (UsersSource::default(), vec!["shop.a".into()]));
    world.backup.sel_users_and_roles = true;
    world.wish = Wish::of(Selection::default(), false, &world.backup).expect("a wish");
    assert!(world.plan().expect("a plan").users.users.is_some());
    world.wish = Wish::of(Selection::parse(&["crm.*"]).expect("a selection"), false, &world.backup).expect("a wish");
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
    // Created by the oplog.
    world.followed = Some(Followed { creates, ..Followed::default() });
    assert!(world.plan().expect("a plan").collections.is_empty());
    // On the target it has a name that is not selected.
    world.namespaces.push(with_uuid("orders", other));
    world.target.namespaces = vec![there("shop", "before", Some(other))];
    world.refused("'shop.before' on the target is 'shop.orders' of the backup");
    // A restore that was killed has left it.
    world.target.namespaces =
        vec![there("shop", "tmp0a1b2c3d.pbm", Some(other)), there("shop", "tmp99999999.pbm", None)];
    let plan = world.plan().expect("a plan");
    assert_eq!(plan.drops.iter().map(|drop| drop.coll.as_str()).collect::<Vec<_>>(), ["tmp0a1b2c3d.pbm"]);
    assert!(plan.warnings.iter().any(|warning| warning.contains("tmp99999999.pbm")), "{:?}", plan.warnings);
}

#[test]
fn collections_with_names_that_are_not_utf_8_stay_or_stop_the_restore() {
    let orders = NamespaceMeta { uuid: Some(Uuid::from_bytes(V4)), ..collection("shop", "orders", 0) };
    let mut world = World::new(vec![orders], vec![]);
    let bad = |uuid| there("shop", &crate::raw::text::to_text(b"bad\xff"), uuid);
    world.target.namespaces = vec![bad(None), there("shop", "orders", None)];
    for drop_extra in [false, true] {
        world.wish.drop_extra = drop_extra;
        let plan = world.plan().expect("a plan");
        assert_eq!(plan.drops.iter().map(|drop| drop.coll.as_str()).collect::<Vec<_>>(), ["orders"]);
        let stays = "'shop.bad\\xff' stays as it is";
        assert!(plan.warnings.iter().any(|warning| warning.contains(stays)), "{:?}", plan.warnings);
    }
    world.sharded = true;
    world.refused("'shop.bad\\xff' on the target would be lost");
    world.sharded = false;
    world.target.namespaces = vec![bad(Some(V4))];
    world.refused("'shop.bad\\xff' on the target is 'shop.orders', renamed since then");
    world.target.namespaces = vec![bad(None)];
    let key = ("shop".to_owned(), bad(None).coll);
    world.followed = Some(Followed { renamed: [(key, "shop.later".to_owned())].into(), ..Followed::default() });
    world.refused("'shop.bad\\xff' on the target is 'shop.later', renamed since then");
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
    let names = [("shop", "extra"), ("crm", "other"), ("admin", "pbmLog"), ("admin", "system.users"), ("config", "x")];
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
    // The end of the backup needs no chunk.
    world.point = Some(PointInTime { target: ts(20), chunks: vec![] });
    assert_eq!(world.plan().expect("a plan").oplog.len(), 1);
    // Of a cluster, the dump of one shard may be newer than where the cluster's backup ends.
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
