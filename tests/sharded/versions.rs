//! Restores a cluster's backup to clusters of the same and of newer server versions: the data is exact and routable, or the
//! restore is refused before anything is changed.

use super::*;
use crate::support::cluster::Version;
use crate::support::programs::Output;
use crate::support::sharded::Chunk;
use std::sync::Arc;

/// Oldest first.
const VERSIONS: [Version; 3] = [Version::Oldest, Version::Older, Version::Current];
const ORDERS: &str = SPREAD[0].ns;
const HASHED: &str = "crm.hashed";

/// A cluster with a backup of itself.
struct Source {
    sandbox: ShardedSandbox,
    version: Version,
    backup: String,
    state: State,
}

#[derive(Debug, PartialEq)]
struct State {
    contents: Vec<Value>,
    owned: Vec<Owned>,
    /// The documents of the collection that is sharded by a hash.
    hashed: Option<Owned>,
    chunks: Vec<Vec<Chunk>>,
    zones: Vec<Document>,
}

impl State {
    async fn of(cluster: &ShardedCluster) -> Self {
        let config = cluster.config.client().await.database("config");
        let zones = config.collection("tags").find(doc! {}).sort(doc! { "_id": 1 }).await.expect("read the zones");
        let tables = config.collection::<Document>("collections");
        let hashed = tables.find_one(doc! { "_id": HASHED }).await.expect("read the collections");
        let hashed = match hashed {
            Some(_) => Some(cluster.router().await.find(HASHED, doc! {}).await),
            None => None,
        };
        let mut chunks = Vec::new();
        for Spread { ns, .. } in &SPREAD {
            chunks.push(cluster.table(ns).await.chunks);
        }
        Self {
            contents: contents(cluster).await,
            owned: owned(cluster).await,
            hashed,
            chunks,
            zones: zones.try_collect().await.expect("read the zones"),
        }
    }

    fn assert_is(&self, cluster: &ShardedCluster, expected: &Self) {
        assert_same(cluster, &expected.contents, &self.contents);
        assert_eq!(self, expected);
    }
}

async fn source(version: Version) -> Source {
    let sandbox = ShardedSandbox::sharded(Options { version, ..Options::default() }, TWO_SHARDS).await;
    let cluster = &sandbox.set;
    // The balancer would move the chunks that the test moves.
    cluster.stop_balancer().await;
    fill(cluster).await;
    cluster.add_zone(ORDERS, (500, 1000), "shardB", "north").await;
    // Routers before 5.0 need more steps for these collections.
    if version != Version::Oldest {
        cluster.shard_hashed(HASHED, "_id").await;
        for shard in &cluster.shards {
            // Each shard owns some of the documents, and the others are its orphans.
            let hashed = shard.set.client().await.database("crm").collection("hashed");
            hashed.insert_many((0..10_i64).map(|n| doc! { "_id": n })).await.expect("insert");
        }
    }
    let state = State::of(cluster).await;
    let backup = tokio::task::block_in_place(|| sandbox.backup(&[]));
    Source { sandbox, version, backup, state }
}

impl Source {
    fn pbm(&self, args: &[&str]) -> Output {
        tokio::task::block_in_place(|| self.sandbox.pbm(args))
    }

    /// Reads the storage of another source, so that its backups are known here.
    async fn read_store_of(&self, other: &Self) {
        self.sandbox.configure_at(&other.sandbox.store(), &[]).await;
        self.pbm(&["config", "--force-resync", "--wait"]).ok();
    }

    /// Restores the other cluster's backup: all data is equal, and the routing works.
    async fn has_back(&self, other: &Self) {
        let cluster = &self.sandbox.set;
        let mut router = cluster.router().await;
        for Spread { ns, .. } in &SPREAD {
            router.delete(ns, 7).await;
            router.insert(ns, doc! { "_id": 700_i64 }).await;
        }
        self.pbm(&["restore", &other.backup, "--wait", "-y"]).ok();
        State::of(cluster).await.assert_is(cluster, &other.state);
        for (spread, before) in SPREAD.iter().zip(&other.state.owned) {
            assert_routable(cluster, spread.ns, before, spread.inner, spread.other).await;
        }
    }

    /// Waits until no operation holds a lock: the members of a refused restore release their locks a moment after the command
    /// line has reported the refusal.
    async fn is_idle(&self) {
        let locks = self.sandbox.set.config.client().await.database("admin").collection::<Document>("pbmLock");
        wait::until("the locks to be released", Duration::from_secs(30), async || {
            (locks.count_documents(doc! {}).await.expect("count the locks") == 0).then_some(())
        })
        .await;
    }

    async fn refuses(&self, other: &Self, why: &str) {
        let cluster = &self.sandbox.set;
        let before = State::of(cluster).await;
        for selection in [&[][..], &["--ns", ORDERS]] {
            let args = [&["restore", &other.backup, "--wait", "-y"], selection].concat();
            let said = self.pbm(&args).failed().stderr;
            assert!(said.contains(why), "{said}");
            self.is_idle().await;
        }
        State::of(cluster).await.assert_is(cluster, &before);
    }
}

/// Restores a cluster's own backup and those of the other versions on it.
async fn try_all(target: &Source, sources: &[Source]) {
    let [four, five, six] = sources else { panic!("three versions") };
    target.has_back(target).await;
    if target.version == Version::Oldest {
        return;
    }
    target.read_store_of(four).await;
    target.refuses(four, "restore it to a cluster at 4.4").await;
    if target.version == Version::Older {
        target.read_store_of(six).await;
        target.refuses(six, "upgrade the target first").await;
    } else {
        target.read_store_of(five).await;
        target.has_back(five).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_comes_back_on_servers_that_can_read_its_routing() {
    let sources = futures::future::join_all(VERSIONS.map(|version| wait::apart(move || source(version)))).await;
    let sources: Arc<Vec<Source>> = Arc::new(sources.into_iter().map(|source| source.expect("a source")).collect());
    let targets = (0..VERSIONS.len()).map(|to| {
        let sources = sources.clone();
        wait::apart(move || async move { try_all(&sources[to], &sources).await })
    });
    for (version, target) in VERSIONS.iter().zip(futures::future::join_all(targets).await) {
        target.unwrap_or_else(|error| panic!("to {version:?}: {error}"));
    }
}
