//! What can be asked of a shard, and about whom each answer speaks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::passive::Backend;
use crate::{
    model::{Endpoint, HealthCheck, Protocol, Question, Readiness, Service, Shard},
    plan::Place,
};

/// An address that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub address: SocketAddr,
    covers: Covers,
    /// Which of the shard's endpoints it is of, by its place among those that are asked.
    pub endpoint: usize,
    /// Which of the nodes that the shard runs on; whoever names none is a node of its own.
    pub node: usize,
    /// On another node than this one: its answers tell of the network too.
    pub remote: bool,
}

/// Whom a target's answers speak for. There are a hundred thousand of them, of which hardly any needs a list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Covers {
    Itself(Backend),
    All(Box<[Backend]>),
}

impl Target {
    /// Whom its answers speak for.
    pub(super) fn covers(&self) -> &[Backend] {
        match &self.covers {
            Covers::Itself(backend) => std::slice::from_ref(backend),
            Covers::All(backends) => backends,
        }
    }
}

/// All of a shard's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Targets {
    /// Neighbours are on different nodes as far as possible: who is asked together does not fall together.
    pub list: Vec<Target>,
    /// By endpoint: whom no answer speaks for, and who falls when all of the endpoint's targets have.
    pub unasked: Vec<Vec<Backend>>,
}

impl Targets {
    /// Endpoints that do not serve are not asked; those that terminate and still do are.
    pub(super) fn of(service: &Service, shard: &Shard, is_here: bool, place: &Place) -> Self {
        let mut targets = Self::default();
        let mut nodes: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        let asked = shard.endpoints.iter().filter(|endpoint| endpoint.readiness != Readiness::NotReady);
        for (number, endpoint) in asked.enumerate() {
            let remote = !(is_here && endpoint.node.as_deref() == Some(&place.node));
            let all = backends(service, endpoint);
            let next = nodes.len();
            let node = match endpoint.node.as_deref() {
                Some(name) => *nodes.entry(Some(name)).or_insert(next),
                None => shard.endpoints.len() + number,
            };
            let target = |address, covers| Target { address, covers, endpoint: number, node, remote };
            match asked_at(&service.health_check, endpoint, &all) {
                AskedAt::Nowhere => targets.unasked.push(Vec::new()),
                AskedAt::One(address) => {
                    targets.list.push(target(address, Covers::All(all.into())));
                    targets.unasked.push(Vec::new());
                }
                AskedAt::EachTcpPort => {
                    let (tcp, others): (Vec<_>, Vec<_>) =
                        all.into_iter().partition(|(_, protocol)| *protocol == Protocol::Tcp);
                    let itself = |backend: Backend| target(backend.0, Covers::Itself(backend));
                    targets.list.extend(tcp.into_iter().map(itself));
                    targets.unasked.push(others);
                }
            }
        }
        targets.interleave();
        targets
    }

    /// Takes one of each node in turn.
    fn interleave(&mut self) {
        let mut turns: BTreeMap<usize, usize> = BTreeMap::new();
        let mut turn_of = |target: &Target| {
            let turn = turns.entry(target.node).or_default();
            *turn += 1;
            *turn
        };
        let mut turned: Vec<_> = std::mem::take(&mut self.list)
            .into_iter()
            .map(|target| ((turn_of(&target), target.node), target))
            .collect();
        turned.sort_by_key(|(turn, _)| *turn);
        self.list = turned.into_iter().map(|(_, target)| target).collect();
        // It is where the turns were, too.
        self.list.shrink_to_fit();
    }

    /// Whether these may speak for all: they are on more than one node, or nobody is on another.
    pub(super) fn represent(&self, sample: impl Iterator<Item = SocketAddr>) -> bool {
        let asked: BTreeSet<usize> =
            sample.filter_map(|address| self.get(address)).map(|it| it.node).collect();
        asked.len() > 1 || self.list.iter().all(|target| asked.contains(&target.node))
    }

    pub(super) fn get(&self, address: SocketAddr) -> Option<&Target> {
        self.list.iter().find(|target| target.address == address)
    }
}

enum AskedAt {
    Nowhere,
    One(SocketAddr),
    EachTcpPort,
}

fn asked_at(check: &HealthCheck, endpoint: &Endpoint, backends: &[Backend]) -> AskedAt {
    let first_tcp = || backends.iter().find(|(_, protocol)| *protocol == Protocol::Tcp);
    match (&check.question, check.port) {
        (Question::Nothing, _) => AskedAt::Nowhere,
        (_, Some(port)) => AskedAt::One(SocketAddr::new(endpoint.address, port)),
        (Question::Tcp, None) => AskedAt::EachTcpPort,
        (Question::Http { .. } | Question::Grpc { .. }, None) => {
            first_tcp().map_or(AskedAt::Nowhere, |(address, _)| AskedAt::One(*address))
        }
    }
}

/// What the endpoint serves of the service.
pub(super) fn backends(service: &Service, endpoint: &Endpoint) -> Vec<Backend> {
    let serves = |port: &crate::model::Port| Some((endpoint.serves(port)?, port.protocol));
    service.ports.iter().filter_map(serves).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Port;

    /// Targets of endpoints on these nodes.
    fn targets(nodes: &[&str]) -> Targets {
        let service = Service {
            ports: vec![Port { name: String::new(), protocol: Protocol::Tcp, port: 80 }],
            ..Service::default()
        };
        let endpoint = |(node, n): (&&str, u8)| Endpoint {
            address: [10, 8, 0, n].into(),
            ports: Arc::new([((String::new(), Protocol::Tcp), 8080)].into()),
            readiness: Readiness::Ready,
            node: Some((*node).into()),
            zone: None,
        };
        let shard = Shard { weight: 100, endpoints: nodes.iter().zip(1..).map(endpoint).collect() };
        let locality = crate::model::Locality {
            provider: "p".into(),
            region: "r".into(),
            zone: "z".into(),
            cluster: "c".into(),
        };
        Targets::of(&service, &shard, true, &Place { locality, node: "a".to_owned() })
    }

    #[test]
    fn neighbours_are_on_different_nodes() {
        let targets = targets(&["a", "a", "a", "b", "b", "c"]);
        let nodes: Vec<_> = targets.list.iter().map(|target| target.node).collect();
        assert_eq!(nodes, [0, 1, 2, 0, 1, 0]);
        let local: Vec<_> = targets.list.iter().map(|target| !target.remote).collect();
        assert_eq!(local, [true, false, false, true, false, true]);
    }

    #[test]
    fn one_node_does_not_speak_for_another() {
        let two = targets(&["a", "a", "b"]);
        let address = |n: u8| SocketAddr::from(([10, 8, 0, n], 8080));
        for (sample, speaks) in [(&[1, 2][..], false), (&[1, 3], true), (&[3], false)] {
            assert_eq!(two.represent(sample.iter().map(|n| address(*n))), speaks, "{sample:?}");
        }
        assert!(targets(&["a", "a"]).represent([address(1)].into_iter()));
    }
}
