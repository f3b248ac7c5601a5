//! The client pod's requests: steadily, a connection each, whatever becomes of the last one.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{
    client::{Answer, get},
    lab::Namespace,
};

/// From one request to the next.
const PACE: Duration = Duration::from_millis(5);
/// Before a request counts as failed.
const DEADLINE: Duration = Duration::from_millis(500);

/// One request's end.
#[derive(Clone, Debug)]
pub struct Sample {
    pub began: Instant,
    pub ended: Instant,
    /// Who answered, or why nobody did.
    pub outcome: Result<Answer, String>,
}

/// Sends until dropped.
pub struct Traffic {
    samples: mpsc::UnboundedReceiver<Sample>,
    sender: JoinHandle<()>,
}

impl Traffic {
    pub fn start(from: &Namespace, server: SocketAddr) -> Self {
        let (results, samples) = mpsc::unbounded_channel();
        let from = from.clone();
        let sender = tokio::spawn(async move {
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                pace.tick().await;
                let (from, results) = (from.clone(), results.clone());
                tokio::spawn(async move {
                    let began = Instant::now();
                    let outcome = get(&from, server, DEADLINE).await.map_err(|error| format!("{error:#}"));
                    // Nobody listens any more when the demo ends.
                    let _ = results.send(Sample { began, ended: Instant::now(), outcome });
                });
            }
        });
        Self { samples, sender }
    }

    /// The next request that ends.
    pub async fn next(&mut self) -> Option<Sample> {
        self.samples.recv().await
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.sender.abort();
    }
}
