//! Simulates the protocol of the agents: a sharded cluster in which agents are killed, suspended and disconnected,
//! calls are delayed and lost, and primaries change. A seed decides what happens. Time is virtual.
//!
//! # What is real
//! The agents' lines (`heartbeat`), the reaper (`reap`), leading (`nominate`), the gates (`op`), the lock with its heartbeats (`lease`),
//! the handler of the backup command, the rendezvous, supervision and the end of a backup, the balancer's debt, the stream of
//! commands, the bell, and every filter and update of the control collections.
//!
//! # What is replaced
//! The servers ([`crate::control::memory`], and each agent's own mongod), the data and the order of a backup's steps
//! ([`agent`]), the command line, and the dispatcher's table of running operations.
//!
//! # Rules
//! At most one worker writes the data of a replica set. The status `done` means that every part is done and the
//! metadata file exists. No operation ends twice. After the last fault, every operation ends, every lock is released,
//! every debt is paid and every clean-up is done.
//!
//! # When a seed fails
//! The test prints the seed with its story. `PBM_SIM_SEED=<seed>` runs only this seed, 30 times, because tokio chooses
//! at random between branches of `select!` that are ready at the same instant. `PBM_SIM_SEEDS=<n>` runs this many
//! seeds.

mod agent;
mod process;
mod world;

pub(in crate::agent) use {
    agent::node,
    process::Process,
    world::{Host, World},
};

use crate::control::{Control, Order};
use crate::model::{
    command::BackupCmd,
    config::{Config, StorageConf},
    names,
};
use agent::Tasks;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};
use world::Processes;

/// The number of seeds in a normal run.
const SEEDS: u64 = 500;
/// How long faults happen, in seconds.
const TROUBLE: u64 = 100;
/// How long everything may take to end after the last fault.
const REST: Duration = Duration::from_secs(240);

/// The failure of a seed.
struct Failure {
    seed: u64,
    broken: Vec<String>,
    story: String,
}

/// Counts events of all seeds, to show that the simulation reaches the cases that it is made for.
#[derive(Default)]
struct Reached {
    done: AtomicU64,
    failed: AtomicU64,
    canceled: AtomicU64,
}

fn run(seed: u64, reached: &Reached) -> Option<Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let world = World::new(seed);
        simulate(&world).await;
        for document in world.cluster.documents(names::BACKUPS) {
            let count = match document.get_str("status") {
                Ok("done") => &reached.done,
                Ok("canceled") => &reached.canceled,
                _ => &reached.failed,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        let broken = world.broken();
        (!broken.is_empty()).then(|| Failure { seed, broken, story: world.story() })
    })
}

async fn simulate(world: &Arc<World>) {
    let operator = agent::control(world, Host { rs: "cfg", at: 0 });
    configure(&operator).await;
    let tasks = Tasks::default();
    let mut processes: Processes = Host::all().map(|host| (host, agent::start(world, host, &tasks))).collect();
    sleep(Duration::from_secs(6)).await;
    // None of these tasks ends by itself.
    let _ = timeout(Duration::from_secs(TROUBLE), async {
        tokio::join!(send_commands(world), make_trouble(world, &mut processes, &tasks), watch(world))
    })
    .await;

    world.calm();
    for host in Host::all() {
        let process = processes.remove(&host).filter(|process| !process.is_dead());
        let process = process.unwrap_or_else(|| agent::start(world, host, &tasks));
        process.go_on();
        processes.insert(host, process);
    }
    world.note("the faults are over");
    let rested = timeout(REST, async {
        while !world.unfinished().is_empty() {
            sleep(Duration::from_secs(1)).await;
            world.check();
        }
    });
    if rested.await.is_err() {
        world.break_rule(format!("not everything came to its end: {}", world.unfinished().join(", ")));
    }
    world.check();
    for process in processes.values() {
        process.kill();
    }
    let all: Vec<_> = std::mem::take(&mut *tasks.lock().unwrap_or_else(PoisonError::into_inner));
    for task in all {
        if let Err(error) = task.await {
            world.break_rule(format!("an agent panicked: {error}"));
        }
    }
}

/// Replaces the command line: sends backups and cancels some of them.
async fn send_commands(world: &Arc<World>) {
    let operator = agent::control(world, Host { rs: "cfg", at: 0 });
    for n in 0.. {
        let backup = BackupCmd { name: format!("backup {n}"), ..empty_backup() };
        match operator.commands.send(Order::Backup(backup)).await {
            Ok(opid) => world.note(format!("backup {n} is asked for: {opid}")),
            Err(error) => world.note(format!("backup {n} is not asked for: {error:#}")),
        }
        world.pause(3_000..40_000).await;
        if world.chance(15) {
            let sent = operator.commands.send(Order::CancelBackup).await;
            world.note(format!("cancel: {}", sent.is_ok()));
            world.pause(1_000..10_000).await;
        }
    }
}

/// Writes the configuration that every agent needs.
pub(in crate::agent) async fn configure(control: &Control) {
    let storage = StorageConf { kind: "blackhole".into(), ..StorageConf::default() };
    let config = Config { storage, ..Config::default() };
    let epoch = control.cluster_time().await.expect("the time");
    control.config.replace_main(&config, epoch).await.expect("a configuration");
}

fn empty_backup() -> BackupCmd {
    bson::deserialize_from_document(bson::doc! { "name": "", "compression": "none" }).expect("a command")
}

async fn make_trouble(world: &Arc<World>, processes: &mut Processes, tasks: &Tasks) {
    loop {
        world.pause(1_000..25_000).await;
        let host = world.host();
        let name = host.name();
        match world.pick(0..6) {
            0 => {
                world.note(format!("{name} is killed"));
                processes[&host].kill();
                world.pause(100..60_000).await;
                world.note(format!("{name} starts again"));
                processes.insert(host, agent::start(world, host, tasks));
            }
            1 | 2 => {
                world.note(format!("{name} is stopped"));
                processes[&host].stop();
                world.pause(1_000..80_000).await;
                world.note(format!("{name} goes on"));
                processes[&host].go_on();
            }
            3 => {
                let seconds = world.pick(1..110);
                world.note(format!("{name} is cut off for {seconds} s"));
                world.cut_off(host, Duration::from_secs(seconds));
            }
            4 => {
                world.note(format!("{name} is the primary"));
                world.elect(host);
            }
            _ => {
                let (lost, slow) = (world.pick(0..60), world.pick(1..3_000));
                world.note(format!("{lost} of 1000 messages are lost, each takes up to {slow} ms"));
                world.worsen(u32::try_from(lost).unwrap_or(0), slow);
                world.pause(5_000..40_000).await;
                world.worsen(0, 0);
            }
        }
    }
}

async fn watch(world: &Arc<World>) {
    loop {
        sleep(Duration::from_millis(500)).await;
        world.check();
    }
}

#[test]
fn the_agents_keep_their_promises_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("PBM_SIM_SEED") {
        Some(seed) => vec![seed; 30],
        None => (0..number("PBM_SIM_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let began = std::time::Instant::now();
    let (next, failures, reached) = (AtomicU64::new(0), Mutex::new(Vec::new()), Reached::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let take = || usize::try_from(next.fetch_add(1, Ordering::Relaxed)).ok();
                while let Some(seed) = take().and_then(|at| seeds.get(at)) {
                    let failure = run(*seed, &reached);
                    failures.lock().unwrap_or_else(PoisonError::into_inner).extend(failure);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let [done, failed, canceled] =
        [&reached.done, &reached.failed, &reached.canceled].map(|it| it.load(Ordering::Relaxed));
    eprintln!(
        "{} seeds in {:.1} s: {done} backups done, {failed} failed, {canceled} cancelled; {} seeds broke a rule",
        seeds.len(),
        began.elapsed().as_secs_f64(),
        failures.len()
    );
    for Failure { seed, broken, .. } in &failures {
        eprintln!("seed {seed}: {}", broken[0]);
    }
    if let Some(Failure { seed, broken, story }) = failures.first() {
        panic!("seed {seed} (PBM_SIM_SEED={seed} repeats it):\n{story}\n{}", broken.join("\n"));
    }
    assert!(done > 0 && failed > 0, "the seeds do not reach what they are to test");
}
