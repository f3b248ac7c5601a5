//! What can be asked of a shard, and about whom each answer speaks.

use std::net::SocketAddr;

use super::passive::Backend;
use crate::{
    model::{Endpoint, HealthCheck, Protocol, Question, Readiness, Service, Shard},
    plan::Place,
};

/// An address that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub address: SocketAddr,
    /// Whom its answers speak for.
    pub covers: Vec<Backend>,
    /// Which of the shard's endpoints it is of, by its place among those that are asked.
    pub endpoint: usize,
    /// On another node than this one: its answers tell of the network too.
    pub remote: bool,
}

/// All of a shard's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Targets {
    pub list: Vec<Target>,
    /// By endpoint: whom no answer speaks for, and who falls when all of the endpoint's targets have.
    pub silent: Vec<Vec<Backend>>,
}

impl Targets {
    /// Endpoints that do not serve are not asked; those that terminate and still do are.
    pub(super) fn of(service: &Service, shard: &Shard, is_here: bool, place: &Place) -> Self {
        let mut targets = Self::default();
        let asked = shard.endpoints.iter().filter(|endpoint| endpoint.readiness != Readiness::NotReady);
        for (number, endpoint) in asked.enumerate() {
            let remote = !(is_here && endpoint.node.as_ref() == Some(&place.node));
            let all = backends(service, endpoint);
            let target = |address, covers| Target { address, covers, endpoint: number, remote };
            match asked_at(&service.health_check, endpoint, &all) {
                AskedAt::Nowhere => targets.silent.push(Vec::new()),
                AskedAt::One(address) => {
                    targets.list.push(target(address, all));
                    targets.silent.push(Vec::new());
                }
                AskedAt::EachTcpPort => {
                    let (tcp, others): (Vec<_>, Vec<_>) =
                        all.into_iter().partition(|(_, protocol)| *protocol == Protocol::Tcp);
                    targets.list.extend(tcp.into_iter().map(|backend| target(backend.0, vec![backend])));
                    targets.silent.push(others);
                }
            }
        }
        targets
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
