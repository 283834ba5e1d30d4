//! One module per command. Each passes the gates and then runs one recipe.

mod alone;
pub(super) mod backup;
pub(super) mod delete;
pub(super) mod physical;
pub(super) mod profile;
pub(super) mod remains;
pub(super) mod replay;
pub(super) mod restore;
pub(super) mod resync;

use super::{
    node::Node,
    op::{Op, Received},
};
use crate::rendezvous::Cancel;
use bson::Timestamp;
use std::sync::Arc;

/// The input of every command's handler.
pub(super) struct Task {
    pub node: Arc<Node>,
    pub opid: String,
    pub epoch: Option<Timestamp>,
    pub cancel: Cancel,
}

impl Task {
    fn receive(&self, name: &str) -> Op<Received> {
        Op {
            name: name.to_owned(),
            opid: self.opid.clone(),
            epoch: self.epoch,
            cancel: self.cancel.clone(),
            state: Received,
        }
    }
}
