//! What the fault tests share: data to back up, operations held at a chosen point, and what must be true afterwards.

use crate::support::cluster::{Options, ReplicaSet};
use crate::support::programs::{Deployment, Output, Sandbox};
use crate::support::wait;
use mongodb::bson::{Binary, Document, doc, spec::BinarySubtype};
use mongodb::{Client, Database};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// After a fault an operation is over, and nothing of it is left, within this.
pub const SETTLED: Duration = Duration::from_secs(40);
/// For steps in which nothing is wrong.
pub const USUAL: Duration = Duration::from_secs(40);

/// A sandbox with data in it.
pub struct Rig<D = ReplicaSet> {
    pub sandbox: Sandbox<D>,
    /// Leads to the control collections.
    pub client: Client,
    /// For [`Rig::settles`].
    pub limit: Duration,
}

/// An operation's last words.
#[derive(Debug)]
pub struct End {
    pub status: String,
    pub error: String,
}

impl Rig {
    pub async fn start(members: usize) -> Self {
        let rig = Self::bare(Sandbox::start(Options { members, ..Options::default() }).await).await;
        rig.fill(8).await;
        rig
    }

    /// Some megabytes that no codec makes smaller, an index, a view, a user.
    pub async fn fill(&self, megabytes: i32) {
        let db = self.client.database("shop");
        let orders = db.collection::<Document>("orders");
        for n in 0..megabytes {
            let noise: Vec<u8> = (0..1 << 20).map(|_| rand::random()).collect();
            let noise = Binary { subtype: BinarySubtype::Generic, bytes: noise };
            orders.insert_one(doc! { "_id": n, "noise": noise, "qty": n % 3 }).await.expect("insert");
        }
        for command in [
            doc! { "createIndexes": "orders", "indexes": [{ "key": { "qty": 1 }, "name": "qty_1" }] },
            doc! { "create": "few", "viewOn": "orders", "pipeline": [{ "$match": { "qty": 1 } }] },
            doc! { "createUser": "ann", "pwd": "throwaway", "roles": ["read"], "writeConcern": { "w": "majority" } },
        ] {
            db.run_command(command.clone()).await.unwrap_or_else(|e| panic!("{command}: {e}"));
        }
    }

    /// The member whose agent holds the lock.
    pub async fn worker(&self) -> usize {
        self.worker_of(&self.sandbox.set).await
    }
}

impl<D: Deployment> Rig<D> {
    pub async fn bare(sandbox: Sandbox<D>) -> Self {
        let client = sandbox.set.leader().client().await;
        Self { sandbox, client, limit: SETTLED }
    }

    pub fn admin(&self) -> Database {
        self.client.database("admin")
    }

    /// Waits for the end of a command line that was started, at most `limit` after `since`.
    pub async fn ended(&self, mut child: Child, since: Instant, limit: Duration) -> Output {
        let left = limit.saturating_sub(since.elapsed());
        wait::until("the command line to end", left, async || child.try_wait().expect("wait for pbm")).await;
        let output = child.wait_with_output().expect("read what pbm said");
        Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: output.status,
        }
    }

    /// The newest document of `pbmBackups` or `pbmRestores`.
    pub async fn newest(&self, collection: &str) -> Option<Document> {
        let found = self.admin().collection::<Document>(collection).find_one(doc! {}).sort(doc! { "_id": -1 }).await;
        found.ok().flatten()
    }

    /// Waits until the newest operation has this status; gives its name.
    pub async fn reaches(&self, collection: &str, status: &str) -> String {
        let what = format!("{status} in {collection}");
        wait::until(&what, USUAL, async || {
            let found = self.newest(collection).await?;
            found
                .get_str("status")
                .is_ok_and(|s| s == status)
                .then(|| found.get_str("name").expect("a name").to_owned())
        })
        .await
    }

    /// The member of `set` whose agent holds the set's lock.
    pub async fn worker_of(&self, set: &ReplicaSet) -> usize {
        wait::until("a lock", USUAL, async || {
            let locks = self.admin().collection::<Document>("pbmLock");
            let lock = locks.find_one(doc! { "replset": &set.options().name }).await.ok()??;
            let node = lock.get_str("node").ok()?;
            (0..set.size()).find(|n| set.address_of(*n) == node)
        })
        .await
    }

    /// Waits until `name` has its final status, no lock is left, and nothing temporary is in the database; at most
    /// [`Self::limit`] after the fault. A backup which is not done must have left nothing on the storage.
    pub async fn settles(&self, collection: &str, name: &str, since: Instant) -> End {
        let limit = self.limit.saturating_sub(since.elapsed());
        let mut seen = String::new();
        let end = wait::within(limit, async || {
            let look = self.look(collection, name).await;
            seen = look.as_ref().map_or_else(|| "the server does not answer".into(), |(said, _)| said.clone());
            look.and_then(|(_, end)| end)
        })
        .await;
        let Some(end) = end else { panic!("{name} has not settled within {:?}: {seen}", self.limit) };
        if end.status == "error" {
            assert!(!end.error.is_empty(), "{name} failed without a reason");
        }
        end
    }

    /// What keeps `name` from being over and clean, in words; its end when nothing does.
    async fn look(&self, collection: &str, name: &str) -> Option<(String, Option<End>)> {
        let found = self.admin().collection::<Document>(collection).find_one(doc! { "name": name }).await.ok()??;
        let text = |key| found.get_str(key).unwrap_or_default().to_owned();
        let end = End { status: text("status"), error: text("error") };
        if !["done", "error", "canceled"].contains(&end.status.as_str()) {
            return Some((format!("its status is {}", end.status), None));
        }
        let locks = self.admin().collection::<Document>("pbmLock").count_documents(doc! {}).await.ok()?;
        let copies: Vec<String> = self.admin().list_collection_names().await.ok()?;
        let copies: Vec<&String> = copies.iter().filter(|c| ["pbmRUsers", "pbmRRoles"].contains(&c.as_str())).collect();
        let objects = if end.status == "done" { temporary(&self.objects()) } else { self.objects_of(name) };
        let clean = locks == 0 && copies.is_empty() && (objects.is_empty() || collection != "pbmBackups");
        let said = format!("status {}, {locks} locks, copies {copies:?}, objects {objects:?}", end.status);
        Some((said, clean.then_some(end)))
    }

    /// Waits for a sign of life, after this moment, of the agent on the node at `address`.
    pub async fn agent_beats(&self, address: &str) {
        let agents = self.admin().collection::<Document>("pbmAgents");
        let beat = async || agents.find_one(doc! { "n": address }).await.ok()??.get("hb").cloned();
        let old = beat().await;
        wait::until("the agent's line", USUAL, async || beat().await.filter(|hb| Some(hb) != old.as_ref())).await;
    }

    /// All files below the storage, relative, sorted.
    pub fn objects(&self) -> Vec<String> {
        let root = self.sandbox.store();
        let mut found: Vec<String> =
            files(&root).iter().map(|f| f.strip_prefix(&root).expect("below it").display().to_string()).collect();
        found.sort();
        found
    }

    /// Files of the backup `name`, and temporary ones of anybody.
    pub fn objects_of(&self, name: &str) -> Vec<String> {
        let all = self.objects();
        let mut left: Vec<String> = all.iter().filter(|o| o.starts_with(name)).cloned().collect();
        left.extend(temporary(&all));
        left
    }

    /// A backup works, nobody is in its way; gives its name.
    pub fn next_backup_works(&self) -> String {
        let name = tokio::task::block_in_place(|| self.sandbox.backup(&[]));
        let listed = tokio::task::block_in_place(|| self.sandbox.pbm(&["list", "-o", "json"])).ok().json();
        let snapshots = listed["snapshots"].as_array().expect("snapshots").clone();
        let own = snapshots.iter().find(|s| s["name"] == name.as_str()).expect("listed");
        assert_eq!(own["status"], "done");
        name
    }

    pub fn pbm(&self, args: &[&str]) -> Output {
        tokio::task::block_in_place(|| self.sandbox.pbm(args))
    }

    /// The backup is listed, but not as one that could be restored.
    pub fn is_not_offered(&self, name: &str) {
        let listed = self.pbm(&["list", "-o", "json"]).ok().json();
        let all = listed["snapshots"].as_array().cloned().unwrap_or_default();
        assert!(!all.iter().any(|s| s["name"] == name && s["status"] == "done"), "{name} is listed as done: {listed}");
        self.pbm(&["restore", name, "-y"]).failed();
    }
}

fn temporary(objects: &[String]) -> Vec<String> {
    objects.iter().filter(|o| o.contains(".tmp")).cloned().collect()
}

/// All files below `folder`.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()) {
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// A point in the servers at which an operation stands still until [`Hold::release`].
pub struct Hold {
    point: &'static str,
    /// Of every member: its admin database and how often the point had been entered before.
    members: Vec<(Database, i64)>,
}

impl Hold {
    /// Reading `ns` stands still before its first batch, on whichever member.
    pub async fn reading(rig: &Rig, ns: &str) -> Self {
        Self::reading_in(&rig.sandbox.set, ns).await
    }

    /// As [`Self::reading`], in one set of many.
    pub async fn reading_in(set: &ReplicaSet, ns: &str) -> Self {
        // The field was renamed between server versions.
        let data = doc! { "nss": ns, "ns": ns, "shouldCheckForInterrupt": true };
        Self::set(set, "waitInFindBeforeMakingBatch", data).await
    }

    /// Every such command of a client on `ns` takes `millis`. What the server does on its own account is not held.
    pub async fn delaying(rig: &Rig, command: &str, ns: &str, millis: i32) -> Self {
        let data = doc! { "failCommands": [command], "namespace": ns, "blockConnection": true, "blockTimeMS": millis };
        Self::set(&rig.sandbox.set, "failCommand", data).await
    }

    /// Chunks that leave the shard stand still in the middle of their move.
    pub async fn moving(set: &ReplicaSet) -> Self {
        Self::set(set, "moveChunkHangAtStep3", doc! {}).await
    }

    async fn set(set: &ReplicaSet, point: &'static str, data: Document) -> Self {
        let mut members = Vec::new();
        for n in 0..set.size() {
            let admin = set.client_of(n).await.database("admin");
            let command = doc! { "configureFailPoint": point, "mode": "alwaysOn", "data": data.clone() };
            let done = admin.run_command(command).await.unwrap_or_else(|e| panic!("set {point}: {e}"));
            let before = done.get_i64("count").or_else(|_| done.get_i32("count").map(i64::from)).expect("a count");
            members.push((admin, before));
        }
        Self { point, members }
    }

    /// Waits until somebody stands there.
    pub async fn entered(&self) {
        let waits = self.members.iter().map(|(admin, before)| {
            Box::pin(async move {
                let limit = i64::try_from(USUAL.as_millis()).expect("short");
                let command = doc! { "waitForFailPoint": self.point, "timesEntered": before + 1, "maxTimeMS": limit };
                admin.run_command(command).await
            })
        });
        let entered = futures::future::select_ok(waits).await;
        entered.unwrap_or_else(|e| panic!("nobody came to {}: {e}", self.point));
    }

    /// Lets everybody go on. Members that are down have forgotten it anyway.
    pub async fn release(self) {
        for (admin, _) in self.members {
            let off = doc! { "configureFailPoint": self.point, "mode": "off" };
            let _ = tokio::time::timeout(Duration::from_secs(2), admin.run_command(off)).await;
        }
    }
}
