//! How a role is told to end: SIGTERM or SIGINT.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Resolves at the first SIGTERM or SIGINT after the call.
///
/// The handlers are installed at once, not at the first poll: a signal that comes while a role starts is not lost.
///
/// # Errors
/// The handlers cannot be installed.
pub fn requested() -> Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
