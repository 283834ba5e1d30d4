//! A part of a sharded cluster is backed up or restored; the rest of it is in use and stays as it is.

use super::*;

const ORDERS: &str = "shop.orders";
const VISITS: &str = "crm.visits";

/// Everything that the tests look at.
#[derive(Debug, PartialEq)]
struct Seen {
    orders: Vec<i64>,
    visits: Vec<i64>,
    people: u64,
    items: u64,
    /// A bucket each.
    measurements: u64,
    zones: u64,
}

fn keys(owned: &Owned) -> Vec<i64> {
    sorted(owned).iter().map(|document| document.get_i64("_id").expect("a key")).collect()
}

async fn unsharded(cluster: &ShardedCluster, shard: &str, ns: &str) -> mongodb::Collection<Document> {
    let (db, coll) = ns.split_once('.').expect("database and collection");
    cluster.shard(shard).set.client().await.database(db).collection(coll)
}

impl Seen {
    async fn of(cluster: &ShardedCluster) -> Self {
        let mut router = cluster.router().await;
        let mut spread = async |ns: &str| keys(&router.find(ns, doc! {}).await);
        let (orders, visits) = (spread(ORDERS).await, spread(VISITS).await);
        let count =
            async |shard, ns| unsharded(cluster, shard, ns).await.count_documents(doc! {}).await.expect("count");
        let zones = cluster.config.client().await.database("config").collection::<Document>("tags");
        Self {
            orders,
            visits,
            people: count("shardB", "crm.people").await,
            items: count("rs1", "shop.items").await,
            measurements: count("rs1", "shop.system.buckets.ts").await,
            zones: zones.count_documents(doc! { "ns": ORDERS }).await.expect("count"),
        }
    }
}

/// Beside what [`fill`] makes: an unsharded collection and a sharded time series of the first shard, and a zone.
async fn fill_more(cluster: &ShardedCluster) {
    fill(cluster).await;
    let items = unsharded(cluster, "rs1", "shop.items").await;
    items.insert_many((0..5).map(|n| doc! { "_id": n })).await.expect("insert");
    let databases = cluster.config.client().await.database("config").collection::<Document>("databases");
    let shop = databases.find_one(doc! { "_id": "shop" }).await.expect("read").expect("the database");
    let create = doc! {
        "_shardsvrCreateCollection": "ts", "shardKey": { "t": 1 },
        "timeseries": { "timeField": "t", "metaField": "m" },
        "databaseVersion": shop.get("version").cloned(), "writeConcern": { "w": "majority" },
    };
    let first = cluster.shard("rs1").set.client().await;
    first.database("shop").run_command(create).await.expect("shard a time series");
    let now = mongodb::bson::DateTime::now();
    let measured = (0..7).map(|n| doc! { "t": now, "m": n, "value": n });
    unsharded(cluster, "rs1", "shop.ts").await.insert_many(measured).await.expect("insert");
    let zones = cluster.config.client().await.database("config").collection::<Document>("tags");
    let (min, max) = (doc! { "_id": 0_i64 }, doc! { "_id": mongodb::bson::Bson::MaxKey });
    zones.insert_one(doc! { "ns": ORDERS, "min": min, "max": max, "tag": "east" }).await.expect("insert");
}

/// Everything is changed, and chunks move.
async fn change(cluster: &ShardedCluster) {
    let zones = cluster.config.client().await.database("config").collection::<Document>("tags");
    zones.delete_many(doc! {}).await.expect("delete");
    let mut router = cluster.router().await;
    for Spread { ns, other, outer, between, .. } in &SPREAD {
        router.delete(ns, -3).await;
        router.insert(ns, doc! { "_id": 100_i64 }).await;
        cluster.split(ns, *between).await;
        cluster.move_chunk(ns, *outer, other).await.expect("move a chunk");
        router.find(ns, doc! {}).await;
    }
    for (shard, ns) in [("shardB", "crm.people"), ("rs1", "shop.items")] {
        unsharded(cluster, shard, ns).await.delete_one(doc! { "_id": 1 }).await.expect("delete");
    }
    let more = doc! { "t": mongodb::bson::DateTime::now(), "m": 99, "value": 0 };
    unsharded(cluster, "rs1", "shop.ts").await.insert_one(more).await.expect("insert");
}

async fn all_sliced(cluster: &ShardedCluster, until: Timestamp) {
    let chunks = cluster.config.client().await.database("admin").collection::<Document>("pbmPITRChunks");
    wait::until("all replica sets to be sliced", Duration::from_secs(60), async || {
        for rs in ["cfgrs", "rs1", "rs2"] {
            let later = doc! { "rs": rs, "end_ts": { "$gte": until } };
            chunks.find_one(later).await.expect("read the chunks")?;
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_sharded_cluster_comes_back() {
    let source = ShardedSandbox::sharded(orphans_go_after(1, Options::default()), TWO_SHARDS).await;
    let cluster = &source.set;
    fill_more(cluster).await;
    let first = Seen::of(cluster).await;
    assert_eq!((first.measurements, first.zones, first.items), (7, 1, 5));
    // As the server says while somebody else has its lock.
    let data = doc! { "failCommands": ["appendOplogNote"], "errorCode": 107 };
    let fail = doc! { "configureFailPoint": "failCommand", "mode": { "times": 3 }, "data": data };
    cluster.config.client().await.database("admin").run_command(fail).await.expect("set a fail point");
    let full = source.backup(&[]);
    let part = source.backup(&["--ns", "shop.*,crm.people", "--ns-exclude", "shop.it*"]);
    source.pbm(&["config", "--set", "pitr.enabled=true", "--set", "pitr.oplogSpanMin=0.03"]).ok();
    change(cluster).await;
    let second = Seen::of(cluster).await;
    let moment = last_write(cluster).await;
    all_sliced(cluster, moment).await;
    source.pbm(&["config", "--set", "pitr.enabled=false"]).ok();
    let mut router = cluster.router().await;
    router.delete(ORDERS, 5).await;
    router.delete(VISITS, 5).await;
    let third = Seen::of(cluster).await;

    // One collection of the full backup.
    source.pbm(&["restore", &full, "--ns", ORDERS, "--wait", "-y"]).ok();
    let got = Seen::of(cluster).await;
    assert_eq!(got, Seen { orders: first.orders.clone(), zones: 1, ..third });
    let before = cluster.router().await.find(ORDERS, doc! {}).await;
    assert_routable(cluster, ORDERS, &before, SPREAD[0].inner, SPREAD[0].other).await;
    // As it was later, with the chunks that had moved by then.
    let time = format!("{},{}", moment.time, moment.increment);
    source.pbm(&["restore", "--time", &time, "--ns", ORDERS, "--wait", "-y"]).ok();
    assert_eq!(Seen::of(cluster).await, Seen { orders: second.orders.clone(), zones: 0, ..got });
    let before = cluster.router().await.find(ORDERS, doc! {}).await;
    assert_routable(cluster, ORDERS, &before, SPREAD[0].inner, SPREAD[0].other).await;
    // A whole database.
    source.pbm(&["restore", &full, "--ns", "crm.*", "--wait", "-y"]).ok();
    let got = Seen::of(cluster).await;
    assert_eq!((&got.orders, &got.visits, got.people), (&second.orders, &first.visits, 10));
    assert_eq!(got.items, 4);
    // A time series and what the selective backup has.
    source.pbm(&["restore", &part, "--ns", "shop.t*", "--wait", "-y"]).ok();
    let got = Seen::of(cluster).await;
    assert_eq!((got.measurements, got.items, &got.orders), (7, 4, &second.orders));
    for (args, why) in [
        (["restore", &part, "--ns", VISITS, "--wait", "-y"], "it holds nothing of crm.visits"),
        (["restore", &part, "--ns", "shop.items", "--wait", "-y"], "it holds nothing of shop.items"),
    ] {
        let refused = source.pbm(&args).failed();
        assert!(refused.stderr.contains(why), "{refused:?}");
    }

    let options = Options::default();
    let target = ShardedSandbox::around(ShardedCluster::start(options, TWO_SHARDS).await).await;
    target.configure_at(&source.store(), &[]).await;
    target.pbm(&["config", "--force-resync", "--wait"]).ok();
    // The database is elsewhere, with somebody's data in it.
    target.set.create_database("crm", "rs1").await;
    unsharded(&target.set, "rs1", "crm.mine").await.insert_one(doc! { "_id": 1 }).await.expect("insert");
    let refused = target.pbm(&["restore", &part, "--wait", "-y"]).failed();
    assert!(refused.stderr.contains("movePrimary"), "{refused:?}");
    target.pbm(&["restore", &part, "--ns", "shop.*", "--wait", "-y"]).ok();
    let mut router = target.set.router().await;
    assert_eq!(keys(&router.find(ORDERS, doc! {}).await), first.orders);
    let count =
        async |shard, ns| unsharded(&target.set, shard, ns).await.count_documents(doc! {}).await.expect("count");
    assert_eq!((count("rs1", "shop.system.buckets.ts").await, count("rs1", "shop.items").await), (7, 0));
    assert_eq!((count("rs1", "crm.mine").await, count("shardB", "crm.people").await), (1, 0));

    // Two shards can change places.
    let swapped = ["restore", &full, "--replset-remapping", "rs1=rs2,rs2=rs1", "--wait", "-y"];
    target.pbm(&swapped).ok();
    let mut router = target.set.router().await;
    assert_eq!(keys(&router.find(ORDERS, doc! {}).await), first.orders);
    assert_eq!(count("rs1", "crm.people").await, 10);
}

/// One of the bank's collections, in which transactions with the other one go on and whose chunks move while it is backed up.
async fn a_part_of_the_bank(backup: &[&str], restore: &[&str]) {
    let (seed, options) = (seed(), orphans_go_after(1, Options::default()));
    let source = ShardedSandbox::sharded(options.clone(), BANK_SHARDS).await;
    money::open(&source.set).await;
    let something = async |vault: &mut money::Vault<'_>| backup_of(&source, vault, backup).await;
    let (name, end) = money::under_load(&source.set, seed, true, something).await;
    let mut truth = Truth::at(&source.set, end).await;

    let target = ShardedSandbox::around(ShardedCluster::start(options, BANK_SHARDS).await).await;
    target.configure_at(&source.store(), &[]).await;
    target.pbm(&["config", "--force-resync", "--wait"]).ok();
    target.pbm(&[&["restore", &name, "--wait", "-y"], restore].concat()).ok();
    let (db, vault) = VAULT.split_once('.').expect("a namespace");
    for content in &mut truth.contents {
        let there = content.get_mut(db).and_then(|db| db.get_mut("collections")).and_then(Value::as_object_mut);
        there.map(|collections| collections.remove(vault));
    }
    assert_same(&target.set, &truth.contents, &contents(&target.set).await);
    assert_eq!(target.set.table(ACCOUNTS).await.chunks, truth.tables[ACCOUNTS].chunks, "PBMBOX_SEED={seed}");
    let owned = target.set.router().await.find(ACCOUNTS, doc! {}).await;
    assert_routable(&target.set, ACCOUNTS, &owned, 30, "rs3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_the_bank_comes_back() {
    a_part_of_the_bank(&[], &["--ns", ACCOUNTS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_part_of_the_bank_comes_back() {
    a_part_of_the_bank(&["--ns", ACCOUNTS], &[]).await;
}

/// Users and roles of a database, by their names, with what they may do. Shards have their own.
async fn people(client: &Client, db: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (collection, field) in [("system.users", "user"), ("system.roles", "role")] {
        let all = client.database("admin").collection::<Document>(collection);
        let all: Vec<Document> =
            all.find(doc! { "db": db }).await.expect("find").try_collect().await.expect("read the people");
        found.extend(all.iter().map(|it| {
            let roles = it.get_array("roles").expect("roles").iter();
            let roles: Vec<_> =
                roles.map(|role| role.as_document().expect("a role").get_str("role").expect("a name")).collect();
            format!("{} {}", it.get_str(field).expect("a name"), roles.join("+"))
        }));
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_roles_of_a_part_come_back_on_every_replica_set() {
    let source = ShardedSandbox::sharded(Options::default(), TWO_SHARDS).await;
    let cluster = &source.set;
    fill(cluster).await;
    let mut all = vec![cluster.config.client().await];
    for shard in &cluster.shards {
        all.push(shard.set.client().await);
    }
    let run = async |client: &Client, db: &str, command: Document| {
        client.database(db).run_command(command).await.expect("change the people");
    };
    for client in &all {
        for db in ["shop", "crm"] {
            let role = doc! { "createRole": "clerk", "privileges": [], "roles": ["read"] };
            run(client, db, role).await;
            run(client, db, doc! { "createUser": "ann", "pwd": "p", "roles": ["clerk"] }).await;
        }
    }
    let part = source.backup(&["--ns", "shop.*", "--with-users-and-roles"]);
    let full = source.backup(&[]);
    let without = source.backup(&["--ns", "shop.*"]);
    let change = async || {
        for client in &all {
            for db in ["shop", "crm"] {
                run(client, db, doc! { "dropAllUsersFromDatabase": 1 }).await;
                run(client, db, doc! { "updateRole": "clerk", "roles": ["readWrite"] }).await;
                run(client, db, doc! { "createUser": "eve", "pwd": "p", "roles": [] }).await;
            }
        }
    };
    let (then, now) = (["ann clerk", "clerk read"], ["clerk readWrite", "eve "]);
    let nss = ["--ns", "shop.*", "--wait", "-y"];
    let users = ["--ns", "shop.*", "--with-users-and-roles", "--wait", "-y"];
    for (name, options, wanted) in [(&part, &users[..], then), (&full, &users, then), (&full, &nss, now)] {
        change().await;
        source.pbm(&[&["restore", name.as_str()], options].concat()).ok();
        for (n, client) in all.iter().enumerate() {
            assert_eq!(people(client, "shop").await, wanted, "{options:?}: replica set {n}");
            assert_eq!(people(client, "crm").await, now, "{options:?}: another database of replica set {n}");
        }
    }
    let refused = source.pbm(&[&["restore", without.as_str()], &users[..]].concat()).failed();
    assert!(refused.stderr.contains("it was made without users and roles"), "{refused:?}");
}

/// Server 8.0 allows it, and nobody has tried this program with it.
#[tokio::test(flavor = "multi_thread")]
async fn config_servers_that_are_a_shard_are_refused() {
    let sandbox = ShardedSandbox::sharded(Options::default(), TWO_SHARDS).await;
    let name = sandbox.backup(&[]);
    let shards = sandbox.set.config.client().await.database("config").collection::<Document>("shards");
    let host = format!("cfgrs/{}", sandbox.set.config.address_of(0));
    shards.insert_one(doc! { "_id": "config", "host": host, "state": 1 }).await.expect("insert");
    for args in [&["backup", "--wait"][..], &["restore", &name, "--wait", "-y"]] {
        let refused = sandbox.pbm(args).failed();
        assert!(refused.stderr.contains("the config servers are a shard, too (config.shards)"), "{refused:?}");
    }
    let list = sandbox.pbm(&["doctor", "-o", "json"]).json();
    let found = list["checks"].as_array().expect("checks").iter();
    let found: Vec<&Value> = found.filter(|it| it["check"] == "configuration" && it["verdict"] == "failure").collect();
    assert!(
        found.len() == 1 && found[0]["next"].to_string().contains("transitionToDedicatedConfigServer"),
        "{found:?}"
    );
    // Nobody saves oplog that can't be restored, and the reason is shown.
    sandbox.pbm(&["config", "--set", "pitr.oplogOnly=true", "--set", "pitr.enabled=true"]).ok();
    wait::until("the reason why no oplog is saved", Duration::from_secs(60), async || {
        let list = sandbox.pbm(&["doctor", "-o", "json"]).json();
        let mut slicing = list["checks"].as_array().expect("checks").iter().filter(|it| it["check"] == "slicing");
        slicing.any(|it| it["detail"].to_string().contains("a shard, too")).then_some(())
    })
    .await;
    sandbox.pbm(&["config", "--set", "pitr.enabled=false"]).ok();
    // An agent is asked by somebody else's command line.
    let db = sandbox.set.config.client().await.database("admin");
    let now = mongodb::bson::DateTime::now().timestamp_millis() / 1000;
    let command = doc! {
        "cmd": "backup", "ts": now,
        "backup": { "name": "2030-01-01T00:00:00Z", "type": "logical", "compression": "none" },
    };
    db.collection::<Document>("pbmCmd").insert_one(command).await.expect("insert");
    wait::until("the agents to refuse", Duration::from_secs(60), async || {
        let failed = doc! { "name": "2030-01-01T00:00:00Z", "status": "error", "error": { "$regex": "a shard, too" } };
        db.collection::<Document>("pbmBackups").find_one(failed).await.expect("find").map(drop)
    })
    .await;
}
