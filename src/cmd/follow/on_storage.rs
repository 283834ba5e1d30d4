//! A physical restore, followed by its files on the storage: there is no database while it works.

use super::{Followed, goes_on};
use crate::cmd::io::{
    context::Context,
    error::{CliError, Kind, Result},
    progress::View,
};
use crate::model::{restore::RestoreMeta, status::Status};
use crate::rendezvous::rank;
use crate::restore::physical::state;
use crate::storage::Storage;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// The longest that a look at the database may take, which tells early ends.
const LOOK: Duration = Duration::from_millis(500);
/// If a heartbeat has not changed for this time by our own clock, its agent is lost.
const LOST: Duration = Duration::from_secs(300);

/// A restore that is followed to its end, or until it runs.
pub struct OnStorage<'a> {
    store: Arc<dyn Storage>,
    name: &'a str,
    /// Only until it runs.
    started: bool,
    view: View,
    beat: (u32, Instant),
}

impl<'a> OnStorage<'a> {
    pub fn new(cx: &Context, store: Arc<dyn Storage>, name: &'a str, started: bool) -> Self {
        Self { store, name, started, view: View::new(cx.out, "restore"), beat: (0, Instant::now()) }
    }

    fn failed(&self, reason: &str) -> CliError {
        CliError::failed(format!("restore {} failed: {reason}", self.name))
            .hint("the logs of the agents have the details; `pbm status` shows whether the cluster is up")
    }

    /// A restore that is refused has no files, but a document with the reason.
    async fn refused(&self, cx: &Context) -> Option<CliError> {
        let document = timeout(LOOK, cx.control.restores.get(self.name)).await.ok()?.ok()??;
        (document.status == Status::Error).then(|| self.failed(document.error.as_deref().unwrap_or_default()))
    }
}

impl Followed for OnStorage<'_> {
    type End = RestoreMeta;

    async fn look(&mut self, cx: &Context) -> Result<Option<RestoreMeta>> {
        let mut meta = state::unknown(self.name);
        let begun = state::read(self.store.as_ref(), self.name, &mut meta).await;
        if let Err(error) = &begun {
            tracing::debug!("{error:#}");
        }
        if !matches!(begun, Ok(true)) || meta.status == Status::Init {
            return match self.refused(cx).await {
                Some(refused) => Err(refused),
                None => Ok(None),
            };
        }
        self.view.show(meta.status, &[]);
        if meta.hb.time != self.beat.0 {
            self.beat = (meta.hb.time, Instant::now());
        }
        match meta.status {
            Status::Error => Err(self.failed(meta.error.as_deref().unwrap_or("no reason is recorded"))),
            status if status.is_final() || (self.started && rank(status) >= rank(Status::Running)) => {
                self.view.end();
                Ok(Some(meta))
            }
            _ if self.beat.1.elapsed() > LOST => Err(CliError::failed(format!(
                "nothing was heard of restore {} for {} s: the agent that leads it is lost",
                self.name,
                LOST.as_secs()
            ))
            .hint(
                "start the agents again; where mongod is down, the data from before the restore is in the folder .fallbacksync of its \
                 dbPath if there was room for it: move it back, or start mongod with an empty dbPath to copy from the other members",
            )),
            _ => Ok(None),
        }
    }

    fn may_reap(&self) -> bool {
        false
    }

    fn over(&self, limit: Duration) -> CliError {
        let text = format!(
            "the restore {} has not ended within the --wait-time of {} s; it goes on",
            self.name,
            limit.as_secs()
        );
        CliError::new(Kind::WaitOver, text).hint(describe(self.name))
    }

    async fn interrupted(&self, _: &Context) -> CliError {
        goes_on(&format!("the restore {}", self.name)).hint(describe(self.name))
    }
}

fn describe(name: &str) -> String {
    format!(
        "`pbm describe-restore {name} -c FILE` shows it, with the configuration's file, also while no database runs"
    )
}
