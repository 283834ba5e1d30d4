//! Backups of this node's replica set: picks the recipe, and sees to it that a failure is known and leaves nothing.

mod logical;
mod sampler;

use crate::control::{Control, ControlBoard};
use crate::model::{backup::BackupMeta, command::BackupCmd, config::Config, status::Status};
use crate::mongo::admin::Version;
use crate::rendezvous::{Role, supervise, was_cancelled};
use crate::storage::Storage;
use anyhow::Result;
use mongodb::Client;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Everything a backup recipe works with.
#[derive(Debug)]
pub struct Cx {
    pub control: Control,
    /// Direct connection to the node that is read.
    pub client: Client,
    pub storage: Arc<dyn Storage>,
    pub config: Config,
    /// The backup's name.
    pub name: String,
    pub opid: String,
    pub rs: String,
    /// `host:port` of the node that is read.
    pub me: String,
    /// The leader publishes steps for the cluster and writes the metadata file.
    pub role: Role,
    /// Replica sets that take part.
    pub members: Vec<String>,
    pub backup: BackupCmd,
    pub version: Version,
    /// Collections dumped at once.
    pub parallel: usize,
    pub cancel: CancellationToken,
}

/// Runs the backup of this replica set. On failure the backup's documents say why before this returns.
///
/// # Errors
/// What ended the backup; the objects written so far remain for the clean-up that the document asks for.
pub async fn run(cx: &Cx) -> Result<()> {
    tracing::info!("backup started");
    let board = cx.board();
    let result = supervise(cx.role, logical::run(cx, &board), board.keep_beating(), &cx.cancel).await;
    match result {
        Ok(()) => {
            tracing::info!("backup finished");
            Ok(())
        }
        Err(error) => {
            let (status, reason) = if was_cancelled(&error, &cx.cancel) {
                (Status::Canceled, "backup canceled".to_owned())
            } else {
                (Status::Error, format!("{error:#}"))
            };
            board.end_badly(status, &reason).await;
            Err(error.context(format!("backup {}", cx.name)))
        }
    }
}

impl Cx {
    fn board(&self) -> ControlBoard<BackupMeta> {
        ControlBoard::new(&self.control, &self.name, &self.opid, &self.rs, self.members.clone())
    }
}
