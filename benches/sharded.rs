//! Sharded clusters: do two shards cost more time than the slower one alone, and what does the protocol cost?
//!
//! `cargo bench --bench sharded [-- MIB] [shards|idle|agents]` prints, from one run:
//!
//! - backup and restore of a cluster whose data (that many MiB, 400 by default) is on one shard, and then on two shards with
//!   as much on each; every shard with its agent has one core for itself, so that the ratio tells what they wait for each other;
//! - a backup of a few documents on 2 x 3 + 3 nodes, and what its 9 agents ask of the config servers' primary while idle;
//! - 300 agents of 100 replica sets against one config server, played by this program through the real control layer: how
//!   long until every replica set has an agent, and until all have passed every step.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod support;

use futures::future::join_all;
use mongodb::bson::{Document, Timestamp, doc};
use mongodb::{Client, options::ClientOptions};
use pbmbox::control::{Control, ControlBoard, Order, Queued, TakeLock};
use pbmbox::model::agent::AgentStat;
use pbmbox::model::backup::{BackupMeta, BackupReplset};
use pbmbox::model::command::BackupCmd;
use pbmbox::model::lock::LockHeader;
use pbmbox::model::status::Status;
use pbmbox::rendezvous::{Role, arrive, reach};
use std::time::{Duration, Instant};
use support::cluster::{Options, ReplicaSet};
use support::sharded::{ShardedSandbox, TWO_SHARDS};
use tokio_util::sync::CancellationToken;

fn timed(what: impl FnOnce()) -> f64 {
    let since = Instant::now();
    what();
    since.elapsed().as_secs_f64()
}

/// All threads of a process to one core.
fn pin(pid: u32, core: usize) {
    let mut taskset = std::process::Command::new("taskset");
    taskset.args(["-a", "-c", "-p", &core.to_string(), &pid.to_string()]);
    // It fails when a thread ends between its two looks.
    let done = (0..10).any(|_| taskset.output().expect("run taskset, of the package util-linux").status.success());
    assert!(done, "pin {pid} to core {core}");
}

async fn load(client: &Client, db: &str, mib: usize) {
    let filler = "shipped to the customer, paid by card, ".repeat(22);
    let mut id = 0_i64;
    for _ in 0..mib.div_ceil(8) {
        let batch: Vec<Document> = (0..8192)
            .map(|_| {
                id += 1;
                doc! { "_id": id, "n": id % 977, "text": &filler, "more": format!("{:x}", id.wrapping_mul(0x9e37_79b9)) }
            })
            .collect();
        client.database(db).collection(db).insert_many(batch).await.expect("insert");
    }
}

async fn two_shards(mib: usize) {
    let options = Options { cache_gb: 1.0, ..Options::default() };
    let sandbox = ShardedSandbox::sharded(options, TWO_SHARDS).await;
    // One core for each shard, alone or not: else a shard alone has the cores of both, and the ratio tells only that.
    for (core, shard) in sandbox.set.shards.iter().enumerate() {
        pin(shard.set.pid_of(0), core);
        // The first agent is that of the config server.
        pin(sandbox.agents[core + 1].pid(), core);
    }
    let mut alone = None;
    for (db, shard) in [("first", "rs1"), ("second", "shardB")] {
        sandbox.set.create_database(db, shard).await;
        load(&sandbox.set.shard(shard).set.client().await, db, mib).await;
        let mut name = String::new();
        let backup = timed(|| name = sandbox.backup(&[]));
        let restore = timed(|| drop(sandbox.pbm(&["restore", &name, "--wait", "-y"]).ok()));
        match alone {
            None => println!("{mib} MiB on one shard:    backup {backup:.2} s, restore {restore:.2} s"),
            Some((b, r)) => println!(
                "{mib} MiB on each of two: backup {backup:.2} s ({:.2}x), restore {restore:.2} s ({:.2}x)",
                backup / b,
                restore / r
            ),
        }
        alone.get_or_insert((backup, restore));
    }
}

/// Operations that the node has done since it was started.
async fn operations(client: &Client) -> i64 {
    let status = client.database("admin").run_command(doc! { "serverStatus": 1 }).await.expect("serverStatus");
    let counters = status.get_document("opcounters").expect("opcounters");
    counters.iter().filter_map(|(_, n)| n.as_i64().or_else(|| n.as_i32().map(i64::from))).sum()
}

async fn nine_agents() {
    let sandbox = ShardedSandbox::sharded(Options { members: 3, ..Options::default() }, TWO_SHARDS).await;
    let sample = sandbox.set.shard("rs1").set.client().await.database("t").collection("c");
    sample.insert_many((0..10).map(|n| doc! { "_id": n })).await.expect("insert");
    println!("2 x 3 + 3 nodes: backup of ten documents {:.2} s", timed(|| drop(sandbox.backup(&[]))));

    let config = &sandbox.set.config;
    let primary = config.client_of(config.primary().await).await;
    const SPAN: Duration = Duration::from_secs(20);
    let measure = async || {
        let before = operations(&primary).await;
        // What idle agents do can only be seen by waiting.
        tokio::time::sleep(SPAN).await;
        (operations(&primary).await - before) as f64 / SPAN.as_secs_f64()
    };
    let with = measure().await;
    let agents = sandbox.agents.len() as f64;
    let mut sandbox = sandbox;
    sandbox.agents.clear();
    let config = &sandbox.set.config;
    let primary = config.client_of(config.primary().await).await;
    let before = operations(&primary).await;
    tokio::time::sleep(SPAN).await;
    let without = (operations(&primary).await - before) as f64 / SPAN.as_secs_f64();
    println!(
        "9 idle agents: {:.1} operations per second on the config primary ({without:.1} without agents): {:.2} per agent",
        with,
        (with - without) / agents
    );
}

const SETS: usize = 100;
const MEMBERS: usize = 3;

/// One agent as the others see it: its line, the bell, the commands, and its part of a backup.
struct Played {
    control: Control,
    rs: String,
    node: String,
    leads: bool,
}

impl Played {
    fn stat(&self, hb: Timestamp) -> AgentStat {
        AgentStat { v: "2.15.0".into(), mv: "6.0.5".into(), hb, ..AgentStat::healthy(&self.rs, &self.node, 2) }
    }

    async fn beat(&self) {
        loop {
            tokio::time::sleep(pbmbox::control::HEARTBEAT).await;
            drop(self.control.config.main().await);
            let hb = self.control.time_of_last_call().await.expect("the cluster time");
            self.control.agents.put(&self.stat(hb)).await.expect("a heartbeat");
        }
    }

    /// Takes part in the next backup. Gives the times when this agent's replica set was elected and when all was done.
    async fn play(
        &self,
        ready: tokio::sync::mpsc::Sender<()>,
        begun: &tokio::sync::OnceCell<Instant>,
    ) -> Option<(f64, f64)> {
        let stop = CancellationToken::new();
        let (send, mut commands) = tokio::sync::mpsc::channel(4);
        let (bell, list, ended) = (self.control.bell.clone(), self.control.commands.clone(), stop.clone());
        tokio::spawn(async move { bell.follow(ended).await });
        let ended = stop.clone();
        let place = list.end().await.expect("the queue");
        tokio::spawn(async move { list.follow(place, send, ended).await });
        let work = async {
            self.control
                .agents
                .put(&self.stat(self.control.cluster_time().await.expect("time")))
                .await
                .expect("a line");
            drop(ready);
            let Some(Queued { id, order: Order::Backup(backup), .. }) = commands.recv().await else {
                panic!("no backup was asked for")
            };
            let opid = id.to_hex();
            let (led, worked) = tokio::join!(self.lead(&opid, &backup), self.work(&opid, &backup, begun));
            led.expect("lead");
            worked.expect("work")
        };
        let done = tokio::select! {
            done = work => done,
            () = self.beat() => unreachable!("heartbeats have no end"),
        };
        stop.cancel();
        done
    }

    async fn lead(&self, opid: &str, backup: &BackupCmd) -> anyhow::Result<()> {
        if !self.leads {
            return Ok(());
        }
        let meta: BackupMeta = serde_json::from_value(serde_json::json!({
            "type": "logical", "opid": opid, "name": backup.name, "status": "starting", "pbm_version": "2.15.0",
        }))?;
        self.control.backups.insert(&meta).await?;
        let now = self.control.cluster_time().await?;
        let alive = self.control.agents.alive(now).await?;
        assert_eq!(
            alive.len(),
            SETS * MEMBERS,
            "all agents live at {now}: {:?}",
            alive.iter().map(|a| a.hb.time).min()
        );
        let rounds: Vec<(String, Vec<String>)> =
            (0..SETS).map(|n| (format!("rs{n}"), (0..MEMBERS).map(|m| format!("rs{n}-{m}:27017")).collect())).collect();
        self.control.backups.nominate_first(&backup.name, &rounds).await
    }

    async fn work(
        &self,
        opid: &str,
        backup: &BackupCmd,
        begun: &tokio::sync::OnceCell<Instant>,
    ) -> anyhow::Result<Option<(f64, f64)>> {
        let (control, name) = (&self.control, &backup.name);
        loop {
            let mut waiter = control.bell.waiter();
            if let Some((_, Some(round))) = control.backups.nomination(name, &self.rs).await? {
                if !round.ack.is_empty() {
                    return Ok(None);
                }
                if round.n.contains(&self.node) {
                    break;
                }
            }
            waiter.next().await;
        }
        let header = LockHeader {
            kind: "backup".into(),
            replset: self.rs.clone(),
            node: self.node.clone(),
            opid: opid.to_owned(),
            epoch: None,
        };
        match control.locks.try_take(&header, control.cluster_time().await?).await? {
            TakeLock::Taken => {}
            _ => return Ok(None),
        }
        control.backups.acknowledge(name, &self.rs, &self.node).await?;
        let since = begun.get().expect("the command was sent");
        let elected = since.elapsed().as_secs_f64();
        let part: BackupReplset = serde_json::from_value(serde_json::json!({ "name": self.rs, "status": "running" }))?;
        control.backups.add_member(name, &self.rs, &part).await?;
        let role = if self.leads_work() { Role::Leader } else { Role::Follower };
        let members = (0..SETS).map(|n| format!("rs{n}")).collect();
        let board: ControlBoard<BackupMeta> = ControlBoard::new(control, name, opid, &self.rs, members, role);
        let cancel = CancellationToken::new();
        arrive(&board, role, Status::Running, None, &cancel, async || Ok(())).await?;
        for step in [Status::DumpDone, Status::Done] {
            reach(&board, role, step, None, &cancel, async || Ok(())).await?;
        }
        let done = since.elapsed().as_secs_f64();
        control.locks.release(&header).await?;
        Ok(Some((elected, done)))
    }

    fn leads_work(&self) -> bool {
        self.rs == "rs0"
    }
}

async fn three_hundred_agents() {
    let set = ReplicaSet::start(Options::default()).await;
    let options = ClientOptions::parse(set.uri()).await.expect("a connection string");
    Control::new(Client::with_options(options.clone()).expect("a client")).set_up().await.expect("set up");
    let begun = &tokio::sync::OnceCell::new();
    let (ready, mut waiting) = tokio::sync::mpsc::channel(1);
    let agents: Vec<Played> = (0..SETS * MEMBERS)
        .map(|n| Played {
            control: Control::new(Client::with_options(options.clone()).expect("a client")),
            rs: format!("rs{}", n / MEMBERS),
            node: format!("rs{}-{}:27017", n / MEMBERS, n % MEMBERS),
            leads: n == 0,
        })
        .collect();
    let commander = Control::new(Client::with_options(options).expect("a client"));
    let plays = join_all(agents.iter().map(|agent| agent.play(ready.clone(), begun)));
    drop(ready);
    let command = async {
        // Ends when every agent has its line and has dropped its end.
        while waiting.recv().await.is_some() {}
        begun.set(Instant::now()).expect("once");
        let backup = BackupCmd {
            name: "2026-01-01T00:00:00Z".into(),
            ..serde_json::from_str(r#"{"type":"logical","name":""}"#).expect("a command")
        };
        commander.commands.send(Order::Backup(backup)).await.expect("send");
    };
    let (done, ()) = tokio::join!(plays, command);
    let times: Vec<(f64, f64)> = done.into_iter().flatten().collect();
    assert_eq!(times.len(), SETS, "every replica set had one agent");
    let last = |pick: fn(&(f64, f64)) -> f64| times.iter().map(pick).fold(0.0, f64::max);
    println!(
        "{} agents of {SETS} replica sets: all elected after {:.2} s, all steps passed after {:.2} s",
        SETS * MEMBERS,
        last(|times| times.0),
        last(|times| times.1)
    );
}

/// What can be run alone, by name.
const PARTS: [&str; 3] = ["shards", "idle", "agents"];

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mib = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(400);
    let part = |name: &str| args.iter().any(|arg| arg == name) || !args.iter().any(|arg| PARTS.contains(&arg.as_str()));
    if part("shards") {
        two_shards(mib).await;
    }
    if part("idle") {
        nine_agents().await;
    }
    if part("agents") {
        three_hundred_agents().await;
    }
}
