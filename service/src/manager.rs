//! What a service manager (systemd) is told, by `sd_notify`: that a service is ready, that it ends,
//! and, as long as its runtime gets on, that it lives. Without one nothing is said.

use std::time::Duration;

use sd_notify::NotifyState;

/// Says that all sockets listen and requests are answered from now on, and begins to say that the
/// runtime gets on, if the manager wants to hear that (`WatchdogSec=`). Within the runtime.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    if let Some(within) = sd_notify::watchdog_enabled() {
        tokio::spawn(live(within));
    }
}

/// Says that no new requests are taken.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("ending: answering what was asked before")]);
}

/// A task like those that answer requests: where it gets no turn for that long, they get none either.
async fn live(within: Duration) {
    let mut clock = tokio::time::interval(within / 3);
    loop {
        clock.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("tell the service manager ({states:?}): {error}");
    }
}
