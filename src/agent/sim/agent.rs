//! An agent in a simulated process. It runs the real tasks over the cluster in memory; only the data of backups is
//! replaced.

use super::{
    process::Process,
    world::{Host, Mongod, Way, World},
};
use crate::agent::{
    dispatch::too_late,
    heartbeat,
    heartbeat_thread::Pulse,
    node::Node,
    ops::{Task, backup},
    reap,
};
use crate::backup::{self as recipe, Job};
use crate::control::{Control, ControlBoard, Order, Place, Queued, memory::Link};
use crate::model::{backup::BackupMeta, status::Status};
use crate::mongo::nowhere;
use crate::operation::{Cx, balancer};
use crate::rendezvous::{Cancel, Early, Role, arrive, reach};
use anyhow::{Result, bail};
use bson::doc;
use futures::{FutureExt, future::BoxFuture};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How long the replica sets have to begin a backup.
const STARTING: Duration = Duration::from_secs(33);

pub(in crate::agent) fn control(world: &Arc<World>, host: Host) -> Control {
    let way = Arc::new(Way { world: world.clone(), host });
    Control::in_memory(Link::new(&world.cluster, way), nowhere::client())
}

/// The tasks of all processes, so that the test notices if one of them panics.
pub(super) type Tasks = Arc<Mutex<Vec<JoinHandle<()>>>>;

fn spawn(tasks: &Tasks, process: &Process, work: impl Future<Output = ()> + Send + 'static) {
    tasks.lock().unwrap_or_else(PoisonError::into_inner).push(tokio::spawn(process.run(work)));
}

/// Creates the connections and the state of an agent beside the mongod of `host`.
pub(in crate::agent) fn node(world: &Arc<World>, host: Host, process: &Process) -> Arc<Node> {
    let pulse = Pulse::simulated(control(world, host), process.clone());
    let mongod = Arc::new(Mongod { world: world.clone(), host });
    Arc::new(Node::in_memory(control(world, host), pulse, mongod, [host.rs, &host.name(), "cfg"]))
}

/// Starts an agent beside the mongod of `host`.
pub(super) fn start(world: &Arc<World>, host: Host, tasks: &Tasks) -> Process {
    let process = Process::default();
    let (node, never) = (node(world, host, &process), CancellationToken::new());
    let bell = node.control.bell.clone();
    let stop = never.clone();
    spawn(tasks, &process, async move { bell.follow(stop).await });
    spawn(tasks, &process, heartbeat::keep(node.clone(), never.clone()));
    spawn(tasks, &process, reap::keep(node.clone(), never));
    let work = take_commands(world.clone(), node, process.clone(), tasks.clone());
    spawn(tasks, &process, work);
    process
}

/// Replaces the dispatcher: each command runs in its own task.
async fn take_commands(world: Arc<World>, node: Arc<Node>, process: Process, tasks: Tasks) {
    let place: Place = loop {
        match node.control.commands.end().await {
            Ok(place) => break place,
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    };
    let (send, mut commands) = mpsc::channel(16);
    let follow = node.control.commands.follow(place, send, CancellationToken::new());
    let take = async {
        let mut running: Vec<Cancel> = Vec::new();
        while let Some(queued) = commands.recv().await {
            if queued.order == Order::CancelBackup {
                running.drain(..).for_each(|cancel| cancel.end(Early::Asked));
                continue;
            }
            let cancel = Cancel::default();
            running.push(cancel.clone());
            spawn(&tasks, &process, carry_out(world.clone(), node.clone(), queued, cancel));
        }
    };
    tokio::join!(follow, take);
}

async fn carry_out(world: Arc<World>, node: Arc<Node>, queued: Queued, cancel: Cancel) {
    let opid = queued.id.to_hex();
    if let Ok(Some(why)) = too_late(&node, queued.order.event(), &opid, queued.until).await {
        world.note(format!("{}: {why}", node.me()));
        return;
    }
    let Order::Backup(command) = queued.order else { return };
    let (me, operation) = (node.me(), command.name.clone());
    let task = Task { node, opid, epoch: None, cancel };
    let data = world.clone();
    let run = recipe_of(move |cx, _| {
        let world = data.clone();
        async move { recipe::carry_out(cx, async |board| write_data(&world, cx, board).await).await }.boxed()
    });
    if let Err(error) = backup::take_part(task, command, run).await {
        world.note(format!("{me}: {operation}: {error:#}"));
    }
}

/// Helps the compiler to infer the type of a recipe.
fn recipe_of<F: for<'a, 'b> Fn(&'a Cx, &'b Job) -> BoxFuture<'a, Result<()>>>(recipe: F) -> F {
    recipe
}

/// Replaces the recipe of a logical backup: it has the same steps, but writes no data.
async fn write_data(world: &World, cx: &Cx, board: &ControlBoard<BackupMeta>) -> Result<()> {
    world.pause(0..500).await;
    let part = doc! { "name": &cx.rs, "status": "running", "node": &cx.me };
    cx.control.backups.add_member(&cx.name, &cx.rs, &bson::deserialize_from_document(part)?).await?;
    arrive(board, cx.role, Status::Running, Some(STARTING), &cx.cancel, async || Ok(())).await?;
    for _ in 0..world.pick(5..140) {
        world.write(&cx.rs, &cx.name, &cx.me);
        world.pause(50..900).await;
    }
    reach(board, cx.role, Status::DumpDone, None, &cx.cancel, async || Ok(())).await?;
    world.write(&cx.rs, &cx.name, &cx.me);
    world.pause(0..2000).await;
    world.write(&cx.rs, &cx.name, &cx.me);
    world.complete(&cx.rs, &cx.name);
    let last = async || {
        world.pause(0..500).await;
        world.write(&cx.rs, &cx.name, &cx.me);
        world.finish(&cx.name);
        if cx.role == Role::Leader {
            balancer::give_back(&cx.control, &cx.control.backups, &cx.name).await?;
        }
        Ok(())
    };
    reach(board, cx.role, Status::Done, None, &cx.cancel, last).await?;
    match cx.control.backups.get(&cx.name).await? {
        Some(meta) if meta.status == Status::Done => Ok(()),
        _ => bail!("the backup was ended by somebody else while it finished"),
    }
}
