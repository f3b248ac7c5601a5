//! What the programs keep and tell of backends and clusters: read, and set behind their back.

use std::{net::SocketAddr, time::Duration};

use aya::maps::{Array, HashMap, Map};
use federation_agent::dataplane::{DataPlane, Event, Events};
use federation_ebpf::maps::{
    self, Backend, EventKind, Frontend, FrontendKey, Protocol, TICK_NANOSECONDS, Use,
};
use nix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};

use crate::{node::Node, state::Octets};

/// The clock of ticks, this long ago; that of the programs, which counts jiffies, is some tenths of a second behind on
/// machines that booted slowly.
pub fn tick_before(ago: Duration) -> u32 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock"));
    maps::tick(u64::try_from(now.as_nanos()).expect("not that long")).wrapping_sub(ticks(ago))
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_nanos() / u128::from(TICK_NANOSECONDS)).expect("not that long")
}

impl Node {
    /// The id of a backend.
    #[track_caller]
    pub fn id(&self, address: SocketAddr, protocol: Protocol) -> u32 {
        let backends = self.view().backends().expect("backends");
        let known = backends.iter().find(|known| (known.address, known.protocol) == (address, protocol));
        known.unwrap_or_else(|| panic!("{address} is no backend")).id
    }

    #[track_caller]
    pub fn used(&self, address: SocketAddr, protocol: Protocol) -> Use {
        self.uses().get(&self.id(address, protocol), 0).expect("an element")
    }

    #[track_caller]
    pub fn failures(&self, address: SocketAddr, protocol: Protocol) -> u32 {
        self.used(address, protocol).failures
    }

    #[track_caller]
    pub fn set_used(&self, address: SocketAddr, protocol: Protocol, value: Use) {
        self.uses().set(self.id(address, protocol), value, 0).expect("an element");
    }

    fn uses(&self) -> Array<aya::maps::MapData, Use> {
        Array::try_from(Map::Array(self.map("BACKEND_USE"))).expect("an array")
    }

    /// The tick at which a backend of this cluster last granted a connection.
    pub fn answered(&self, cluster: u16) -> u32 {
        self.answers().get(&cluster.into(), 0).expect("an element")
    }

    pub fn set_answered(&self, cluster: u16, tick: u32) {
        self.answers().set(cluster.into(), tick, 0).expect("an element");
    }

    fn answers(&self) -> Array<aya::maps::MapData, u32> {
        Array::try_from(Map::Array(self.map("CLUSTER_ANSWERS"))).expect("an array")
    }

    /// Makes a TCP backend one of the cluster with this number.
    #[track_caller]
    pub fn place(&self, address: SocketAddr, cluster: u16) {
        let id = self.id(address, Protocol::Tcp);
        if address.is_ipv4() {
            place::<[u8; 4]>(self, id, cluster);
        } else {
            place::<[u8; 16]>(self, id, cluster);
        }
    }

    /// Gives a VIP's TCP port a fallback of one backend.
    #[track_caller]
    pub fn fall_back(&self, vip: SocketAddr, to: SocketAddr) {
        let id = self.id(to, Protocol::Tcp);
        if vip.is_ipv4() { fall_back::<[u8; 4]>(self, vip, id) } else { fall_back::<[u8; 16]>(self, vip, id) }
    }
}

fn place<A: Octets>(node: &Node, id: u32, cluster: u16) {
    let map = node.map(&format!("BACKENDS_{}", A::SUFFIX));
    let mut backends = Array::<_, Backend<A>>::try_from(Map::Array(map)).expect("an array of backends");
    let backend = backends.get(&id, 0).expect("a backend");
    backends.set(id, Backend { cluster, ..backend }, 0).expect("an id that is there");
}

/// By a table of one backend in the last words, which no other has reached.
fn fall_back<A: Octets>(node: &Node, vip: SocketAddr, id: u32) {
    let mut words = Array::<_, u64>::try_from(Map::Array(node.map("SLOTS"))).expect("an array of words");
    let offset = words.len() - 2;
    for (index, word) in [(offset, 0), (offset + 1, id.into())] {
        words.set(index, word, 0).expect("a word");
    }
    let map = Map::HashMap(node.map(&format!("FRONTENDS_{}", A::SUFFIX)));
    let mut frontends = HashMap::<_, FrontendKey<A>, Frontend>::try_from(map).expect("a map of frontends");
    let key = FrontendKey::new(A::of(vip.ip()), vip.port(), Protocol::Tcp);
    let frontend = frontends.get(&key, 0).expect("a frontend");
    let frontend = Frontend { fallback_offset: offset, fallback_size: 8, ..frontend };
    frontends.insert(key, frontend, 0).expect("a frontend that is there");
}

/// The ring of events, heard.
pub struct Told {
    runtime: Runtime,
    events: Events,
}

impl Told {
    pub fn by(data_plane: &mut DataPlane) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let events = runtime.block_on(async { data_plane.events() }).expect("the ring of events");
        Self { runtime, events }
    }

    /// All of this kind that were told since the last time that somebody asked.
    pub fn of(&mut self, kind: EventKind) -> Vec<Event> {
        // What was told is there already; this is how long it takes to say that nothing was.
        const PATIENCE: Duration = Duration::from_millis(200);
        let next = async { tokio::time::timeout(PATIENCE, self.events.next()).await };
        let told = self.runtime.block_on(next).map_or_else(|_| Vec::new(), |events| events.expect("events"));
        told.into_iter().filter(|event| event.kind == kind).collect()
    }
}
