//! `restore` of a physical backup: every node with data takes part. While mongod is down, all other work of the agent rests.

use super::{Task, restore::source};
use crate::agent::{
    node::Node,
    op::{Gate, Leased, Op},
};
use crate::config::{open, resolved::Resolved};
use crate::control::Control;
use crate::model::{
    backup::{BackupMeta, BackupType},
    command::{RestoreCmd, name},
    config::Config,
    names,
    restore::RestoreMeta,
    status::Status,
};
use crate::mongo::{Hello, admin::explain};
use crate::operation::Cx;
use crate::rendezvous::{Cancel, Role};
use crate::restore::{
    self,
    physical::{self, After, Job, Ready, board::Board, marks::Place},
};
use crate::storage::Storage;
use crate::topo::cluster::connect_leader;
use crate::upkeep::contents::{resync, tenants};
use anyhow::{Context, Result, bail};
use bson::{Document, doc};
use futures::{FutureExt, TryStreamExt};
use mongodb::Database;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument;

/// How long the leader waits for a primary of the new set.
const PRIMARY: Duration = Duration::from_secs(300);

/// Takes every restore; one of a logical backup goes on as such.
pub(in crate::agent) async fn handle(task: Task, command: RestoreCmd) -> Result<()> {
    match task.node.control.backups.get(&command.backup_name).await? {
        Some(backup) if backup.kind == BackupType::Physical => Box::pin(of_files(task, command, backup)).await,
        // The recipe reports an unknown backup.
        _ => super::restore::handle(task, command).await,
    }
}

async fn of_files(task: Task, command: RestoreCmd, backup: BackupMeta) -> Result<()> {
    let node = task.node.clone();
    let hello = node.hello().await?;
    if hello.arbiter_only {
        return Ok(());
    }
    if hello.is_primary() {
        lead(task, command, backup, &hello).await
    } else {
        follow(task, command, backup, &hello).await
    }
}

/// The primary holds the lock of its replica set while the database is there.
async fn lead(task: Task, command: RestoreCmd, backup: BackupMeta, hello: &Hello) -> Result<()> {
    let node = task.node.clone();
    let Some(op) = task.receive(&command.name).on_primary(&node).await?.go() else { return Ok(()) };
    let op = match op.lease(&node, name::RESTORE).await? {
        Gate::Go(op) => op,
        withdrawn @ Gate::Withdrawn => {
            withdrawn.go();
            return Ok(());
        }
        Gate::StandDown(why) => {
            if node.in_leader_rs {
                restore::refuse(&node.control, &task.opid, &command, &why).await?;
            }
            bail!("restore {} can't start: {why}", command.name);
        }
    };
    let prepared = op
        .run(async |op: &Op<Leased>| {
            let config = node.control.config.main().await?;
            let kept = Kept::read(&node, config.as_ref()).await?;
            let cx = super::restore::context(&node, op, config.as_ref()).await?;
            let job = job(&node, &cx, config.as_ref(), command.clone(), backup, hello).await;
            let (ready, meta, job) = Box::pin(physical::lead(&cx, job, &command)).await?;
            Ok::<_, anyhow::Error>((ready, job, Some((kept, meta))))
        })
        .await?;
    hand_over(&node, prepared);
    Ok(())
}

async fn follow(task: Task, command: RestoreCmd, backup: BackupMeta, hello: &Hello) -> Result<()> {
    let node = &task.node;
    let config = node.control.config.main().await?;
    let cx = Cx {
        control: node.control.clone(),
        client: node.client.clone(),
        settings: Resolved::of(config.as_ref().unwrap_or(&Config::default())),
        opid: task.opid.clone(),
        rs: node.rs.clone(),
        me: node.me(),
        role: Role::Follower,
        cluster: node.cluster().await?,
        name: command.name.clone(),
        version: node.version_now().await?,
        cancel: Cancel::clone(&task.cancel),
    };
    let job = job(node, &cx, config.as_ref(), command, backup, hello).await?;
    let ready = Box::pin(physical::make_ready(&cx, &job)).await?;
    hand_over(node, (ready, job, None));
    Ok(())
}

async fn job(
    node: &Node,
    cx: &Cx,
    config: Option<&Config>,
    command: RestoreCmd,
    backup: BackupMeta,
    hello: &Hello,
) -> Result<Job> {
    let storage = source(node, config, Some(&command)).await.map_err(anyhow::Error::msg)?;
    let main = config.context("there is no configuration; give one with `pbm config --file`")?;
    // The files of the synchronisation are always on the main storage, as in the original.
    let shared = open::open(&main.storage, &node.me()).await?;
    let set = crate::mongo::admin::set_config(node.mongod.as_ref()).await?;
    let nodes = set.members.iter().filter(|it| !it.arbiter_only).map(|it| it.host.clone()).collect();
    let primary = hello.is_primary();
    let place = Place {
        rs: cx.rs.clone(),
        node: cx.me.clone(),
        nodes,
        sets: vec![cx.rs.clone()],
        primary,
        leader: primary && node.in_leader_rs,
    };
    let board = Board::new(shared, &command.name, place);
    Ok(Job { restore: command, backup, storage, board })
}

/// A node's part that is ready; on the leader, with what the new set gets of the old one.
type Prepared = (Ready, Job, Option<(Kept, RestoreMeta)>);

fn hand_over(node: &Arc<Node>, (ready, job, kept): Prepared) {
    let (client, uri) = (node.client.clone(), node.uri().to_owned());
    let work = async move {
        let control = match &kept {
            Some((kept, meta)) => kept.write(&uri, &job, meta).boxed(),
            None => async { Ok(()) }.boxed(),
        };
        match Box::pin(physical::replace(&job, &client, ready, After { uri: &uri, control })).await {
            Ok(Status::Done) => tracing::info!("restore finished"),
            Ok(end) => tracing::warn!("the restore ended as {end}"),
            Err(error) => tracing::error!("{}", explain(&error)),
        }
    };
    node.handover.give(work.in_current_span().boxed());
}

/// What the new set gets of the old one: settings, and the records of logical restores, which no storage has.
struct Kept {
    config: Option<Config>,
    configs: Vec<Document>,
    restores: Vec<Document>,
    /// The id of the old set, if it has one.
    id: Option<String>,
}

impl Kept {
    /// Reads it before point-in-time recovery is switched off for the restore.
    async fn read(node: &Node, config: Option<&Config>) -> Result<Self> {
        let db = node.control.client().database(names::CONTROL_DB);
        Ok(Self {
            config: config.cloned(),
            configs: all_of(&db, names::CONFIG).await?,
            restores: all_of(&db, names::RESTORES).await?,
            id: node.identity().await?.map(|it| it.id),
        })
    }

    /// Fills the control collections of the new set.
    async fn write(&self, uri: &str, job: &Job, meta: &RestoreMeta) -> Result<()> {
        job.board.record(meta).await?;
        let control = Control::new(primary(uri).await?);
        control.set_up().await?;
        let db = control.client().database(names::CONTROL_DB);
        for (name, documents) in [(names::CONFIG, &self.configs), (names::RESTORES, &self.restores)] {
            if !documents.is_empty() {
                db.collection::<Document>(name)
                    .insert_many(documents)
                    .await
                    .with_context(|| format!("write {name}"))?;
            }
        }
        let config = self.config.as_ref().context("there was no configuration")?;
        let store: Arc<dyn Storage> = open::open(&config.storage, &job.board.place.node).await?;
        resync::main_storage(&control, store.as_ref(), config, false).await?;
        // The new set has another id, and goes on with the storage.
        if let Some(id) = &self.id {
            tenants::leave(store.as_ref(), id).await?;
        }
        Ok(())
    }
}

async fn all_of(db: &Database, name: &'static str) -> Result<Vec<Document>> {
    let read = || format!("read {name}");
    db.collection::<Document>(name).find(doc! {}).await.with_context(read)?.try_collect().await.with_context(read)
}

/// A client of the new set, when it has a primary.
async fn primary(uri: &str) -> Result<mongodb::Client> {
    let since = Instant::now();
    loop {
        match connect_leader(uri, "pbm-agent").await {
            Ok((client, _)) => return Ok(client),
            Err(error) if since.elapsed() > PRIMARY => {
                return Err(error.context("the restored replica set has no primary"));
            }
            Err(error) => tracing::debug!("{}", explain(&error)),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
