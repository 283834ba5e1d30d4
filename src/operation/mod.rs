//! The common parts of backups and restores: their context, supervision, debts, progress, and the end of operations
//! whose agents are lost.

pub mod balancer;
mod debt;
mod majority_limit;
pub mod node_lock;
pub mod progress;
mod progress_log;
pub mod reap;
pub mod slicing_pause;

use crate::config::resolved::Resolved;
use crate::control::{Control, ControlBoard, Plane};
use crate::model::status::Status;
use crate::mongo::admin::{self, Version};
use crate::rendezvous::{Cancel, Early, Role, named, supervise, watch};
use crate::topo::cluster::Cluster;
use anyhow::Result;
use mongodb::Client;

/// The context of a replica set's part in an operation.
#[derive(Debug)]
pub struct Cx {
    pub control: Control,
    /// A direct connection to the node that does the work. A backup reads from it, a restore writes to it.
    pub client: Client,
    pub settings: Resolved,
    /// The name of the backup, restore or replay.
    pub name: String,
    pub opid: String,
    pub rs: String,
    /// `host:port` of the node that does the work.
    pub me: String,
    /// The leader publishes the steps of the cluster.
    pub role: Role,
    /// The replica sets of the cluster.
    pub cluster: Cluster,
    pub version: Version,
    pub cancel: Cancel,
}

impl Cx {
    /// Returns the board of this operation, through which `members` coordinate their steps.
    #[must_use]
    pub fn board<T: Plane>(&self, members: Vec<String>) -> ControlBoard<T> {
        ControlBoard::new(&self.control, &self.name, &self.opid, &self.rs, members, self.role)
    }
}

/// The reason of a backup that an operator cancelled, in the original's words.
const CANCELED: &str = "backup canceled";

/// Switches on again what an operation of this kind has switched off: the balancer, and for a restore point-in-time recovery; and unlocks a
/// node that a backup locked. If that fails, the agents of the leader replica set do it later.
pub async fn pay_debts(cx: &Cx, kind: Kind) {
    match kind {
        Kind::Backup => {
            if let Err(error) = node_lock::give_back(cx).await {
                tracing::warn!("{} may still be locked: {}", cx.me, admin::explain(&error));
            }
            balancer::give_back_of(cx, &cx.control.backups).await;
        }
        Kind::Restore | Kind::RestoreOfFiles | Kind::Replay => balancer::give_back_of(cx, &cx.control.restores).await,
    }
    if cx.role == Role::Leader
        && matches!(kind, Kind::Restore | Kind::RestoreOfFiles)
        && let Err(error) = slicing_pause::give_back(&cx.control, &cx.name).await
    {
        tracing::warn!("point-in-time recovery stays off for now: {}", admin::explain(&error));
    }
}

/// The kind of an operation, for its log lines and for the reason of an unsuccessful end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Backup,
    Restore,
    /// The part of a physical restore that has a database: it changes nothing.
    RestoreOfFiles,
    Replay,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore | Self::RestoreOfFiles => "restore",
            Self::Replay => "replay",
        }
    }

    /// Returns the final status and reason of an operation that was ended before it was complete.
    #[must_use]
    pub fn early_end(self, early: Early) -> (Status, String) {
        let sentence = early.sentence(self.word());
        match self {
            Self::Backup if early == Early::Asked => (Status::Canceled, CANCELED.to_owned()),
            // An operator did not cancel this backup, so its status is an error: the operator must learn that the
            // backup is missing.
            Self::Backup => (Status::Error, format!("{sentence}; make another one")),
            Self::RestoreOfFiles => (Status::Error, format!("{sentence}; nothing was changed")),
            Self::Restore => (Status::Error, format!("{sentence}: the data is incomplete; restore again")),
            Self::Replay => {
                let next = "bring the data to the start and replay again";
                (Status::Error, format!("{sentence}: the data is incomplete; {next}"))
            }
        }
    }
}

/// Runs a recipe to its end, and watches the other replica sets. The lock sends the heartbeats. On failure the operation's debts are
/// paid, and the operation's document has the reason before this returns.
///
/// # Errors
/// The error that ended the operation.
pub async fn run<T: Plane>(
    cx: &Cx,
    board: &ControlBoard<T>,
    kind: Kind,
    recipe: impl Future<Output = Result<()>>,
) -> Result<()> {
    // A recipe is a large future. Without the box, each of these steps would need stack space for it.
    let recipe = Box::pin(recipe);
    let recipe = async {
        tokio::select! {
            result = recipe => result,
            error = majority_limit::exceeded(cx), if kind != Kind::Backup => Err(error),
        }
    };
    let result = supervise(recipe, watch(board, cx.role), &cx.cancel).await;
    let Err(error) = result else {
        if kind != Kind::RestoreOfFiles {
            tracing::info!("{} finished", kind.word());
        }
        return Ok(());
    };
    let (status, reason) = cx.cancel.early_end(&error).map_or_else(
        || {
            let reason = admin::explain(&error);
            (Status::Error, if cx.cluster.sharded { named(reason, &error, &cx.rs, &cx.me) } else { reason })
        },
        |early| kind.early_end(early),
    );
    pay_debts(cx, kind).await;
    board.end_badly(status, &reason).await;
    Err(error.context(format!("{} {}", kind.word(), cx.name)))
}
