//! Which backends answer, found out by asking them: active TCP probes from this node.
//!
//! Says nothing of readiness, which clusters declare themselves, nor of what follows: that is the plan's.

mod probe;
mod roster;
mod verdicts;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use crate::{model::Federation, plan::Health};
use roster::Roster;
use verdicts::{Change, Verdicts};

/// From one inquiry of a shard to the next, while the budget allows.
const INTERVAL: Duration = Duration::from_millis(250);

/// Addresses that one node asks in an interval; with more, shards wait for their turn (2 000 probes a second).
const BUDGET: usize = 500;

/// Probes the shards of `federation` and publishes what it finds, until nobody listens or the federation ends.
pub async fn watch_health(
    mut federation: watch::Receiver<Option<Arc<Federation>>>,
    health: watch::Sender<Arc<Health>>,
) {
    let mut roster = Roster::default();
    let mut verdicts = Verdicts::default();
    let mut inquiries = JoinSet::new();
    let mut rounds = interval(INTERVAL);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    federation.mark_changed();
    loop {
        let changed = tokio::select! {
            () = health.closed() => return,
            changed = federation.changed() => {
                if changed.is_err() {
                    return;
                }
                let federation = federation.borrow_and_update().clone();
                roster.update(federation.as_deref().unwrap_or(&Federation::default()));
                verdicts.forget_all_but(&roster)
            }
            _ = rounds.tick() => {
                for inquiry in roster.due(BUDGET, verdicts.failed()) {
                    inquiries.spawn(probe::ask(inquiry));
                }
                false
            }
            Some(report) = inquiries.join_next() => {
                let report = report.expect("an inquiry neither panics nor is cancelled");
                let changes = roster.take_back(report).map(|report| verdicts.record(&report)).unwrap_or_default();
                changes.iter().for_each(log);
                !changes.is_empty()
            }
        };
        if changed {
            health.send_replace(Arc::new(verdicts.health().clone()));
        }
    }
}

fn log(change: &Change) {
    match change {
        Change::Lost { address, shard: (service, cluster), reason } => {
            warn!("{service} in {cluster}: {address} does not answer: {reason}");
        }
        Change::Back { address, shard: (service, cluster) } => {
            info!("{service} in {cluster}: {address} answers again");
        }
        Change::ShardLost((service, cluster)) => {
            warn!("{service} in {cluster}: nobody answers, the shard is left out");
        }
        Change::ShardBack((service, cluster)) => {
            info!("{service} in {cluster}: the shard is back");
        }
    }
}
