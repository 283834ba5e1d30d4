//! Backups of this node's replica set: picks the recipe, and sees to it that a failure is known and leaves nothing.

pub mod cut;
mod ending;
mod logical;
pub mod physical;
mod renames;
mod resharding;

use crate::control::ControlBoard;
use crate::model::{
    backup::{BackupMeta, BackupType},
    command::BackupCmd,
};
use crate::mongo::Uri;
use crate::operation::{self, Cx, Kind, balancer};
use crate::rendezvous::Role;
use crate::storage::Storage;
use anyhow::Result;
use mongodb::Client;
use std::sync::Arc;

/// Why a physical backup can't be made of a sharded cluster.
pub const NOT_SHARDED: &str =
    "physical backups of sharded clusters are not supported yet by this release; use --type logical";
/// Why a physical backup can't be of selected namespaces.
pub const NOT_SELECTIVE: &str = "a physical backup consists of whole data files, so it can't be of selected namespaces; \
                                 leave --ns out, or use --type logical";

/// What is to be backed up, and where to.
#[derive(Debug)]
pub struct Job {
    pub command: BackupCmd,
    pub storage: Arc<dyn Storage>,
    /// Leads to the primary of this replica set. The context's client leads to the node that is read.
    pub primary: Client,
    /// Leads to the node that is read.
    pub uri: Uri,
    /// Collections, or data files, that are stored at once.
    pub parallel: usize,
}

/// Runs the backup of this replica set. On failure the backup's documents say why before this returns.
///
/// # Errors
/// What ended the backup; the objects written so far remain for the clean-up that the document asks for.
pub async fn run(cx: &Cx, job: &Job) -> Result<()> {
    carry_out(cx, async |board| match job.command.kind {
        BackupType::Physical => Box::pin(physical::run(cx, job, board)).await,
        _ => logical::run(cx, job, board).await,
    })
    .await
}

/// Runs a recipe as the backup of this replica set.
///
/// # Errors
/// As [`run`].
pub async fn carry_out(cx: &Cx, recipe: impl AsyncFnOnce(&ControlBoard<BackupMeta>) -> Result<()>) -> Result<()> {
    tracing::info!("backup started");
    let board: ControlBoard<BackupMeta> = cx.board(cx.cluster.names());
    let recipe = async {
        if cx.role == Role::Leader && cx.cluster.sharded {
            balancer::hold_for_backup(&cx.control, &cx.name, cx.settings.backup.balancer_round).await?;
        }
        recipe(&board).await
    };
    operation::run(cx, &board, Kind::Backup, recipe).await
}
