//! `pitr.maxLossSec`: what an agent's death can cost.

use super::{Rig, USUAL};
use crate::support::cluster::Options;
use crate::support::programs::{Agent, Sandbox};
use crate::support::wait;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(5);
/// A chunk of a few documents is stored in less, on a machine that has other things to do.
const UPLOAD: Duration = Duration::from_secs(2);

/// The agent is killed at random moments; another cluster restores from what is on the storage.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_loses_no_more_than_the_limit() {
    let mut rig = Rig::start(Options::default(), &["pitr.oplogSpanMin=1", "pitr.maxLossSec=5"]).await;
    rig.slicer("rs0").await;
    rig.sandbox.backup(&[]);
    let written: Arc<Mutex<Vec<(i32, Instant)>>> = Arc::default();
    let stop = tokio_util::sync::CancellationToken::new();
    let writer = tokio::spawn({
        let (client, written, stop) = (rig.client.clone(), written.clone(), stop.clone());
        async move {
            let coll = client.database("shop").collection::<Document>("stream");
            for n in 0.. {
                if stop.is_cancelled() {
                    return;
                }
                let majority = mongodb::options::WriteConcern::majority();
                coll.insert_one(doc! { "_id": n }).write_concern(majority).await.expect("insert");
                written.lock().expect("no panic").push((n, Instant::now()));
            }
        }
    });
    for run in 0..2 {
        let slicing = rig.now().await;
        rig.saved("rs0", slicing).await;
        let pause = LIMIT + UPLOAD + Duration::from_millis(rand::random_range(500..7000));
        eprintln!("run {run}: killed after {pause:?}");
        // The random moment is what is tested.
        tokio::time::sleep(pause).await;
        rig.sandbox.agents[0].kill();
        let killed = Instant::now();
        let safe: Vec<i32> = written
            .lock()
            .expect("no panic")
            .iter()
            .filter(|(_, at)| *at + LIMIT + UPLOAD < killed)
            .map(|(n, _)| *n)
            .collect();
        assert!(!safe.is_empty());

        let target = Sandbox::unconfigured(Options::default()).await;
        target.configure_at(&rig.sandbox.store(), &[]).await;
        target.pbm(&["config", "--force-resync", "--wait"]).ok();
        target.pbm(&["restore", "--time", "latest", "--wait", "-y"]).ok();
        let coll = target.set.client().await.database("shop").collection::<Document>("stream");
        let found: Vec<Document> = coll.find(doc! {}).await.expect("read").try_collect().await.expect("read");
        let there: std::collections::HashSet<i32> = found.iter().map(|d| d.get_i32("_id").expect("a number")).collect();
        let lost: Vec<&i32> = safe.iter().filter(|n| !there.contains(n)).collect();
        assert!(lost.is_empty(), "{} of {} safe writes are lost, from {:?} on", lost.len(), safe.len(), lost[0]);
        eprintln!(
            "run {run}: {} writes, {} safe, {} restored",
            written.lock().expect("no panic").len(),
            safe.len(),
            there.len()
        );

        rig.sandbox.agents[0] = Agent::start(&rig.sandbox.programs, &rig.sandbox.set.uri_of(0));
        wait::until("the agent to slice again", USUAL, async || {
            rig.sandbox.agents[0].log().contains("slicing the oplog of").then_some(())
        })
        .await;
    }
    stop.cancel();
    writer.await.expect("the writer");
}
