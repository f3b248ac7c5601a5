//! What the programs tell, passed on to health and to the log.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use federation_ebpf::maps::EventKind;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, info, trace};

use crate::{
    dataplane::{Event, Events, Usage},
    health::Observation,
};

/// Observations that wait to be weighed.
pub(super) const WAITING: usize = 1024;

/// How often it is told which backends are in use.
const ROUND: Duration = Duration::from_millis(500);

/// A backend is in use for so long after its last packet.
const IN_USE: Duration = Duration::from_secs(5);

/// Passes on until nothing can be heard any more.
///
/// # Errors
/// The ring of events cannot be waited for, or a map not be read.
pub(super) async fn pass_on(
    mut events: Events,
    mut usage: Usage,
    health: mpsc::Sender<Observation>,
) -> Result<()> {
    let mut log = Log::default();
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            told = events.next() => {
                for event in told? {
                    log.tell(&event);
                    if let Some(observation) = observation(&event) {
                        // Where there are more of them than can be taken, they say the same.
                        let _ = health.try_send(observation);
                    }
                }
            }
            _ = rounds.tick() => {
                log.begin_round();
                let used = usage.used_since(IN_USE).context("see which backends are in use")?;
                let _ = health.try_send(Observation::Used(used));
            }
        }
    }
}

/// The agent's log of what the programs tell: of a service that refuses everybody there may be thousands a second.
#[derive(Default)]
struct Log {
    told: usize,
    left_out: usize,
}

impl Log {
    /// Of those that are logged without being asked for, in one round.
    const MOST: usize = 10;

    fn tell(&mut self, event: &Event) {
        match event.kind {
            EventKind::RoundTrip => trace!("{event}"),
            EventKind::Opened | EventKind::BackendRefused => debug!("{event}"),
            EventKind::Refused | EventKind::Reset | EventKind::Unanswered if self.told < Self::MOST => {
                self.told += 1;
                info!("{event}");
            }
            EventKind::Refused | EventKind::Reset | EventKind::Unanswered => self.left_out += 1,
        }
    }

    fn begin_round(&mut self) {
        if self.left_out > 0 {
            info!("{} more events like these within {} ms", self.left_out, ROUND.as_millis());
        }
        *self = Self::default();
    }
}

/// What it says of a backend; nothing where the backend is gone.
fn observation(event: &Event) -> Option<Observation> {
    let backend: SocketAddr = event.backend?.address?;
    let protocol = event.transport()?;
    let in_a_row = event.failures;
    match event.kind {
        EventKind::Unanswered => Some(Observation::Unanswered { backend, protocol, in_a_row }),
        EventKind::BackendRefused => Some(Observation::Refused { backend, protocol, in_a_row }),
        EventKind::RoundTrip => {
            event.round_trip.map(|time| Observation::RoundTrip { backend, protocol, time })
        }
        EventKind::Opened | EventKind::Refused | EventKind::Reset => None,
    }
}
