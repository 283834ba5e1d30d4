//! Takes the files of a node while they don't change, in one of several ways.

use super::{
    hook::{Facts, Snapshot},
    place::{self, Place},
    source::{Entry, FileSource, Held, LockSource, meanwhile},
};
use crate::archive::filelist::DataFile;
use crate::backup::Job;
use crate::config::resolved::PhysicalSettings;
use crate::datafiles::{
    clone::{Copier, Spool},
    dbpath::{self, FoundFile},
    upload::{self, UploadPlan, UploadProgress},
};
use crate::layout::ReplsetLayout;
use crate::model::backup::{Taking, Way};
use crate::operation::{Cx, node_lock};
use anyhow::{Context, Result, ensure};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// The time of a lock beside what is copied meanwhile.
const BARE: Duration = Duration::from_secs(1);
/// Bytes a second that are expected where nothing was measured.
const RATE: f64 = 100e6;
/// The least bytes from which a rate is measured.
const MEASURED: u64 = 64 << 20;
/// While a primary is locked, the agents can't renew their heartbeats, which the primary has to write.
const ON_PRIMARY: Duration = Duration::from_secs(20);

/// How the files will be taken.
pub(super) struct Plan {
    pub place: Place,
    pub files: Vec<FoundFile>,
    pub way: Way,
    pub layout: ReplsetLayout,
    spool: Option<Arc<Spool>>,
    limit: Duration,
}

/// The files of one moment.
pub(super) struct Taken {
    pub top: Entry,
    pub taking: Taking,
    pub files: Files,
}

/// Where the files are now.
pub(super) enum Files {
    /// In a folder, in which they stay as long as the other values live.
    Kept { root: PathBuf, files: Vec<FoundFile>, spool: Option<Arc<Spool>>, snapshot: Option<Snapshot> },
    /// On the storage.
    Stored(Vec<DataFile>),
}

/// Finds out how the files of this node can be taken.
///
/// # Errors
/// They can't be: the error says why.
pub(super) async fn plan(cx: &Cx, layout: &ReplsetLayout) -> Result<Plan> {
    let settings = &cx.settings.backup.physical;
    let (place, files) = Place::find(&cx.client).await.with_context(|| format!("copy the data files of {}", cx.me))?;
    let (base, name) = (place.spool(settings, &cx.me), cx.name.clone());
    let spool = spawn_blocking(move || Spool::create(&base, &name)).await.context("make a folder for a copy")?;
    let spool = match spool {
        Ok(spool) => Some(spool),
        Err(error) if settings.spool.is_none() => {
            tracing::warn!(
                "{error:#}; the files are sent while the node is locked (backup.physical.spoolPath names another folder)"
            );
            None
        }
        Err(error) => return Err(error),
    };
    let way = place::way(&place, settings, spool.as_deref(), &files);
    let spool = spool.filter(|_| matches!(way, Way::Reflink | Way::TwoPasses));
    let is_primary = crate::mongo::hello(&cx.client).await?.is_primary();
    let limit = if is_primary { settings.max_lock.min(ON_PRIMARY) } else { settings.max_lock };
    Ok(Plan { place, files, way, layout: layout.clone(), spool, limit })
}

/// Takes the files, and stores them if they can't be kept.
///
/// # Errors
/// The lock would take too long, or takes too long, or ends early; or files can't be copied.
pub(super) async fn take(cx: &Cx, job: &Job, plan: &Plan, progress: &Arc<UploadProgress>) -> Result<Taken> {
    match (plan.way, &plan.spool) {
        (Way::Snapshot, _) => by_snapshot(cx, job, plan).await,
        (Way::Reflink | Way::TwoPasses, Some(spool)) => by_copy(cx, job, plan, spool).await,
        _ => to_storage(cx, job, plan, progress).await,
    }
}

async fn by_copy(cx: &Cx, job: &Job, plan: &Plan, spool: &Arc<Spool>) -> Result<Taken> {
    let stop = CancellationToken::new();
    // The threads below do not end with this future by themselves.
    let _stop = stop.clone().drop_guard();
    let mut copier = Copier::new(&plan.place.db_path, spool, plan.way == Way::Reflink, stop);
    let (begun, files) = (Instant::now(), plan.files.clone());
    let (copier, copied) = spawn_blocking(move || {
        let copied = copier.ahead(&files);
        (copier, copied)
    })
    .await
    .context("copy the data files ahead")?;
    let rate = rate(copied?, begun.elapsed());
    plan.place.prove(&cx.client).await?;
    let (copier, changed) = changed(copier, plan).await?;
    let expected = BARE + seconds(changed, rate);
    let (mut source, held) = hold(cx, job, plan, expected).await?;
    let (again, files) = (held.files.clone(), held.files);
    let copying = async { spawn_blocking(move || copier.finish(&again)).await.context("copy the data files")? };
    let done = meanwhile(&mut source, copying).await?;
    let lock = release(cx, source).await?;
    let files = Files::Kept { root: spool.path().to_owned(), files, spool: Some(spool.clone()), snapshot: None };
    Ok(Taken { top: held.top, taking: taking(plan.way, expected, lock, done.copied), files })
}

/// The bytes that have to be read again under the lock, as far as they are known before it.
async fn changed(copier: Copier, plan: &Plan) -> Result<(Copier, u64)> {
    let root = plan.place.db_path.clone();
    spawn_blocking(move || {
        let files = dbpath::list(&root)?;
        let changed = copier.bytes_changed(&files);
        Ok((copier, changed))
    })
    .await
    .context("look for changed data files")?
}

async fn by_snapshot(cx: &Cx, job: &Job, plan: &Plan) -> Result<Taken> {
    plan.place.prove(&cx.client).await?;
    let (mut source, held) = hold(cx, job, plan, Duration::ZERO).await?;
    let facts = Facts::of(cx, &plan.place.db_path);
    let settings: &PhysicalSettings = &cx.settings.backup.physical;
    let snapshot = meanwhile(&mut source, Snapshot::make(settings, facts)).await?;
    let lock = release(cx, source).await?;
    let root = snapshot.path.clone();
    let listed = {
        let root = root.clone();
        spawn_blocking(move || dbpath::list(&root)).await.context("list the files of the snapshot")??
    };
    let names = |files: &[FoundFile]| files.iter().map(|file| (file.path.clone(), file.size)).collect::<Vec<_>>();
    ensure!(
        names(&listed) == names(&held.files),
        "the files in '{}' are not those of the dbPath while it was locked; is it the snapshot that was just made?",
        root.display()
    );
    let files = Files::Kept { root, files: listed, spool: None, snapshot: Some(snapshot) };
    Ok(Taken { top: held.top, taking: taking(plan.way, Duration::ZERO, lock, 0), files })
}

async fn to_storage(cx: &Cx, job: &Job, plan: &Plan, progress: &Arc<UploadProgress>) -> Result<Taken> {
    plan.place.prove(&cx.client).await?;
    let bytes: u64 = plan.files.iter().map(|file| file.size).sum();
    let expected = BARE + seconds(bytes, RATE);
    let (mut source, held) = hold(cx, job, plan, expected).await?;
    let upload = upload_plan(job, plan, held.root);
    let stored = meanwhile(&mut source, upload::upload(&job.storage, &upload, &held.files, progress)).await?;
    let lock = release(cx, source).await?;
    Ok(Taken { top: held.top, taking: taking(plan.way, expected, lock, bytes), files: Files::Stored(stored) })
}

/// How files in `root` are stored.
pub(super) fn upload_plan(job: &Job, plan: &Plan, root: PathBuf) -> UploadPlan {
    let (layout, level) = (plan.layout.clone(), job.command.level);
    UploadPlan { root, layout, level, parallel: job.parallel, range: upload::RANGE }
}

/// Locks the node, unless it would be locked for longer than it may be.
async fn hold<'a>(cx: &'a Cx, job: &'a Job, plan: &'a Plan, expected: Duration) -> Result<(LockSource<'a>, Held)> {
    ensure!(
        expected <= plan.limit,
        "{} would be locked for about {} s ({}), and {} s are allowed; raise backup.physical.maxLockSec, or let the files lie on a \
         file system that clones them (XFS, btrfs), or set backup.physical.snapshotCommand",
        cx.me,
        expected.as_secs(),
        plan.way.words(),
        plan.limit.as_secs()
    );
    let time = if expected.is_zero() {
        "while the command runs".to_owned()
    } else {
        format!("for about {} s", expected.as_secs().max(1))
    };
    tracing::info!("locking {} {time}: its files are {}", cx.me, plan.way.words());
    node_lock::owe(cx).await?;
    let mut source = LockSource::new(&cx.client, &job.uri, &plan.place, plan.limit);
    let held = source.hold().await?;
    Ok((source, held))
}

async fn release(cx: &Cx, mut source: LockSource<'_>) -> Result<Duration> {
    let lock = source.release().await?;
    tracing::info!("{} was locked for {} ms", cx.me, lock.as_millis());
    node_lock::give_back(cx).await?;
    Ok(lock)
}

fn taking(way: Way, expected: Duration, lock: Duration, copied: u64) -> Taking {
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Taking { way, expected_ms: ms(expected), lock_ms: ms(lock), copied: i64::try_from(copied).unwrap_or(i64::MAX) }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn rate(bytes: u64, time: Duration) -> f64 {
    if bytes < MEASURED { RATE } else { bytes as f64 / time.as_secs_f64().max(0.001) }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn seconds(bytes: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate)
}
