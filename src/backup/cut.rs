//! Chooses one end time for all shards of a backup, and for every replica set an end time that is not older than the backup
//! command. The common time is added by us: the original takes the smallest last write, even if an idle shard's is old.
//!
//! # Not older than the command
//!
//! When a backup begins, the primary of every replica set writes a note into its oplog. The node from which the backup reads
//! must have replicated this note before the backup does anything else: a secondary may lag, and the operator expects the
//! backup to contain every write that was acknowledged before the command. A primary that has been replaced in the meantime
//! can't get a majority for its note. The end of the backup is chosen later, so it is never older than the note. If a node
//! does not get the note in time, the backup fails, and the error names the node.
//!
//! # Consistency of shards
//!
//! Cluster time is a logical clock: a node that has heard of a time writes nothing older any more. So:
//!
//! 1. Every member, when its dump is complete, brings the time of its newest write to the config servers ([`tell`])
//!    and notes it in its part of the document.
//! 2. When all members are there, each brings the config servers' time to its own primary and has it write a note into
//!    the oplog ([`note`]). That entry is newer than everything that any member dumped.
//! 3. Each member's oplog is kept up to its note, and the cut is the smallest end of all members. It lies behind every
//!    dump, and every member's oplog spans it ([`check`]).
//!
//! An entry before the cut on one shard is before it in cluster time on all others, so a transaction over several shards,
//! whose commit is decided at one time, is either known to be committed by a shard's oplog before the cut or by none.

use super::Job;
use crate::model::backup::BackupMeta;
use crate::mongo::{code, majority};
use crate::operation::Cx;
use crate::oplog::slice;
use anyhow::{Context, Result, bail};
use bson::{Document, Timestamp, doc};
use mongodb::{Client, ClientSession};
use std::time::Duration;
use tokio::time::Instant;

/// How long a primary may have its global lock taken by others, and when it is asked again.
const LOCKED: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(50);

/// Lets `to` hear of the cluster time that `from` knows. Gives a session on `to` that carries it.
async fn tell(from: &Client, to: &Client) -> Result<ClientSession> {
    let mut source = from.start_session().await.context("start a session")?;
    ping(from, &mut source).await?;
    let mut target = to.start_session().await.context("start a session")?;
    if let Some(time) = source.cluster_time() {
        target.advance_cluster_time(time);
    }
    Ok(target)
}

async fn ping(client: &Client, session: &mut ClientSession) -> Result<Document> {
    client.database("admin").run_command(doc! { "ping": 1 }).session(session).await.context("exchange the cluster time")
}

/// Step 1: the config servers hear of all that `node` has.
pub(super) async fn publish(node: &Client, config: &Client) -> Result<()> {
    let mut session = tell(node, config).await?;
    ping(config, &mut session).await.map(drop)
}

/// Calls [`note`] for the node from which this backup reads. An error names that node.
pub(super) async fn reach(cx: &Cx, job: &Job, text: &str) -> Result<()> {
    let done = note(cx.control.client(), &job.primary, &cx.client, text).await;
    done.with_context(|| format!("bring {} of {} to what was written when the {text}", cx.me, cx.rs))
}

/// Step 2: `primary` writes a note that is newer than every time that the config servers know. Returns when `node` has the
/// note, and also the majority of the replica set unless the connection string asks for fewer members.
pub async fn note(config: &Client, primary: &Client, node: &Client, text: &str) -> Result<()> {
    let mut session = tell(config, primary).await?;
    let done = append(primary, &mut session, text).await;
    let done = done.context("write a note into the oplog of this replica set's primary")?;
    let time = done.get_timestamp("operationTime").context("the primary did not tell the time of its note")?;
    let mut reading = node.start_session().await.context("start a session")?;
    if let Some(time) = session.cluster_time() {
        // It may not have heard of the note's time yet, and would refuse to wait for it.
        reading.advance_cluster_time(time);
    }
    slice::wait_for(node, time, &mut reading).await
}

/// The server does not wait for its lock here as other commands do: while somebody has it, it says so.
async fn append(primary: &Client, session: &mut ClientSession, text: &str) -> Result<Document> {
    let until = Instant::now() + LOCKED;
    let db = primary.database("admin");
    loop {
        let concern = majority::write_concern(&db);
        let note = doc! { "appendOplogNote": 1, "data": { "pbm": text }, "writeConcern": concern };
        match db.run_command(note).session(&mut *session).await {
            // A second note does no harm, and the primary may just have been replaced.
            Err(error)
                if (code::code(&error) == Some(code::LOCK_FAILED) || code::is_transient(&error))
                    && Instant::now() < until =>
            {
                tokio::time::sleep(AGAIN).await;
            }
            Ok(done) => return majority::confirmed(primary, done).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Step 3: every member must have kept its oplog beyond all dumps. Gives the cut.
pub(super) fn check(meta: &BackupMeta) -> Result<Timestamp> {
    let cut = meta.replsets.iter().map(|rs| rs.last_write_ts).min().context("no replica set took part")?;
    if cut.time <= 1 {
        bail!("a replica set has not told where its oplog ends");
    }
    if let Some(late) = meta.replsets.iter().find(|rs| rs.dump_end.is_some_and(|end| end > cut)) {
        bail!(
            "the dump of replica set {} is newer than {},{}, where the oplog of another one ends: the shards do not fit together",
            late.name,
            cut.time,
            cut.increment
        );
    }
    Ok(cut)
}
