//! What the answers mean: which addresses and which shards have failed.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{
    probe::{Answer, Report},
    roster::{Roster, ShardKey},
};
use crate::plan::Health;

/// A turn for better or worse, for people to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Lost { address: SocketAddr, shard: ShardKey, reason: String },
    Back { address: SocketAddr, shard: ShardKey },
    ShardLost(ShardKey),
    ShardBack(ShardKey),
}

#[derive(Default)]
pub(super) struct Verdicts {
    health: Health,
}

impl Verdicts {
    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    pub(super) fn failed(&self) -> &BTreeSet<SocketAddr> {
        &self.health.failed
    }

    /// Takes an inquiry's answers; a shard is lost when its whole sample is, and back with the first answer.
    pub(super) fn record(&mut self, report: &Report) -> Vec<Change> {
        let mut changes = Vec::new();
        for Answer { address, result } in report.sample.iter().chain(&report.again) {
            let (address, shard) = (*address, report.shard.clone());
            match result {
                Ok(()) if self.health.failed.remove(&address) => {
                    changes.push(Change::Back { address, shard });
                }
                Err(reason) if self.health.failed.insert(address) => {
                    changes.push(Change::Lost { address, shard, reason: reason.clone() });
                }
                Ok(()) | Err(_) => {}
            }
        }
        let mut answers = report.sample.iter().chain(&report.again);
        if answers.any(|answer| answer.result.is_ok()) {
            if self.health.failed_shards.remove(&report.shard) {
                changes.push(Change::ShardBack(report.shard.clone()));
            }
        } else if self.health.failed_shards.insert(report.shard.clone()) {
            changes.push(Change::ShardLost(report.shard.clone()));
        }
        changes
    }

    /// Drops what is said of addresses and shards that are gone; whether that changed anything.
    pub(super) fn forget_all_but(&mut self, roster: &Roster) -> bool {
        let before = (self.health.failed.len(), self.health.failed_shards.len());
        let addresses = roster.addresses();
        self.health.failed.retain(|address| addresses.contains(address));
        self.health.failed_shards.retain(|shard| roster.has_shard(shard));
        before != (self.health.failed.len(), self.health.failed_shards.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Federation, ServiceKey};

    fn shard() -> ShardKey {
        (ServiceKey::new("ns", "s"), "here".into())
    }

    fn report(answers: [bool; 2]) -> Report {
        let answer = |(n, ok)| Answer {
            address: SocketAddr::from(([10, 8, 0, n], 80)),
            result: if ok { Ok(()) } else { Err("no answer".to_owned()) },
        };
        Report { shard: shard(), sample: (1..).zip(answers).map(answer).collect(), again: vec![] }
    }

    #[test]
    fn one_silent_endpoint_fails_alone_and_the_whole_sample_fails_the_shard() {
        let mut verdicts = Verdicts::default();
        for (answers, failed, shard_failed, changes) in [
            ([true, true], 0, false, 0),
            ([true, false], 1, false, 1),
            ([true, false], 1, false, 0),
            ([false, false], 2, true, 2),
            ([false, true], 1, false, 2),
            ([true, true], 0, false, 1),
        ] {
            assert_eq!(verdicts.record(&report(answers)).len(), changes, "{answers:?}");
            assert_eq!(verdicts.failed().len(), failed, "{answers:?}");
            assert_eq!(verdicts.health().failed_shards.contains(&shard()), shard_failed, "{answers:?}");
        }
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut verdicts = Verdicts::default();
        verdicts.record(&report([false, false]));
        let mut roster = Roster::default();
        roster.update(&Federation::default());
        assert!(verdicts.forget_all_but(&roster));
        assert_eq!(*verdicts.health(), Health::default());
        assert!(!verdicts.forget_all_but(&roster));
    }
}
