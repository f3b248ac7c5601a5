//! What the maps hold. Addresses are bytes in network order, ports are numbers in host order: both read as a person
//! writes them when bpftool prints them. No byte is without a name.
//!
//! What programs build on their stack or read on every packet is aligned to words, which byte arrays are not by
//! themselves: the verifier lets nobody write a misaligned word to the stack.

use crate::{address::Address, tcp::TcpState};

/// Number of the layout below; part of the pins' path, so that an agent never reads another layout's maps.
pub const SCHEMA: u32 = 1;

/// Frontends at most.
pub const FRONTENDS: usize = 65_536;
/// Slots of all tables together at most.
pub const SLOTS: usize = 1 << 20;
/// Backends at most, with id 0, which names nobody.
pub const BACKENDS: usize = 32_768;
/// Entries of flows; a connection takes two.
pub const FLOWS: usize = 1 << 18;
/// Room for outcomes.
pub const OUTCOMES: usize = 64;

/// As wide as a word, which leaves no gap to fill in the keys below.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Of a backend's id that was never used; of no packet.
    None = 0,
    Tcp = 6,
    Udp = 17,
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
    /// Slots of its table; 0 when no backend is usable.
    pub size: u32,
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
#[repr(C, align(4))]
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

    /// The key of what answers this, when `address` and `port` stand in for the destination.
    #[inline(always)]
    #[must_use]
    pub fn answer_from(&self, address: A, port: u16) -> Self {
        Self::new(address, port, self.source, self.source_port, self.protocol)
    }

    /// The key of what this answers, when it was sent to `address` and `port`.
    #[inline(always)]
    #[must_use]
    pub fn asked_at(&self, address: A, port: u16) -> Self {
        Self::new(self.destination, self.destination_port, address, port, self.protocol)
    }
}

#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to VIP: the destination is translated.
    Forward = 1,
    /// Backend to client: the source is translated.
    Reply = 2,
}

/// Value of `FLOWS`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// What the packet's destination (forward) or source (reply) becomes.
    pub address: A,
    pub backend: u32,
    pub generation: u32,
    /// Index into `FRONTEND_COUNTERS`.
    pub frontend: u32,
    /// The [`tick`] of a packet, written once a tick at most.
    pub last_seen: u32,
    pub port: u16,
    pub direction: Direction,
    pub state: TcpState,
}

/// Nanoseconds of a tick: about a second, and a shift away from what the kernel's clock says, where whole seconds would
/// cost each packet a division.
pub const TICK_NANOSECONDS: u64 = 1 << 30;

/// The tick of a time of the monotonic clock. Wraps after 146 years.
#[inline(always)]
pub fn tick(nanoseconds: u64) -> u32 {
    (nanoseconds / TICK_NANOSECONDS) as u32
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
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<A> {
    pub network: A,
    pub mask: A,
}

impl Range<[u8; 4]> {
    #[inline(always)]
    pub fn contains(&self, address: [u8; 4]) -> bool {
        u32::from_ne_bytes(address) & u32::from_ne_bytes(self.mask) == u32::from_ne_bytes(self.network)
    }
}

#[cfg(feature = "user")]
mod user {
    use aya::Pod;

    use super::{Backend, Counter, Flow, FlowKey, Frontend, FrontendKey, Range};

    // SAFETY: repr(C) without padding, of addresses, numbers and enums; the enums' bytes are written by programs and
    // agents of the same schema alone.
    unsafe impl<A: Copy + 'static> Pod for FrontendKey<A> {}
    // SAFETY: see above.
    unsafe impl Pod for Frontend {}
    // SAFETY: see above.
    unsafe impl<A: Copy + 'static> Pod for Backend<A> {}
    // SAFETY: see above.
    unsafe impl<A: Copy + 'static> Pod for FlowKey<A> {}
    // SAFETY: see above.
    unsafe impl<A: Copy + 'static> Pod for Flow<A> {}
    // SAFETY: see above.
    unsafe impl Pod for Counter {}
    // SAFETY: see above.
    unsafe impl<A: Copy + 'static> Pod for Range<A> {}
}
