//! Whatever happens to agents, nodes and the storage: no silent gap, no false range, and slicing goes on.

use super::{REPLACED, Rig, USUAL, chunk_files};
use crate::support::cluster::Options;
use crate::support::programs::Agent;
use crate::support::wait;
use mongodb::bson::{Document, Timestamp, doc};
use pbmbox::layout::PITR;
use std::fs;

fn three() -> Options {
    Options { members: 3, ..Options::default() }
}

const QUICK: [&str; 2] = ["pitr.oplogSpanMin=0.05", "pitr.maxLossSec=5"];

impl Rig {
    fn member(&self, address: &str) -> usize {
        (0..self.sandbox.set.size()).find(|n| self.sandbox.set.address_of(*n) == address).expect("a member")
    }

    /// Waits until another node than `before` slices.
    async fn replaced(&self, before: &str) -> String {
        wait::until("another slicer", REPLACED, async || {
            let locks = self.client.database("admin").collection::<Document>("pbmLockOp");
            let lock = locks.find_one(doc! {}).await.ok()??;
            let node = lock.get_str("node").expect("a node");
            (node != before).then(|| node.to_owned())
        })
        .await
    }

    /// The last write is saved, and the whole timeline is one.
    async fn goes_on(&self, n: i32) {
        let until = self.write(n).await;
        let chunks = self.saved("rs0", until).await;
        self.assert_whole(&chunks, &self.client).await;
    }

    async fn logged(&self, text: &str) -> String {
        wait::until(&format!("a log line with '{text}'"), REPLACED, async || {
            self.sandbox
                .agents
                .iter()
                .find_map(|agent| agent.log().lines().find(|line| line.contains(text)).map(str::to_owned))
        })
        .await
    }
}

#[tokio::test]
async fn a_killed_agent_is_replaced_without_a_hole() {
    let mut rig = Rig::start(three(), &QUICK).await;
    let slicer = rig.slicer("rs0").await;
    rig.goes_on(2).await;
    let at = rig.member(&slicer);
    rig.sandbox.agents[at].kill();
    rig.write(3).await;
    let other = rig.replaced(&slicer).await;
    assert_ne!(rig.member(&other), at);
    rig.goes_on(4).await;

    // Alone on its node, an agent that starts again takes up its own lock soon.
    let at = rig.member(&other);
    for n in 0..3 {
        if n != at {
            rig.sandbox.agents[n].kill();
        }
    }
    rig.sandbox.agents[at].kill();
    rig.sandbox.agents[at] = Agent::start(&rig.sandbox.programs, &rig.sandbox.set.uri_of(at));
    rig.goes_on(5).await;
}

#[tokio::test]
async fn a_signal_saves_the_last_writes() {
    let mut rig = Rig::start(Options::default(), &["pitr.oplogSpanMin=10"]).await;
    rig.slicer("rs0").await;
    rig.logged("slicing the oplog of").await;
    let last = rig.write(2).await;
    assert!(rig.sandbox.agents[0].terminate().await.success());
    let chunks = rig.chunks().await;
    assert!(chunks.last().is_some_and(|chunk| chunk.end_ts >= last), "{last}: {chunks:?}");
    rig.assert_whole(&chunks, &rig.client).await;
    let locks = rig.client.database("admin").collection::<Document>("pbmLockOp");
    assert_eq!(locks.count_documents(doc! {}).await.expect("count"), 0);
}

/// The slicer's node becomes the primary, then priorities call another one.
#[tokio::test]
async fn a_primary_and_a_node_of_less_priority_give_the_work_away() {
    let rig = Rig::start(three(), &QUICK).await;
    let slicer = rig.slicer("rs0").await;
    rig.goes_on(2).await;
    let at = rig.member(&slicer);
    assert_ne!(rig.sandbox.set.primary().await, at, "a secondary comes first");
    let node = rig.sandbox.set.client_of(at).await;
    wait::until("the slicer's node to become the primary", USUAL, async || {
        // Refused while it lags behind or an election is under way.
        let _ = node.database("admin").run_command(doc! { "replSetStepUp": 1 }).await;
        (rig.sandbox.set.primary().await == at).then_some(())
    })
    .await;
    let other = rig.replaced(&slicer).await;
    assert_ne!(other, slicer);
    rig.goes_on(3).await;
    rig.set(&format!("pitr.priority={{\"{slicer}\": 5}}"));
    assert_eq!(rig.replaced(&other).await, slicer);
    rig.goes_on(4).await;
}

/// An agent that is stopped for longer than the stale limit and wakes up adds nothing to what another one goes on with.
#[tokio::test]
async fn a_sleeper_that_wakes_up_does_no_harm() {
    let rig = Rig::start(three(), &QUICK).await;
    let slicer = rig.slicer("rs0").await;
    rig.goes_on(2).await;
    let at = rig.member(&slicer);
    rig.sandbox.agents[at].signal("STOP");
    rig.replaced(&slicer).await;
    rig.goes_on(3).await;
    rig.sandbox.agents[at].signal("CONT");
    wait::until("the sleeper to notice", REPLACED, async || {
        let log = rig.sandbox.agents[at].log();
        (log.contains("held by another agent") || log.contains("could not be refreshed")).then_some(())
    })
    .await;
    rig.goes_on(4).await;
}

/// The storage refuses everything for a while: retried, told, and nothing is missing afterwards.
#[tokio::test]
async fn a_storage_that_refuses_is_waited_for() {
    let rig = Rig::start(Options::default(), &QUICK).await;
    rig.goes_on(2).await;
    let folder = rig.sandbox.store().join(PITR);
    let aside = rig.sandbox.store().join("aside");
    fs::rename(&folder, &aside).expect("move the chunks away");
    fs::write(&folder, "in the way").expect("put a file in their place");
    let during = rig.write(3).await;
    rig.logged("is not saved yet").await;
    let pitr = rig.client.database("admin").collection::<Document>("pbmPITR");
    let report = wait::until("the error to be told", USUAL, async || {
        let state = pitr.find_one(doc! {}).await.ok()??;
        state.get_array("replsets").ok()?.first().and_then(|r| r.as_document()).cloned()
    })
    .await;
    let told = |field: &str| report.get_str(field).expect("a text");
    assert_eq!((told("name"), told("status")), ("rs0", "error"), "{report}");
    assert!(rig.chunks().await.iter().all(|chunk| chunk.end_ts < during));
    fs::remove_file(&folder).expect("remove the file");
    fs::rename(&aside, &folder).expect("put the chunks back");
    rig.goes_on(4).await;
    wait::until("the error to go", USUAL, async || {
        let state = pitr.find_one(doc! {}).await.ok()??;
        state.get_array("replsets").ok()?.is_empty().then_some(())
    })
    .await;
}

/// While no agent ran, the oplog lost what had not been saved: a gap that is told with its times.
#[tokio::test]
async fn an_oplog_that_rolled_over_is_a_gap_with_its_times() {
    let options = Options { oplog_mb: 1, ..Options::default() };
    let mut rig = Rig::start(options, &QUICK).await;
    rig.goes_on(2).await;
    rig.sandbox.agents[0].terminate().await;
    let before = rig.chunks().await;
    let end = before.last().expect("a chunk").end_ts;
    let oplog = rig.client.database("local").collection::<Document>("oplog.rs");
    let big = rig.client.database("shop").collection::<Document>("big");
    wait::until("the oplog to lose the end of the last chunk", REPLACED, async || {
        let text = "x".repeat(100_000);
        big.insert_many((0..10).map(|_| doc! { "text": &text })).await.expect("insert");
        // Only what is in a checkpoint may go.
        rig.client.database("admin").run_command(doc! { "fsync": 1 }).await.expect("fsync");
        let oldest = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.expect("read").expect("an entry");
        (oldest.get_timestamp("ts").expect("ts") > end).then_some(())
    })
    .await;
    rig.sandbox.agents[0] = Agent::start(&rig.sandbox.programs, &rig.sandbox.set.uri_of(0));
    let told = rig.logged("gap: the oplog lost its entries").await;
    assert!(told.contains(&pbmbox::layout::format_ts(end)), "{told}");
    let until = rig.write(3).await;
    let chunks = rig.saved("rs0", until).await;
    let after: Vec<_> = chunks.iter().filter(|chunk| chunk.start_ts > end).cloned().collect();
    assert_eq!(before.len() + after.len(), chunks.len(), "nothing covers the gap");
    rig.assert_whole(&after, &rig.client).await;
}

/// A secondary that synced anew has no oplog of before. It comes first, and must not end the timeline for that.
#[tokio::test]
async fn a_member_that_synced_anew_leaves_the_work_to_one_that_has_the_oplog() {
    let mut rig = Rig::start(three(), &QUICK).await;
    rig.slicer("rs0").await;
    rig.goes_on(2).await;
    rig.set("pitr.enabled=false");
    rig.no_slicer().await;
    for agent in &mut rig.sandbox.agents {
        agent.terminate().await;
    }
    rig.write(3).await;
    let primary = rig.sandbox.set.primary().await;
    let fresh = (primary + 1) % 3;
    rig.sandbox.set.kill(fresh);
    rig.sandbox.set.wipe(fresh);
    rig.sandbox.set.restart(fresh);
    let node = rig.sandbox.set.client_of(fresh).await;
    wait::until("the member to sync", REPLACED, async || {
        let hello = node.database("admin").run_command(doc! { "hello": 1 }).await.ok()?;
        hello.get_bool("secondary").is_ok_and(|yes| yes).then_some(())
    })
    .await;
    for n in [primary, fresh] {
        rig.sandbox.agents[n] = Agent::start(&rig.sandbox.programs, &rig.sandbox.set.uri_of(n));
    }
    let agents = rig.client.database("admin").collection::<Document>("pbmAgents");
    wait::until("both agents", USUAL, async || {
        (agents.count_documents(doc! { "pbms.ok": true, "nodes.ok": true, "stors.ok": true }).await.ok()? == 2)
            .then_some(())
    })
    .await;
    rig.set("pitr.enabled=true");
    rig.goes_on(4).await;
    rig.logged("does not: it is left to that node's agent").await;
}

/// A restore ends the timeline; a new one begins after it, and slicing goes on as it was.
#[tokio::test]
async fn a_restore_begins_a_new_timeline() {
    let rig = Rig::start(Options::default(), &QUICK).await;
    let backup = rig.sandbox.backup(&[]);
    rig.goes_on(2).await;
    rig.sandbox.pbm(&["restore", &backup, "--wait", "-y"]).ok();
    let restores = rig.client.database("admin").collection::<Document>("pbmRestores");
    let restore = restores.find_one(doc! {}).await.expect("read").expect("a restore");
    let changed: Timestamp = restore.get_timestamp("changed_from").expect("when it began to change data");
    let until = rig.write(3).await;
    let chunks = rig.saved("rs0", until).await;
    let (old, new): (Vec<_>, Vec<_>) = chunks.into_iter().partition(|chunk| chunk.end_ts <= changed);
    assert!(!old.is_empty() && new[0].start_ts > changed, "{changed}: {old:?} {new:?}");
    let drop = doc! { "op": "c", "o.drop": "orders", "ts": { "$gt": changed } };
    let oplog = rig.client.database("local").collection::<Document>("oplog.rs");
    let drop = oplog.find_one(drop).await.expect("read").expect("the restore dropped it");
    assert!(drop.get_timestamp("ts").expect("ts") < new[0].start_ts, "nothing of the restore is in the new timeline");
    rig.assert_whole(&new, &rig.client).await;
    assert_eq!(chunk_files(&rig).len(), old.len() + new.len());
}
