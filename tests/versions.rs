//! Restores backups of one server version on another: every kind of collection comes back unchanged, or the restore is
//! refused before anything is changed.

use crate::support::cluster::{Options, Version};
use crate::support::programs::Sandbox;
use crate::support::{state, wait};
use bson::{Document, doc};
use mongodb::Client;
use serde_json::Value;

/// Oldest first.
const VERSIONS: [Version; 3] = [Version::Oldest, Version::Older, Version::Current];

/// A server with a backup of every kind of collection that it can have.
struct Source {
    sandbox: Sandbox,
    client: Client,
    backup: String,
    state: Value,
}

async fn run(client: &Client, command: Document) {
    let said = client.database("kinds").run_command(command.clone()).await;
    said.unwrap_or_else(|error| panic!("{command}: {error}"));
}

async fn fill(client: &Client, version: Version) {
    let db = client.database("kinds");
    let german = doc! { "locale": "de", "strength": 1 };
    run(client, doc! { "create": "collated", "collation": german.clone() }).await;
    run(client, doc! { "create": "ring", "capped": true, "size": 1 << 20, "max": 7 }).await;
    run(client, doc! { "create": "small", "capped": true, "size": 8192 }).await;
    let validator = doc! { "$jsonSchema": { "required": ["n"] } };
    run(client, doc! { "create": "checked", "validator": validator, "validationLevel": "moderate" }).await;
    run(client, doc! { "create": "empty" }).await;
    let pipeline = [doc! { "$match": { "n": { "$gt": 3 } } }];
    run(client, doc! { "create": "view", "viewOn": "plain", "pipeline": &pipeline[..], "collation": german.clone() })
        .await;
    if version != Version::Oldest {
        run(client, doc! { "create": "series", "timeseries": { "timeField": "t", "metaField": "m" }, "expireAfterSeconds": 1 << 30 }).await;
        run(client, doc! { "createIndexes": "series", "indexes": [{ "key": { "m": 1, "t": -1 }, "name": "m_t" }] })
            .await;
        let points = (0..200)
            .map(|n| doc! { "t": bson::DateTime::from_millis(1_700_000_000_000 + n * 60_000), "m": n % 3, "v": n });
        db.collection::<Document>("series").insert_many(points).await.expect("insert");
    }
    if version == Version::Newer {
        // Servers up to 6.0.5 keep this where no list shows it.
        run(client, doc! { "create": "mixed", "timeseries": { "timeField": "t" } }).await;
        run(client, doc! { "collMod": "mixed", "timeseriesBucketsMayHaveMixedSchemaData": true }).await;
        db.collection("mixed").insert_one(doc! { "t": bson::DateTime::from_millis(0), "v": 1 }).await.expect("insert");
    }
    if matches!(version, Version::Current | Version::Newer) {
        let clustered = doc! { "key": { "_id": 1 }, "unique": true, "name": "by id" };
        run(client, doc! { "create": "clustered", "clusteredIndex": clustered }).await;
        run(client, doc! { "create": "images", "changeStreamPreAndPostImages": { "enabled": true } }).await;
        db.collection("clustered").insert_many((0..20).map(|n| doc! { "_id": n })).await.expect("insert");
    }
    let documents = |n: i32| {
        doc! {
            "_id": n, "n": n, "text": format!("text {n}"), "place": { "type": "Point", "coordinates": [n % 80, n % 80] }, "flat": [n % 80, n % 80],
            "list": [n, n + 1000], "sub": { "a": n }, "at": bson::DateTime::from_millis(4_000_000_000_000),
        }
    };
    for coll in ["plain", "collated", "ring", "small", "checked"] {
        db.collection(coll).insert_many((0..300).map(documents)).await.expect("insert");
    }
    let indexes = [
        doc! { "key": { "n": 1 }, "name": "unique", "unique": true },
        doc! { "key": { "n": 1, "text": -1 }, "name": "compound" },
        doc! { "key": { "list": 1 }, "name": "multikey" },
        doc! { "key": { "text": "text", "sub.a": 1 }, "name": "text", "weights": { "text": 3 }, "default_language": "german" },
        doc! { "key": { "place": "2dsphere" }, "name": "sphere" },
        doc! { "key": { "flat": "2d" }, "name": "flat", "bits": 20 },
        doc! { "key": { "n": "hashed" }, "name": "hashed" },
        doc! { "key": { "sub.$**": 1 }, "name": "wildcard" },
        doc! { "key": { "absent": 1 }, "name": "sparse", "sparse": true },
        doc! { "key": { "sub.a": 1 }, "name": "partial", "partialFilterExpression": { "n": { "$gt": 5 } } },
        doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 3600 },
        doc! { "key": { "text": 1 }, "name": "hidden", "hidden": true },
        doc! { "key": { "text": 1 }, "name": "collation", "collation": german },
    ];
    run(client, doc! { "createIndexes": "plain", "indexes": &indexes[..] }).await;
    run(client, doc! { "createIndexes": "ring", "indexes": [{ "key": { "n": 1 }, "name": "n" }] }).await;
    run(client, doc! { "createRole": "mine", "privileges": [], "roles": ["read"] }).await;
    run(client, doc! { "createUser": "ann", "pwd": "x", "roles": ["mine"] }).await;
}

async fn source(version: Version) -> Source {
    let sandbox = Sandbox::start(Options { version, ..Options::default() }).await;
    let client = sandbox.set.client().await;
    fill(&client, version).await;
    let backup = tokio::task::block_in_place(|| sandbox.backup(&[]));
    let state = state::read(&client).await;
    Source { sandbox, client, backup, state }
}

impl Source {
    /// Reads the storage of another source, so that its backups are known here.
    async fn read_store_of(&self, other: &Self) {
        self.sandbox.configure_at(&other.sandbox.store(), &[]).await;
        tokio::task::block_in_place(|| self.sandbox.pbm(&["config", "--force-resync", "--wait"])).ok();
    }

    /// Restores a backup of `other` to an empty server and compares the data.
    async fn has_back(&self, other: &Self, label: &str) {
        self.client.database("kinds").drop().await.expect("drop");
        tokio::task::block_in_place(|| self.sandbox.pbm(&["restore", &other.backup, "--wait", "-y"])).ok();
        let mut lines = state::differences(&other.state, &state::read(&self.client).await);
        // The server's own description of a time series differs between versions.
        lines.retain(|line| !line.starts_with("/databases/kinds/collections/system.views/"));
        // 6.0.27 describes its buckets in more detail than 6.0.5.
        lines.retain(|line| !line.contains("/options/validator/$jsonSchema/properties/control/"));
        assert!(lines.is_empty(), "{label}:\n{}", lines.join("\n"));
    }

    /// Checks that this server refuses the restore and that the restore changes nothing.
    async fn refuses(&self, other: &Self, why: &str) {
        let before = state::read(&self.client).await;
        let said = tokio::task::block_in_place(|| self.sandbox.pbm(&["restore", &other.backup, "--wait", "-y"]));
        let said = said.failed().stderr;
        assert!(said.contains(why), "{said}");
        let lines = state::differences(&before, &state::read(&self.client).await);
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_kind_of_collection_comes_back_on_the_same_and_on_newer_servers() {
    let sources = futures::future::join_all(VERSIONS.map(|version| wait::apart(move || source(version)))).await;
    let sources: Vec<Source> = sources.into_iter().map(|source| source.expect("a source")).collect();
    let sources = std::sync::Arc::new(sources);
    let targets = (0..VERSIONS.len()).map(|to| {
        let sources = sources.clone();
        wait::apart(move || async move {
            let target = &sources[to];
            target.has_back(target, &format!("{:?} in place", VERSIONS[to])).await;
            for from in 0..to {
                target.read_store_of(&sources[from]).await;
                target.has_back(&sources[from], &format!("{:?} to {:?}", VERSIONS[from], VERSIONS[to])).await;
            }
        })
    });
    for target in futures::future::join_all(targets).await {
        target.expect("exact");
    }
    let [_, five, six] = &sources[..] else { panic!("three versions") };
    five.read_store_of(six).await;
    five.refuses(six, "option 'clusteredIndex' needs server 5.3.0").await;
    // At the feature compatibility version of an older server, the newer server can do only what the older one can.
    let older = doc! { "setFeatureCompatibilityVersion": "5.0" };
    six.client.database("kinds").drop().await.expect("drop");
    six.client.database("admin").run_command(older).await.expect("the older version's features");
    six.has_back(five, "5.0 to 6.0 at 5.0").await;
    six.read_store_of(six).await;
    six.refuses(six, "option 'clusteredIndex' needs server 5.3.0").await;
}

/// What 6.0 learned in between: a series' mixed schema is an option of its collections.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_newest_6_0_and_the_default_one_exchange_backups() {
    let sources = [Version::Newer, Version::Current].map(|version| wait::apart(move || source(version)));
    let [newer, current] = futures::future::join_all(sources).await.try_into().unwrap_or_else(|_| panic!("two"));
    let (newer, current): (Source, Source) = (newer.expect("a source"), current.expect("a source"));
    newer.has_back(&newer, "6.0.27 in place").await;
    let db = newer.client.database("kinds");
    let listed = db.run_command(doc! { "listCollections": 1, "filter": { "name": "mixed" } }).await;
    let listed = listed.expect("a list").to_string();
    assert!(listed.contains("timeseriesBucketsMayHaveMixedSchemaData=true"), "{listed}");
    newer.read_store_of(&current).await;
    newer.has_back(&current, "6.0.5 to 6.0.27").await;
    current.read_store_of(&newer).await;
    current.has_back(&newer, "6.0.27 to 6.0.5").await;
}
