//! What the maps hold. Addresses are bytes in network order, ports are numbers in host order: both read as a person
//! writes them when bpftool prints them. No byte is without a name.
//!
//! What programs build on their stack or read on every packet is aligned to words, which byte arrays are not by
//! themselves: the verifier lets nobody write a misaligned word to the stack.

mod socket;

use crate::{address::Address, outcome::Outcome, tcp::TcpState};

pub use socket::{HostNetwork, SocketKey, SocketPeer};

/// Number of the layout below; part of the pins' path, so that an agent never reads another layout's maps.
pub const SCHEMA: u32 = 5;

/// Frontends of a family at most.
pub const FRONTENDS: usize = 65_536;
/// Words of all tables of slots together, both families', at least: the agent makes as many as the machine affords.
pub const SLOTS: usize = 1 << 21;
/// Backends of a family at most, with id 0, which names nobody.
pub const BACKENDS: usize = 131_072;
/// Entries of flows of a family; a connection takes two.
pub const FLOWS: usize = 1 << 18;
/// Fragmented datagrams of a family whose ports are remembered.
pub const FRAGMENTS: usize = 8_192;
/// Entries of the node's own sockets: one of a socket that has a peer, two for each peer of one that has none.
pub const SOCKETS: usize = 65_536;
/// Bytes of the ring of events.
pub const EVENTS: usize = 1 << 18;
/// Room for outcomes.
pub const OUTCOMES: usize = 64;
/// Clusters whose answers are remembered, by their numbers.
pub const CLUSTERS: usize = 1024;

/// As wide as a word, which leaves no gap to fill in the keys below.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Of a backend's id that was never used; of no packet.
    None = 0,
    /// ICMP or ICMPv6, whichever the family has. Its frontend is the VIP itself, at port 0.
    Icmp = 1,
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

/// Key of `FRONTENDS`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrontendKey<A> {
    pub address: A,
    pub protocol: Protocol,
    pub port: u16,
    pub reserved: u16,
}

impl<A> FrontendKey<A> {
    #[inline(always)]
    pub fn new(address: A, port: u16, protocol: Protocol) -> Self {
        Self { address, port, protocol, reserved: 0 }
    }
}

#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    None = 0,
    ClientIp = 1,
}

/// Value of `FRONTENDS`: replaced as a whole, so that no packet sees half a table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Index into `FRONTEND_COUNTERS`.
    pub id: u32,
    /// Where its table begins in `SLOTS`.
    pub offset: u32,
    /// Slots of its table; 0 when no backend is usable. An ICMP frontend has no table: 1 while any of its VIP's ports
    /// has a backend.
    pub size: u32,
    /// A second, small slice of `SLOTS`: backends beyond the nearest tier, for clients that the nearest do not answer.
    pub fallback_offset: u32,
    /// Slots of it; 0 when there is none.
    pub fallback_size: u32,
    pub affinity: Affinity,
    pub reserved: [u8; 3],
}

#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// The id is free, or rests before it is used again.
    Unused = 0,
    Active = 1,
    /// Keeps its flows and gets no new ones.
    Draining = 2,
    Dead = 3,
}

#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendPlace {
    Remote = 0,
    /// On this node.
    Local = 1,
}

/// Value of `BACKENDS`, at the backend's id.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend<A> {
    pub address: A,
    /// Tells a tenant of this id from the one before.
    pub generation: u32,
    pub protocol: Protocol,
    pub port: u16,
    /// The agent's number for the cluster.
    pub cluster: u16,
    pub state: BackendState,
    pub place: BackendPlace,
    pub reserved: u16,
}

/// Key of `FLOWS`: a packet's five-tuple as it reaches the program.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    pub source: A,
    pub destination: A,
    pub protocol: Protocol,
    pub source_port: u16,
    pub destination_port: u16,
}

impl<A: Address> FlowKey<A> {
    #[inline(always)]
    pub fn new(
        source: A,
        source_port: u16,
        destination: A,
        destination_port: u16,
        protocol: Protocol,
    ) -> Self {
        Self { source, destination, protocol, source_port, destination_port }
    }

    /// The tuple of what goes the other way.
    #[inline(always)]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self::new(self.destination, self.destination_port, self.source, self.source_port, self.protocol)
    }

    /// The tuple of the packet after `flow`, found under this key, has translated it.
    #[inline(always)]
    #[must_use]
    pub fn translated(&self, flow: &Flow<A>) -> Self {
        match flow.direction {
            Direction::Forward | Direction::HairpinForward => self.sent(flow),
            Direction::Reply | Direction::HairpinReply => self.asked(flow).reversed(),
        }
    }

    /// As [`FlowKey::translated`], of an entry of a client's packets. The verifier walks each branch that there is.
    #[inline(always)]
    #[must_use]
    pub fn sent(&self, flow: &Flow<A>) -> Self {
        let client = if flow.direction.is_hairpin() { self.destination } else { self.source };
        Self::new(client, flow.client_port, flow.address, flow.port, self.protocol)
    }

    /// As [`FlowKey::partner`], of an entry of replies: what its client sends.
    #[inline(always)]
    #[must_use]
    pub fn asked(&self, flow: &Flow<A>) -> Self {
        let client = if flow.direction.is_hairpin() { self.source } else { self.destination };
        Self::new(client, flow.client_port, flow.address, flow.port, self.protocol)
    }

    /// The key of the flow's other entry: what answers the translated packet.
    #[inline(always)]
    #[must_use]
    pub fn partner(&self, flow: &Flow<A>) -> Self {
        self.translated(flow).reversed()
    }
}

/// Which of a connection's two entries it is, and what is translated.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to VIP: the destination becomes the backend.
    Forward = 1,
    /// Backend to client: the source becomes the VIP.
    Reply = 2,
    /// As `Forward`, of a client that is its own backend: the source becomes the VIP too, for nobody takes packets from
    /// himself.
    HairpinForward = 3,
    /// As `Reply`, of a backend that is its own client: to the VIP, whence it goes back.
    HairpinReply = 4,
}

impl Direction {
    /// Of the entry that is made of a client's packet.
    #[inline(always)]
    pub fn is_forward(self) -> bool {
        matches!(self, Self::Forward | Self::HairpinForward)
    }

    /// The packet goes back to the pod that it came from.
    #[inline(always)]
    pub fn is_hairpin(self) -> bool {
        matches!(self, Self::HairpinForward | Self::HairpinReply)
    }

    /// Of the flow's other entry.
    #[inline(always)]
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Forward => Self::Reply,
            Self::Reply => Self::Forward,
            Self::HairpinForward => Self::HairpinReply,
            Self::HairpinReply => Self::HairpinForward,
        }
    }
}

/// Value of `FLOWS`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// The backend's address in an entry of a client's packets, the VIP in the other.
    pub address: A,
    pub backend: u32,
    pub generation: u32,
    /// Index into `FRONTEND_COUNTERS`.
    pub frontend: u32,
    /// The [`tick`] of a packet, written once a second at most.
    pub last_seen: u32,
    /// The backend's port or the VIP's, as `address`.
    pub port: u16,
    /// The port that the client's becomes (forward) or was (reply): the same, unless two flows would share one.
    pub client_port: u16,
    pub direction: Direction,
    pub state: TcpState,
    /// What there is to know of a handshake. In an entry of replies the [`stamp`] of the SYN, [`UNMEASURED`] or
    /// [`ANSWERED`]; in the other the lower half of the SYN's sequence number.
    pub handshake: u16,
}

impl<A: Address> Flow<A> {
    /// The flow's other entry, given that this one is found under `key`.
    #[inline(always)]
    #[must_use]
    pub fn opposite(&self, key: &FlowKey<A>) -> Self {
        let (address, port, client_port) = if self.direction.is_forward() {
            (key.destination, key.destination_port, key.source_port)
        } else {
            (key.source, key.source_port, key.destination_port)
        };
        // Each entry knows something else of it.
        let handshake = if self.state == TcpState::Opening { UNMEASURED } else { ANSWERED };
        Self { address, port, client_port, direction: self.direction.opposite(), handshake, ..*self }
    }
}

/// Nanoseconds of a tick: a shift away from nanoseconds, where rounder units would cost each packet a division.
pub const TICK_NANOSECONDS: u64 = 1 << 25;

/// Ticks of a second, rounded up.
pub const TICKS_PER_SECOND: u32 = 30;

/// The tick of a time of the monotonic clock. Wraps after four years and a half, so ticks are only ever subtracted.
#[inline(always)]
pub fn tick(nanoseconds: u64) -> u32 {
    (nanoseconds / TICK_NANOSECONDS) as u32
}

/// Ticks from one to the next; none where another CPU's clock was ahead of this one's `now`.
#[inline(always)]
pub fn elapsed(since: u32, now: u32) -> u32 {
    let ticks = now.wrapping_sub(since);
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

/// Ticks after which a SYN that comes again is a retransmission: 0.8 s. The first one comes after a second (RFC 6298,
/// section 2), a duplicate that the network made long before.
pub const RETRANSMITTED: u32 = 24;

/// Whether a cluster whose last grant was at `answered` (0: never) has let a client wait since.
#[inline(always)]
pub fn is_silent(answered: u32, now: u32) -> bool {
    answered == 0 || elapsed(answered, now) >= RETRANSMITTED
}

/// Nanoseconds of a [`stamp`]'s unit: fine enough for a handshake within a zone, and 16 bits hold 4.29 s.
const STAMP_NANOSECONDS: u32 = 1 << 16;

/// Of a flow whose backend has answered its first packet, or that has none: nothing is to be waited for or measured.
pub const ANSWERED: u16 = 0;

/// Of a flow whose handshake waits for an answer, and is not measured.
pub const UNMEASURED: u16 = 1;

/// A time of the monotonic clock, to tell how long a handshake took: neither [`ANSWERED`] nor [`UNMEASURED`].
#[inline(always)]
pub fn stamp(nanoseconds: u64) -> u16 {
    ((nanoseconds / u64::from(STAMP_NANOSECONDS)) as u16).max(UNMEASURED + 1)
}

/// Whether what an entry of replies knows of its handshake is a [`stamp`].
#[inline(always)]
pub fn is_measured(opened: u16) -> bool {
    opened > UNMEASURED
}

/// Microseconds between two stamps that are at most 4.29 s apart.
#[inline(always)]
pub fn round_trip_microseconds(opened: u16, answered: u16) -> u32 {
    u32::from(answered.wrapping_sub(opened)) * STAMP_NANOSECONDS / 1000
}

/// How the kernel counts time in jiffies, which a program reads without a call: a constant of the loaded programs.
///
/// Jiffies follow the monotonic clock (kernel: `tick_do_update_jiffies64`), but for the moment of the boot before anyone
/// counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jiffies {
    pub nanoseconds: u64,
    /// The number at boot.
    pub first: u64,
}

impl Jiffies {
    /// Of a kernel whose coarse clocks have this resolution.
    pub const fn of_resolution(nanoseconds: u64) -> Self {
        // Kernel: `INITIAL_JIFFIES`, five minutes before 32 bits are full.
        let hertz = (1_000_000_000 + nanoseconds / 2) / nanoseconds;
        Self { nanoseconds, first: (1 << 32) - 300 * hertz }
    }

    #[inline(always)]
    pub fn tick(self, jiffies: u64) -> u32 {
        tick(jiffies.wrapping_sub(self.first).wrapping_mul(self.nanoseconds))
    }
}

/// Key of `FRAGMENTS`: what the fragments of one datagram have in common (RFC 791, RFC 8200).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey<A> {
    pub source: A,
    pub destination: A,
    pub identification: u32,
    pub protocol: Protocol,
}

/// Value of `FRAGMENTS`: what only the first fragment says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub source: u16,
    pub destination: u16,
}

/// What an element of `EVENTS` tells.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A new flow; one of [`SAMPLING`] is told.
    Opened = 1,
    /// A client was refused: nobody can serve it.
    Refused = 2,
    /// A client's connection to a dead backend was ended.
    Reset = 3,
    /// A backend, or somebody on the way to it, refused a client: a RST for its first packet, or an ICMP error for one of
    /// a protocol without connections.
    BackendRefused = 4,
    /// A client's first packet came again, unanswered: it may go to another backend than the one that the event names.
    Unanswered = 5,
    /// The time that a handshake took; one of [`SAMPLING`] is measured and told.
    RoundTrip = 6,
}

/// One new flow in so many is told. A power of two.
pub const SAMPLING: u32 = 64;

/// An element of `EVENTS`. IPv4 addresses are mapped into IPv6 (RFC 4291, section 2.5.5.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub client: [u8; 16],
    pub vip: [u8; 16],
    pub client_port: u16,
    pub vip_port: u16,
    pub protocol: Protocol,
    /// 0 when none was chosen.
    pub backend: u32,
    pub generation: u32,
    /// In a row, of the backend: [`Use::failures`]. 0 where the event is none.
    pub failures: u32,
    /// 0 where none was measured.
    pub round_trip_microseconds: u32,
    pub kind: EventKind,
    pub outcome: Outcome,
    pub reserved: [u8; 6],
}

/// Value of `BACKEND_USE`, at the backend's id: how this node's clients fare with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// The [`tick`] at which a flow to it was opened, or was seen to go on; 0 for never.
    pub last_used: u32,
    /// First packets in a row that were refused or not answered. CPUs that count at once may count one for two: it is
    /// evidence, not an account.
    pub failures: u32,
}

/// Value of the counters, on each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
    pub flows: u64,
}

/// The addresses that VIPs are taken from: a constant of the loaded programs.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<A> {
    pub network: A,
    pub mask: A,
}

#[cfg(feature = "user")]
mod user {
    use aya::Pod;

    use super::{
        Address, Backend, Counter, Flow, FlowKey, FragmentKey, Frontend, FrontendKey, HostNetwork, Jiffies,
        Ports, Range, SocketKey, SocketPeer, Use,
    };

    // SAFETY: repr(C) without padding, of addresses, numbers and enums; the enums' bytes are written by programs and
    // agents of the same schema alone.
    unsafe impl<A: Address> Pod for FrontendKey<A> {}
    // SAFETY: see above.
    unsafe impl Pod for Frontend {}
    // SAFETY: see above.
    unsafe impl<A: Address> Pod for Backend<A> {}
    // SAFETY: see above.
    unsafe impl<A: Address> Pod for FlowKey<A> {}
    // SAFETY: see above.
    unsafe impl<A: Address> Pod for Flow<A> {}
    // SAFETY: see above.
    unsafe impl<A: Address> Pod for FragmentKey<A> {}
    // SAFETY: see above.
    unsafe impl Pod for Ports {}
    // SAFETY: see above.
    unsafe impl Pod for Counter {}
    // SAFETY: see above.
    unsafe impl Pod for Use {}
    // SAFETY: see above.
    unsafe impl Pod for Jiffies {}
    // SAFETY: see above.
    unsafe impl Pod for HostNetwork {}
    // SAFETY: see above.
    unsafe impl Pod for SocketKey {}
    // SAFETY: see above.
    unsafe impl Pod for SocketPeer {}
    // SAFETY: see above.
    unsafe impl<A: Address> Pod for Range<A> {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An entry of a client's packets with its key: the client is its own backend where the flow is a hairpin's.
    fn entry<A: Address>(
        direction: Direction,
        [client, vip, backend]: [A; 3],
        [client_port, vip_port, backend_port, translated]: [u16; 4],
    ) -> (FlowKey<A>, Flow<A>) {
        let key = FlowKey::new(client, client_port, vip, vip_port, Protocol::Tcp);
        let flow = Flow {
            address: if direction.is_hairpin() { client } else { backend },
            backend: 5,
            generation: 3,
            frontend: 7,
            last_seen: 11,
            port: backend_port,
            client_port: translated,
            direction,
            state: TcpState::Opening,
            handshake: UNMEASURED,
        };
        (key, flow)
    }

    fn leads_back<A: Address + core::fmt::Debug>(
        addresses: [A; 3],
        ports: [u16; 4],
    ) -> Result<(), TestCaseError> {
        for direction in [Direction::Forward, Direction::HairpinForward] {
            let (key, flow) = entry(direction, addresses, ports);
            let (partner, opposite) = (key.partner(&flow), flow.opposite(&key));
            prop_assert_eq!(opposite.direction.opposite(), direction);
            prop_assert_eq!(opposite.direction.is_hairpin(), direction.is_hairpin());
            prop_assert!(!opposite.direction.is_forward());
            // Either entry leads to the other.
            prop_assert_eq!(partner.partner(&opposite), key);
            prop_assert_eq!(opposite.opposite(&partner), flow);
            prop_assert_eq!((key.sent(&flow), partner.asked(&opposite)), (partner.reversed(), key));
            // What answers a translated packet is translated to what answers the packet.
            prop_assert_eq!(key.translated(&flow).reversed(), partner);
            prop_assert_eq!(partner.translated(&opposite).reversed(), key);
        }
        Ok(())
    }

    #[test]
    fn ticks_pass_over_the_clocks_wrap_and_not_backwards() {
        for (since, now, ticks) in [(5, 5, 0), (5, 29, 24), (u32::MAX, 9, 10), (9, 8, 0), (0, u32::MAX, 0)] {
            assert_eq!(elapsed(since, now), ticks, "{since} to {now}");
        }
    }

    #[test]
    fn a_cluster_is_silent_once_it_has_let_a_client_wait() {
        for (answered, now, expected) in [
            (0, 10, true),
            // Of a machine that is up for years.
            (0, u32::MAX - 1, true),
            (100, 100, false),
            (100, 123, false),
            (100, 124, true),
            // Another CPU is a tick ahead.
            (101, 100, false),
            (u32::MAX - 9, 13, false),
            (u32::MAX - 9, 14, true),
        ] {
            assert_eq!(is_silent(answered, now), expected, "{answered} at {now}");
        }
    }

    #[test]
    fn a_round_trip_is_measured_to_a_fifteenth_of_a_millisecond() {
        const MILLISECOND: u64 = 1_000_000;
        for (sent, took, least, most) in [
            (MILLISECOND, 0, 0, 0),
            (MILLISECOND, MILLISECOND, 917, 1_049),
            (77 * MILLISECOND, 4_200 * MILLISECOND, 4_199_900, 4_200_100),
            // Over the wrap.
            (4_294 * MILLISECOND, 10 * MILLISECOND, 9_900, 10_100),
        ] {
            let measured = round_trip_microseconds(stamp(sent), stamp(sent + took));
            assert!((least..=most).contains(&measured), "{took}: {measured}");
        }
        for sent in [0, 65_536, 1 << 32, (1 << 32) + 65_536] {
            assert_eq!(stamp(sent), 2, "the others mean something else");
        }
    }

    proptest! {
        #[test]
        fn the_entries_of_a_flow_lead_to_each_other(v4: [[u8; 4]; 3], v6: [[u8; 16]; 3], ports: [u16; 4]) {
            leads_back(v4, ports)?;
            leads_back(v6, ports)?;
        }
    }
}
