//! Makes sure that a node which a physical backup locked is unlocked, however the backup ends.
//!
//! The lock stays on the server when everybody who knows of it is dead. So the backup records it as a debt ([`super::debt`],
//! field `lock_due`) before it locks. The process that holds the lock unlocks the node in nearly all cases. For the others:
//!
//! - the agent of the node looks at its own node when it starts ([`unlock_own`]), also while the replica set has no primary;
//! - every agent of the leader replica set unlocks the nodes of backups that have ended ([`unlock_forgotten`]).

use super::Cx;
use crate::control::{Control, Debt};
use crate::model::names;
use crate::mongo::{Uri, admin, connect::connect_member};
use anyhow::Result;
use bson::{Document, doc};
use mongodb::{Client, options::ReadConcern};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the process that holds the lock has to end it before somebody else does.
const ITS_TURN: Duration = Duration::from_secs(3);
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// Records that the backup will lock its node. Call this before it does.
///
/// # Errors
/// The record can't be written; then nothing may be locked.
pub async fn owe(cx: &Cx) -> Result<()> {
    cx.control.backups.owe(&cx.name, Debt::Lock).await
}

/// Sees to it that the node of this backup is unlocked, and records that.
///
/// # Errors
/// The node does not answer, or the record can't be changed; others try again later.
pub async fn give_back(cx: &Cx) -> Result<()> {
    if !cx.control.backups.owing(Debt::Lock).await?.contains(&cx.name) {
        return Ok(());
    }
    let until = Instant::now() + ITS_TURN;
    while admin::is_fsync_locked(&cx.client).await? {
        if Instant::now() >= until {
            admin::fsync_unlock(&cx.client).await?;
            tracing::warn!("{} was still locked by this backup, and is unlocked now", cx.me);
        }
        sleep(LOOK).await;
    }
    cx.control.backups.paid(&cx.name, Debt::Lock).await
}

/// Unlocks the nodes of backups that have ended without doing so. `uri` has the user and the TLS settings for them.
///
/// # Errors
/// The control collections can't be read. Nodes that do not answer are tried again later.
pub async fn unlock_forgotten(control: &Control, uri: &Uri) -> Result<()> {
    for name in control.backups.owing(Debt::Lock).await? {
        if !control.backups.has_ended(&name).await? {
            continue;
        }
        let parts = control.backups.get(&name).await?.map(|backup| backup.replsets).unwrap_or_default();
        let mut failed = false;
        for node in parts.iter().filter(|part| part.physical.is_some()).map(|part| &part.node) {
            if let Err(error) = unlock(uri, node, &name).await {
                tracing::warn!("{node} may still be locked by backup {name}: {}", admin::explain(&error));
                failed = true;
            }
        }
        if !failed {
            control.backups.paid(&name, Debt::Lock).await?;
        }
    }
    Ok(())
}

async fn unlock(uri: &Uri, node: &str, backup: &str) -> Result<()> {
    let client = connect_member(uri.as_str(), node, "pbm", PATIENCE).await?;
    if admin::is_fsync_locked(&client).await? && admin::fsync_unlock(&client).await? {
        tracing::warn!("{node} was still locked by backup {backup}, which has ended; it is unlocked now");
    }
    Ok(())
}

/// Unlocks the node of an agent that starts, if a backup of an earlier run of the agent left it locked. Reads the record as
/// the node itself has it, because a replica set can be without a primary for as long as the node is locked.
///
/// # Errors
/// The node does not answer, or the user may not ask.
pub async fn unlock_own(client: &Client) -> Result<bool> {
    if !admin::is_fsync_locked(client).await? {
        return Ok(false);
    }
    let me = crate::mongo::hello(client).await?.me;
    let backups = client.database(names::CONTROL_DB).collection::<Document>(names::BACKUPS);
    let mine = doc! { "lock_due": true, "replsets": { "$elemMatch": { "node": me, "physical": { "$exists": true } } } };
    if backups.find_one(mine).read_concern(ReadConcern::local()).await?.is_none() {
        return Ok(false);
    }
    admin::fsync_unlock(client).await
}
