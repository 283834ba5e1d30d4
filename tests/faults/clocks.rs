//! The clocks of the hosts do not agree.

use super::rig::{Rig, USUAL};
use crate::support::wait;
use std::time::Instant;

const AN_HOUR: i64 = 3600;

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_run_once_whatever_the_senders_clock_says() {
    let mut rig = Rig::start(1).await;
    let mut names = Vec::new();
    for (ahead, name) in [
        (0, "2026-01-02T03:04:00Z"),
        (-AN_HOUR, "2026-01-02T03:04:05Z"),
        (AN_HOUR, "2026-01-02T03:04:10Z"),
        (-AN_HOUR, "2026-01-02T03:04:15Z"),
    ] {
        let since = Instant::now();
        rig.send_backup_by(ahead, name).await;
        wait::until("the backup", USUAL, async || {
            rig.newest("pbmBackups").await.filter(|found| found.get_str("name").is_ok_and(|n| n == name))
        })
        .await;
        assert_eq!(rig.settles("pbmBackups", name, since).await.status, "done", "{ahead} s");
        names.push(name);
    }

    rig.restart_agent(0).await;
    rig.next_backup_works();
    let log = rig.sandbox.agents[0].log();
    for name in names {
        assert!(!log.contains(name), "{name} was run again:\n{log}");
    }
}
