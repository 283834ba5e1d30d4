//! Backups of this node's replica set: picks the recipe, and sees to it that a failure is known and leaves nothing.

pub mod cut;
mod logical;
mod renames;
mod resharding;
mod sampler;

use crate::config::resolved::BackupSettings;
use crate::control::{Control, ControlBoard};
use crate::model::{backup::BackupMeta, command::BackupCmd, status::Status};
use crate::mongo::admin::{self, Version};
use crate::rendezvous::{Cancel, Early, Role, named, supervise, watch};
use crate::storage::Storage;
use crate::topo::cluster::Cluster;
use crate::upkeep::balancer;
use anyhow::Result;
use mongodb::Client;
use std::sync::Arc;

/// Everything a backup recipe works with.
#[derive(Debug)]
pub struct Cx {
    pub control: Control,
    /// Direct connection to the node that is read.
    pub client: Client,
    pub storage: Arc<dyn Storage>,
    pub settings: BackupSettings,
    /// The backup's name.
    pub name: String,
    pub opid: String,
    pub rs: String,
    /// `host:port` of the node that is read.
    pub me: String,
    /// The leader publishes steps for the cluster and writes the metadata file.
    pub role: Role,
    /// Leads to the primary of this replica set.
    pub primary: Client,
    /// Replica sets that take part: all of the cluster.
    pub cluster: Cluster,
    pub backup: BackupCmd,
    pub version: Version,
    /// Collections dumped at once.
    pub parallel: usize,
    pub cancel: Cancel,
}

/// The reason of a backup that somebody cancelled, in the original's words.
pub const CANCELED: &str = "backup canceled";

/// Runs the backup of this replica set. On failure the backup's documents say why before this returns.
///
/// # Errors
/// What ended the backup; the objects written so far remain for the clean-up that the document asks for.
pub async fn run(cx: &Cx) -> Result<()> {
    tracing::info!("backup started");
    let board = cx.board();
    let recipe = async {
        if cx.role == Role::Leader && cx.cluster.sharded {
            balancer::hold_for_backup(&cx.control, &cx.name, cx.settings.balancer_round).await?;
        }
        logical::run(cx, &board).await
    };
    let result = supervise(cx.role, recipe, board.keep_beating(), watch(&board, cx.role), &cx.cancel).await;
    match result {
        Ok(()) => {
            tracing::info!("backup finished");
            Ok(())
        }
        Err(error) => {
            let (status, reason) = match cx.cancel.early_end(&error) {
                Some(Early::Asked) => (Status::Canceled, CANCELED.to_owned()),
                // Nobody cancelled this backup, so its status is an error: an operator must learn that the backup is missing.
                Some(early) => (Status::Error, format!("{}; make another one", early.sentence("backup"))),
                None => {
                    let reason = admin::explain(&error);
                    let reason = if cx.cluster.sharded { named(reason, &error, &cx.rs, &cx.me) } else { reason };
                    (Status::Error, reason)
                }
            };
            cx.give_balancer_back().await;
            board.end_badly(status, &reason).await;
            Err(error.context(format!("backup {}", cx.name)))
        }
    }
}

impl Cx {
    /// Starts the balancer if this backup stopped it. If that fails, the agents of the config servers do it later.
    async fn give_balancer_back(&self) {
        if self.role == Role::Leader
            && self.cluster.sharded
            && let Err(error) = balancer::give_back(&self.control, &self.control.backups, &self.name).await
        {
            tracing::warn!("the balancer stays off for now: {}", admin::explain(&error));
        }
    }

    fn board(&self) -> ControlBoard<BackupMeta> {
        ControlBoard::new(&self.control, &self.name, &self.opid, &self.rs, self.cluster.names(), self.role)
    }
}
