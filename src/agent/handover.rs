//! Work for which this agent lets go of its cluster: while data files are replaced there is no database, and what the agent
//! knows and is connected to belongs to the set of before. When the work is done, the agent connects anew, in the same process.

use futures::future::BoxFuture;
use std::sync::{Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// The place for such work.
#[derive(Default)]
pub(super) struct Handover {
    /// Ends all tasks of the agent.
    leave: CancellationToken,
    work: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl std::fmt::Debug for Handover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handover")
    }
}

impl Handover {
    /// `stop` ends the tasks as well.
    pub fn new(stop: &CancellationToken) -> Self {
        Self { leave: stop.child_token(), work: Mutex::default() }
    }

    /// Ends all tasks of the agent, and then does this work.
    pub fn give(&self, work: BoxFuture<'static, ()>) {
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
        self.leave.cancel();
    }

    /// Cancelled when the tasks have to end.
    pub fn leave(&self) -> CancellationToken {
        self.leave.clone()
    }

    /// The work, if there is any.
    pub fn take(&self) -> Option<BoxFuture<'static, ()>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
