//! What the pinned maps say at this moment, in words of people: for the command line and for tests. Packets go on
//! meanwhile, and nothing here writes.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Pod,
    maps::{Map, MapData, PerCpuArray},
};
use federation_ebpf::{
    filter,
    maps::{
        self, Affinity, BackendPlace, BackendState, Counter, FlowKey, FragmentKey, Ports, Protocol,
        SocketKey, SocketPeer,
    },
    outcome::Outcome,
    tcp::TcpState,
};

use super::{
    batch,
    diag::Diag,
    family::{Family, V4, V6},
    flows::Moment,
    now,
    packed::Packed,
    pins::{LinkPin, Pins},
    read, tables,
};

/// The data plane of a node, as it is pinned.
pub struct View {
    pins: Pins,
}

/// A VIP's port, or the VIP itself, as ICMP knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Port 0 of ICMP.
    pub vip: SocketAddr,
    pub protocol: Protocol,
    pub affinity: Affinity,
    /// Backend ids, each with the number of slots that it holds. None of ICMP.
    pub shares: Vec<(u32, u32)>,
    pub counter: Counter,
}

/// A backend that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub id: u32,
    pub generation: u32,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub state: BackendState,
    pub place: BackendPlace,
    pub counter: Counter,
}

/// A socket of the node's own network that is connected to a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub backend: SocketAddr,
    pub protocol: Protocol,
}

/// A connection: its entry of the direction from client to VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub backend: SocketAddr,
    /// The client's port as the backend sees it.
    pub client_port: u16,
    /// The client is its own backend.
    pub hairpin: bool,
    pub protocol: Protocol,
    pub state: TcpState,
    /// Since its last packet in either direction, to about a second.
    pub idle: Duration,
    /// The entry of the other direction is there.
    pub answerable: bool,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    pub map: &'static str,
    /// None where nobody keeps count.
    pub used: Option<usize>,
    pub room: usize,
}

impl View {
    /// # Errors
    /// Nothing is pinned there, or not what this agent understands.
    pub fn open(bpf_dir: &Path) -> Result<Self> {
        let pins = Pins::new(bpf_dir);
        ensure!(
            pins.exist(),
            "no data plane is pinned under {}: has a node agent run here, and with this --bpf-dir?",
            bpf_dir.display()
        );
        pins.verify_maps()?;
        Ok(Self { pins })
    }

    /// What reads words of the map of slots.
    fn slots(&self) -> Result<impl Fn(Range<u32>) -> Result<Vec<u64>>> {
        let map = read::open(&self.pins, "SLOTS")?;
        Ok(move |words: Range<u32>| {
            let count = words.end - words.start;
            let words = batch::read_array::<u64>(&map, words.start, count).context("read SLOTS")?;
            Ok(words.into_iter().map(u64::from_le).collect())
        })
    }

    /// What is attached where.
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn links(&self) -> Result<Vec<LinkPin>> {
        self.pins.links()
    }

    /// By address and port.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn frontends(&self) -> Result<Vec<Frontend>> {
        let slots = self.slots()?;
        let counters = self.per_cpu("FRONTEND_COUNTERS")?;
        let mut frontends = Vec::new();
        for (key, value) in read::frontends(&self.pins)? {
            let mut shares = BTreeMap::new();
            // An ICMP frontend has no table.
            if key.protocol != Protocol::Icmp {
                let [table, _] = tables::tables(&value);
                for id in Packed::read(table, &slots)?.ids() {
                    *shares.entry(id).or_default() += 1;
                }
            }
            frontends.push(Frontend {
                vip: SocketAddr::new(key.address, key.port),
                protocol: key.protocol,
                affinity: value.affinity,
                shares: shares.into_iter().collect(),
                counter: sum(&counters, value.id).context("read FRONTEND_COUNTERS")?,
            });
        }
        frontends.sort_by_key(|frontend| (frontend.vip, frontend.protocol));
        Ok(frontends)
    }

    /// By id.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn backends(&self) -> Result<Vec<Backend>> {
        let counters = self.per_cpu("BACKEND_COUNTERS")?;
        let mut backends = Vec::new();
        for (id, value) in read::backends(&self.pins)? {
            if value.state == BackendState::Unused {
                continue;
            }
            backends.push(Backend {
                id,
                generation: value.generation,
                address: SocketAddr::new(value.address, value.port),
                protocol: value.protocol,
                state: value.state,
                place: value.place,
                counter: sum(&counters, id).context("read BACKEND_COUNTERS")?,
            });
        }
        backends.sort_by_key(|backend| backend.id);
        Ok(backends)
    }

    /// By client and VIP.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        let now = Moment::at(now()?);
        let mut flows = connections::<V4>(read::flows(&self.pins)?, now);
        flows.extend(connections::<V6>(read::flows(&self.pins)?, now));
        flows.sort_by_key(|flow| (flow.client, flow.vip, flow.protocol));
        Ok(flows)
    }

    /// By client and VIP: those of this thread's network, as far as they have a peer.
    ///
    /// # Errors
    /// The map cannot be read, or the kernel does not tell of sockets.
    pub fn sockets(&self) -> Result<Vec<Socket>> {
        let entries = read::elements::<SocketKey, SocketPeer>(&self.pins, "SOCKETS")?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let entries: HashMap<_, _> = entries.into_iter().collect();
        let diag = Diag::new().context("open a socket to ask for others")?;
        let mut sockets = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for socket in diag.connected(protocol).context("list the sockets of this node")? {
                let key = socket.key();
                let Some(peer) = entries.get(&key) else { continue };
                let at = |address, port| SocketAddr::new(IpAddr::from(address).to_canonical(), port);
                sockets.push(Socket {
                    client: socket.local(),
                    vip: at(peer.address, peer.port),
                    backend: at(key.address, key.port),
                    protocol,
                });
            }
        }
        sockets.sort_by_key(|socket| (socket.client, socket.vip, socket.protocol));
        Ok(sockets)
    }

    /// What became of packets, in the order of the enum; those that are nobody's business are not counted.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn outcomes(&self) -> Result<Vec<(Outcome, u64)>> {
        let counts: PerCpuArray<_, u64> = self.per_cpu("OUTCOMES")?;
        Outcome::ALL
            .iter()
            .filter(|outcome| **outcome != Outcome::NotOurs)
            .map(|outcome| {
                let values = counts.get(&(*outcome as u32), 0).context("read OUTCOMES")?;
                Ok((*outcome, values.iter().sum()))
            })
            .collect()
    }

    /// # Errors
    /// A map cannot be read.
    pub fn fills(&self) -> Result<Vec<Fill>> {
        let frontends = read::frontends(&self.pins)?;
        let backends = self.backends()?;
        // Frontends may share a table.
        let ports = frontends.iter().filter(|(key, _)| key.protocol != Protocol::Icmp);
        let tables: HashMap<_, _> = ports
            .flat_map(|(_, frontend)| tables::tables(frontend))
            .filter(|table| table.size > 0)
            .map(|table| (table.offset, table.words()))
            .collect();
        let words: u32 = tables.values().sum();
        let bits: u32 = read::filter(&self.pins)?.iter().map(|(_, bits)| bits.count_ones()).sum();
        let of_family = |v4: bool| {
            (
                frontends.iter().filter(|(key, _)| key.address.is_ipv4() == v4).count(),
                backends.iter().filter(|backend| backend.address.is_ipv4() == v4).count(),
            )
        };
        let mut fills = self.family_fills::<V4>(of_family(true))?;
        fills.extend(self.family_fills::<V6>(of_family(false))?);
        fills.push(Fill { map: "SLOTS", used: Some(words as usize), room: self.room("SLOTS")? });
        let sockets = read::elements::<SocketKey, SocketPeer>(&self.pins, "SOCKETS")?.len();
        fills.push(Fill { map: "SOCKETS", used: Some(sockets), room: self.room("SOCKETS")? });
        fills.push(Fill { map: "RETURN_FILTER", used: Some(bits as usize), room: filter::BITS as usize });
        fills.push(Fill { map: "EVENTS", used: None, room: self.room("EVENTS")? });
        Ok(fills)
    }

    fn family_fills<A: Family>(&self, (frontends, backends): (usize, usize)) -> Result<Vec<Fill>> {
        let flows = read::flows::<A>(&self.pins)?.len();
        let fragments = read::elements::<FragmentKey<A>, Ports>(&self.pins, A::FRAGMENTS)?.len();
        Ok(vec![
            Fill { map: A::FRONTENDS, used: Some(frontends), room: maps::FRONTENDS },
            Fill { map: A::BACKENDS, used: Some(backends), room: maps::BACKENDS - 1 },
            Fill { map: A::FLOWS, used: Some(flows), room: maps::FLOWS },
            Fill { map: A::FRAGMENTS, used: Some(fragments), room: maps::FRAGMENTS },
        ])
    }

    fn room(&self, map: &'static str) -> Result<usize> {
        let room = self.pins.room(map)?.with_context(|| format!("{map} is not pinned any more"))?;
        Ok(room as usize)
    }

    fn per_cpu<V: Pod>(&self, name: &str) -> Result<PerCpuArray<MapData, V>> {
        PerCpuArray::try_from(Map::PerCpuArray(read::open(&self.pins, name)?))
            .with_context(|| format!("read {name}"))
    }
}

fn connections<A: Family>(entries: Vec<(FlowKey<A>, maps::Flow<A>)>, now: Moment) -> Vec<Flow> {
    let by_key: HashMap<_, _> = entries.into_iter().collect();
    let forward = by_key.iter().filter(|(_, flow)| flow.direction.is_forward());
    forward
        .map(|(key, flow)| Flow {
            client: SocketAddr::new(key.source.ip(), key.source_port),
            vip: SocketAddr::new(key.destination.ip(), key.destination_port),
            backend: SocketAddr::new(flow.address.ip(), flow.port),
            client_port: flow.client_port,
            hairpin: flow.direction.is_hairpin(),
            protocol: key.protocol,
            state: flow.state,
            idle: now.silence(flow),
            answerable: by_key.get(&key.partner(flow)).is_some_and(|answer| {
                let expected = flow.opposite(key);
                (answer.address, answer.port, answer.client_port, answer.direction)
                    == (expected.address, expected.port, expected.client_port, expected.direction)
            }),
        })
        .collect()
}

fn sum(counters: &PerCpuArray<MapData, Counter>, index: u32) -> Result<Counter> {
    Ok(counters.get(&index, 0)?.iter().fold(Counter::default(), |sum, counter| Counter {
        packets: sum.packets + counter.packets,
        bytes: sum.bytes + counter.bytes,
        flows: sum.flows + counter.flows,
    }))
}

#[cfg(test)]
mod tests {
    use federation_ebpf::maps::Direction;

    use super::*;

    #[test]
    fn a_connection_tells_what_is_translated_and_whether_answers_come_back() {
        for (direction, client_port) in
            [(Direction::Forward, 40000), (Direction::Forward, 50000), (Direction::HairpinForward, 40000)]
        {
            let key = FlowKey::new([10, 8, 1, 2], 40000, [198, 18, 0, 7], 80, Protocol::Tcp);
            let flow = maps::Flow {
                address: [10, 8, 2, 2],
                backend: 1,
                generation: 1,
                frontend: 0,
                last_seen: 0,
                port: 8080,
                client_port,
                direction,
                state: TcpState::Opening,
                handshake: 0,
            };
            let answer = (key.partner(&flow), flow.opposite(&key));
            let now = Moment::at(Duration::ZERO);
            let whole = connections(vec![(key, flow), answer], now);
            let half = connections(vec![(key, flow)], now);
            let other = connections(vec![(key, flow), (answer.0, maps::Flow { port: 81, ..answer.1 })], now);
            let expected = Flow {
                client: "10.8.1.2:40000".parse().unwrap(),
                vip: "198.18.0.7:80".parse().unwrap(),
                backend: "10.8.2.2:8080".parse().unwrap(),
                client_port,
                hairpin: direction == Direction::HairpinForward,
                protocol: Protocol::Tcp,
                state: TcpState::Opening,
                idle: Duration::ZERO,
                answerable: true,
            };
            let unanswerable = Flow { answerable: false, ..expected.clone() };
            assert_eq!(
                (whole, half, other),
                (vec![expected], vec![unanswerable.clone()], vec![unanswerable])
            );
        }
    }
}
