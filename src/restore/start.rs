//! Starts the restore of this node's replica set: refuses it or runs the logical recipe.

use super::{
    logical::{self, Parts},
    record::{begin, empty_document, insert_refused},
    sources::Source,
};
use crate::control::Control;
use crate::model::{command::RestoreCmd, restore::RestoreMeta};
use crate::operation::{self, Cx, Kind, slicing_pause};
use crate::rendezvous::Role;
use anyhow::Result;

/// Stores a document with the reason why a restore never began, and releases agents of the original, which have also
/// received the command.
pub async fn refuse(control: &Control, opid: &str, restore: &RestoreCmd, why: &str) -> Result<()> {
    insert_refused(control, first_document(control, opid, restore).await?, why).await?;
    slicing_pause::hold_for_originals(control, &restore.name).await
}

/// Runs the restore of this replica set. On failure the restore's document contains the reason before this returns.
pub async fn run(cx: &Cx, storage: &Source, restore: &RestoreCmd) -> Result<()> {
    tracing::info!("restore started");
    if let Some(why) = unsupported(restore) {
        refuse(&cx.control, &cx.opid, restore, &why).await?;
        anyhow::bail!(why);
    }
    begin(cx, first_document(&cx.control, &cx.opid, restore).await?).await?;
    let parts = Parts::find(cx, restore).await;
    let members = parts.as_ref().map_or_else(|_| vec![cx.rs.clone()], |parts| parts.of.parts.keys().cloned().collect());
    let board = cx.board(members);
    let recipe = async {
        // The slices of the time before the restore must not contain any of its writes.
        if cx.role == Role::Leader {
            slicing_pause::hold(&cx.control, &cx.name).await?;
        }
        let parts = parts?;
        match parts.of.parts.contains_key(&cx.rs) {
            true => Box::pin(logical::run(cx, storage, restore, &parts, &board)).await,
            false => {
                tracing::info!("the backup has no part for replica set {}", cx.rs);
                Ok(())
            }
        }
    };
    operation::run(cx, &board, Kind::Restore, recipe).await
}

/// Returns the first option that would change what is restored and is not implemented. Such options are refused and
/// never ignored.
fn unsupported(restore: &RestoreCmd) -> Option<String> {
    let why =
        "external restores need Percona Server for MongoDB and are not supported by this agent; nothing was changed";
    restore.external.then(|| why.to_owned())
}

pub(super) async fn first_document(control: &Control, opid: &str, restore: &RestoreCmd) -> Result<RestoreMeta> {
    Ok(RestoreMeta {
        backup: restore.backup_name.clone(),
        // As in the original, a clone is recorded as a restore of the cloned namespaces.
        nss: if restore.ns_from.is_empty() {
            restore.narrowed.as_ref().map_or_else(|| restore.nss.clone(), |narrowed| narrowed.include.clone())
        } else {
            restore.ns_from.split(',').map(|ns| ns.trim().to_owned()).collect()
        },
        pitr: restore.oplog_ts.map_or(0, |ts| i64::from(ts.time)),
        ..empty_document(control, opid, &restore.name).await?
    })
}
