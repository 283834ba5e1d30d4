//! `pbm-agent`: the daemon beside every mongod that does the work.
//!
//! # Overview
//! [`run`] connects to its own node and to the leader replica set, makes sure that the control collections exist, and
//! then supervises a handful of tasks: the heartbeat (`beat`), the reaper of lost operations (`reap`), the bell,
//! the log writer, the slicer of the oplog (`slicer`), the task that names slicers for agents of the original (`naming`), and
//! the command stream that `dispatch` turns into operations.
//!
//! # The service manager
//! The agent counts as started when it is connected, or after the first attempt that time may heal: it is told so, and
//! what the agent waits for or serves (`service`). SIGHUP opens the log file again and reads the settings again (`reload`).
//!
//! # Cancellation
//! SIGTERM and SIGINT cancel running operations. Each of them marks itself as failed with that reason, removes what
//! it left on the storage and gives its lock back; then the agent removes its line from `pbmAgents` and ends.
//!
//! # Crash
//! After a kill nothing of that happens. Other agents (or a waiting command line) find the silent lock after 30 s; an
//! agent that starts again on the same node finds its own old locks sooner (`reap`).

mod cli;
mod dispatch;
mod heartbeat;
mod heartbeat_thread;
mod lease;
mod logbook;
mod named;
mod naming;
mod node;
mod nominate;
mod op;
mod ops;
mod reap;
mod reload;
mod service;
mod settings;
mod sharing;
pub mod sidecar;
#[cfg(test)]
mod sim;
mod slice_begin;
mod slicer;
mod storage_watch;

pub use cli::{command, run};
