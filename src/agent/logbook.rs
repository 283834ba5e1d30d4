//! Writes the agent's log lines into `pbmLog`, in batches, for as long as the agent runs.

use super::node::Node;
use crate::log::DbSink;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The number of lines in one insert.
const BATCH: usize = 200;

/// Writes new lines until `stop`, and then the lines that still wait.
pub(super) async fn write(node: Arc<Node>, sink: DbSink, stop: CancellationToken) {
    let Some(mut lines) = sink.take_lines() else { return };
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let got = tokio::select! {
            got = lines.recv_many(&mut batch, BATCH) => got,
            () = stop.cancelled() => {
                while batch.len() < BATCH && let Ok(line) = lines.try_recv() {
                    batch.push(line);
                }
                batch.len()
            }
        };
        if got == 0 {
            return;
        }
        for line in &mut batch {
            line.rs.clone_from(&node.rs);
            line.node.clone_from(&node.me());
        }
        let mut pause = Duration::from_millis(200);
        // The lines are on stderr in any case. If the database can't be reached, this waits for it.
        while node.control.logs.append(&batch).await.is_err() && !stop.is_cancelled() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        sink.have_arrived(batch.len());
        batch.clear();
        let dropped = sink.take_dropped();
        if dropped > 0 {
            tracing::warn!("{dropped} log lines are missing in admin.pbmLog: it could not be written for too long");
        }
    }
}
