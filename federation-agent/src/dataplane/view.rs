//! What the pinned maps say at this moment: for the command line and for tests. Packets go on meanwhile, and nothing
//! here writes.

use std::{
    collections::{BTreeMap, HashSet},
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
};
use federation_ebpf::{
    maps::{
        self, Affinity, BackendPlace, BackendState, Counter, Direction, FlowKey, FrontendKey,
        TICK_NANOSECONDS,
    },
    outcome::Outcome,
    tcp::TcpState,
};

use super::{
    now,
    pins::{LinkPin, Pins},
};

type V4 = [u8; 4];

/// The data plane of a node, as it is pinned.
pub struct View {
    pins: Pins,
}

/// An entry of `FRONTENDS_V4` with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub vip: SocketAddrV4,
    pub protocol: maps::Protocol,
    pub affinity: Affinity,
    /// Backend ids, each with the number of slots that it holds.
    pub shares: Vec<(u32, u32)>,
    pub counter: Counter,
}

/// An element of `BACKENDS_V4` that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub id: u32,
    pub generation: u32,
    pub address: SocketAddrV4,
    pub protocol: maps::Protocol,
    pub state: BackendState,
    pub place: BackendPlace,
    pub counter: Counter,
}

/// A connection: its entry of the direction from client to VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub client: SocketAddrV4,
    pub vip: SocketAddrV4,
    pub backend: SocketAddrV4,
    pub protocol: maps::Protocol,
    pub state: TcpState,
    /// Since its client's last packet, to about a second.
    pub idle: Duration,
    /// The entry of the other direction is there.
    pub answerable: bool,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    pub map: &'static str,
    pub used: usize,
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
        let slots: Array<_, u32> = self.map("SLOTS", Map::Array)?;
        let counters: PerCpuArray<_, Counter> = self.map("FRONTEND_COUNTERS", Map::PerCpuArray)?;
        let mut frontends = Vec::new();
        for (key, value) in self.entries::<FrontendKey<V4>, maps::Frontend>("FRONTENDS_V4", Map::HashMap)? {
            let mut shares = BTreeMap::new();
            for slot in value.offset..value.offset + value.size {
                *shares.entry(slots.get(&slot, 0).context("read SLOTS")?).or_default() += 1;
            }
            frontends.push(Frontend {
                vip: socket(key.address, key.port),
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
        let values: Array<_, maps::Backend<V4>> = self.map("BACKENDS_V4", Map::Array)?;
        let counters: PerCpuArray<_, Counter> = self.map("BACKEND_COUNTERS", Map::PerCpuArray)?;
        let mut backends = Vec::new();
        for id in 1..values.len() {
            let value = values.get(&id, 0).context("read BACKENDS_V4")?;
            // Ids are given out in order: the first that was never used ends them.
            if value.generation == 0 {
                break;
            }
            if value.state == BackendState::Unused {
                continue;
            }
            backends.push(Backend {
                id,
                generation: value.generation,
                address: socket(value.address, value.port),
                protocol: value.protocol,
                state: value.state,
                place: value.place,
                counter: sum(&counters, id).context("read BACKEND_COUNTERS")?,
            });
        }
        Ok(backends)
    }

    /// By client and VIP.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        let now = now()?;
        let entries = self.entries::<FlowKey<V4>, maps::Flow<V4>>("FLOWS_V4", Map::LruHashMap)?;
        let replies: HashSet<_> = entries
            .iter()
            .filter(|(_, flow)| flow.direction == Direction::Reply)
            .map(|(key, flow)| (*key, flow.address, flow.port))
            .collect();
        let mut flows: Vec<_> = entries
            .iter()
            .filter(|(_, flow)| flow.direction == Direction::Forward)
            .map(|(key, flow)| Flow {
                client: socket(key.source, key.source_port),
                vip: socket(key.destination, key.destination_port),
                backend: socket(flow.address, flow.port),
                protocol: key.protocol,
                state: flow.state,
                idle: now.saturating_sub(Duration::from_nanos(u64::from(flow.last_seen) * TICK_NANOSECONDS)),
                answerable: replies.contains(&(
                    key.answer_from(flow.address, flow.port),
                    key.destination,
                    key.destination_port,
                )),
            })
            .collect();
        flows.sort_by_key(|flow| (flow.client, flow.vip, flow.protocol));
        Ok(flows)
    }

    /// What became of packets, in the order of the enum; those that are nobody's business are not counted.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn outcomes(&self) -> Result<Vec<(Outcome, u64)>> {
        let counts: PerCpuArray<_, u64> = self.map("OUTCOMES", Map::PerCpuArray)?;
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
        let frontends = self.frontends()?;
        let slots =
            frontends.iter().flat_map(|frontend| &frontend.shares).map(|(_, slots)| *slots as usize).sum();
        let flows = self.entries::<FlowKey<V4>, maps::Flow<V4>>("FLOWS_V4", Map::LruHashMap)?.len();
        Ok(vec![
            Fill { map: "FRONTENDS_V4", used: frontends.len(), room: maps::FRONTENDS },
            Fill { map: "SLOTS", used: slots, room: maps::SLOTS },
            Fill { map: "BACKENDS_V4", used: self.backends()?.len(), room: maps::BACKENDS - 1 },
            Fill { map: "FLOWS_V4", used: flows, room: maps::FLOWS },
        ])
    }

    fn map<M>(&self, name: &str, kind: fn(MapData) -> Map) -> Result<M>
    where
        M: TryFrom<Map, Error = MapError>,
    {
        let path = self.pins.map(name);
        let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        M::try_from(kind(data)).with_context(|| format!("read {}", path.display()))
    }

    fn entries<K: Pod, V: Pod>(&self, name: &str, kind: fn(MapData) -> Map) -> Result<Vec<(K, V)>> {
        let map: HashMap<MapData, K, V> = self.map(name, kind)?;
        let mut entries = Vec::new();
        for entry in &map {
            match entry {
                Ok(entry) => entries.push(entry),
                // It left between the kernel's naming it and our reading it.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error).with_context(|| format!("read {name}")),
            }
        }
        Ok(entries)
    }
}

fn socket(address: V4, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(address), port)
}

fn sum(counters: &PerCpuArray<MapData, Counter>, index: u32) -> Result<Counter> {
    Ok(counters.get(&index, 0)?.iter().fold(Counter::default(), |sum, counter| Counter {
        packets: sum.packets + counter.packets,
        bytes: sum.bytes + counter.bytes,
        flows: sum.flows + counter.flows,
    }))
}
