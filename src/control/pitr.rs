//! `pbmPITR`: the document in which the slicers report their state (docs/format.md C.10).
//!
//! The document has the original's form. Every slicer writes the part of its own replica set, so a silent slicer does
//! not keep the others from slicing. The locks (`pbmLockOp`) decide which node slices. No task waits for a change of
//! this document, so the bell does not ring for it.
//!
//! While an agent of the original is alive, only the leader writes the status, the heartbeat and the nominations
//! (`pitr::beside`). Slicers then write only their own fields.

use super::{Unreadable, unix_now};
use crate::model::{
    names,
    pitr::{PitrMeta, SlicerState, state},
};
use anyhow::{Context, Result};
use bson::{Bson, Document, Timestamp, doc};
use mongodb::{Collection, Database};

/// Reads and writes the document.
#[derive(Debug, Clone)]
pub struct Pitr {
    coll: Collection<Document>,
    unreadable: Unreadable,
}

/// Returns `field` without the elements whose `key` is `rs`, and with the elements of `new` added.
fn replaced(field: &str, key: &str, rs: &str, new: Vec<Bson>) -> Document {
    let others = doc! { "$filter": {
        "input": { "$ifNull": [format!("${field}"), []] },
        "cond": { "$ne": [format!("$$this.{key}"), { "$literal": rs }] },
    } };
    doc! { "$concatArrays": [others, { "$literal": new }] }
}

impl Pitr {
    pub(super) fn new(db: &Database, unreadable: &Unreadable) -> Self {
        Self { coll: db.collection(names::PITR), unreadable: unreadable.clone() }
    }

    /// Returns the document, or `None` if no node has ever sliced.
    pub async fn get(&self) -> Result<Option<PitrMeta>> {
        let found = self.coll.find_one(doc! {}).await.context("read admin.pbmPITR")?;
        Ok(found.and_then(|found| self.unreadable.read(names::PITR, found)))
    }

    /// Writes the part of a slicer: its state, the nodes that could do its work (`candidates`), and its error in the
    /// original's form.
    pub async fn report(&self, mine: &SlicerState, candidates: &[String]) -> Result<()> {
        let slicer = bson::serialize_to_bson(mine).context("encode the slicer's state")?;
        let round: Bson = doc! { "rs": &mine.rs, "n": candidates, "ack": &mine.node }.into();
        let error: Bson =
            doc! { "name": &mine.rs, "node": &mine.node, "status": state::ERROR, "error": &mine.error }.into();
        let errors = if mine.error.is_empty() { Vec::new() } else { vec![error] };
        let set = doc! {
            "start_ts": { "$ifNull": ["$start_ts", unix_now()] },
            "hb": mine.hb,
            "status": state::RUNNING,
            "n": replaced("n", "rs", &mine.rs, vec![round]),
            "replsets": replaced("replsets", "name", &mine.rs, errors),
            "slicers": replaced("slicers", "rs", &mine.rs, vec![slicer]),
        };
        self.write(set).await
    }

    /// Removes the part of a replica set that is not sliced any more. `why` is the reason; it is empty if slicing was
    /// switched off.
    pub async fn leave(&self, rs: &str, node: &str, why: &str) -> Result<()> {
        let error: Bson = doc! { "name": rs, "node": node, "status": state::ERROR, "error": why }.into();
        let errors = if why.is_empty() { Vec::new() } else { vec![error] };
        self.write(doc! {
            "n": replaced("n", "rs", rs, Vec::new()),
            "replsets": replaced("replsets", "name", rs, errors),
            "slicers": replaced("slicers", "rs", rs, Vec::new()),
        })
        .await
    }

    /// Does the same as [`Self::report`], for use while the status and the heartbeat belong to the leader. With
    /// `candidates` this also writes the nomination and the error of this replica set; without `candidates` the leader
    /// writes those, too.
    pub async fn report_beside(&self, mine: &SlicerState, candidates: Option<&[String]>) -> Result<()> {
        let slicer = bson::serialize_to_bson(mine).context("encode the slicer's state")?;
        let mut set = doc! { "slicers": replaced("slicers", "rs", &mine.rs, vec![slicer]) };
        if let Some(candidates) = candidates {
            let round: Bson = doc! { "rs": &mine.rs, "n": candidates, "ack": &mine.node }.into();
            set.insert("n", replaced("n", "rs", &mine.rs, vec![round]));
            let error: Bson =
                doc! { "name": &mine.rs, "node": &mine.node, "status": state::ERROR, "error": &mine.error }.into();
            let errors = if mine.error.is_empty() { Vec::new() } else { vec![error] };
            set.insert("replsets", replaced("replsets", "name", &mine.rs, errors));
        }
        self.write(set).await
    }

    /// Removes what a slicer has reported about itself. The leader's fields stay.
    pub async fn leave_beside(&self, rs: &str) -> Result<()> {
        self.write(doc! { "slicers": replaced("slicers", "rs", rs, Vec::new()) }).await
    }

    /// Reports to the leader that this node waits for its nomination.
    pub async fn ready(&self, rs: &str, node: &str) -> Result<()> {
        let ready = doc! { "name": rs, "node": node, "status": state::READY };
        let waits = doc! { "status": state::READY };
        self.coll
            .update_one(waits, doc! { "$addToSet": { "replsets": ready } })
            .await
            .context("report to admin.pbmPITR")?;
        Ok(())
    }

    /// Reports to the leader why the slicer of a replica set stopped.
    pub async fn failed(&self, rs: &str, node: &str, why: &str) -> Result<()> {
        let error = doc! { "name": rs, "node": node, "status": state::ERROR, "error": why };
        self.coll
            .update_one(doc! {}, doc! { "$addToSet": { "replsets": error } })
            .await
            .context("report to admin.pbmPITR")?;
        Ok(())
    }

    /// Records that `node` has taken the work, whether it was nominated or not.
    pub async fn claim(&self, rs: &str, node: &str) -> Result<()> {
        let named = doc! { "n": { "$elemMatch": { "rs": rs, "n": node } } };
        let done = self.coll.update_one(named, doc! { "$set": { "n.$.ack": node } }).await;
        if done.context("acknowledge the nomination in admin.pbmPITR")?.matched_count > 0 {
            return Ok(());
        }
        let round: Bson = doc! { "rs": rs, "n": [node], "ack": node }.into();
        self.write(doc! { "n": replaced("n", "rs", rs, vec![round]) }).await
    }

    /// Records that the node that took the work leaves it to the other nominated nodes.
    pub async fn give_up(&self, rs: &str) -> Result<()> {
        self.coll
            .update_one(doc! { "n.rs": rs }, doc! { "$set": { "n.$.ack": "" } })
            .await
            .context("give the nomination back in admin.pbmPITR")?;
        Ok(())
    }

    /// Writes the leader's heartbeat and status. If the status changes, the reports from the previous status are
    /// removed, except for errors of replica sets that no node slices.
    pub async fn lead(&self, status: &str, hb: Timestamp, sliced: &[&str]) -> Result<()> {
        let errors = doc! { "$filter": {
            "input": { "$ifNull": ["$replsets", []] },
            "cond": { "$and": [
                { "$eq": ["$$this.status", state::ERROR] },
                { "$not": { "$in": ["$$this.name", { "$literal": sliced }] } },
            ] },
        } };
        let same = doc! { "$eq": ["$status", { "$literal": status }] };
        self.write(doc! {
            "start_ts": { "$ifNull": ["$start_ts", unix_now()] },
            "hb": hb,
            "status": { "$literal": status },
            "n": { "$ifNull": ["$n", []] },
            "replsets": { "$cond": [same, { "$ifNull": ["$replsets", []] }, errors] },
            "slicers": { "$ifNull": ["$slicers", []] },
        })
        .await
    }

    /// Begins the nomination round of a replica set with these nodes. The leader calls this.
    pub async fn begin_round(&self, rs: &str, nodes: &[String]) -> Result<()> {
        let round: Bson = doc! { "rs": rs, "n": nodes, "ack": "" }.into();
        self.write(doc! { "n": replaced("n", "rs", rs, vec![round]) }).await
    }

    /// Adds more nodes to the nomination round of a replica set. The leader calls this.
    pub async fn name_too(&self, rs: &str, nodes: &[String]) -> Result<()> {
        self.coll
            .update_one(doc! { "n.rs": rs }, doc! { "$addToSet": { "n.$.n": { "$each": nodes } } })
            .await
            .context("name nodes in admin.pbmPITR")?;
        Ok(())
    }

    async fn write(&self, set: Document) -> Result<()> {
        let update = vec![doc! { "$set": set }];
        self.coll.update_one(doc! {}, update).upsert(true).await.context("write admin.pbmPITR")?;
        Ok(())
    }
}
