//! `pbmPITR`: what the slicers tell of themselves (docs/format.md C.10).
//!
//! The document has the original's form and every slicer writes its own replica set's part of it, so nobody's silence keeps
//! the others from slicing; who slices is decided by the locks (`pbmLockOp`). Nobody waits for this document, so the bell is
//! not rung for it.
//!
//! While an agent of the original lives, the status, the heartbeat and the nominations belong to the leader (`pitr::beside`):
//! slicers then write only their own fields.

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

/// `field` without the elements whose `key` is `rs`, and with `new` in their place.
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

    /// The document; `None` when nobody ever sliced.
    pub async fn get(&self) -> Result<Option<PitrMeta>> {
        let found = self.coll.find_one(doc! {}).await.context("read admin.pbmPITR")?;
        Ok(found.and_then(|found| self.unreadable.read(names::PITR, found)))
    }

    /// Writes a slicer's part: its state, those who could do its work (`candidates`), and its error as the original
    /// reports it.
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

    /// Takes a replica set's part out: nobody slices it now, for the reason given (empty: because it is to stop).
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

    /// As [`Self::report`], but for use while the status and the heartbeat belong to the leader. With `candidates` this also
    /// writes the nomination and the error of this replica set; without `candidates` those belong to the leader as well.
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

    /// Removes what a slicer has reported about itself, and leaves the leader's fields alone.
    pub async fn leave_beside(&self, rs: &str) -> Result<()> {
        self.write(doc! { "slicers": replaced("slicers", "rs", rs, Vec::new()) }).await
    }

    /// Tells the leader that this node waits to be named.
    pub async fn ready(&self, rs: &str, node: &str) -> Result<()> {
        let ready = doc! { "name": rs, "node": node, "status": state::READY };
        let waits = doc! { "status": state::READY };
        self.coll
            .update_one(waits, doc! { "$addToSet": { "replsets": ready } })
            .await
            .context("report to admin.pbmPITR")?;
        Ok(())
    }

    /// Reports to the leader why the slicer of a replica set gave up.
    pub async fn failed(&self, rs: &str, node: &str, why: &str) -> Result<()> {
        let error = doc! { "name": rs, "node": node, "status": state::ERROR, "error": why };
        self.coll
            .update_one(doc! {}, doc! { "$addToSet": { "replsets": error } })
            .await
            .context("report to admin.pbmPITR")?;
        Ok(())
    }

    /// Records that `node` has taken the work, whether it was named or not.
    pub async fn claim(&self, rs: &str, node: &str) -> Result<()> {
        let named = doc! { "n": { "$elemMatch": { "rs": rs, "n": node } } };
        let done = self.coll.update_one(named, doc! { "$set": { "n.$.ack": node } }).await;
        if done.context("acknowledge the nomination in admin.pbmPITR")?.matched_count > 0 {
            return Ok(());
        }
        let round: Bson = doc! { "rs": rs, "n": [node], "ack": node }.into();
        self.write(doc! { "n": replaced("n", "rs", rs, vec![round]) }).await
    }

    /// Records that the node that took the work leaves it to the other nodes that were named.
    pub async fn give_up(&self, rs: &str) -> Result<()> {
        self.coll
            .update_one(doc! { "n.rs": rs }, doc! { "$set": { "n.$.ack": "" } })
            .await
            .context("give the nomination back in admin.pbmPITR")?;
        Ok(())
    }

    /// The leader's part: writes its heartbeat and the status. A change of the status removes what was reported under the
    /// previous status, except for errors of replica sets that nobody slices.
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

    /// Begins the round of nominations for a replica set with these nodes; the leader calls this.
    pub async fn begin_round(&self, rs: &str, nodes: &[String]) -> Result<()> {
        let round: Bson = doc! { "rs": rs, "n": nodes, "ack": "" }.into();
        self.write(doc! { "n": replaced("n", "rs", rs, vec![round]) }).await
    }

    /// Adds more nodes to the round of a replica set; the leader calls this.
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
