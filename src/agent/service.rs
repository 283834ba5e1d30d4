//! What the service manager is told (sd_notify(3)); without one nothing happens.

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// It can be counted as started, and this is what it does.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("ending")]);
}

/// From now until [`reloaded`] the settings are read again.
pub(super) fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    tell(&states);
}

/// The settings were read again; what it does, and so its status, is as before.
pub(super) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager could not be told: {error}");
    }
}

/// Shows the service manager, as often as it wants, that tasks still get their turn here. A database that is away is no
/// reason to be started again.
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
