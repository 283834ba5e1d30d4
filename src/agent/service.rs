//! Reports to the service manager (sd_notify(3)). Without a service manager nothing happens.

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// Reports that the agent has started, and what it does now.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("ending")]);
}

/// Reports that the settings are being read again, until [`reloaded`] is called.
pub(super) fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    tell(&states);
}

/// Reports that the settings were read again. The status does not change, because the agent continues its work.
pub(super) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager could not be told: {error}");
    }
}

/// Reports to the service manager, as often as it requires, that tasks still run in this process. An unreachable
/// database is no reason to start the agent again.
pub(super) async fn watchdog(stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
    let mut turns = tokio::time::interval(limit / 2);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turns.tick() => tell(&[NotifyState::Watchdog]),
        }
    }
}
