//! `pbmPITR`: what the slicers tell of themselves (spec/format.md C.10).
//!
//! The document has the original's form and every slicer writes its own replica set's part of it, so nobody's silence keeps
//! the others from slicing; who slices is decided by the locks (`pbmLockOp`). Nobody waits for this document, so the bell is
//! not rung for it.

use super::{Unreadable, unix_now};
use crate::model::{
    names,
    pitr::{PitrMeta, SlicerState, state},
};
use anyhow::{Context, Result};
use bson::{Bson, Document, doc};
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

    async fn write(&self, set: Document) -> Result<()> {
        let update = vec![doc! { "$set": set }];
        self.coll.update_one(doc! {}, update).upsert(true).await.context("write admin.pbmPITR")?;
        Ok(())
    }
}
