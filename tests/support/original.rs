//! An agent that follows the documentation of the original's agent in slicing and related work, and has none of our
//! additions. It is the other kind of agent in mixed clusters.
//!
//! It has its own node, writes its status document, follows `pbmConfig` and `pbmCmd`, takes part in nominations, leads them
//! on the primary of the leader replica set, slices the oplog of its node to a folder, and takes part in restores until it
//! knows whether they begin. It makes no backups. Its intervals are shorter than the original's where this does not change
//! the order of events.

use super::cluster::ReplicaSet;
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongodb::{Client, Collection};
use pbmbox::layout;
use pbmbox::model::compression::Compression;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// 15 s in the original.
const LOOP: Duration = Duration::from_secs(1);
/// 2 s in the original.
const NOMINATION_POLL: Duration = Duration::from_millis(300);
/// 2 min in the original.
const PATIENCE: Duration = Duration::from_secs(20);
/// 5 s in the original.
const BEAT: Duration = Duration::from_secs(1);
/// The interval at which the leader checks which slicers are active. 2 min in the original.
const ACTIVITY: Duration = Duration::from_secs(8);
/// The same as in the original, because our agents have to wait for this interval.
const RESTORE_POLL: Duration = Duration::from_secs(5);
const STALE_SECS: u32 = 30;

/// A running agent; it is killed when dropped.
pub struct Original {
    inner: Arc<Inner>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

struct Inner {
    rs: String,
    me: String,
    in_leader_rs: bool,
    /// Connection to the primary of the leader replica set.
    control: Client,
    /// Connection to the agent's own mongod.
    node: Client,
    store: PathBuf,
    began: i64,
    log: Mutex<Vec<String>>,
    slicer: Mutex<Option<Slicer>>,
    monitors: Mutex<Option<CancellationToken>>,
    restore_waits: Mutex<Vec<Duration>>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

#[derive(Clone)]
struct Slicer {
    stop: CancellationToken,
    /// The OPID of a backup that wakes it.
    wake: Arc<Mutex<Option<String>>>,
}

fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("before the end of time")
}

fn ts(document: &Document, key: &str) -> Timestamp {
    document.get_timestamp(key).unwrap_or(Timestamp { time: 0, increment: 0 })
}

fn is_fresh(document: &Document, now: Timestamp) -> bool {
    ts(document, "hb").time + STALE_SECS >= now.time
}

fn says(document: &Document, key: &str, value: &str) -> bool {
    document.get_str(key).is_ok_and(|it| it == value)
}

type Maybe<T> = Result<T, String>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Original {
    /// Starts the agent beside member `n` of `set`, in the cluster whose leader replica set is `leader`, with `store` as the
    /// main storage.
    pub async fn start(set: &ReplicaSet, n: usize, leader: &ReplicaSet, store: &Path) -> Self {
        let tasks = Arc::new(Mutex::new(Vec::new()));
        let inner = Arc::new(Inner {
            rs: set.options().name.clone(),
            me: set.address_of(n),
            in_leader_rs: set.options().name == leader.options().name,
            control: leader.client().await,
            node: set.client_of(n).await,
            store: store.to_owned(),
            began: unix_now(),
            log: Mutex::default(),
            slicer: Mutex::default(),
            monitors: Mutex::default(),
            restore_waits: Mutex::default(),
            tasks: tasks.clone(),
        });
        inner.beat().await.expect("write the line");
        let it = inner.clone();
        inner.spawn(async move {
            loop {
                if let Err(error) = it.beat().await {
                    it.say(format!("heartbeat: {error}"));
                }
                sleep(BEAT).await;
            }
        });
        let it = inner.clone();
        inner.spawn(async move {
            loop {
                if let Err(error) = it.turn().await {
                    it.say(format!("pitr: {error}"));
                }
                sleep(LOOP).await;
            }
        });
        let it = inner.clone();
        inner.spawn(async move { it.follow_commands().await });
        Self { inner, tasks }
    }

    /// Ends the agent at once; its locks stay until they are stale.
    pub fn kill(&self) {
        for task in self.tasks.lock().expect("no panic").drain(..) {
            task.abort();
        }
    }

    /// Ends the agent as SIGINT does: the slicer stores a last chunk, and the agent's document is removed.
    pub async fn interrupt(self) {
        let slicer = self.inner.slicer.lock().expect("no panic").clone();
        if let Some(slicer) = slicer {
            slicer.stop.cancel();
            super::wait::until("the stand-in's slicer to end", PATIENCE, async || {
                self.inner.slicer.lock().expect("no panic").is_none().then_some(())
            })
            .await;
        }
        self.kill();
        let line = doc! { "n": &self.inner.me, "rs": &self.inner.rs };
        self.inner.coll("pbmAgents").delete_one(line).await.expect("remove the line");
    }

    /// How long the agent waited for the end of slicing, for each restore command.
    pub fn restore_waits(&self) -> Vec<Duration> {
        self.inner.restore_waits.lock().expect("no panic").clone()
    }

    /// The agent's log, for failed tests.
    pub fn log(&self) -> String {
        self.inner.log.lock().expect("no panic").join("\n")
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the original's stand-in on {}\n{}", self.inner.me, self.log());
        }
    }
}

impl Inner {
    fn say(&self, line: String) {
        self.log.lock().expect("no panic").push(format!("{} {line}", unix_now()));
    }

    fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().expect("no panic").push(tokio::spawn(work));
    }

    fn coll(&self, name: &str) -> Collection<Document> {
        self.control.database("admin").collection(name)
    }

    async fn all(&self, coll: &str, filter: Document) -> Maybe<Vec<Document>> {
        self.coll(coll).find(filter).await.map_err(text)?.try_collect().await.map_err(text)
    }

    async fn one(&self, coll: &str, filter: Document) -> Maybe<Option<Document>> {
        self.coll(coll).find_one(filter).await.map_err(text)
    }

    async fn cluster_time(&self) -> Maybe<Timestamp> {
        self.one("pbmLock", doc! {}).await?;
        let hello = self.control.database("admin").run_command(doc! { "hello": 1 }).await.map_err(text)?;
        hello.get_document("$clusterTime").and_then(|it| it.get_timestamp("clusterTime")).map_err(text)
    }

    async fn hello(&self) -> Maybe<Document> {
        self.node.database("admin").run_command(doc! { "hello": 1 }).await.map_err(text)
    }

    async fn is_primary(&self) -> Maybe<bool> {
        Ok(self.hello().await?.get_bool("isWritablePrimary").unwrap_or(false))
    }

    async fn last_write(&self) -> Maybe<Timestamp> {
        let hello = self.hello().await?;
        let last = hello.get_document("lastWrite").and_then(|it| it.get_document("majorityOpTime")).map_err(text)?;
        last.get_timestamp("ts").map_err(text)
    }

    /// C.2
    async fn beat(&self) -> Maybe<()> {
        let hello = self.hello().await?;
        let primary = hello.get_bool("isWritablePrimary").unwrap_or(false);
        let (s, state) = if primary { (1, "PRIMARY") } else { (2, "SECONDARY") };
        let ok = doc! { "ok": true, "e": "" };
        let line = doc! {
            "n": &self.me, "rs": &self.rs, "s": s, "str": state, "hdn": false, "psv": false, "arb": false, "delay": 0,
            "repl_lag": 0, "v": "2.15.0", "mv": "6.0.5", "pbms": ok.clone(), "nodes": ok.clone(), "stors": ok,
            "hb": self.cluster_time().await?, "e": "",
        };
        let name = doc! { "n": &self.me, "rs": &self.rs };
        self.coll("pbmAgents").replace_one(name, line).upsert(true).await.map_err(text)?;
        Ok(())
    }

    async fn config(&self) -> Maybe<Document> {
        Ok(self.one("pbmConfig", doc! { "profile": null }).await?.unwrap_or_default())
    }

    async fn pitr(&self) -> Maybe<Document> {
        Ok(self.config().await?.get_document("pitr").cloned().unwrap_or_default())
    }

    async fn is_on(&self) -> Maybe<bool> {
        Ok(self.pitr().await?.get_bool("enabled").unwrap_or(false))
    }

    async fn fresh_slicers(&self, filter: Document) -> Maybe<Vec<Document>> {
        let now = self.cluster_time().await?;
        let mut found = self.all("pbmLockOp", filter).await?;
        found.retain(|lock| is_fresh(lock, now));
        Ok(found)
    }

    fn stop_slicer(&self) {
        if let Some(slicer) = self.slicer.lock().expect("no panic").as_ref() {
            slicer.stop.cancel();
        }
    }

    fn stop_monitors(&self) {
        if let Some(stop) = self.monitors.lock().expect("no panic").take() {
            stop.cancel();
        }
    }

    /// D.5.1
    async fn turn(self: &Arc<Self>) -> Maybe<()> {
        if !self.is_on().await? {
            self.stop_slicer();
            self.stop_monitors();
            return Ok(());
        }
        let now = self.cluster_time().await?;
        for lock in self.all("pbmLock", doc! {}).await?.iter().filter(|lock| is_fresh(lock, now)) {
            let opid = lock.get_str("opid").unwrap_or_default();
            if !says(lock, "type", "backup") {
                return Ok(());
            }
            let backup = self.one("pbmBackups", doc! { "opid": opid }).await?.unwrap_or_default();
            let profile = backup.get_document("store").is_ok_and(|store| store.get_bool("profile").unwrap_or(false));
            if says(&backup, "type", "logical") && !profile {
                return Ok(());
            }
        }
        let mine = doc! { "replset": &self.rs, "type": "pitr" };
        if self.slicer.lock().expect("no panic").is_some() || !self.fresh_slicers(mine).await?.is_empty() {
            return Ok(());
        }
        if self.in_leader_rs && self.is_primary().await? {
            self.start_monitors();
            let it = self.clone();
            self.spawn(async move {
                if let Err(error) = it.nominate().await {
                    it.say(format!("nomination: {error}"));
                }
            });
        }
        if self.is_nominated().await? {
            self.begin_to_slice().await?;
        }
        Ok(())
    }

    /// D.5.2, the agent's side.
    async fn is_nominated(&self) -> Maybe<bool> {
        let until = Instant::now() + PATIENCE;
        while !says(&self.meta().await?, "status", "ready") {
            if Instant::now() >= until || !self.is_on().await? {
                return Ok(false);
            }
            sleep(NOMINATION_POLL).await;
        }
        self.report(doc! { "name": &self.rs, "node": &self.me, "status": "ready" }).await?;
        while Instant::now() < until && self.is_on().await? {
            let meta = self.meta().await?;
            let rounds = meta.get_array("n").cloned().unwrap_or_default();
            let round = rounds.iter().filter_map(Bson::as_document).find(|it| says(it, "rs", self.rs.as_str()));
            if let Some(round) = round {
                if !round.get_str("ack").unwrap_or_default().is_empty() {
                    return Ok(false);
                }
                if round.get_array("n").is_ok_and(|nodes| nodes.contains(&self.me.as_str().into())) {
                    return Ok(true);
                }
            }
            sleep(NOMINATION_POLL).await;
        }
        Ok(false)
    }

    async fn meta(&self) -> Maybe<Document> {
        Ok(self.one("pbmPITR", doc! {}).await?.unwrap_or_default())
    }

    async fn report(&self, report: Document) -> Maybe<()> {
        let add = doc! { "$addToSet": { "replsets": report } };
        self.coll("pbmPITR").update_one(doc! {}, add).await.map_err(text)?;
        Ok(())
    }

    async fn set_status(&self, status: &str) -> Maybe<()> {
        self.say(format!("status '{status}'"));
        let set = doc! { "$set": { "status": status, "replsets": [] } };
        self.coll("pbmPITR").update_one(doc! {}, set).await.map_err(text)?;
        Ok(())
    }

    /// D.5.2, the leader's side.
    async fn nominate(self: &Arc<Self>) -> Maybe<()> {
        let until = Instant::now() + PATIENCE;
        while !self.fresh_slicers(doc! {}).await?.is_empty() {
            if Instant::now() >= until {
                return Err("still running".to_owned());
            }
            sleep(LOOP).await;
        }
        let hb = self.cluster_time().await?;
        let new = doc! { "start_ts": unix_now(), "hb": hb, "status": "", "n": [], "replsets": [] };
        self.coll("pbmPITR").replace_one(doc! {}, new).upsert(true).await.map_err(text)?;
        let candidates = self.candidates().await?;
        self.set_status("ready").await?;
        let count: usize = candidates.iter().flat_map(|(_, tiers)| tiers).map(Vec::len).sum();
        let until = Instant::now() + PATIENCE;
        loop {
            let meta = self.meta().await?;
            let reports = meta.get_array("replsets").cloned().unwrap_or_default();
            let ready = reports.iter().filter_map(Bson::as_document).filter(|it| says(it, "status", "ready"));
            if ready.count() >= count {
                break;
            }
            if Instant::now() >= until {
                self.set_status("").await?;
                return Err(format!("not all of {count} candidates are ready: {reports:?}"));
            }
            sleep(NOMINATION_POLL).await;
        }
        self.set_status("running").await?;
        for (rs, tiers) in candidates {
            let it = self.clone();
            self.spawn(async move {
                if let Err(error) = it.nominate_set(&rs, tiers).await {
                    it.say(format!("nomination of {rs}: {error}"));
                }
            });
        }
        Ok(())
    }

    async fn nominate_set(&self, rs: &str, tiers: Vec<Vec<String>>) -> Maybe<()> {
        let meta = self.coll("pbmPITR");
        let round = doc! { "$addToSet": { "n": { "rs": rs, "n": [], "ack": "" } } };
        meta.update_one(doc! {}, round).await.map_err(text)?;
        for nodes in tiers {
            if self.one("pbmPITR", doc! { "n": { "$elemMatch": { "rs": rs, "ack": { "$ne": "" } } } }).await?.is_some()
            {
                break;
            }
            self.say(format!("naming {nodes:?} of {rs}"));
            let add = doc! { "$addToSet": { "n.$.n": { "$each": nodes } } };
            meta.update_one(doc! { "n.rs": rs }, add).await.map_err(text)?;
            sleep(LOOP * 3).await;
        }
        Ok(())
    }

    /// The candidates of each replica set, grouped by score, the best group first.
    async fn candidates(&self) -> Maybe<Vec<(String, Vec<Vec<String>>)>> {
        let now = self.cluster_time().await?;
        let pitr = self.pitr().await?;
        let priority = pitr.get_document("priority").cloned().unwrap_or_default();
        let mut sets: std::collections::BTreeMap<String, Vec<(i32, String)>> = std::collections::BTreeMap::new();
        for agent in self.all("pbmAgents", doc! {}).await?.iter().filter(|agent| is_fresh(agent, now)) {
            let state = agent.get_i32("s").unwrap_or(0);
            let ok = ["pbms", "nodes", "stors"]
                .iter()
                .all(|part| agent.get_document(part).is_ok_and(|it| it.get_bool("ok").unwrap_or(false)));
            if !ok || !matches!(state, 1 | 2) || agent.get_i32("delay").unwrap_or(0) != 0 {
                continue;
            }
            let (rs, node) = (agent.get_str("rs").map_err(text)?, agent.get_str("n").map_err(text)?);
            let score = if priority.is_empty() {
                if state == 1 { 0.5 } else { 1.0 }
            } else {
                priority.get_f64(node).unwrap_or(1.0)
            };
            #[allow(clippy::cast_possible_truncation, reason = "small scores")]
            sets.entry(rs.to_owned()).or_default().push(((score * 100.0) as i32, node.to_owned()));
        }
        Ok(sets
            .into_iter()
            .map(|(rs, mut nodes)| {
                nodes.sort_by(|a, b| b.cmp(a));
                let tiers = nodes.chunk_by(|a, b| a.0 == b.0);
                (rs, tiers.map(|tier| tier.iter().map(|it| it.1.clone()).collect()).collect())
            })
            .collect())
    }

    /// The settings whose change stops all slicers.
    async fn settings(&self) -> Maybe<(Option<Document>, Option<bool>)> {
        let pitr = self.pitr().await?;
        Ok((pitr.get_document("priority").ok().cloned(), pitr.get_bool("oplogOnly").ok()))
    }

    /// D.5.3
    fn start_monitors(self: &Arc<Self>) {
        let stop = CancellationToken::new();
        if let Some(before) = self.monitors.lock().expect("no panic").replace(stop.clone()) {
            before.cancel();
        }
        let it = self.clone();
        self.spawn(async move {
            let followed = it.settings().await;
            let mut active = Instant::now() + ACTIVITY;
            while !stop.is_cancelled() {
                let done = async {
                    if !it.is_primary().await? {
                        it.set_status("reconfig").await?;
                        it.stop_monitors();
                        it.stop_slicer();
                        return Ok(());
                    }
                    let hb = it.cluster_time().await?;
                    let beat = doc! { "$set": { "hb": hb } };
                    it.coll("pbmPITR").update_one(doc! {}, beat).await.map_err(text)?;
                    let meta = it.meta().await?;
                    let status = meta.get_str("status").unwrap_or_default().to_owned();
                    let reports = meta.get_array("replsets").cloned().unwrap_or_default();
                    let is_error = |it: &Bson| it.as_document().is_some_and(|it| says(it, "status", "error"));
                    let failed = reports.iter().any(is_error);
                    if failed && status != "error" {
                        it.say(format!("reports: {reports:?}"));
                        it.set_status("error").await?;
                    }
                    if it.settings().await != followed {
                        it.set_status("reconfig").await?;
                    }
                    if Instant::now() >= active {
                        active = Instant::now() + ACTIVITY;
                        let rounds = meta.get_array("n").cloned().unwrap_or_default();
                        let acks = rounds
                            .iter()
                            .filter_map(Bson::as_document)
                            .filter(|it| !it.get_str("ack").unwrap_or_default().is_empty())
                            .count();
                        let locks = it.fresh_slicers(doc! {}).await?.len();
                        if status == "running" && !failed && acks != locks {
                            it.say(format!("{acks} acknowledged, {locks} slice"));
                            it.set_status("reconfig").await?;
                        }
                    }
                    Maybe::Ok(())
                };
                if let Err(error) = done.await {
                    it.say(format!("monitor: {error}"));
                }
                sleep(BEAT).await;
            }
        });
    }

    fn lock(&self, epoch: Option<&Bson>) -> Document {
        let epoch = epoch.cloned().unwrap_or(Bson::Null);
        doc! { "type": "pitr", "replset": &self.rs, "node": &self.me, "epoch": epoch }
    }

    /// D.5.1, step 7.
    async fn begin_to_slice(self: &Arc<Self>) -> Maybe<()> {
        let config = self.config().await?;
        let lock = self.lock(config.get("epoch"));
        let mut new = lock.clone();
        new.insert("hb", self.cluster_time().await?);
        let stale = doc! { "replset": &self.rs, "type": "pitr" };
        if let Some(held) = self.one("pbmLockOp", stale.clone()).await? {
            if is_fresh(&held, self.cluster_time().await?) {
                return Ok(());
            }
            self.coll("pbmLockOp").delete_one(stale).await.map_err(text)?;
        }
        if self.coll("pbmLockOp").insert_one(new).await.is_err() {
            return Ok(());
        }
        self.say("took the lock".to_owned());
        let ack = doc! { "$set": { "n.$.ack": &self.me } };
        self.coll("pbmPITR").update_one(doc! { "n.rs": &self.rs }, ack).await.map_err(text)?;
        let slicer = Slicer { stop: CancellationToken::new(), wake: Arc::default() };
        *self.slicer.lock().expect("no panic") = Some(slicer.clone());
        let it = self.clone();
        self.spawn(async move {
            let done = async {
                let begin = it.catch_up().await?;
                it.say(format!("slicing from {begin}"));
                it.stream(begin, &slicer, &lock).await
            };
            if let Err(error) = done.await {
                it.say(format!("slicing: {error}"));
                let report = doc! { "name": &it.rs, "node": &it.me, "status": "error", "error": error };
                let _ = it.report(report).await;
            }
            let _ = it.coll("pbmLockOp").delete_one(lock).await;
            *it.slicer.lock().expect("no panic") = None;
            it.say("gave the lock back".to_owned());
        });
        Ok(())
    }

    /// D.5.4, without copying slices from a backup: the entries are read from the oplog.
    async fn catch_up(&self) -> Maybe<Timestamp> {
        let chunks = self.coll("pbmPITRChunks");
        let last = chunks.find_one(doc! { "rs": &self.rs }).sort(doc! { "end_ts": -1 });
        let last = last.await.map_err(text)?.map(|chunk| ts(&chunk, "end_ts"));
        if self.pitr().await?.get_bool("oplogOnly").unwrap_or(false) {
            return match last {
                Some(end) => Ok(end),
                None => self.last_write().await,
            };
        }
        let done = doc! { "status": "done", "nss": null, "store.profile": null };
        let backups = self.coll("pbmBackups");
        let base = backups.find_one(done).sort(doc! { "start_ts": -1 }).await.map_err(text)?;
        let base = base.ok_or("no backup found. full backup is required to start PITR")?;
        let parts = base.get_array("replsets").map_err(text)?;
        let part = parts.iter().filter_map(Bson::as_document).find(|it| says(it, "name", self.rs.as_str()));
        let part = part.ok_or("the backup has no part of this replica set")?;
        let (first, end) = (ts(part, "first_write_ts"), ts(part, "last_write_ts"));
        match last {
            None => Ok(ts(&base, "last_write_ts")),
            Some(saved) if saved >= end => Ok(saved),
            Some(saved) => {
                if saved < first {
                    self.upload(saved, first).await?;
                }
                self.upload(saved.max(first), end).await?;
                Ok(end)
            }
        }
    }

    /// Uploads one chunk, even if it has no operations.
    async fn upload(&self, from: Timestamp, to: Timestamp) -> Maybe<()> {
        let oplog = self.node.database("local").collection::<mongodb::bson::RawDocumentBuf>("oplog.rs");
        let oldest = oplog.find_one(doc! {}).await.map_err(text)?.ok_or("the oplog is empty")?;
        if oldest.get_timestamp("ts").map_err(text)? > from {
            return Err("oplog has insufficient range".to_owned());
        }
        let range = doc! { "ts": { "$gte": from, "$lte": to } };
        let entries: Vec<_> = oplog.find(range).await.map_err(text)?.try_collect().await.map_err(text)?;
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.as_bytes().to_vec()).collect();
        let name = layout::pitr_chunk(&self.rs, from, to, Compression::None);
        let file = self.store.join(&name);
        std::fs::create_dir_all(file.parent().expect("a folder")).map_err(text)?;
        let size = i64::try_from(bytes.len()).map_err(text)?;
        std::fs::write(&file, bytes).map_err(text)?;
        let row = doc! {
            "rs": &self.rs, "fname": name, "compression": "none", "start_ts": from, "end_ts": to, "size": size,
        };
        let _ = self.coll("pbmPITRChunks").insert_one(row).await;
        self.say(format!("created chunk {from} - {to}"));
        Ok(())
    }

    /// D.5.5
    async fn stream(&self, begin: Timestamp, slicer: &Slicer, lock: &Document) -> Maybe<()> {
        let was_primary = self.is_primary().await?;
        let mut from = begin;
        let mut due = Instant::now() + self.span().await?;
        loop {
            let stopped = tokio::time::timeout(BEAT, slicer.stop.cancelled()).await.is_ok();
            let now = self.cluster_time().await?;
            let beat = doc! { "$set": { "hb": now } };
            if self.coll("pbmLockOp").update_one(lock.clone(), beat).await.map_err(text)?.matched_count == 0 {
                self.say("the lock is lost".to_owned());
                return Ok(());
            }
            let meta = self.meta().await?;
            let status = meta.get_str("status").unwrap_or_default();
            if status == "error" {
                return Ok(());
            }
            let woken = slicer.wake.lock().expect("no panic").take();
            if stopped || status == "reconfig" || !is_fresh(&meta, now) {
                self.say(format!("slicing stops: told {stopped}, status '{status}', hb {} at {now}", ts(&meta, "hb")));
                let to = self.last_write().await?;
                return if to > from { self.upload(from, to).await } else { Ok(()) };
            }
            if let Some(opid) = woken {
                let to = self.first_write_of(&opid).await?;
                self.say(format!("slicing stops for a backup, up to {to}"));
                return if to > from { self.upload(from, to).await } else { Ok(()) };
            }
            if self.is_primary().await? && !was_primary && !self.pitr().await?.contains_key("priority") {
                return Err("node became the primary".to_owned());
            }
            if Instant::now() >= due {
                due = Instant::now() + self.span().await?;
                let to = self.last_write().await?;
                self.upload(from, to).await?;
                from = to;
            }
        }
    }

    async fn span(&self) -> Maybe<Duration> {
        let minutes = self.pitr().await?.get_f64("oplogSpanMin").unwrap_or(10.0);
        Ok(Duration::from_secs_f64(minutes * 60.0))
    }

    /// The time up to which a backup needs the oplog sliced: the backup's own first write, or now if the backup does not go
    /// on.
    async fn first_write_of(&self, opid: &str) -> Maybe<Timestamp> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let backup = self.one("pbmBackups", doc! { "opid": opid }).await?.unwrap_or_default();
            if backup.contains_key("nss") || says(&backup, "status", "error") {
                break;
            }
            let parts = backup.get_array("replsets").cloned().unwrap_or_default();
            let mine = parts.iter().filter_map(Bson::as_document).find(|it| says(it, "name", self.rs.as_str()));
            if let Some(first) = mine.map(|it| ts(it, "first_write_ts")).filter(|first| first.time > 1) {
                return Ok(first);
            }
            sleep(NOMINATION_POLL).await;
        }
        self.last_write().await
    }

    /// C.1.1
    async fn follow_commands(self: &Arc<Self>) {
        let mut seen: Vec<Bson> = Vec::new();
        loop {
            let new = self.all("pbmCmd", doc! { "ts": { "$gte": self.began } }).await.unwrap_or_default();
            for command in new {
                let id = command.get("_id").cloned().unwrap_or(Bson::Null);
                if seen.contains(&id) {
                    continue;
                }
                seen.push(id.clone());
                let opid = id.as_object_id().map(|id| id.to_hex()).unwrap_or_default();
                match command.get_str("cmd").unwrap_or_default() {
                    "backup" => {
                        if let Some(slicer) = self.slicer.lock().expect("no panic").as_ref() {
                            *slicer.wake.lock().expect("no panic") = Some(opid);
                        }
                    }
                    "restore" => {
                        let done = self.restore(&opid, &command).await;
                        self.say(format!("restore: {done:?}"));
                    }
                    _ => {}
                }
            }
            sleep(BEAT).await;
        }
    }

    /// E.2, up to the step at which it is known whether the restore begins.
    async fn restore(&self, opid: &str, command: &Document) -> Maybe<()> {
        let primary = self.is_primary().await?;
        let mut lock = doc! { "type": "restore", "replset": &self.rs, "node": &self.me, "opid": opid };
        if primary {
            lock.insert("hb", self.cluster_time().await?);
            if self.coll("pbmLock").insert_one(&lock).await.is_err() {
                return Err("unable to run the restore while another operation runs".to_owned());
            }
            lock.remove("hb");
        }
        let began = Instant::now();
        self.stop_slicer();
        let mine = doc! { "replset": &self.rs, "type": "pitr" };
        while self.is_on().await? || !self.fresh_slicers(mine.clone()).await?.is_empty() {
            if began.elapsed() >= Duration::from_secs(120) {
                break;
            }
            sleep(RESTORE_POLL).await;
        }
        self.restore_waits.lock().expect("no panic").push(began.elapsed());
        if primary {
            let name = command.get_document("restore").and_then(|it| it.get_str("name")).map_err(text)?;
            let until = Instant::now() + PATIENCE;
            let mut ended = false;
            while !ended && Instant::now() < until {
                let document = self.one("pbmRestores", doc! { "name": name }).await?.unwrap_or_default();
                ended = says(&document, "status", "error") || says(&document, "status", "done");
                sleep(NOMINATION_POLL).await;
            }
            self.coll("pbmLock").delete_one(lock).await.map_err(text)?;
            if !ended {
                return Err("the restore did not end".to_owned());
            }
        }
        Ok(())
    }
}
