//! Our agents run beside agents that follow the original's protocol (`support/original.rs`), as in a migration of one node at
//! a time. Whichever kind of agent leads, one slicer saves the oplog of each replica set, and the slicer does not change.

use super::{REPLACED, Rig, USUAL};
use crate::support::cluster::{Options, ReplicaSet, Role};
use crate::support::original::Original;
use crate::support::programs::{Agent, Deployment};
use crate::support::sharded::{ShardedCluster, ShardedSandbox};
use crate::support::wait;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::control::{Control, Order};
use pbmbox::model::command::RestoreCmd;
use std::slice::from_ref;
use std::time::Duration;

const SPAN: &str = "pitr.oplogSpanMin=0.02";

impl<D: Deployment> Rig<D> {
    fn set_of(&self, rs: &str) -> &ReplicaSet {
        self.sandbox.set.sets().into_iter().find(|set| set.options().name == rs).expect("a replica set")
    }

    /// Writes to a replica set, and returns the time that its chunks must reach to include the write.
    async fn write_to(&self, rs: &str, n: i32) -> Timestamp {
        let client = self.set_of(rs).client().await;
        // Config servers accept no user databases.
        let db = if self.set_of(rs).options().role == Some(Role::ConfigServer) { "admin" } else { "shop" };
        client.database(db).collection::<Document>("orders").insert_one(doc! { "n": n }).await.expect("insert");
        pbmbox::mongo::hello(&client).await.expect("hello").majority_write().expect("a write")
    }

    /// The id and node of a replica set's slicing lock; the id changes each time that the lock is taken.
    async fn lock_of(&self, rs: &str) -> (ObjectId, String) {
        wait::until(&format!("a slicer of {rs}"), REPLACED, async || {
            let locks = self.client.database("admin").collection::<Document>("pbmLockOp");
            let lock = locks.find_one(doc! { "replset": rs, "type": "pitr" }).await.ok()??;
            Some((lock.get_object_id("_id").ok()?, lock.get_str("node").ok()?.to_owned()))
        })
        .await
    }

    /// Waits until several chunks of each replica set are saved while the slicers stay the same. Returns the nodes that
    /// slice.
    async fn is_steady(&self, what: &str) -> Vec<String> {
        let sets: Vec<String> = self.sandbox.set.sets().iter().map(|set| set.options().name.clone()).collect();
        for rs in &sets {
            self.saved(rs, self.write_to(rs, 0).await).await;
        }
        let mut locks = Vec::new();
        for rs in &sets {
            locks.push(self.lock_of(rs).await);
        }
        for n in 1..3 {
            for rs in &sets {
                self.saved(rs, self.write_to(rs, n).await).await;
            }
        }
        for (rs, lock) in sets.iter().zip(&locks) {
            assert_eq!(self.lock_of(rs).await, *lock, "{what}: the slicer of {rs} did not stay");
        }
        locks.into_iter().map(|lock| lock.1).collect()
    }

    /// Waits until the original's agent, which leads, has named this node, and the node slices and has acknowledged that.
    async fn is_named_by(&self, original: &Original, rs: &str, node: &str) {
        let admin = self.client.database("admin");
        let (pitr, locks) = (admin.collection::<Document>("pbmPITR"), admin.collection::<Document>("pbmLockOp"));
        wait::until(&format!("the original's agent to name {node} and {node} to obey"), REPLACED, async || {
            let round = doc! { "n": { "$elemMatch": { "rs": rs, "n": node, "ack": node } } };
            pitr.find_one(round).await.ok()??;
            locks.find_one(doc! { "replset": rs, "type": "pitr", "node": node }).await.ok()??;
            let names =
                |line: &str| line.contains("naming") && line.contains(node) && line.ends_with(&format!("of {rs}"));
            original.log().lines().any(names).then_some(())
        })
        .await;
    }

    /// Makes the agent on this node look as if it had been silent for a minute.
    async fn age(&self, node: &str) {
        let admin = self.client.database("admin");
        let old = Timestamp { time: self.now_of_cluster().await.time - 60, increment: 1 };
        for (coll, key) in [("pbmLockOp", "node"), ("pbmAgents", "n")] {
            let set = doc! { "$set": { "hb": old } };
            admin.collection::<Document>(coll).update_many(doc! { key: node }, set).await.expect("age");
        }
    }

    async fn now_of_cluster(&self) -> Timestamp {
        pbmbox::mongo::hello(&self.client).await.expect("hello").cluster_time()
    }

    /// Checks that the saved chunks of each replica set form one range.
    async fn assert_no_gap(&self) {
        for set in self.sandbox.set.sets() {
            let rs = &set.options().name;
            let chunks: Vec<_> = self.chunks().await.into_iter().filter(|chunk| chunk.rs == *rs).collect();
            for pair in chunks.windows(2) {
                assert!(pair[1].start_ts <= pair[0].end_ts, "a gap in {rs}: {pair:?}");
            }
        }
    }

    /// Requests a restore that our agents refuse.
    async fn ask_for_the_impossible(&self) {
        let control = Control::new(self.client.clone());
        let name = format!("r{}", ObjectId::new().to_hex());
        let restore = serde_json::json!({ "name": name, "backupName": "no such backup" });
        let restore: RestoreCmd = serde_json::from_value(restore).expect("a command");
        control.commands.send(Order::Restore(restore)).await.expect("send");
        wait::until("the refusal", USUAL, async || {
            let document = control.restores.raw(&name).await.ok()??;
            document.get_str("status").is_ok_and(|it| it == "error").then_some(())
        })
        .await;
    }

    /// Checks that every write to the control database and to `config` went to collections that the original knows and skips
    /// when it replays an oplog.
    async fn assert_only_known_collections(&self) {
        let known = [
            "pbmCmd",
            "pbmLog",
            "pbmConfig",
            "pbmBackups",
            "pbmRestores",
            "pbmLock",
            "pbmLockOp",
            "pbmPITRChunks",
            "pbmPITR",
            "pbmAgents",
            "pbmOpLog",
            "pbmRUsers",
            "pbmRRoles",
        ];
        for set in self.sandbox.set.sets() {
            let oplog = set.client().await.database("local").collection::<Document>("oplog.rs");
            let touched = oplog.distinct("ns", doc! { "ns": { "$regex": "^admin[.]pbm|^config[.]pbm" } }).await;
            let made =
                oplog.distinct("o.create", doc! { "op": "c", "ns": { "$in": ["admin.$cmd", "config.$cmd"] } }).await;
            let names = touched.expect("read the oplog").into_iter().chain(made.expect("read the oplog"));
            for name in names.filter_map(|name| name.as_str().map(str::to_owned)) {
                let ours = name.contains("pbm") || name.contains("tmp");
                let coll = name.strip_prefix("admin.").unwrap_or(&name);
                assert!(!ours || known.contains(&coll), "{name} was written");
            }
        }
    }

    async fn is_on(&self) -> bool {
        let config = self.client.database("admin").collection::<Document>("pbmConfig");
        let config = config.find_one(doc! { "profile": null }).await.expect("read").expect("a configuration");
        config.get_document("pitr").expect("pitr").get_bool("enabled").expect("a switch")
    }
}

impl Rig {
    async fn original(&self, n: usize) -> Original {
        let set = &self.sandbox.set;
        Original::start(set, n, set, &self.sandbox.store()).await
    }

    fn ours(&mut self, n: usize) {
        self.sandbox.agents[n] = Agent::start(&self.sandbox.programs, &self.sandbox.set.uri_of(n));
    }

    async fn end_ours(&mut self, n: usize) {
        assert!(self.sandbox.agents[n].terminate().await.success());
    }

    /// Checks that a refused restore switches point-in-time recovery off, that the original's agent sees this, and that it is
    /// switched on again.
    async fn survives_a_refused_restore(&self, original: &Original) {
        self.ask_for_the_impossible().await;
        let waited = wait::until("the original's agent to be let go", REPLACED, async || {
            original.restore_waits().first().copied()
        })
        .await;
        assert!(waited < Duration::from_secs(30), "{waited:?}");
        wait::until("point-in-time recovery to be on again", REPLACED, async || self.is_on().await.then_some(())).await;
    }
}

/// The first half of a migration, and the way back: our agent stays on the primary and leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_migrates_while_our_agent_leads() {
    let mut rig = Rig::start(Options { members: 2, ..Options::default() }, &[SPAN]).await;
    rig.sandbox.backup(&[]);
    let primary = rig.sandbox.set.primary().await;
    let secondary = 1 - primary;
    let [first, second] = [primary, secondary].map(|n| rig.sandbox.set.address_of(n));
    rig.is_steady("only ours").await;

    rig.end_ours(secondary).await;
    let original = rig.original(secondary).await;
    rig.is_steady("ours lead").await;
    let before = rig.lock_of("rs0").await;
    rig.set(&format!("pitr.priority={{\"{second}\": 5}}"));
    wait::until("the original's agent to slice", REPLACED, async || {
        let lock = rig.lock_of("rs0").await;
        (lock.1 == second && lock != before).then_some(())
    })
    .await;
    assert_eq!(rig.is_steady("ours lead, theirs slices").await, from_ref(&second));
    let status = rig.sandbox.pbm(&["status"]).ok().stdout;
    assert!(status.contains("original") && status.contains(&first), "{status}");
    rig.sandbox.backup(&[]);
    rig.survives_a_refused_restore(&original).await;
    rig.is_steady("after a refused restore").await;
    rig.set("pitr.enabled=false");
    rig.no_slicer().await;
    rig.set("pitr.enabled=true");
    assert_eq!(rig.is_steady("off and on").await, from_ref(&second));
    original.kill();
    rig.age(&second).await;
    assert_eq!(rig.is_steady("the original's agent is lost").await, from_ref(&first));
    rig.assert_no_gap().await;
    rig.assert_only_known_collections().await;
}

/// The second half: the original's agent on the primary leads, until the last agent is replaced by ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_migrates_while_the_originals_agent_leads() {
    let mut rig = Rig::start(Options { members: 2, ..Options::default() }, &[SPAN]).await;
    let base = rig.sandbox.backup(&[]);
    let primary = rig.sandbox.set.primary().await;
    let [first, second] = [primary, 1 - primary].map(|n| rig.sandbox.set.address_of(n));
    rig.end_ours(primary).await;
    let original = rig.original(primary).await;
    assert_eq!(rig.is_steady("theirs leads, ours slices").await, from_ref(&second));
    let status = rig.sandbox.pbm(&["status"]).ok().stdout;
    assert!(status.contains("original") && status.contains(&first), "{status}");
    rig.sandbox.backup(&[]);
    rig.is_steady("after a backup, theirs leads").await;
    rig.set("pitr.enabled=false");
    rig.no_slicer().await;
    rig.set("pitr.enabled=true");
    // By its own rules our agent would slice, too, but the leader would not have named it.
    rig.is_named_by(&original, "rs0", &second).await;
    rig.is_steady("off and on, theirs leads").await;

    original.interrupt().await;
    rig.ours(primary);
    rig.is_steady("only ours again").await;
    rig.assert_no_gap().await;
    let until = rig.write(9).await;
    rig.saved("rs0", until).await;
    rig.set("pitr.enabled=false");
    rig.no_slicer().await;
    let time = format!("{},{}", until.time, until.increment);
    rig.sandbox.pbm(&["restore", "--time", &time, "--base-snapshot", &base, "--wait", "-y"]).ok();
    rig.assert_only_known_collections().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_cluster_migrates_in_any_order() {
    let sandbox = ShardedSandbox::sharded(Options::default(), &[("rs1", "rs1")]).await;
    let mut rig: Rig<ShardedCluster> = Rig { client: sandbox.set.leader().client().await, sandbox };
    rig.sandbox.backup(&[]);
    rig.enable(&[SPAN]).await;
    rig.is_steady("only ours").await;
    let store = rig.sandbox.store();
    let (config, shard) = (0, 1);

    // Our agents run on the config servers, the original's on the shard.
    assert!(rig.sandbox.agents[shard].terminate().await.success());
    let set = &rig.sandbox.set;
    let on_shard = Original::start(&set.shards[0].set, 0, &set.config, &store).await;
    rig.is_steady("ours lead, theirs on the shard").await;

    // The original's agents run on the config servers, ours on the shard.
    on_shard.interrupt().await;
    rig.sandbox.agents[shard] = Agent::start(&rig.sandbox.programs, &rig.sandbox.set.shards[0].set.uri_of(0));
    assert!(rig.sandbox.agents[config].terminate().await.success());
    let set = &rig.sandbox.set;
    let on_config = Original::start(&set.config, 0, &set.config, &store).await;
    rig.is_steady("theirs leads, ours on the shard").await;

    on_config.interrupt().await;
    rig.sandbox.agents[config] = Agent::start(&rig.sandbox.programs, &rig.sandbox.set.config.uri_of(0));
    rig.is_steady("only ours again").await;
    rig.assert_no_gap().await;
    rig.assert_only_known_collections().await;
}
