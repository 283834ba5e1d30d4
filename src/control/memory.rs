//! The control collections in memory, for tests. They give the same answers as the leader replica set, but need no
//! server, and they use tokio's time. [`super::contract`] checks that the answers are the same.
//!
//! A [`Cluster`] holds the data of the servers. Every agent of a test has its own [`Link`] to it, and a [`Network`]
//! that may delay or lose the calls on that link. Every write is confirmed by the majority at once.
//!
//! The cluster time is the primary's clock at the newest write. As on an idle replica set, it advances at least every
//! ten seconds.

mod query;
mod update;

use super::{
    calls::{Query, Updated},
    setup,
};
use crate::mongo::{
    Server,
    code::{DUPLICATE_KEY, is_duplicate_key},
};
use bson::{Document, Timestamp, doc, oid::ObjectId};
use futures::{
    FutureExt,
    future::{BoxFuture, ready},
    stream::{self, BoxStream, StreamExt},
};
use mongodb::error::{Error, ErrorKind, Result, WriteFailure};
use std::{
    collections::HashMap,
    fmt::Debug,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;
use tokio::time::Instant;

/// The primary's clock at the creation of a cluster, in unix seconds. A multiple of ten.
const BEGIN: u32 = 1_700_000_000;
/// The seconds between two empty oplog entries of an idle primary.
const IDLE_ENTRY: u32 = 10;

/// The data and the state of the simulated servers.
#[derive(Debug)]
pub struct Cluster {
    begun: Instant,
    state: Mutex<State>,
    /// Counts the inserts, so that cursors can wait for the next one.
    inserts: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    collections: HashMap<String, Vec<Document>>,
    time: Timestamp,
    /// Answers to commands, by the command's name.
    answers: HashMap<String, Document>,
    balancer: bool,
}

impl Cluster {
    /// Creates a cluster without documents. Its balancer is on.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let state = State {
            collections: HashMap::new(),
            time: Timestamp { time: BEGIN, increment: 1 },
            answers: HashMap::new(),
            balancer: true,
        };
        Arc::new(Self { begun: Instant::now(), state: Mutex::new(state), inserts: watch::Sender::new(0) })
    }

    /// Sets the answer to a command, by the command's name.
    pub fn answer(&self, command: &str, answer: Document) {
        self.lock().answers.insert(command.to_owned(), answer);
    }

    /// Whether the balancer may move chunks.
    #[must_use]
    pub fn balancer_is_on(&self) -> bool {
        self.lock().balancer
    }

    /// Returns all documents of a collection, so that a test can check them.
    #[must_use]
    pub fn documents(&self, collection: &str) -> Vec<Document> {
        self.lock().collections.get(collection).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self) -> u32 {
        BEGIN + u32::try_from(self.begun.elapsed().as_secs()).unwrap_or(u32::MAX - BEGIN)
    }

    /// Returns the time of the newest write.
    fn time(&self, state: &mut State) -> Timestamp {
        let idle = self.clock() / IDLE_ENTRY * IDLE_ENTRY;
        if idle > state.time.time {
            state.time = Timestamp { time: idle, increment: 1 };
        }
        state.time
    }

    fn tick(&self, state: &mut State) {
        let Timestamp { time, increment } = state.time;
        let now = self.clock();
        state.time = if now > time {
            Timestamp { time: now, increment: 1 }
        } else {
            Timestamp { time, increment: increment + 1 }
        };
    }
}

/// Can delay or lose a call on the way to the servers, or its answer.
pub trait Network: Debug + Send + Sync {
    /// Called before the servers receive the call. After an error they never receive it.
    fn request(&self) -> BoxFuture<'_, io::Result<()>>;
    /// Called after the servers have executed the call. An error means that the answer is lost.
    fn answer(&self) -> BoxFuture<'_, io::Result<()>>;
}

/// A network without delays and losses.
#[derive(Debug)]
pub struct Reliable;

impl Network for Reliable {
    fn request(&self) -> BoxFuture<'_, io::Result<()>> {
        ready(Ok(())).boxed()
    }

    fn answer(&self) -> BoxFuture<'_, io::Result<()>> {
        ready(Ok(())).boxed()
    }
}

/// The connection of one process to the cluster.
#[derive(Debug, Clone)]
pub struct Link {
    cluster: Arc<Cluster>,
    network: Arc<dyn Network>,
}

impl Link {
    #[must_use]
    pub fn new(cluster: &Arc<Cluster>, network: Arc<dyn Network>) -> Self {
        Self { cluster: cluster.clone(), network }
    }

    pub(super) fn collection(&self, name: &str) -> Collection {
        Collection { link: self.clone(), name: name.to_owned() }
    }

    async fn call<R>(&self, work: impl FnOnce(&Cluster, &mut State) -> Result<R>) -> Result<R> {
        self.network.request().await?;
        let done = work(&self.cluster, &mut self.cluster.lock());
        self.network.answer().await?;
        done
    }
}

impl Server for Link {
    fn run(&self, command: Document) -> BoxFuture<'_, Result<Document>> {
        self.call(move |cluster, state| {
            let name = command.keys().next().cloned().unwrap_or_default();
            let known = state.answers.get(&name).cloned();
            match name.as_str() {
                "hello" => {
                    let time = doc! { "clusterTime": cluster.time(state) };
                    let mut answer = known.unwrap_or_default();
                    answer.insert("$clusterTime", time);
                    Ok(answer)
                }
                "_configsvrBalancerStart" => {
                    state.balancer = true;
                    Ok(doc! {})
                }
                "_configsvrBalancerStop" => {
                    state.balancer = false;
                    Ok(doc! {})
                }
                "_configsvrBalancerStatus" => {
                    Ok(doc! { "mode": if state.balancer { "full" } else { "off" }, "inBalancerRound": false })
                }
                _ => known.ok_or_else(|| Error::custom(format!("the test has no answer to the command {name}"))),
            }
        })
        .boxed()
    }
}

/// How many of the matching documents a write changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    First,
    /// The first matching document, or a new one if none matches.
    FirstOrNew,
    All,
}

/// One collection, reached over one link.
#[derive(Debug, Clone)]
pub(super) struct Collection {
    link: Link,
    name: String,
}

impl Collection {
    async fn on<R>(&self, work: impl FnOnce(&Cluster, &mut State, &str) -> Result<R>) -> Result<R> {
        self.link.call(|cluster, state| work(cluster, state, &self.name)).await
    }

    pub async fn find(&self, query: Query) -> Result<Vec<Document>> {
        self.on(|_, state, name| {
            let all = state.collections.get(name).into_iter().flatten();
            let mut found: Vec<Document> = all.filter(|it| query::matches(it, &query.filter)).cloned().collect();
            if let Some(sort) = &query.sort {
                query::sort(&mut found, sort);
            }
            if let Some(fields) = &query.fields {
                found = found.iter().map(|document| query::project(document, fields)).collect();
            }
            Ok(found)
        })
        .await
    }

    pub async fn insert(&self, document: Document) -> Result<()> {
        self.on(|cluster, state, name| {
            let document = with_id(document);
            let there = state.collections.entry(name.to_owned()).or_default();
            refuse_duplicate(name, there, &document, None)?;
            there.push(document);
            cluster.tick(state);
            cluster.inserts.send_modify(|n| *n += 1);
            Ok(())
        })
        .await
    }

    pub async fn update(&self, filter: Document, update: Document, reach: Reach) -> Result<Updated> {
        self.on(|cluster, state, name| {
            let there = state.collections.entry(name.to_owned()).or_default();
            let mut done = Updated { matched: 0, modified: 0, inserted: false };
            for at in 0..there.len() {
                if !query::matches(&there[at], &filter) {
                    continue;
                }
                let mut changed = there[at].clone();
                update::apply(&mut changed, &update, &filter, false);
                refuse_duplicate(name, there, &changed, Some(at))?;
                done.matched += 1;
                done.modified += u64::from(changed != there[at]);
                there[at] = changed;
                if reach != Reach::All {
                    break;
                }
            }
            if done.matched == 0 && reach == Reach::FirstOrNew {
                let mut new = with_id(query::equalities(&filter));
                update::apply(&mut new, &update, &filter, true);
                refuse_duplicate(name, there, &new, None)?;
                there.push(new);
                done.inserted = true;
            }
            // A write that changes nothing still gets an oplog entry, because the primary then waits for the majority
            // to have it.
            cluster.tick(state);
            Ok(done)
        })
        .await
    }

    pub async fn replace(&self, filter: Document, document: Document) -> Result<Option<Document>> {
        self.on(|cluster, state, name| {
            let there = state.collections.entry(name.to_owned()).or_default();
            let at = there.iter().position(|it| query::matches(it, &filter));
            let mut new = doc! {};
            let id = at.and_then(|at| there[at].get("_id").cloned());
            new.insert("_id", id.unwrap_or_else(|| ObjectId::new().into()));
            new.extend(document.into_iter().filter(|(key, _)| key != "_id"));
            refuse_duplicate(name, there, &new, at)?;
            let before = match at {
                Some(at) => Some(std::mem::replace(&mut there[at], new)),
                None => {
                    there.push(new);
                    None
                }
            };
            cluster.tick(state);
            Ok(before)
        })
        .await
    }

    /// Answers like the command `update`, whose `updates` replace or insert one document each.
    pub async fn replace_many(&self, updates: Vec<Document>) -> Result<Document> {
        let mut errors = Vec::new();
        for (index, update) in updates.into_iter().enumerate() {
            let part = |key: &str| update.get_document(key).cloned().unwrap_or_default();
            match self.replace(part("q"), part("u")).await {
                Err(error) if is_duplicate_key(&error) => {
                    errors.push(doc! { "index": index as i32, "code": DUPLICATE_KEY, "errmsg": error.to_string() });
                }
                done => drop(done?),
            }
        }
        Ok(if errors.is_empty() {
            doc! {}
        } else {
            doc! { "writeErrors": errors }
        })
    }

    pub async fn delete(&self, filter: Document, reach: Reach) -> Result<u64> {
        self.on(|cluster, state, name| {
            let there = state.collections.entry(name.to_owned()).or_default();
            let mut deleted = 0;
            there.retain(|document| {
                let goes = (reach == Reach::All || deleted == 0) && query::matches(document, &filter);
                deleted += u64::from(goes);
                !goes
            });
            if deleted > 0 {
                cluster.tick(state);
            }
            Ok(deleted)
        })
        .await
    }

    pub fn tail(&self, skip: u64) -> BoxStream<'static, Result<Document>> {
        let (cluster, name) = (self.link.cluster.clone(), self.name.clone());
        let inserts = cluster.inserts.subscribe();
        let at = usize::try_from(skip).unwrap_or(usize::MAX);
        stream::unfold((cluster, name, inserts, at), |(cluster, name, mut inserts, at)| async move {
            loop {
                inserts.borrow_and_update();
                let next = cluster.lock().collections.get(&name).and_then(|all| all.get(at).cloned());
                if let Some(next) = next {
                    return Some((Ok(next), (cluster, name, inserts, at + 1)));
                }
                inserts.changed().await.ok()?;
            }
        })
        .boxed()
    }
}

fn with_id(document: Document) -> Document {
    if document.contains_key("_id") {
        return document;
    }
    let mut with = doc! { "_id": ObjectId::new() };
    with.extend(document);
    with
}

/// The unique indexes are sparse: a document that has none of an index's fields is not in the index.
fn refuse_duplicate(name: &str, there: &[Document], new: &Document, own: Option<usize>) -> Result<()> {
    for keys in setup::unique_keys(name) {
        if keys.keys().all(|key| !new.contains_key(key)) {
            continue;
        }
        let is_same = |other: &Document| keys.keys().all(|key| other.get(key) == new.get(key));
        if there.iter().enumerate().any(|(at, other)| Some(at) != own && is_same(other)) {
            return Err(duplicate(name));
        }
    }
    Ok(())
}

fn duplicate(name: &str) -> Error {
    let error = doc! { "code": 11_000, "errmsg": format!("E11000 duplicate key error collection: admin.{name}") };
    match bson::deserialize_from_document(error) {
        Ok(error) => Error::from(ErrorKind::Write(WriteFailure::WriteError(error))),
        Err(error) => error.into(),
    }
}
