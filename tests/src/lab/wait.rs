//! Waiting for a condition, with a deadline: the only way in which tests wait.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use anyhow::Result;

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `probe` succeeds; its error says what is still missing.
///
/// # Errors
/// After `deadline`: what was awaited, and what was missing last.
pub async fn eventually<T>(
    what: impl Display,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => {
                return Err(error.context(format!("waited {deadline:?} for this: {what}")));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
