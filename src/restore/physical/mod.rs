//! The physical recipe: data files in the place of data files (docs/format.md A.9).
//!
//! Every node with data takes part, and each gets its files from the storage. [`make_ready`] changes nothing: where there is
//! room, the new data is made ready beside the old data, which the set serves meanwhile. [`replace`] stops mongod, and from
//! then on the nodes only see each other's files on the storage.
//!
//! | in this order | files |
//! |---|---|
//! | what each node checks | `plan` |
//! | who waits for whom | [`marks`] (pure), [`board`] |
//! | files, recovery, configuration | `datafiles` |
//! | old data aside and back | `swap` |
//! | how mongod is stopped and started | [`host`] |
//!
//! # Consistency
//! No node starts the new data before all nodes of the set have stopped the old data. The new set has an id of its own, so a
//! member that missed the restore can't bring old data in.
//!
//! # Crash
//! Until [`replace`] nothing has happened. After it a lost node is one that is not done: if others are, it copies from them;
//! if none is, all nodes with old data aside put it back.

pub mod board;
pub mod host;
pub mod marks;
pub mod plan;
pub mod state;
mod swap;

use super::{
    record::{begin, first_part},
    slicing_end,
    start::first_document,
};
use crate::control::{ControlBoard, unix_now};
use crate::datafiles::download::{self, Fetch};
use crate::datafiles::recovery::{self, Files};
use crate::model::backup::{BackupMeta, BackupType};
use crate::model::command::RestoreCmd;
use crate::model::names::{CONTROL, CONTROL_DB};
use crate::model::restore::RestoreMeta;
use crate::model::status::{Condition, Status};
use crate::mongo::admin::explain;
use crate::mongo::{self, Purpose};
use crate::operation::{self, Cx, Kind, slicing_pause};
use crate::rendezvous::Role;
use crate::storage::Storage;
use anyhow::{Context, Result, bail, ensure};
use board::Board;
use bson::Timestamp;
use futures::future::BoxFuture;
use mongodb::Client;
use plan::Planned;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use swap::NewData;
use tokio::time::Instant;

/// The cache of a temporary mongod beside the one of the cluster.
const CACHE_GB: f64 = 0.5;
/// How long a started mongod may take until it is a member of the set again.
const MEMBER: Duration = Duration::from_secs(30 * 60);
/// Time between two looks at a starting mongod.
const LOOK: Duration = Duration::from_millis(100);
/// Refused logins until the agent gives up: users can only be read when the server has begun.
const DENIED: u32 = 100;
/// Time between two lines of the log about the download.
const TELL: Duration = Duration::from_secs(10);
/// Files at a time, if the settings have no number.
const FILES: usize = 4;

/// What is restored, and from where.
#[derive(Debug)]
pub struct Job {
    pub restore: RestoreCmd,
    pub backup: BackupMeta,
    /// The storage of the backup, and of the saved oplog.
    pub storage: Arc<dyn Storage>,
    pub board: Board,
}

/// A node whose part is ready; the old data is still in use.
#[derive(Debug)]
pub struct Ready {
    planned: Planned,
    /// Removed with this value, unless it has replaced the old data.
    new: Option<NewData>,
}

/// As [`make_ready`], on the primary: with the document of the restore in the database, which tells why it is refused or
/// fails. Returns the record of the restore, too.
///
/// # Errors
/// It can't be restored; nothing was changed.
pub async fn lead(cx: &Cx, job: Result<Job>, restore: &RestoreCmd) -> Result<(Ready, RestoreMeta, Job)> {
    tracing::info!("restore started");
    let first = RestoreMeta { kind: BackupType::Physical, ..first_document(&cx.control, &cx.opid, restore).await? };
    begin(cx, first).await?;
    let board: ControlBoard<RestoreMeta> = cx.board(vec![cx.rs.clone()]);
    let mut ready = None;
    let recipe = async {
        cx.control.restores.add_member(&cx.name, &cx.rs, &first_part(&cx.rs)).await?;
        if cx.role == Role::Leader {
            slicing_pause::hold(&cx.control, &cx.name).await?;
        }
        let job = job.as_ref().map_err(|why| anyhow::anyhow!("{why:#}"))?;
        refuse_selection(restore)?;
        slicing_end::wait_for_their_end(cx).await?;
        let made = make_ready(cx, job).await?;
        let changed_from = cx.control.advanced_cluster_time().await?;
        ready = Some((made, record(cx, changed_from).await?));
        Ok(())
    };
    let done = operation::run(cx, &board, Kind::RestoreOfFiles, recipe).await;
    if let (Err(error), Ok(job)) = (&done, &job) {
        // Also when it was ended from outside: the other nodes must not wait.
        tell_failure(job, error, true).await;
    }
    done?;
    let (ready, record) = ready.context("the restore ended too early")?;
    Ok((ready, record, job?))
}

/// Parts of a physical backup are not restored in this way.
fn refuse_selection(restore: &RestoreCmd) -> Result<()> {
    let part =
        !restore.nss.is_empty() || !restore.ns_from.is_empty() || restore.narrowed.is_some() || restore.drop_extra;
    ensure!(!part, "a physical backup can only be restored as a whole by this release; nothing was changed");
    Ok(())
}

/// The record of the restore as it will be when it is done.
async fn record(cx: &Cx, changed_from: Timestamp) -> Result<RestoreMeta> {
    let mut meta = cx.control.restores.get(&cx.name).await?.context("the document of the restore is gone")?;
    let done = Condition { timestamp: unix_now(), status: Status::Done, error: None };
    (meta.status, meta.changed_from, meta.last_transition_ts) = (Status::Done, Some(changed_from), done.timestamp);
    meta.leader = Some(format!("{}/{}", cx.me, cx.rs));
    meta.conditions.push(done.clone());
    for part in &mut meta.replsets {
        part.status = Status::Done;
        part.conditions.push(done.clone());
    }
    Ok(meta)
}

/// Checks everything, and makes the new data ready where there is room for it. On failure all nodes end.
///
/// # Errors
/// It can't be restored; nothing was changed.
pub async fn make_ready(cx: &Cx, job: &Job) -> Result<Ready> {
    let work = async {
        let planned = plan::plan(cx, &job.storage, &job.restore, &job.backup).await?;
        tracing::info!("mongod will be stopped, and started {}", planned.host.describe());
        job.board.reach(Status::Starting).await?;
        job.board.reach(Status::Running).await?;
        let mut new = None;
        if planned.beside {
            let made = new.insert(planned.db_path.make_new()?);
            new_data(job, &planned, &made.folder(), Some(CACHE_GB)).await?;
        }
        job.board.announce(Status::CopyDone).await?;
        if job.board.place.primary {
            job.board.gather(Status::CopyDone).await?;
        }
        Ok(Ready { planned, new })
    };
    let done = tokio::select! {
        done = work => done,
        () = job.board.keep_beating() => unreachable!("heartbeats have no end"),
        () = cx.cancel.cancelled() => Err(crate::rendezvous::Why::Cancelled.into()),
    };
    if let Err(error) = &done {
        tell_failure(job, error, true).await;
    }
    done
}

async fn tell_failure(job: &Job, error: &anyhow::Error, everybody: bool) {
    if let Err(unwritten) = job.board.fail(&explain(error), everybody).await {
        tracing::error!("{unwritten:#}");
    }
}

/// Fetches the files into an empty folder and makes them a member's data.
async fn new_data(job: &Job, planned: &Planned, folder: &Path, cache_gb: Option<f64>) -> Result<()> {
    fetch(job, planned, folder).await.context("fetch the files")?;
    let files = Files { program: &planned.program, folder, options: &planned.options, cache_gb };
    tracing::info!("the server recovers the copied files");
    let saved = (!planned.oplog.is_empty()).then(|| plan::entries(job.storage.as_ref(), &planned.oplog));
    let added = recovery::prepare(files, planned.end, saved).await?;
    tracing::info!("added {} oplog entries, {} are in both", added.entries, added.compared);
    recovery::recover(files).await?;
    let control: Vec<(&str, &str)> = CONTROL.iter().map(|coll| (CONTROL_DB, *coll)).collect();
    recovery::reset(files, &planned.config, &control).await
}

async fn fetch(job: &Job, planned: &Planned, folder: &Path) -> Result<()> {
    let (written, total) = (AtomicU64::new(0), download::total(&planned.files));
    let at_once = planned.at_once.unwrap_or(FILES);
    let fetch = Fetch { layout: &planned.layout, files: &planned.files, folder, at_once, written: &written };
    let begin = Instant::now();
    let tell = async {
        loop {
            tokio::time::sleep(TELL).await;
            tracing::info!("{}", progress(written.load(Ordering::Relaxed), total, begin.elapsed()));
        }
    };
    tokio::select! {
        done = download::fetch(job.storage.as_ref(), fetch) => done?,
        () = tell => unreachable!("the lines have no end"),
    }
    tracing::info!("{}", progress(total, total, begin.elapsed()));
    Ok(())
}

fn progress(done: u64, total: u64, since: Duration) -> String {
    let rate = done as f64 / since.as_secs_f64().max(0.001);
    let left = total.saturating_sub(done) as f64 / rate.max(1.0);
    let mib = |bytes: u64| bytes >> 20;
    format!("fetched {} of {} MiB, {:.0} MiB/s, {left:.0} s left", mib(done), mib(total), rate / f64::from(1 << 20))
}

/// What a restore needs of the agent around it.
pub struct After<'a> {
    /// The connection string of this node.
    pub uri: &'a str,
    /// Fills the control collections of the new set; called on the leader, when the set has a primary.
    pub control: BoxFuture<'a, Result<()>>,
}

/// Replaces the old data by the new data. Returns how the restore of the cluster ended.
///
/// # Errors
/// Nothing was changed, or this node's old data is back.
pub async fn replace(job: &Job, node: &Client, ready: Ready, after: After<'_>) -> Result<Status> {
    tokio::select! {
        end = Box::pin(replace_while_beating(job, node, ready, after)) => end,
        () = job.board.keep_beating() => unreachable!("heartbeats have no end"),
    }
}

async fn replace_while_beating(
    job: &Job,
    node: &Client,
    Ready { planned, new }: Ready,
    after: After<'_>,
) -> Result<Status> {
    job.board.reach(Status::CopyDone).await?;
    let uri = after.uri;
    let done = swap_and_start(job, node, &planned, after).await;
    match &done {
        Ok(()) => job.board.announce(Status::Done).await?,
        Err(error) => {
            tracing::error!("{}", explain(error));
            tell_failure(job, error, false).await;
        }
    }
    drop(new);
    let end = job.board.settle().await?;
    settled(&planned, uri, end, done).await
}

async fn swap_and_start(job: &Job, node: &Client, planned: &Planned, after: After<'_>) -> Result<()> {
    tracing::info!("stopping mongod (process {})", planned.host.pid);
    planned.host.stop(node).await?;
    planned.host.check_stopped()?;
    job.board.reach(Status::Down).await?;
    planned.host.check_stopped()?;
    // The point of no return: from here on the old data is not in use any more on any node.
    if planned.beside {
        planned.db_path.replace()?;
    } else {
        planned.db_path.wipe()?;
        let new = planned.db_path.make_new()?;
        new_data(job, planned, &new.folder(), None).await?;
        planned.db_path.take_new()?;
    }
    tracing::info!("starting mongod {}", planned.host.describe());
    planned.host.start().await?;
    member_again(after.uri).await?;
    if job.board.place.leader {
        after.control.await.context("fill the control collections")?;
    }
    Ok(())
}

/// Cleans up by the end of the cluster.
async fn settled(planned: &Planned, uri: &str, end: Status, own: Result<()>) -> Result<Status> {
    let (host, db_path) = (&planned.host, &planned.db_path);
    match (end, own) {
        (Status::Error, own) if planned.beside => {
            tracing::warn!("the restore failed: the old data is put back");
            host.stop_again().await?;
            db_path.bring_back()?;
            host.start().await?;
            member_again(uri).await.context("start mongod on the old data")?;
            own?;
            bail!("the restore failed on all nodes; the old data is back")
        }
        (Status::Error, own) => {
            own?;
            bail!("the restore failed on all nodes, and the old data was not kept; restore again")
        }
        (end, Ok(())) => {
            db_path.remove_old()?;
            Ok(end)
        }
        (end, Err(error)) => {
            tracing::warn!("this node failed ({}): it copies its data from the other members", explain(&error));
            host.stop_again().await?;
            db_path.wipe()?;
            host.start().await?;
            Ok(end)
        }
    }
}

fn is_denied(error: &anyhow::Error) -> bool {
    let server = error.chain().find_map(|cause| cause.downcast_ref::<mongodb::error::Error>());
    server.is_some_and(|error| matches!(*error.kind, mongodb::error::ErrorKind::Authentication { .. }))
}

/// Waits until mongod is the primary or a secondary of its set.
async fn member_again(uri: &str) -> Result<()> {
    let since = Instant::now();
    let (mut last, mut denied) = (String::new(), 0);
    loop {
        ensure!(
            since.elapsed() < MEMBER,
            "mongod is not a member of its set after {} min: {last}",
            MEMBER.as_secs() / 60
        );
        // A connection of before carries a time of the old set.
        let look = async {
            let client = mongo::connect(uri, Purpose::Node { app: "pbm" }).await?;
            mongo::hello(&client).await
        };
        match tokio::time::timeout(Duration::from_secs(10), look).await {
            Ok(Ok(hello)) if hello.is_writable_primary || hello.secondary => return Ok(()),
            Ok(Ok(_)) => last = "it is neither primary nor secondary".to_owned(),
            Ok(Err(error)) if is_denied(&error) => {
                denied += 1;
                ensure!(
                    denied < DENIED,
                    "this agent can't log in to the restored set: its user or password is another one in the backup: {}",
                    explain(&error)
                );
                last = explain(&error);
            }
            Ok(Err(error)) => last = explain(&error),
            Err(_) => last = "it does not answer".to_owned(),
        }
        tokio::time::sleep(LOOK).await;
    }
}
