//! A thread for heartbeats, with its own async runtime and connections.
//!
//! An operation without a heartbeat for half a minute counts as lost. Packing, unpacking and applying data can keep all
//! threads and connections of the agent busy, on a busy host for many seconds, and heartbeats must not wait for them.

use crate::control::Control;
use crate::topo::cluster::connect_leader;
use anyhow::{Context, Result};
use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

/// The heartbeat thread. It ends when this value is dropped. So if a later step of the start fails, the thread does not
/// stay.
#[derive(Debug)]
pub(super) struct Pulse {
    runtime: Handle,
    /// The same collections as in the node's own `control`, but over connections that only heartbeats use.
    pub control: Control,
    _alive: DropGuard,
    #[cfg(test)]
    process: Option<super::sim::Process>,
}

impl Pulse {
    /// Starts the thread, and opens the connections from it.
    pub async fn start(uri: &str) -> Result<Self> {
        let uri = uri.to_owned();
        let connect = async move { Ok(Control::new(connect_leader(&uri, "pbm-agent").await?.0)) };
        let stop = CancellationToken::new();
        let alive = stop.clone().drop_guard();
        let (runtime, control) = thread(connect, stop).await?;
        Ok(Self {
            runtime,
            control,
            _alive: alive,
            #[cfg(test)]
            process: None,
        })
    }

    /// Runs `work` on the thread until it ends or the handle is dropped.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
        #[cfg(test)]
        if let Some(process) = &self.process {
            return AbortOnDropHandle::new(self.runtime.spawn(process.run(work)));
        }
        AbortOnDropHandle::new(self.runtime.spawn(work))
    }

    /// Runs heartbeats on the caller's runtime, in a simulated process.
    #[cfg(test)]
    pub fn simulated(control: Control, process: super::sim::Process) -> Self {
        let alive = CancellationToken::new().drop_guard();
        Self { runtime: Handle::current(), control, _alive: alive, process: Some(process) }
    }
}

/// Starts a thread with a runtime that lives until `stop`, and runs `make` on it. A client's own tasks run on the
/// runtime where the client was created.
async fn thread<T: Send + 'static>(
    make: impl Future<Output = Result<T>> + Send + 'static,
    stop: CancellationToken,
) -> Result<(Handle, T)> {
    let (started, ready) = oneshot::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime.context("start the runtime of the heartbeats") {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        runtime.block_on(async move {
            let made = make.await.map(|made| (Handle::current(), made));
            let failed = made.is_err();
            // If the agent was stopped while it connected, no task waits for the result any more.
            let left = started.send(made).is_err();
            if !failed && !left {
                stop.cancelled().await;
            }
        });
    };
    std::thread::Builder::new().name("heartbeats".into()).spawn(run).context("start the thread of the heartbeats")?;
    ready.await.context("the thread of the heartbeats ended")?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::{sync::Arc, time::Duration};

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn heartbeats_go_on_while_all_other_threads_are_busy() {
        let (runtime, beats) =
            thread(async { Ok(Arc::new(AtomicU32::new(0))) }, CancellationToken::new()).await.expect("start");
        let counted = beats.clone();
        runtime.spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        // This task keeps the only worker thread busy until enough heartbeats were counted.
        let busy = tokio::spawn(async move {
            let since = std::time::Instant::now();
            while beats.load(Ordering::Relaxed) < 5 {
                assert!(since.elapsed() < Duration::from_secs(20), "no heartbeat came");
                std::hint::spin_loop();
            }
        });
        busy.await.expect("heartbeats");
    }

    #[tokio::test]
    async fn work_runs_on_the_thread_of_the_heartbeats() {
        let stop = CancellationToken::new();
        let alive = stop.clone().drop_guard();
        // No server is contacted.
        let client = mongodb::Client::with_uri_str("mongodb://127.0.0.1:1/").await.expect("a client");
        let (runtime, control) = thread(async { Ok(Control::new(client)) }, stop).await.expect("start");
        let pulse = Pulse { runtime, control, _alive: alive, process: None };
        let (name, told) = oneshot::channel();
        let work = pulse.spawn(async move {
            name.send(std::thread::current().name().map(str::to_owned)).expect("somebody waits");
        });
        assert_eq!(told.await.expect("a name").as_deref(), Some("heartbeats"));
        work.await.expect("the end");
    }
}
