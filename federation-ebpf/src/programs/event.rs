//! Telling the agent what happens, without ever waiting for it: a full ring loses the news, not the packet.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use federation_ebpf::{
    address::Address,
    maps::{Event, EventKind, Flow, FlowKey, SAMPLING},
    outcome::Outcome,
};

use super::maps::EVENTS;

/// The backend that an event is about.
#[derive(Clone, Copy, Default)]
pub struct About {
    pub backend: u32,
    pub generation: u32,
    /// In a row.
    pub failures: u32,
    pub round_trip_microseconds: u32,
}

impl About {
    /// Nothing but whose backend it is.
    #[inline(always)]
    pub fn of<A>(flow: &Flow<A>) -> Self {
        Self { backend: flow.backend, generation: flow.generation, ..Self::default() }
    }
}

/// Tells of a client's packet, whose tuple is `key`.
#[inline(always)]
pub fn tell<A: Address>(kind: EventKind, outcome: Outcome, key: &FlowKey<A>, about: About) {
    let Some(mut entry) = EVENTS.reserve(0) else { return };
    entry.write(Event {
        client: key.source.mapped(),
        vip: key.destination.mapped(),
        client_port: key.source_port,
        vip_port: key.destination_port,
        protocol: key.protocol,
        backend: about.backend,
        generation: about.generation,
        failures: about.failures,
        round_trip_microseconds: about.round_trip_microseconds,
        kind,
        outcome,
        reserved: [0; 6],
    });
    entry.submit(0);
}

/// Whether this one is told, of those that are sampled.
#[inline(always)]
pub fn is_sampled() -> bool {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_prandom_u32() }.is_multiple_of(SAMPLING)
}
