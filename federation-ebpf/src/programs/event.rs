//! Telling the agent what happens, without ever waiting for it: a full ring loses the news, not the packet.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use federation_ebpf::{
    address::Address,
    maps::{Event, EventKind, FlowKey, SAMPLING},
    outcome::Outcome,
};

use super::maps::EVENTS;

/// The backend that an event is about.
#[derive(Clone, Copy, Default)]
pub struct About {
    pub backend: u32,
    pub generation: u32,
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
