//! The maps' entries behind the programs' back: read, made older, lost, and given to others.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData},
};
use federation_ebpf::{
    address::Address,
    filter::{self, Bit},
    maps::{Backend, Flow, FlowKey, Protocol, TICK_NANOSECONDS},
};

use crate::{loaded::maps_dir, node::Node};

/// A tuple as packets have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub protocol: Protocol,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

pub fn tuple(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Tuple {
    Tuple { protocol, source, destination }
}

/// What of an entry is the same in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub tuple: Tuple,
    pub last_seen: u32,
    pub backend: u32,
    pub generation: u32,
    pub handshake: u16,
    /// The tuple after translation.
    pub to: Tuple,
}

/// An address as the maps hold it.
pub trait Octets: Address + Pod {
    const SUFFIX: &str;

    fn of(address: IpAddr) -> Self;
    fn ip(self) -> IpAddr;
}

impl Octets for [u8; 4] {
    const SUFFIX: &str = "V4";

    fn of(address: IpAddr) -> Self {
        let IpAddr::V4(address) = address else { panic!("{address} is not of IPv4") };
        address.octets()
    }

    fn ip(self) -> IpAddr {
        self.into()
    }
}

impl Octets for [u8; 16] {
    const SUFFIX: &str = "V6";

    fn of(address: IpAddr) -> Self {
        let IpAddr::V6(address) = address else { panic!("{address} is not of IPv6") };
        address.octets()
    }

    fn ip(self) -> IpAddr {
        self.into()
    }
}

type Flows<A> = HashMap<MapData, FlowKey<A>, Flow<A>>;

impl Node {
    /// All entries of both directions and families, in no order.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = entries(&self.flows::<[u8; 4]>());
        entries.extend(self::entries(&self.flows::<[u8; 16]>()));
        entries
    }

    /// The entry under this tuple.
    pub fn entry(&self, tuple: Tuple) -> Option<Entry> {
        if tuple.source.is_ipv4() {
            find(&self.flows::<[u8; 4]>(), tuple)
        } else {
            find(&self.flows::<[u8; 16]>(), tuple)
        }
    }

    /// Makes the entry under this tuple as old as if its last packet were so much longer ago.
    #[track_caller]
    pub fn age(&self, tuple: Tuple, by: Duration) {
        let ticks = u32::try_from(by.as_nanos() / u128::from(TICK_NANOSECONDS)).expect("not that long");
        if tuple.source.is_ipv4() {
            change::<[u8; 4]>(self, tuple, |flow| flow.last_seen = flow.last_seen.wrapping_sub(ticks));
        } else {
            change::<[u8; 16]>(self, tuple, |flow| flow.last_seen = flow.last_seen.wrapping_sub(ticks));
        }
    }

    /// Says that the SYN of the flow with this entry of replies was sent at this stamp.
    #[track_caller]
    pub fn stamp(&self, tuple: Tuple, handshake: u16) {
        if tuple.source.is_ipv4() {
            change::<[u8; 4]>(self, tuple, |flow| flow.handshake = handshake);
        } else {
            change::<[u8; 16]>(self, tuple, |flow| flow.handshake = handshake);
        }
    }

    /// As [`Node::age`], of both entries of a flow.
    #[track_caller]
    pub fn age_both(&self, tuple: Tuple, by: Duration) {
        let entry = self.entry(tuple).expect("an entry");
        self.age(entry.partner(), by);
        self.age(tuple, by);
    }

    /// Loses the entry under this tuple.
    #[track_caller]
    pub fn lose(&self, tuple: Tuple) {
        if tuple.source.is_ipv4() {
            self.flows::<[u8; 4]>().remove(&key(tuple)).expect("an entry");
        } else {
            self.flows::<[u8; 16]>().remove(&key(tuple)).expect("an entry");
        }
    }

    /// Gives the id of the backend at `old` to another one at `new`.
    pub fn recycle(&self, id: u32, new: SocketAddr) {
        if new.is_ipv4() { recycle::<[u8; 4]>(self, id, new) } else { recycle::<[u8; 16]>(self, id, new) }
    }

    pub fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.maps_dir().join(name)).expect("a pinned map")
    }

    pub fn maps_dir(&self) -> PathBuf {
        maps_dir(self.bpf_dir())
    }

    /// Sets the bits of these backends, as the agent does that meets them for the first time.
    pub fn mark<'a>(&self, backends: impl Iterator<Item = &'a SocketAddr>) {
        let map = self.map("RETURN_FILTER");
        let mut filter = Array::<_, u64>::try_from(Map::Array(map)).expect("an array of words");
        for backend in backends {
            let Bit { word, mask } = match backend.ip() {
                IpAddr::V4(address) => filter::bit(address.octets(), backend.port()),
                IpAddr::V6(address) => filter::bit(address.octets(), backend.port()),
            };
            let bits = filter.get(&word, 0).expect("a word");
            filter.set(word, bits | mask, 0).expect("a word");
        }
    }

    fn flows<A: Octets>(&self) -> Flows<A> {
        let map = self.map(&format!("FLOWS_{}", A::SUFFIX));
        HashMap::try_from(Map::LruHashMap(map)).expect("a map of flows")
    }
}

impl Entry {
    /// The key of the other entry.
    pub fn partner(&self) -> Tuple {
        tuple(self.to.protocol, self.to.destination, self.to.source)
    }
}

fn entries<A: Octets>(flows: &Flows<A>) -> Vec<Entry> {
    let entries = flows.iter().map(|entry| entry.expect("an entry"));
    entries.map(|(key, flow)| seen(&key, &flow)).collect()
}

fn find<A: Octets>(flows: &Flows<A>, tuple: Tuple) -> Option<Entry> {
    let key = key(tuple);
    flows.get(&key, 0).ok().map(|flow| seen(&key, &flow))
}

#[track_caller]
fn change<A: Octets>(node: &Node, tuple: Tuple, change: impl FnOnce(&mut Flow<A>)) {
    let (mut flows, key) = (node.flows::<A>(), key(tuple));
    let mut flow = flows.get(&key, 0).unwrap_or_else(|_| panic!("no entry under {tuple:?}"));
    change(&mut flow);
    flows.insert(key, flow, 0).expect("an entry that is there");
}

fn recycle<A: Octets>(node: &Node, id: u32, new: SocketAddr) {
    let map = node.map(&format!("BACKENDS_{}", A::SUFFIX));
    let mut backends = Array::<_, Backend<A>>::try_from(Map::Array(map)).expect("an array of backends");
    let old = backends.get(&id, 0).expect("a backend");
    let (address, port) = (A::of(new.ip()), new.port());
    let backend = Backend { address, port, generation: old.generation + 1, ..old };
    backends.set(id, backend, 0).expect("an id that is there");
}

fn key<A: Octets>(tuple: Tuple) -> FlowKey<A> {
    FlowKey::new(
        A::of(tuple.source.ip()),
        tuple.source.port(),
        A::of(tuple.destination.ip()),
        tuple.destination.port(),
        tuple.protocol,
    )
}

fn seen<A: Octets>(key: &FlowKey<A>, flow: &Flow<A>) -> Entry {
    Entry {
        tuple: read(key),
        last_seen: flow.last_seen,
        backend: flow.backend,
        generation: flow.generation,
        handshake: flow.handshake,
        to: read(&key.translated(flow)),
    }
}

fn read<A: Octets>(key: &FlowKey<A>) -> Tuple {
    tuple(
        key.protocol,
        SocketAddr::new(key.source.ip(), key.source_port),
        SocketAddr::new(key.destination.ip(), key.destination_port),
    )
}
