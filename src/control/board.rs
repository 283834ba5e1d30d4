//! The rendezvous in the collections `pbmBackups` and `pbmRestores`.

use super::{Control, HEARTBEAT, OpDocument, ops::OpDocs};
use crate::model::status::Status;
use crate::mongo::admin::explain;
use crate::rendezvous::{Board, Member, Rendezvous, Role};
use anyhow::{Context, Result};
use async_trait::async_trait;
use bson::{Bson, Document, Timestamp};
use std::time::Duration;
use tokio::{sync::Mutex, time::Instant};

/// The control collection that a board uses.
pub trait Plane: OpDocument {
    /// Returns the handle of the collection.
    fn docs(control: &Control) -> &OpDocs<Self>;
}

impl Plane for crate::model::backup::BackupMeta {
    fn docs(control: &Control) -> &OpDocs<Self> {
        &control.backups
    }
}

impl Plane for crate::model::restore::RestoreMeta {
    fn docs(control: &Control) -> &OpDocs<Self> {
        &control.restores
    }
}

/// The view that one member has of one operation.
#[derive(Debug)]
pub struct ControlBoard<T: Plane> {
    control: Control,
    name: String,
    opid: String,
    rs: String,
    members: Vec<String>,
    docs: OpDocs<T>,
    role: Role,
    /// The last time at which a follower compared the leader's heartbeat with the cluster time.
    compared: Mutex<Option<Instant>>,
    waiter: Mutex<super::Waiter>,
}

impl<T: Plane> ControlBoard<T> {
    /// Creates the board of the member `rs` of an operation in which `members` take part. A follower reads only what
    /// the leader publishes, so its cost does not grow with the cluster.
    #[must_use]
    pub fn new(control: &Control, name: &str, opid: &str, rs: &str, members: Vec<String>, role: Role) -> Self {
        Self {
            control: control.clone(),
            name: name.to_owned(),
            opid: opid.to_owned(),
            rs: rs.to_owned(),
            members,
            docs: T::docs(control).clone(),
            role,
            compared: Mutex::new(None),
            waiter: Mutex::new(control.bell.waiter()),
        }
    }
}

impl<T: Plane> ControlBoard<T> {
    /// Returns what the leader has published.
    async fn published(&self) -> Result<Option<Board>> {
        let mut compared = self.compared.lock().await;
        // The time is read before the document. Otherwise the leader would seem lost if this process paused between the
        // two reads.
        let now = if compared.is_none_or(|at| at.elapsed() >= HEARTBEAT) {
            *compared = Some(Instant::now());
            Some(self.control.cluster_time().await?)
        } else {
            None
        };
        let Some(document) = self.docs.state(&self.name).await? else { return Ok(None) };
        let hb = document.get_timestamp("hb").unwrap_or(Timestamp { time: 0, increment: 0 });
        let now = now.unwrap_or(hb);
        Ok(Some(Board { cluster: status(&document)?, error: text(&document, "error"), hb, members: Vec::new(), now }))
    }

    /// Writes that this member ended without success. This also ends the operation for the whole cluster, so that no member
    /// has to wait until the leader notices. It tries for a long time, because an unreachable database is often the cause of
    /// the failure.
    pub async fn end_badly(&self, status: Status, reason: &str) {
        let until = Instant::now() + WRITE_THE_END;
        loop {
            let written = async {
                self.docs.set_member_status(&self.name, &self.rs, status, reason).await?;
                self.docs.set_status(&self.name, status, reason).await
            };
            match written.await {
                Ok(_) => return,
                Err(error) if Instant::now() >= until => {
                    tracing::error!("the end of {} ({reason}) could not be written: {}", self.name, explain(&error));
                    return;
                }
                Err(error) => tracing::warn!("{}; trying again", explain(&error)),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// How long to retry the write of the final state while the leader replica set can't be reached.
const WRITE_THE_END: Duration = Duration::from_secs(120);

fn text(document: &Document, key: &str) -> String {
    document.get_str(key).unwrap_or_default().to_owned()
}

fn status(document: &Document) -> Result<Status> {
    let bson = document.get("status").cloned().unwrap_or(Bson::String("init".into()));
    bson::deserialize_from_bson(bson).context("unknown status in the operation's document")
}

#[async_trait]
impl<T: Plane> Rendezvous for ControlBoard<T> {
    async fn announce(&self, step: Status) -> Result<()> {
        // `false` means that the part does not exist yet (before the first step), or that somebody else has ended it.
        // The next read finds that out, with the reason.
        self.docs.set_member_status(&self.name, &self.rs, step, "").await.map(drop)
    }

    async fn read(&self) -> Result<Option<Board>> {
        if self.role == Role::Follower {
            return self.published().await;
        }
        // The time is read before the document, for the reason given above.
        let now = self.control.cluster_time().await?;
        let Some(document) = self.docs.raw(&self.name).await? else { return Ok(None) };
        let locks = self.control.locks.all().await?;
        let parts: Vec<&Document> = document
            .get_array("replsets")
            .map(|all| all.iter().filter_map(Bson::as_document).collect())
            .unwrap_or_default();
        let mut members = Vec::with_capacity(self.members.len());
        for rs in &self.members {
            let part = parts.iter().find(|p| p.get_str("name").ok() == Some(rs));
            members.push(Member {
                rs: rs.clone(),
                status: part.map(|p| status(p)).transpose()?,
                error: part.map(|p| text(p, "error")).unwrap_or_default(),
                lock: locks.iter().find(|l| l.header.replset == *rs && l.header.opid == self.opid).map(|l| l.hb),
            });
        }
        Ok(Some(Board {
            cluster: status(&document)?,
            error: text(&document, "error"),
            hb: document.get_timestamp("hb").unwrap_or(Timestamp { time: 0, increment: 0 }),
            members,
            now,
        }))
    }

    async fn publish(&self, step: Status) -> Result<bool> {
        self.docs.set_status(&self.name, step, "").await
    }

    async fn changed(&self) {
        self.waiter.lock().await.next().await;
    }
}
