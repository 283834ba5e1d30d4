//! A sharded cluster without mongos: the tests send to config servers and shards what a router would send.
//!
//! Shard keys are one ascending field with whole numbers (`i64`) in it.

use super::cluster::{Options, ReplicaSet, Role, Version};
use super::programs::{Deployment, Sandbox};
use super::wire::{Refusal, Wire};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Bson, Document, Timestamp, Uuid, doc};
use std::collections::BTreeMap;
use std::time::Duration;

/// Two shards; the second one's id is not its replica set's name.
pub const TWO_SHARDS: &[(&str, &str)] = &[("rs1", "rs1"), ("rs2", "shardB")];

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Shard {
    pub set: ReplicaSet,
    /// Its `_id` in `config.shards`.
    pub id: String,
}

/// A config replica set and its shards.
#[derive(Debug)]
pub struct ShardedCluster {
    pub config: ReplicaSet,
    pub shards: Vec<Shard>,
}

impl Deployment for ShardedCluster {
    fn leader(&self) -> &ReplicaSet {
        &self.config
    }

    fn sets(&self) -> Vec<&ReplicaSet> {
        std::iter::once(&self.config).chain(self.shards.iter().map(|shard| &shard.set)).collect()
    }
}

/// A sharded cluster with an agent for every mongod.
pub type ShardedSandbox = Sandbox<ShardedCluster>;

impl Sandbox<ShardedCluster> {
    /// Everything up, configured, and seen by the agents.
    pub async fn sharded(options: Options, shards: &[(&str, &str)]) -> Self {
        let sandbox = Self::around(ShardedCluster::start(options, shards).await).await;
        sandbox.configure(&[]).await;
        sandbox
    }
}

/// A chunk as a router needs it: keys from `min` (included) to `max` (excluded).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub min: Bson,
    pub max: Bson,
    pub shard: String,
    pub version: Timestamp,
    id: Bson,
}

impl Chunk {
    fn holds(&self, key: i64) -> bool {
        let above = match self.min {
            Bson::MinKey => true,
            Bson::Int64(min) => min <= key,
            _ => panic!("{self:?}"),
        };
        above
            && match self.max {
                Bson::MaxKey => true,
                Bson::Int64(max) => key < max,
                _ => panic!("{self:?}"),
            }
    }
}

/// How a sharded collection is spread, as `config.collections` and `config.chunks` say.
#[derive(Debug, Clone)]
pub struct Table {
    /// The shard key's field.
    pub field: String,
    pub chunks: Vec<Chunk>,
    epoch: Bson,
    /// Versions are written in the form of 5.0.
    by_list: bool,
    uuid: Bson,
    /// Servers before 5.0 have none.
    timestamp: Option<Bson>,
}

impl Table {
    /// Reads it; `at` a time in the past if wanted.
    pub async fn read(config: &Client, ns: &str, at: Option<Timestamp>) -> Self {
        let concern = match at {
            Some(at) => doc! { "level": "snapshot", "atClusterTime": at },
            None => doc! { "level": "majority" },
        };
        let read = async |coll: &str, filter: Document| -> Vec<Document> {
            let find = doc! { "find": coll, "filter": filter, "sort": { "min": 1 }, "readConcern": concern.clone() };
            let cursor = config.database("config").run_cursor_command(find).await.expect("read the routing table");
            cursor.try_collect().await.expect("read the routing table")
        };
        let coll = read("collections", doc! { "_id": ns }).await.pop().expect("a sharded collection");
        let key = coll.get_document("key").expect("a shard key");
        let field = key.keys().next().expect("a field").clone();
        let timestamp = coll.get("timestamp").cloned();
        let filter = if timestamp.is_some() {
            doc! { "uuid": coll.get("uuid").cloned() }
        } else {
            doc! { "ns": ns }
        };
        let chunks = read("chunks", filter).await;
        let bound = |chunk: &Document, side: &str| {
            chunk.get_document(side).expect("a bound").get(&field).expect("the shard key's field").clone()
        };
        let chunks = chunks
            .iter()
            .map(|chunk| Chunk {
                min: bound(chunk, "min"),
                max: bound(chunk, "max"),
                shard: chunk.get_str("shard").expect("a shard").to_owned(),
                version: chunk.get_timestamp("lastmod").expect("a version"),
                id: chunk.get("_id").cloned().unwrap_or(Bson::Null),
            })
            .collect();
        let build = config.database("admin").run_command(doc! { "buildInfo": 1 }).await.expect("the server's version");
        Self {
            chunks,
            by_list: build.get_str("version").expect("a version").starts_with("5."),
            uuid: coll.get("uuid").cloned().unwrap_or(Bson::Null),
            epoch: coll.get("lastmodEpoch").expect("an epoch").clone(),
            timestamp,
            field,
        }
    }

    /// The chunk that `key` belongs to.
    pub fn chunk_of(&self, key: i64) -> &Chunk {
        self.chunks.iter().find(|chunk| chunk.holds(key)).expect("chunks without gaps")
    }

    /// What to send to a shard, so that it leaves out what it does not own and refuses if the table is out of date.
    pub fn version_for(&self, shard: &str) -> Bson {
        let own = self.chunks.iter().filter(|chunk| chunk.shard == shard).map(|chunk| chunk.version);
        let version = own.max().unwrap_or(Timestamp { time: 0, increment: 0 });
        match &self.timestamp {
            Some(timestamp) if self.by_list => vec![version.into(), self.epoch.clone(), timestamp.clone()].into(),
            Some(timestamp) => doc! { "t": timestamp.clone(), "e": self.epoch.clone(), "v": version }.into(),
            None => vec![version.into(), self.epoch.clone()].into(),
        }
    }
}

impl Table {
    fn old_move(&self, ns: &str, chunk: &Chunk, to: &str) -> Document {
        doc! {
            "_configsvrMoveChunk": 1, "_id": chunk.id.clone(), "ns": ns, "uuid": self.uuid.clone(), "min": { &self.field: &chunk.min },
            "max": { &self.field: &chunk.max }, "shard": &chunk.shard, "lastmod": chunk.version,
            "lastmodEpoch": self.epoch.clone(), "toShard": to, "maxChunkSizeBytes": 64_i64 << 20,
            "secondaryThrottle": {}, "waitForDelete": true, "forceJumbo": false,
        }
    }
}

fn split_name(ns: &str) -> (&str, &str) {
    ns.split_once('.').expect("database and collection")
}

impl ShardedCluster {
    /// Starts all sets at once and adds the shards, given as replica set's name and shard id. Name and role in `options`
    /// are not used; the config replica set is `cfgrs`.
    pub async fn start(options: Options, shards: &[(&str, &str)]) -> Self {
        Self::start_as(options, "cfgrs", shards).await
    }

    /// As [`Self::start`], with another name of the config replica set.
    pub async fn start_as(options: Options, config: &str, shards: &[(&str, &str)]) -> Self {
        let set =
            |name: &str, role| ReplicaSet::start(Options { name: name.into(), role: Some(role), ..options.clone() });
        let config = set(config, Role::ConfigServer);
        let others = futures::future::join_all(shards.iter().map(|(name, _)| set(name, Role::Shard)));
        let (config, others) = futures::future::join(config, others).await;
        let ids = shards.iter().map(|(_, id)| (*id).to_owned());
        let shards = others.into_iter().zip(ids).map(|(set, id)| Shard { set, id }).collect();
        let cluster = Self { config, shards };
        for shard in &cluster.shards {
            let add = doc! { "_configsvrAddShard": shard.set.connection_string(), "name": &shard.id };
            cluster.configure(add).await.expect("add a shard");
        }
        cluster
    }

    /// A command to the config replica set's primary, done when a majority has it.
    async fn configure(&self, mut command: Document) -> mongodb::error::Result<Document> {
        command.insert("writeConcern", doc! { "w": "majority" });
        self.config.client().await.database("admin").run_command(command).await
    }

    /// `Start`, `Stop` or `Status`: they take no write concern.
    async fn balancer(&self, command: &str) -> Document {
        let admin = self.config.client().await.database("admin");
        admin.run_command(doc! { format!("_configsvrBalancer{command}"): 1 }).await.expect("a command to the balancer")
    }

    /// Routers before 5.0 send other commands.
    fn is_old(&self) -> bool {
        self.config.options().version == Version::Oldest
    }

    pub fn shard(&self, id: &str) -> &Shard {
        self.shards.iter().find(|shard| shard.id == id).expect("a shard of this id")
    }

    pub async fn create_database(&self, db: &str, primary: &str) {
        let mut create = doc! { "_configsvrCreateDatabase": db, "primaryShardId": primary };
        if self.config.options().version != Version::Current {
            create.insert("enableSharding", true);
        }
        self.configure(create).await.expect("create a database");
        if self.is_old() {
            self.configure(doc! { "_configsvrEnableSharding": db }).await.expect("enable sharding");
        }
    }

    /// Shards a new collection of an existing database by `field`: one chunk, on the database's primary shard.
    pub async fn shard_collection(&self, ns: &str, field: &str) {
        if self.is_old() {
            let shard = doc! { "_configsvrShardCollection": ns, "key": { field: 1 }, "getUUIDfromPrimaryShard": true };
            return drop(self.configure(shard).await.expect("shard a collection"));
        }
        self.shard_by(ns, doc! { field: 1 }).await;
    }

    /// Shards a new collection by the hash of `field`, with two chunks on each shard.
    pub async fn shard_hashed(&self, ns: &str, field: &str) {
        self.shard_by(ns, doc! { field: "hashed" }).await;
    }

    /// Assigns the keys of a collection, from the first (included) to the second (excluded), to a zone of this shard.
    pub async fn add_zone(&self, ns: &str, (from, to): (i64, i64), shard: &str, zone: &str) {
        let field = self.table(ns).await.field;
        let add = doc! { "_configsvrAddShardToZone": shard, "zone": zone };
        let range = doc! {
            "_configsvrUpdateZoneKeyRange": ns, "min": { &field: from }, "max": { &field: to }, "zone": zone,
        };
        for command in [add, range] {
            self.configure(command).await.expect("make a zone");
        }
    }

    async fn shard_by(&self, ns: &str, key: Document) {
        let (db, coll) = split_name(ns);
        let databases = self.config.client().await.database("config").collection::<Document>("databases");
        let entry = databases.find_one(doc! { "_id": db }).await.expect("read the databases").expect("the database");
        let create = doc! {
            "_shardsvrCreateCollection": coll, "shardKey": key,
            "databaseVersion": entry.get("version").cloned(), "writeConcern": { "w": "majority" },
        };
        let primary = self.shard(entry.get_str("primary").expect("a primary"));
        primary.set.client().await.database(db).run_command(create).await.expect("shard a collection");
    }

    pub async fn table(&self, ns: &str) -> Table {
        Table::read(&self.config.client().await, ns, None).await
    }

    /// Divides the chunk that `at` is in.
    pub async fn split(&self, ns: &str, at: i64) {
        let table = self.table(ns).await;
        let chunk = table.chunk_of(at);
        let field = &table.field;
        let mut split = doc! {
            "splitChunk": ns, "from": &chunk.shard, "keyPattern": { field: 1 },
            "min": { field: &chunk.min }, "max": { field: &chunk.max },
            "epoch": table.epoch.clone(), "splitKeys": [{ field: at }],
        };
        match table.timestamp.clone() {
            Some(timestamp) => drop(split.insert("timestamp", timestamp)),
            None => drop(split.insert("shardVersion", table.version_for(&chunk.shard))),
        }
        let owner = self.shard(&chunk.shard).set.client().await;
        owner.database("admin").run_command(split).await.expect("split a chunk");
    }

    /// Moves the chunk that `key` is in. Fails also for good reasons: another move is going on, or the balancer is off.
    pub async fn move_chunk(&self, ns: &str, key: i64, to: &str) -> mongodb::error::Result<()> {
        let table = self.table(ns).await;
        let chunk = table.chunk_of(key);
        let min = doc! { &table.field: &chunk.min };
        if self.config.options().version != Version::Current {
            return self.configure(table.old_move(ns, chunk, to)).await.map(drop);
        }
        self.configure(doc! { "_configsvrMoveRange": ns, "toShard": to, "min": min }).await.map(drop)
    }

    pub async fn start_balancer(&self) {
        self.balancer("Start").await;
    }

    pub async fn stop_balancer(&self) {
        self.balancer("Stop").await;
    }

    /// `full` or `off`.
    pub async fn balancer_mode(&self) -> String {
        self.balancer("Status").await.get_str("mode").expect("a mode").to_owned()
    }

    /// A router with connections of its own.
    pub async fn router(&self) -> Router {
        let mut shards = BTreeMap::new();
        for shard in &self.shards {
            let address = shard.set.address_of(shard.set.primary().await);
            shards.insert(shard.id.clone(), Wire::connect(&address, shard.set.options().auth).await);
        }
        Router {
            shards,
            config: self.config.client().await,
            tables: BTreeMap::new(),
            cluster_time: None,
            session: doc! { "id": Uuid::new() },
            number: 0,
        }
    }
}

/// A transaction of a [`Router`], which can have one at a time.
#[derive(Debug, Clone)]
pub struct Transaction {
    number: i64,
    coordinated: bool,
    /// Shard ids in the order of their first statements; the first one is the coordinator.
    pub participants: Vec<String>,
}

/// Sends statements to the shards that own the documents, as mongos does. One session, one thing at a time.
#[derive(Debug)]
pub struct Router {
    shards: BTreeMap<String, Wire>,
    config: Client,
    tables: BTreeMap<String, Table>,
    cluster_time: Option<Document>,
    session: Document,
    number: i64,
}

impl Router {
    async fn table(&mut self, ns: &str) -> &Table {
        if !self.tables.contains_key(ns) {
            let table = Table::read(&self.config, ns, None).await;
            self.tables.insert(ns.to_owned(), table);
        }
        &self.tables[ns]
    }

    /// To one shard. What one shard knows of the time the next one has to learn, or it refuses commit times.
    async fn send(&mut self, shard: &str, db: &str, mut command: Document) -> Result<Document, Refusal> {
        if let Some(time) = &self.cluster_time {
            command.insert("$clusterTime", time.clone());
        }
        let wire = self.shards.get_mut(shard).expect("a shard of this id");
        let (reply, time) = wire.run(db, command).await;
        let newer = |time: &Document| time.get_timestamp("clusterTime").expect("a time");
        if let Some(time) = time
            && self.cluster_time.as_ref().is_none_or(|own| newer(own) < newer(&time))
        {
            self.cluster_time = Some(time);
        }
        reply
    }

    /// Until the routing table is right and no chunk is just being handed over.
    async fn routed(&mut self, ns: &str, key: i64, command: &Document) -> Document {
        let since = std::time::Instant::now();
        loop {
            let table = self.table(ns).await;
            let shard = table.chunk_of(key).shard.clone();
            let mut versioned = command.clone();
            versioned.insert("shardVersion", table.version_for(&shard));
            match self.send(&shard, split_name(ns).0, versioned).await {
                Ok(reply) => return reply,
                Err(refusal) => {
                    assert!(refusal.is_passing() && since.elapsed() < LIMIT, "{command}: {refusal}");
                    self.tables.remove(ns);
                }
            }
        }
    }

    /// The document has the shard key.
    pub async fn insert(&mut self, ns: &str, document: Document) {
        let field = self.table(ns).await.field.clone();
        let key = document.get_i64(&field).expect("the shard key, an i64");
        self.routed(ns, key, &doc! { "insert": split_name(ns).1, "documents": [document] }).await;
    }

    /// The document with this shard key; gives how many there were.
    pub async fn update(&mut self, ns: &str, key: i64, change: Document) -> i32 {
        let field = self.table(ns).await.field.clone();
        let update = doc! { "update": split_name(ns).1, "updates": [{ "q": { field: key }, "u": change }] };
        self.routed(ns, key, &update).await.get_i32("n").expect("a count")
    }

    pub async fn delete(&mut self, ns: &str, key: i64) -> i32 {
        let field = self.table(ns).await.field.clone();
        let delete = doc! { "delete": split_name(ns).1, "deletes": [{ "q": { field: key }, "limit": 1 }] };
        self.routed(ns, key, &delete).await.get_i32("n").expect("a count")
    }

    /// Everything in a collection that its shard owns, by shard id. For collections that fit into one batch.
    pub async fn find(&mut self, ns: &str, filter: Document) -> BTreeMap<String, Vec<Document>> {
        let (db, coll) = split_name(ns);
        let since = std::time::Instant::now();
        'again: loop {
            let table = self.table(ns).await.clone();
            let mut all = BTreeMap::new();
            for shard in self.shards.keys().cloned().collect::<Vec<_>>() {
                let find = doc! {
                    "find": coll, "filter": filter.clone(), "batchSize": 1_000_000, "sort": { &table.field: 1 },
                    "shardVersion": table.version_for(&shard),
                };
                match self.send(&shard, db, find).await {
                    Ok(reply) => {
                        let cursor = reply.get_document("cursor").expect("a cursor");
                        assert_eq!(cursor.get_i64("id").expect("a number"), 0, "it fits into one batch");
                        let batch = cursor.get_array("firstBatch").expect("a batch").iter();
                        all.insert(shard, batch.map(|d| d.as_document().expect("a document").clone()).collect());
                    }
                    Err(refusal) => {
                        assert!(refusal.is_passing() && since.elapsed() < LIMIT, "find in {ns}: {refusal}");
                        self.tables.remove(ns);
                        continue 'again;
                    }
                }
            }
            return all;
        }
    }

    /// Begins a transaction. One that is not `coordinated` can be taken through its phases by hand.
    pub fn begin(&mut self, coordinated: bool) -> Transaction {
        self.number += 1;
        Transaction { number: self.number, coordinated, participants: Vec::new() }
    }

    fn belonging(&self, transaction: &Transaction, mut command: Document) -> Document {
        command.extend(doc! { "lsid": &self.session, "txnNumber": transaction.number, "autocommit": false });
        command
    }

    /// Changes one document in a transaction, which has to be aborted if this fails.
    pub async fn update_in(
        &mut self,
        transaction: &mut Transaction,
        ns: &str,
        key: i64,
        change: Document,
    ) -> Result<(), Refusal> {
        let (db, coll) = split_name(ns);
        let table = self.table(ns).await;
        let shard = table.chunk_of(key).shard.clone();
        let update = doc! {
            "update": coll, "updates": [{ "q": { &table.field: key }, "u": change }],
            "shardVersion": table.version_for(&shard),
        };
        let mut update = self.belonging(transaction, update);
        if !transaction.participants.contains(&shard) {
            update.insert("startTransaction", true);
            update.insert("readConcern", doc! { "level": "snapshot" });
            if transaction.coordinated && transaction.participants.is_empty() {
                update.insert("coordinator", true);
            }
            transaction.participants.push(shard.clone());
        }
        let done = self.send(&shard, db, update).await;
        match done {
            Ok(reply) if reply.get_i32("n").is_ok_and(|n| n == 1) => Ok(()),
            Ok(reply) => panic!("no document {key} in {ns} on {shard}: {reply}"),
            Err(refusal) => {
                self.tables.remove(ns);
                Err(refusal)
            }
        }
    }

    /// Commits: in one phase on one shard, through the coordinator on several.
    pub async fn commit(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        let first = transaction.participants.first().expect("a statement before the commit").clone();
        let mut command = if transaction.participants.len() == 1 {
            doc! { "commitTransaction": 1 }
        } else {
            assert!(transaction.coordinated, "a transaction with a coordinator");
            let participants: Vec<_> = transaction.participants.iter().map(|id| doc! { "shardId": id }).collect();
            doc! { "coordinateCommitTransaction": 1, "participants": participants }
        };
        command.insert("writeConcern", doc! { "w": "majority" });
        let command = self.belonging(transaction, command);
        self.send(&first, "admin", command).await.map(drop)
    }

    /// The first phase by hand, on all participants. Gives a time to commit at.
    pub async fn prepare(&mut self, transaction: &Transaction) -> Result<Timestamp, Refusal> {
        let mut times = Vec::new();
        for shard in &transaction.participants {
            let prepare = doc! { "prepareTransaction": 1, "writeConcern": { "w": "majority" } };
            let prepare = self.belonging(transaction, prepare);
            let reply = self.send(shard, "admin", prepare).await?;
            times.push(reply.get_timestamp("prepareTimestamp").expect("a time"));
        }
        Ok(times.into_iter().max().expect("a participant"))
    }

    /// The second phase by hand, on one shard.
    pub async fn commit_on(&mut self, shard: &str, transaction: &Transaction, at: Timestamp) {
        let commit = doc! { "commitTransaction": 1, "commitTimestamp": at, "writeConcern": { "w": "majority" } };
        let commit = self.belonging(transaction, commit);
        self.send(shard, "admin", commit).await.expect("commit what is prepared");
    }

    /// On all participants; those that have nothing open any more have aborted by themselves.
    pub async fn abort(&mut self, transaction: &Transaction) {
        for shard in &transaction.participants {
            let abort = self.belonging(transaction, doc! { "abortTransaction": 1 });
            let _ = self.send(shard, "admin", abort).await;
        }
    }
}

impl Refusal {
    /// Whether to look at the routing table again, or to wait a moment, helps.
    fn is_passing(&self) -> bool {
        ["StaleConfig", "StaleEpoch", "ConflictingOperationInProgress", "LockTimeout", "WriteConflict"]
            .contains(&self.name.as_str())
            || [63, 13388, 112, 150].contains(&self.code)
    }
}
