//! What a VIP costs on the way of real packets, against the pod's own address, and against what kube-proxy would do.
//!
//! Clients and one server, in pods on nodes of one cluster. All ways are measured in one run, block by block in turns,
//! so that whatever else the machine does hits all. Each size of nftables has a node of its own, for conntrack would slow
//! the others' packets down; all nodes run an agent, so that their uplinks are alike.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use federation_agent::api::ScopeKind;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use super::{
    Case, Measurement, Promise,
    cpu::{self, Cpus},
    nftables,
    stream::{self, Connection},
    wanted,
};
use crate::{
    federation::{Federation, NAMESPACE, PATIENCE, SERVICE, three_clusters},
    figures::percentile,
    lab::{Lab, Namespace},
};

pub const GROUP: &str = "path/";

/// Where the measured server listens, behind the VIP and on the pod: for connections that stay, and for short ones.
const PORT: u16 = 9;
const SHORT_PORT: u16 = 10;

/// Services that nftables has to choose from.
const NFTABLES: [u32; 3] = [1, 1000, 10_000];

/// The ways, in this order everywhere.
const WAYS: usize = 2 + NFTABLES.len();
const VIP: usize = 0;
const DIRECT: usize = 1;
const MOST_SERVICES: usize = WAYS - 1;

/// What is measured over all ways.
struct Comparison {
    /// What the names of its cases begin with.
    group: &'static str,
    cases: [&'static str; WAYS],
    unit: &'static str,
    /// What the VIP is compared with, by its place among the ways.
    peer: usize,
    promise: Promise,
}

const LATENCY: Comparison = Comparison {
    group: "path/latency/",
    cases: [
        "path/latency/vip",
        "path/latency/direct",
        "path/latency/nftables_1",
        "path/latency/nftables_1000",
        "path/latency/nftables_10000",
    ],
    unit: "us",
    peer: DIRECT,
    promise: Promise::RatioAtMost(1.02),
};

const THROUGHPUT: Comparison = Comparison {
    group: "path/throughput/",
    cases: [
        "path/throughput/vip",
        "path/throughput/direct",
        "path/throughput/nftables_1",
        "path/throughput/nftables_1000",
        "path/throughput/nftables_10000",
    ],
    unit: "Gbit/s",
    peer: DIRECT,
    promise: Promise::RatioAtLeast(0.98),
};

const CONNECTIONS: Comparison = Comparison {
    group: "path/connections/",
    cases: [
        "path/connections/vip",
        "path/connections/direct",
        "path/connections/nftables_1",
        "path/connections/nftables_1000",
        "path/connections/nftables_10000",
    ],
    unit: "1/s",
    peer: MOST_SERVICES,
    promise: Promise::RatioAtLeast(1.3),
};

/// Turns of round trips, and the round trips of a block: some milliseconds each.
const LATENCY_TURNS: usize = 300;
const ROUND_TRIPS: usize = 100;

/// Turns of blocks of bytes, each as many as take this part of a second.
const THROUGHPUT_TURNS: usize = 60;
const FIRST_BLOCK: u64 = 128 << 20;
const BLOCKS_PER_SECOND: f64 = 5.0;

/// Turns of connections, and the connections of a block: some tens of milliseconds.
const CONNECTION_TURNS: usize = 150;
const BLOCK_OF_CONNECTIONS: u32 = 250;

/// The lab that all cases need.
struct Paths {
    ways: [Way; WAYS],
    /// Where everything runs that is not throughput.
    one: Cpus,
    /// Keeps all of it alive.
    _federation: Federation,
}

/// From a client to the server.
struct Way {
    client: Namespace,
    server: Ipv4Addr,
}

/// Of each way, as many as of any other, taken in turns.
type Samples = [Vec<f64>; WAYS];

/// Measures those of the cases whose names begin with `only`, each with its peers.
pub async fn measure(only: &str) -> Result<Vec<Measurement>> {
    eprintln!("a lab starts: clients and a server on nodes of one cluster, nftables on some");
    let paths = Paths::lay().await?;
    let mut measured = Vec::new();
    if wanted(LATENCY.group, only) {
        eprintln!("round trips");
        measured.extend(LATENCY.measured(&paths.latency()?)?);
    }
    if wanted(THROUGHPUT.group, only) {
        eprintln!("throughput");
        measured.extend(THROUGHPUT.measured(&paths.throughput()?)?);
    }
    if wanted(CONNECTIONS.group, only) {
        eprintln!("new connections");
        let samples = paths.connections()?;
        measured.extend(CONNECTIONS.measured(&samples)?);
        measured.extend(added(&samples)?);
    }
    Ok(measured)
}

impl Paths {
    async fn lay() -> Result<Self> {
        let mut federation = Federation::start(Lab::new()?).await?;
        let [spec, ..] = three_clusters();
        let member = federation.add_cluster(spec, 0).await?;
        let cluster = member.cluster();
        let near = cluster.nodes().into_iter().next().context("a cluster without nodes")?;
        let far = cluster.add_node()?;
        let nftables = NFTABLES.map(|_| cluster.add_node());
        federation.register_all().await?;
        federation.start_agents().await?;

        let one = Cpus::one()?;
        let server = member.add_server(federation.lab(), &far, "server").await?;
        stream::serve(server.namespace(), (Ipv4Addr::UNSPECIFIED, PORT).into())?;
        stream::serve_short(server.namespace(), (Ipv4Addr::UNSPECIFIED, SHORT_PORT).into(), one.server)?;
        federation.create(&service()?).await?;
        federation.publish_all().await?;
        let vip = federation.vip(ScopeKind::Nearest, None).await?;
        let client = near.add_pod("client")?.namespace().clone();
        let mut ways =
            vec![Way { client: client.clone(), server: vip }, Way { client, server: server.address() }];
        let targets = [PORT, SHORT_PORT].map(|port| SocketAddrV4::new(server.address(), port));
        for (node, count) in nftables.into_iter().zip(NFTABLES) {
            let node = node?;
            let folder = federation.lab().folder();
            let address = nftables::load(node.namespace(), folder, count, &targets)
                .with_context(|| format!("load {count} services into nftables"))?;
            ways.push(Way { client: node.add_pod("client")?.namespace().clone(), server: address });
        }
        for way in &ways {
            let through = async || {
                way.open(one)?.round_trips(1)?;
                way.connections(1).map(drop)
            };
            let what = format!("{} leads to the server", way.server);
            federation.lab().wait_for(what, PATIENCE, through).await?;
        }
        let ways = ways.try_into().ok().context("as many ways as there are names for")?;
        Ok(Self { ways, one, _federation: federation })
    }

    /// Each sample is the median of a block.
    fn latency(&self) -> Result<Samples> {
        cpu::on(self.one.client, || {
            self.connected(self.one, LATENCY_TURNS, |connection| {
                let block = connection.round_trips(ROUND_TRIPS)?;
                percentile(&block, 0.5).context("a block without round trips")
            })
        })
    }

    /// Each sample is the rate of a block.
    fn throughput(&self) -> Result<Samples> {
        let cpus = Cpus::two()?;
        cpu::on(cpus.client, || {
            let first = self.ways[DIRECT].open(cpus)?.transfer(FIRST_BLOCK)?.as_secs_f64();
            ensure!(first > 0.0, "{FIRST_BLOCK} bytes took no time");
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes")]
            let bytes = (FIRST_BLOCK as f64 / first / BLOCKS_PER_SECOND) as u64;
            self.connected(cpus, THROUGHPUT_TURNS, |connection| {
                let seconds = connection.transfer(bytes)?.as_secs_f64();
                Ok(bytes as f64 * 8.0 / seconds / 1e9)
            })
        })
    }

    /// Each sample is the rate of a block.
    fn connections(&self) -> Result<Samples> {
        cpu::on(self.one.client, || {
            in_turns(CONNECTION_TURNS, |way| self.ways[way].connections(BLOCK_OF_CONNECTIONS))
        })
    }

    /// Blocks over one connection a way, which stays.
    fn connected(
        &self,
        cpus: Cpus,
        turns: usize,
        block: impl Fn(&mut Connection) -> Result<f64>,
    ) -> Result<Samples> {
        let open = self.ways.iter().map(|way| way.open(cpus));
        let mut connections = open.collect::<Result<Vec<_>>>()?;
        in_turns(turns, |way| block(&mut connections[way]))
    }
}

impl Way {
    fn open(&self, cpus: Cpus) -> Result<Connection> {
        Connection::open(&self.client, (self.server, PORT).into(), cpus)
    }

    fn connections(&self, count: u32) -> Result<f64> {
        stream::connections(&self.client, SocketAddr::from((self.server, SHORT_PORT)), count)
    }
}

/// A block of each way a turn. Every turn begins with another way, every other one goes backwards, and the first turns
/// warm up and do not count.
fn in_turns(turns: usize, mut block: impl FnMut(usize) -> Result<f64>) -> Result<Samples> {
    const WARM_UP: usize = WAYS;
    let mut samples = Samples::default();
    for turn in 0..WARM_UP + turns {
        for step in 0..WAYS {
            let way = (turn + step) % WAYS;
            let way = if turn % 2 == 0 { way } else { WAYS - 1 - way };
            let sample = block(way)?;
            if turn >= WARM_UP {
                samples[way].push(sample);
            }
        }
    }
    Ok(samples)
}

impl Comparison {
    fn measured(&self, samples: &Samples) -> Result<Vec<Measurement>> {
        let case =
            |way: usize, against, promise| Case { name: self.cases[way], unit: self.unit, against, promise };
        let mut measured = Vec::new();
        for (way, own) in samples.iter().enumerate() {
            measured.push(if way == VIP {
                case(way, Some(self.cases[self.peer]), Some(self.promise)).beside(own, &samples[self.peer])?
            } else {
                case(way, None, None).alone(own)?
            });
        }
        Ok(measured)
    }
}

/// What translating adds to a connection, in microseconds over the direct way: most of its time goes to the two ends, which
/// no way makes faster.
fn added(samples: &Samples) -> Result<[Measurement; 2]> {
    let over_direct = |way: usize| -> Vec<f64> {
        samples[way].iter().zip(&samples[DIRECT]).map(|(own, direct)| 1e6 / own - 1e6 / direct).collect()
    };
    let (vip, nftables) = (over_direct(VIP), over_direct(MOST_SERVICES));
    let name = "path/connections/nftables_10000_over_direct";
    let peer = Case { name, unit: "us", against: None, promise: None };
    let own =
        Case { name: "path/connections/vip_over_direct", unit: "us", against: Some(name), promise: None };
    Ok([own.beside(&vip, &nftables)?, peer.alone(&nftables)?])
}

fn service() -> Result<Service> {
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": SERVICE, "namespace": NAMESPACE },
        "spec": { "ports": [
            { "name": "stream", "protocol": "TCP", "port": PORT, "targetPort": PORT },
            { "name": "short", "protocol": "TCP", "port": SHORT_PORT, "targetPort": SHORT_PORT },
        ] },
    });
    serde_json::from_value(manifest).context("the manifest of the service")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_has_its_turn_as_often_as_any_other() {
        let mut order = Vec::new();
        let samples = in_turns(2, |way| {
            order.push(way);
            Ok(0.0)
        })
        .unwrap();
        assert!(samples.iter().all(|samples| samples.len() == 2));
        for turn in order.chunks(WAYS) {
            let mut ways = turn.to_vec();
            ways.sort_unstable();
            assert_eq!(ways, [0, 1, 2, 3, 4]);
        }
    }
}
