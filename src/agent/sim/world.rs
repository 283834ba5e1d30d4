//! The state that all agents of a simulation share: the cluster, the faults, the data that they write, and the rules to
//! check.

use super::process::Process;
use crate::control::memory::{Cluster, Network};
use crate::model::{names, status::Status};
use crate::mongo::Server;
use bson::{Bson, Document, doc};
use futures::{FutureExt, future::BoxFuture};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until};

/// The replica set of the config servers, which leads, and a shard.
pub(in crate::agent) const SETS: [&str; 2] = ["cfg", "rs1"];
/// The number of members of each replica set.
pub(in crate::agent) const MEMBERS: usize = 2;

/// One member of a replica set, with an agent beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::agent) struct Host {
    pub rs: &'static str,
    pub at: usize,
}

impl Host {
    pub fn all() -> impl Iterator<Item = Self> {
        SETS.into_iter().flat_map(|rs| (0..MEMBERS).map(move |at| Self { rs, at }))
    }

    pub fn name(self) -> String {
        format!("{}-{}:27017", self.rs, self.at)
    }
}

/// How often calls to the leader replica set fail or are slow.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// Of 1000 calls, this many are lost before the servers receive them, and this many after the servers have executed
    /// them.
    lost: u32,
    /// The longest delay of a call, in milliseconds.
    slow: u64,
}

#[derive(Debug)]
pub(in crate::agent) struct World {
    pub cluster: Arc<Cluster>,
    rng: Mutex<StdRng>,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    weather: Weather,
    /// The time until which an agent can't reach the leader replica set.
    cut_off: HashMap<Host, Instant>,
    primary: HashMap<&'static str, usize>,
    /// The operation and the node that write the data of a replica set now, and those that wrote it before.
    writer: HashMap<String, (String, String)>,
    past: HashMap<String, HashSet<(String, String)>>,
    /// For each operation, the replica sets that have written all of their data.
    complete: BTreeMap<String, BTreeSet<String>>,
    /// The operations whose metadata file, the last step, was written.
    finished: BTreeSet<String>,
    broken: Vec<String>,
    story: Vec<String>,
}

impl World {
    pub fn new(seed: u64) -> Arc<Self> {
        let cluster = Cluster::new();
        cluster.answer("hello", doc! { "setName": "cfg", "configsvr": 2 });
        let place = |rs: &str| {
            let hosts: Vec<String> = Host::all().filter(|host| host.rs == rs).map(Host::name).collect();
            Bson::from(format!("{rs}/{}", hosts.join(",")))
        };
        cluster.answer("getShardMap", doc! { "map": { "config": place("cfg"), "rs1": place("rs1") } });
        let state = State { primary: SETS.map(|rs| (rs, 0)).into(), ..State::default() };
        Arc::new(Self {
            cluster,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            begun: Instant::now(),
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pick(&self, range: Range<u64>) -> u64 {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).random_range(range)
    }

    /// Returns true in this many of 100 cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.pick(0..100) < percent
    }

    pub fn host(&self) -> Host {
        let at = usize::try_from(self.pick(0..(SETS.len() * MEMBERS) as u64)).unwrap_or(0);
        Host { rs: SETS[at / MEMBERS], at: at % MEMBERS }
    }

    pub async fn pause(&self, milliseconds: Range<u64>) {
        sleep(Duration::from_millis(self.pick(milliseconds))).await;
    }

    /// Adds a line to the story that a failed seed prints.
    pub fn note(&self, line: impl AsRef<str>) {
        let at = self.begun.elapsed();
        self.lock().story.push(format!("{:8.3} {}", at.as_secs_f64(), line.as_ref()));
    }

    pub fn break_rule(&self, rule: impl AsRef<str>) {
        self.note(format!("BROKEN: {}", rule.as_ref()));
        self.lock().broken.push(rule.as_ref().to_owned());
    }

    pub fn broken(&self) -> Vec<String> {
        self.lock().broken.clone()
    }

    pub fn story(&self) -> String {
        self.lock().story.join("\n")
    }

    pub fn is_primary(&self, host: Host) -> bool {
        self.lock().primary.get(host.rs) == Some(&host.at)
    }

    pub fn elect(&self, host: Host) {
        self.lock().primary.insert(host.rs, host.at);
    }

    pub fn cut_off(&self, host: Host, length: Duration) {
        self.lock().cut_off.insert(host, Instant::now() + length);
    }

    pub fn worsen(&self, lost: u32, slow: u64) {
        self.lock().weather = Weather { lost, slow };
    }

    /// Ends all faults: every call arrives from now on.
    pub fn calm(&self) {
        let mut state = self.lock();
        state.weather = Weather::default();
        state.cut_off.clear();
    }

    /// Records that a worker writes data of its replica set. It fails if another worker has begun there since.
    pub fn write(&self, rs: &str, operation: &str, node: &str) {
        let worker = (operation.to_owned(), node.to_owned());
        let mut state = self.lock();
        let replaced = match state.writer.insert(rs.to_owned(), worker.clone()) {
            Some(before) if before != worker => Some(before),
            Some(_) => return,
            None => None,
        };
        let past = state.past.entry(rs.to_owned()).or_default();
        past.extend(replaced);
        let again = past.contains(&worker);
        drop(state);
        self.note(format!("{node} writes data of {rs} for {operation}"));
        if again {
            self.break_rule(format!(
                "two workers of {rs} write: {node} goes on with {operation} after another has begun"
            ));
        }
    }

    /// Records that all data of the replica set is written.
    pub fn complete(&self, rs: &str, operation: &str) {
        self.note(format!("{rs} is complete for {operation}"));
        self.lock().complete.entry(operation.to_owned()).or_default().insert(rs.to_owned());
    }

    /// Records that the operation's last step is done.
    pub fn finish(&self, operation: &str) {
        self.lock().finished.insert(operation.to_owned());
    }

    /// Checks the rules that hold at any moment.
    pub fn check(&self) {
        for document in self.cluster.documents(names::BACKUPS) {
            self.check_operation(&document);
        }
    }

    fn check_operation(&self, document: &Document) {
        let name = document.get_str("name").unwrap_or_default();
        let is_final = |status: &str| {
            [Status::Done, Status::Canceled, Status::Error, Status::PartlyDone].iter().any(|it| it.as_str() == status)
        };
        let conditions = document.get_array("conditions").cloned().unwrap_or_default();
        let statuses = conditions.iter().filter_map(|it| it.as_document()?.get_str("status").ok());
        let ends: Vec<&str> = statuses.filter(|status| is_final(status)).collect();
        let status = document.get_str("status").unwrap_or_default();
        if ends.len() > 1 || ends.first().is_some_and(|end| *end != status) {
            self.break_rule(format!("{name} ended more than once: {ends:?}, now {status}"));
        }
        if status != Status::Done.as_str() {
            return;
        }
        let parts = document.get_array("replsets").cloned().unwrap_or_default();
        for rs in SETS {
            let is_done = |part: &Document| {
                part.get_str("name").is_ok_and(|name| name == rs) && part.get_str("status").is_ok_and(|it| it == status)
            };
            let done = parts.iter().filter_map(Bson::as_document).any(is_done);
            let written = self.lock().complete.get(name).is_some_and(|all| all.contains(rs));
            if !done || !written {
                self.break_rule(format!("{name} is done, but the part of {rs} is not"));
            }
        }
        if !self.lock().finished.contains(name) {
            self.break_rule(format!("{name} is done, but its metadata file is missing"));
        }
    }

    /// Lists everything that has not ended.
    pub fn unfinished(&self) -> Vec<String> {
        let mut left = Vec::new();
        for lock in self.cluster.documents(names::LOCK) {
            left.push(format!("the lock {lock}"));
        }
        for document in self.cluster.documents(names::BACKUPS) {
            let name = document.get_str("name").unwrap_or_default();
            let status = document.get_str("status").unwrap_or_default();
            let due = document.keys().find(|key| key.ends_with("_due"));
            if !["done", "canceled", "error"].contains(&status) {
                left.push(format!("{name}, which is {status}"));
            } else if let Some(due) = due {
                left.push(format!("{due} of {name}"));
            }
        }
        if !self.cluster.balancer_is_on() {
            left.push("the balancer is off".to_owned());
        }
        left
    }
}

/// The connection of an agent to the leader replica set.
#[derive(Debug)]
pub(in crate::agent) struct Way {
    pub world: Arc<World>,
    pub host: Host,
}

/// How long the driver searches for a primary.
const PATIENCE: Duration = Duration::from_secs(20);

impl Way {
    /// Passes a call in one direction. `lost` decides whether it is lost.
    async fn pass(&self) -> io::Result<()> {
        let (weather, cut_off) = {
            let state = self.world.lock();
            (state.weather, state.cut_off.get(&self.host).copied())
        };
        if let Some(until) = cut_off.filter(|until| *until > Instant::now()) {
            let patience = Instant::now() + PATIENCE;
            sleep_until(until.min(patience)).await;
            if until > patience {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no primary can be reached"));
            }
        }
        if weather.slow > 0 {
            self.world.pause(0..weather.slow).await;
        }
        if weather.lost > 0 && self.world.pick(0..1000) < u64::from(weather.lost) {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the connection broke"));
        }
        Ok(())
    }
}

impl Network for Way {
    fn request(&self) -> BoxFuture<'_, io::Result<()>> {
        async {
            // Every call takes a moment, so that other tasks run in between.
            self.world.pause(1..4).await;
            self.pass().await
        }
        .boxed()
    }

    fn answer(&self) -> BoxFuture<'_, io::Result<()>> {
        self.pass().boxed()
    }
}

/// The mongod beside an agent.
#[derive(Debug)]
pub(in crate::agent) struct Mongod {
    pub world: Arc<World>,
    pub host: Host,
}

impl Server for Mongod {
    fn run(&self, command: Document) -> BoxFuture<'_, mongodb::error::Result<Document>> {
        let members = || Host::all().filter(|host| host.rs == self.host.rs);
        let primary = |host: Host| self.world.is_primary(host);
        let answer = match command.keys().next().map(String::as_str) {
            Some("hello") => {
                let first = members().find(|host| primary(*host)).map(Host::name).unwrap_or_default();
                let mine = primary(self.host);
                doc! {
                    "setName": self.host.rs, "me": self.host.name(), "primary": first,
                    "isWritablePrimary": mine, "secondary": !mine,
                }
            }
            Some("replSetGetStatus") => {
                let member = |host: Host| {
                    let (state, name) = if primary(host) { (1, "PRIMARY") } else { (2, "SECONDARY") };
                    let is_self = host == self.host;
                    doc! { "name": host.name(), "health": 1.0, "state": state, "stateStr": name, "self": is_self }
                };
                doc! { "set": self.host.rs, "members": members().map(member).collect::<Vec<_>>() }
            }
            Some("replSetGetConfig") => {
                let member = |host: Host| doc! { "host": host.name(), "votes": 1.0 };
                doc! { "config": { "members": members().map(member).collect::<Vec<_>>() } }
            }
            Some("buildInfo") => doc! { "version": "7.0.0" },
            Some("getParameter") => doc! { "featureCompatibilityVersion": { "version": "7.0" } },
            _ => doc! {},
        };
        std::future::ready(Ok(answer)).boxed()
    }
}

/// The agents' processes, by host. A host whose process is dead is not in it.
pub(in crate::agent) type Processes = HashMap<Host, Process>;
