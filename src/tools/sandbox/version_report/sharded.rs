//! A cluster of two shards. It has no mongos: its config server and shards get what a mongos would send, as far as this server
//! allows that.

use super::{Found, Subject, state::State};
use crate::mongo::{admin, code};
use crate::tools::sandbox::{
    configure_quietly,
    processes::{Agent, Mongod, Place, Role},
};
use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use mongodb::{
    Client,
    bson::{Document, doc},
};
use std::fs;

const SHARDS: [&str; 2] = ["rs1", "rs2"];

/// The servers and agents; they end with it.
struct Cluster {
    config: Client,
    shards: Vec<Client>,
    uri: String,
    servers: Vec<Mongod>,
    agents: Vec<Agent>,
}

pub(super) async fn comes_back(subject: Subject<'_>) -> Result<Found> {
    let mut cluster = Cluster::start(subject).await?;
    if let Err(error) = cluster.fill().await {
        return Ok(Found::NotPossible(format!(
            "this server does not take the commands of a mongos: {}",
            admin::explain(&error)
        )));
    }
    cluster.start_agents(subject).await?;
    let folder = subject.folder.join("sharded");
    let programs = subject.programs.at(&cluster.uri);
    configure_quietly(&cluster.config, &programs, &folder, 3).await?;
    let before = cluster.read().await?;
    let done = programs.json(&["backup", "--wait"]).await?;
    let name = done["name"].as_str().context("pbm backup printed no name")?;
    for shard in &cluster.shards {
        for db in ["one", "two"] {
            shard.database(db).collection::<Document>("docs").delete_many(doc! {}).await.context("delete documents")?;
        }
    }
    programs.json(&["restore", name, "--wait", "--yes"]).await?;
    let after = cluster.read().await?;
    let mut differences = Vec::new();
    for ((shard, after), before) in SHARDS.iter().zip(&after.shards).zip(&before.shards) {
        differences.extend(after.differences(before).into_iter().map(|it| format!("{shard}: {it}")));
    }
    if after.routing != before.routing {
        differences.push("the routing tables differ".to_owned());
    }
    Ok(Found::of(differences))
}

/// All that is compared.
struct Content {
    shards: Vec<State>,
    routing: Vec<Document>,
}

impl Cluster {
    async fn start(subject: Subject<'_>) -> Result<Self> {
        let folder = subject.folder.join("sharded");
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let start = async |rs: &str, role| {
            let place = Place { folder: folder.join(rs), rs: rs.to_owned(), role };
            Mongod::start(subject.mongod, &place).await
        };
        let config = start("cfg", Role::Config).await?;
        let servers = vec![config, start(SHARDS[0], Role::Shard).await?, start(SHARDS[1], Role::Shard).await?];
        let uri = servers[0].uri();
        let (config, shards) =
            (servers[0].client().await?, vec![servers[1].client().await?, servers[2].client().await?]);
        Ok(Self { config, shards, uri, servers, agents: Vec::new() })
    }

    /// Adds the shards and makes data on both.
    async fn fill(&self) -> Result<()> {
        let admin = self.config.database("admin");
        let majority = doc! { "w": "majority" };
        for (shard, server) in SHARDS.iter().zip(&self.servers[1..]) {
            let command = doc! { "_configsvrAddShard": format!("{shard}/{}", server.address()), "name": *shard, "writeConcern": majority.clone() };
            admin.run_command(command).await.context("add a shard")?;
        }
        for ((db, shard), client) in ["one", "two"].iter().zip(SHARDS).zip(&self.shards) {
            let mut command =
                doc! { "_configsvrCreateDatabase": *db, "primaryShardId": shard, "writeConcern": majority.clone() };
            if admin.run_command(command.clone()).await.is_err() {
                // Servers before 6.0 want to be told this.
                command.insert("enableSharding", true);
                admin.run_command(command).await.context("create a database")?;
            }
            // Servers before 6.0 want this, and later ones don't know it.
            let enable = doc! { "_configsvrEnableSharding": *db, "writeConcern": majority.clone() };
            let _ = admin.run_command(enable).await;
            self.shard_collection(db, client).await.context("shard a collection")?;
            for coll in ["docs", "spread"] {
                let docs = (0..100).map(|n| doc! { "_id": n, "k": n, "shard": shard });
                client
                    .database(db)
                    .collection::<Document>(coll)
                    .insert_many(docs)
                    .await
                    .context("insert into a shard")?;
            }
        }
        Ok(())
    }

    /// Makes the sharded collection `spread` with one chunk.
    async fn shard_collection(&self, db: &str, primary: &Client) -> Result<()> {
        let majority = doc! { "w": "majority" };
        let known =
            self.config.database("config").collection::<Document>("databases").find_one(doc! { "_id": db }).await;
        let known = known.context("read config.databases")?.context("config.databases lacks the database")?;
        let version = known.get("version").cloned().context("the database has no version")?;
        let command = doc! { "_shardsvrCreateCollection": "spread", "shardKey": { "k": 1 }, "databaseVersion": version, "writeConcern": majority.clone() };
        let Err(error) = primary.database(db).run_command(command).await else { return Ok(()) };
        if code::code(&error) != Some(code::COMMAND_NOT_FOUND) {
            return Err(error.into());
        }
        // As servers before 5.0 do it.
        let command = doc! { "_configsvrShardCollection": format!("{db}.spread"), "key": { "k": 1 }, "getUUIDfromPrimaryShard": true, "writeConcern": majority };
        self.config.database("admin").run_command(command).await.map(drop).map_err(Into::into)
    }

    async fn start_agents(&mut self, subject: Subject<'_>) -> Result<()> {
        for server in &self.servers {
            let log = subject.folder.join("sharded").join(format!("agent-{}.log", server.address().replace(':', "-")));
            self.agents.push(Agent::start(&subject.programs.agent(), &server.uri(), log)?);
        }
        Ok(())
    }

    async fn read(&self) -> Result<Content> {
        let mut shards = Vec::new();
        for shard in &self.shards {
            shards.push(State::read(shard).await?);
        }
        let mut routing = Vec::new();
        for coll in ["databases", "collections", "chunks"] {
            // The server shards it when it wants to.
            let ours = doc! { "_id": { "$ne": "config.system.sessions" } };
            let found =
                self.config.database("config").collection::<Document>(coll).find(ours).sort(doc! { "_id": 1 }).await;
            let found: Vec<Document> = found.context("read the routing tables")?.try_collect().await?;
            routing.extend(found.into_iter().map(|it| place(&it)));
        }
        Ok(Content { shards, routing })
    }
}

/// What says where documents are. A restore gives new versions to databases and collections.
fn place(document: &Document) -> Document {
    let fields = ["primary", "partitioned", "key", "unique", "min", "max", "shard"];
    fields.iter().filter_map(|key| Some(((*key).to_owned(), document.get(key)?.clone()))).collect()
}
