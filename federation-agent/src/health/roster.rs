//! Whom to ask next: every shard in turn, a rotating sample of its endpoints each time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
};

use super::probe::Report;
use crate::model::{ClusterName, Federation, Protocol, Readiness, Service, ServiceKey, Shard};

/// A service in a cluster.
pub(super) type ShardKey = (ServiceKey, ClusterName);

/// Endpoints of a shard that one inquiry asks; as many again of those that have failed, to see them come back.
const SAMPLE: usize = 3;

/// What to ask of one shard now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inquiry {
    pub shard: ShardKey,
    /// The sample that speaks for the shard.
    pub sample: Vec<SocketAddr>,
    /// Failed ones outside the sample.
    pub again: Vec<SocketAddr>,
}

#[derive(Default)]
pub(super) struct Roster {
    shards: BTreeMap<ShardKey, Entry>,
    turn: VecDeque<ShardKey>,
}

struct Entry {
    /// TCP addresses of the endpoints that their cluster would send traffic to.
    addresses: Vec<SocketAddr>,
    /// How many inquiries there were: where the next sample begins.
    round: usize,
    /// An inquiry is under way.
    asked: bool,
}

impl Roster {
    pub(super) fn update(&mut self, federation: &Federation) {
        let mut before = std::mem::take(&mut self.shards);
        for (key, service) in &federation.services {
            for (cluster, shard) in &service.shards {
                let addresses = addresses(service, shard);
                if addresses.is_empty() {
                    continue;
                }
                let shard = (key.clone(), cluster.clone());
                let entry = if let Some(entry) = before.remove(&shard) {
                    Entry { addresses, ..entry }
                } else {
                    self.turn.push_back(shard.clone());
                    Entry { addresses, round: 0, asked: false }
                };
                self.shards.insert(shard, entry);
            }
        }
        self.turn.retain(|shard| self.shards.contains_key(shard));
    }

    /// The next inquiries, of at most `budget` addresses, longest waiting first.
    pub(super) fn due(&mut self, budget: usize, failed: &BTreeSet<SocketAddr>) -> Vec<Inquiry> {
        let mut inquiries = Vec::new();
        let mut asked = 0;
        for _ in 0..self.turn.len() {
            if asked >= budget {
                break;
            }
            let Some(key) = self.turn.pop_front() else { break };
            self.turn.push_back(key.clone());
            let Some(entry) = self.shards.get_mut(&key).filter(|entry| !entry.asked) else { continue };
            entry.asked = true;
            let inquiry = entry.inquiry(key, failed);
            asked += inquiry.sample.len() + inquiry.again.len();
            inquiries.push(inquiry);
        }
        inquiries
    }

    /// Takes an ended inquiry back, so that its shard may be asked again. What is left of the report concerns those
    /// who are still there; `None` when that is nobody.
    pub(super) fn take_back(&mut self, mut report: Report) -> Option<Report> {
        let entry = self.shards.get_mut(&report.shard)?;
        entry.asked = false;
        report.sample.retain(|answer| entry.addresses.contains(&answer.address));
        report.again.retain(|answer| entry.addresses.contains(&answer.address));
        (!report.sample.is_empty()).then_some(report)
    }

    pub(super) fn has_shard(&self, shard: &ShardKey) -> bool {
        self.shards.contains_key(shard)
    }

    pub(super) fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.shards.values().flat_map(|entry| &entry.addresses).copied().collect()
    }
}

impl Entry {
    fn inquiry(&mut self, shard: ShardKey, failed: &BTreeSet<SocketAddr>) -> Inquiry {
        let rotated = |addresses: &[SocketAddr], round: usize| -> Vec<SocketAddr> {
            let start = round * SAMPLE;
            let count = addresses.len().min(SAMPLE);
            (start..start + count).map(|n| addresses[n % addresses.len()]).collect()
        };
        let sample = rotated(&self.addresses, self.round);
        let others: Vec<_> =
            self.addresses.iter().filter(|a| failed.contains(a) && !sample.contains(a)).copied().collect();
        let again = rotated(&others, self.round);
        self.round = self.round.wrapping_add(1) % self.addresses.len().max(1);
        Inquiry { shard, sample, again }
    }
}

fn addresses(service: &Service, shard: &Shard) -> Vec<SocketAddr> {
    let tcp = || service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let asked = shard.endpoints.iter().filter(|endpoint| endpoint.readiness != Readiness::NotReady);
    asked.flat_map(|endpoint| tcp().filter_map(|port| endpoint.serves(port))).collect()
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use super::*;
    use crate::{
        health::probe::Answer,
        model::{Endpoint, Port},
    };

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 8, 0, n], 8080))
    }

    fn federation(services: u8, endpoints: u8, readiness: Readiness) -> Federation {
        let endpoints: BTreeSet<_> = (1..=endpoints)
            .map(|n| Endpoint {
                address: IpAddr::from([10, 8, 0, n]),
                ports: [((String::new(), Protocol::Tcp), 8080)].into(),
                readiness,
                node: None,
                zone: None,
            })
            .collect();
        let service = Arc::new(Service {
            ports: vec![Port { name: String::new(), protocol: Protocol::Tcp, port: 80 }],
            shards: [("here".into(), Shard { weight: 100, endpoints })].into(),
            ..Service::default()
        });
        let services =
            (0..services).map(|n| (ServiceKey::new("ns", format!("s{n}")), service.clone())).collect();
        Federation { services, ..Federation::default() }
    }

    /// Everyone answered.
    fn report(inquiry: &Inquiry) -> Report {
        let answer = |address: &SocketAddr| Answer { address: *address, result: Ok(()) };
        let [sample, again] =
            [&inquiry.sample, &inquiry.again].map(|addresses| addresses.iter().map(answer).collect());
        Report { shard: inquiry.shard.clone(), sample, again }
    }

    #[test]
    fn answers_of_the_departed_do_not_count() {
        let mut roster = Roster::default();
        roster.update(&federation(1, 3, Readiness::Ready));
        let first = report(&roster.due(100, &BTreeSet::new())[0]);
        roster.update(&federation(1, 1, Readiness::Ready));
        let kept = roster.take_back(first).expect("one is left");
        assert_eq!(kept.sample.iter().map(|answer| answer.address).collect::<Vec<_>>(), [address(1)]);
        roster.update(&Federation::default());
        assert!(roster.take_back(kept).is_none());
    }

    #[test]
    fn samples_rotate_until_everyone_was_asked() {
        let mut roster = Roster::default();
        roster.update(&federation(1, 8, Readiness::Ready));
        let mut asked = BTreeSet::new();
        for _ in 0..3 {
            let [inquiry] = &roster.due(100, &BTreeSet::new())[..] else { panic!("one shard is due") };
            assert_eq!(inquiry.sample.len(), SAMPLE);
            asked.extend(inquiry.sample.clone());
            roster.take_back(report(inquiry));
        }
        assert_eq!(asked, (1..=8).map(address).collect());
    }

    #[test]
    fn failed_endpoints_are_asked_again_beside_the_sample() {
        let mut roster = Roster::default();
        roster.update(&federation(1, 8, Readiness::Ready));
        let inquiries = roster.due(100, &BTreeSet::from([address(2), address(7)]));
        assert_eq!(inquiries[0].sample, [address(1), address(2), address(3)]);
        assert_eq!(inquiries[0].again, [address(7)]);
    }

    #[test]
    fn a_shard_is_not_asked_twice_at_once() {
        let mut roster = Roster::default();
        roster.update(&federation(1, 1, Readiness::Ready));
        let first = roster.due(100, &BTreeSet::new());
        assert_eq!(first.len(), 1);
        assert!(roster.due(100, &BTreeSet::new()).is_empty());
        assert!(roster.take_back(report(&first[0])).is_some());
        assert_eq!(roster.due(100, &BTreeSet::new()).len(), 1);
    }

    #[test]
    fn the_budget_makes_shards_wait_for_their_turn() {
        let mut roster = Roster::default();
        roster.update(&federation(5, 2, Readiness::Ready));
        let mut asked = BTreeSet::new();
        for _ in 0..3 {
            let inquiries = roster.due(4, &BTreeSet::new());
            assert!(inquiries.len() <= 2);
            for inquiry in inquiries {
                roster.take_back(report(&inquiry));
                asked.insert(inquiry.shard);
            }
        }
        assert_eq!(asked.len(), 5);
    }

    #[test]
    fn unready_endpoints_and_departed_shards_are_left_alone() {
        let mut roster = Roster::default();
        roster.update(&federation(1, 2, Readiness::NotReady));
        assert!(roster.due(100, &BTreeSet::new()).is_empty());
        roster.update(&federation(1, 2, Readiness::Ready));
        roster.update(&Federation::default());
        assert!(roster.due(100, &BTreeSet::new()).is_empty());
    }
}
