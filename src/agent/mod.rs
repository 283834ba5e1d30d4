//! `pbm-agent`: the daemon that runs beside every mongod and does the work.
//!
//! # Overview
//! [`run`] connects to its own node and to the leader replica set, makes sure that the control collections exist, and
//! then supervises a handful of tasks: the heartbeat (`beat`), the reaper of lost operations (`reap`), the bell,
//! the log writer, the slicer of the oplog (`slicer`), the task that names slicers for agents of the original (`naming`), and
//! the command stream that `dispatch` turns into operations.
//!
//! # The service manager
//! The agent counts as started when it is connected, or after the first attempt that failed for a reason that may go
//! away. It reports this to the service manager, and also what it waits for or works on (`service`). On SIGHUP it opens
//! the log file again and reads the settings again (`reload`).
//!
//! # Cancellation
//! SIGTERM and SIGINT cancel running operations. Each operation stores this reason in its document, removes its objects
//! from the storage and releases its lock. Then the agent removes its document from `pbmAgents` and ends.
//!
//! # Crash
//! After a kill none of this happens. Other agents (or a waiting command line) notice the silent lock after 30 s. If an
//! agent starts again on the same node, it notices its own old locks sooner (`reap`).

mod cli;
mod dispatch;
mod handover;
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
